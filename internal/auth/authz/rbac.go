// Package authz decides who may do what: RBAC over roles and bindings, and the
// node authorizer, which limits a kubelet to its own node and its pods. Both
// are decisions over the view.
package authz

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

const (
	masters              = user.SystemPrivilegedGroup
	serviceAccountPrefix = "system:serviceaccount:"
)

// Authorizer implements authorizer.Authorizer and authorizer.RuleResolver.
type Authorizer struct {
	view  *view.View
	stale atomic.Bool
	rules atomic.Pointer[index]
}

// New watches the view's roles and bindings.
func New(v *view.View) *Authorizer {
	a := &Authorizer{view: v}
	a.stale.Store(true)
	v.Subscribe(func(c view.Change) {
		switch c.Kind {
		case kinds.ClusterRole, kinds.ClusterRoleBinding, kinds.Role, kinds.RoleBinding:
			a.stale.Store(true)
		}
	})
	return a
}

// Authorize implements authorizer.UnconditionalAuthorizer: one yes is enough.
func (a *Authorizer) Authorize(_ context.Context, at authorizer.Attributes) (authorizer.Decision, string, error) {
	u := at.GetUser()
	if u == nil {
		return authorizer.DecisionDeny, "no user", nil
	}
	if slices.Contains(u.GetGroups(), masters) {
		return authorizer.DecisionAllow, "", nil
	}
	reason := ""
	if node, ok := nodeOf(u); ok {
		allowed, why := nodeAllows(a.view.Snapshot(), node, at)
		if allowed {
			return authorizer.DecisionAllow, "", nil
		}
		reason = why
	}
	if a.index().allows(u, at) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, reason, nil
}

// ConditionsAwareAuthorize implements authorizer.Authorizer: no decision of
// ours has conditions.
func (a *Authorizer) ConditionsAwareAuthorize(ctx context.Context, at authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(a.Authorize(ctx, at))
}

// EvaluateConditions implements authorizer.Authorizer.
func (a *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// grant is the rules that a binding gives.
type grant struct {
	rules []rbacv1.PolicyRule
}

// index finds the grants of a subject: "u:name" or "g:group".
type index struct {
	cluster    map[string][]grant
	namespaced map[string]map[string][]grant
}

func (a *Authorizer) index() *index {
	if !a.stale.Load() {
		return a.rules.Load()
	}
	// Marked fresh first: a change during the compilation marks it stale again.
	a.stale.Store(false)
	ix := compile(a.view.Snapshot())
	a.rules.Store(ix)
	return ix
}

func compile(s *view.Snapshot) *index {
	ix := &index{cluster: map[string][]grant{}, namespaced: map[string]map[string][]grant{}}
	for b := range view.List[*rbacv1.ClusterRoleBinding](s, kinds.ClusterRoleBinding, "") {
		rules := rulesOf(s, b.RoleRef, "")
		for _, sub := range b.Subjects {
			if key := subjectKey(sub, ""); key != "" && len(rules) > 0 {
				ix.cluster[key] = append(ix.cluster[key], grant{rules})
			}
		}
	}
	for b := range view.List[*rbacv1.RoleBinding](s, kinds.RoleBinding, "") {
		rules := rulesOf(s, b.RoleRef, b.Namespace)
		for _, sub := range b.Subjects {
			key := subjectKey(sub, b.Namespace)
			if key == "" || len(rules) == 0 {
				continue
			}
			if ix.namespaced[b.Namespace] == nil {
				ix.namespaced[b.Namespace] = map[string][]grant{}
			}
			ix.namespaced[b.Namespace][key] = append(ix.namespaced[b.Namespace][key], grant{rules})
		}
	}
	return ix
}

// rulesOf a role reference, from a namespace.
func rulesOf(s *view.Snapshot, ref rbacv1.RoleRef, namespace string) []rbacv1.PolicyRule {
	if ref.Kind == "Role" && namespace != "" {
		if r := view.Get[*rbacv1.Role](s, kinds.Role, namespace, ref.Name); r != nil {
			return r.Rules
		}
		return nil
	}
	if r := view.Get[*rbacv1.ClusterRole](s, kinds.ClusterRole, "", ref.Name); r != nil && ref.Kind == "ClusterRole" {
		return r.Rules
	}
	return nil
}

func subjectKey(s rbacv1.Subject, namespace string) string {
	switch s.Kind {
	case rbacv1.UserKind:
		return "u:" + s.Name
	case rbacv1.GroupKind:
		return "g:" + s.Name
	case rbacv1.ServiceAccountKind:
		if s.Namespace != "" {
			namespace = s.Namespace
		}
		if namespace != "" {
			return "u:" + serviceAccountPrefix + namespace + ":" + s.Name
		}
	}
	return ""
}

// grants of a user, cluster-wide and in a namespace.
func (ix *index) grants(u user.Info, namespace string, fn func(grant) bool) {
	visit := func(m map[string][]grant) bool {
		if len(m) == 0 {
			return true
		}
		for _, g := range m["u:"+u.GetName()] {
			if !fn(g) {
				return false
			}
		}
		for _, group := range u.GetGroups() {
			for _, g := range m["g:"+group] {
				if !fn(g) {
					return false
				}
			}
		}
		return true
	}
	if visit(ix.cluster) && namespace != "" {
		visit(ix.namespaced[namespace])
	}
}

func (ix *index) allows(u user.Info, at authorizer.Attributes) bool {
	found := false
	namespace := ""
	if at.IsResourceRequest() {
		namespace = at.GetNamespace()
	}
	ix.grants(u, namespace, func(g grant) bool {
		for i := range g.rules {
			if RuleAllows(&g.rules[i], at) {
				found = true
				return false
			}
		}
		return true
	})
	return found
}

// RuleAllows reports whether one rule covers the request.
func RuleAllows(r *rbacv1.PolicyRule, at authorizer.Attributes) bool {
	if !has(r.Verbs, at.GetVerb()) {
		return false
	}
	if !at.IsResourceRequest() {
		return slices.ContainsFunc(r.NonResourceURLs, func(p string) bool {
			prefix, wild := strings.CutSuffix(p, "*")
			return p == at.GetPath() || wild && strings.HasPrefix(at.GetPath(), prefix)
		})
	}
	return has(r.APIGroups, at.GetAPIGroup()) && resourceMatches(r.Resources, at.GetResource(), at.GetSubresource()) &&
		(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, at.GetName()) && at.GetName() != "")
}

func has(list []string, want string) bool {
	for _, s := range list {
		if s == want || s == "*" {
			return true
		}
	}
	return false
}

func resourceMatches(list []string, resource, sub string) bool {
	for _, r := range list {
		if r == "*" {
			return true
		}
		name, of, nested := strings.Cut(r, "/")
		switch {
		case !nested:
			if sub == "" && name == resource {
				return true
			}
		case sub != "" && of == sub && (name == resource || name == "*"):
			return true
		}
	}
	return false
}

// Rules are all rules that a user has in a namespace.
func (a *Authorizer) Rules(u user.Info, namespace string) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	if slices.Contains(u.GetGroups(), masters) {
		out = append(out, everything...)
	}
	a.index().grants(u, namespace, func(g grant) bool {
		out = append(out, g.rules...)
		return true
	})
	return out
}

var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

// RulesFor implements authorizer.RuleResolver.
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
	var err error
	_, isNode := nodeOf(u)
	if isNode {
		err = fmt.Errorf("node authorizer does not support user rule resolution")
	}
	return resources, others, isNode, err
}

// RoleRules are the rules of a role that a binding in namespace refers to; ok
// is false if there is no such role.
func (a *Authorizer) RoleRules(ref rbacv1.RoleRef, namespace string) (rules []rbacv1.PolicyRule, ok bool) {
	s := a.view.Snapshot()
	if ref.Kind == "Role" {
		r := view.Get[*rbacv1.Role](s, kinds.Role, namespace, ref.Name)
		return rulesOf(s, ref, namespace), r != nil
	}
	r := view.Get[*rbacv1.ClusterRole](s, kinds.ClusterRole, "", ref.Name)
	return rulesOf(s, ref, namespace), r != nil
}
