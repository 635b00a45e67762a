// Package clusterroleaggregation fills aggregated cluster roles with the rules
// of the roles that their selectors pick.
package clusterroleaggregation

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Observed is an aggregated role and all roles there are.
type Observed struct {
	Role  *rbacv1.ClusterRole
	Roles []*rbacv1.ClusterRole
}

// Plan writes the union of the picked roles' rules, each once, in the order of
// the roles' names.
func Plan(o Observed) plan.Result {
	if o.Role.AggregationRule == nil || o.Role.DeletionTimestamp != nil {
		return plan.Result{}
	}
	picked := slices.Clone(o.Roles)
	slices.SortFunc(picked, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	rules := []rbacv1.PolicyRule{}
	seen := map[string]bool{}
	for _, r := range picked {
		if r.Name == o.Role.Name || !selected(o.Role.AggregationRule, r) {
			continue
		}
		for _, rule := range r.Rules {
			if key := rule.String(); !seen[key] {
				seen[key] = true
				rules = append(rules, rule)
			}
		}
	}
	if slices.EqualFunc(rules, o.Role.Rules, func(a, b rbacv1.PolicyRule) bool { return a.String() == b.String() }) {
		return plan.Result{}
	}
	out := o.Role.DeepCopy()
	out.Rules = rules
	return plan.Result{Actions: []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.ClusterRole, out), Object: out}}}
}

// selected: any one selector is enough; a broken one picks nothing.
func selected(a *rbacv1.AggregationRule, r *rbacv1.ClusterRole) bool {
	for i := range a.ClusterRoleSelectors {
		sel, err := metav1.LabelSelectorAsSelector(&a.ClusterRoleSelectors[i])
		if err == nil && sel.Matches(labels.Set(r.Labels)) {
			return true
		}
	}
	return false
}
