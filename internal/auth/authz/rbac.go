package authz

import (
	"context"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// maxSpaces bounds the namespaces whose grants are kept compiled: clients
// choose which namespaces they ask for.
const maxSpaces = 4096

// RBAC grants what roles say, to whom bindings name. It implements Link.
type RBAC struct {
	view *view.View

	// Grants are compiled when they are first asked for and dropped when what
	// they were made of changes. They are compiled outside of mu, because the
	// view calls changed with its own lock held.
	mu      sync.RWMutex
	gen     int64 // changes so far
	cluster *grants
	spaces  map[string]*grants
}

func newRBAC(v *view.View) *RBAC {
	a := &RBAC{view: v, spaces: map[string]*grants{}}
	v.Subscribe(a.changed)
	return a
}

// changed drops what the change makes stale.
func (a *RBAC) changed(c view.Change) {
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
func (a *RBAC) grants(namespace string) (cluster, space *grants) {
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

// Authorize implements Link. It never returns an error: a role that is missing
// grants nothing, and the reason says so.
func (a *RBAC) Authorize(_ context.Context, at authorizer.Attributes) (authorizer.Decision, string, error) {
	u := at.GetUser()
	if u == nil {
		return authorizer.DecisionNoOpinion, "no user on request.", nil
	}
	namespace := ""
	if at.IsResourceRequest() {
		namespace = at.GetNamespace()
	}
	cluster, space := a.grants(namespace)
	if reason, ok := cluster.allows(u, at); ok {
		return authorizer.DecisionAllow, reason, nil
	}
	if reason, ok := space.allows(u, at); ok {
		return authorizer.DecisionAllow, reason, nil
	}
	missing := append(cluster.missing(u), space.missing(u)...)
	switch len(missing) {
	case 0:
		return authorizer.DecisionNoOpinion, "", nil
	case 1:
		return authorizer.DecisionNoOpinion, "RBAC: " + missing[0], nil
	}
	return authorizer.DecisionNoOpinion, "RBAC: [" + strings.Join(missing, ", ") + "]", nil
}

// visit the rules of a user in a namespace, cluster-wide ones included; with an
// empty namespace only those.
func (a *RBAC) visit(u user.Info, namespace string, fn func([]rbacv1.PolicyRule)) {
	cluster, space := a.grants(namespace)
	for _, g := range [...]*grants{cluster, space} {
		g.visit(u, func(one *grant) bool {
			if one.role != nil {
				fn(one.role.rules)
			}
			return true
		})
	}
}

// RulesFor implements Link.
func (a *RBAC) RulesFor(_ context.Context, u user.Info, namespace string) (resources []authorizer.ResourceRuleInfo, others []authorizer.NonResourceRuleInfo, incomplete bool, err error) {
	a.visit(u, namespace, func(rules []rbacv1.PolicyRule) {
		for _, r := range rules {
			if len(r.Resources) > 0 {
				resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames})
			}
			if len(r.NonResourceURLs) > 0 {
				others = append(others, &authorizer.DefaultNonResourceRuleInfo{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs})
			}
		}
	})
	return resources, others, false, nil
}
