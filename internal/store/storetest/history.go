package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/store"
)

// testValues: any bytes up to the limit come back, and are the store's own.
func testValues(t *testing.T, s Compacter, p string) {
	ctx := ctxOf(t)
	for name, value := range map[string][]byte{"empty": {}, "binary": {0, 255, '\n', 0}, "largest": bytes.Repeat([]byte("x"), store.MaxValue)} {
		rev, err := s.Put(ctx, p+name, value, 0)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if kv, err := s.Get(ctx, p+name); err != nil || !bytes.Equal(kv.Value, value) || kv.Rev != rev {
			t.Errorf("%s: %d bytes of %d: %v", name, len(kv.Value), len(value), err)
		}
	}
	if _, err := s.Put(ctx, p+"too-large", make([]byte, store.MaxValue+store.MaxOverhead+1), 0); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	mine := []byte("mine")
	if _, err := s.Put(ctx, p+"mine", mine, 0); err != nil {
		t.Fatal(err)
	}
	copy(mine, "your")
	if kv, err := s.Get(ctx, p+"mine"); err != nil || string(kv.Value) != "mine" {
		t.Errorf("the writer's buffer is the store's: %s %v", kv.Value, err)
	}
}

// testPages: pages of one revision make a consistent list, whatever is written
// in between, also where the store itself reads in pages.
func testPages(t *testing.T, s Compacter, p string) {
	const many = 2100
	var want []string
	var wg sync.WaitGroup
	next := make(chan string)
	for range 16 {
		wg.Go(func() {
			for key := range next {
				if _, err := s.Put(ctxOf(t), key, []byte("1"), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range many {
		want = append(want, fmt.Sprintf("%04d", i))
		next <- p + want[i]
	}
	close(next)
	wg.Wait()
	all, err := s.List(ctxOf(t), p, store.ListOptions{})
	if err != nil || !slices.Equal(keys(all.KVs, p), want) || all.More {
		t.Fatalf("%d keys, more %v: %v", len(all.KVs), all.More, err)
	}
	var got []string
	o := store.ListOptions{Limit: 700}
	for {
		page, err := s.List(ctxOf(t), p, o)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, keys(page.KVs, p)...)
		if !page.More {
			break
		}
		o.Rev, o.After = page.Rev, page.KVs[len(page.KVs)-1].Key
		put(t, s, o.After+"-later", "1", 0)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d keys in pages, want %d", len(got), many)
	}
}

// testWatchFuture: a watch may begin after what has happened.
func testWatchFuture(t *testing.T, s Compacter, p string) {
	r := put(t, s, p+"a", "1", 0)
	done := make(chan []store.Event)
	go func() { done <- follow(t, s, p, r+2, 1) }()
	for _, k := range []string{"b", "c", "d"} {
		put(t, s, p+k, "1", 0)
	}
	if got := <-done; got[0].Key != p+"d" {
		t.Errorf("%+v", got)
	}
}

// testProgress: a watch gets to know of revisions that are not its own.
func testProgress(t *testing.T, s Compacter, p string) {
	after := put(t, s, p+"a", "1", 0)
	ctx, cancel := context.WithCancel(ctxOf(t))
	defer cancel()
	revs := make(chan int64)
	done := make(chan error, 1)
	go func() {
		done <- s.Watch(ctx, p, after, func(b store.Batch) error {
			select {
			case revs <- b.Rev:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	r := put(t, s, p+"b", "1", 0) // shows that the watch stands
	for rev := int64(0); rev < r; {
		rev = <-revs
	}
	elsewhere := put(t, s, "/registry/elsewhere/"+p, "x", 0)
	for rev := int64(0); rev < elsewhere; {
		if asker, ok := s.(store.Progresser); ok {
			if err := asker.RequestProgress(ctx); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case rev = <-revs:
		case <-time.After(100 * time.Millisecond): // a store that is behind says nothing
		case err := <-done:
			t.Fatalf("the watch ended: %v", err)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// testLean: where it is offered, it delivers what Watch does, but Prev.
func testLean(t *testing.T, s Compacter, p string) {
	lean, ok := s.(store.LeanWatcher)
	if !ok {
		t.Skip("the store offers no lean watch")
	}
	start, err := s.Revision(ctxOf(t))
	if err != nil {
		t.Fatal(err)
	}
	r1 := put(t, s, p+"a", "1", 0)
	r2 := put(t, s, p+"a", "2", r1)
	if _, err := s.Delete(ctxOf(t), p+"a", r2); err != nil {
		t.Fatal(err)
	}
	want := follow(t, s, p, start, 3)
	for i := range want {
		want[i].Prev = nil
	}
	got := follow(t, leanStore{s, lean}, p, start, 3)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
}

type leanStore struct {
	store.Store
	lean store.LeanWatcher
}

func (l leanStore) Watch(ctx context.Context, prefix string, after int64, recv func(store.Batch) error) error {
	return l.lean.WatchLean(ctx, prefix, after, recv)
}

// change is one line of the history that testHistory expects.
type change struct {
	rev       int64
	key, prev string
	value     string // empty: deleted
}

// tail is a watch that testHistory has still to make.
type tail struct {
	prefix string
	after  int64
	want   []change
}

// testHistory writes at random, then reads every revision of it, and watches
// from revisions in between. The watches run at the end and together: etcd
// lets those that begin in the past wait for a while.
func testHistory(t *testing.T, s Compacter, p string) {
	var tails []tail
	rapid.Check(t, func(rt *rapid.T) {
		tails = append(tails, writeHistory(rt, s, fmt.Sprintf("%s%d/", p, len(tails))))
	})
	var wg sync.WaitGroup
	for _, tail := range tails {
		wg.Go(func() {
			var got []change
			for _, e := range follow(t, s, tail.prefix, tail.after, len(tail.want)) {
				c := change{rev: e.Rev, key: strings.TrimPrefix(e.Key, tail.prefix), value: string(e.Value)}
				if e.Prev != nil {
					c.prev = string(e.Prev.Value)
				}
				got = append(got, c)
			}
			if !slices.Equal(got, tail.want) {
				t.Errorf("watched %v, want %v", got, tail.want)
			}
		})
	}
	wg.Wait()
}

func writeHistory(rt *rapid.T, s Compacter, prefix string) tail {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	start, err := s.Revision(ctx)
	if err != nil {
		rt.Fatal(err)
	}
	var history []change
	states := []map[string]string{{}}
	revs := map[string]int64{}
	for range rapid.IntRange(1, 8).Draw(rt, "writes") {
		key := rapid.SampledFrom([]string{"a", "b", "b/c"}).Draw(rt, "key")
		state := maps.Clone(states[len(states)-1])
		c := change{key: key, prev: state[key]}
		if c.prev != "" && rapid.Bool().Draw(rt, "delete") {
			c.rev, err = s.Delete(ctx, prefix+key, revs[key])
			delete(state, key)
			delete(revs, key)
		} else {
			c.value = rapid.StringMatching("[a-z]{1,3}").Draw(rt, "value")
			c.rev, err = s.Put(ctx, prefix+key, []byte(c.value), revs[key])
			state[key], revs[key] = c.value, c.rev
		}
		if err != nil {
			rt.Fatal(err)
		}
		history, states = append(history, c), append(states, state)
	}
	revOf := func(n int) int64 { // after the first n writes
		if n == 0 {
			return start
		}
		return history[n-1].rev
	}
	for n, state := range states {
		page, err := s.List(ctx, prefix, store.ListOptions{Rev: revOf(n)})
		if err != nil {
			rt.Fatal(err)
		}
		got := map[string]string{}
		for _, kv := range page.KVs {
			got[strings.TrimPrefix(kv.Key, prefix)] = string(kv.Value)
		}
		if !maps.Equal(got, state) {
			rt.Fatalf("at %d: %v, want %v", revOf(n), got, state)
		}
	}
	from := rapid.IntRange(0, len(history)-1).Draw(rt, "from")
	return tail{prefix, revOf(from), history[from:]}
}
