package fair

import (
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Request is what schemas are matched with.
type Request struct {
	User     user.Info
	Verb     string
	Path     string // of what is no resource
	Resource bool   // the rest is about one
	Group    string
	Name     string // of the resource: "pods"
	Sub      string
	// Namespace is empty at the cluster's scope.
	Namespace string

	// Seats that it takes; the level bounds them. 0: one.
	Seats int
	// Mutating and Watch tell the metrics' labels apart.
	Mutating, Watch bool
}

// rule is one of a schema, split up so that nothing is joined per request.
type rule struct {
	everybody     bool
	users, groups []string
	accounts      []string // prefixes of user names: a whole namespace's
	resources     []resourceRule
	paths         []pathRule
}

type resourceRule struct {
	verbs, groups, namespaces list
	resources                 []resource // nil: every one
	clusterScope              bool
}

type resource struct{ name, sub string }

type pathRule struct {
	verbs    list
	every    bool
	paths    []string
	prefixes []string
}

// list of values; a single star stands for all of them.
type list struct {
	every  bool
	values []string
}

func listOf(values []string) list {
	if len(values) == 1 && values[0] == "*" {
		return list{every: true}
	}
	return list{values: values}
}

func (l list) has(v string) bool { return l.every || slices.Contains(l.values, v) }

func compile(in *flowcontrolv1.PolicyRulesWithSubjects) rule {
	var out rule
	for _, s := range in.Subjects {
		switch {
		case s.User != nil && s.User.Name == flowcontrolv1.NameAll, s.Group != nil && s.Group.Name == "*":
			out.everybody = true
		case s.User != nil:
			out.users = append(out.users, s.User.Name)
		case s.Group != nil:
			out.groups = append(out.groups, s.Group.Name)
		case s.ServiceAccount != nil:
			name := "system:serviceaccount:" + s.ServiceAccount.Namespace + ":"
			if s.ServiceAccount.Name == flowcontrolv1.NameAll {
				out.accounts = append(out.accounts, name)
			} else {
				out.users = append(out.users, name+s.ServiceAccount.Name)
			}
		}
	}
	for _, r := range in.ResourceRules {
		c := resourceRule{verbs: listOf(r.Verbs), groups: listOf(r.APIGroups), namespaces: listOf(r.Namespaces), clusterScope: r.ClusterScope}
		if !listOf(r.Resources).every {
			c.resources = []resource{}
			for _, name := range r.Resources {
				name, sub, _ := strings.Cut(name, "/")
				c.resources = append(c.resources, resource{name, sub})
			}
		}
		out.resources = append(out.resources, c)
	}
	for _, r := range in.NonResourceRules {
		c := pathRule{verbs: listOf(r.Verbs)}
		for _, p := range r.NonResourceURLs {
			if p == "*" {
				c.every = true
				continue
			}
			// As upstream: a path also covers what is below it.
			c.paths = append(c.paths, p)
			c.prefixes = append(c.prefixes, strings.TrimSuffix(strings.TrimSuffix(p, "*"), "/")+"/")
		}
		out.paths = append(out.paths, c)
	}
	return out
}

func (s *schema) matches(r *Request) bool {
	for i := range s.rules {
		c := &s.rules[i]
		if c.covers(r) && c.by(r.User) {
			return true
		}
	}
	return false
}

func (c *rule) by(u user.Info) bool {
	if c.everybody || slices.Contains(c.users, u.GetName()) {
		return true
	}
	for _, g := range u.GetGroups() {
		if slices.Contains(c.groups, g) {
			return true
		}
	}
	for _, prefix := range c.accounts {
		if strings.HasPrefix(u.GetName(), prefix) {
			return true
		}
	}
	return false
}

func (c *rule) covers(r *Request) bool {
	if !r.Resource {
		for i := range c.paths {
			if p := &c.paths[i]; p.verbs.has(r.Verb) && p.covers(r.Path) {
				return true
			}
		}
		return false
	}
	for i := range c.resources {
		if p := &c.resources[i]; p.verbs.has(r.Verb) && p.covers(r) {
			return true
		}
	}
	return false
}

func (p *pathRule) covers(path string) bool {
	if p.every || slices.Contains(p.paths, path) {
		return true
	}
	for _, prefix := range p.prefixes {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

func (p *resourceRule) covers(r *Request) bool {
	if p.resources != nil && !slices.Contains(p.resources, resource{r.Name, r.Sub}) || !p.groups.has(r.Group) {
		return false
	}
	if r.Namespace == "" {
		return p.clusterScope
	}
	return p.namespaces.has(r.Namespace)
}
