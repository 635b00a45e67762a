// Package authz decides who may do what: the node authorizer, which limits a
// kubelet to its own node and its pods, RBAC over roles and bindings, and
// whatever else an AuthorizationConfiguration names, one asked after the other.
package authz

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"

	rbacv1 "k8s.io/api/rbac/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/view"
)

const (
	masters              = user.SystemPrivilegedGroup
	serviceAccountPrefix = "system:serviceaccount:"
)

// Link is one of those that are asked.
type Link interface {
	authorizer.UnconditionalAuthorizer
	authorizer.RuleResolver
}

// Authorizer implements authorizer.Authorizer and authorizer.RuleResolver.
// Group system:masters may do everything; for everybody else the first link
// that says yes or no decides.
type Authorizer struct {
	view  *view.View
	node  *Node
	rbac  *RBAC
	chain atomic.Pointer[[]Link]
}

var (
	_ authorizer.Authorizer   = (*Authorizer)(nil)
	_ authorizer.RuleResolver = (*Authorizer)(nil)
)

// New makes an Authorizer that asks Node and RBAC, over a view that holds the
// four kinds of RBAC and pods, with the index view.PodsByNode; for nodes also
// claims, volumes and devices, if it has them.
func New(v *view.View) *Authorizer {
	a := &Authorizer{view: v, node: newNode(v), rbac: newRBAC(v)}
	a.Use(a.node, a.rbac)
	return a
}

// Node is the authorizer of kubelets.
func (a *Authorizer) Node() *Node { return a.node }

// RBAC is the authorizer of roles.
func (a *Authorizer) RBAC() *RBAC { return a.rbac }

// Use asks these from now on, in this order.
func (a *Authorizer) Use(links ...Link) { a.chain.Store(&links) }

// Authorize implements authorizer.Authorizer.
func (a *Authorizer) Authorize(ctx context.Context, at authorizer.Attributes) (authorizer.Decision, string, error) {
	u := at.GetUser()
	if u != nil && slices.Contains(u.GetGroups(), masters) {
		return authorizer.DecisionAllow, "", nil
	}
	var reasons []string
	var errs []error
	for _, l := range *a.chain.Load() {
		decision, reason, err := l.Authorize(ctx, at)
		if decision == authorizer.DecisionAllow || decision == authorizer.DecisionDeny {
			return decision, reason, err
		}
		if reason != "" {
			reasons = append(reasons, reason)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return authorizer.DecisionNoOpinion, strings.Join(reasons, "\n"), utilerrors.NewAggregate(errs)
}

// RulesFor implements authorizer.RuleResolver.
func (a *Authorizer) RulesFor(ctx context.Context, u user.Info, namespace string) (resources []authorizer.ResourceRuleInfo, others []authorizer.NonResourceRuleInfo, incomplete bool, _ error) {
	var errs []error
	for _, l := range *a.chain.Load() {
		r, o, open, err := l.RulesFor(ctx, u, namespace)
		resources, others, incomplete = append(resources, r...), append(others, o...), incomplete || open
		if err != nil {
			errs = append(errs, err)
		}
	}
	return resources, others, incomplete, utilerrors.NewAggregate(errs)
}

// everything is what group system:masters holds.
var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

// Rules are all rules that RBAC gives a user in a namespace, cluster-wide ones
// included; with an empty namespace only those. Do not change them.
func (a *Authorizer) Rules(u user.Info, namespace string) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	if slices.Contains(u.GetGroups(), masters) {
		out = append(out, everything...)
	}
	a.rbac.visit(u, namespace, func(rules []rbacv1.PolicyRule) { out = append(out, rules...) })
	return out
}

// RoleRules are the rules of the role that a binding in namespace refers to; ok
// is false if there is no such role.
func (a *Authorizer) RoleRules(ref rbacv1.RoleRef, namespace string) (rules []rbacv1.PolicyRule, ok bool) {
	return rulesOf(a.view.Snapshot(), ref, namespace)
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
