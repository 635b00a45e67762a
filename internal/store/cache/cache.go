// Package cache is what reads and watches are served from: every object of
// every kind at the newest revision, its encoded bytes made once and shared,
// and a window of past events. One watch of the store feeds it, in revision
// order, and it feeds the views of the process's components.
package cache

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/btree"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/view"
)

var (
	// ErrGone: the events after that revision are no longer known.
	ErrGone = errors.New("cache: revision is too old")
	// ErrSlow: a watcher was overtaken by the window and has to begin anew.
	ErrSlow = errors.New("cache: watcher is too slow")
	// ErrRemoved: the kind is not in the cache, or no longer.
	ErrRemoved = errors.New("cache: the kind is gone")
	// ErrRewound: the store is at an older revision than it was, because
	// somebody has restored it under the running server. Nothing that was read
	// holds any more: the process has to begin anew.
	ErrRewound = errors.New("cache: the store has gone back to an older revision")
)

const (
	// windowAge is how long events are kept: longer than the 75 s that upstream
	// keeps at least, and than the minute between two bookmarks, so that a
	// client that lost its connection finds its place again.
	windowAge = 2 * time.Minute
	// defaultWindow and windowBytes bound the events of a kind whatever their
	// age: 20,000 changes of a pod of 3.3 kB.
	defaultWindow = 32 << 10
	windowBytes   = 64 << 20
	// defaultBytes bounds the encoded forms that are kept: all of 10,000 pods
	// in JSON and protobuf.
	defaultBytes = 64 << 20
	// fillPage is how many values are read at a time.
	fillPage = 500

	minBackoff = 10 * time.Millisecond
	maxBackoff = 5 * time.Second
	// nudgeAfter is how long a reader waits for a revision before the store is
	// asked how far it is: mostly the event that brings it is on its way.
	nudgeAfter = 5 * time.Millisecond
)

// Config of a Cache.
type Config struct {
	Store store.Store
	Kinds []*kinds.Kind
	// Decoded kinds keep their decoded form; others are decoded when asked.
	// Every kind of a view that is fed should be one.
	Decoded []*kinds.Kind
	Log     *slog.Logger
	Window  int              // most events kept per kind; 0: 32768
	Bytes   int64            // bound of kept encoded forms; 0: 64 MiB
	Now     func() time.Time // optional: time.Now
}

// Cache of all kinds.
type Cache struct {
	store   store.Store
	log     *slog.Logger
	now     func() time.Time
	window  int
	encoded *encodedSet

	layout   atomic.Pointer[layout]
	ready    chan struct{}
	complete int64 // revision at which the cache is ready for the first time; only Run's goroutine uses it

	mu     sync.RWMutex
	rev    int64
	moved  signal // with every batch
	feeds  []*view.View
	filled bool      // has the content of some revision, if not yet of the newest
	nudged time.Time // when the store was last asked for its progress
}

// New makes an empty cache; it does no I/O.
func New(cfg Config) (*Cache, error) {
	c := &Cache{store: cfg.Store, log: cfg.Log, now: cfg.Now, window: cfg.Window,
		ready: make(chan struct{})}
	if cfg.Store == nil {
		return nil, errors.New("cache: a store is needed")
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.window == 0 {
		c.window = defaultWindow
	}
	if cfg.Bytes == 0 {
		cfg.Bytes = defaultBytes
	}
	c.encoded = newEncodedSet(cfg.Bytes)
	var tables []*table
	for _, k := range cfg.Kinds {
		if k.Stored() {
			tables = append(tables, newTable(k, slices.Contains(cfg.Decoded, k)))
		}
	}
	c.layout.Store(newLayout(tables))
	return c, nil
}

// Ready is closed once the first list is in.
func (c *Cache) Ready() <-chan struct{} { return c.ready }

// Rev is the revision up to which the cache knows everything.
func (c *Cache) Rev() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.rev
}

// WaitRev blocks until the cache knows everything up to rev. Revisions of
// which it has no event, because the store is shared, it learns by asking.
func (c *Cache) WaitRev(ctx context.Context, rev int64) error {
	asker, _ := c.store.(store.Progresser)
	var nudge *time.Timer
	var due <-chan time.Time
	wait := nudgeAfter
	for {
		c.mu.RLock()
		if c.rev >= rev {
			c.mu.RUnlock()
			return nil
		}
		moved := c.moved.wait()
		c.mu.RUnlock()
		if asker != nil && nudge == nil {
			nudge = time.NewTimer(wait)
			defer nudge.Stop()
			due = nudge.C
		}
		select {
		case <-moved:
		case <-due:
			if c.mayNudge() {
				if err := asker.RequestProgress(ctx); err != nil && ctx.Err() == nil {
					c.log.Warn("cannot ask the store for its progress", "error", err)
				}
			}
			wait = min(2*wait, time.Second)
			nudge.Reset(wait)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// mayNudge lets one of many waiting readers ask.
func (c *Cache) mayNudge() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now() // not c.now: readers wait in real time
	if now.Sub(c.nudged) < nudgeAfter {
		return false
	}
	c.nudged = now
	return true
}

// Feed keeps the view's kinds current from now on, with the same decoded
// objects. What the cache does not have yet follows with Add.
func (c *Cache) Feed(v *view.View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.feeds = append(c.feeds, v)
	if c.filled { // else the first list is still to come
		c.replace(v)
	}
}

// replace hands a view everything; the caller holds the lock.
func (c *Cache) replace(v *view.View) {
	for _, k := range v.Kinds() {
		if t := c.table(k); t != nil && t.joining == nil {
			v.Replace(k, t.objects(), c.rev)
		}
	}
	v.ProgressAll(c.rev)
}

// Get returns one object, or nil.
func (c *Cache) Get(k *kinds.Kind, namespace, name string) *Item {
	t := c.table(k)
	if t == nil {
		return nil
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	it, _ := t.items.Get(itemKey(k, namespace, name))
	if it == nil {
		return nil
	}
	return it.as(k)
}

// List is a kind's content at one revision.
type List struct {
	Rev    int64
	kind   *kinds.Kind
	prefix string
	items  *btree.Map[string, *Item]
}

// List returns the content of a namespace, or of all (namespace ""). It costs
// nothing but the copy after a write.
func (c *Cache) List(k *kinds.Kind, namespace string) List {
	t := c.table(k)
	if t == nil {
		return List{kind: k, Rev: c.Rev(), items: new(btree.Map[string, *Item])}
	}
	l := List{kind: k}
	if k.Namespaced && namespace != "" {
		l.prefix = namespace + "/"
	}
	c.mu.RLock()
	l.items, l.Rev = t.frozen, c.rev
	c.mu.RUnlock()
	if l.items != nil {
		return l
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.frozen == nil {
		t.frozen = t.items.Copy()
	}
	l.items, l.Rev = t.frozen, c.rev
	return l
}

// All yields the items by namespace and name.
func (l List) All() iter.Seq[*Item] { return l.After("") }

// After yields the items whose key (namespace/name, or name) is greater than
// key.
func (l List) After(key string) iter.Seq[*Item] {
	return func(yield func(*Item) bool) {
		l.items.Ascend(max(l.prefix, key), func(k string, it *Item) bool {
			if !strings.HasPrefix(k, l.prefix) {
				return false
			}
			return k == key || yield(it.as(l.kind))
		})
	}
}

// Len counts the items.
func (l List) Len() int {
	if l.prefix == "" {
		return l.items.Len()
	}
	n := 0
	for range l.All() {
		n++
	}
	return n
}

// stored is the kind that k's objects are kept as.
func stored(k *kinds.Kind) *kinds.Kind {
	if k.StoredAs != nil {
		return k.StoredAs
	}
	return k
}

func itemKey(k *kinds.Kind, namespace, name string) string {
	if k.Namespaced {
		return namespace + "/" + name
	}
	return name
}
