// Package view holds decoded objects in memory: one shared, indexed view of
// the cluster per process, fed in revision order by the apiserver's cache or
// by a remote server, and read through immutable snapshots.
package view

import (
	"context"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/tidwall/btree"

	"knarr.dev/knarr/internal/kinds"
)

// Change of one object. Old is nil for a creation, New for a deletion. Objects
// are shared by all readers and must not be changed.
type Change struct {
	Kind     *kinds.Kind
	Old, New kinds.Object
	Rev      int64
}

// Object is the newest state that the change knows: New, or Old of a deletion.
func (c Change) Object() kinds.Object {
	if c.New != nil {
		return c.New
	}
	return c.Old
}

// Index finds objects of one kind by values derived from them.
type Index struct {
	Kind *kinds.Kind
	Keys func(kinds.Object) []string
}

// View is written by one feed per kind and read by anybody.
type View struct {
	mu     sync.Mutex
	tables map[*kinds.Kind]*table
	subs   []*func(Change)
	moved  chan struct{} // closed and replaced whenever a table moves
	last   *Snapshot     // nil once a table has changed since it was taken
	floor  int64         // every kind is complete up to here
}

type table struct {
	objects btree.Map[string, kinds.Object]
	indexes map[*Index]*btree.Map[string, kinds.Object]
	rev     int64
	synced  bool
	frozen  *frozenTable // shared by snapshots until the next write
}

type frozenTable struct {
	objects *btree.Map[string, kinds.Object]
	indexes map[*Index]*btree.Map[string, kinds.Object]
	rev     int64
}

// New makes an empty view of the kinds. Indexes of other kinds are a
// programming error and panic.
func New(ks []*kinds.Kind, indexes ...*Index) *View {
	v := &View{tables: make(map[*kinds.Kind]*table, len(ks)), moved: make(chan struct{})}
	for _, k := range ks {
		v.tables[k] = &table{indexes: map[*Index]*btree.Map[string, kinds.Object]{}}
	}
	for _, ix := range indexes {
		v.tables[ix.Kind].indexes[ix] = new(btree.Map[string, kinds.Object])
	}
	return v
}

// Kinds that the view holds.
func (v *View) Kinds() []*kinds.Kind {
	ks := make([]*kinds.Kind, 0, len(v.tables))
	for k := range v.tables {
		ks = append(ks, k)
	}
	return ks
}

// Has reports whether the view holds k.
func (v *View) Has(k *kinds.Kind) bool { return v.tables[k] != nil }

// Subscribe calls fn for every change from now on, in order, before the next
// one is applied, until cancel is called. fn must be quick, must not block and
// must not call the view.
func (v *View) Subscribe(fn func(Change)) (cancel func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.subs = append(v.subs, &fn)
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.subs = slices.DeleteFunc(v.subs, func(p *func(Change)) bool { return p == &fn })
	}
}

// Moved is closed when a table changes or progresses the next time. Take it
// before the snapshot that is checked, so that no move is missed.
func (v *View) Moved() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.moved
}

// Apply makes one change. A change at or below the kind's revision is old news
// and dropped, so that feeds may deliver twice. Old is filled from the view.
func (v *View) Apply(c Change) {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.tables[c.Kind]
	if t == nil || c.Rev <= t.rev {
		return
	}
	t.rev = c.Rev
	v.apply(t, c)
	v.wake()
}

// Replace makes a kind's content that of a complete list read at rev, and
// marks the kind as synced. Subscribers see the differences.
func (v *View) Replace(k *kinds.Kind, objects []kinds.Object, rev int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.tables[k]
	keep := make(map[string]bool, len(objects))
	for _, o := range objects {
		key := objectKey(o.GetNamespace(), o.GetName())
		keep[key] = true
		if old, ok := t.objects.Get(key); ok && old.GetResourceVersion() == o.GetResourceVersion() && old.GetUID() == o.GetUID() {
			continue
		}
		v.apply(t, Change{Kind: k, New: o, Rev: rev})
	}
	var gone []kinds.Object
	t.objects.Scan(func(key string, o kinds.Object) bool {
		if !keep[key] {
			gone = append(gone, o)
		}
		return true
	})
	for _, o := range gone {
		v.apply(t, Change{Kind: k, Old: o, Rev: rev})
	}
	t.rev, t.synced = max(t.rev, rev), true
	v.wake()
}

// Progress says that the kind is complete up to rev although nothing changed.
func (v *View) Progress(k *kinds.Kind, rev int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if t := v.tables[k]; t != nil && rev > t.rev {
		t.rev, t.frozen, v.last = rev, nil, nil
		v.wake()
	}
}

// ProgressAll says that every kind is complete up to rev; for a single feed of
// all kinds, which has delivered everything up to rev. It costs no copies.
func (v *View) ProgressAll(rev int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if rev > v.floor {
		v.floor, v.last = rev, nil
		v.wake()
	}
}

// apply changes the table; the caller holds the lock.
func (v *View) apply(t *table, c Change) {
	o := c.Object()
	key := objectKey(o.GetNamespace(), o.GetName())
	old, had := t.objects.Get(key)
	c.Old = nil
	if had {
		c.Old = old
	}
	if c.New == nil && !had {
		return
	}
	t.frozen, v.last = nil, nil
	for ix, m := range t.indexes {
		if had {
			for _, val := range ix.Keys(old) {
				m.Delete(val + "\x00" + key)
			}
		}
		if c.New != nil {
			for _, val := range ix.Keys(c.New) {
				m.Set(val+"\x00"+key, c.New)
			}
		}
	}
	if c.New != nil {
		t.objects.Set(key, c.New)
	} else {
		t.objects.Delete(key)
	}
	for _, fn := range v.subs {
		(*fn)(c)
	}
}

func (v *View) wake() {
	close(v.moved)
	v.moved = make(chan struct{})
}

// Rev is the revision up to which the view knows everything of the kind.
func (v *View) Rev(k *kinds.Kind) int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return max(v.tables[k].rev, v.floor)
}

// WaitSynced blocks until every kind has had its first complete list.
func (v *View) WaitSynced(ctx context.Context) error {
	return v.wait(ctx, func() bool {
		for _, t := range v.tables {
			if !t.synced {
				return false
			}
		}
		return true
	})
}

// WaitRev blocks until the view knows everything of the kind up to rev.
func (v *View) WaitRev(ctx context.Context, k *kinds.Kind, rev int64) error {
	return v.wait(ctx, func() bool { return max(v.tables[k].rev, v.floor) >= rev })
}

func (v *View) wait(ctx context.Context, done func() bool) error {
	for {
		v.mu.Lock()
		ok, moved := done(), v.moved
		v.mu.Unlock()
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

// Snapshot returns the present content. It costs nothing while nothing
// changes and a few small copies after a change; it never changes.
func (v *View) Snapshot() *Snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last != nil {
		return v.last
	}
	s := &Snapshot{tables: make(map[*kinds.Kind]*frozenTable, len(v.tables)), floor: v.floor}
	for k, t := range v.tables {
		if t.frozen == nil {
			t.frozen = &frozenTable{objects: t.objects.Copy(), rev: t.rev, indexes: make(map[*Index]*btree.Map[string, kinds.Object], len(t.indexes))}
			for ix, m := range t.indexes {
				t.frozen.indexes[ix] = m.Copy()
			}
		}
		s.tables[k] = t.frozen
	}
	v.last = s
	return s
}

// Now returns one object as it stands, or nil, without the copies that a
// snapshot costs after each change: for requests that need an object or two.
func Now[T kinds.Object](v *View, k *kinds.Kind, namespace, name string) T {
	v.mu.Lock()
	defer v.mu.Unlock()
	o, ok := v.tables[k].objects.Get(objectKey(namespace, name))
	if !ok {
		var none T
		return none
	}
	return o.(T)
}

// Snapshot is the view at one moment. All methods are safe for concurrent use.
type Snapshot struct {
	tables map[*kinds.Kind]*frozenTable
	floor  int64
}

// Has reports whether the snapshot holds k.
func (s *Snapshot) Has(k *kinds.Kind) bool { return s.tables[k] != nil }

// Rev is the revision up to which the snapshot knows everything of the kind.
func (s *Snapshot) Rev(k *kinds.Kind) int64 { return max(s.tables[k].rev, s.floor) }

// Len is the number of objects of the kind.
func (s *Snapshot) Len(k *kinds.Kind) int { return s.tables[k].objects.Len() }

// Get returns one object, or nil. T is the kind's Go type, say *corev1.Pod.
func Get[T kinds.Object](s *Snapshot, k *kinds.Kind, namespace, name string) T {
	o, ok := s.tables[k].objects.Get(objectKey(namespace, name))
	if !ok {
		var none T
		return none
	}
	return o.(T)
}

// List yields a namespace's objects, or all (namespace ""), by namespace and
// name.
func List[T kinds.Object](s *Snapshot, k *kinds.Kind, namespace string) iter.Seq[T] {
	prefix := ""
	if namespace != "" {
		prefix = namespace + "/"
	}
	return scan[T](s.tables[k].objects, prefix)
}

// By yields the objects that the index files under value, by namespace and name.
func By[T kinds.Object](s *Snapshot, ix *Index, value string) iter.Seq[T] {
	return scan[T](s.tables[ix.Kind].indexes[ix], value+"\x00")
}

func scan[T kinds.Object](m *btree.Map[string, kinds.Object], prefix string) iter.Seq[T] {
	return func(yield func(T) bool) {
		m.Ascend(prefix, func(key string, o kinds.Object) bool {
			return strings.HasPrefix(key, prefix) && yield(o.(T))
		})
	}
}

// objectKey orders by namespace, then name; cluster-scoped kinds have no
// namespace and therefore no slash.
func objectKey(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}
