package clusterroleaggregation

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Controller plans an aggregated role when any role changes.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "clusterrole-aggregation-controller", For: kinds.ClusterRole,
		Watches: []reconcile.Watch{{Kind: kinds.ClusterRole, Keys: aggregatedKeys}},
		Writes:  []reconcile.Write{{Kind: kinds.ClusterRole, Verbs: []plan.Verb{plan.Update}}},
		Plan:    reconcile.Pair(observe, Plan),
	}
}

func aggregatedKeys(s *view.Snapshot, _ view.Change) []reconcile.Key {
	var keys []reconcile.Key
	for r := range view.List[*rbacv1.ClusterRole](s, kinds.ClusterRole, "") {
		if r.AggregationRule != nil {
			keys = append(keys, reconcile.KeyOf(r))
		}
	}
	return keys
}

func observe(in reconcile.Input) (Observed, bool) {
	r := view.Get[*rbacv1.ClusterRole](in.View, kinds.ClusterRole, "", in.Key.Name)
	if r == nil || r.AggregationRule == nil {
		return Observed{}, false
	}
	return Observed{Role: r, Roles: slices.Collect(view.List[*rbacv1.ClusterRole](in.View, kinds.ClusterRole, ""))}, true
}
