package cache

import (
	"math"
	"strings"
	"sync/atomic"

	"github.com/tidwall/btree"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
)

// signal wakes who waits; nobody pays for it if nobody does. wait needs the
// cache's lock for reading, so that nothing is missed between looking and
// waiting, wake needs it for writing.
type signal struct{ c atomic.Pointer[chan struct{}] }

func (s *signal) wait() <-chan struct{} {
	if c := s.c.Load(); c != nil {
		return *c
	}
	c := make(chan struct{})
	if s.c.CompareAndSwap(nil, &c) {
		return c
	}
	return *s.c.Load()
}

func (s *signal) wake() {
	if c := s.c.Swap(nil); c != nil {
		close(*c)
	}
}

// table is one kind.
type table struct {
	kind    *kinds.Kind
	decoded bool
	items   btree.Map[string, *Item]
	frozen  *btree.Map[string, *Item] // a copy for lists until the next write

	events []*Event // the window, by revision and sequence number
	first  int64    // sequence number of events[0]
	bytes  int64    // what the events' values take in the store
	floor  int64    // revision up to which events have been forgotten
	moved  signal
	fresh  bool // has events that nobody was woken for yet

	groups map[string]map[string]*group // field, value: watchers of few objects

	joining *backlog // nil once the table has its content
	removed bool
}

func newTable(k *kinds.Kind, decoded bool) *table {
	return &table{kind: k, decoded: decoded, floor: math.MaxInt64}
}

// layout says which kinds there are. It never changes: when a kind comes or
// goes, another one takes its place.
type layout struct {
	tables   []*table // those of the configuration first, in its order
	byPrefix map[string]*table
}

func newLayout(tables []*table) *layout {
	l := &layout{tables: tables, byPrefix: make(map[string]*table, len(tables))}
	for _, t := range tables {
		l.byPrefix[t.kind.Prefix] = t
	}
	return l
}

// table of what k's objects are kept as, or nil.
func (c *Cache) table(k *kinds.Kind) *table { return c.layout.Load().byPrefix[stored(k).Prefix] }

func (t *table) objects() []kinds.Object {
	out := make([]kinds.Object, 0, t.items.Len())
	t.items.Scan(func(_ string, it *Item) bool {
		out = append(out, it.Object())
		return true
	})
	return out
}

// tableOf finds the kind of a store key: its prefix has one part or two.
func (l *layout) tableOf(key string) (t *table, rest string) {
	rest, ok := strings.CutPrefix(key, kinds.Root)
	if !ok {
		return nil, ""
	}
	first := strings.IndexByte(rest, '/')
	if first < 0 {
		return nil, ""
	}
	if t := l.byPrefix[rest[:first]]; t != nil {
		return t, rest[first+1:]
	}
	second := strings.IndexByte(rest[first+1:], '/')
	if second < 0 {
		return nil, ""
	}
	return l.byPrefix[rest[:first+1+second]], rest[first+second+2:]
}

// pending is a change whose object is already decoded.
type pending struct {
	table *table
	key   string
	item  *Item // nil: deletion
	rev   int64
	bytes int
}

// Apply takes what the store's watch delivers. Only one goroutine may call it.
func (c *Cache) Apply(b store.Batch) {
	changes := c.decode(b.Events)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.change(changes, b.Rev, true)
	c.isReady()
}

// decode works outside the lock. A value that cannot be read is logged and
// left out, so that it does not take the others with it; what was there before
// stays.
func (c *Cache) decode(events []store.Event) []pending {
	out := make([]pending, 0, len(events))
	kinds := c.layout.Load()
	for _, e := range events {
		t, key := kinds.tableOf(e.Key)
		if t == nil {
			continue
		}
		p := pending{table: t, key: key, rev: e.Rev, bytes: len(e.Value)}
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

// change makes changes in order, tells the views if tell is set, and wakes
// watchers and readers. The caller holds the lock.
func (c *Cache) change(changes []pending, rev int64, tell bool) {
	now := c.now().UnixNano()
	for _, p := range changes {
		if p.table.removed {
			continue
		}
		if p.table.joining != nil {
			p.table.joining.changes = append(p.table.joining.changes, p)
			continue
		}
		e := p.table.apply(p)
		if e == nil {
			continue
		}
		e.at = now
		p.table.remember(e)
		if !tell {
			continue
		}
		for _, v := range c.feeds {
			if v.Has(p.table.kind) {
				v.Apply(e.change())
			}
		}
	}
	c.rev = max(c.rev, rev)
	for _, t := range c.layout.Load().tables {
		t.forget(now, c.window, c.encoded)
		if t.fresh {
			t.fresh = false
			t.moved.wake()
		}
	}
	if tell {
		for _, v := range c.feeds {
			v.ProgressAll(c.rev) // quiet kinds are complete up to here too
		}
	}
	c.moved.wake()
}

// apply changes the table; nil if nothing changed.
func (t *table) apply(p pending) *Event {
	prev, had := t.items.Get(p.key)
	e := &Event{Rev: p.rev, Item: p.item, Prev: prev, bytes: int32(p.bytes)}
	switch {
	case p.item == nil && !had:
		return nil
	case had && prev.Rev >= p.rev:
		return nil // old news
	case p.item == nil:
		e.Type, e.Item = Deleted, prev.At(p.rev)
		t.items.Delete(p.key)
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

// remember appends to the window, and to those of the watchers of few objects.
func (t *table) remember(e *Event) {
	e.seq = t.first + int64(len(t.events))
	t.events = append(t.events, e)
	t.bytes += int64(e.bytes)
	t.fresh = true
	t.groupsOf(e, func(g *group) { g.add(e) })
}

// groupsOf calls fn for the groups that an event belongs to.
func (t *table) groupsOf(e *Event, fn func(*group)) {
	for field, groups := range t.groups {
		now := e.Item.field(field)
		if g := groups[now]; g != nil {
			fn(g)
		}
		if e.Prev == nil {
			continue
		}
		if before := e.Prev.field(field); before != now {
			if g := groups[before]; g != nil {
				fn(g)
			}
		}
	}
}

// forget drops what is too old or too much from the window.
func (t *table) forget(now int64, window int, set *encodedSet) {
	drop := 0
	for n := len(t.events); drop < n; drop++ {
		e := t.events[drop]
		if n-drop <= window && t.bytes <= windowBytes && now-e.at <= int64(windowAge) {
			break
		}
		t.bytes -= int64(e.bytes)
		t.floor = e.Rev
		t.groupsOf(e, func(g *group) { g.forget(e.seq + 1) })
		// A newer state is in the table or the window; the older ones are
		// asked for no more.
		set.release(e.Prev)
		if e.Type == Deleted {
			set.release(e.Item)
		}
	}
	if drop == 0 {
		return
	}
	t.first += int64(drop)
	clear(t.events[:drop]) // let the objects go
	t.events = t.events[drop:]
	if len(t.events) == 0 {
		t.events = nil
	}
}
