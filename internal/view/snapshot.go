package view

import (
	"iter"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds"
)

// Snapshot is the view at one moment. All methods are safe for concurrent use.
type Snapshot struct {
	layout *layout
	tables []*frozenTable
	floor  int64
}

type frozenTable struct {
	objects *objectMap
	keys    []*Index
	indexes []*objectMap
	rev     int64
	late    bool
}

// Snapshot returns the present content. It costs nothing while nothing
// changes and a few small copies after a change; it never changes.
func (v *View) Snapshot() *Snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last != nil {
		return v.last
	}
	l := v.layout.Load()
	s := &Snapshot{layout: l, tables: make([]*frozenTable, len(l.tables)), floor: v.floor}
	for i, t := range l.tables {
		if t.frozen == nil {
			t.frozen = &frozenTable{objects: t.objects.Copy(), keys: t.keys, rev: t.rev, late: t.late, indexes: make([]*objectMap, len(t.indexes))}
			for j, m := range t.indexes {
				t.frozen.indexes[j] = m.Copy()
			}
		}
		s.tables[i] = t.frozen
	}
	v.last = s
	return s
}

// table of a kind that the view holds; asking for another is a programming
// error and panics.
func (s *Snapshot) table(k *kinds.Kind) *frozenTable {
	i, ok := s.layout.position[k]
	if !ok {
		panic("view: it does not hold " + k.String())
	}
	return s.tables[i]
}

// Kinds that the snapshot holds. Do not change the slice.
func (s *Snapshot) Kinds() []*kinds.Kind { return s.layout.kinds }

// Has reports whether the snapshot holds k.
func (s *Snapshot) Has(k *kinds.Kind) bool { return s.layout.table(k) != nil }

// ByName is the kind that the snapshot holds under a resource's name, or nil.
func (s *Snapshot) ByName(r schema.GroupResource) *kinds.Kind { return s.layout.byName[r] }

// ByGroupKind is the kind that the snapshot holds under that name, or nil.
func (s *Snapshot) ByGroupKind(gk schema.GroupKind) *kinds.Kind { return s.layout.byKind[gk] }

// Rev is the revision up to which the snapshot knows everything of the kind.
func (s *Snapshot) Rev(k *kinds.Kind) int64 {
	t := s.table(k)
	if t.late {
		return t.rev
	}
	return max(t.rev, s.floor)
}

// Len is the number of objects of the kind.
func (s *Snapshot) Len(k *kinds.Kind) int { return s.table(k).objects.Len() }

// Get returns one object, or nil. T is the kind's Go type, say *corev1.Pod.
func Get[T kinds.Object](s *Snapshot, k *kinds.Kind, namespace, name string) T {
	o, ok := s.table(k).objects.Get(objectKey(namespace, name))
	if !ok {
		var none T
		return none
	}
	return o.(T)
}

// Now returns one object as it stands, or nil, without the copies that a
// snapshot costs after each change: for requests that need an object or two.
func Now[T kinds.Object](v *View, k *kinds.Kind, namespace, name string) T {
	v.mu.Lock()
	defer v.mu.Unlock()
	o, ok := v.table(k).objects.Get(objectKey(namespace, name))
	if !ok {
		var none T
		return none
	}
	return o.(T)
}

// NowList returns a namespace's objects, or all (namespace ""), as they stand,
// like Now. It holds everybody up while it copies: for kinds with few objects.
func NowList[T kinds.Object](v *View, k *kinds.Kind, namespace string) []T {
	prefix := ""
	if namespace != "" {
		prefix = namespace + "/"
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Collect(scan[T](&v.table(k).objects, prefix))
}

// List yields a namespace's objects, or all (namespace ""), by namespace and
// name.
func List[T kinds.Object](s *Snapshot, k *kinds.Kind, namespace string) iter.Seq[T] {
	prefix := ""
	if namespace != "" {
		prefix = namespace + "/"
	}
	return scan[T](s.table(k).objects, prefix)
}

// By yields the objects that the index files under value, by namespace and
// name. The view has to have been made with the index.
func By[T kinds.Object](s *Snapshot, ix *Index, value string) iter.Seq[T] {
	return ByOf[T](s, ix, ix.Kind, value)
}

// ByOf is By for one kind of an index of every kind.
func ByOf[T kinds.Object](s *Snapshot, ix *Index, k *kinds.Kind, value string) iter.Seq[T] {
	t := s.table(k)
	position := slices.Index(t.keys, ix)
	if position < 0 {
		panic("view: an index of " + k.String() + " that the view was made without")
	}
	return scan[T](t.indexes[position], value+"\x00")
}

func scan[T kinds.Object](m *objectMap, prefix string) iter.Seq[T] {
	return func(yield func(T) bool) {
		m.Ascend(prefix, func(key string, o kinds.Object) bool {
			return strings.HasPrefix(key, prefix) && yield(o.(T))
		})
	}
}
