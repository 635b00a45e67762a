package cache

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/mem"
	"knarr.dev/knarr/internal/view"
)

type world struct {
	t     testing.TB
	store *mem.Store
	cache *Cache
}

func newWorld(t testing.TB, cfg Config) *world {
	t.Helper()
	s := mem.New()
	cfg.Store = s
	cfg.Kinds = kinds.Builtin().All()
	if cfg.Decoded == nil {
		cfg.Decoded = []*kinds.Kind{kinds.Pod}
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, store: s, cache: c}
}

// put writes an object; pump delivers it to the cache.
func (w *world) put(k *kinds.Kind, obj kinds.Object) int64 {
	w.t.Helper()
	data, err := codec.EncodeStored(obj)
	if err != nil {
		w.t.Fatal(err)
	}
	key := k.Key(obj.GetNamespace(), obj.GetName())
	var expect int64
	if kv, err := w.store.Get(context.Background(), key); err == nil {
		expect = kv.Rev
	}
	rev, err := w.store.Put(context.Background(), key, data, expect)
	if err != nil {
		w.t.Fatal(err)
	}
	return rev
}

func (w *world) del(k *kinds.Kind, namespace, name string) int64 {
	w.t.Helper()
	key := k.Key(namespace, name)
	kv, err := w.store.Get(context.Background(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	rev, err := w.store.Delete(context.Background(), key, kv.Rev)
	if err != nil {
		w.t.Fatal(err)
	}
	return rev
}

func (w *world) fill() {
	w.t.Helper()
	if err := w.cache.FillFrom(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) pump() {
	w.t.Helper()
	b, err := w.store.Since(kinds.Root, w.cache.Rev())
	if err != nil {
		w.t.Fatal(err)
	}
	w.cache.Apply(b)
}

func pod(namespace, name string, labels ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "u"}}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		metav1.SetMetaDataLabel(&p.ObjectMeta, k, v)
	}
	return p
}

func names(l List) string {
	var out []string
	for it := range l.All() {
		out = append(out, it.Namespace+"/"+it.Name)
	}
	return strings.Join(out, " ")
}

func TestListAndGet(t *testing.T) {
	w := newWorld(t, Config{})
	w.put(kinds.Pod, pod("b", "1"))
	w.fill()
	before := w.cache.List(kinds.Pod, "")
	w.put(kinds.Pod, pod("a", "2"))
	rev := w.put(kinds.Pod, pod("a", "1"))
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s"}}
	w.put(kinds.Service, svc)
	w.pump()
	if got := names(before); got != "b/1" {
		t.Errorf("a list changed: %s", got)
	}
	l := w.cache.List(kinds.Pod, "")
	if got := names(l); got != "a/1 a/2 b/1" || l.Len() != 3 || l.Rev <= rev {
		t.Errorf("%s, %d at %d", got, l.Len(), l.Rev)
	}
	if l := w.cache.List(kinds.Pod, "a"); names(l) != "a/1 a/2" || l.Len() != 2 {
		t.Errorf("namespace a: %s", names(l))
	}
	after := ""
	for it := range w.cache.List(kinds.Pod, "").After("a/1") {
		after += it.Name
	}
	if after != "21" {
		t.Errorf("after a/1: %s", after)
	}
	if got := names(w.cache.List(kinds.Service, "")); got != "a/s" {
		t.Errorf("a prefix of two parts: %s", got)
	}
	it := w.cache.Get(kinds.Pod, "a", "1")
	if it == nil || it.Rev != rev || it.Object().GetResourceVersion() != fmt.Sprint(rev) {
		t.Errorf("get: %+v", it)
	}
	if w.cache.Get(kinds.Pod, "a", "9") != nil {
		t.Error("found what is not there")
	}
}

func TestBytesAreShared(t *testing.T) {
	w := newWorld(t, Config{})
	w.put(kinds.Pod, pod("a", "1"))
	w.fill()
	it := w.cache.Get(kinds.Pod, "a", "1")
	for _, f := range []codec.Format{codec.JSON, codec.Protobuf} {
		one, err := it.Bytes(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		two, _ := it.Bytes(t.Context(), f)
		if &one[0] != &two[0] {
			t.Error("encoded twice")
		}
		obj, err := codec.Decode(f, one)
		if err != nil {
			t.Fatal(err)
		}
		if obj.(*corev1.Pod).ResourceVersion != fmt.Sprint(it.Rev) {
			t.Errorf("format %d: resourceVersion %q", f, obj.(*corev1.Pod).ResourceVersion)
		}
	}
}

func TestBytesAreBounded(t *testing.T) {
	w := newWorld(t, Config{Bytes: 4096})
	for i := range 100 {
		w.put(kinds.Pod, pod("a", fmt.Sprint(i)))
	}
	w.fill()
	for it := range w.cache.List(kinds.Pod, "").All() {
		if _, err := it.Bytes(t.Context(), codec.JSON); err != nil {
			t.Fatal(err)
		}
	}
	if bytes, n := checkSet(t, w.cache); bytes > 4096 || n == 0 {
		t.Errorf("%d bytes in %d encodings", bytes, n)
	}
}

// checkSet counts what is kept, and that the books are right.
func checkSet(t testing.TB, c *Cache) (bytes int64, n int) {
	t.Helper()
	s := c.encoded
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.ring.next; e != &s.ring; e = e.next {
		if e.next.prev != e || e.slot.Load() != e {
			t.Fatal("the ring is broken")
		}
		bytes += e.size()
		n++
	}
	if bytes != s.bytes || bytes > s.limit {
		t.Fatalf("%d bytes are kept, booked are %d of %d", bytes, s.bytes, s.limit)
	}
	return bytes, n
}

// TestBytesOfThePastAreReleased: what has left the window is not kept.
func TestBytesOfThePastAreReleased(t *testing.T) {
	w := newWorld(t, Config{Window: 10})
	w.fill()
	watcher, err := w.cache.Watch(kinds.Pod, "", w.cache.Rev())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		w.put(kinds.Pod, pod("a", fmt.Sprint(i%3)))
		if i%7 == 0 {
			w.del(kinds.Pod, "a", fmt.Sprint(i%3))
		}
		w.pump()
		events, _, err := watcher.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			for _, f := range []codec.Format{codec.JSON, codec.Protobuf} {
				if _, err := e.Frame(t.Context(), f); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if _, n := checkSet(t, w.cache); n > 2*(10+3) {
		t.Errorf("%d encodings are kept, for 3 objects and 10 events in 2 formats", n)
	}
}

// TestFrameServesBytes: the object's bytes are those inside of the frame.
func TestFrameServesBytes(t *testing.T) {
	w := newWorld(t, Config{})
	w.fill()
	for i, f := range []codec.Format{codec.JSON, codec.Protobuf} {
		for _, bytesFirst := range []bool{true, false} {
			name := fmt.Sprint(i, bytesFirst)
			w.put(kinds.ConfigMap, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}, Data: map[string]string{"k": "v"}})
			after := w.cache.Rev()
			w.pump()
			watcher, err := w.cache.Watch(kinds.ConfigMap, "a", after)
			if err != nil {
				t.Fatal(err)
			}
			events, _, err := watcher.Next(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			it := w.cache.Get(kinds.ConfigMap, "a", name)
			want, err := codec.Encode(f, it.Object())
			if err != nil {
				t.Fatal(err)
			}
			if bytesFirst {
				if _, err := it.Bytes(t.Context(), f); err != nil {
					t.Fatal(err)
				}
			}
			frame, err := events[0].Frame(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := it.Bytes(t.Context(), f)
			if string(got) != string(want) || !strings.Contains(string(frame), string(got)) {
				t.Errorf("%s: %q in %q, want %q", name, got, frame, want)
			}
			if again, _ := it.Bytes(t.Context(), f); &again[0] != &got[0] {
				t.Error("the frame's bytes were not kept")
			}
		}
	}
	checkSet(t, w.cache)
}

func collect(t *testing.T, w *Watcher) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	events, _, err := w.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range events {
		out = append(out, string(e.Type)+" "+e.Item.Name)
	}
	return strings.Join(out, ", ")
}

func TestWatch(t *testing.T) {
	w := newWorld(t, Config{})
	w.put(kinds.Pod, pod("a", "1"))
	w.fill()
	start := w.cache.Rev()
	all, err := w.cache.Watch(kinds.Pod, "", start)
	if err != nil {
		t.Fatal(err)
	}
	inA, _ := w.cache.Watch(kinds.Pod, "a", start)
	w.put(kinds.Pod, pod("b", "2"))
	w.put(kinds.Pod, pod("a", "1", "x=y"))
	rev := w.del(kinds.Pod, "a", "1")
	w.pump()
	if got := collect(t, all); got != "ADDED 2, MODIFIED 1, DELETED 1" {
		t.Error(got)
	}
	if got := collect(t, inA); got != "MODIFIED 1, DELETED 1" {
		t.Error(got)
	}
	late, err := w.cache.Watch(kinds.Pod, "", rev-1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	events, now, err := late.Next(ctx)
	if err != nil || len(events) != 1 || now != rev || late.Progress() != rev {
		t.Fatalf("%v at %d: %v", events, now, err)
	}
	if rv := events[0].Item.Object().GetResourceVersion(); rv != fmt.Sprint(rev) || events[0].Prev.Object().GetResourceVersion() == rv {
		t.Errorf("a deletion's object has resourceVersion %s, want %d", rv, rev)
	}
}

func TestWatchGoneAndSlow(t *testing.T) {
	w := newWorld(t, Config{Window: 4})
	w.put(kinds.Pod, pod("a", "0"))
	w.fill()
	start := w.cache.Rev()
	if _, err := w.cache.Watch(kinds.Pod, "", start-1); !errors.Is(err, ErrGone) {
		t.Errorf("before the first list: %v", err)
	}
	slow, err := w.cache.Watch(kinds.Pod, "", start)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		w.put(kinds.Pod, pod("a", fmt.Sprint(i)))
	}
	w.pump()
	if _, _, err := slow.Next(context.Background()); !errors.Is(err, ErrSlow) {
		t.Errorf("overtaken: %v", err)
	}
	if _, err := w.cache.Watch(kinds.Pod, "", start); !errors.Is(err, ErrGone) {
		t.Errorf("too old: %v", err)
	}
	if _, err := w.cache.Watch(kinds.Pod, "", w.cache.Rev()-4); err != nil {
		t.Errorf("just inside: %v", err)
	}
	// A quiet kind stays watchable from the first list on.
	if _, err := w.cache.Watch(kinds.Service, "", start); err != nil {
		t.Errorf("quiet kind: %v", err)
	}
}

func TestWatchWakes(t *testing.T) {
	w := newWorld(t, Config{})
	w.fill()
	watcher, err := w.cache.Watch(kinds.Pod, "", w.cache.Rev())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan string)
	go func() { done <- collect(t, watcher) }()
	w.put(kinds.Pod, pod("a", "1"))
	w.pump()
	if got := <-done; got != "ADDED 1" {
		t.Error(got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := watcher.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestFrames(t *testing.T) {
	w := newWorld(t, Config{})
	w.fill()
	watcher, _ := w.cache.Watch(kinds.Pod, "", w.cache.Rev())
	w.put(kinds.Pod, pod("a", "1"))
	w.pump()
	events, _, err := watcher.Next(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	frame, err := events[0].Frame(t.Context(), codec.JSON)
	if err != nil {
		t.Fatal(err)
	}
	var j struct {
		Type   string
		Object corev1.Pod
	}
	if err := json.Unmarshal(frame, &j); err != nil || j.Type != "ADDED" || j.Object.Name != "1" || frame[len(frame)-1] != '\n' {
		t.Errorf("%s: %v", frame, err)
	}
	again, _ := events[0].Frame(t.Context(), codec.JSON)
	if &again[0] != &frame[0] {
		t.Error("framed twice")
	}
	frame, err = events[0].Frame(t.Context(), codec.Protobuf)
	if err != nil {
		t.Fatal(err)
	}
	var e metav1.WatchEvent
	if n := binary.BigEndian.Uint32(frame); int(n) != len(frame)-4 {
		t.Errorf("length %d of %d", n, len(frame))
	}
	if err := e.Unmarshal(frame[4:]); err != nil || e.Type != "ADDED" {
		t.Fatalf("%+v %v", e, err)
	}
	if obj, err := codec.Decode(codec.Protobuf, e.Object.Raw); err != nil || obj.(*corev1.Pod).Name != "1" {
		t.Errorf("%v %v", obj, err)
	}
}

func TestFeed(t *testing.T) {
	w := newWorld(t, Config{})
	w.put(kinds.Pod, pod("a", "1"))
	w.fill()
	v := view.New([]*kinds.Kind{kinds.Pod})
	w.cache.Feed(v)
	if err := v.WaitSynced(context.Background()); err != nil {
		t.Fatal(err)
	}
	rev := w.put(kinds.Pod, pod("a", "2"))
	w.del(kinds.Pod, "a", "1")
	w.pump()
	s := v.Snapshot()
	if s.Len(kinds.Pod) != 1 || v.Rev(kinds.Pod) <= rev {
		t.Errorf("%d pods at %d", s.Len(kinds.Pod), v.Rev(kinds.Pod))
	}
	if got := view.Get[*corev1.Pod](s, kinds.Pod, "a", "2"); got != w.cache.Get(kinds.Pod, "a", "2").Object() {
		t.Error("the view has a copy of its own")
	}
}

// TestRefill: after the store has forgotten what happened in between, the
// differences arrive as events.
func TestRefill(t *testing.T) {
	w := newWorld(t, Config{})
	w.put(kinds.Pod, pod("a", "stays"))
	w.put(kinds.Pod, pod("a", "goes"))
	w.fill()
	watcher, _ := w.cache.Watch(kinds.Pod, "", w.cache.Rev())
	w.del(kinds.Pod, "a", "goes")
	w.put(kinds.Pod, pod("a", "comes"))
	w.fill()
	if got := collect(t, watcher); got != "DELETED goes, ADDED comes" {
		t.Error(got)
	}
	if got := names(w.cache.List(kinds.Pod, "")); got != "a/comes a/stays" {
		t.Error(got)
	}
}

func TestUndecodable(t *testing.T) {
	w := newWorld(t, Config{})
	if _, err := w.store.Put(context.Background(), kinds.Pod.Key("a", "bad"), []byte("k8s\x00garbage"), 0); err != nil {
		t.Fatal(err)
	}
	w.put(kinds.Pod, pod("a", "good"))
	w.fill()
	if got := names(w.cache.List(kinds.Pod, "")); got != "a/good" {
		t.Error(got)
	}
}

func TestEventsUnderTwoGroups(t *testing.T) {
	w := newWorld(t, Config{})
	w.fill()
	watcher, err := w.cache.Watch(kinds.EventsEvent, "", w.cache.Rev())
	if err != nil {
		t.Fatal(err)
	}
	rev := w.put(kinds.Event, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "e"}, Reason: "R"})
	w.pump()
	it := w.cache.Get(kinds.EventsEvent, "a", "e")
	if it == nil || it.Kind != kinds.EventsEvent || it.Object().GetResourceVersion() != fmt.Sprint(rev) {
		t.Fatalf("%+v", it)
	}
	data, err := it.Bytes(t.Context(), codec.JSON)
	if err != nil || !strings.Contains(string(data), "events.k8s.io/v1") {
		t.Errorf("%s %v", data, err)
	}
	if got := collect(t, watcher); got != "ADDED e" {
		t.Error(got)
	}
	other, err := w.cache.Watch(kinds.EventsEvent, "", rev-1)
	if err != nil {
		t.Fatal(err)
	}
	events, _, err := other.Next(context.Background())
	if err != nil || events[0].Item != it {
		t.Errorf("the two forms are made more than once: %v", err)
	}
	var list *Item
	for list = range w.cache.List(kinds.EventsEvent, "").All() {
		break
	}
	if again, _ := list.Bytes(t.Context(), codec.JSON); &again[0] != &data[0] {
		t.Error("encoded twice")
	}
}

func TestFields(t *testing.T) {
	w := newWorld(t, Config{})
	p := pod("a", "1")
	p.Spec.NodeName = "n1"
	w.put(kinds.Pod, p)
	w.fill()
	it := w.cache.Get(kinds.Pod, "a", "1")
	for sel, want := range map[string]bool{
		"spec.nodeName=n1": true, "spec.nodeName=n2": false, "spec.nodeName!=n2": true,
		"metadata.name=1,metadata.namespace=a": true, "metadata.name!=1": false,
	} {
		if got, err := it.Matches(t.Context(), nil, fields.ParseSelectorOrDie(sel)); got != want || err != nil {
			t.Errorf("%s: %v", sel, got)
		}
	}
}

func TestRunFollowsTheStore(t *testing.T) {
	w := newWorld(t, Config{})
	w.put(kinds.Pod, pod("a", "1"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- w.cache.Run(ctx) }()
	<-w.cache.Ready()
	rev := w.put(kinds.Pod, pod("a", "2"))
	if err := w.cache.WaitRev(ctx, rev); err != nil {
		t.Fatal(err)
	}
	if got := names(w.cache.List(kinds.Pod, "")); got != "a/1 a/2" {
		t.Error(got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

var _ store.Store = (*mem.Store)(nil)
