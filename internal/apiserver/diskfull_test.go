package apiserver_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"knarr.dev/knarr/internal/store"
	storecache "knarr.dev/knarr/internal/store/cache"
	"knarr.dev/knarr/internal/store/mem"
)

// fullDisk takes, while it is full, what belongs to deletions only. Nothing is
// heard of changes while news is locked.
type fullDisk struct {
	store.Store
	full atomic.Bool
	news sync.Mutex
}

func (f *fullDisk) Watch(ctx context.Context, prefix string, after int64, recv func(store.Batch) error) error {
	return f.Store.Watch(ctx, prefix, after, func(b store.Batch) error {
		f.news.Lock()
		defer f.news.Unlock()
		return recv(b)
	})
}

func (f *fullDisk) Put(ctx context.Context, key string, value []byte, expect int64) (int64, error) {
	if f.full.Load() && !store.IsDeleting(ctx) {
		return 0, store.ErrDiskFull
	}
	return f.Store.Put(ctx, key, value, expect)
}

// TestFullDisk: what takes several writes to be deleted goes all the same.
func TestFullDisk(t *testing.T) {
	disk := &fullDisk{Store: mem.New()}
	w := newWorldWith(t, storecache.Config{Store: disk})
	const pods = "/api/v1/namespaces/default/pods"
	const maps = "/api/v1/namespaces/default/configmaps"
	w.must(t, 201, "POST", pods, `{"metadata":{"name":"p"},"spec":{"nodeName":"n","containers":[{"name":"c","image":"i"}]}}`)
	w.must(t, 201, "POST", maps, `{"metadata":{"name":"held","finalizers":["example.com/f"]}}`)
	w.must(t, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"ns"}}`)
	disk.full.Store(true)

	w.must(t, 507, "PATCH", maps+"/held", `{"data":{"a":"b"}}`, "Content-Type", mergeType)
	w.must(t, 507, "PUT", pods+"/p/status", `{"metadata":{"name":"p"},"status":{"phase":"Running"}}`)
	func() {
		disk.news.Lock() // the cache does not know of the mark
		defer disk.news.Unlock()
		if a := w.must(t, 200, "DELETE", pods+"/p", ""); a.at("metadata.deletionTimestamp") == nil {
			t.Errorf("the pod is not marked: %s", a.raw)
		}
		w.must(t, 200, "PUT", pods+"/p/status", `{"metadata":{"name":"p"},"status":{"phase":"Succeeded"}}`)
	}()
	w.must(t, 200, "DELETE", pods+"/p?gracePeriodSeconds=0", "")
	w.must(t, 404, "GET", pods+"/p", "")

	w.must(t, 200, "DELETE", maps+"/held", "")
	w.must(t, 200, "PATCH", maps+"/held", `{"metadata":{"finalizers":null}}`, "Content-Type", mergeType)
	w.must(t, 404, "GET", maps+"/held", "")
	if a := w.must(t, 200, "DELETE", "/api/v1/namespaces/ns", ""); a.at("status.phase") != "Terminating" {
		t.Errorf("the namespace: %s", a.raw)
	}
}
