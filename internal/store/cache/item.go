package cache

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/fields"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
)

// formats is the number of codec.Format values.
const formats = 3

// Item is one object at one revision. It never changes.
type Item struct {
	Kind            *kinds.Kind
	Namespace, Name string
	Rev             int64

	stored []byte       // nil once decoded for good
	object kinds.Object // nil: decode stored when asked
	base   *Item        // what this item shows in another form or at another revision

	encoded [formats]atomic.Pointer[encoding]
	set     *encodedSet
}

func newItem(t *table, key string, kv store.KV, set *encodedSet) (*Item, error) {
	it := &Item{Kind: t.kind, Name: key, Rev: kv.Rev, stored: kv.Value, set: set}
	if t.kind.Namespaced {
		it.Namespace, it.Name, _ = strings.Cut(key, "/")
	}
	obj, err := codec.DecodeStored(t.kind, kv.Value, kv.Rev)
	if err != nil {
		return nil, err
	}
	if t.decoded {
		it.object, it.stored = obj, nil
	}
	return it, nil
}

// NewItem is an item outside of any cache: an object of the past.
func NewItem(k *kinds.Kind, key string, kv store.KV) (*Item, error) {
	it, err := newItem(&table{kind: stored(k), decoded: true}, key, kv, &encodedSet{})
	if err != nil {
		return nil, err
	}
	return it.as(k), nil
}

// At is the item at a later revision, as the event of its deletion shows it.
func (it *Item) At(rev int64) *Item {
	return &Item{Kind: it.Kind, Namespace: it.Namespace, Name: it.Name, Rev: rev, base: it, set: it.set}
}

// as is the item in the form of k, another kind of the same stored objects.
func (it *Item) as(k *kinds.Kind) *Item {
	if it.Kind == k {
		return it
	}
	return &Item{Kind: k, Namespace: it.Namespace, Name: it.Name, Rev: it.Rev, base: it, set: it.set}
}

// Object is the decoded form. It is shared: never change it.
func (it *Item) Object() kinds.Object {
	switch {
	case it.object != nil:
		return it.object
	case it.base == nil:
		obj, err := codec.DecodeStored(it.Kind, it.stored, it.Rev)
		if err != nil {
			// newItem has decoded these very bytes.
			panic("cache: " + err.Error())
		}
		return obj
	}
	obj := it.base.Object()
	if it.Kind != it.base.Kind {
		obj = it.Kind.FromStored(obj)
	} else {
		obj = obj.DeepCopyObject().(kinds.Object)
	}
	obj.SetResourceVersion(strconv.FormatInt(it.Rev, 10))
	return obj
}

// Labels of the object.
func (it *Item) Labels() map[string]string { return it.Object().GetLabels() }

// Field is the value of a selectable field; ok is false if there is none of
// that name.
func (it *Item) Field(name string) (value string, ok bool) {
	switch name {
	case "metadata.name":
		return it.Name, true
	case "metadata.namespace":
		return it.Namespace, true
	}
	fn := it.Kind.Fields[name]
	if fn == nil {
		return "", false
	}
	return fn(it.Object()), true
}

// Matches reports whether the item's fields are those that sel asks for.
func (it *Item) Matches(sel fields.Selector) bool {
	for _, r := range sel.Requirements() {
		v, _ := it.Field(r.Field)
		if (v == r.Value) == (r.Operator == "!=") {
			return false
		}
	}
	return true
}

// Bytes is the object encoded, with its resourceVersion. It is shared.
func (it *Item) Bytes(f codec.Format) ([]byte, error) {
	if e := it.encoded[f].Load(); e != nil {
		e.used.Store(true)
		return e.data, nil
	}
	data, err := codec.Encode(f, it.Object())
	if err != nil {
		return nil, err
	}
	it.set.add(&encoding{data: data, slot: &it.encoded[f]})
	return data, nil
}

// encoding is an encoded form that may be let go.
type encoding struct {
	data []byte
	slot *atomic.Pointer[encoding]
	used atomic.Bool // since it was last looked at for removal
}

// encodedSet bounds the encoded forms that are kept: first in, first out, with
// a second chance for what was used. A hit takes no lock.
type encodedSet struct {
	mu    sync.Mutex
	limit int64
	bytes int64
	queue []*encoding
}

func (s *encodedSet) add(e *encoding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !e.slot.CompareAndSwap(nil, e) {
		return // somebody was faster
	}
	s.queue = append(s.queue, e)
	s.bytes += int64(len(e.data))
	for n := len(s.queue); s.bytes > s.limit && n > 0; n-- {
		old := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		if old.used.Swap(false) {
			s.queue = append(s.queue, old)
			continue
		}
		old.slot.Store(nil)
		s.bytes -= int64(len(old.data))
	}
}
