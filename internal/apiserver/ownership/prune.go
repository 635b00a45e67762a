package ownership

import (
	"reflect"
	"slices"
)

// prune takes away from v what the manager owned before, which the
// configuration no longer names, and nobody else owns; dropped says whether
// there was anything.
//
// The library removes all that the manager owned and puts back what is owned
// or was never his. What comes of that is this: of what he owned, whatever is
// in no set goes, and takes with it all below; fields on the way to an owned
// one count as owned, items of a list and entries of a map do not. Where the
// library would leave a husk, or not recognise an item that lost its key, it
// is asked.
func (a *applier) prune(sh *shape, v reflect.Value, before, now set, others []owner) (dropped bool) {
	if before.find("f:apiVersion") != nil || before.find("f:kind") != nil { // only by hand, and without them the library is lost
		a.foreign = true
	}
	left, _ := minus(before, now)
	if len(left) == 0 || a.foreign {
		return false
	}
	owners := []set{now}
	for _, o := range others {
		owners = append(owners, o.set)
	}
	p := pruner{}
	p.within(sh, v, left, owners)
	a.foreign = a.foreign || p.foreign
	return p.dropped
}

type pruner struct{ dropped, foreign bool }

// within prunes below a value. The first of the owners is the manager himself.
func (p *pruner) within(sh *shape, v reflect.Value, left set, owners []set) {
	v, null := deref(v)
	if null || len(left) == 0 || p.foreign {
		return
	}
	switch sh.form {
	case record:
		p.record(sh, v, left, owners)
	case dict:
		p.dict(v, left, owners)
	case items, members:
		p.list(sh, v, left, owners)
	default:
		p.foreign = true
	}
}

func (p *pruner) record(sh *shape, v reflect.Value, left set, owners []set) {
	var gone []*member
	for i := range left {
		n := &left[i]
		m := sh.field(n.elem)
		if m == nil {
			continue
		}
		f, shown := m.in(v)
		if !shown {
			continue
		}
		if kids, kept := below(owners, n.elem); len(kept) > 0 {
			p.within(m.shape, f, n.kids, kids)
			continue
		}
		if !m.shape.listed(f) || !f.CanSet() {
			p.foreign = true
			return
		}
		f.SetZero()
		gone = append(gone, m)
	}
	if len(gone) == 0 {
		return
	}
	p.dropped = true
	rest := 0
	for i := range sh.fields {
		m := &sh.fields[i]
		if f, shown := m.in(v); shown && !slices.Contains(gone, m) {
			rest++
			p.foreign = p.foreign || !m.shape.listed(f)
		}
	}
	p.foreign = p.foreign || rest == 0
}

func (p *pruner) dict(v reflect.Value, left set, owners []set) {
	dropped := false
	for i := range left {
		n := &left[i]
		if n.elem[0] != 'f' {
			continue
		}
		k := reflect.ValueOf(n.elem[len("f:"):]).Convert(v.Type().Key())
		if !v.MapIndex(k).IsValid() {
			continue
		}
		if p.stays(n, owners) {
			p.foreign = p.foreign || len(n.kids) > 0
			continue
		}
		v.SetMapIndex(k, reflect.Value{})
		dropped = true
	}
	p.dropped = p.dropped || dropped
	p.foreign = p.foreign || dropped && v.Len() == 0
}

// stays: somebody owns the item or the entry itself. A manager who owned only
// something below it is left to the library.
func (p *pruner) stays(n *node, owners []set) bool {
	if !n.member {
		own := owners[0].find(n.elem)
		p.foreign = p.foreign || own == nil || !own.member
	}
	_, kept := below(owners, n.elem)
	return slices.ContainsFunc(kept, func(n *node) bool { return n.member })
}

func (p *pruner) list(sh *shape, v reflect.Value, left set, owners []set) {
	a := applier{}
	elems := a.elems(sh, v)
	if a.foreign || !v.CanSet() {
		p.foreign = true
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, v.Len())
	for i, elem := range elems {
		kids, kept := below(owners, elem)
		if n := left.find(elem); n != nil {
			if !p.stays(n, owners) {
				continue
			}
			p.foreign = p.foreign || !sh.keyed(v.Index(i), kids)
			p.within(sh.elem, v.Index(i), n.kids, kids)
		} else if len(kept) > 0 && len(sh.keys) > 1 && !sh.keyed(v.Index(i), kids) {
			p.foreign = true // without its keys it could be taken for another
		}
		out = reflect.Append(out, v.Index(i))
	}
	if out.Len() == v.Len() {
		return
	}
	p.dropped = true
	p.foreign = p.foreign || out.Len() == 0
	v.Set(out)
}

// keyed: of the keys that the item shows one is owned, and all that are not have
// the value that an absent one means.
func (sh *shape) keyed(item reflect.Value, owners []set) bool {
	if sh.elem.form != record {
		return true
	}
	some := false
	for _, k := range sh.keys {
		f, shown := k.field.in(item)
		if !shown {
			continue
		}
		if _, kept := below(owners, k.field.elem); len(kept) > 0 {
			some = true
		} else if is, err := scalar(f); err != nil || !k.meansAbsent(is) {
			return false
		}
	}
	return some
}

func (k *keyField) meansAbsent(is string) bool {
	def := defaultOf(k.key, k.field.shape.typ)
	if def == nil {
		return false
	}
	s, err := scalar(reflect.ValueOf(def))
	return err == nil && s == is
}

// below are the owners' sets below the element, and the nodes of those who
// have one.
func below(owners []set, elem string) (kids []set, kept []*node) {
	kids = make([]set, len(owners))
	for i, s := range owners {
		if n := s.find(elem); n != nil {
			kids[i] = n.kids
			kept = append(kept, n)
		}
	}
	return kids, kept
}

// listed: the library's set of all fields has the value, or something in it.
// It does not have a list without items.
func (sh *shape) listed(v reflect.Value) bool {
	v, null := deref(v)
	switch {
	case null:
		return true
	case sh.form == items || sh.form == members:
		return v.Len() > 0
	case sh.form != record || sh.hollow(v):
		return true
	}
	for i := range sh.fields {
		if f, shown := sh.fields[i].in(v); shown && sh.fields[i].shape.listed(f) {
			return true
		}
	}
	return false
}

// solid: all that a struct shows is listed.
func (sh *shape) solid(v reflect.Value) bool {
	for i := range sh.fields {
		if f, shown := sh.fields[i].in(v); shown && !sh.fields[i].shape.listed(f) {
			return false
		}
	}
	return true
}
