package reconciletest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Thing is an object of a world.
type Thing struct {
	Kind   *kinds.Kind
	Object kinds.Object
}

// Properties that the plans of controllers have, whatever there is.
type Properties struct {
	// Make the controllers anew; they read the time of w.
	Make func(w *World) []reconcile.Controller
	// Draw what there is.
	Draw func(t *rapid.T) []Thing
	// Mine tells whether they may write an object; all others stay as they are.
	Mine func(ref kinds.Ref) bool
	// Most is how many actions a pass may have for so many things.
	Most func(things int) int
	// Horizon is how much time passes.
	Horizon time.Duration
}

// Check that they come to rest, and stay there after a restart; that it does not
// matter in which order things came and were planned; that they write only what
// is theirs; and that no pass does more than it may.
func (p Properties) Check(t *rapid.T) {
	things := p.Draw(t)
	for i, x := range things {
		if x.Object.GetUID() == "" {
			x.Object.SetUID(types.UID(fmt.Sprintf("thing-%d", i)))
		}
	}
	a := p.end(t, things, 1)
	b := p.end(t, rapid.Permutation(slices.Clone(things)).Draw(t, "order"), rapid.Uint64().Draw(t, "seed"))
	for _, key := range slices.Sorted(maps.Keys(a)) {
		if b[key] != a[key] {
			t.Fatalf("the order matters to %s:\n%s\n%s", key, a[key], b[key])
		}
	}
	if len(a) != len(b) {
		t.Fatalf("the order matters: %d things, and %d", len(a), len(b))
	}
}

// end of a world with these things: what there is once all is at rest.
func (p Properties) end(t *rapid.T, things []Thing, seed uint64) map[string]string {
	ks := slices.Clone(reconcile.Kinds(p.Make(New(nil))))
	for _, x := range things {
		if !slices.Contains(ks, x.Kind) {
			ks = append(ks, x.Kind)
		}
	}
	w := New(ks, view.SharedOf(ks)...)
	w.prompt = true
	for _, x := range things {
		w.Put(x.Kind, x.Object)
	}
	before, mine := w.texts(ks), map[string]bool{}
	for _, x := range things {
		ref := kinds.RefTo(x.Kind, x.Object)
		mine[ref.String()] = p.Mine(ref)
	}
	w.Hook = func(verb plan.Verb, ref kinds.Ref, obj runtime.Object) error {
		if o, ok := obj.(kinds.Object); ok && verb == plan.Create {
			ref.Name = o.GetName()
		}
		if !p.Mine(ref) {
			t.Fatalf("%s of %s, which is not theirs", verb, ref)
		}
		return nil
	}
	const most = 2000 // far more passes than any of them needs
	if _, err := w.Drive(seed, most, p.Horizon, p.bounded(t, w, len(things))...); err != nil {
		t.Fatal(err)
	}
	after := w.texts(ks)
	for key, text := range before {
		if after[key] != text && !mine[key] {
			t.Fatalf("%s has changed, and is not theirs:\n%s\n%s", key, text, after[key])
		}
	}
	n := len(w.Writes)
	if _, err := w.Drive(seed, most, 0, p.bounded(t, w, len(things))...); err != nil {
		t.Fatal(err)
	}
	if len(w.Writes) > n {
		t.Fatalf("at rest, but they write %v", w.Writes[n:])
	}
	return after
}

// bounded controllers fail where a pass does too much.
func (p Properties) bounded(t *rapid.T, w *World, things int) []reconcile.Controller {
	cs := slices.Clone(p.Make(w))
	for i, c := range cs {
		cs[i].Plan = func(in reconcile.Input) plan.Result {
			res := c.Plan(in)
			if n, most := len(res.Actions), p.Most(things); n > most {
				t.Fatalf("%s does %d things in a pass, at most %d of %d are in order", c.Name, n, most, things)
			}
			return res
		}
	}
	return cs
}

// counted are what the world gives in the order of writes: UIDs and revisions.
var counted = regexp.MustCompile(`"uid":"uid-[0-9]+"|"resourceVersion":"[0-9]+"`)

// texts of all objects, without what depends on the order of writes.
func (w *World) texts(ks []*kinds.Kind) map[string]string {
	out := map[string]string{}
	for _, k := range ks {
		for _, o := range w.Objects(k) {
			o = o.DeepCopyObject().(kinds.Object)
			o.SetGeneration(0)
			var b bytes.Buffer
			if err := json.NewEncoder(&b).Encode(o); err != nil {
				panic("reconciletest: " + err.Error()) // API objects always marshal
			}
			out[kinds.RefTo(k, o).String()] = counted.ReplaceAllString(b.String(), "")
		}
	}
	return out
}
