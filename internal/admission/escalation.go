package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/component-helpers/auth/rbac/validation"

	"knarr.dev/knarr/internal/kinds"
)

// escalation lets nobody grant what they do not have, unless they may escalate
// (roles) or bind (bindings) explicitly. Upstream does this in the storage of
// the four kinds; it is no plugin of theirs.
type escalation struct{ authz Authorizer }

// fullAuthority is what the author of an aggregated role needs: what it will
// hold is open.
var fullAuthority = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

func (escalation) Name() string { return "RBACEscalation" }

func (escalation) Mutate(context.Context, *Request) error { return nil }

func (p escalation) Validate(ctx context.Context, r *Request) error {
	if r.Ref.Sub != "" || r.Operation != Create && r.Operation != Update {
		return nil
	}
	switch o := r.Object.(type) {
	case *rbacv1.Role:
		if old, ok := r.Old.(*rbacv1.Role); ok && equality.Semantic.DeepEqual(o.Rules, old.Rules) {
			return nil
		}
		return p.role(ctx, r, o.Rules)
	case *rbacv1.ClusterRole:
		return p.clusterRole(ctx, r, o)
	case *rbacv1.RoleBinding:
		if old, ok := r.Old.(*rbacv1.RoleBinding); ok && old.RoleRef == o.RoleRef && slices.Equal(o.Subjects, old.Subjects) {
			return nil
		}
		return p.binding(ctx, r, o.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		if old, ok := r.Old.(*rbacv1.ClusterRoleBinding); ok && old.RoleRef == o.RoleRef && slices.Equal(o.Subjects, old.Subjects) {
			return nil
		}
		return p.binding(ctx, r, o.RoleRef)
	}
	return nil
}

// clusterRole: its labels decide into which others it is aggregated, so a
// change of them grants its rules too.
func (p escalation) clusterRole(ctx context.Context, r *Request, o *rbacv1.ClusterRole) error {
	rules, open := o.Rules, o.AggregationRule != nil
	if old, ok := r.Old.(*rbacv1.ClusterRole); ok {
		if equality.Semantic.DeepEqual(o.Rules, old.Rules) && equality.Semantic.DeepEqual(o.AggregationRule, old.AggregationRule) && maps.Equal(o.Labels, old.Labels) {
			return nil
		}
		open = open || old.AggregationRule != nil
	}
	if open {
		rules = append(slices.Clone(rules), fullAuthority...)
	}
	return p.role(ctx, r, rules)
}

func (p escalation) role(ctx context.Context, r *Request, rules []rbacv1.PolicyRule) error {
	if may(ctx, p.authz, r.User, request{verb: "escalate", group: rbacv1.GroupName, resource: r.Ref.Kind.Resource, namespace: r.Ref.Namespace, name: r.Ref.Name}) {
		return nil
	}
	return p.covers(r, rules)
}

func (p escalation) binding(ctx context.Context, r *Request, ref rbacv1.RoleRef) error {
	k := kinds.ClusterRole
	if ref.Kind == "Role" {
		k = kinds.Role
	}
	if may(ctx, p.authz, r.User, request{verb: "bind", group: rbacv1.GroupName, resource: k.Resource, namespace: r.Ref.Namespace, name: ref.Name}) {
		return nil
	}
	rules, ok := p.authz.RoleRules(ref, r.Ref.Namespace)
	if !ok {
		return apierrors.NewNotFound(k.GroupResource(), ref.Name)
	}
	return p.covers(r, rules)
}

// covers compares the rules with what the user has.
func (p escalation) covers(r *Request, rules []rbacv1.PolicyRule) error {
	ok, missing := validation.Covers(p.authz.Rules(r.User, r.Ref.Namespace), rules)
	if ok {
		return nil
	}
	var text []string
	for _, m := range joinVerbs(missing) {
		text = append(text, compact(m))
	}
	slices.Sort(text)
	return forbid(r, fmt.Errorf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		r.User.GetName(), r.User.GetGroups(), strings.Join(text, "\n")))
}

// joinVerbs makes one rule of those that differ in the verb alone; Covers
// reports one per verb and resource.
func joinVerbs(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	at := map[string]int{}
	for _, r := range rules {
		verbs := r.Verbs
		r.Verbs = nil
		key := compact(r)
		r.Verbs = verbs
		i, ok := at[key]
		if !ok {
			at[key] = len(out)
			r.Verbs = slices.Clone(verbs)
			out = append(out, r)
			continue
		}
		for _, v := range verbs {
			if !slices.Contains(out[i].Verbs, v) {
				out[i].Verbs = append(out[i].Verbs, v)
			}
		}
	}
	return out
}

// compact writes a rule in one line.
func compact(r rbacv1.PolicyRule) string {
	var parts []string
	add := func(name string, list []string) {
		if len(list) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", name, list))
		}
	}
	add("APIGroups", r.APIGroups)
	add("Resources", r.Resources)
	add("ResourceNames", r.ResourceNames)
	add("NonResourceURLs", r.NonResourceURLs)
	add("Verbs", r.Verbs)
	return "{" + strings.Join(parts, ", ") + "}"
}

// request that may be allowed.
type request struct{ verb, group, resource, sub, namespace, name string }

func may(ctx context.Context, a authorizer.UnconditionalAuthorizer, u user.Info, r request) bool {
	d, _, err := a.Authorize(ctx, authorizer.AttributesRecord{User: u, Verb: r.verb, APIGroup: r.group, APIVersion: "v1", Resource: r.resource, Subresource: r.sub,
		Namespace: r.namespace, Name: r.name, ResourceRequest: true})
	return err == nil && d == authorizer.DecisionAllow
}
