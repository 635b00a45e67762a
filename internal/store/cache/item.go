package cache

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
)

// Item is one object at one revision. It never changes.
type Item struct {
	Kind            *kinds.Kind
	Namespace, Name string
	Rev             int64

	stored []byte       // as in the store; nil if a typed object is kept
	object kinds.Object // nil: decode stored when asked
	base   *Item        // what this item shows in another form or at another revision

	others  forms[*Item] // this item in the form of other kinds
	encoded [slots]atomic.Pointer[encoding]
	set     *encodedSet // nil: encode each time
}

// forms are the same thing in the form of other kinds: versions, mostly. Those
// that were asked for last are kept, so that all who ask share what was
// encoded. A kind that is served no more is asked for no more.
type forms[T any] struct {
	kept atomic.Pointer[[]form[T]]
}

type form[T any] struct {
	kind *kinds.Kind
	as   T
}

const formsKept = 3

func (f *forms[T]) get(k *kinds.Kind, convert func() T) T {
	for {
		kept := f.kept.Load()
		var list []form[T]
		if kept != nil {
			list = *kept
		}
		for _, o := range list {
			if o.kind == k {
				return o.as
			}
		}
		one := form[T]{k, convert()}
		next := append([]form[T]{one}, list[:min(len(list), formsKept-1)]...)
		if f.kept.CompareAndSwap(kept, &next) {
			return one.as
		}
	}
}

func newItem(t *table, key string, kv store.KV, set *encodedSet) (*Item, error) {
	it := &Item{Kind: t.kind, Name: key, Rev: kv.Rev, stored: kv.Value, set: set}
	if t.kind.Namespaced {
		it.Namespace, it.Name, _ = strings.Cut(key, "/")
	}
	// Also what is not kept decoded has to be something that can be.
	obj, err := codec.Load(context.Background(), t.kind, kv.Value, kv.Rev)
	if err != nil {
		return nil, err
	}
	if t.decoded {
		it.object = obj
		if t.kind.Load == nil {
			it.stored = nil
		}
	}
	return it, nil
}

// NewItem is an item outside of any cache: an object of the past.
func NewItem(k *kinds.Kind, key string, kv store.KV) (*Item, error) {
	if k.Load != nil {
		it := &Item{Kind: k, Name: key, Rev: kv.Rev, stored: kv.Value}
		if k.Namespaced {
			it.Namespace, it.Name, _ = strings.Cut(key, "/")
		}
		return it, nil
	}
	it, err := newItem(&table{kind: stored(k), decoded: true}, key, kv, nil)
	if err != nil {
		return nil, err
	}
	return it.as(k), nil
}

// ItemOf is an item of an object that is in no store. It is shared from now on.
func ItemOf(k *kinds.Kind, obj kinds.Object) *Item {
	return &Item{Kind: k, Namespace: obj.GetNamespace(), Name: obj.GetName(), object: obj}
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
	return it.others.get(k, func() *Item {
		return &Item{Kind: k, Namespace: it.Namespace, Name: it.Name, Rev: it.Rev, base: it, set: it.set}
	})
}

// Object is the decoded form of an item that is of the cache's own kind, not of
// a custom version. It is shared: never change it.
func (it *Item) Object() kinds.Object {
	obj, err := it.Load(context.Background())
	if err != nil {
		panic("cache: " + err.Error()) // newItem has decoded these very bytes
	}
	return obj
}

// Load is the decoded form; of a custom kind a webhook may have to be asked for
// it. It may be shared: never change it.
func (it *Item) Load(ctx context.Context) (kinds.Object, error) {
	switch {
	case it.object != nil:
		return it.object, nil
	case it.Kind.Load != nil:
		return codec.Load(ctx, it.Kind, it.Stored(), it.Rev)
	case it.base == nil:
		return codec.DecodeStored(it.Kind, it.stored, it.Rev)
	}
	obj := it.base.Object()
	if it.Kind != it.base.Kind {
		obj = it.Kind.FromStored(obj)
	} else {
		obj = obj.DeepCopyObject().(kinds.Object)
	}
	obj.SetResourceVersion(strconv.FormatInt(it.Rev, 10))
	return obj, nil
}

// Stored is what the store has, of a custom kind; of others it may be nil.
func (it *Item) Stored() []byte {
	for it.base != nil {
		it = it.base
	}
	return it.stored
}

// field is the value of a selectable field, of the cache's own kind; there are
// no others.
func (it *Item) field(name string) string {
	v, err := it.value(context.Background(), name)
	if err != nil {
		panic("cache: " + err.Error())
	}
	return v
}

func (it *Item) value(ctx context.Context, name string) (string, error) {
	switch name {
	case "metadata.name":
		return it.Name, nil
	case "metadata.namespace":
		return it.Namespace, nil
	}
	fn := it.Kind.Fields[name]
	if fn == nil {
		return "", nil
	}
	obj, err := it.Load(ctx)
	if err != nil {
		return "", err
	}
	return fn(obj), nil
}

// Matches reports whether the item has what the selectors ask for; nil asks
// for nothing.
func (it *Item) Matches(ctx context.Context, want labels.Selector, sel fields.Selector) (bool, error) {
	if sel != nil {
		for _, r := range sel.Requirements() {
			v, err := it.value(ctx, r.Field)
			if err != nil || (v == r.Value) == (r.Operator == "!=") {
				return false, err
			}
		}
	}
	if want == nil || want.Empty() {
		return true, nil
	}
	obj, err := it.Load(ctx)
	return err == nil && want.Matches(labels.Set(obj.GetLabels())), err
}

// Bytes is the object encoded, with its resourceVersion. It is shared, except
// as YAML, which is made each time.
func (it *Item) Bytes(ctx context.Context, f codec.Format) ([]byte, error) {
	slot, kept := slotOf(f)
	if !kept {
		return it.encode(ctx, f)
	}
	if e := it.encoded[slot].Load(); e != nil {
		e.used.Store(true)
		return e.data, nil
	}
	data, err := it.encode(ctx, f)
	if err != nil {
		return nil, err
	}
	it.set.put(&it.encoded[slot], nil, &encoding{data: data})
	return data, nil
}

// Metadata is the object's metadata in JSON, by encode. It is shared.
func (it *Item) Metadata(ctx context.Context, encode func(kinds.Object) ([]byte, error)) ([]byte, error) {
	if e := it.encoded[metadataSlot].Load(); e != nil {
		e.used.Store(true)
		return e.data, nil
	}
	obj, err := it.Load(ctx)
	if err != nil {
		return nil, err
	}
	data, err := encode(obj)
	if err != nil {
		return nil, err
	}
	it.set.put(&it.encoded[metadataSlot], nil, &encoding{data: data})
	return data, nil
}

func (it *Item) encode(ctx context.Context, f codec.Format) ([]byte, error) {
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
	obj, err := it.Load(ctx)
	if err != nil {
		return nil, err
	}
	return codec.Encode(f, obj)
}

// frame is the item in a watch event. One that is kept serves Bytes too.
func (it *Item) frame(ctx context.Context, f codec.Format, t EventType) ([]byte, error) {
	slot, kept := slotOf(f)
	if !kept {
		return Frame(ctx, f, t, it)
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
	} else if data, err = it.encode(ctx, f); err != nil {
		return nil, err
	}
	frame, object := frameOf(f, t, data)
	it.set.put(&it.encoded[slot], old, &encoding{data: object, frame: frame, typ: t})
	return frame, nil
}
