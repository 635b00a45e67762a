// Package store holds bytes at revisions: the seam between knarr and etcd.
// Two implementations exist, etcd/ and mem/, and storetest/ is the one suite
// that both pass. Objects, codecs and caches are built on top of it.
package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

var (
	// ErrNotFound: no value at that key.
	ErrNotFound = errors.New("store: key not found")
	// ErrCompacted: the asked revision is older than the history that is kept.
	ErrCompacted = errors.New("store: revision compacted")
	// ErrFutureRevision: the asked revision has not been reached.
	ErrFutureRevision = errors.New("store: revision is in the future")
	// ErrNoSpace: the store's quota is used up; deletes still work.
	ErrNoSpace = errors.New("store: quota exceeded")
	// ErrDiskFull: there is hardly any room left on the disk; deletes still work,
	// and writes that belong to one (Deleting) while some of the reserve is left.
	ErrDiskFull = errors.New("store: disk full")
	// ErrTooLarge: the value is longer than MaxValue and MaxOverhead allow.
	ErrTooLarge = errors.New("store: value is too large")
)

// MaxValue bounds one value, in bytes: etcd's limit of 1.5 MiB for a request,
// less room for the key and the request's own fields, and less MaxOverhead,
// which a Transformer may add.
const (
	MaxValue    = 3<<19 - 4<<10 - MaxOverhead
	MaxOverhead = 1 << 10
)

type deleting struct{}

// Deleting marks the writes of an object's way to its deletion. They may use
// what is kept free on the disk, for they lead to its having room again.
func Deleting(ctx context.Context) context.Context {
	return context.WithValue(ctx, deleting{}, true)
}

// IsDeleting reports whether Deleting has marked ctx.
func IsDeleting(ctx context.Context) bool { return ctx.Value(deleting{}) != nil }

// Conflict is returned by a write whose expectation about the present value
// did not hold. Current is the value that stands, with Rev 0 if there is none.
type Conflict struct {
	Current KV
}

func (c *Conflict) Error() string {
	return fmt.Sprintf("store: %s is at revision %d", c.Current.Key, c.Current.Rev)
}

// KV is one value. Value must not be changed by the receiver.
type KV struct {
	Key   string
	Value []byte
	Rev   int64 // revision of the last change of this key
	Stale bool  // a Transformer would write it in another way now
}

// Event is one change of one key. A delete has Value nil, Rev the revision of
// the deletion, and Prev the last value.
type Event struct {
	KV
	Delete bool
	Prev   *KV // nil for a creation
}

// Batch is what a watch delivers: all changes up to and including Rev, in
// revision order. Events may be empty: then it only says how far the watch is.
type Batch struct {
	Events []Event
	Rev    int64
}

// ListOptions of one page.
type ListOptions struct {
	Rev   int64  // read at this revision; 0: the newest (linearizable)
	After string // only keys greater than this one; empty: from the prefix on
	Limit int    // 0: everything
}

// Page of a list. Rev is the revision that was read, More whether keys follow.
type Page struct {
	KVs  []KV
	Rev  int64
	More bool
}

// Store is a linearizable, revisioned map. All methods block until done or ctx
// ends, and are safe for concurrent use.
type Store interface {
	Get(ctx context.Context, key string) (KV, error)
	List(ctx context.Context, prefix string, o ListOptions) (Page, error)
	// Put writes value if the key's revision is expect (0: it must not exist)
	// and returns the new revision, or a *Conflict.
	Put(ctx context.Context, key string, value []byte, expect int64) (int64, error)
	// Delete removes the key if its revision is expect, and returns the
	// revision of the deletion, or a *Conflict.
	Delete(ctx context.Context, key string, expect int64) (int64, error)
	// Watch delivers every change under prefix with a revision greater than
	// after, in order, each exactly once, until ctx ends or recv returns an
	// error, which Watch then returns. ErrCompacted if after is too old.
	Watch(ctx context.Context, prefix string, after int64, recv func(Batch) error) error
	// Revision is the newest committed revision (linearizable).
	Revision(ctx context.Context) (int64, error)
}

// Progresser is what a store may offer to a watcher that has to know at once
// how far it is: every running watch delivers an empty batch soon, unless it
// is behind and delivers events anyway. The request may get lost.
type Progresser interface {
	RequestProgress(ctx context.Context) error
}

// LeanWatcher is what a store may offer to a watcher that remembers the values
// itself: Watch, without the Prev of any event, for less work per event.
type LeanWatcher interface {
	WatchLean(ctx context.Context, prefix string, after int64, recv func(Batch) error) error
}

// WatchLean watches without the Prev of any event, whether or not the store
// saves itself the work.
func WatchLean(ctx context.Context, s Store, prefix string, after int64, recv func(Batch) error) error {
	if lean, ok := s.(LeanWatcher); ok {
		return lean.WatchLean(ctx, prefix, after, recv)
	}
	return s.Watch(ctx, prefix, after, func(b Batch) error {
		b.Events = slices.Clone(b.Events) // the store may hand the same slice to others
		for i := range b.Events {
			b.Events[i].Prev = nil
		}
		return recv(b)
	})
}

// RequestProgress asks a store that offers it; the watches of others are
// always current.
func RequestProgress(ctx context.Context, s Store) error {
	if p, ok := s.(Progresser); ok {
		return p.RequestProgress(ctx)
	}
	return nil
}

// Transformer changes values on their way to and from the disk, for instance
// to encrypt them. key is authenticated with the value where the cipher can.
type Transformer interface {
	ToStore(ctx context.Context, key string, value []byte) ([]byte, error)
	// FromStore also says whether ToStore would write the value in another way now.
	FromStore(ctx context.Context, key string, value []byte) (_ []byte, stale bool, _ error)
}
