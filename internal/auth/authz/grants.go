package authz

import (
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// grants are the bindings of the cluster or of one namespace, by subject. They
// are immutable.
type grants struct {
	users, groups map[string][]grant
}

// grant is one binding's role for one of its subjects.
type grant struct {
	role *role // nil: there is no such role
	// reason is what an audit shows of a yes, or why the role is missing.
	reason string
}

// role is a role's rules, found by the resource that is asked for, so that a
// decision looks at few rules however long the role is.
type role struct {
	rules   []rbacv1.PolicyRule
	by      map[resource][]*rbacv1.PolicyRule
	anySort []*rbacv1.PolicyRule // of resources "*"
	urls    []*rbacv1.PolicyRule
}

// resource as rules name it; sub is empty for the object itself, name is "*"
// in "*/scale".
type resource struct{ name, sub string }

func compileRole(rules []rbacv1.PolicyRule) *role {
	r := &role{rules: rules, by: map[resource][]*rbacv1.PolicyRule{}}
	for i := range rules {
		rule := &rules[i]
		if len(rule.NonResourceURLs) > 0 {
			r.urls = append(r.urls, rule)
		}
		seen := map[string]bool{}
		for _, name := range rule.Resources {
			if seen[name] {
				continue
			}
			seen[name] = true
			if name == rbacv1.ResourceAll {
				r.anySort = append(r.anySort, rule)
				continue
			}
			var key resource
			key.name, key.sub, _ = strings.Cut(name, "/")
			r.by[key] = append(r.by[key], rule)
		}
	}
	return r
}

// compiler resolves roles once each.
type compiler struct {
	s     *view.Snapshot
	roles map[string]*role // "name" of cluster roles, "namespace/name" of roles
	out   *grants
}

func newCompiler(s *view.Snapshot) *compiler {
	return &compiler{s: s, roles: map[string]*role{}, out: &grants{users: map[string][]grant{}, groups: map[string][]grant{}}}
}

func compileCluster(s *view.Snapshot) *grants {
	c := newCompiler(s)
	for b := range view.List[*rbacv1.ClusterRoleBinding](s, kinds.ClusterRoleBinding, "") {
		c.binding(fmt.Sprintf("ClusterRoleBinding %q", b.Name), b.RoleRef, b.Subjects, "")
	}
	return c.out
}

func compileSpace(s *view.Snapshot, namespace string) *grants {
	c := newCompiler(s)
	for b := range view.List[*rbacv1.RoleBinding](s, kinds.RoleBinding, namespace) {
		c.binding(fmt.Sprintf("RoleBinding %q", b.Name+"/"+b.Namespace), b.RoleRef, b.Subjects, b.Namespace)
	}
	return c.out
}

func (c *compiler) binding(name string, ref rbacv1.RoleRef, subjects []rbacv1.Subject, namespace string) {
	r, missing := c.role(ref, namespace)
	for _, s := range subjects {
		reason := missing
		if r != nil {
			reason = fmt.Sprintf("RBAC: allowed by %s of %s %q to %s", name, ref.Kind, ref.Name, describe(s, namespace))
		}
		g := grant{r, reason}
		switch s.Kind {
		case rbacv1.UserKind:
			c.out.users[s.Name] = append(c.out.users[s.Name], g)
		case rbacv1.GroupKind:
			c.out.groups[s.Name] = append(c.out.groups[s.Name], g)
		case rbacv1.ServiceAccountKind:
			if ns := subjectSpace(s, namespace); ns != "" {
				u := serviceAccountPrefix + ns + ":" + s.Name
				c.out.users[u] = append(c.out.users[u], g)
			}
		}
	}
}

func subjectSpace(s rbacv1.Subject, namespace string) string {
	if s.Namespace != "" {
		return s.Namespace
	}
	return namespace
}

func describe(s rbacv1.Subject, namespace string) string {
	if s.Kind == rbacv1.ServiceAccountKind {
		return fmt.Sprintf("%s %q", s.Kind, s.Name+"/"+subjectSpace(s, namespace))
	}
	return fmt.Sprintf("%s %q", s.Kind, s.Name)
}

// role resolves a reference; the text says why there is none.
func (c *compiler) role(ref rbacv1.RoleRef, namespace string) (*role, string) {
	key := ref.Name
	if ref.Kind == "Role" {
		key = namespace + "/" + ref.Name
	}
	if r := c.roles[key]; r != nil {
		return r, ""
	}
	rules, ok := rulesOf(c.s, ref, namespace)
	if !ok {
		return nil, fmt.Sprintf("%s.%s %q not found", strings.ToLower(ref.Kind), rbacv1.GroupName, ref.Name)
	}
	r := compileRole(rules)
	c.roles[key] = r
	return r, ""
}

// rulesOf the role that a binding in namespace (empty: of the cluster) refers
// to. A binding of the cluster cannot refer to a namespace's role.
func rulesOf(s *view.Snapshot, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, bool) {
	switch {
	case ref.APIGroup != "" && ref.APIGroup != rbacv1.GroupName:
	case ref.Kind == "ClusterRole":
		if r := view.Get[*rbacv1.ClusterRole](s, kinds.ClusterRole, "", ref.Name); r != nil {
			return r.Rules, true
		}
	case ref.Kind == "Role" && namespace != "":
		if r := view.Get[*rbacv1.Role](s, kinds.Role, namespace, ref.Name); r != nil {
			return r.Rules, true
		}
	}
	return nil, false
}

// visit the grants of a user until fn says stop.
func (g *grants) visit(u user.Info, fn func(*grant) (goOn bool)) {
	if g == nil {
		return
	}
	mine := g.users[u.GetName()]
	for i := range mine {
		if !fn(&mine[i]) {
			return
		}
	}
	if len(g.groups) == 0 {
		return
	}
	for _, group := range u.GetGroups() {
		theirs := g.groups[group]
		for i := range theirs {
			if !fn(&theirs[i]) {
				return
			}
		}
	}
}

func (g *grants) allows(u user.Info, at authorizer.Attributes) (reason string, ok bool) {
	g.visit(u, func(one *grant) bool {
		if one.role == nil || !one.role.allows(at) {
			return true
		}
		reason, ok = one.reason, true
		return false
	})
	return reason, ok
}

// missing are the roles that would be the user's if they existed.
func (g *grants) missing(u user.Info) []string {
	var out []string
	g.visit(u, func(one *grant) bool {
		if one.role == nil && !slices.Contains(out, one.reason) {
			out = append(out, one.reason)
		}
		return true
	})
	return out
}

func (r *role) allows(at authorizer.Attributes) bool {
	if !at.IsResourceRequest() {
		for _, rule := range r.urls {
			if has(rule.Verbs, at.GetVerb()) && urlMatches(rule.NonResourceURLs, at.GetPath()) {
				return true
			}
		}
		return false
	}
	if anyAllows(r.anySort, at) || anyAllows(r.by[resource{at.GetResource(), at.GetSubresource()}], at) {
		return true
	}
	return at.GetSubresource() != "" && anyAllows(r.by[resource{"*", at.GetSubresource()}], at)
}

// anyAllows: the rules are known to cover the resource.
func anyAllows(rules []*rbacv1.PolicyRule, at authorizer.Attributes) bool {
	for _, r := range rules {
		if has(r.Verbs, at.GetVerb()) && has(r.APIGroups, at.GetAPIGroup()) &&
			(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, at.GetName())) {
			return true
		}
	}
	return false
}

// has: "*" stands for everything.
func has(list []string, want string) bool {
	for _, s := range list {
		if s == want || s == "*" {
			return true
		}
	}
	return false
}

// urlMatches: a trailing "*" stands for any ending.
func urlMatches(list []string, path string) bool {
	for _, p := range list {
		if p == path {
			return true
		}
		if strings.HasSuffix(p, "*") && strings.HasPrefix(path, strings.TrimRight(p, "*")) {
			return true
		}
	}
	return false
}
