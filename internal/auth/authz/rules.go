package authz

import (
	"context"
	"errors"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

var errNodeRules = errors.New("node authorizer does not support user rule resolution")

// everything is what group system:masters holds.
var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

// Rules are all rules that a user has in a namespace, cluster-wide ones
// included; with an empty namespace only those. Do not change them.
func (a *Authorizer) Rules(u user.Info, namespace string) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	if slices.Contains(u.GetGroups(), masters) {
		out = append(out, everything...)
	}
	cluster, space := a.grants(namespace)
	for _, g := range [...]*grants{cluster, space} {
		g.visit(u, func(one *grant) bool {
			if one.role != nil {
				out = append(out, one.role.rules...)
			}
			return true
		})
	}
	return out
}

// RoleRules are the rules of the role that a binding in namespace refers to; ok
// is false if there is no such role.
func (a *Authorizer) RoleRules(ref rbacv1.RoleRef, namespace string) (rules []rbacv1.PolicyRule, ok bool) {
	return rulesOf(a.view.Snapshot(), ref, namespace)
}

// RulesFor implements authorizer.RuleResolver. What a node may do is no list of
// rules: for nodes the answer is incomplete, and says so.
func (a *Authorizer) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var others []authorizer.NonResourceRuleInfo
	for _, r := range a.Rules(u, namespace) {
		if len(r.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames})
		}
		if len(r.NonResourceURLs) > 0 {
			others = append(others, &authorizer.DefaultNonResourceRuleInfo{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs})
		}
	}
	if _, ok := NodeOf(u); ok {
		return resources, others, true, errNodeRules
	}
	return resources, others, false, nil
}
