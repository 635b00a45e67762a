// Package authz decides who may do what: RBAC over roles and bindings, and the
// node authorizer, which limits a kubelet to its own node and its pods. Both
// are pure decisions over the view.
package authz

import (
	"context"
	"slices"
	"strings"
	"sync"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

const (
	masters              = user.SystemPrivilegedGroup
	serviceAccountPrefix = "system:serviceaccount:"

	// maxSpaces bounds the namespaces whose grants are kept compiled: clients
	// choose which namespaces they ask for.
	maxSpaces = 4096
)

// Authorizer implements authorizer.Authorizer and authorizer.RuleResolver.
// Group system:masters may do everything, nodes what their pods need, and
// everybody what RBAC grants; one yes is enough.
type Authorizer struct {
	view *view.View

	// Grants are compiled when they are first asked for and dropped when what
	// they were made of changes. They are compiled outside of mu, because the
	// view calls changed with its own lock held.
	mu      sync.RWMutex
	gen     int64 // changes so far
	cluster *grants
	spaces  map[string]*grants
}

var (
	_ authorizer.Authorizer   = (*Authorizer)(nil)
	_ authorizer.RuleResolver = (*Authorizer)(nil)
)

// New makes an Authorizer over a view that holds the four kinds of RBAC and
// pods, with the index view.PodsByNode; for nodes also claims and volumes, if
// it has them.
func New(v *view.View) *Authorizer {
	a := &Authorizer{view: v, spaces: map[string]*grants{}}
	v.Subscribe(a.changed)
	return a
}

// changed drops what the change makes stale.
func (a *Authorizer) changed(c view.Change) {
	switch c.Kind {
	case kinds.ClusterRole, kinds.ClusterRoleBinding, kinds.Role, kinds.RoleBinding:
	default:
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gen++
	switch c.Kind {
	case kinds.ClusterRole:
		a.cluster = nil
		clear(a.spaces)
	case kinds.ClusterRoleBinding:
		a.cluster = nil
	default:
		delete(a.spaces, c.Object().GetNamespace())
	}
}

// grants that hold in a namespace: the cluster's, and, if namespace is not
// empty, its own.
func (a *Authorizer) grants(namespace string) (cluster, space *grants) {
	a.mu.RLock()
	cluster, space = a.cluster, a.spaces[namespace]
	gen := a.gen
	a.mu.RUnlock()
	if cluster != nil && (space != nil || namespace == "") {
		return cluster, space
	}
	s := a.view.Snapshot() // not older than gen
	if cluster == nil {
		cluster = compileCluster(s)
	}
	if space == nil && namespace != "" {
		space = compileSpace(s, namespace)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gen != gen {
		return cluster, space // right when it was asked for, but not to be kept
	}
	a.cluster = cluster
	if namespace != "" {
		if len(a.spaces) >= maxSpaces {
			clear(a.spaces)
		}
		a.spaces[namespace] = space
	}
	return cluster, space
}

// Authorize implements authorizer.Authorizer. It never returns an error: a role
// that is missing grants nothing, and the reason says so.
func (a *Authorizer) Authorize(_ context.Context, at authorizer.Attributes) (authorizer.Decision, string, error) {
	u := at.GetUser()
	if u == nil {
		return authorizer.DecisionNoOpinion, "no user on request.", nil
	}
	if slices.Contains(u.GetGroups(), masters) {
		return authorizer.DecisionAllow, "", nil
	}
	nodeReason := ""
	if node, ok := NodeOf(u); ok {
		allowed, why := nodeAllows(a.view, node, at)
		if allowed {
			return authorizer.DecisionAllow, "", nil
		}
		nodeReason = why
	}
	allowed, reason := a.rbac(u, at)
	if allowed {
		return authorizer.DecisionAllow, reason, nil
	}
	if nodeReason != "" && reason != "" {
		return authorizer.DecisionNoOpinion, nodeReason + "\n" + reason, nil
	}
	return authorizer.DecisionNoOpinion, nodeReason + reason, nil
}

func (a *Authorizer) rbac(u user.Info, at authorizer.Attributes) (bool, string) {
	namespace := ""
	if at.IsResourceRequest() {
		namespace = at.GetNamespace()
	}
	cluster, space := a.grants(namespace)
	if reason, ok := cluster.allows(u, at); ok {
		return true, reason
	}
	if reason, ok := space.allows(u, at); ok {
		return true, reason
	}
	missing := append(cluster.missing(u), space.missing(u)...)
	switch len(missing) {
	case 0:
		return false, ""
	case 1:
		return false, "RBAC: " + missing[0]
	}
	return false, "RBAC: [" + strings.Join(missing, ", ") + "]"
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
