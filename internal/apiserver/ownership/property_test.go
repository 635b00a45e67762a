package ownership

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"reflect"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
	"sigs.k8s.io/randfill"

	"knarr.dev/knarr/internal/kinds"
)

// words are few, so that keys of lists and maps meet again; some need care in
// JSON, in paths and in sorting.
var words = []string{"é", "", "a", "b", "ab", "a!", "A", "a\"b", `a\b`, "a<b", "x/y.z", "TCP", "UDP", "c", "d", "e", "f", "g", "h", "i"}

// filler makes objects of any kind from a source of chance.
type filler struct {
	*randfill.Filler
	word func() string
}

// Fill what v points to, with our words wherever there is a string, of
// whatever type.
func (f filler) Fill(v any) {
	f.Filler.Fill(v)
	f.tame(reflect.ValueOf(v).Elem())
}

func (f filler) tame(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(f.word())
	case reflect.Pointer:
		if !v.IsNil() {
			f.tame(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if !converts(v.Type()) && v.Type() != reflect.TypeFor[metav1.TypeMeta]() && v.Type().Field(i).PkgPath == "" {
				f.tame(v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			f.tame(v.Index(i))
		}
	case reflect.Map:
		if v.IsNil() {
			return
		}
		out := reflect.MakeMap(v.Type())
		for it := v.MapRange(); it.Next(); {
			e := reflect.New(v.Type().Elem()).Elem()
			e.Set(it.Value())
			f.tame(e)
			out.SetMapIndex(reflect.ValueOf(f.word()).Convert(v.Type().Key()), e)
		}
		v.Set(out)
	}
}

func newFiller(r *rand.Rand, plainOnly bool) filler {
	word := func() string {
		if plainOnly {
			return words[2+r.Intn(len(words)-2)]
		}
		return words[r.Intn(6)]
	}
	return filler{word: word, Filler: randfill.New().RandSource(r).NilChance(0.6).NumElements(0, 3).MaxDepth(14).Funcs(
		func(j *apiextensionsv1.JSON, _ randfill.Continue) { j.Raw = []byte(`"x"`) },
		func(o *apiextensionsv1.JSONSchemaPropsOrArray, c randfill.Continue) {
			o.Schema = &apiextensionsv1.JSONSchemaProps{}
			c.Fill(o.Schema)
		},
		func(o *apiextensionsv1.JSONSchemaPropsOrBool, c randfill.Continue) { o.Allows = c.Bool() },
		func(o *apiextensionsv1.JSONSchemaPropsOrStringArray, c randfill.Continue) { o.Property = []string{"x"} },
		func(n *int32, c randfill.Continue) { *n = int32(r.Intn(30)) },
		func(n *int64, c randfill.Continue) { *n = int64(r.Intn(3)) },
		func(n *int, c randfill.Continue) { *n = r.Intn(3) },
		func(t *metav1.Time, c randfill.Continue) { *t = metav1.Unix(int64(r.Intn(3)), 0) },
		func(t *metav1.MicroTime, c randfill.Continue) {
			*t = metav1.NewMicroTime(time.Unix(int64(r.Intn(3)), 5000))
		},
		func(q *resource.Quantity, c randfill.Continue) {
			*q = resource.MustParse([]string{"0", "1", "1000m", "1Gi"}[r.Intn(4)])
		},
		func(v *intstr.IntOrString, c randfill.Continue) {
			if *v = intstr.FromInt32(int32(r.Intn(2))); r.Intn(2) == 0 {
				*v = intstr.FromString(word())
			}
		},
		func(x *runtime.RawExtension, c randfill.Continue) {
			x.Raw = []byte(fmt.Sprintf(`{"a":{"b":%d}}`, r.Intn(3)))
		},
		func(f *metav1.FieldsV1, c randfill.Continue) {},
		func(m *metav1.ManagedFieldsEntry, c randfill.Continue) {},
		func(u *types.UID, c randfill.Continue) { *u = "u" },
		func(t *metav1.TypeMeta, c randfill.Continue) {},
	)}
}

// change gives v, which is not shared, a few new values here and there.
func change(r *rand.Rand, f filler, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() || r.Intn(6) == 0 {
			f.Fill(v.Addr().Interface())
			return
		}
		change(r, f, v.Elem())
	case reflect.Struct:
		if converts(v.Type()) {
			f.Fill(v.Addr().Interface())
			return
		}
		for range min(1+r.Intn(2), v.NumField()) { // there are structs without fields
			i := r.Intn(v.NumField())
			if v.Type().Field(i).Name == "ManagedFields" || v.Type().Field(i).PkgPath != "" {
				continue
			}
			if r.Intn(4) == 0 {
				v.Field(i).SetZero()
				continue
			}
			change(r, f, v.Field(i))
		}
	case reflect.Slice:
		switch n := v.Len(); {
		case n == 0 || r.Intn(5) == 0:
			f.Fill(v.Addr().Interface())
		case r.Intn(3) == 0: // one goes
			i := r.Intn(n)
			v.Set(reflect.AppendSlice(reflect.AppendSlice(reflect.MakeSlice(v.Type(), 0, n), v.Slice(0, i)), v.Slice(i+1, n)))
		case r.Intn(3) == 0: // order
			reflect.Swapper(v.Interface())(r.Intn(n), r.Intn(n))
		default:
			change(r, f, v.Index(r.Intn(n)))
		}
	case reflect.Map:
		if v.Len() > 0 && r.Intn(2) == 0 {
			v.SetMapIndex(v.MapKeys()[0], reflect.Value{})
			return
		}
		more := reflect.New(v.Type())
		f.Fill(more.Interface())
		if v.IsNil() {
			v.Set(more.Elem())
			return
		}
		for it := more.Elem().MapRange(); it.Next(); {
			v.SetMapIndex(it.Key(), it.Value())
		}
	default:
		f.Fill(v.Addr().Interface())
	}
}

// stored is obj as it comes back from a client or the store.
func stored(t *rapid.T, obj kinds.Object) kinds.Object {
	data, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	out := reflect.New(reflect.TypeOf(obj).Elem()).Interface().(kinds.Object)
	if err := json.Unmarshal(data, out); err != nil {
		t.Fatal(err)
	}
	out.SetManagedFields(obj.GetManagedFields()) // the store keeps them to the byte
	return out
}

func show(es []metav1.ManagedFieldsEntry) string {
	out := ""
	for _, e := range es {
		when := int64(-1)
		if e.Time != nil {
			when = e.Time.Unix()
		}
		out += fmt.Sprintf("%s %s %s %s %d %s\n", e.Operation, e.Manager, e.APIVersion, e.Subresource, when, e.FieldsV1.GetRawString())
	}
	return out
}

// The way without the library and the library decide the same, for all kinds:
// histories of writes by several managers, compared entry by entry.
func TestUpdateIsThatOfTheLibrary(t *testing.T) {
	f := New(kinds.Builtin().All(), kinds.Builtin().ByGVK)
	for _, k := range kinds.Builtin().All() {
		if k.New == nil {
			continue
		}
		t.Run(k.String(), func(t *testing.T) {
			direct, all := 0, 0
			rapid.Check(t, func(t *rapid.T) {
				r := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
				fill := newFiller(r, r.Intn(8) > 0)
				var live kinds.Object
				now := time.Unix(1_700_000_000, 123)
				for step := range 6 {
					w := Write{Kind: k, Manager: []string{"m1", "m2", "m3", ""}[r.Intn(4)], Now: now}
					if subs := []string{"status", "resize", "ephemeralcontainers", "finalize", "approval"}; step > 0 && r.Intn(2) == 0 {
						if s := subs[r.Intn(len(subs))]; k.Subresources[s].Verbs != nil && k.Subresources[s].New == nil {
							w.Sub = s
						}
					}
					obj := next(t, r, fill, k, live)
					var base []metav1.ManagedFieldsEntry
					if live != nil {
						base = live.GetManagedFields()
					}
					quick, err := f.update(w, live, obj, base)
					want := obj.DeepCopyObject().(kinds.Object)
					if byLibrary := f.updateByLibrary(t.Context(), w, live, want); byLibrary != nil {
						if err == nil {
							t.Fatalf("step %d: the library says %v", step, byLibrary)
						}
						return
					}
					all++
					if err == nil {
						direct++
						if got, want := show(quick), show(want.GetManagedFields()); got != want {
							t.Fatalf("step %d by %s through %q: %s", step, w.Manager, w.Sub, apart(got, want))
						}
					}
					live = stored(t, want)
					live.SetUID("u")
					now = now.Add(time.Duration(r.Intn(3)) * time.Second)
					if len(live.GetManagedFields()) == 0 {
						return
					}
				}
			})
			if direct*4 < all {
				t.Errorf("only %d of %d writes did not need the library", direct, all)
			}
		})
	}
}

// apart shows two texts where they begin to differ.
func apart(a, b string) string {
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	from := max(0, i-300)
	return fmt.Sprintf("…%s\nthe library: …%s", a[from:min(len(a), i+200)], b[from:min(len(b), i+200)])
}

// next is an object, or live with changes.
func next(t *rapid.T, r *rand.Rand, fill filler, k *kinds.Kind, live kinds.Object) kinds.Object {
	if live == nil {
		obj := k.New()
		fill.Fill(obj)
		obj.SetManagedFields(nil)
		return stored(t, obj)
	}
	obj := live.DeepCopyObject().(kinds.Object)
	obj.SetManagedFields(nil)
	for range r.Intn(4) {
		change(r, fill, reflect.ValueOf(obj).Elem())
	}
	return stored(t, obj)
}
