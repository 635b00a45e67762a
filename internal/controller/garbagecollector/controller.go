package garbagecollector

import (
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// workers plan that many objects at once, as upstream.
const workers = 20

// Indexes file the objects of every kind under their owners' UIDs. The view
// must be made with them. Events are no part of this: nothing owns them, and
// there are too many.
func Indexes(table *kinds.Table) []*view.Index {
	var out []*view.Index
	for _, k := range table.All() {
		if k.Stored() && k.StoredAs == nil && k != kinds.Event {
			out = append(out, &view.Index{Kind: k, Keys: ownerUIDs})
		}
	}
	return out
}

func ownerUIDs(o kinds.Object) []string {
	var uids []string
	for _, r := range o.GetOwnerReferences() {
		if !slices.Contains(uids, string(r.UID)) {
			uids = append(uids, string(r.UID))
		}
	}
	return uids
}

// collector looks things up over all kinds.
type collector struct {
	owners []*view.Index
	byName map[string]*kinds.Kind
	byKind map[schema.GroupKind]*kinds.Kind
}

// Controller collects over the kinds of the indexes. Its keys name objects of
// any kind: the Name is "resource.group/name".
func Controller(owners []*view.Index) reconcile.Controller {
	g := &collector{owners: owners, byName: map[string]*kinds.Kind{}, byKind: map[schema.GroupKind]*kinds.Kind{}}
	c := reconcile.Controller{Name: "generic-garbage-collector", Workers: workers}
	for _, ix := range owners {
		k := ix.Kind
		g.byName[k.String()] = k
		g.byKind[k.GVK.GroupKind()] = k
		c.Watches = append(c.Watches, reconcile.Watch{Kind: k, Keys: func(s *view.Snapshot, ch view.Change) []reconcile.Key { return g.keys(s, k, ch) }})
		c.Writes = append(c.Writes, reconcile.Write{Kind: k, Verbs: []plan.Verb{plan.Delete, plan.Patch}})
	}
	c.Plan = reconcile.Pair(g.observe, Plan)
	return c
}

func key(k *kinds.Kind, o kinds.Object) reconcile.Key {
	return reconcile.Key{Namespace: o.GetNamespace(), Name: k.String() + "/" + o.GetName()}
}

// keys of a change: the object itself if its owners or its deletion changed,
// its dependents if it went or began to wait for them, and its owners that
// wait for it.
func (g *collector) keys(s *view.Snapshot, k *kinds.Kind, c view.Change) []reconcile.Key {
	var keys []reconcile.Key
	obj := c.Object()
	if c.New != nil && concerns(c) {
		keys = append(keys, key(k, c.New))
	}
	if c.New == nil || waits(c.New) && (c.Old == nil || !waits(c.Old)) {
		for _, d := range g.dependents(s, k, obj) {
			keys = append(keys, key(d.Kind, d.Object))
		}
	}
	for _, o := range []kinds.Object{c.Old, c.New} {
		if o == nil {
			continue
		}
		for _, r := range o.GetOwnerReferences() {
			if ok, owner := g.find(s, k, o, r); owner != nil && owner.GetDeletionTimestamp() != nil && (waits(owner) || has(owner, metav1.FinalizerOrphanDependents)) {
				if kk := key(ok, owner); !slices.Contains(keys, kk) {
					keys = append(keys, kk)
				}
			}
		}
	}
	return keys
}

// concerns: the change may alter what has to be done to the object itself.
func concerns(c view.Change) bool {
	n := c.New
	if c.Old == nil {
		return len(n.GetOwnerReferences()) > 0 || n.GetDeletionTimestamp() != nil
	}
	if (c.Old.GetDeletionTimestamp() == nil) != (n.GetDeletionTimestamp() == nil) {
		return true
	}
	if n.GetDeletionTimestamp() != nil {
		return !slices.Equal(c.Old.GetFinalizers(), n.GetFinalizers())
	}
	return !slices.EqualFunc(c.Old.GetOwnerReferences(), n.GetOwnerReferences(), func(a, b metav1.OwnerReference) bool { return a.UID == b.UID })
}

// waits: a foreground deletion that is under way.
func waits(o kinds.Object) bool {
	return o.GetDeletionTimestamp() != nil && has(o, metav1.FinalizerDeleteDependents)
}

// find looks an owner up where obj may have one: in its own namespace or
// among the cluster-scoped. The object is nil if it is absent or another.
func (g *collector) find(s *view.Snapshot, k *kinds.Kind, obj kinds.Object, r metav1.OwnerReference) (*kinds.Kind, kinds.Object) {
	gv, err := schema.ParseGroupVersion(r.APIVersion)
	if err != nil {
		return nil, nil
	}
	ownerKind := g.byKind[gv.WithKind(r.Kind).GroupKind()]
	if ownerKind == nil || ownerKind.Namespaced && !k.Namespaced {
		return ownerKind, nil
	}
	ns := ""
	if ownerKind.Namespaced {
		ns = obj.GetNamespace()
	}
	if o := view.Get[kinds.Object](s, ownerKind, ns, r.Name); o != nil && o.GetUID() == r.UID {
		return ownerKind, o
	}
	return ownerKind, nil
}

// dependents that name obj as owner and may: of a namespaced one only those in
// its namespace.
func (g *collector) dependents(s *view.Snapshot, k *kinds.Kind, obj kinds.Object) []Dependent {
	var out []Dependent
	uid := obj.GetUID()
	for _, ix := range g.owners {
		if k.Namespaced && !ix.Kind.Namespaced {
			continue
		}
		for d := range view.By[kinds.Object](s, ix, string(uid)) {
			if k.Namespaced && d.GetNamespace() != obj.GetNamespace() {
				continue
			}
			dep := Dependent{Kind: ix.Kind, Object: d}
			for _, r := range d.GetOwnerReferences() {
				dep.Blocking = dep.Blocking || r.UID == uid && r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
			}
			out = append(out, dep)
		}
	}
	return out
}

func (g *collector) observe(in reconcile.Input) (Observed, bool) {
	resource, name, ok := strings.Cut(in.Key.Name, "/")
	k := g.byName[resource]
	if !ok || k == nil {
		return Observed{}, false // the singleton's key, which the runtime wakes at the start
	}
	obj := view.Get[kinds.Object](in.View, k, in.Key.Namespace, name)
	if obj == nil {
		return Observed{}, false
	}
	o := Observed{Kind: k, Object: obj}
	if obj.GetDeletionTimestamp() != nil {
		if !waits(obj) && !has(obj, metav1.FinalizerOrphanDependents) {
			return o, false
		}
		o.Dependents = g.dependents(in.View, k, obj)
		o.CaughtUp = g.caughtUp(in.View, obj)
		return o, true
	}
	for _, r := range obj.GetOwnerReferences() {
		w := g.owner(in.View, k, obj, r)
		if w.State == Waiting && o.Dependents == nil {
			o.Dependents = g.dependents(in.View, k, obj)
		}
		o.Owners = append(o.Owners, w)
	}
	return o, len(o.Owners) > 0
}

func (g *collector) owner(s *view.Snapshot, k *kinds.Kind, obj kinds.Object, r metav1.OwnerReference) Owner {
	w := Owner{Ref: r}
	ownerKind, owner := g.find(s, k, obj, r)
	switch {
	case ownerKind == nil:
	case ownerKind.Namespaced && !k.Namespaced:
		w.Misplaced = true
	case owner == nil:
		w.State = Absent
	case waits(owner):
		w.State = Waiting
	default:
		w.State = Solid
	}
	if w.State == Absent || w.State == Waiting {
		w.Object = kinds.Ref{Kind: ownerKind, Name: r.Name}
		if ownerKind.Namespaced {
			w.Object.Namespace = obj.GetNamespace()
		}
	}
	return w
}

// caughtUp: the view shows all kinds as of the object's revision.
func (g *collector) caughtUp(s *view.Snapshot, obj kinds.Object) bool {
	rev, err := strconv.ParseInt(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(g.owners, func(ix *view.Index) bool { return s.Rev(ix.Kind) < rev })
}
