package namespace

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// workers empty that many namespaces at once.
const workers = 5

// Controller empties namespaces of all kinds of the table, and of the custom
// ones that its view holds. Events are too many
// to be held in a view for this; they are asked for.
func Controller(table *kinds.Table) reconcile.Controller {
	var seen, unseen []*kinds.Kind
	c := reconcile.Controller{
		Name: "namespace-controller", For: kinds.Namespace, Workers: workers,
		Watches: []reconcile.Watch{{Kind: kinds.Custom, Keys: terminating}},
		Writes: []reconcile.Write{
			{Kind: kinds.Custom, Verbs: []plan.Verb{plan.Delete}},
			{Kind: kinds.Namespace, Sub: "status", Verbs: []plan.Verb{plan.Update}},
			{Kind: kinds.Namespace, Sub: "finalize", Verbs: []plan.Verb{plan.Update}},
		},
	}
	for _, k := range table.All() {
		if !k.Namespaced || !k.Stored() || k.StoredAs != nil || !deletable(k) {
			continue
		}
		if k == kinds.Event {
			unseen = append(unseen, k)
			c.Writes = append(c.Writes, reconcile.Write{Kind: k, Verbs: []plan.Verb{plan.DeleteAll}})
			continue
		}
		seen = append(seen, k)
		c.Watches = append(c.Watches, reconcile.Watch{Kind: k, Keys: terminating})
		c.Writes = append(c.Writes, reconcile.Write{Kind: k, Verbs: []plan.Verb{plan.Delete}})
	}
	c.Plan = reconcile.Pair(func(in reconcile.Input) (Observed, bool) { return observe(in, seen, unseen) }, Plan)
	return c
}

// deletable kinds have the verb; those without vanish by themselves.
func deletable(k *kinds.Kind) bool { return k.Verbs == nil || slices.Contains(k.Verbs, "delete") }

// terminating wakes the namespace of what changed, if it is being deleted.
func terminating(s *view.Snapshot, c view.Change) []reconcile.Key {
	name := c.Object().GetNamespace()
	if ns := view.Get[*corev1.Namespace](s, kinds.Namespace, "", name); ns == nil || ns.DeletionTimestamp == nil {
		return nil
	}
	return []reconcile.Key{{Name: name}}
}

func observe(in reconcile.Input, seen, unseen []*kinds.Kind) (Observed, bool) {
	ns := view.Get[*corev1.Namespace](in.View, kinds.Namespace, "", in.Key.Name)
	if ns == nil || ns.DeletionTimestamp == nil {
		return Observed{}, false
	}
	seen = slices.Clip(seen)
	for _, k := range in.View.Kinds() {
		if k.Namespaced && k.Is(kinds.Custom) {
			seen = append(seen, k)
		}
	}
	o := Observed{Namespace: ns, Kinds: append(slices.Clip(seen), unseen...), Unseen: unseen, Now: in.Now}
	for _, k := range seen {
		if objects := slices.Collect(view.List[kinds.Object](in.View, k, ns.Name)); len(objects) > 0 {
			o.Content = append(o.Content, Content{k, objects})
		}
	}
	if in.Failure != nil {
		o.Failure = in.Failure.Message
	}
	return o, true
}
