package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/cache"
)

// TestCache: the cache on a real etcd, with writers that depend on reading
// their own writes, while history is compacted away.
func TestCache(t *testing.T) {
	s := open(t, Config{})
	c, err := cache.New(cache.Config{Store: s, Kinds: kinds.Builtin().All(), Decoded: []*kinds.Kind{kinds.ConfigMap}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // of many synced writes
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	<-c.Ready()
	watcher, err := c.Watch(kinds.ConfigMap, "", c.Rev())
	if err != nil {
		t.Fatal(err)
	}
	const writers, each = 8, 100
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() { count(ctx, t, s, c, fmt.Sprint(w), each) })
	}
	seen := map[string]int{}
	for events := 0; events < writers*each; {
		es, _, err := watcher.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			seen[e.Item.Name]++
			if got := e.Item.Object().(*corev1.ConfigMap).Data["n"]; got != fmt.Sprint(seen[e.Item.Name]) {
				t.Fatalf("event %d of %s says %s", seen[e.Item.Name], e.Item.Name, got)
			}
		}
		if events += len(es); events > writers*each/2 {
			if err := s.Compact(ctx, c.Rev()); err != nil && !errors.Is(err, store.ErrCompacted) {
				t.Fatal(err)
			}
		}
	}
	wg.Wait()
	// A revision that the cache is not told of by an event: it has to ask.
	rev, err := s.Put(ctx, "/elsewhere", []byte("x"), 0)
	if err != nil {
		t.Fatal(err)
	}
	// etcd itself tells of progress every ten minutes only.
	if err := c.WaitRev(ctx, rev); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// count writes a counter, reading it from the cache each time.
func count(ctx context.Context, t *testing.T, s *Store, c *cache.Cache, name string, times int) {
	for n := range times {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}, Data: map[string]string{"n": fmt.Sprint(n + 1)}}
		var expect int64
		if it := c.Get(kinds.ConfigMap, "a", name); it != nil {
			expect = it.Rev
			if got := it.Object().(*corev1.ConfigMap).Data["n"]; got != fmt.Sprint(n) {
				t.Errorf("%s is at %s after %d writes", name, got, n)
				return
			}
		}
		data, err := codec.EncodeStored(cm)
		if err != nil {
			t.Error(err)
			return
		}
		rev, err := s.Put(ctx, kinds.ConfigMap.Key("a", name), data, expect)
		if err == nil {
			err = c.WaitRev(ctx, rev)
		}
		if err != nil {
			t.Errorf("write %d of %s: %v", n, name, err)
			return
		}
	}
}
