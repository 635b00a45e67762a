package ownership

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// part is what a walk found at one path: whether it belongs to the set, and
// what below it does.
type part struct {
	member bool
	kids   set
}

func (p *part) add(elem string, k part) {
	if k.member || len(k.kids) > 0 {
		p.kids = append(p.kids, node{elem, k.member, k.kids})
	}
}

// differ compares objects as the library does, but Go values directly.
type differ struct {
	foreign bool // met something that only the library can compare
}

// diff returns the paths that are new or different in b, and those that are
// gone. Both are structs of the shape.
func (sh *shape) diff(a, b reflect.Value) (set, removed set, err error) {
	var d differ
	w, r := d.pair(sh, a, b)
	if d.foreign {
		return nil, nil, errForeign
	}
	return w.kids, r.kids, nil
}

// pair compares two values that are both shown. A null is like an object or a
// list without content, but not equal to an empty one.
func (d *differ) pair(sh *shape, a, b reflect.Value) (written, removed part) {
	a, nullA := deref(a)
	b, nullB := deref(b)
	if nullA && nullB {
		return
	}
	hollow := func(v reflect.Value, null bool) bool { return null || sh.hollow(v) }
	switch {
	case sh.form == foreign:
		d.foreign = true
	case sh.form == atom, hollow(a, nullA) && hollow(b, nullB):
		written.member = nullA != nullB || sh.form == atom && !sh.equal(a, b)
	case nullA:
		written.kids = d.all(sh, b).kids
	case nullB:
		removed.kids = d.all(sh, a).kids
	case sh.form == record:
		d.records(sh, a, b, &written, &removed)
	case sh.form == dict:
		d.dicts(sh, a, b, &written, &removed)
	default:
		d.lists(sh, a, b, &written, &removed)
	}
	return written, removed
}

// hollow: nothing of it would be shown inside.
func (sh *shape) hollow(v reflect.Value) bool {
	switch sh.form {
	case record:
		for i := range sh.fields {
			if _, shown := sh.fields[i].in(v); shown {
				return false
			}
		}
		return true
	case atom, foreign:
		return false
	default:
		return v.Len() == 0
	}
}

func (d *differ) records(sh *shape, a, b reflect.Value, written, removed *part) {
	for i := range sh.fields {
		m := &sh.fields[i]
		x, shownX := m.in(a)
		y, shownY := m.in(b)
		switch {
		case shownX && shownY:
			w, r := d.pair(m.shape, x, y)
			written.add(m.elem, w)
			removed.add(m.elem, r)
		case shownX:
			removed.add(m.elem, d.all(m.shape, x))
		case shownY:
			written.add(m.elem, d.all(m.shape, y))
		}
	}
}

func (d *differ) dicts(sh *shape, a, b reflect.Value, written, removed *part) {
	for _, k := range sortedKeys(b) {
		y := b.MapIndex(k)
		x := a.MapIndex(k)
		if !x.IsValid() {
			written.add(d.entry(k), d.all(sh.elem, y))
			continue
		}
		w, r := d.pair(sh.elem, x, y)
		written.add(d.entry(k), w)
		removed.add(d.entry(k), r)
	}
	for it := a.MapRange(); it.Next(); {
		if !b.MapIndex(it.Key()).IsValid() {
			removed.add(d.entry(it.Key()), d.all(sh.elem, it.Value()))
		}
	}
	removed.sort()
}

// entry is the element of a map's key.
func (d *differ) entry(k reflect.Value) string {
	if !plain(k.String()) {
		d.foreign = true
	}
	return "f:" + k.String()
}

func sortedKeys(m reflect.Value) []reflect.Value {
	keys := m.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	return keys
}

func (p *part) sort() {
	slices.SortFunc(p.kids, func(a, b node) int { return compareElems(a.elem, b.elem) })
}

// item of a list, by its element in a set.
type item struct {
	elem string
	v    reflect.Value
}

// lists compares item with item of the same element.
func (d *differ) lists(sh *shape, a, b reflect.Value, written, removed *part) {
	left, right := d.items(sh, a), d.items(sh, b)
	for i, y := range right {
		// Mostly nothing moves within a list.
		j := i
		if j >= len(left) || left[j].elem != y.elem {
			j = slices.IndexFunc(left, func(x item) bool { return x.elem == y.elem })
		}
		if j < 0 {
			written.add(y.elem, d.all(sh.elem, y.v))
			continue
		}
		w, r := d.pair(sh.elem, left[j].v, y.v)
		written.add(y.elem, w)
		removed.add(y.elem, r)
	}
	for _, x := range left {
		if !slices.ContainsFunc(right, func(y item) bool { return y.elem == x.elem }) {
			removed.add(x.elem, d.all(sh.elem, x.v))
		}
	}
	written.sort()
	removed.sort()
}

// items of a list of which no two have the same element; lists with such, and
// with items that are null, are left to the library.
func (d *differ) items(sh *shape, v reflect.Value) []item {
	out := make([]item, v.Len())
	for i := range out {
		e := v.Index(i)
		elem, err := sh.elemOf(e)
		if err != nil || slices.ContainsFunc(out[:i], func(o item) bool { return o.elem == elem }) {
			d.foreign = true
			return nil
		}
		out[i] = item{elem, e}
	}
	return out
}

// elemOf an item of a list.
func (sh *shape) elemOf(v reflect.Value) (string, error) {
	v, null := deref(v)
	if null {
		return "", errForeign
	}
	if sh.form == members {
		s, err := scalar(v)
		return "v:" + s, err
	}
	var b strings.Builder
	b.WriteString("k:{")
	for _, k := range sh.keys {
		f, shown := k.field.in(v)
		var s string
		var err error
		if shown {
			s, err = scalar(f)
		} else if def := defaultOf(k.key, k.field.shape.typ); def == nil {
			continue // part of the key is that it is absent
		} else {
			s, err = scalar(reflect.ValueOf(def))
		}
		if err != nil {
			return "", err
		}
		if b.Len() > len("k:{") {
			b.WriteByte(',')
		}
		b.WriteString(`"` + k.name + `":` + s)
	}
	if b.Len() == len("k:{") {
		return "", errForeign
	}
	b.WriteByte('}')
	return b.String(), nil
}

func scalar(v reflect.Value) (string, error) {
	v, null := deref(v)
	if null || converts(v.Type()) {
		return "", errForeign
	}
	switch v.Kind() {
	case reflect.String:
		return jsonString(v.String())
	case reflect.Int32, reflect.Int64, reflect.Int:
		return strconv.FormatInt(v.Int(), 10), nil
	case reflect.Bool:
		return strconv.FormatBool(v.Bool()), nil
	}
	return "", errForeign
}

// all is a value of which the other side shows nothing: the path itself, and
// everything below that is owned for itself.
func (d *differ) all(sh *shape, v reflect.Value) part {
	p := part{member: true}
	v, null := deref(v)
	if null || sh.form == atom {
		return p
	}
	switch sh.form {
	case record:
		for i := range sh.fields {
			m := &sh.fields[i]
			if f, shown := m.in(v); shown {
				p.add(m.elem, d.all(m.shape, f))
			}
		}
	case dict:
		for _, k := range sortedKeys(v) {
			p.add(d.entry(k), d.all(sh.elem, v.MapIndex(k)))
		}
	case items, members:
		for _, it := range d.items(sh, v) {
			p.add(it.elem, d.all(sh.elem, it.v))
		}
		p.sort()
	default:
		d.foreign = true
	}
	return p
}
