package ownership

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

// updateByLibrary is Update for everything.
func (f *Fields) updateByLibrary(ctx context.Context, w Write, live, obj kinds.Object) error {
	if live == nil {
		live = w.Kind.New()
	}
	base, given := live.GetManagedFields(), obj.GetManagedFields()
	fm, err := f.manager(ctx, w, isDynamic(obj), base, given)
	if err != nil {
		return err
	}
	out := named(obj, w.gvk())
	if _, err := fm.Update(named(live, w.gvk()), out, w.Manager); err != nil {
		obj.SetManagedFields(base)
		return fmt.Errorf("cannot keep the managed fields: %w", err)
	}
	obj.SetManagedFields(w.stamped(out.GetManagedFields(), base, given))
	return nil
}

// applyByLibrary is Apply for everything. It may change the configuration.
func (f *Fields) applyByLibrary(ctx context.Context, w Write, live kinds.Object, config *unstructured.Unstructured, force bool) (kinds.Object, error) {
	if live == nil {
		live = w.Kind.New()
	}
	base := live.GetManagedFields()
	fm, err := f.manager(ctx, w, isDynamic(live), base)
	if err != nil {
		return nil, err
	}
	out, err := fm.Apply(named(live, w.gvk()), config, w.Manager, force)
	if err != nil {
		return nil, err
	}
	obj, ok := out.(kinds.Object)
	if !ok {
		return nil, fmt.Errorf("%T has no metadata", out)
	}
	obj.SetManagedFields(w.stamped(obj.GetManagedFields(), base, nil))
	return obj, nil
}

// stamped puts the write's time where the library put its own.
func (w *Write) stamped(out []metav1.ManagedFieldsEntry, before ...[]metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry {
	for i := range out {
		if out[i].Time == nil {
			continue
		}
		if !slices.ContainsFunc(before, func(es []metav1.ManagedFieldsEntry) bool {
			return slices.ContainsFunc(es, func(e metav1.ManagedFieldsEntry) bool { return e.Time == out[i].Time })
		}) {
			out[i].Time = stamp(w.Now)
		}
	}
	slices.SortFunc(out, compareEntries)
	return out
}

// named returns obj if it says what it is, or a shallow copy that does: the
// library finds its type by that.
func named(obj kinds.Object, gvk schema.GroupVersionKind) kinds.Object {
	if obj.GetObjectKind().GroupVersionKind() == gvk {
		return obj
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		u = u.DeepCopy()
		u.SetGroupVersionKind(gvk)
		return u
	}
	out := codec.Shallow(obj)
	out.GetObjectKind().SetGroupVersionKind(gvk)
	return out
}

// manager is the library's field manager for one write. It holds nothing.
func (f *Fields) manager(ctx context.Context, w Write, dynamic bool, entries ...[]metav1.ManagedFieldsEntry) (*managedfields.FieldManager, error) {
	c := converter{ctx: ctx, fields: f, of: w.Kind}
	gvk := w.gvk()
	cut := map[fieldpath.APIVersion]fieldpath.Filter{}
	if filter := resets(w.Kind, w.Sub, dynamic).library(); filter != nil {
		cut[fieldpath.APIVersion(gvk.GroupVersion().String())] = filter
		for _, es := range entries {
			for _, e := range es {
				cut[fieldpath.APIVersion(e.APIVersion)] = filter
			}
		}
	}
	if dynamic {
		return managedfields.NewDefaultCRDFieldManager(c, c, c, c, gvk, gvk.GroupVersion(), w.Sub, cut)
	}
	return managedfields.NewDefaultFieldManager(c, c, c, c, gvk, gvk.GroupVersion(), w.Sub, cut)
}

// converter tells the library about types, versions and defaults.
type converter struct {
	ctx    context.Context
	fields *Fields
	of     *kinds.Kind // that is written
}

// kind of gvk; of the custom kind that is written also a version that is no
// longer served.
func (c converter) kind(gvk schema.GroupVersionKind) *kinds.Kind {
	if k := c.fields.byGVK(gvk); k != nil || c.of.OtherVersion == nil || gvk.GroupKind() != c.of.GVK.GroupKind() {
		return k
	}
	return c.of.OtherVersion(gvk.Version)
}

// goType of a kind or of a subresource's body; nil if it has none.
func (c converter) goType(gvk schema.GroupVersionKind) reflect.Type {
	if t := c.fields.bodies[gvk]; t != nil {
		return t
	}
	k := c.kind(gvk)
	if k == nil || k.New == nil {
		return nil
	}
	obj := k.New()
	if isDynamic(obj) {
		return nil
	}
	return reflect.TypeOf(obj).Elem()
}

// ObjectToTyped implements managedfields.TypeConverter.
func (c converter) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return c.fields.typer().of(reflect.TypeOf(obj).Elem()).FromStructured(obj, opts...)
	}
	gvk := u.GroupVersionKind()
	if t := c.goType(gvk); t != nil {
		return c.fields.typer().of(t).FromUnstructured(u.Object, opts...)
	}
	k := c.kind(gvk)
	if k == nil {
		return nil, runtime.NewNotRegisteredErrForKind("knarr", gvk)
	}
	t, err := c.fields.customType(k)
	if err != nil {
		return nil, err
	}
	return t.FromUnstructured(u.Object, opts...)
}

// TypedToObject implements managedfields.TypeConverter.
func (c converter) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	m, ok := v.AsValue().Unstructured().(map[string]any)
	if !ok {
		return nil, fmt.Errorf("an object was expected, not %T", v.AsValue().Unstructured())
	}
	return &unstructured.Unstructured{Object: m}, nil
}

// ConvertToVersion implements runtime.ObjectConvertor. What has a Go type comes
// out as that.
func (c converter) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	from := in.GetObjectKind().GroupVersionKind()
	gv, ok := target.(schema.GroupVersion)
	if !ok {
		return nil, runtime.NewNotRegisteredErrForTarget("knarr", reflect.TypeOf(in), target)
	}
	to := gv.WithKind(from.Kind)
	if u, ok := in.(*unstructured.Unstructured); ok {
		if t := c.goType(from); t != nil {
			obj := reflect.New(t).Interface().(runtime.Object)
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, obj); err != nil {
				return nil, err
			}
			in = obj
		}
	}
	if from == to {
		return in, nil
	}
	a, b := c.kind(from), c.kind(to)
	obj, ok := in.(kinds.Object)
	if a == nil || b == nil || !ok {
		return nil, runtime.NewNotRegisteredErrForKind("knarr", to)
	}
	if a.Save != nil && b.Load != nil { // a custom kind, by way of its stored version
		data, err := a.Save(c.ctx, obj)
		if err != nil {
			return nil, err
		}
		return b.Load(c.ctx, data)
	}
	if a.ToStored != nil {
		obj = a.ToStored(obj)
	}
	if b.FromStored != nil {
		obj = b.FromStored(obj)
	}
	return named(obj, to), nil
}

// Convert implements runtime.ObjectConvertor; the library does not call it.
func (converter) Convert(in, out, _ any) error { return fmt.Errorf("cannot convert %T to %T", in, out) }

// ConvertFieldLabel implements runtime.ObjectConvertor; the library does not
// call it.
func (converter) ConvertFieldLabel(gvk schema.GroupVersionKind, _, _ string) (string, string, error) {
	return "", "", fmt.Errorf("%s has no field labels here", gvk)
}

// Default implements runtime.ObjectDefaulter.
func (c converter) Default(in runtime.Object) {
	k := c.kind(in.GetObjectKind().GroupVersionKind())
	if obj, ok := in.(kinds.Object); ok && k != nil && k.Default != nil {
		k.Default(obj)
	}
}

// New implements runtime.ObjectCreater.
func (c converter) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	if t := c.goType(gvk); t != nil {
		return named(reflect.New(t).Interface().(kinds.Object), gvk), nil
	}
	k := c.kind(gvk)
	if k == nil {
		return nil, runtime.NewNotRegisteredErrForKind("knarr", gvk)
	}
	return named(k.New(), gvk), nil
}
