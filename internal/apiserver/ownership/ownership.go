// Package ownership keeps metadata.managedFields, which say who has set which
// field of an object, and applies configurations, which rests on them.
//
// What it decides is what apimachinery's managedfields and
// structured-merge-diff decide. A write of a built-in kind mostly needs
// neither: its Go values are compared directly (diff.go), configurations are
// put into them (merge.go, prune.go), and the sets of fields are cut and joined
// as they are stored (fields.go), for a tenth of the cost. Whatever is not plain
// goes through the library, and tests hold the two against each other.
package ownership

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"

	"knarr.dev/knarr/internal/kinds"
)

// maxUpdaters is how many managers by update an object may have; older ones
// are merged into one, by the library.
const maxUpdaters = 10

// Fields knows the fields of all kinds. It is safe for concurrent use.
type Fields struct {
	byGVK  func(schema.GroupVersionKind) *kinds.Kind
	shapes *shapes
	typer  func() *typer
	bodies map[schema.GroupVersionKind]reflect.Type // of subresources, by their own kind
	meta   func() []smdschema.TypeDef               // of ObjectMeta and what it holds
	custom sync.Map                                 // of func() (typed.ParseableType, error), by *kinds.Kind

	differs  sync.Pool // of *differ
	appliers sync.Pool // of *applier
}

// New knows the kinds that byGVK returns, and the Go types of builtin.
func New(builtin []*kinds.Kind, byGVK func(schema.GroupVersionKind) *kinds.Kind) *Fields {
	f := &Fields{byGVK: byGVK, shapes: newShapes(), bodies: bodies(builtin),
		differs: sync.Pool{New: func() any { return new(differ) }}, appliers: sync.Pool{New: func() any { return new(applier) }}}
	f.typer = sync.OnceValue(func() *typer { // a megabyte that many servers never need
		return newTyper(f.shapes, goTypes(builtin))
	})
	f.meta = sync.OnceValue(func() []smdschema.TypeDef { return metaTypes(f.shapes) })
	return f
}

// TypeConverter tells what objects of all kinds, and bodies of subresources,
// are made of.
func (f *Fields) TypeConverter() managedfields.TypeConverter {
	return converter{ctx: context.Background(), fields: f} // types need no call of a webhook
}

// goTypes of all objects that can have managed fields, or be changed by a policy.
func goTypes(ks []*kinds.Kind) []reflect.Type {
	var out []reflect.Type
	for _, k := range ks {
		if k.New != nil && !isDynamic(k.New()) {
			out = append(out, reflect.TypeOf(k.New()).Elem())
		}
	}
	for _, t := range bodies(ks) {
		out = append(out, t)
	}
	return out
}

func bodies(ks []*kinds.Kind) map[schema.GroupVersionKind]reflect.Type {
	out := map[schema.GroupVersionKind]reflect.Type{}
	for _, k := range ks {
		for _, sub := range k.Subresources {
			if sub.New != nil && !sub.GVK.Empty() {
				out[sub.GVK] = reflect.TypeOf(sub.New()).Elem()
			}
		}
	}
	return out
}

// Write is who writes, through which URL.
type Write struct {
	Kind    *kinds.Kind
	Sub     string
	Manager string
	Now     time.Time
}

// gvk of the objects that the URL takes.
func (w *Write) gvk() schema.GroupVersionKind {
	if sub := w.Kind.Subresources[w.Sub]; sub.Scale != nil {
		return sub.GVK
	}
	return w.Kind.GVK
}

// Update makes obj's managed fields those of live after a write that makes obj
// of live, which is nil for a new object. Neither has to carry its kind. If
// the fields cannot be told apart, obj keeps what live has, and why is
// returned.
func (f *Fields) Update(ctx context.Context, w Write, live, obj kinds.Object) error {
	given := obj.GetManagedFields()
	var base []metav1.ManagedFieldsEntry
	if live != nil {
		base = live.GetManagedFields()
	}
	obj.SetManagedFields(nil)
	whole := w.Sub == "" // only there may a client write managed fields
	switch {
	case whole && reset(given):
		if live != nil {
			return nil // they are no longer kept, until somebody applies
		}
	case whole && len(given) > 0 && !equalEntries(given, base):
		obj.SetManagedFields(given)
		return f.updateByLibrary(ctx, w, live, obj)
	case len(base) == 0 && live != nil:
		return nil
	}
	out, err := f.update(w, live, obj, base)
	if err == nil {
		obj.SetManagedFields(out)
		return nil
	}
	return f.updateByLibrary(ctx, w, live, obj)
}

// reset: the client wants to be rid of them.
func reset(given []metav1.ManagedFieldsEntry) bool {
	return given != nil && (len(given) == 0 || len(given) == 1 && given[0] == metav1.ManagedFieldsEntry{})
}

func equalEntries(a, b []metav1.ManagedFieldsEntry) bool {
	return slices.EqualFunc(a, b, func(a, b metav1.ManagedFieldsEntry) bool {
		return equalButTime(a, b) && a.Time.Equal(b.Time)
	})
}

func equalButTime(a, b metav1.ManagedFieldsEntry) bool {
	return a.Manager == b.Manager && a.Operation == b.Operation && a.APIVersion == b.APIVersion && a.Subresource == b.Subresource &&
		a.FieldsType == b.FieldsType && (a.FieldsV1 == b.FieldsV1 || a.FieldsV1 != nil && b.FieldsV1 != nil && a.FieldsV1.Equal(*b.FieldsV1))
}

// update is the way without the library; errForeign if it is not for it.
func (f *Fields) update(w Write, live, obj kinds.Object, base []metav1.ManagedFieldsEntry) ([]metav1.ManagedFieldsEntry, error) {
	if isDynamic(obj) {
		return nil, errForeign
	}
	version := w.gvk().GroupVersion().String()
	to := reflect.ValueOf(obj).Elem()
	shape := f.shapes.of(to.Type())
	from := shape.blank
	if live != nil {
		from = reflect.ValueOf(live).Elem()
	}
	d := f.differs.Get().(*differ)
	defer f.differs.Put(d)
	written, removed, err := d.diff(shape.shape, from, to)
	if err != nil {
		return nil, err
	}
	cut := resets(w.Kind, w.Sub, false)
	written, removed = cut.apply(written), cut.apply(removed)
	gained, _ := minus(written, stripped)
	own := metav1.ManagedFieldsEntry{
		Manager: w.Manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: version, Subresource: w.Sub, FieldsType: "FieldsV1",
	}
	if own.Manager == "" {
		own.Manager = "unknown"
	}
	out := make([]metav1.ManagedFieldsEntry, 0, len(base)+1)
	updaters := 0
	for _, e := range base {
		if e.APIVersion != version || e.FieldsType != "FieldsV1" || e.FieldsV1 == nil {
			return nil, errForeign
		}
		mine := len(gained) > 0 && e.Manager == own.Manager && e.Operation == own.Operation && e.Subresource == own.Subresource
		if raw := e.FieldsV1.GetRawString(); mine || len(raw) <= len("{}") || touches(raw, written, removed) {
			s, err := parseSet(raw)
			if err != nil {
				return nil, err
			}
			s, _ = minus(s, written)
			s, _ = minus(s, removed)
			if mine {
				gained = union(gained, s)
				continue
			}
			if len(s) == 0 {
				continue
			}
			e.FieldsV1 = fieldsOf(s)
		}
		if e.Operation == metav1.ManagedFieldsOperationUpdate {
			updaters++
		}
		out = append(out, e)
	}
	if len(gained) > 0 {
		own.FieldsV1, own.Time = fieldsOf(gained), stamp(w.Now)
		out = append(out, own)
		updaters++
	}
	if updaters > maxUpdaters {
		return nil, errForeign
	}
	slices.SortFunc(out, compareEntries)
	return out, nil
}

// stamp is the time of an entry, in whole seconds as everything in metadata.
func stamp(now time.Time) *metav1.Time {
	t := metav1.NewTime(now.UTC().Truncate(time.Second))
	return &t
}

func fieldsOf(s set) *metav1.FieldsV1 {
	f := &metav1.FieldsV1{}
	var space [2048]byte // most fit
	f.SetRawBytes(s.appendJSON(space[:0]))
	return f
}

// compareEntries orders entries as upstream does.
func compareEntries(a, b metav1.ManagedFieldsEntry) int {
	seconds := func(t *metav1.Time) int64 {
		if t == nil {
			return 0
		}
		return t.Unix()
	}
	if c := strings.Compare(string(a.Operation), string(b.Operation)); c != 0 {
		return c
	}
	if x, y := seconds(a.Time), seconds(b.Time); x != y {
		return int(min(max(x-y, -1), 1))
	}
	if c := strings.Compare(a.Manager, b.Manager); c != 0 {
		return c
	}
	if c := strings.Compare(a.APIVersion, b.APIVersion); c != 0 {
		return c
	}
	return strings.Compare(a.Subresource, b.Subresource)
}

// stripped are the fields that nobody owns.
var stripped = set{
	{elem: "f:apiVersion", member: true},
	{elem: "f:kind", member: true},
	{elem: "f:metadata", member: true, kids: set{
		{elem: "f:clusterName", member: true},
		{elem: "f:creationTimestamp", member: true},
		{elem: "f:generation", member: true},
		{elem: "f:managedFields", member: true},
		{elem: "f:name", member: true},
		{elem: "f:namespace", member: true},
		{elem: "f:resourceVersion", member: true},
		{elem: "f:selfLink", member: true},
		{elem: "f:uid", member: true},
	}},
}

// KeepTimes gives obj the times of old's managed fields if they differ in
// nothing else, and says whether it has: a write that changes nothing but
// these shall change nothing.
func KeepTimes(obj, old kinds.Object) bool {
	a, b := obj.GetManagedFields(), old.GetManagedFields()
	if len(a) == 0 || equalEntries(a, b) || !slices.EqualFunc(a, b, equalButTime) {
		return false
	}
	obj.SetManagedFields(slices.Clone(b))
	return true
}
