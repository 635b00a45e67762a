package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/mem"
	"knarr.dev/knarr/internal/view"
)

// follower rebuilds a kind's content from what a watcher tells.
type follower struct {
	w     *Watcher
	state map[string]int64 // revision by namespace/name
	last  int64
}

// drain takes everything that is there. It fails on what no client could
// understand.
func (f *follower) drain(t *rapid.T) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		events, rev, err := f.w.Next(ctx)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range events {
			key := e.Item.Namespace + "/" + e.Item.Name
			_, have := f.state[key]
			if have == (e.Type == Added) || e.Rev < f.last || e.Item.Rev != e.Rev || e.Rev > rev {
				t.Fatalf("%s of %s at %d (item %d, watcher %d) after %d; known: %v", e.Type, key, e.Rev, e.Item.Rev, rev, f.last, have)
			}
			if (e.Prev == nil) != (e.Type == Added) || e.Prev != nil && e.Prev.Rev != f.state[key] {
				t.Fatalf("%s of %s: wrong previous item", e.Type, key)
			}
			f.last, f.state[key] = e.Rev, e.Rev
			if e.Type == Deleted {
				delete(f.state, key)
			}
		}
	}
}

func stateOf(l List) map[string]int64 {
	out := map[string]int64{}
	for it := range l.All() {
		out[it.Namespace+"/"+it.Name] = it.Rev
	}
	return out
}

// TestModel: whatever is written, delivered in whatever batches, or found by
// reading all again after an outage: lists, watchers and views agree with the
// store.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := mem.New()
		c, err := New(Config{Store: s, Kinds: kinds.Builtin().All(), Decoded: []*kinds.Kind{kinds.Pod}, Window: rapid.IntRange(1, 20).Draw(t, "window"), Bytes: 2000})
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		if err := c.FillFrom(ctx); err != nil {
			t.Fatal(err)
		}
		v := view.New([]*kinds.Kind{kinds.Pod})
		c.Feed(v)
		var followers []*follower
		uid := 0
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 8).Draw(t, "step") {
			case 0:
				b, err := s.Since(kinds.Root, c.Rev())
				if err != nil {
					t.Fatal(err)
				}
				c.Apply(b)
			case 1:
				if err := c.FillFrom(ctx); err != nil {
					t.Fatal(err)
				}
			case 2:
				l := c.List(kinds.Pod, "")
				w, err := c.Watch(kinds.Pod, "", l.Rev)
				if err != nil {
					t.Fatal(err)
				}
				followers = append(followers, &follower{w: w, state: stateOf(l), last: l.Rev})
			case 3:
				name := rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "gone")
				if kv, err := s.Get(ctx, kinds.Pod.Key("a", name)); err == nil {
					if _, err := s.Delete(ctx, kv.Key, kv.Rev); err != nil {
						t.Fatal(err)
					}
				}
			default:
				name := rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "name")
				kv, err := s.Get(ctx, kinds.Pod.Key("a", name))
				p := pod("a", name)
				if err != nil {
					uid++
				}
				p.UID = types.UID(fmt.Sprint(uid))
				if err == nil {
					old, err := codec.DecodeStored(kinds.Pod, kv.Value, kv.Rev)
					if err != nil {
						t.Fatal(err)
					}
					p.UID = old.GetUID()
				}
				data, err := codec.EncodeStored(p)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Put(ctx, kinds.Pod.Key("a", name), data, kv.Rev); err != nil {
					t.Fatal(err)
				}
			}
			followers = slices.DeleteFunc(followers, func(f *follower) bool { return check(t, c, f) })
		}
		if err := c.FillFrom(ctx); err != nil {
			t.Fatal(err)
		}
		page, err := s.List(ctx, kinds.Root, store.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]int64{}
		for _, kv := range page.KVs {
			want[strings.TrimPrefix(kv.Key, kinds.Pod.KeyPrefix(""))] = kv.Rev
		}
		if got := stateOf(c.List(kinds.Pod, "")); !maps.Equal(got, want) || c.Rev() != page.Rev {
			t.Fatalf("the cache holds %v at %d, the store %v at %d", got, c.Rev(), want, page.Rev)
		}
		viewed := map[string]int64{}
		for p := range view.List[*corev1.Pod](v.Snapshot(), kinds.Pod, "") {
			viewed[p.Namespace+"/"+p.Name] = c.Get(kinds.Pod, p.Namespace, p.Name).Rev
			if c.Get(kinds.Pod, p.Namespace, p.Name).Object() != p {
				t.Fatalf("the view has another %s", p.Name)
			}
		}
		if !maps.Equal(viewed, want) || v.Rev(kinds.Pod) != page.Rev {
			t.Fatalf("the view holds %v at %d, the store %v at %d", viewed, v.Rev(kinds.Pod), want, page.Rev)
		}
	})
}

// check compares a follower with the cache; true if it was too slow.
func check(t *rapid.T, c *Cache, f *follower) (slow bool) {
	if rapid.Bool().Draw(t, "wait") {
		return false
	}
	if err := f.drain(t); errors.Is(err, ErrSlow) {
		return true
	} else if err != nil {
		t.Fatal(err)
	}
	if got, want := f.state, stateOf(c.List(kinds.Pod, "")); !maps.Equal(got, want) {
		t.Fatalf("a watcher knows of %v, there are %v", got, want)
	}
	if f.w.Progress() != c.Rev() {
		t.Fatalf("a watcher that knows everything is at %d, the cache at %d", f.w.Progress(), c.Rev())
	}
	return false
}

func onNode(name, node string) *corev1.Pod {
	p := pod("a", name)
	p.Spec.NodeName = node
	return p
}

// nextNow takes what is there without waiting.
func nextNow(t *testing.T, w *Watcher) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	events, _, err := w.Next(ctx)
	if err != nil && !errors.Is(err, context.Canceled) {
		return err.Error()
	}
	var out []string
	for _, e := range events {
		out = append(out, string(e.Type)+" "+e.Item.Name)
	}
	return strings.Join(out, ", ")
}

func TestWatchField(t *testing.T) {
	w := newWorld(t, Config{Window: 6})
	w.put(kinds.Pod, onNode("before", "n1"))
	w.fill()
	start := w.cache.Rev()
	w.put(kinds.Pod, onNode("1", ""))
	w.pump()
	n1, err := w.cache.WatchField(kinds.Pod, "", start, "spec.nodeName", "n1")
	if err != nil {
		t.Fatal(err)
	}
	n2, _ := w.cache.WatchField(kinds.Pod, "a", start, "spec.nodeName", "n2")
	unbound, _ := w.cache.WatchField(kinds.Pod, "", start, "spec.nodeName", "")
	byName, _ := w.cache.WatchField(kinds.Pod, "a", start, "metadata.name", "1")
	w.put(kinds.Pod, onNode("1", "n1")) // comes from ""
	w.put(kinds.Pod, onNode("2", "n2"))
	w.pump()
	for _, tc := range []struct {
		name string
		w    *Watcher
		want string
	}{
		{"n1", n1, "MODIFIED 1"},
		{"n2", n2, "ADDED 2"},
		{"unbound, from the window and after", unbound, "ADDED 1, MODIFIED 1"},
		{"by name", byName, "ADDED 1, MODIFIED 1"},
		{"n1 again", n1, ""},
	} {
		if got := nextNow(t, tc.w); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	// A quiet node is not overtaken by a busy one.
	for range 20 {
		w.put(kinds.Pod, onNode("2", "n2"))
	}
	w.pump()
	w.put(kinds.Pod, onNode("3", "n1"))
	w.pump()
	if got := nextNow(t, n1); got != "ADDED 3" {
		t.Errorf("quiet: %q", got)
	}
	if got := nextNow(t, n2); got != ErrSlow.Error() {
		t.Errorf("overtaken: %q", got)
	}
	if n1.Progress() != w.cache.Rev() {
		t.Errorf("quiet and at %d of %d", n1.Progress(), w.cache.Rev())
	}
	for _, watcher := range []*Watcher{n1, n2, unbound, byName} {
		watcher.Stop()
		watcher.Stop()
	}
	if n := len(w.cache.table(kinds.Pod).groups); n != 0 {
		t.Errorf("%d fields are still watched", n)
	}
	if _, err := w.cache.WatchField(kinds.Pod, "", start, "spec.nodeName", "n1"); !errors.Is(err, ErrGone) {
		t.Errorf("too old: %v", err)
	}
}

// TestWatchFieldIsAFilter: it gives what filtering all events would.
func TestWatchFieldIsAFilter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, Config{})
		w.fill()
		node := rapid.SampledFrom([]string{"", "n1", "n2"})
		type pair struct {
			all, field *Watcher
			value      string
		}
		var pairs []pair
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			switch rapid.IntRange(0, 4).Draw(rt, "step") {
			case 0:
				p := pair{value: node.Draw(rt, "watched")}
				p.all, _ = w.cache.Watch(kinds.Pod, "", w.cache.Rev())
				p.field, _ = w.cache.WatchField(kinds.Pod, "", w.cache.Rev(), "spec.nodeName", p.value)
				pairs = append(pairs, p)
			case 1:
				if len(pairs) > 0 {
					pairs[0].field.Stop()
					pairs = pairs[1:]
				}
			default:
				w.put(kinds.Pod, onNode(rapid.SampledFrom([]string{"1", "2"}).Draw(rt, "name"), node.Draw(rt, "node")))
				w.pump()
			}
			for _, p := range pairs {
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				all, _, _ := p.all.Next(ctx)
				all = slices.DeleteFunc(all, func(e *Event) bool { return !e.concerns("spec.nodeName", p.value) })
				got, _, _ := p.field.Next(ctx)
				if !slices.Equal(got, all) {
					rt.Fatalf("%d events of %q, want %d", len(got), p.value, len(all))
				}
			}
		}
	})
}

func TestWatchFieldOfAnotherForm(t *testing.T) {
	w := newWorld(t, Config{})
	w.fill()
	watcher, err := w.cache.WatchField(kinds.EventsEvent, "", w.cache.Rev(), "regarding.name", "p")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"q", "p"} {
		e := &corev1.Event{InvolvedObject: corev1.ObjectReference{Name: name}}
		e.Namespace, e.Name = "a", "about-"+name
		w.put(kinds.Event, e)
	}
	w.pump()
	if got := nextNow(t, watcher); got != "ADDED about-p" {
		t.Error(got)
	}
	watcher.Stop()
}

// TestWatchFromTheFuture: a client may know more than this server.
func TestWatchFromTheFuture(t *testing.T) {
	w := newWorld(t, Config{})
	w.fill()
	watcher, err := w.cache.Watch(kinds.Pod, "", w.cache.Rev()+1)
	if err != nil {
		t.Fatal(err)
	}
	w.put(kinds.Pod, pod("a", "known"))
	w.put(kinds.Pod, pod("a", "new"))
	w.pump()
	if got := nextNow(t, watcher); got != "ADDED new" {
		t.Error(got)
	}
}

func TestNotReady(t *testing.T) {
	w := newWorld(t, Config{})
	if _, err := w.cache.Watch(kinds.Pod, "", 5); !errors.Is(err, ErrGone) {
		t.Errorf("watched an empty cache: %v", err)
	}
	v := view.New([]*kinds.Kind{kinds.Pod})
	w.cache.Feed(v)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := v.WaitSynced(ctx); err == nil {
		t.Error("a view is synced before the cache is filled")
	}
	w.put(kinds.Pod, pod("a", "1"))
	w.fill()
	if err := v.WaitSynced(context.Background()); err != nil || v.Snapshot().Len(kinds.Pod) != 1 {
		t.Errorf("%v, %d pods", err, v.Snapshot().Len(kinds.Pod))
	}
}

// TestWindowAges: an idle cache lets old objects go with the store's progress.
func TestWindowAges(t *testing.T) {
	now := time.Unix(1000, 0)
	w := newWorld(t, Config{Now: func() time.Time { return now }})
	w.fill()
	start := w.cache.Rev()
	w.put(kinds.Pod, pod("a", "1"))
	w.pump()
	table := w.cache.table(kinds.Pod)
	now = now.Add(75 * time.Second)
	w.cache.Apply(store.Batch{Rev: w.cache.Rev()})
	if _, err := w.cache.Watch(kinds.Pod, "", start); err != nil {
		t.Errorf("after 75 s: %v", err)
	}
	now = now.Add(windowAge)
	w.cache.Apply(store.Batch{Rev: w.cache.Rev() + 1})
	if _, err := w.cache.Watch(kinds.Pod, "", start); !errors.Is(err, ErrGone) || len(table.events) != 0 || table.bytes != 0 {
		t.Errorf("much later: %v, %d events", err, len(table.events))
	}
	if _, err := w.cache.Watch(kinds.Pod, "", w.cache.Rev()); err != nil {
		t.Errorf("now: %v", err)
	}
}

// asked is a store that says how far it is only when asked.
type asked struct {
	*mem.Store
	cache *Cache
	times atomic.Int32
}

func (a *asked) RequestProgress(ctx context.Context) error {
	a.times.Add(1)
	rev, err := a.Revision(ctx)
	a.cache.Apply(store.Batch{Rev: rev})
	return err
}

func TestWaitRevAsksTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &asked{Store: mem.New()}
		c, err := New(Config{Store: s, Kinds: kinds.Builtin().All()})
		if err != nil {
			t.Fatal(err)
		}
		s.cache = c
		if err := c.FillFrom(t.Context()); err != nil {
			t.Fatal(err)
		}
		rev, err := s.Put(t.Context(), "/elsewhere", nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if err := c.WaitRev(t.Context(), rev); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := s.times.Load(); n != 1 {
			t.Errorf("20 readers asked %d times", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.WaitRev(ctx, rev+1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a revision that does not come: %v", err)
		}
		if n := s.times.Load(); n < 10 || n > 100 {
			t.Errorf("asked %d times in a minute", n)
		}
	})
}

// fragile breaks watches, says that history is lost, or has been restored.
type fragile struct {
	*mem.Store
	mu   sync.Mutex
	next []error
}

func (f *fragile) take() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.next) == 0 {
		return nil
	}
	err := f.next[0]
	f.next = f.next[1:]
	return err
}

func (f *fragile) Watch(ctx context.Context, prefix string, after int64, recv func(store.Batch) error) error {
	if err := f.take(); err != nil {
		return err
	}
	return f.Store.Watch(ctx, prefix, after, recv)
}

func (f *fragile) Revision(ctx context.Context) (int64, error) {
	rev, err := f.Store.Revision(ctx)
	if errors.Is(f.peek(), ErrRewound) {
		return rev - 1, nil
	}
	return rev, err
}

func (f *fragile) peek() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.next) == 0 {
		return nil
	}
	return f.next[0]
}

func TestRunRidesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		s := &fragile{Store: mem.New(), next: []error{errors.New("away"), store.ErrCompacted, errors.New("away again")}}
		c, err := New(Config{Store: s, Kinds: kinds.Builtin().All(), Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		<-c.Ready()
		rev, err := s.Put(ctx, "/registry/x", nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.WaitRev(ctx, rev); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := strings.Count(log.String(), "broke off"); n != 3 {
			t.Errorf("%d complaints:\n%s", n, log.String())
		}
	})
}

func TestRunNoticesARestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fragile{Store: mem.New(), next: []error{errors.New("away"), ErrRewound}}
		c, err := New(Config{Store: s, Kinds: kinds.Builtin().All()})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Run(t.Context()); !errors.Is(err, ErrRewound) {
			t.Errorf("got %v", err)
		}
	})
}

// TestRecreatedInAnOutage: who has the name now is another object.
func TestRecreatedInAnOutage(t *testing.T) {
	w := newWorld(t, Config{})
	w.put(kinds.Pod, pod("a", "1"))
	w.fill()
	v := view.New([]*kinds.Kind{kinds.Pod})
	w.cache.Feed(v)
	watcher, err := w.cache.Watch(kinds.Pod, "", w.cache.Rev())
	if err != nil {
		t.Fatal(err)
	}
	w.del(kinds.Pod, "a", "1")
	p := pod("a", "1")
	p.UID = "another"
	w.put(kinds.Pod, p)
	w.fill()
	if got := nextNow(t, watcher); got != "DELETED 1, ADDED 1" {
		t.Error(got)
	}
	if got := view.Get[*corev1.Pod](v.Snapshot(), kinds.Pod, "a", "1"); got.UID != "another" {
		t.Errorf("the view has %s", got.UID)
	}
}

// TestUndecodableLater: an object that becomes unreadable stays what it was,
// and does not keep the others from coming.
func TestUndecodableLater(t *testing.T) {
	w := newWorld(t, Config{})
	rev := w.put(kinds.Pod, pod("a", "1"))
	w.fill()
	if _, err := w.store.Put(context.Background(), kinds.Pod.Key("a", "1"), []byte("garbage"), rev); err != nil {
		t.Fatal(err)
	}
	w.put(kinds.Pod, pod("a", "2"))
	w.pump()
	if got := names(w.cache.List(kinds.Pod, "")); got != "a/1 a/2" || w.cache.Get(kinds.Pod, "a", "1").Rev != rev {
		t.Error(got)
	}
	w.del(kinds.Pod, "a", "1")
	w.pump()
	if got := names(w.cache.List(kinds.Pod, "")); got != "a/2" {
		t.Error(got)
	}
}
