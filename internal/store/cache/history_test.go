package cache

import (
	"context"
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// TestHistory: a cache that starts tells what happened shortly before, with
// deletions and in order, to those who were cut off; views that are fed while
// it catches up hold everything.
func TestHistory(t *testing.T) {
	for _, compacted := range []bool{false, true} {
		t.Run(fmt.Sprintf("compacted=%v", compacted), func(t *testing.T) {
			w := newWorld(t, Config{})
			cm := func(name, value string) *corev1.ConfigMap {
				return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "u"}, Data: map[string]string{"v": value}}
			}
			first := w.put(kinds.ConfigMap, cm("old", ""))
			for i := range history + 200 {
				w.put(kinds.ConfigMap, cm("busy", fmt.Sprint(i)))
			}
			w.put(kinds.ConfigMap, cm("gone", ""))
			before := w.del(kinds.ConfigMap, "ns", "gone") - 2
			last := w.put(kinds.ConfigMap, cm("busy", "last"))
			if compacted {
				if err := w.store.Compact(context.Background(), last); err != nil {
					t.Fatal(err)
				}
			}
			v := view.New([]*kinds.Kind{kinds.ConfigMap})
			w.cache.Feed(v)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- w.cache.Run(ctx) }()
			<-w.cache.Ready()
			if rev := w.cache.Rev(); rev < last {
				t.Errorf("ready at %d, the store is at %d", rev, last)
			}
			if n := v.Snapshot().Len(kinds.ConfigMap); n != 2 || view.Now[*corev1.ConfigMap](v, kinds.ConfigMap, "ns", "busy").Data["v"] != "last" {
				t.Errorf("the view has %d objects", n)
			}
			if _, err := w.cache.Watch(kinds.ConfigMap, "", first); !errors.Is(err, ErrGone) {
				t.Errorf("a watch from long ago: %v", err)
			}
			watcher, err := w.cache.Watch(kinds.ConfigMap, "", before)
			if compacted {
				if !errors.Is(err, ErrGone) {
					t.Errorf("a watch of what is compacted: %v", err)
				}
			} else if err != nil {
				t.Error(err)
			} else {
				events, _, err := watcher.Next(ctx)
				var got string
				for _, e := range events {
					got += fmt.Sprintf("%v %s %d;", e.Type, e.Item.Name, e.Rev-before)
				}
				if want := fmt.Sprintf("%v gone 1;%v gone 2;%v busy 3;", Added, Deleted, Modified); got != want || err != nil {
					t.Errorf("got %s %v, want %s", got, err, want)
				}
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}
