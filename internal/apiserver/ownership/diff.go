package ownership

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// differ compares objects as the library does, but Go values directly. It
// collects what is new or different in the second object, and what is gone.
type differ struct {
	written, removed builder
	foreign          bool // met something that only the library can compare
}

// diff compares two structs of the shape. The sets are valid until the differ
// is used again.
func (d *differ) diff(sh *shape, a, b reflect.Value) (written, removed set, err error) {
	d.written.reset()
	d.removed.reset()
	d.foreign = false
	d.pair(sh, a, b)
	if d.foreign {
		return nil, nil, errForeign
	}
	return d.written.pop(0), d.removed.pop(0), nil
}

// within runs walk, and makes of what it pushes the kids of elem. Whether elem
// itself is written is what walk returns.
func (d *differ) within(elem string, sh *shape, a, b reflect.Value) {
	w, r := len(d.written.stack), len(d.removed.stack)
	member := d.pair(sh, a, b)
	if member || len(d.written.stack) > w {
		d.written.push(elem, member, d.written.pop(w))
	}
	if len(d.removed.stack) > r {
		d.removed.push(elem, false, d.removed.pop(r))
	}
}

// whole adds elem, which the other side does not show, and all below it.
func (d *differ) whole(to *builder, elem string, sh *shape, v reflect.Value) {
	mark := len(to.stack)
	d.all(to, sh, v)
	to.push(elem, true, to.pop(mark))
}

// pair compares two values that are both shown, and says whether they differ
// as such. A null is like an object or a list without content, but not equal
// to an empty one.
func (d *differ) pair(sh *shape, a, b reflect.Value) bool {
	a, nullA := deref(a)
	b, nullB := deref(b)
	if nullA && nullB {
		return false
	}
	switch {
	case sh.form == foreign:
		d.foreign = true
	case sh.form == atom:
		return nullA != nullB || !sh.equal(a, b)
	case (nullA || sh.hollow(a)) && (nullB || sh.hollow(b)):
		return nullA != nullB
	case nullA:
		d.all(&d.written, sh, b)
	case nullB:
		d.all(&d.removed, sh, a)
	case sh.form == record:
		d.records(sh, a, b)
	case sh.form == dict:
		d.dicts(sh, a, b)
	default:
		d.lists(sh, a, b)
	}
	return false
}

// hollow: nothing of it would be shown inside.
func (sh *shape) hollow(v reflect.Value) bool {
	if sh.form != record {
		return v.Len() == 0
	}
	for i := range sh.fields {
		if _, shown := sh.fields[i].in(v); shown {
			return false
		}
	}
	return true
}

func (d *differ) records(sh *shape, a, b reflect.Value) {
	for i := range sh.fields {
		m := &sh.fields[i]
		x, shownX := m.in(a)
		y, shownY := m.in(b)
		switch {
		case shownX && shownY:
			d.within(m.elem, m.shape, x, y)
		case shownX:
			d.whole(&d.removed, m.elem, m.shape, x)
		case shownY:
			d.whole(&d.written, m.elem, m.shape, y)
		}
	}
}

func (d *differ) dicts(sh *shape, a, b reflect.Value) {
	for _, k := range sortedKeys(b) {
		y := b.MapIndex(k)
		if x := a.MapIndex(k); x.IsValid() {
			d.within(d.entry(k), sh.elem, x, y)
		} else {
			d.whole(&d.written, d.entry(k), sh.elem, y)
		}
	}
	mark := len(d.removed.stack)
	for it := a.MapRange(); it.Next(); {
		if !b.MapIndex(it.Key()).IsValid() {
			d.whole(&d.removed, d.entry(it.Key()), sh.elem, it.Value())
		}
	}
	d.removed.sort(mark)
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

// sort what was pushed since mark.
func (b *builder) sort(mark int) {
	slices.SortFunc(b.stack[mark:], func(a, b node) int { return compareElems(a.elem, b.elem) })
}

// item of a list, by its element in a set.
type item struct {
	elem string
	v    reflect.Value
}

// lists compares item with item of the same element.
func (d *differ) lists(sh *shape, a, b reflect.Value) {
	if sh.equal(a, b) {
		return
	}
	left, right := d.items(sh, a), d.items(sh, b)
	w, r := len(d.written.stack), len(d.removed.stack)
	for i, y := range right {
		j := i // mostly nothing moves within a list
		if j >= len(left) || left[j].elem != y.elem {
			j = slices.IndexFunc(left, func(x item) bool { return x.elem == y.elem })
		}
		if j < 0 {
			d.whole(&d.written, y.elem, sh.elem, y.v)
		} else {
			d.within(y.elem, sh.elem, left[j].v, y.v)
		}
	}
	for i, x := range left {
		if i < len(right) && right[i].elem == x.elem {
			continue
		}
		if !slices.ContainsFunc(right, func(y item) bool { return y.elem == x.elem }) {
			d.whole(&d.removed, x.elem, sh.elem, x.v)
		}
	}
	d.written.sort(w)
	d.removed.sort(r)
}

// maxItems of a list that is compared item by item, each with each: clients may
// send many more, but none does.
const maxItems = 1000

// items of a list of which no two have the same element; lists with such, and
// with items that are null, are left to the library.
func (d *differ) items(sh *shape, v reflect.Value) []item {
	if v.Len() > maxItems {
		d.foreign = true
		return nil
	}
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

// all adds everything below a value of which the other side shows nothing.
func (d *differ) all(to *builder, sh *shape, v reflect.Value) {
	v, null := deref(v)
	if null {
		return
	}
	switch sh.form {
	case atom:
	case record:
		for i := range sh.fields {
			m := &sh.fields[i]
			if f, shown := m.in(v); shown {
				d.whole(to, m.elem, m.shape, f)
			}
		}
	case dict:
		for _, k := range sortedKeys(v) {
			d.whole(to, d.entry(k), sh.elem, v.MapIndex(k))
		}
	case items, members:
		mark := len(to.stack)
		for _, it := range d.items(sh, v) {
			d.whole(to, it.elem, sh.elem, it.v)
		}
		to.sort(mark)
	default:
		d.foreign = true
	}
}
