// Package transform is a store.Store whose values look different on disk:
// encrypted, for the prefixes that ask for it.
package transform

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"knarr.dev/knarr/internal/store"
)

// Config of a Store.
type Config struct {
	Store store.Store
	Rule  func(key string) store.Transformer // nil: the value is stored as it is
	Log   *slog.Logger
}

// Store implements store.Store, and what its own store offers of
// store.Progresser and store.LeanWatcher.
type Store struct {
	inner store.Store
	rule  func(key string) store.Transformer
	log   *slog.Logger
}

// New needs a rule.
func New(cfg Config) (*Store, error) {
	if cfg.Rule == nil {
		return nil, errors.New("transform: no rule")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Store{inner: cfg.Store, rule: cfg.Rule, log: cfg.Log}, nil
}

// Below is the rule that values below the prefix are transformed.
func Below(prefix string, t store.Transformer) func(key string) store.Transformer {
	return func(key string) store.Transformer {
		if strings.HasPrefix(key, prefix) {
			return t
		}
		return nil
	}
}

// clear returns what the value was before it was stored.
func (s *Store) clear(ctx context.Context, kv store.KV) (store.KV, error) {
	t := s.rule(kv.Key)
	if t == nil || kv.Value == nil {
		return kv, nil
	}
	value, stale, err := t.FromStore(ctx, kv.Key, kv.Value)
	if err != nil {
		return kv, fmt.Errorf("cannot read the stored value of %s: %w", kv.Key, err)
	}
	kv.Value, kv.Stale = value, stale
	return kv, nil
}

// clearOrRaw is for values among others, which one that cannot be read must
// not take with it: it stays as it is on disk, which no codec reads.
func (s *Store) clearOrRaw(ctx context.Context, kv store.KV) store.KV {
	out, err := s.clear(ctx, kv)
	if err != nil {
		s.log.Error("a stored value stays unreadable", "error", err)
	}
	return out
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.KV, error) {
	kv, err := s.inner.Get(ctx, key)
	if err != nil {
		return kv, err
	}
	return s.clear(ctx, kv)
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, o store.ListOptions) (store.Page, error) {
	page, err := s.inner.List(ctx, prefix, o)
	for i, kv := range page.KVs {
		page.KVs[i] = s.clearOrRaw(ctx, kv)
	}
	return page, err
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, key string, value []byte, expect int64) (int64, error) {
	if t := s.rule(key); t != nil {
		var err error
		if value, err = t.ToStore(ctx, key, value); err != nil {
			return 0, fmt.Errorf("cannot store %s: %w", key, err)
		}
	}
	rev, err := s.inner.Put(ctx, key, value, expect)
	return rev, s.conflict(ctx, err)
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string, expect int64) (int64, error) {
	rev, err := s.inner.Delete(ctx, key, expect)
	return rev, s.conflict(ctx, err)
}

// conflict makes the present value that a conflict carries readable.
func (s *Store) conflict(ctx context.Context, err error) error {
	var c *store.Conflict
	if !errors.As(err, &c) || c.Current.Rev == 0 {
		return err
	}
	current, cerr := s.clear(ctx, c.Current)
	if cerr != nil {
		return cerr
	}
	return &store.Conflict{Current: current}
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64, recv func(store.Batch) error) error {
	return s.inner.Watch(ctx, prefix, after, s.clearing(ctx, recv))
}

// WatchLean implements store.LeanWatcher.
func (s *Store) WatchLean(ctx context.Context, prefix string, after int64, recv func(store.Batch) error) error {
	return store.WatchLean(ctx, s.inner, prefix, after, s.clearing(ctx, recv))
}

// RequestProgress implements store.Progresser.
func (s *Store) RequestProgress(ctx context.Context) error {
	return store.RequestProgress(ctx, s.inner)
}

func (s *Store) clearing(ctx context.Context, recv func(store.Batch) error) func(store.Batch) error {
	return func(b store.Batch) error {
		if len(b.Events) > 0 { // the store may hand the same slice to others
			b.Events = append([]store.Event(nil), b.Events...)
		}
		for i := range b.Events {
			e := &b.Events[i]
			e.KV = s.clearOrRaw(ctx, e.KV)
			if e.Prev != nil {
				prev := s.clearOrRaw(ctx, *e.Prev)
				e.Prev = &prev
			}
		}
		return recv(b)
	}
}

// Revision implements store.Store.
func (s *Store) Revision(ctx context.Context) (int64, error) { return s.inner.Revision(ctx) }
