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

// Kinds whose objects have owners. The view must hold them, with view.Owned.
// Events are not among them: nothing owns them, and there are too many.
func Kinds(table *kinds.Table) []*kinds.Kind {
	var out []*kinds.Kind
	for _, k := range table.All() {
		if k.Stored() && k.StoredAs == nil && k != kinds.Event {
			out = append(out, k)
		}
	}
	return out
}

// Controller collects over the kinds of a table, and the custom ones that its
// view holds. Its keys name objects of any kind: the Name is
// "resource.group/name".
func Controller(table *kinds.Table) reconcile.Controller {
	c := reconcile.Controller{Name: "generic-garbage-collector", Workers: workers, Plan: reconcile.Pair(observe, Plan)}
	for _, k := range append(Kinds(table), kinds.Custom) {
		c.Watches = append(c.Watches, reconcile.Watch{Kind: k, Keys: keys})
		c.Writes = append(c.Writes, reconcile.Write{Kind: k, Verbs: []plan.Verb{plan.Delete, plan.Patch}})
	}
	return c
}

func key(k *kinds.Kind, o kinds.Object) reconcile.Key {
	return reconcile.Key{Namespace: o.GetNamespace(), Name: k.String() + "/" + o.GetName()}
}

// keys of a change: the object itself if its owners or its deletion changed,
// its dependents if it went or began to wait for them, and its owners that
// wait for it.
func keys(s *view.Snapshot, c view.Change) []reconcile.Key {
	var keys []reconcile.Key
	k, obj := c.Kind, c.Object()
	if c.New != nil && concerns(c) {
		keys = append(keys, key(k, c.New))
	}
	if c.New == nil || waits(c.New) && (c.Old == nil || !waits(c.Old)) {
		for _, d := range dependents(s, k, obj) {
			keys = append(keys, key(d.Kind, d.Object))
		}
	}
	for _, o := range []kinds.Object{c.Old, c.New} {
		if o == nil {
			continue
		}
		for _, r := range o.GetOwnerReferences() {
			if ok, owner := find(s, k, o, r); owner != nil && owner.GetDeletionTimestamp() != nil && (waits(owner) || has(owner, metav1.FinalizerOrphanDependents)) {
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
func find(s *view.Snapshot, k *kinds.Kind, obj kinds.Object, r metav1.OwnerReference) (*kinds.Kind, kinds.Object) {
	gv, err := schema.ParseGroupVersion(r.APIVersion)
	if err != nil {
		return nil, nil
	}
	ownerKind := s.ByGroupKind(gv.WithKind(r.Kind).GroupKind())
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
func dependents(s *view.Snapshot, k *kinds.Kind, obj kinds.Object) []Dependent {
	var out []Dependent
	uid := obj.GetUID()
	for _, of := range s.Kinds() {
		if k.Namespaced && !of.Namespaced {
			continue
		}
		for d := range view.ByOf[kinds.Object](s, view.Owned, of, string(uid)) {
			if k.Namespaced && d.GetNamespace() != obj.GetNamespace() {
				continue
			}
			dep := Dependent{Kind: of, Object: d}
			for _, r := range d.GetOwnerReferences() {
				dep.Blocking = dep.Blocking || r.UID == uid && r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
			}
			out = append(out, dep)
		}
	}
	return out
}

func observe(in reconcile.Input) (Observed, bool) {
	resource, name, ok := strings.Cut(in.Key.Name, "/")
	k := in.View.ByName(schema.ParseGroupResource(resource))
	if !ok || k == nil {
		return Observed{}, false // a kind that is gone, or the singleton's key, which the runtime wakes at the start
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
		o.Dependents = dependents(in.View, k, obj)
		o.CaughtUp = caughtUp(in.View, obj)
		return o, true
	}
	for _, r := range obj.GetOwnerReferences() {
		w := findOwner(in.View, k, obj, r)
		if w.State == Waiting && o.Dependents == nil {
			o.Dependents = dependents(in.View, k, obj)
		}
		o.Owners = append(o.Owners, w)
	}
	return o, len(o.Owners) > 0
}

func findOwner(s *view.Snapshot, k *kinds.Kind, obj kinds.Object, r metav1.OwnerReference) Owner {
	w := Owner{Ref: r}
	ownerKind, owner := find(s, k, obj, r)
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
func caughtUp(s *view.Snapshot, obj kinds.Object) bool {
	rev, err := strconv.ParseInt(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(s.Kinds(), func(k *kinds.Kind) bool { return s.Rev(k) < rev })
}
