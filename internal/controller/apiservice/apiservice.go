package apiservice

import (
	"slices"

	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Controller keeps the list. served tells what is served at the moment; it must
// be quick and free of side effects.
func Controller(served func() []Served) reconcile.Controller {
	one := func(*view.Snapshot, view.Change) []reconcile.Key { return []reconcile.Key{{}} }
	return reconcile.Controller{
		Name:    "apiservice-registration-controller",
		Watches: []reconcile.Watch{{Kind: kinds.APIService, Keys: one}, {Kind: kinds.CustomResourceDefinition, Keys: one}},
		Writes:  []reconcile.Write{{Kind: kinds.APIService, Verbs: []plan.Verb{plan.Create, plan.Update, plan.Delete}}},
		Plan: reconcile.Pair(func(in reconcile.Input) (Observed, bool) {
			return Observed{served(), slices.Collect(view.List[*apiregistrationv1.APIService](in.View, kinds.APIService, ""))}, true
		}, Plan),
	}
}
