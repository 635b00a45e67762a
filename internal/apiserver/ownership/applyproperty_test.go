package ownership

import (
	"encoding/json"
	"maps"
	"math/rand"
	"reflect"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

// configs makes configurations from a source of chance.
type configs struct {
	r     *rand.Rand
	fill  filler
	kind  *kinds.Kind
	shape *shape
}

// next configuration of a manager: of what it applied before, of what is there,
// and of something new.
func (c *configs) next(t *rapid.T, before map[string]any, live kinds.Object) map[string]any {
	out := runtime.DeepCopyJSON(before)
	if out == nil {
		out = map[string]any{}
	}
	if live != nil && c.r.Intn(3) > 0 {
		out = c.mix(c.shape, out, c.part(c.shape, asMap(t, live), 3))
	}
	if before == nil || c.r.Intn(3) == 0 {
		obj := c.kind.New()
		c.fill.Fill(obj)
		out = c.mix(c.shape, out, c.part(c.shape, asMap(t, obj), 2))
	}
	if c.r.Intn(3) == 0 {
		out = c.part(c.shape, out, 12)
	}
	if c.r.Intn(5) == 0 {
		c.spoil(out)
	}
	if c.r.Intn(4) > 0 {
		delete(out, "status")
	}
	meta, ok := out["metadata"].(map[string]any)
	if !ok {
		meta = map[string]any{}
		out["metadata"] = meta
	}
	delete(meta, "managedFields")
	meta["name"] = "n"
	out["apiVersion"], out["kind"] = c.kind.GVK.GroupVersion().String(), c.kind.GVK.Kind
	return out
}

// asMap is obj as a client would write it.
func asMap(t *rapid.T, obj kinds.Object) map[string]any {
	data, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := codec.DecodeMap(codec.JSON, data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// part of a value: one of n fields goes, of those that are no keys.
func (c *configs) part(sh *shape, v map[string]any, n int, keep ...keyField) map[string]any {
	out := map[string]any{}
	for _, k := range slices.Sorted(maps.Keys(v)) {
		isKey := slices.ContainsFunc(keep, func(f keyField) bool { return f.name == k && f.def == nil })
		if !isKey && c.r.Intn(n) == 0 {
			continue
		}
		out[k] = v[k]
		below := child(sh, k)
		if below == nil || below.form == atom {
			continue
		}
		switch x := v[k].(type) {
		case map[string]any:
			out[k] = c.part(below, x, n)
		case []any:
			out[k] = c.items(below, x, n)
		}
	}
	return out
}

func (c *configs) items(sh *shape, list []any, n int) []any {
	out := []any{}
	for _, x := range list {
		if c.r.Intn(n) == 0 {
			continue
		}
		if m, ok := x.(map[string]any); ok && sh.elem.form == record {
			x = c.part(sh.elem, m, n, sh.keys...)
		}
		out = append(out, x)
	}
	if c.r.Intn(4) == 0 {
		c.r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	}
	return out
}

func child(sh *shape, name string) *shape {
	if sh.form != record {
		return sh.elem
	}
	if m := sh.field("f:" + name); m != nil {
		return m.shape
	}
	return nil
}

// mix two configurations.
func (c *configs) mix(sh *shape, a, b map[string]any) map[string]any {
	out := maps.Clone(a)
	for _, k := range slices.Sorted(maps.Keys(b)) {
		below := child(sh, k)
		x, y := out[k], b[k]
		xm, okX := x.(map[string]any)
		ym, okY := y.(map[string]any)
		xl, listX := x.([]any)
		yl, listY := y.([]any)
		switch {
		case okX && okY && below != nil && below.form != atom:
			out[k] = c.mix(below, xm, ym)
		case listX && listY && below.form == items:
			out[k] = c.mixLists(below, xl, yl)
		case x == nil || c.r.Intn(2) == 0:
			out[k] = y
		}
	}
	return out
}

// mixLists has the items of both, in some order.
func (c *configs) mixLists(sh *shape, a, b []any) []any {
	out := slices.Clone(a)
	for _, y := range b {
		elem, _ := sh.givenElem(y)
		i := slices.IndexFunc(out, func(x any) bool { e, _ := sh.givenElem(x); return e == elem })
		xm, okX := any(nil), false
		if i >= 0 {
			xm, okX = out[i], true
		}
		if x, ok := xm.(map[string]any); ok && okX && sh.elem.form == record {
			if y, ok := y.(map[string]any); ok {
				out[i] = c.mix(sh.elem, x, y)
				continue
			}
		}
		if i < 0 {
			out = slices.Insert(out, c.r.Intn(len(out)+1), y)
		}
	}
	return out
}

// spoil puts something unusual somewhere.
func (c *configs) spoil(m map[string]any) {
	if len(m) == 0 {
		return
	}
	keys := slices.Sorted(maps.Keys(m))
	k := keys[c.r.Intn(len(keys))]
	switch x := m[k].(type) {
	case map[string]any:
		if len(x) > 0 && c.r.Intn(4) > 0 {
			c.spoil(x)
			return
		}
	case []any:
		if len(x) > 0 && c.r.Intn(4) > 0 {
			if item, ok := x[c.r.Intn(len(x))].(map[string]any); ok {
				c.spoil(item)
				return
			}
		}
	}
	odd := []any{nil, map[string]any{}, []any{}, "", int64(0), false, "0.5", "1000m", int64(1), 1.5, "2020-01-01T00:00:00Z", int64(1) << 40, []any{nil}, []any{"a", "a"}}
	m[k] = odd[c.r.Intn(len(odd))]
}

// The way without the library and the library apply the same: histories of
// configurations and updates by several managers, compared in the object and
// entry by entry. The kinds with the most traffic come each for itself.
func TestApplyIsThatOfTheLibrary(t *testing.T) {
	f := New(kinds.Builtin().All(), kinds.Builtin().ByGVK)
	own := []*kinds.Kind{kinds.Pod, kinds.Deployment, kinds.Service, kinds.ConfigMap, kinds.ClusterRole, kinds.Node, kinds.ServiceAccount, kinds.Job}
	for _, k := range own {
		oneIn := 4
		if k == kinds.Pod {
			oneIn = 6 // in the mean it is a quarter of them
		}
		t.Run(k.String(), func(t *testing.T) { applyHistories(t, f, []*kinds.Kind{k}, oneIn) })
	}
	others := slices.DeleteFunc(slices.Clone(kinds.Builtin().All()), func(k *kinds.Kind) bool { return k.New == nil || slices.Contains(own, k) })
	t.Run("others", func(t *testing.T) { applyHistories(t, f, others, 4) })
}

// applyHistories wants one apply in so many to go without the library.
func applyHistories(t *testing.T, f *Fields, ks []*kinds.Kind, oneIn int) {
	direct, all := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		for range min(5, len(ks)) {
			d, n := applyHistory(t, f, rapid.SampledFrom(ks).Draw(t, "kind"))
			direct, all = direct+d, all+n
		}
	})
	if direct*oneIn < all {
		t.Errorf("only %d of %d applies did not need the library", direct, all)
	}
}

func applyHistory(t *rapid.T, f *Fields, k *kinds.Kind) (direct, all int) {
	r := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
	c := configs{r: r, fill: newFiller(r, r.Intn(8) > 0), kind: k, shape: f.shapes.of(reflect.TypeOf(k.New()).Elem()).shape}
	var live kinds.Object
	subs := []string{"status", "status", "resize", "ephemeralcontainers", "finalize", "approval"}
	applied := map[string]map[string]any{}
	now := time.Unix(1_700_000_000, 123)
	for step := range 7 {
		now = now.Add(time.Duration(r.Intn(3)) * time.Second)
		w := Write{Kind: k, Manager: []string{"m1", "m2", "kubectl", ""}[r.Intn(4)], Now: now}
		if s := subs[r.Intn(len(subs))]; k.Subresources[s].Verbs != nil && k.Subresources[s].New == nil && step > 0 && r.Intn(2) == 0 {
			w.Sub = s
		}
		if live != nil && r.Intn(3) == 0 {
			obj := next(t, r, c.fill, k, live)
			if f.updateByLibrary(t.Context(), w, live, obj) != nil {
				return direct, all
			}
			live = stored(t, obj)
			continue
		}
		config := applied[w.Manager+w.Sub]
		if config == nil || r.Intn(4) > 0 {
			config = c.next(t, config, live)
		}
		d, obj := applyBoth(t, f, w, live, config, r.Intn(3) == 0)
		all++
		if d {
			direct++
		}
		if obj != nil {
			applied[w.Manager+w.Sub] = config
			live = stored(t, obj)
			live.SetUID("u")
		}
	}
	return direct, all
}

// applyBoth ways; the result is nil if the configuration is refused.
func applyBoth(t *rapid.T, f *Fields, w Write, live kinds.Object, config map[string]any, force bool) (direct bool, out kinds.Object) {
	var before string
	if live != nil {
		before = mustJSON(t, live)
	}
	given := mustJSON(t, config)
	quick, err := f.apply(w, live, config)
	if live != nil && before != mustJSON(t, live) || given != mustJSON(t, config) {
		t.Fatal("what was given has changed")
	}
	want, byLibrary := f.applyByLibrary(t.Context(), w, live, &unstructured.Unstructured{Object: runtime.DeepCopyJSON(config)}, force)
	if byLibrary != nil {
		if err == nil {
			t.Fatalf("%s %s: %s: the library says %v", before, w.Manager, given, byLibrary)
		}
		return false, nil
	}
	if err != nil {
		return false, want
	}
	if got, want := show(quick.GetManagedFields()), show(want.GetManagedFields()); got != want {
		t.Fatalf("live %s\nby %s of %q: %s: %s", before, w.Manager, w.Sub, given, apart(got, want))
	}
	if got, want := bare(t, quick), bare(t, want); got != want {
		t.Fatalf("live %s\nby %s of %q: %s: %s", before, w.Manager, w.Sub, given, apart(got, want))
	}
	return true, want
}

// bare is the object without its managed fields, in one way of writing.
func bare(t *rapid.T, obj kinds.Object) string {
	obj = codec.Shallow(obj)
	obj.SetManagedFields([]metav1.ManagedFieldsEntry(nil))
	return mustJSON(t, asMap(t, obj))
}

func mustJSON(t *rapid.T, v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
