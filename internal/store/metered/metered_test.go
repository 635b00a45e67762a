package metered

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/metricstest"
	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/mem"
	"knarr.dev/knarr/internal/store/storetest"
)

func pods(key string) schema.GroupResource {
	if strings.HasPrefix(key, "/registry/pods/") {
		return schema.GroupResource{Resource: "pods"}
	}
	return schema.GroupResource{}
}

// compacting is a metered store that the suite can compact.
type compacting struct {
	*Store
	inner *mem.Store
}

func (c compacting) Compact(ctx context.Context, rev int64) error { return c.inner.Compact(ctx, rev) }

func open(t testing.TB, inner *mem.Store, reg prometheus.Registerer) *Store {
	s, err := New(Config{Store: inner, Resource: pods, Metrics: reg, Size: func(context.Context) (int64, error) { return 4096, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t testing.TB) storetest.Compacter {
		inner := mem.New()
		return compacting{open(t, inner, prometheus.NewRegistry()), inner}
	})
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	s, ctx := open(t, mem.New(), reg), t.Context()
	rev, err := s.Put(ctx, "/registry/pods/a/b", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, "/registry/pods/a/b", []byte("2"), 0); err == nil {
		t.Error("created twice")
	}
	if _, err := s.Get(ctx, "/registry/pods/a/c"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.List(ctx, "/registry/pods/", store.ListOptions{Rev: rev + 1000}); err == nil {
		t.Error("the future was listed")
	}
	seen := errors.New("seen")
	if err := s.Watch(ctx, "/registry/pods/", rev-1, func(b store.Batch) error {
		if len(b.Events) == 0 {
			return nil
		}
		return seen
	}); !errors.Is(err, seen) {
		t.Error(err)
	}
	got := metricstest.Gathered(t, reg)
	want := map[string]float64{
		"apiserver_storage_size_bytes etcd-0": 4096, "apiserver_storage_events_received_total  pods": 1,
		"etcd_requests_total  create pods": 2, "etcd_requests_total  get pods": 1, "etcd_requests_total  list pods": 1,
		"etcd_request_errors_total  create pods": 0, "etcd_request_errors_total  get pods": 0, "etcd_request_errors_total  list pods": 1,
		"etcd_request_duration_seconds  create pods": 2, "etcd_request_duration_seconds  get pods": 1, "etcd_request_duration_seconds  list pods": 1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}
