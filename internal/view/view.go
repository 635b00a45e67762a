// Package view holds decoded objects in memory: one shared, indexed view of
// the cluster per process, fed in revision order by the apiserver's cache or
// by a remote server, and read through immutable snapshots.
package view

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/tidwall/btree"
	"k8s.io/apimachinery/pkg/runtime/schema"

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

// Index finds objects of one kind by values derived from them; without a Kind
// it is one of every kind of the view.
type Index struct {
	Kind *kinds.Kind
	Keys func(kinds.Object) []string
}

// objectMap is ordered by namespace and name, or by an index's value, then
// those. Copies share what neither side changes.
type objectMap = btree.Map[string, kinds.Object]

// View is written by one feed per kind and read by anybody.
type View struct {
	indexes []*Index // of every kind
	layout  atomic.Pointer[layout]

	mu    sync.Mutex
	subs  []*func(Change)
	moved chan struct{} // closed when a table moves; nil: nobody waits
	last  *Snapshot     // nil once a table has changed since it was taken
	floor int64         // every kind is complete up to here
}

// layout says which kinds there are. It never changes: when a kind comes or
// goes, another one takes its place.
type layout struct {
	kinds    []*kinds.Kind
	tables   []*table
	position map[*kinds.Kind]int
	byName   map[schema.GroupResource]*kinds.Kind
	byKind   map[schema.GroupKind]*kinds.Kind
}

func newLayout(ks []*kinds.Kind, tables []*table) *layout {
	l := &layout{kinds: ks, tables: tables, position: make(map[*kinds.Kind]int, len(ks)),
		byName: make(map[schema.GroupResource]*kinds.Kind, len(ks)), byKind: make(map[schema.GroupKind]*kinds.Kind, len(ks))}
	for i, k := range ks {
		l.position[k] = i
		l.byName[k.GroupResource()], l.byKind[k.GVK.GroupKind()] = k, k
	}
	return l
}

// table of a kind, or nil.
func (l *layout) table(k *kinds.Kind) *table {
	if i, ok := l.position[k]; ok {
		return l.tables[i]
	}
	return nil
}

type table struct {
	objects objectMap
	keys    []*Index
	indexes []*objectMap
	rev     int64
	synced  bool
	late    bool         // added to a running view, and not filled yet
	frozen  *frozenTable // shared by snapshots until the next write
}

func newTable(k *kinds.Kind, indexes []*Index) *table {
	t := &table{}
	for _, ix := range indexes {
		if (ix.Kind == nil || ix.Kind == k) && !slices.Contains(t.keys, ix) {
			t.keys, t.indexes = append(t.keys, ix), append(t.indexes, new(objectMap))
		}
	}
	return t
}

// New makes an empty view of the kinds. Indexes of other kinds are a
// programming error and panic.
func New(ks []*kinds.Kind, indexes ...*Index) *View {
	v := &View{}
	var distinct []*kinds.Kind
	var tables []*table
	for _, k := range ks {
		if !slices.Contains(distinct, k) {
			distinct, tables = append(distinct, k), append(tables, newTable(k, indexes))
		}
	}
	for _, ix := range indexes {
		switch {
		case ix.Kind == nil:
			v.indexes = append(v.indexes, ix)
		case !slices.Contains(distinct, ix.Kind):
			panic("view: an index of " + ix.Kind.String() + ", which the view does not hold")
		}
	}
	v.layout.Store(newLayout(distinct, tables))
	return v
}

// Add makes the view hold one more kind, empty until its first Replace.
func (v *View) Add(k *kinds.Kind) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.layout.Load()
	if l.table(k) != nil {
		return
	}
	t := newTable(k, v.indexes)
	t.late = true
	v.layout.Store(newLayout(append(slices.Clip(l.kinds), k), append(slices.Clip(l.tables), t)))
	v.last = nil
	v.wake()
}

// Remove takes a kind out of the view. For subscribers its objects are deleted.
func (v *View) Remove(k *kinds.Kind) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.layout.Load()
	t := l.table(k)
	if t == nil {
		return
	}
	for _, o := range slices.Collect(scan[kinds.Object](&t.objects, "")) {
		v.apply(t, Change{Kind: k, Old: o, Rev: max(t.rev, v.floor)})
	}
	i := l.position[k]
	v.layout.Store(newLayout(slices.Delete(slices.Clone(l.kinds), i, i+1), slices.Delete(slices.Clone(l.tables), i, i+1)))
	v.last = nil
	v.wake()
}

// Kinds that the view holds, in the order in which they came.
func (v *View) Kinds() []*kinds.Kind { return slices.Clone(v.layout.Load().kinds) }

// Has reports whether the view holds k.
func (v *View) Has(k *kinds.Kind) bool { return v.layout.Load().table(k) != nil }

// table of a kind that the view holds; asking for another is a programming
// error and panics. The caller holds the lock.
func (v *View) table(k *kinds.Kind) *table {
	t := v.layout.Load().table(k)
	if t == nil {
		panic("view: it does not hold " + k.String())
	}
	return t
}

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
	return v.movedLocked()
}

func (v *View) movedLocked() <-chan struct{} {
	if v.moved == nil {
		v.moved = make(chan struct{})
	}
	return v.moved
}

// Apply makes one change. What the view has seen already is dropped, so that
// feeds may deliver twice. Old is filled from the view.
func (v *View) Apply(c Change) {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.layout.Load().table(c.Kind)
	if t == nil || !t.isNews(c) {
		return
	}
	if c.Rev > t.rev {
		t.rev = c.Rev
		t.frozen, v.last = nil, nil
	}
	v.apply(t, c)
	v.wake()
}

// isNews: changes come in the order of their revisions. One revision changes
// several objects if somebody deletes a range of keys in etcd, so at the
// revision that was reached the object itself tells.
func (t *table) isNews(c Change) bool {
	if c.Rev != t.rev {
		return c.Rev > t.rev
	}
	o := c.Object()
	have, ok := t.objects.Get(objectKey(o.GetNamespace(), o.GetName()))
	if !ok {
		return c.New != nil
	}
	rev, err := strconv.ParseInt(have.GetResourceVersion(), 10, 64)
	return err == nil && rev < c.Rev
}

// Replace makes a kind's content that of a complete list read at rev, and
// marks the kind as synced. Subscribers see the differences; an object that
// has been made anew under its old name is deleted and created. rev may lie
// before what the view knew: the list is the truth, say after a restore.
func (v *View) Replace(k *kinds.Kind, objects []kinds.Object, rev int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.table(k)
	keep := make(map[string]bool, len(objects))
	for _, o := range objects {
		key := objectKey(o.GetNamespace(), o.GetName())
		keep[key] = true
		old, had := t.objects.Get(key)
		if had && old.GetUID() != o.GetUID() {
			v.apply(t, Change{Kind: k, Old: old, Rev: rev})
		} else if had && old.GetResourceVersion() == o.GetResourceVersion() {
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
	t.rev, t.synced, t.late = rev, true, false
	t.frozen, v.last = nil, nil
	v.wake()
}

// Progress says that the kind is complete up to rev although nothing changed.
func (v *View) Progress(k *kinds.Kind, rev int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if t := v.layout.Load().table(k); t != nil && rev > t.rev {
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
	for i, ix := range t.keys {
		reindex(t.indexes[i], ix, key, c.Old, c.New)
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

// reindex files an object under its new values. A value that stays is written
// in place: that costs half of removing and adding it.
func reindex(m *objectMap, ix *Index, key string, old, now kinds.Object) {
	var before, after []string
	if old != nil {
		before = ix.Keys(old)
	}
	if now != nil {
		after = ix.Keys(now)
	}
	for _, val := range before {
		if !slices.Contains(after, val) {
			m.Delete(val + "\x00" + key)
		}
	}
	for _, val := range after {
		m.Set(val+"\x00"+key, now)
	}
}

func (v *View) wake() {
	if v.moved != nil {
		close(v.moved)
		v.moved = nil
	}
}

// Rev is the revision up to which the view knows everything of the kind.
func (v *View) Rev(k *kinds.Kind) int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.table(k).upTo(v.floor)
}

// upTo is the revision up to which the table is complete; what all have
// reached does not hold for one that came later.
func (t *table) upTo(floor int64) int64 {
	if t.late {
		return t.rev
	}
	return max(t.rev, floor)
}

// WaitSynced blocks until every kind has had its first complete list.
func (v *View) WaitSynced(ctx context.Context) error {
	return v.wait(ctx, v.syncedLocked)
}

// Synced tells whether every kind has had its first complete list.
func (v *View) Synced() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.syncedLocked()
}

func (v *View) syncedLocked() bool {
	for _, t := range v.layout.Load().tables {
		if !t.synced {
			return false
		}
	}
	return true
}

// WaitRev blocks until the view knows everything of the kind up to rev.
func (v *View) WaitRev(ctx context.Context, k *kinds.Kind, rev int64) error {
	return v.wait(ctx, func() bool { return v.table(k).upTo(v.floor) >= rev })
}

// WaitReached blocks until the view knows everything of every kind up to rev.
func (v *View) WaitReached(ctx context.Context, rev int64) error {
	return v.wait(ctx, func() bool { return v.reachedLocked(rev) })
}

// Reached tells whether the view knows everything of every kind up to rev.
func (v *View) Reached(rev int64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.reachedLocked(rev)
}

func (v *View) reachedLocked(rev int64) bool {
	for _, t := range v.layout.Load().tables {
		if !t.synced || t.upTo(v.floor) < rev {
			return false
		}
	}
	return true
}

func (v *View) wait(ctx context.Context, done func() bool) error {
	for {
		v.mu.Lock()
		if done() {
			v.mu.Unlock()
			return nil
		}
		moved := v.movedLocked()
		v.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
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
