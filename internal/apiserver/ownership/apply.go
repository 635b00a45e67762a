package ownership

import (
	"context"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

// Apply is what live becomes by the configuration; live is nil if there is
// none yet. Conflicts are a Status 409 with their causes. Neither live nor the
// configuration is changed.
func (f *Fields) Apply(ctx context.Context, w Write, live kinds.Object, config *unstructured.Unstructured, force bool) (kinds.Object, error) {
	if out, err := f.apply(w, live, config.Object); err == nil {
		return out, nil
	}
	return f.applyByLibrary(ctx, w, live, &unstructured.Unstructured{Object: runtime.DeepCopyJSON(config.Object)}, force)
}

// owner is an entry of the managed fields, and its set.
type owner struct {
	entry metav1.ManagedFieldsEntry
	set   set
}

// apply is the way without the library; errForeign if it is not for it. A
// configuration that takes a field from somebody is not, by force or not.
func (f *Fields) apply(w Write, live kinds.Object, config map[string]any) (kinds.Object, error) {
	k := f.byGVK(w.Kind.GVK)
	cut := resets(w.Kind, w.Sub, false)
	if k != w.Kind || w.gvk() != k.GVK || f.bodies[k.GVK] != nil || !plainConfig(config, k.GVK) ||
		cut.keep != nil { // may keep an item without its keys
		return nil, errForeign
	}
	created := live == nil
	if created {
		live = k.New()
	}
	base := live.GetManagedFields()
	if isDynamic(live) || !created && len(base) == 0 { // who set what is there is made up by the library
		return nil, errForeign
	}
	shape := f.shapes.of(reflect.TypeOf(live).Elem())
	others, mine, err := w.owners(shape.shape, base)
	if err != nil {
		return nil, err
	}
	before := codec.Shallow(live)
	before.GetObjectKind().SetGroupVersionKind(k.GVK)
	before.SetManagedFields(nil)
	obj := before.DeepCopyObject().(kinds.Object)
	from, to := reflect.ValueOf(before).Elem(), reflect.ValueOf(obj).Elem()
	if shape.loose && !shape.tells(from) {
		return nil, errForeign
	}
	a := f.appliers.Get().(*applier)
	defer f.appliers.Put(a)
	owned, lost := a.apply(shape.shape, config, to)
	owned = cut.apply(owned)
	dropped := a.prune(shape.shape, to, mine.set, owned, others)
	if a.foreign {
		return nil, errForeign
	}
	if w.Manager == "kubectl" && obj.GetAnnotations()[corev1.LastAppliedConfigAnnotation] != "" {
		return nil, errForeign // the library keeps that annotation up to date
	}
	same := len(lost) == 0 && !dropped && shape.equal(from, to)
	var written, removed set
	if !same {
		d := f.differs.Get().(*differ)
		defer f.differs.Put(d)
		if written, removed, err = d.diff(shape.shape, from, to); err != nil {
			return nil, err
		}
		written, removed = cut.apply(union(written, lost)), cut.apply(removed)
		if k.Default != nil {
			k.Default(obj)
		}
		mine.entry.Time = stamp(w.Now)
	}
	out, err := join(others, written, removed)
	if err != nil {
		return nil, err
	}
	if owned, _ = minus(owned, stripped); len(owned) > 0 {
		mine.entry.FieldsV1 = fieldsOf(owned)
		out = append(out, mine.entry)
	}
	slices.SortFunc(out, compareEntries)
	obj.SetManagedFields(out)
	return obj, nil
}

// plainConfig: it is of the kind and leaves the managed fields alone.
func plainConfig(config map[string]any, gvk schema.GroupVersionKind) bool {
	meta, _ := config["metadata"].(map[string]any)
	_, managed := meta["managedFields"]
	return !managed && config["apiVersion"] == gvk.GroupVersion().String() && config["kind"] == gvk.Kind
}

// owners are those of the entries, and apart from them the one that applies,
// of which nothing but its set and time need be as it was.
func (w *Write) owners(sh *shape, entries []metav1.ManagedFieldsEntry) (others []owner, mine owner, err error) {
	version := w.gvk().GroupVersion().String()
	mine.entry = metav1.ManagedFieldsEntry{
		Manager: w.Manager, Operation: metav1.ManagedFieldsOperationApply, APIVersion: version, Subresource: w.Sub, FieldsType: "FieldsV1",
	}
	if mine.entry.Manager == "" {
		mine.entry.Manager = "unknown"
	}
	others = make([]owner, 0, len(entries))
	found := false
	for i, e := range entries {
		known := e.Operation == metav1.ManagedFieldsOperationApply || e.Operation == metav1.ManagedFieldsOperationUpdate
		if !known || e.APIVersion != version || e.FieldsType != "FieldsV1" || e.FieldsV1 == nil ||
			slices.ContainsFunc(entries[:i], func(o metav1.ManagedFieldsEntry) bool { return sameOwner(o, e) }) {
			return nil, mine, errForeign
		}
		s, err := parseSet(e.FieldsV1.GetRawString())
		if err != nil || !fits(sh, s) {
			return nil, mine, errForeign
		}
		if !found && sameOwner(e, mine.entry) {
			found = true
			mine.set, mine.entry.Time = s, e.Time
			continue
		}
		others = append(others, owner{e, s})
	}
	return others, mine, nil
}

// sameOwner of two entries of one version.
func sameOwner(a, b metav1.ManagedFieldsEntry) bool {
	return a.Manager == b.Manager && a.Operation == b.Operation && a.Subresource == b.Subresource
}

// fits: the set is one of the shape's, as far as that knows the fields. The
// library adjusts a set that is older than the shape.
func fits(sh *shape, s set) bool {
	for i := range s {
		n := &s[i]
		below := sh.elem
		if sh.form == record {
			m := sh.field(n.elem)
			if m == nil {
				continue
			}
			below = m.shape
		}
		if below.form == foreign || below.form == atom && (!n.member || len(n.kids) > 0) || !fits(below, n.kids) {
			return false
		}
	}
	return true
}

// join gives the other owners what they keep; errForeign if one of them has a
// field that is written.
func join(others []owner, written, removed set) ([]metav1.ManagedFieldsEntry, error) {
	out := make([]metav1.ManagedFieldsEntry, 0, len(others)+1)
	for _, o := range others {
		if _, conflict := minus(o.set, written); conflict {
			return nil, errForeign
		}
		s, changed := minus(o.set, removed)
		if len(s) == 0 {
			continue
		}
		if changed {
			o.entry.FieldsV1 = fieldsOf(s)
		}
		out = append(out, o.entry)
	}
	return out, nil
}
