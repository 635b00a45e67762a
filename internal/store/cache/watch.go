package cache

import (
	"context"
	"encoding/binary"
	"sort"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// EventType in the words of the watch protocol.
type EventType string

const (
	Added    EventType = "ADDED"
	Modified EventType = "MODIFIED"
	Deleted  EventType = "DELETED"
	Bookmark EventType = "BOOKMARK"
)

// Event is one change. Item is the new state; of a deletion the last one, at
// the deletion's revision. Prev is nil for a creation.
type Event struct {
	Type       EventType
	Item, Prev *Item
	Rev        int64

	at     time.Time
	frames [formats]atomic.Pointer[[]byte]
}

// change is the event as views take it.
func (e *Event) change() view.Change {
	c := view.Change{Kind: e.Item.Kind, Rev: e.Rev}
	if e.Prev != nil {
		c.Old = e.Prev.Object()
	}
	if e.Type != Deleted {
		c.New = e.Item.Object()
	}
	return c
}

// Frame is the event as it goes over the wire, made once for all watchers.
func (e *Event) Frame(f codec.Format) ([]byte, error) {
	if p := e.frames[f].Load(); p != nil {
		return *p, nil
	}
	frame, err := Frame(f, e.Type, e.Item)
	if err != nil {
		return nil, err
	}
	e.frames[f].Store(&frame)
	return frame, nil
}

// Frame writes a watch event of an item: a line of JSON, or a length and a
// protobuf message.
func Frame(f codec.Format, t EventType, it *Item) ([]byte, error) {
	data, err := it.Bytes(f)
	if err != nil {
		return nil, err
	}
	return RawFrame(f, t, data)
}

// RawFrame is Frame for an object that is encoded already.
func RawFrame(f codec.Format, t EventType, object []byte) ([]byte, error) {
	if f != codec.Protobuf {
		for len(object) > 0 && object[len(object)-1] == '\n' {
			object = object[:len(object)-1]
		}
		frame := make([]byte, 0, len(object)+32)
		frame = append(frame, `{"type":"`...)
		frame = append(frame, t...)
		frame = append(frame, `","object":`...)
		frame = append(frame, object...)
		return append(frame, '}', '\n'), nil
	}
	e := metav1.WatchEvent{Type: string(t), Object: runtime.RawExtension{Raw: object}}
	frame := make([]byte, 4+e.Size())
	n, err := e.MarshalTo(frame[4:])
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(frame, uint32(n))
	return frame[:4+n], nil
}

// Watcher reads the shared window from its own place: it has no buffer, and
// costs nothing while it is not woken.
type Watcher struct {
	cache  *Cache
	table  *table
	kind   *kinds.Kind
	prefix string // namespace; empty: all
	next   int64  // sequence number of the next event
	after  int64  // revision that has been delivered
}

// Watch returns what happens after a revision, in a namespace or in all.
func (c *Cache) Watch(k *kinds.Kind, namespace string, after int64) (*Watcher, error) {
	t := c.byKind[stored(k)]
	c.mu.RLock()
	defer c.mu.RUnlock()
	if after < t.floor {
		return nil, ErrGone
	}
	i := sort.Search(len(t.events), func(i int) bool { return t.events[i].Rev > after })
	return &Watcher{cache: c, table: t, kind: k, prefix: namespace, next: t.first + int64(i), after: after}, nil
}

// Next blocks until something has happened, or ctx ends, and returns it with
// the revision up to which the watcher now knows everything. The events may be
// none: they were of other namespaces.
func (w *Watcher) Next(ctx context.Context) (events []*Event, rev int64, err error) {
	for {
		w.cache.mu.RLock()
		fresh, moved, now, slow := w.table.since(w.next), w.table.moved, w.cache.rev, w.next < w.table.first
		w.cache.mu.RUnlock()
		if slow {
			return nil, w.after, ErrSlow
		}
		if len(fresh) > 0 {
			w.next += int64(len(fresh))
			w.after = max(w.after, now)
			return w.mine(fresh), w.after, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, w.after, ctx.Err()
		}
	}
}

// since returns the events from a sequence number on. The slice is shared with
// the window, whose elements are only ever cleared below first.
func (t *table) since(seq int64) []*Event {
	if seq < t.first || seq-t.first >= int64(len(t.events)) {
		return nil
	}
	return append([]*Event(nil), t.events[seq-t.first:]...)
}

// mine keeps the events of the namespace, in the watcher's form of the kind.
func (w *Watcher) mine(events []*Event) []*Event {
	if w.prefix == "" && w.kind == w.table.kind {
		return events
	}
	out := events[:0]
	for _, e := range events {
		if w.prefix != "" && e.Item.Namespace != w.prefix {
			continue
		}
		if w.kind != w.table.kind {
			converted := &Event{Type: e.Type, Item: e.Item.as(w.kind), Rev: e.Rev, at: e.at}
			if e.Prev != nil {
				converted.Prev = e.Prev.as(w.kind)
			}
			e = converted
		}
		out = append(out, e)
	}
	return out
}

// Progress is the revision up to which the watcher has missed nothing, for
// bookmarks.
func (w *Watcher) Progress() int64 {
	w.cache.mu.RLock()
	defer w.cache.mu.RUnlock()
	if w.next == w.table.first+int64(len(w.table.events)) {
		w.after = max(w.after, w.cache.rev)
	}
	return w.after
}
