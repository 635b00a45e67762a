package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

var errDeclaration = errors.New("reconcile: bad controller declaration")

// Permission is what a controller may do with a kind or one subresource, in
// the words of RBAC rules.
type Permission struct {
	Kind  *kinds.Kind
	Sub   string
	Verbs []string // sorted
}

// Permissions derives a controller's whole need for rights from what it
// declares: get, list and watch on what it reads, and its writes. Sorted by
// kind and subresource. Events are the recorder's, not the controller's.
func Permissions(c Controller) []Permission {
	type part struct {
		kind *kinds.Kind
		sub  string
	}
	verbs := map[part]map[string]bool{}
	add := func(k *kinds.Kind, sub string, vs ...string) {
		p := part{k, sub}
		if verbs[p] == nil {
			verbs[p] = map[string]bool{}
		}
		for _, v := range vs {
			verbs[p][v] = true
		}
	}
	for _, k := range reads(c) {
		add(k, "", "get", "list", "watch")
	}
	for _, w := range c.Writes {
		for _, v := range w.Verbs {
			if v == plan.DeleteAll { // done by these two
				add(w.Kind, w.Sub, "list", "delete")
				continue
			}
			add(w.Kind, w.Sub, string(v))
		}
	}
	out := make([]Permission, 0, len(verbs))
	for p, set := range verbs {
		perm := Permission{Kind: p.kind, Sub: p.sub}
		for v := range set {
			perm.Verbs = append(perm.Verbs, v)
		}
		slices.Sort(perm.Verbs)
		out = append(out, perm)
	}
	slices.SortFunc(out, func(a, b Permission) int {
		return cmp.Or(cmp.Compare(a.Kind.String(), b.Kind.String()), cmp.Compare(a.Sub, b.Sub))
	})
	return out
}

// reads are all kinds that a controller looks at, in the order declared, each
// once.
func reads(c Controller) []*kinds.Kind {
	var ks []*kinds.Kind
	add := func(k *kinds.Kind) {
		if k != nil && !slices.Contains(ks, k) {
			ks = append(ks, k)
		}
	}
	add(c.For)
	for _, k := range c.Owns {
		add(k)
	}
	for _, w := range c.Watches {
		add(w.Kind)
	}
	for _, k := range c.Reads {
		add(k)
	}
	return ks
}

// Kinds that the controllers read: what their view has to hold. Custom ones
// come and go.
func Kinds(cs []Controller) []*kinds.Kind {
	var ks []*kinds.Kind
	for _, c := range cs {
		for _, k := range reads(c) {
			if k != kinds.Custom && !slices.Contains(ks, k) {
				ks = append(ks, k)
			}
		}
	}
	return ks
}

// Edge of the data flow between controllers and kinds.
type Edge struct {
	Controller string
	Kind       *kinds.Kind
	Sub        string
	Write      bool // the controller writes; otherwise it reads
}

// Graph is the data flow of all controllers: who reads and who writes what,
// in the order of the controllers.
func Graph(cs []Controller) []Edge {
	var edges []Edge
	for _, c := range cs {
		for _, k := range reads(c) {
			edges = append(edges, Edge{Controller: c.Name, Kind: k})
		}
		for _, w := range c.Writes {
			e := Edge{Controller: c.Name, Kind: w.Kind, Sub: w.Sub, Write: true}
			if !slices.Contains(edges, e) {
				edges = append(edges, e)
			}
		}
	}
	return edges
}

// Check finds mistakes in declarations: no name, a name twice, no plan, kinds
// missing, verbs that no plan uses.
func Check(cs []Controller) error {
	names := map[string]bool{}
	for _, c := range cs {
		if c.Name == "" || names[c.Name] {
			return fmt.Errorf("%w: name %q is empty or taken", errDeclaration, c.Name)
		}
		names[c.Name] = true
		if c.Plan == nil {
			return fmt.Errorf("%w: %s has no plan", errDeclaration, c.Name)
		}
		if slices.Contains(c.Owns, nil) || slices.Contains(c.Reads, nil) {
			return fmt.Errorf("%w: %s reads a kind that is nil", errDeclaration, c.Name)
		}
		for _, w := range c.Watches {
			if w.Kind == nil || w.Keys == nil {
				return fmt.Errorf("%w: %s has an incomplete watch", errDeclaration, c.Name)
			}
		}
		for _, w := range c.Writes {
			if w.Kind == nil {
				return fmt.Errorf("%w: %s writes a kind that is nil", errDeclaration, c.Name)
			}
			for _, v := range w.Verbs {
				if !slices.Contains([]plan.Verb{plan.Create, plan.Update, plan.Patch, plan.Delete, plan.DeleteAll}, v) {
					return fmt.Errorf("%w: %s: no plan has the verb %q", errDeclaration, c.Name, v)
				}
			}
		}
	}
	return nil
}
