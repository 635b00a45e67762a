package apiserver_test

import (
	"context"
	"sync/atomic"
	"testing"

	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/store"
)

// fullDisk takes, while it is full, what belongs to deletions only.
type fullDisk struct {
	store.Store
	full atomic.Bool
}

func (f *fullDisk) Put(ctx context.Context, key string, value []byte, expect int64) (int64, error) {
	if f.full.Load() && !store.IsDeleting(ctx) {
		return 0, store.ErrDiskFull
	}
	return f.Store.Put(ctx, key, value, expect)
}

// TestFullDisk: what takes several writes to be deleted goes all the same.
func TestFullDisk(t *testing.T) {
	var disk *fullDisk
	w := newWorld(t, func(c *apiserver.Config) {
		disk = &fullDisk{Store: c.Store}
		c.Store = disk
	})
	const pods = "/api/v1/namespaces/default/pods"
	const maps = "/api/v1/namespaces/default/configmaps"
	w.must(t, 201, "POST", pods, `{"metadata":{"name":"p"},"spec":{"nodeName":"n","containers":[{"name":"c","image":"i"}]}}`)
	w.must(t, 201, "POST", maps, `{"metadata":{"name":"held","finalizers":["example.com/f"]}}`)
	w.must(t, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"ns"}}`)
	disk.full.Store(true)

	w.must(t, 507, "PATCH", maps+"/held", `{"data":{"a":"b"}}`, "Content-Type", mergeType)
	w.must(t, 507, "PUT", pods+"/p/status", `{"metadata":{"name":"p"},"status":{"phase":"Running"}}`)
	if a := w.must(t, 200, "DELETE", pods+"/p", ""); a.at("metadata.deletionTimestamp") == nil {
		t.Errorf("the pod is not marked: %s", a.raw)
	}
	w.must(t, 200, "PUT", pods+"/p/status", `{"metadata":{"name":"p"},"status":{"phase":"Succeeded"}}`)
	w.must(t, 200, "DELETE", pods+"/p?gracePeriodSeconds=0", "")
	w.must(t, 404, "GET", pods+"/p", "")

	w.must(t, 200, "DELETE", maps+"/held", "")
	w.must(t, 200, "PATCH", maps+"/held", `{"metadata":{"finalizers":null}}`, "Content-Type", mergeType)
	w.must(t, 404, "GET", maps+"/held", "")
	if a := w.must(t, 200, "DELETE", "/api/v1/namespaces/ns", ""); a.at("status.phase") != "Terminating" {
		t.Errorf("the namespace: %s", a.raw)
	}
}
