package cache

import (
	"strconv"
	"strings"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/fields"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
)

// Item is one object at one revision. It never changes.
type Item struct {
	Kind            *kinds.Kind
	Namespace, Name string
	Rev             int64

	stored []byte       // as in the store; nil if the object is kept
	object kinds.Object // nil: decode stored when asked
	base   *Item        // what this item shows in another form or at another revision

	other   atomic.Pointer[Item] // this item in the form of another kind
	encoded [slots]atomic.Pointer[encoding]
	set     *encodedSet // nil: encode each time
}

func newItem(t *table, key string, kv store.KV, set *encodedSet) (*Item, error) {
	it := &Item{Kind: t.kind, Name: key, Rev: kv.Rev, stored: kv.Value, set: set}
	if t.kind.Namespaced {
		it.Namespace, it.Name, _ = strings.Cut(key, "/")
	}
	// Also what is not kept decoded has to be something that can be.
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
	it, err := newItem(&table{kind: stored(k), decoded: true}, key, kv, nil)
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
// All who ask get the same one, so that it is encoded once.
func (it *Item) as(k *kinds.Kind) *Item {
	if it.Kind == k {
		return it
	}
	if o := it.other.Load(); o != nil && o.Kind == k {
		return o
	}
	o := &Item{Kind: k, Namespace: it.Namespace, Name: it.Name, Rev: it.Rev, base: it, set: it.set}
	if !it.other.CompareAndSwap(nil, o) {
		if first := it.other.Load(); first.Kind == k {
			return first
		}
	}
	return o
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

// Bytes is the object encoded, with its resourceVersion. It is shared, except
// as YAML, which is made each time.
func (it *Item) Bytes(f codec.Format) ([]byte, error) {
	slot, kept := slotOf(f)
	if !kept {
		return codec.Encode(f, it.Object())
	}
	if e := it.encoded[slot].Load(); e != nil {
		e.used.Store(true)
		return e.data, nil
	}
	data, err := it.encode(f)
	if err != nil {
		return nil, err
	}
	it.set.put(&it.encoded[slot], nil, &encoding{data: data})
	return data, nil
}

func (it *Item) encode(f codec.Format) ([]byte, error) {
	// What was stored is what is served if no defaults are filled in on the
	// way.
	if f == codec.Protobuf && it.Kind.Default == nil {
		source := it
		if it.base != nil && it.base.Kind == it.Kind {
			source = it.base
		}
		if source.stored != nil {
			if data, ok := codec.WithRevision(source.stored, it.Rev); ok {
				return data, nil
			}
		}
	}
	return codec.Encode(f, it.Object())
}

// frame is the item in a watch event. One that is kept serves Bytes too.
func (it *Item) frame(f codec.Format, t EventType) ([]byte, error) {
	slot, kept := slotOf(f)
	if !kept {
		return Frame(f, t, it)
	}
	old := it.encoded[slot].Load()
	if old != nil && old.frame != nil && old.typ == t {
		old.used.Store(true)
		return old.frame, nil
	}
	var data []byte
	var err error
	if old != nil {
		data = old.data
	} else if data, err = it.encode(f); err != nil {
		return nil, err
	}
	frame, object := frameOf(f, t, data)
	it.set.put(&it.encoded[slot], old, &encoding{data: object, frame: frame, typ: t})
	return frame, nil
}
