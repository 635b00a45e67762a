package cache

import (
	"sync"
	"sync/atomic"

	"knarr.dev/knarr/internal/codec"
)

// slots are what is kept: the object in two formats, and its metadata in JSON,
// for tables. YAML is for people, and made each time.
const (
	slots        = 3
	metadataSlot = 2
)

func slotOf(f codec.Format) (int, bool) {
	switch f {
	case codec.JSON:
		return 0, true
	case codec.Protobuf:
		return 1, true
	default:
		return 0, false
	}
}

// encoding is an encoded form that may be let go. What it holds never changes.
type encoding struct {
	data  []byte    // the object
	frame []byte    // the watch event around it, of which data is then a part
	typ   EventType // of the frame

	used atomic.Bool // since it was last looked at for removal

	// For the set, under its lock.
	slot       *atomic.Pointer[encoding]
	prev, next *encoding
}

func (e *encoding) size() int64 { return int64(max(len(e.data), len(e.frame))) }

// keepOneIn: a list of more than fits would push out each object right before
// it is needed again. If few are let in, most of what is there stays of use.
const keepOneIn = 8

// encodedSet bounds the encoded forms that are kept, by their bytes: first in,
// first out, with a second chance for what was used. A hit takes no lock.
// Frames, for which many watchers wait, always come in.
type encodedSet struct {
	mu    sync.Mutex
	limit int64
	bytes int64
	turn  int      // of objects that were not kept because it is full
	ring  encoding // its next is the oldest, its prev the newest
}

func newEncodedSet(limit int64) *encodedSet {
	s := &encodedSet{limit: limit}
	s.ring.prev, s.ring.next = &s.ring, &s.ring
	return s
}

// put makes e what the slot holds, unless somebody was faster than old says.
func (s *encodedSet) put(slot *atomic.Pointer[encoding], old, e *encoding) {
	if s == nil || e.size() > s.limit {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.frame == nil && s.bytes+e.size() > s.limit {
		if s.turn++; s.turn%keepOneIn != 0 {
			return
		}
	}
	if !slot.CompareAndSwap(old, e) {
		return
	}
	if old != nil {
		s.unlink(old)
	}
	e.slot = slot
	e.prev, e.next = s.ring.prev, &s.ring
	e.prev.next, e.next.prev = e, e
	s.bytes += e.size()
	for s.bytes > s.limit {
		oldest := s.ring.next
		if oldest.used.Swap(false) {
			s.toEnd(oldest)
			continue
		}
		oldest.slot.CompareAndSwap(oldest, nil)
		s.unlink(oldest)
	}
}

func (s *encodedSet) toEnd(e *encoding) {
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = s.ring.prev, &s.ring
	e.prev.next, e.next.prev = e, e
}

// unlink takes e out, if it is in.
func (s *encodedSet) unlink(e *encoding) {
	if e.next == nil {
		return
	}
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next, e.slot = nil, nil, nil
	s.bytes -= e.size()
}

// release lets go of what an item holds, in whatever form, once nobody will ask
// for it again.
func (s *encodedSet) release(it *Item) {
	if s == nil || it == nil {
		return
	}
	if others := it.others.kept.Load(); others != nil {
		for _, o := range *others {
			s.release(o.as)
		}
	}
	for i := range it.encoded {
		e := it.encoded[i].Load()
		if e == nil {
			continue
		}
		s.mu.Lock()
		if it.encoded[i].CompareAndSwap(e, nil) {
			s.unlink(e)
		}
		s.mu.Unlock()
	}
}
