// Package traced makes spans of what is asked of a store, within the spans of
// requests; what is asked for no request is left alone. Spans have upstream's
// names.
package traced

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"knarr.dev/knarr/internal/store"
)

// scope is upstream's name of what makes such spans.
const scope = "k8s.io/component-base/tracing"

// Store implements store.Store. Watches have no spans.
type Store struct{ store.Store }

// New wraps a store.
func New(s store.Store) *Store { return &Store{s} }

func start(ctx context.Context, name, key string) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, nil
	}
	return parent.TracerProvider().Tracer(scope).Start(ctx, name, trace.WithAttributes(attribute.String("key", key)))
}

func end(s trace.Span, err error) {
	if s == nil {
		return
	}
	if err != nil {
		s.SetStatus(codes.Error, err.Error())
	}
	s.End()
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (kv store.KV, err error) {
	ctx, span := start(ctx, "Get etcd3", key)
	defer func() { end(span, err) }()
	return s.Store.Get(ctx, key)
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, o store.ListOptions) (page store.Page, err error) {
	ctx, span := start(ctx, "List(recursive=true) etcd3", prefix)
	defer func() { end(span, err) }()
	return s.Store.List(ctx, prefix, o)
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, key string, value []byte, expect int64) (rev int64, err error) {
	name := "GuaranteedUpdate etcd3"
	if expect == 0 {
		name = "Create etcd3"
	}
	ctx, span := start(ctx, name, key)
	defer func() { end(span, err) }()
	return s.Store.Put(ctx, key, value, expect)
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string, expect int64) (rev int64, err error) {
	ctx, span := start(ctx, "Delete etcd3", key)
	defer func() { end(span, err) }()
	return s.Store.Delete(ctx, key, expect)
}

// WatchLean implements store.LeanWatcher; it is Watch if the store has none.
func (s *Store) WatchLean(ctx context.Context, prefix string, after int64, recv func(store.Batch) error) error {
	if lean, ok := s.Store.(store.LeanWatcher); ok {
		return lean.WatchLean(ctx, prefix, after, recv)
	}
	return s.Watch(ctx, prefix, after, func(b store.Batch) error {
		events := make([]store.Event, len(b.Events))
		for i, e := range b.Events {
			e.Prev = nil
			events[i] = e
		}
		b.Events = events
		return recv(b)
	})
}

// RequestProgress implements store.Progresser; it does nothing if the store
// does not, whose watches are then always current.
func (s *Store) RequestProgress(ctx context.Context) error {
	if p, ok := s.Store.(store.Progresser); ok {
		return p.RequestProgress(ctx)
	}
	return nil
}
