package clusterroleaggregation

import (
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func role(name, label string, verbs ...string) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{label: "true"}}}
	for _, v := range verbs {
		r.Rules = append(r.Rules, rbacv1.PolicyRule{Verbs: []string{v}, APIGroups: []string{""}, Resources: []string{"pods"}})
	}
	return r
}

func TestPlan(t *testing.T) {
	agg := role("all", "self")
	agg.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to-all": "true"}}}}
	roles := []*rbacv1.ClusterRole{agg, role("b", "to-all", "get", "list"), role("a", "to-all", "get"), role("c", "other", "delete")}
	res := Plan(Observed{Role: agg, Roles: roles})
	if len(res.Actions) != 1 {
		t.Fatalf("%+v", res)
	}
	got := res.Actions[0].Object.(*rbacv1.ClusterRole)
	if len(got.Rules) != 2 || got.Rules[0].Verbs[0] != "get" || got.Rules[1].Verbs[0] != "list" {
		t.Errorf("rules %+v", got.Rules)
	}
	if len(agg.Rules) != 0 {
		t.Error("the observed role was changed")
	}
	if again := Plan(Observed{Role: got, Roles: roles}); len(again.Actions) != 0 {
		t.Errorf("planned again after applying: %+v", again)
	}
	slices.Reverse(roles)
	if other := Plan(Observed{Role: got, Roles: roles}); len(other.Actions) != 0 {
		t.Error("the order of the input matters")
	}
}
