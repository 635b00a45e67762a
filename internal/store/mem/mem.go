// Package mem is a store.Store in memory, with history, for tests and the
// simulation.
package mem

import (
	"context"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/tidwall/btree"

	"knarr.dev/knarr/internal/store"
)

// Store is empty at revision 1, like a new etcd.
type Store struct {
	mu        sync.Mutex
	rev       int64
	compacted int64 // history up to and including this revision is gone
	current   btree.Map[string, store.KV]
	events    []store.Event // since compacted, by revision
	moved     chan struct{} // closed with the next write; nil: nobody waits
}

// New returns an empty store.
func New() *Store { return &Store{rev: 1} }

// Get implements store.Store.
func (s *Store) Get(_ context.Context, key string) (store.KV, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kv, ok := s.current.Get(key)
	if !ok {
		return store.KV{}, store.ErrNotFound
	}
	return kv, nil
}

// List implements store.Store. A past revision is rebuilt by undoing events.
func (s *Store) List(_ context.Context, prefix string, o store.ListOptions) (store.Page, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rev := s.rev
	if o.Rev > 0 {
		switch {
		case o.Rev > s.rev:
			return store.Page{}, store.ErrFutureRevision
		case o.Rev < s.compacted:
			return store.Page{}, store.ErrCompacted
		}
		rev = o.Rev
	}
	m := s.current.Copy()
	for i := len(s.events) - 1; i >= 0 && s.events[i].Rev > rev; i-- {
		e := s.events[i]
		if e.Prev != nil {
			m.Set(e.Key, *e.Prev)
		} else {
			m.Delete(e.Key)
		}
	}
	page := store.Page{Rev: rev}
	m.Ascend(max(prefix, o.After), func(key string, kv store.KV) bool {
		switch {
		case key == o.After:
			return true
		case !strings.HasPrefix(key, prefix):
			return false
		case o.Limit > 0 && len(page.KVs) == o.Limit:
			page.More = true
			return false
		}
		page.KVs = append(page.KVs, kv)
		return true
	})
	return page, nil
}

// Put implements store.Store.
func (s *Store) Put(_ context.Context, key string, value []byte, expect int64) (int64, error) {
	if len(value) > store.MaxValue+store.MaxOverhead {
		return 0, store.ErrTooLarge
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	prev, err := s.expect(key, expect)
	if err != nil {
		return 0, err
	}
	s.rev++
	kv := store.KV{Key: key, Value: slices.Clone(value), Rev: s.rev}
	s.current.Set(key, kv)
	s.record(store.Event{KV: kv, Prev: prev})
	return s.rev, nil
}

// Delete implements store.Store.
func (s *Store) Delete(_ context.Context, key string, expect int64) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	prev, err := s.expect(key, expect)
	if err != nil {
		return 0, err
	}
	if prev == nil {
		return 0, store.ErrNotFound
	}
	s.rev++
	s.current.Delete(key)
	s.record(store.Event{KV: store.KV{Key: key, Rev: s.rev}, Delete: true, Prev: prev})
	return s.rev, nil
}

func (s *Store) expect(key string, rev int64) (*store.KV, error) {
	kv, ok := s.current.Get(key)
	if !ok {
		if rev != 0 {
			return nil, &store.Conflict{Current: store.KV{Key: key}}
		}
		return nil, nil
	}
	if kv.Rev != rev {
		return nil, &store.Conflict{Current: kv}
	}
	return &kv, nil
}

func (s *Store) record(e store.Event) {
	s.events = append(s.events, e)
	if s.moved != nil {
		close(s.moved)
		s.moved = nil
	}
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64, recv func(store.Batch) error) error {
	for {
		b, moved, err := s.since(prefix, after)
		if err != nil {
			return err
		}
		if b.Rev > after {
			if err := recv(b); err != nil {
				return err
			}
			after = b.Rev
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Since returns what happened under prefix after a revision; the simulation
// pulls with it.
func (s *Store) Since(prefix string, after int64) (store.Batch, error) {
	b, _, err := s.since(prefix, after)
	return b, err
}

func (s *Store) since(prefix string, after int64) (store.Batch, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after < s.compacted {
		return store.Batch{}, nil, store.ErrCompacted
	}
	if s.moved == nil {
		s.moved = make(chan struct{})
	}
	b := store.Batch{Rev: s.rev}
	i := sort.Search(len(s.events), func(i int) bool { return s.events[i].Rev > after })
	for _, e := range s.events[i:] {
		if strings.HasPrefix(e.Key, prefix) {
			b.Events = append(b.Events, e)
		}
	}
	return b, s.moved, nil
}

// Revision implements store.Store.
func (s *Store) Revision(context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev, nil
}

// Compact forgets the history before rev: ErrCompacted if it is forgotten
// already.
func (s *Store) Compact(_ context.Context, rev int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case rev > s.rev:
		return store.ErrFutureRevision
	case rev <= s.compacted:
		return store.ErrCompacted
	}
	i := sort.Search(len(s.events), func(i int) bool { return s.events[i].Rev > rev })
	s.events = slices.Clone(s.events[i:])
	s.compacted = rev
	return nil
}
