package cache

import (
	"context"
	"sort"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// Event is one change. Item is the new state; of a deletion the last one, at
// the deletion's revision. Prev is nil for a creation.
type Event struct {
	Type       EventType
	Item, Prev *Item
	Rev        int64

	seq    int64 // in the table
	at     int64 // Unix time in nanoseconds
	bytes  int32 // of the value in the store
	others forms[*Event]
}

// change is the event as views take it; they know what was there before.
func (e *Event) change() view.Change {
	if e.Type == Deleted {
		return view.Change{Kind: e.Item.Kind, Old: e.Prev.Object(), Rev: e.Rev}
	}
	return view.Change{Kind: e.Item.Kind, New: e.Item.Object(), Rev: e.Rev}
}

// as is the event in the form of another kind, the same for all who ask.
func (e *Event) as(k *kinds.Kind) *Event {
	return e.others.get(k, func() *Event {
		o := &Event{Type: e.Type, Item: e.Item.as(k), Rev: e.Rev, seq: e.seq, at: e.at}
		if e.Prev != nil {
			o.Prev = e.Prev.as(k)
		}
		return o
	})
}

// Frame is the event as it goes over the wire, made once for all watchers.
func (e *Event) Frame(ctx context.Context, f codec.Format) ([]byte, error) {
	return e.Item.frame(ctx, f, e.Type)
}

// Watcher reads a shared window from its own place: it has no buffer, and
// costs nothing while it is not woken. One goroutine may use it at a time.
type Watcher struct {
	cache  *Cache
	table  *table
	kind   *kinds.Kind
	prefix string // namespace; empty: all
	field  string // of the group, if there is one
	value  string
	group  *group // nil: the table's window
	next   int64  // sequence number of the next event
	from   int64  // revision after which it began
	after  int64  // revision that has been delivered
}

// group is the window of those who watch the objects with one value of a
// field: only they are woken by its events, and only by those.
type group struct {
	events   []*Event
	dropped  int64 // sequence number of the last event that was forgotten; -1: none
	moved    signal
	watchers int
}

func (g *group) add(e *Event) {
	g.events = append(g.events, e)
	g.moved.wake()
}

// forget drops what the table's window drops: everything below first.
func (g *group) forget(first int64) {
	drop := sort.Search(len(g.events), func(i int) bool { return g.events[i].seq >= first })
	if drop == 0 {
		return
	}
	g.dropped = g.events[drop-1].seq
	clear(g.events[:drop])
	g.events = g.events[drop:]
}

// Watch returns what happens after a revision, in a namespace or in all.
func (c *Cache) Watch(k *kinds.Kind, namespace string, after int64) (*Watcher, error) {
	return c.watch(&Watcher{cache: c, kind: k, prefix: namespace, after: after})
}

// WatchField is Watch for objects that have, or had before the change, a value
// in a selectable field: a node's pods, or one secret. It is not woken by
// others, so that thousands can watch. It has to be stopped.
func (c *Cache) WatchField(k *kinds.Kind, namespace string, after int64, field, value string) (*Watcher, error) {
	return c.watch(&Watcher{cache: c, kind: k, prefix: namespace, after: after, field: field, value: value})
}

func (c *Cache) watch(w *Watcher) (*Watcher, error) {
	t := c.table(w.kind)
	if t == nil {
		return nil, ErrRemoved
	}
	w.table, w.from = t, w.after
	if w.field == "" {
		c.mu.RLock()
		defer c.mu.RUnlock()
	} else { // a group may be made
		c.mu.Lock()
		defer c.mu.Unlock()
	}
	switch {
	case t.removed:
		return nil, ErrRemoved
	case w.after < t.floor:
		return nil, ErrGone
	}
	i := sort.Search(len(t.events), func(i int) bool { return t.events[i].Rev > w.after })
	w.next = t.first + int64(i)
	// Fields are those of the stored form: others are not grouped.
	if w.field != "" && w.kind == t.kind {
		w.group = t.join(w.field, w.value)
	}
	return w, nil
}

// join finds or makes a group; a new one begins with what the window holds.
func (t *table) join(field, value string) *group {
	if t.groups == nil {
		t.groups = map[string]map[string]*group{}
	}
	if t.groups[field] == nil {
		t.groups[field] = map[string]*group{}
	}
	g := t.groups[field][value]
	if g == nil {
		g = &group{dropped: t.first - 1}
		for _, e := range t.events {
			if e.concerns(field, value) {
				g.events = append(g.events, e)
			}
		}
		t.groups[field][value] = g
	}
	g.watchers++
	return g
}

func (e *Event) concerns(field, value string) bool {
	return e.Item.field(field) == value || e.Prev != nil && e.Prev.field(field) == value
}

// Stop lets a watcher's group go. The watcher must not be used any more.
func (w *Watcher) Stop() {
	if w.group == nil {
		return
	}
	w.cache.mu.Lock()
	defer w.cache.mu.Unlock()
	if w.group.watchers--; w.group.watchers == 0 {
		groups := w.table.groups[w.field]
		if delete(groups, w.value); len(groups) == 0 {
			delete(w.table.groups, w.field)
		}
	}
	w.group = nil
}

// Next blocks until something of the watcher's has happened, or ctx ends, and
// returns it with the revision up to which the watcher now knows everything.
func (w *Watcher) Next(ctx context.Context) (events []*Event, rev int64, err error) {
	for {
		fresh, moved, err := w.fresh()
		if err != nil {
			return nil, w.after, err
		}
		if moved == nil {
			if mine := w.mine(fresh); len(mine) > 0 {
				return mine, w.after, nil
			}
			continue // they were of other namespaces
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, w.after, ctx.Err()
		}
	}
}

// fresh takes what the window has for the watcher, or says what to wait for.
func (w *Watcher) fresh() (events []*Event, moved <-chan struct{}, err error) {
	w.cache.mu.RLock()
	defer w.cache.mu.RUnlock()
	if events, err = w.peek(); err != nil {
		return nil, nil, err
	}
	if len(events) == 0 {
		if w.table.removed {
			return nil, nil, ErrRemoved
		}
		if w.group != nil {
			return nil, w.group.moved.wait(), nil
		}
		return nil, w.table.moved.wait(), nil
	}
	w.catchUp()
	for len(events) > 0 && events[0].Rev <= w.from {
		events = events[1:] // the watch began in the future
	}
	return events, nil, nil
}

func (w *Watcher) catchUp() {
	w.next = w.table.first + int64(len(w.table.events))
	w.after = max(w.after, w.cache.rev)
}

// peek copies what is new: the window's own slice is cleared below first. The
// caller holds the lock.
func (w *Watcher) peek() ([]*Event, error) {
	t := w.table
	if w.group == nil {
		if w.next < t.first {
			return nil, ErrSlow
		}
		return append([]*Event(nil), t.events[w.next-t.first:]...), nil
	}
	if w.next <= w.group.dropped {
		return nil, ErrSlow
	}
	g := w.group.events
	from := sort.Search(len(g), func(i int) bool { return g[i].seq >= w.next })
	return append([]*Event(nil), g[from:]...), nil
}

// mine keeps the events of the namespace, in the watcher's form of the kind,
// and of the field's value where there is no group for it.
func (w *Watcher) mine(events []*Event) []*Event {
	filter := w.field != "" && w.group == nil
	if w.prefix == "" && w.kind == w.table.kind && !filter {
		return events
	}
	out := events[:0]
	for _, e := range events {
		if w.prefix != "" && e.Item.Namespace != w.prefix {
			continue
		}
		if w.kind != w.table.kind {
			e = e.as(w.kind)
		}
		if filter && !e.concerns(w.field, w.value) {
			continue
		}
		out = append(out, e)
	}
	return out
}

// Progress is the revision up to which the watcher has missed nothing, for
// bookmarks.
func (w *Watcher) Progress() int64 {
	c := w.cache
	c.mu.RLock()
	defer c.mu.RUnlock()
	if events, err := w.peek(); err == nil && len(events) == 0 {
		w.catchUp()
	}
	return w.after
}
