// Package cache is what reads and watches are served from: every object of
// every kind at the newest revision, its encoded bytes made once and shared,
// and a window of past events. One watch of the store feeds it, in revision
// order, and it feeds the views of the process's components.
package cache

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
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
)

const (
	// defaultWindow is how many events of a kind are kept. A reconnecting
	// client is seconds behind; at 100 changes a second this is over a minute.
	defaultWindow = 8192
	// windowAge drops older events, so that a quiet kind does not keep the
	// objects of yesterday alive. etcd keeps five minutes too.
	windowAge = 5 * time.Minute
	// defaultBytes bounds the encoded forms that are kept: all of 10,000 pods
	// in JSON and protobuf.
	defaultBytes = 64 << 20

	minBackoff = 10 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// Config of a Cache.
type Config struct {
	Store store.Store
	Kinds []*kinds.Kind
	// Decoded kinds keep their decoded form; others are decoded when asked.
	Decoded []*kinds.Kind
	Log     *slog.Logger
	Window  int              // events kept per kind; 0: 8192
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

	byKind   map[*kinds.Kind]*table
	byPrefix map[string]*table
	ready    chan struct{}

	mu    sync.RWMutex
	rev   int64
	moved chan struct{} // closed and replaced with every batch
	feeds []*view.View
}

// table is one kind.
type table struct {
	kind    *kinds.Kind
	decoded bool
	items   btree.Map[string, *Item]
	frozen  *btree.Map[string, *Item] // a copy for lists until the next write

	events []*Event // the window, by revision
	first  int64    // sequence number of events[0]
	floor  int64    // revision up to which events have been forgotten
	moved  chan struct{}
}

// New makes an empty cache; it does no I/O.
func New(cfg Config) (*Cache, error) {
	c := &Cache{store: cfg.Store, log: cfg.Log, now: cfg.Now, window: cfg.Window,
		byKind: map[*kinds.Kind]*table{}, byPrefix: map[string]*table{}, ready: make(chan struct{}), moved: make(chan struct{})}
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
	c.encoded = &encodedSet{limit: cfg.Bytes}
	for _, k := range cfg.Kinds {
		if !k.Stored() {
			continue
		}
		t := &table{kind: k, decoded: slices.Contains(cfg.Decoded, k), moved: make(chan struct{})}
		c.byKind[k], c.byPrefix[k.Prefix] = t, t
	}
	return c, nil
}

// Ready is closed once the first list is in.
func (c *Cache) Ready() <-chan struct{} { return c.ready }

// Run fills the cache and follows the store until ctx ends. It rides out a
// store that is away.
func (c *Cache) Run(ctx context.Context) error {
	wait := minBackoff
	fill := true
	for ctx.Err() == nil {
		var err error
		if fill {
			err = c.FillFrom(ctx)
			fill = err != nil
		}
		if err == nil {
			err = c.store.Watch(ctx, kinds.Root, c.Rev(), func(b store.Batch) error {
				wait = minBackoff
				c.Apply(b)
				return nil
			})
			fill = errors.Is(err, store.ErrCompacted)
		}
		if ctx.Err() != nil {
			break
		}
		c.log.Warn("the store's watch broke off", "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, maxBackoff)
	}
	return nil
}

// FillFrom makes the content that of the store now. What differs from before
// becomes events, so watchers need not begin anew.
func (c *Cache) FillFrom(ctx context.Context) error {
	page, err := c.store.List(ctx, kinds.Root, store.ListOptions{})
	if err != nil {
		return fmt.Errorf("cannot read the store: %w", err)
	}
	seen := make(map[string]bool, len(page.KVs))
	batch := store.Batch{Rev: page.Rev}
	for _, kv := range page.KVs {
		seen[kv.Key] = true
		if old := c.at(kv.Key); old == nil || old.Rev != kv.Rev {
			batch.Events = append(batch.Events, store.Event{KV: kv})
		}
	}
	slices.SortFunc(batch.Events, func(a, b store.Event) int { return int(a.Rev - b.Rev) })
	for _, t := range c.byKind {
		t.items.Scan(func(key string, it *Item) bool {
			if full := t.kind.KeyPrefix("") + key; !seen[full] {
				batch.Events = append(batch.Events, store.Event{KV: store.KV{Key: full, Rev: page.Rev}, Delete: true})
			}
			return true
		})
	}
	select {
	case <-c.ready:
		c.Apply(batch)
	default:
		c.apply(batch, false)
		close(c.ready)
	}
	return nil
}

func (c *Cache) at(key string) *Item {
	t, rest := c.tableOf(key)
	if t == nil {
		return nil
	}
	it, _ := t.items.Get(rest)
	return it
}

// tableOf finds the kind of a store key: its prefix has one part or two.
func (c *Cache) tableOf(key string) (t *table, rest string) {
	rest, ok := strings.CutPrefix(key, kinds.Root)
	if !ok {
		return nil, ""
	}
	first := strings.IndexByte(rest, '/')
	if first < 0 {
		return nil, ""
	}
	if t := c.byPrefix[rest[:first]]; t != nil {
		return t, rest[first+1:]
	}
	second := strings.IndexByte(rest[first+1:], '/')
	if second < 0 {
		return nil, ""
	}
	return c.byPrefix[rest[:first+1+second]], rest[first+second+2:]
}

// Apply takes what the store's watch delivers. Only one goroutine may call it.
func (c *Cache) Apply(b store.Batch) { c.apply(b, true) }

func (c *Cache) apply(b store.Batch, events bool) {
	changes := c.decode(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	woken := map[*table]bool{}
	for _, ch := range changes {
		e := ch.table.apply(ch)
		if e == nil {
			continue
		}
		if events {
			ch.table.remember(e, c.window)
			woken[ch.table] = true
		}
		for _, v := range c.feeds {
			if v.Has(ch.table.kind) {
				v.Apply(e.change())
			}
		}
	}
	c.rev = max(c.rev, b.Rev)
	for _, v := range c.feeds {
		v.ProgressAll(c.rev) // quiet kinds are complete up to here too
	}
	for _, t := range c.byKind {
		if !events {
			t.floor = c.rev
		}
	}
	for t := range woken {
		close(t.moved)
		t.moved = make(chan struct{})
	}
	close(c.moved)
	c.moved = make(chan struct{})
}

// pending is a store event whose object is already decoded.
type pending struct {
	table *table
	key   string
	item  *Item // nil: deletion
	rev   int64
	at    time.Time
}

// decode works outside the lock. A value that cannot be read is logged and
// left out: it must not take the others with it.
func (c *Cache) decode(b store.Batch) []pending {
	out := make([]pending, 0, len(b.Events))
	now := c.now()
	for _, e := range b.Events {
		t, key := c.tableOf(e.Key)
		if t == nil {
			continue
		}
		p := pending{table: t, key: key, rev: e.Rev, at: now}
		if !e.Delete {
			it, err := newItem(t, key, e.KV, c.encoded)
			if err != nil {
				c.log.Error("cannot decode a stored object: it is left out", "key", e.Key, "error", err)
				continue
			}
			p.item = it
		}
		out = append(out, p)
	}
	return out
}

// apply changes the table; nil if nothing changed.
func (t *table) apply(p pending) *Event {
	prev, had := t.items.Get(p.key)
	e := &Event{Rev: p.rev, Item: p.item, Prev: prev, at: p.at}
	switch {
	case p.item == nil && !had:
		return nil
	case p.item == nil:
		e.Type, e.Item = Deleted, prev.At(p.rev)
		t.items.Delete(p.key)
	case had && prev.Rev >= p.rev:
		return nil // old news
	default:
		e.Type = Added
		if had {
			e.Type = Modified
		}
		t.items.Set(p.key, p.item)
	}
	t.frozen = nil
	return e
}

// remember appends to the window and drops what is too old.
func (t *table) remember(e *Event, window int) {
	t.events = append(t.events, e)
	drop := max(0, len(t.events)-window)
	for drop < len(t.events)-1 && e.at.Sub(t.events[drop].at) > windowAge {
		drop++
	}
	if drop > 0 {
		t.floor = t.events[drop-1].Rev
		t.first += int64(drop)
		clear(t.events[:drop]) // let the objects go
		t.events = t.events[drop:]
	}
}

// Rev is the revision up to which the cache knows everything.
func (c *Cache) Rev() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.rev
}

// WaitRev blocks until the cache knows everything up to rev.
func (c *Cache) WaitRev(ctx context.Context, rev int64) error {
	for {
		c.mu.RLock()
		ok, moved := c.rev >= rev, c.moved
		c.mu.RUnlock()
		if ok {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Feed keeps the view's kinds current from now on, with the same decoded
// objects. Every kind of the view has to be one of Config.Decoded.
func (c *Cache) Feed(v *view.View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range v.Kinds() {
		t := c.byKind[k]
		objects := make([]kinds.Object, 0, t.items.Len())
		t.items.Scan(func(_ string, it *Item) bool {
			objects = append(objects, it.Object())
			return true
		})
		v.Replace(k, objects, c.rev)
	}
	c.feeds = append(c.feeds, v)
}

// Get returns one object, or nil.
func (c *Cache) Get(k *kinds.Kind, namespace, name string) *Item {
	t := c.byKind[stored(k)]
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
	t := c.byKind[stored(k)]
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

