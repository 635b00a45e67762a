package ownership

import (
	"reflect"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// form is how the value of a field is owned.
type form int

const (
	atom    form = iota // as one: scalars, and lists and objects that are declared so
	record              // a struct, field by field
	dict                // a Go map, entry by entry
	items               // a list of structs, told apart by keys
	members             // a list of scalars, each for itself
	foreign             // by what it holds: only the library knows
)

// shape is what a walk must know of a Go type in its place. Pointers are
// looked through.
type shape struct {
	form   form
	typ    reflect.Type
	fields []member // of a record, sorted by name
	elem   *shape   // of maps and lists
	keys   []keyField
	equal  func(a, b reflect.Value) bool                // of an atom that is not null
	read   func(c any, v reflect.Value) (same, ok bool) // of types with their own JSON; see applier.set
}

// member is one field of a record.
type member struct {
	name  string
	elem  string  // as it stands in a set
	index int     // in the struct
	path  [][]int // or through embedded structs, some of which may be pointers
	empty bool    // omitempty
	zero  func(reflect.Value) bool
	shape *shape
}

// keyField is a key of a list of structs and where it stands in them.
type keyField struct {
	key
	field member
}

// shapes are made when a kind is first written; there are as many as types.
type shapes struct {
	relations map[[2]string]relation
	mu        sync.Mutex
	structs   map[structShape]*shape
	roots     sync.Map // root by reflect.Type
}

// root is the shape of an object's type, and an object without content.
type root struct {
	*shape
	blank reflect.Value
	loose bool // has lists whose items may lack all keys; the library takes no such object
}

// structShape: a struct has one shape, or two if some place declares it atomic.
type structShape struct {
	typ    reflect.Type
	atomic bool
}

func newShapes() *shapes {
	return &shapes{relations: readRelations(), structs: map[structShape]*shape{}}
}

// of the struct type of an object.
func (s *shapes) of(t reflect.Type) root {
	if r, ok := s.roots.Load(t); ok {
		return r.(root)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := root{shape: s.make(t, relation{}), blank: reflect.New(t).Elem()}
	r.loose = r.isLoose(map[*shape]bool{})
	s.roots.Store(t, r)
	return r
}

func (s *shapes) make(t reflect.Type, r relation) *shape {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if converts(t) {
		return convertible(t)
	}
	switch t.Kind() {
	case reflect.Struct:
		return s.record(t, r)
	case reflect.Map:
		sh := &shape{form: dict, typ: t, elem: s.make(t.Elem(), relation{})}
		sh.equal = sh.equalMaps
		if r.kind == "atomic" {
			sh.form = atom
		}
		return sh
	case reflect.Slice:
		return s.list(t, r)
	default:
		return &shape{form: atom, typ: t, equal: reflect.Value.Equal}
	}
}

func (s *shapes) list(t reflect.Type, r relation) *shape {
	sh := &shape{form: atom, typ: t, elem: s.make(t.Elem(), relation{}), equal: equalLists}
	if t.Elem().Kind() == reflect.String {
		sh.equal = equalStrings
	}
	switch r.kind {
	case "set":
		sh.form = members
	case "map":
		sh.form, sh.equal = items, sh.equalItems
		for _, k := range r.keys {
			i := slices.IndexFunc(sh.elem.fields, func(m member) bool { return m.name == k.name })
			if i < 0 {
				sh.form = foreign // the tests see that there are none
				return sh
			}
			sh.keys = append(sh.keys, keyField{k, sh.elem.fields[i]})
		}
		slices.SortFunc(sh.keys, func(a, b keyField) int { return strings.Compare(a.name, b.name) })
	}
	return sh
}

func (s *shapes) record(t reflect.Type, r relation) *shape {
	id := structShape{t, r.kind == "atomic" || r.kind == "" && s.relations[[2]string{modelName(t), "-"}].kind == "atomic"}
	if sh := s.structs[id]; sh != nil {
		return sh
	}
	sh := &shape{form: record, typ: t}
	sh.equal = sh.equalStructs
	if id.atomic {
		sh.form = atom
	}
	s.structs[id] = sh // before its fields: types refer to themselves
	s.addFields(sh, modelName(t), t, nil)
	slices.SortFunc(sh.fields, func(a, b member) int { return strings.Compare(a.name, b.name) })
	return sh
}

// addFields of t, which is the record's type or one that it embeds.
func (s *shapes) addFields(sh *shape, model string, t reflect.Type, path [][]int) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || f.PkgPath != "" && !f.Anonymous {
			continue
		}
		at := append(slices.Clone(path), f.Index)
		if f.Anonymous && name == "" {
			e := f.Type
			if e.Kind() == reflect.Pointer {
				e = e.Elem()
			}
			if e.Kind() == reflect.Struct {
				s.addFields(sh, model, e, at)
			}
			continue
		}
		if name == "" {
			name = f.Name
		}
		m := member{name: name, elem: "f:" + name, index: i, path: at, shape: s.make(f.Type, s.relations[[2]string{model, name}])}
		if len(at) == 1 {
			m.path = nil
		}
		for o := range strings.SplitSeq(opts, ",") {
			m.empty = m.empty || o == "omitempty"
			if o == "omitzero" {
				m.zero = value.OmitZeroFunc(f.Type)
			}
		}
		sh.fields = append(sh.fields, m)
	}
}

// in is the field's value in a struct, and whether JSON would show it. A nil
// pointer or slice that is shown is null.
func (m *member) in(v reflect.Value) (reflect.Value, bool) {
	v, ok := m.place(v)
	if !ok || m.empty && empty(v) || m.zero != nil && m.zero(v) {
		return v, false
	}
	return v, true
}

// place of the field in a struct; there is none in an embedded struct that is
// not there.
func (m *member) place(v reflect.Value) (reflect.Value, bool) {
	if m.path == nil {
		return v.Field(m.index), true
	}
	for _, p := range m.path {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return reflect.Value{}, false
			}
			v = v.Elem()
		}
		v = v.FieldByIndex(p)
	}
	return v, true
}

// field of a record by its element in a set; nil if there is none.
func (sh *shape) field(elem string) *member {
	if sh.form != record || !strings.HasPrefix(elem, "f:") {
		return nil
	}
	i, ok := slices.BinarySearchFunc(sh.fields, elem[len("f:"):], func(m member, name string) int { return strings.Compare(m.name, name) })
	if !ok {
		return nil
	}
	return &sh.fields[i]
}

// empty as encoding/json understands omitempty.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	default:
		return v.IsZero()
	}
}

// deref looks through a pointer; null says that there is nothing behind it.
func deref(v reflect.Value) (_ reflect.Value, null bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return v, true
		}
		return v.Elem(), false
	case reflect.Map, reflect.Slice:
		return v, v.IsNil()
	}
	return v, false
}

// isLoose: somewhere within are lists whose items may lack all keys.
func (sh *shape) isLoose(seen map[*shape]bool) bool {
	if sh == nil || seen[sh] {
		return false
	}
	seen[sh] = true
	loose := sh.form == items && !slices.ContainsFunc(sh.keys, func(k keyField) bool { return !k.field.empty || k.def != nil })
	for i := range sh.fields {
		loose = sh.fields[i].shape.isLoose(seen) || loose
	}
	return sh.elem.isLoose(seen) || loose
}

// tells: the items of all lists within can be told apart, or are the same.
func (sh *shape) tells(v reflect.Value) bool {
	v, null := deref(v)
	if null {
		return true
	}
	switch sh.form {
	case record:
		for i := range sh.fields {
			if f, shown := sh.fields[i].in(v); shown && !sh.fields[i].shape.tells(f) {
				return false
			}
		}
	case items:
		for i := range v.Len() {
			if _, err := sh.elemOf(v.Index(i)); err != nil || !sh.elem.tells(v.Index(i)) {
				return false
			}
		}
	}
	return true
}

// equalLists is as strict as the library: an empty list is not null.
func equalLists(a, b reflect.Value) bool {
	if a.Len() != b.Len() {
		return false
	}
	if a.Pointer() == b.Pointer() {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

func equalStrings(a, b reflect.Value) bool {
	if a.Len() != b.Len() {
		return false
	}
	for i := range a.Len() {
		if a.Index(i).String() != b.Index(i).String() {
			return false
		}
	}
	return true
}

// equalItems: of lists whose items are compared one by one, these need not be.
func (sh *shape) equalItems(a, b reflect.Value) bool {
	if a.Len() != b.Len() {
		return false
	}
	for i := range a.Len() {
		if !sh.elem.same(a.Index(i), b.Index(i)) {
			return false
		}
	}
	return true
}

func (sh *shape) equalMaps(a, b reflect.Value) bool {
	if a.Len() != b.Len() {
		return false
	}
	for it := a.MapRange(); it.Next(); {
		v := b.MapIndex(it.Key())
		if !v.IsValid() || !sh.elem.same(it.Value(), v) {
			return false
		}
	}
	return true
}

func (sh *shape) equalStructs(a, b reflect.Value) bool {
	for i := range sh.fields {
		m := &sh.fields[i]
		x, shownX := m.in(a)
		y, shownY := m.in(b)
		if shownX != shownY || shownX && !m.shape.same(x, y) {
			return false
		}
	}
	return true
}

// same compares two values that are shown, as JSON.
func (sh *shape) same(a, b reflect.Value) bool {
	a, nullA := deref(a)
	b, nullB := deref(b)
	if nullA || nullB {
		return nullA == nullB
	}
	return sh.equal(a, b)
}
