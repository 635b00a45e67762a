// Package storetest is the suite that every store.Store passes.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/store"
)

// Compacter is the further method that the suite needs. Compact forgets the
// history before rev; ErrCompacted if it is forgotten already.
type Compacter interface {
	store.Store
	Compact(ctx context.Context, rev int64) error
}

// Run runs the suite; open returns an empty store that the test owns.
func Run(t *testing.T, open func(testing.TB) Compacter) {
	s := open(t)
	for name, fn := range map[string]func(*testing.T, Compacter, string){
		"Put": testPut, "Delete": testDelete, "List": testList, "Past": testPast, "Watch": testWatch,
		"WatchPast": testWatchPast, "WatchFuture": testWatchFuture, "WatchRecvError": testWatchRecvError, "Counter": testCounter,
		"WatchConcurrent": testWatchConcurrent, "Model": testModel, "Values": testValues, "Pages": testPages,
		"Progress": testProgress, "Lean": testLean, "History": testHistory,
	} {
		// One store, a prefix each: opening etcd costs more than the tests.
		t.Run(name, func(t *testing.T) { fn(t, s, "/registry/"+name+"/") })
	}
	t.Run("Compaction", func(t *testing.T) { testCompaction(t, s, "/registry/Compaction/") })
}

// patience of a test before it takes a store for stuck: on a disk that syncs
// ten times a second, hundreds of writes one after the other take a while.
const patience = 3 * time.Minute

func ctxOf(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func put(t testing.TB, s store.Store, key, value string, expect int64) int64 {
	t.Helper()
	rev, err := s.Put(ctxOf(t), key, []byte(value), expect)
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return rev
}

func testPut(t *testing.T, s Compacter, p string) {
	ctx := ctxOf(t)
	if _, err := s.Get(ctx, p+"a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("get of nothing: %v", err)
	}
	r1 := put(t, s, p+"a", "1", 0)
	var conflict *store.Conflict
	if _, err := s.Put(ctx, p+"a", []byte("x"), 0); !errors.As(err, &conflict) || conflict.Current.Rev != r1 || string(conflict.Current.Value) != "1" {
		t.Errorf("create of something that is there: %v", err)
	}
	r2 := put(t, s, p+"a", "2", r1)
	if _, err := s.Put(ctx, p+"a", []byte("x"), r1); !errors.As(err, &conflict) || conflict.Current.Rev != r2 {
		t.Errorf("update of an old revision: %v", err)
	}
	if _, err := s.Put(ctx, p+"b", []byte("x"), r1); !errors.As(err, &conflict) || conflict.Current.Rev != 0 || conflict.Current.Key != p+"b" {
		t.Errorf("update of nothing: %v", err)
	}
	kv, err := s.Get(ctx, p+"a")
	if err != nil || string(kv.Value) != "2" || kv.Rev != r2 || kv.Key != p+"a" {
		t.Errorf("got %+v %v", kv, err)
	}
	now, err := s.Revision(ctx)
	if err != nil || now < r2 {
		t.Errorf("revision %d %v, wrote %d", now, err, r2)
	}
}

func testDelete(t *testing.T, s Compacter, p string) {
	ctx := ctxOf(t)
	r1 := put(t, s, p+"a", "1", 0)
	var conflict *store.Conflict
	if _, err := s.Delete(ctx, p+"a", r1-1); !errors.As(err, &conflict) || conflict.Current.Rev != r1 {
		t.Errorf("delete at another revision: %v", err)
	}
	r2, err := s.Delete(ctx, p+"a", r1)
	if err != nil || r2 <= r1 {
		t.Errorf("delete: %d %v", r2, err)
	}
	if _, err := s.Get(ctx, p+"a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("still there: %v", err)
	}
	if _, err := s.Delete(ctx, p+"a", r1); !errors.As(err, &conflict) || conflict.Current.Rev != 0 || conflict.Current.Key != p+"a" {
		t.Errorf("delete of nothing at a revision: %v", err)
	}
	if _, err := s.Delete(ctx, p+"a", 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("delete of nothing: %v", err)
	}
	r3 := put(t, s, p+"a", "2", 0)
	if r3 <= r2 {
		t.Errorf("created anew at %d, deleted at %d", r3, r2)
	}
	if _, err := s.Delete(ctx, p+"a", 0); !errors.As(err, &conflict) || conflict.Current.Rev != r3 || string(conflict.Current.Value) != "2" {
		t.Errorf("delete that expects nothing: %v", err)
	}
}

func keys(kvs []store.KV, p string) []string {
	var out []string
	for _, kv := range kvs {
		out = append(out, strings.TrimPrefix(kv.Key, p))
	}
	return out
}

func testList(t *testing.T, s Compacter, p string) {
	ctx := ctxOf(t)
	for _, k := range []string{"b", "a", "c/1", "c/2", "d"} {
		put(t, s, p+k, k, 0)
	}
	for _, tc := range []struct {
		prefix string
		o      store.ListOptions
		want   []string
		more   bool
	}{
		{p, store.ListOptions{}, []string{"a", "b", "c/1", "c/2", "d"}, false},
		{p + "c/", store.ListOptions{}, []string{"c/1", "c/2"}, false},
		{p, store.ListOptions{Limit: 2}, []string{"a", "b"}, true},
		{p, store.ListOptions{Limit: 2, After: p + "b"}, []string{"c/1", "c/2"}, true},
		{p, store.ListOptions{Limit: 2, After: p + "c/2"}, []string{"d"}, false},
		{p, store.ListOptions{Limit: 5}, []string{"a", "b", "c/1", "c/2", "d"}, false},
		{p + "zzz", store.ListOptions{}, nil, false},
	} {
		page, err := s.List(ctx, tc.prefix, tc.o)
		if got := keys(page.KVs, p); err != nil || !slices.Equal(got, tc.want) || page.More != tc.more || page.Rev == 0 {
			t.Errorf("list %s %+v: %v more=%v rev=%d %v", tc.prefix, tc.o, got, page.More, page.Rev, err)
		}
	}
}

func testPast(t *testing.T, s Compacter, p string) {
	ctx := ctxOf(t)
	r1 := put(t, s, p+"a", "1", 0)
	r2 := put(t, s, p+"b", "1", 0)
	put(t, s, p+"a", "2", r1)
	if _, err := s.Delete(ctx, p+"b", r2); err != nil {
		t.Fatal(err)
	}
	page, err := s.List(ctx, p, store.ListOptions{Rev: r2})
	if err != nil || len(page.KVs) != 2 || string(page.KVs[0].Value) != "1" || page.Rev != r2 {
		t.Errorf("at %d: %+v %v", r2, page, err)
	}
	if _, err := s.List(ctx, p, store.ListOptions{Rev: r2 + 1000000}); !errors.Is(err, store.ErrFutureRevision) {
		t.Errorf("future: %v", err)
	}
}

// follow watches until n events have come, and checks what every batch promises.
func follow(t *testing.T, s store.Store, prefix string, after int64, n int) []store.Event {
	t.Helper()
	var got []store.Event
	enough := errors.New("enough")
	last := after
	err := s.Watch(ctxOf(t), prefix, after, func(b store.Batch) error {
		for _, e := range b.Events {
			if e.Rev <= last {
				t.Errorf("revision %d after %d", e.Rev, last)
			}
			last = e.Rev
		}
		if b.Rev < last {
			t.Errorf("batch ends at %d, its events at %d", b.Rev, last)
		}
		last = b.Rev
		if got = append(got, b.Events...); len(got) >= n {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("watch: %v after %d of %d events", err, len(got), n)
	}
	return got
}

func testWatch(t *testing.T, s Compacter, p string) {
	ctx := ctxOf(t)
	start, err := s.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan []store.Event)
	go func() { done <- follow(t, s, p, start, 3) }()
	r1 := put(t, s, p+"a", "1", 0)
	put(t, s, "/registry/elsewhere/"+p, "x", 0)
	r2 := put(t, s, p+"a", "2", r1)
	r3, err := s.Delete(ctx, p+"a", r2)
	if err != nil {
		t.Fatal(err)
	}
	got := <-done
	if len(got) != 3 || got[0].Prev != nil || got[0].Delete || string(got[0].Value) != "1" || got[0].Rev != r1 ||
		got[1].Prev == nil || string(got[1].Prev.Value) != "1" || got[1].Rev != r2 ||
		!got[2].Delete || got[2].Prev == nil || string(got[2].Prev.Value) != "2" || got[2].Rev != r3 {
		t.Errorf("%+v", got)
	}
}

func testWatchPast(t *testing.T, s Compacter, p string) {
	r1 := put(t, s, p+"a", "1", 0)
	put(t, s, p+"b", "1", 0)
	put(t, s, p+"c", "1", 0)
	if got := follow(t, s, p, r1, 2); len(got) != 2 || got[0].Key != p+"b" || got[1].Key != p+"c" {
		t.Errorf("%+v", got)
	}
}

func testWatchRecvError(t *testing.T, s Compacter, p string) {
	r := put(t, s, p+"a", "1", 0)
	mine := errors.New("mine")
	if err := s.Watch(ctxOf(t), p, r-1, func(store.Batch) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(ctxOf(t))
	cancel()
	if err := s.Watch(ctx, p, r, func(store.Batch) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// testCounter: optimistic writers lose no increment.
func testCounter(t *testing.T, s Compacter, p string) {
	ctx := ctxOf(t)
	const writers, each = 8, 25
	put(t, s, p+"n", "0", 0)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				for {
					kv, err := s.Get(ctx, p+"n")
					if err != nil {
						t.Error(err)
						return
					}
					n, _ := strconv.Atoi(string(kv.Value))
					_, err = s.Put(ctx, p+"n", []byte(strconv.Itoa(n+1)), kv.Rev)
					var conflict *store.Conflict
					if err == nil {
						break
					}
					if !errors.As(err, &conflict) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if kv, err := s.Get(ctx, p+"n"); err != nil || string(kv.Value) != strconv.Itoa(writers*each) {
		t.Errorf("counted %s %v", kv.Value, err)
	}
}

// testWatchConcurrent: each change exactly once, in order, under many writers.
func testWatchConcurrent(t *testing.T, s Compacter, p string) {
	start, err := s.Revision(ctxOf(t))
	if err != nil {
		t.Fatal(err)
	}
	const writers, each = 8, 50
	done := make(chan []store.Event)
	go func() { done <- follow(t, s, p, start, writers*each) }()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := s.Put(ctxOf(t), fmt.Sprintf("%s%d-%d", p, w, i), []byte("x"), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, e := range <-done {
		if seen[e.Key] {
			t.Errorf("%s twice", e.Key)
		}
		seen[e.Key] = true
	}
	if len(seen) != writers*each {
		t.Errorf("%d keys", len(seen))
	}
}

// testModel compares random operations with a map.
func testModel(t *testing.T, s Compacter, p string) {
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		prefix := fmt.Sprintf("%s%d/", p, run)
		type value struct {
			data string
			rev  int64
		}
		model := map[string]value{}
		for range rapid.IntRange(1, 15).Draw(rt, "ops") {
			key := prefix + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "key")
			expect := model[key].rev
			if rapid.IntRange(0, 4).Draw(rt, "stale") == 0 {
				expect++
			}
			data := rapid.StringMatching(`[a-z]{1,4}`).Draw(rt, "data")
			var rev int64
			var err error
			del := rapid.IntRange(0, 3).Draw(rt, "delete") == 0
			if del {
				rev, err = s.Delete(ctxOf(t), key, expect)
			} else {
				rev, err = s.Put(ctxOf(t), key, []byte(data), expect)
			}
			ok := expect == model[key].rev && (!del || expect != 0)
			if ok != (err == nil) {
				rt.Fatalf("delete=%v %s expecting %d, stands %d: %v", del, key, expect, model[key].rev, err)
			}
			switch {
			case ok && del:
				delete(model, key)
			case ok:
				model[key] = value{data, rev}
			}
		}
		page, err := s.List(ctxOf(t), prefix, store.ListOptions{})
		if err != nil {
			rt.Fatal(err)
		}
		got := map[string]value{}
		for _, kv := range page.KVs {
			got[kv.Key] = value{string(kv.Value), kv.Rev}
		}
		if !maps.Equal(got, model) {
			rt.Fatalf("holds %v, want %v", got, model)
		}
	})
}

func testCompaction(t *testing.T, s Compacter, p string) {
	ctx := ctxOf(t)
	r1 := put(t, s, p+"a", "1", 0)
	r2 := put(t, s, p+"a", "2", r1)
	r3 := put(t, s, p+"a", "3", r2)
	if err := s.Compact(ctx, r3+1000000); !errors.Is(err, store.ErrFutureRevision) {
		t.Errorf("compaction in the future: %v", err)
	}
	if err := s.Compact(ctx, r2); err != nil {
		t.Fatal(err)
	}
	if err := s.Compact(ctx, r1); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("compaction once more: %v", err)
	}
	if page, err := s.List(ctx, p, store.ListOptions{Rev: r2}); err != nil || len(page.KVs) != 1 || string(page.KVs[0].Value) != "2" {
		t.Errorf("list at the revision of the compaction: %+v %v", page, err)
	}
	if _, err := s.List(ctx, p, store.ListOptions{Rev: r1}); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("list at a compacted revision: %v", err)
	}
	if err := s.Watch(ctx, p, r1-1, func(store.Batch) error { return errors.New("delivered") }); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watch from a compacted revision: %v", err)
	}
	if kv, err := s.Get(ctx, p+"a"); err != nil || kv.Rev != r3 {
		t.Errorf("%+v %v", kv, err)
	}
	if got := follow(t, s, p, r2, 1); string(got[0].Value) != "3" {
		t.Errorf("%+v", got)
	}
}
