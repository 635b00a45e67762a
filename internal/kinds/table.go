package kinds

import (
	"slices"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Table is everything that is served. Built-in kinds never change; custom ones
// come and go. Readers take no lock: each sees the table as of one moment.
type Table struct {
	builtin []*Kind
	now     atomic.Pointer[Set]

	mu    sync.Mutex // of those who change it
	moved chan struct{}
}

// Set is a set of kinds, indexed. It never changes.
type Set struct {
	kinds      []*Kind
	byResource map[schema.GroupVersionResource]*Kind
	byGVK      map[schema.GroupVersionKind]*Kind
}

// NewTable makes a table of built-in kinds; it panics on two kinds of one
// name, which is a programming error.
func NewTable(builtin []*Kind) *Table {
	t := &Table{builtin: builtin, moved: make(chan struct{})}
	s := newSet(builtin)
	if len(s.kinds) != len(builtin) {
		panic("kinds: two entries of one name")
	}
	t.now.Store(s)
	return t
}

// newSet leaves out kinds whose name is taken by an earlier one.
func newSet(list []*Kind) *Set {
	s := &Set{
		kinds:      make([]*Kind, 0, len(list)),
		byResource: make(map[schema.GroupVersionResource]*Kind, len(list)),
		byGVK:      make(map[schema.GroupVersionKind]*Kind, len(list)),
	}
	for _, k := range list {
		if s.byResource[k.GroupVersionResource()] != nil || s.byGVK[k.GVK] != nil {
			continue
		}
		s.byResource[k.GroupVersionResource()] = k
		s.byGVK[k.GVK] = k
		s.kinds = append(s.kinds, k)
	}
	return s
}

// SetCustom replaces all kinds that are not built in. A custom kind never
// takes a built-in one's place.
func (t *Table) SetCustom(custom []*Kind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now.Store(newSet(slices.Concat(t.builtin, custom)))
	close(t.moved)
	t.moved = make(chan struct{})
}

// Moved is closed when the table changes the next time. Take it before what
// is looked up, so that no change is missed.
func (t *Table) Moved() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.moved
}

// Now is the table as it stands: the same pointer until it changes.
func (t *Table) Now() *Set { return t.now.Load() }

// All kinds in the table's order, the built-in ones first. Do not change the
// slice.
func (t *Table) All() []*Kind { return t.Now().kinds }

// ByResource returns the kind served at group/version/resource, or nil.
func (t *Table) ByResource(gvr schema.GroupVersionResource) *Kind { return t.Now().ByResource(gvr) }

// ByGVK returns the kind of that group, version and kind, or nil.
func (t *Table) ByGVK(gvk schema.GroupVersionKind) *Kind { return t.Now().ByGVK(gvk) }

// All kinds in the table's order. Do not change the slice.
func (s *Set) All() []*Kind { return s.kinds }

// ByResource returns the kind served at group/version/resource, or nil.
func (s *Set) ByResource(gvr schema.GroupVersionResource) *Kind { return s.byResource[gvr] }

// ByGVK returns the kind of that group, version and kind, or nil.
func (s *Set) ByGVK(gvk schema.GroupVersionKind) *Kind { return s.byGVK[gvk] }
