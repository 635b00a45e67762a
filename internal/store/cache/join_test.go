package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/mem"
	"knarr.dev/knarr/internal/view"
)

func fooKind() *kinds.Kind {
	return kinds.NewRaw(schema.GroupKind{Group: "example.com", Kind: "Foo"}, "foos", true, nil)
}

// interrupted is a store in which something happens while a kind is read.
type interrupted struct {
	*mem.Store
	before, after func()
}

func (s *interrupted) List(ctx context.Context, prefix string, o store.ListOptions) (store.Page, error) {
	if prefix == kinds.Root {
		return s.Store.List(ctx, prefix, o)
	}
	s.before()
	page, err := s.Store.List(ctx, prefix, o)
	s.after()
	return page, err
}

// TestJoin: whatever happens while a kind is being read, the cache has what
// the store has afterwards, and a watch tells all that came later, once.
func TestJoin(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		foo := fooKind()
		s := &interrupted{Store: mem.New()}
		w := newWorld(t, Config{})
		w.store, w.cache.store = s.Store, s
		ctx := rt.Context()
		names := rapid.SampledFrom([]string{"a/1", "a/2", "b/1"})
		refills := 0
		act := func() {
			for range rapid.IntRange(0, 4).Draw(rt, "acts") {
				ns, name, _ := strings.Cut(names.Draw(rt, "name"), "/")
				key := foo.Key(ns, name)
				var expect int64
				if kv, err := s.Get(ctx, key); err == nil {
					expect = kv.Rev
				}
				var err error
				switch what := rapid.IntRange(0, 9).Draw(rt, "what"); {
				case what < 4:
					_, err = s.Put(ctx, key, fmt.Appendf(nil, `{"metadata":{"namespace":%q,"name":%q,"uid":"u","generation":%d}}`, ns, name, expect), expect)
				case what < 6 && expect > 0:
					_, err = s.Delete(ctx, key, expect)
				case what == 9 && refills < 3:
					refills++
					w.fill()
				default:
					w.pump()
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		s.before = act
		s.after = func() { act(); w.pump() } // what is being read waits for the watch
		act()
		w.fill()
		act()
		v := view.New(nil)
		v.Add(foo)
		w.cache.Feed(v)
		if err := w.cache.Add(ctx, foo); err != nil {
			rt.Fatal(err)
		}
		joined := w.cache.List(foo, "")
		watch, err := w.cache.Watch(foo, "", joined.Rev)
		if err != nil {
			rt.Fatal(err)
		}
		content := contentOf(joined)
		act()
		w.pump()
		if want := storeOf(s.Store, foo); !maps.Equal(contentOf(w.cache.List(foo, "")), want) {
			rt.Fatalf("the cache has %v, the store %v", contentOf(w.cache.List(foo, "")), want)
		}
		events, _, err := watch.fresh()
		if err != nil {
			rt.Fatal(err)
		}
		for _, e := range events {
			key := e.Item.Namespace + "/" + e.Item.Name
			if e.Type == Deleted {
				delete(content, key)
			} else {
				content[key] = e.Item.Rev
			}
		}
		if now := contentOf(w.cache.List(foo, "")); !maps.Equal(content, now) {
			rt.Fatalf("a watcher has %v, the cache %v", content, now)
		}
		if n := v.Snapshot().Len(foo); n != len(content) || v.Rev(foo) < joined.Rev {
			rt.Fatalf("the view has %d at %d, the cache %d at %d", n, v.Rev(foo), len(content), joined.Rev)
		}
	})
}

func contentOf(l List) map[string]int64 {
	out := map[string]int64{}
	for it := range l.All() {
		out[it.Namespace+"/"+it.Name] = it.Rev
	}
	return out
}

func storeOf(s *mem.Store, k *kinds.Kind) map[string]int64 {
	page, err := s.List(context.Background(), k.KeyPrefix(""), store.ListOptions{})
	if err != nil {
		panic(err)
	}
	out := map[string]int64{}
	for _, kv := range page.KVs {
		out[strings.TrimPrefix(kv.Key, k.KeyPrefix(""))] = kv.Rev
	}
	return out
}

func TestRemovedKind(t *testing.T) {
	foo := fooKind()
	w := newWorld(t, Config{})
	if err := w.cache.Add(t.Context(), foo); err != nil { // before the first content
		t.Fatal(err)
	}
	if _, err := w.store.Put(t.Context(), foo.Key("a", "1"), []byte(`{"metadata":{"name":"1"}}`), 0); err != nil {
		t.Fatal(err)
	}
	w.fill()
	if n := w.cache.List(foo, "").Len(); n != 1 {
		t.Fatalf("%d objects", n)
	}
	if err := w.cache.Add(t.Context(), fooKind()); err == nil {
		t.Error("two kinds have one prefix")
	}
	watch, err := w.cache.Watch(foo, "", w.cache.Rev())
	if err != nil {
		t.Fatal(err)
	}
	few, err := w.cache.WatchField(foo, "", w.cache.Rev(), "metadata.name", "1")
	if err != nil {
		t.Fatal(err)
	}
	w.cache.Remove(foo)
	for _, one := range []*Watcher{watch, few} {
		if _, _, err := one.Next(t.Context()); !errors.Is(err, ErrRemoved) {
			t.Errorf("a watch of a kind that is gone: %v", err)
		}
	}
	if _, err := w.cache.Watch(foo, "", w.cache.Rev()); !errors.Is(err, ErrRemoved) {
		t.Errorf("a new watch: %v", err)
	}
	if w.cache.Get(foo, "a", "1") != nil || w.cache.List(foo, "").Len() != 0 {
		t.Error("its objects are still there")
	}
	if err := w.cache.Add(t.Context(), foo); err != nil || w.cache.Get(foo, "a", "1") == nil {
		t.Errorf("the kind cannot come back: %v", err)
	}
}

// TestForms: versions of one custom resource share its items, each with
// encoded forms of its own; one that cannot be converted is the reader's error.
func TestForms(t *testing.T) {
	foo := fooKind()
	version := func(name string) *kinds.Kind {
		return &kinds.Kind{GVK: schema.GroupVersionKind{Group: "example.com", Version: name, Kind: "Foo"}, Namespaced: true, Prefix: foo.Prefix,
			Load: func(_ context.Context, data []byte) (kinds.Object, error) {
				if name == "bad" {
					return nil, errors.New("no conversion")
				}
				raw, err := foo.Load(t.Context(), data)
				if err == nil {
					raw.(*kinds.Raw).APIVersion = "example.com/" + name
					raw.(*kinds.Raw).Kind = "Foo"
				}
				return raw, err
			}}
	}
	v1, v2, bad := version("v1"), version("v2"), version("bad")
	w := newWorld(t, Config{})
	w.fill()
	if err := w.cache.Add(t.Context(), foo); err != nil {
		t.Fatal(err)
	}
	rev, err := w.store.Put(t.Context(), foo.Key("a", "1"), []byte(`{"metadata":{"name":"1","labels":{"x":"y"}}}`), 0)
	if err != nil {
		t.Fatal(err)
	}
	w.pump()
	var kept [][]byte
	for _, k := range []*kinds.Kind{v1, v2, v1, v2} {
		data, err := w.cache.Get(k, "a", "1").Bytes(t.Context(), codec.JSON)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf(`"apiVersion":"example.com/%s"`, k.GVK.Version); !strings.Contains(string(data), want) || !strings.Contains(string(data), fmt.Sprintf(`"resourceVersion":"%d"`, rev)) {
			t.Errorf("%s: %s", k.GVK.Version, data)
		}
		kept = append(kept, data)
	}
	if &kept[0][0] != &kept[2][0] || &kept[1][0] != &kept[3][0] {
		t.Error("a form was encoded twice")
	}
	if _, err := w.cache.Get(bad, "a", "1").Bytes(t.Context(), codec.JSON); err == nil {
		t.Error("what cannot be converted was served")
	}
	watch, err := w.cache.Watch(v2, "a", rev-1)
	if err != nil {
		t.Fatal(err)
	}
	events, _, err := watch.Next(t.Context())
	if err != nil || len(events) != 1 {
		t.Fatalf("%v, %v", events, err)
	}
	if frame, err := events[0].Frame(t.Context(), codec.JSON); err != nil || !strings.Contains(string(frame), "example.com/v2") {
		t.Errorf("%s, %v", frame, err)
	}
	if got := slices.Collect(w.cache.List(v1, "").All()); len(got) != 1 || got[0].Kind != v1 {
		t.Errorf("listed: %v", got)
	}
}
