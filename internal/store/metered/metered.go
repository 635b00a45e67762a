// Package metered counts and times what is asked of a store, under the names
// that upstream gives to its requests of etcd.
package metered

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/store"
)

// seconds are upstream's buckets of requests, to the API and to etcd alike.
var seconds = []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}

var labels = []string{"operation", "group", "resource"}

// Config of a Store. Everything but Size is needed.
type Config struct {
	Store store.Store
	// Resource names what a key holds; the zero value if that is nothing of ours.
	Resource func(key string) schema.GroupResource
	Metrics  prometheus.Registerer
	// Size is what the store takes of the disk, in bytes; may be nil.
	Size func(context.Context) (int64, error)
}

// Store implements store.Store on another one.
type Store struct {
	inner    store.Store
	resource func(key string) schema.GroupResource

	total, errors *prometheus.CounterVec
	seconds       *prometheus.HistogramVec
	received      *prometheus.CounterVec
	known         sync.Map // of what has been asked before, by asked
}

type asked struct {
	operation string
	resource  schema.GroupResource
}

type series struct {
	total, failed prometheus.Counter
	seconds       prometheus.Observer
}

var (
	_ store.Store       = (*Store)(nil)
	_ store.Progresser  = (*Store)(nil)
	_ store.LeanWatcher = (*Store)(nil)
)

// New registers the metrics.
func New(c Config) (*Store, error) {
	s := &Store{inner: c.Store, resource: c.Resource,
		total:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_requests_total", Help: "Requests of etcd by operation and resource."}, labels),
		errors:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_request_errors_total", Help: "Requests of etcd that failed; a write that came second has not."}, labels),
		seconds:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "etcd_request_duration_seconds", Help: "Time that etcd took to answer.", Buckets: seconds}, labels),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_storage_events_received_total", Help: "Events that etcd has sent."}, labels[1:]),
	}
	all := []prometheus.Collector{s.total, s.errors, s.seconds, s.received}
	if c.Size != nil {
		all = append(all, size(c.Size))
	}
	for _, m := range all {
		if err := c.Metrics.Register(m); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// done is told how a request ended.
func (s *Store) done(operation, key string, began time.Time, err error) {
	a := asked{operation, s.resource(key)}
	v, ok := s.known.Load(a)
	if !ok {
		l := []string{a.operation, a.resource.Group, a.resource.Resource}
		v, _ = s.known.LoadOrStore(a, &series{s.total.WithLabelValues(l...), s.errors.WithLabelValues(l...), s.seconds.WithLabelValues(l...)})
	}
	m := v.(*series)
	m.total.Inc()
	m.seconds.Observe(time.Since(began).Seconds())
	var conflict *store.Conflict
	if err != nil && !errors.As(err, &conflict) && !errors.Is(err, store.ErrNotFound) {
		m.failed.Inc()
	}
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.KV, error) {
	began := time.Now()
	kv, err := s.inner.Get(ctx, key)
	s.done("get", key, began, err)
	return kv, err
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, o store.ListOptions) (store.Page, error) {
	began := time.Now()
	page, err := s.inner.List(ctx, prefix, o)
	s.done("list", prefix, began, err)
	return page, err
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, key string, value []byte, expect int64) (int64, error) {
	began, operation := time.Now(), "update"
	if expect == 0 {
		operation = "create"
	}
	rev, err := s.inner.Put(ctx, key, value, expect)
	s.done(operation, key, began, err)
	return rev, err
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string, expect int64) (int64, error) {
	began := time.Now()
	rev, err := s.inner.Delete(ctx, key, expect)
	s.done("delete", key, began, err)
	return rev, err
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64, recv func(store.Batch) error) error {
	return s.inner.Watch(ctx, prefix, after, s.counting(recv))
}

// WatchLean implements store.LeanWatcher.
func (s *Store) WatchLean(ctx context.Context, prefix string, after int64, recv func(store.Batch) error) error {
	return store.WatchLean(ctx, s.inner, prefix, after, s.counting(recv))
}

func (s *Store) counting(recv func(store.Batch) error) func(store.Batch) error {
	return func(b store.Batch) error {
		for i := range b.Events {
			r := s.resource(b.Events[i].Key)
			s.received.WithLabelValues(r.Group, r.Resource).Inc()
		}
		return recv(b)
	}
}

// Revision implements store.Store. It concerns no resource, and is not counted.
func (s *Store) Revision(ctx context.Context) (int64, error) { return s.inner.Revision(ctx) }

// RequestProgress implements store.Progresser.
func (s *Store) RequestProgress(ctx context.Context) error {
	return store.RequestProgress(ctx, s.inner)
}

// size asks when it is asked.
type size func(context.Context) (int64, error)

var sizeDesc = prometheus.NewDesc("apiserver_storage_size_bytes", "Size of the store's file on disk.", []string{"storage_cluster_id"}, nil)

// Describe implements prometheus.Collector.
func (f size) Describe(ch chan<- *prometheus.Desc) { ch <- sizeDesc }

// Collect implements prometheus.Collector.
func (f size) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if n, err := f(ctx); err == nil {
		ch <- prometheus.MustNewConstMetric(sizeDesc, prometheus.GaugeValue, float64(n), "etcd-0")
	}
}
