package ownership

import (
	"encoding/base64"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// applier puts a configuration into an object, as the library merges, and
// prunes what its manager no longer names.
type applier struct {
	owned   builder // the fields that the configuration names
	lost    builder // of these: what a Go value does not show as it was given
	foreign bool    // met something that only the library can judge
}

// apply changes v, which must not be shared. The sets are valid until the
// applier is used again.
func (a *applier) apply(sh *shape, config map[string]any, v reflect.Value) (owned, lost set) {
	a.owned.reset()
	a.lost.reset()
	a.foreign = false
	a.record(sh, config, v)
	return a.owned.pop(0), a.lost.pop(0)
}

func (a *applier) record(sh *shape, config map[string]any, v reflect.Value) {
	left := len(config)
	for i := range sh.fields {
		if left == 0 || a.foreign {
			return
		}
		m := &sh.fields[i]
		if c, ok := config[m.name]; ok {
			left--
			a.field(m, c, v)
		}
	}
	a.foreign = a.foreign || left > 0 // a field that there is not
}

// field sets one field of v.
func (a *applier) field(m *member, c any, v reflect.Value) {
	f, ok := m.place(v)
	if !ok {
		a.foreign = true
		return
	}
	if m.shape.form == atom {
		same := a.set(m.shape, c, f)
		_, shown := m.in(v)
		a.leaf(m.elem, same && shown)
		return
	}
	o, l := len(a.owned.stack), len(a.lost.stack)
	member := a.parts(m.shape, c, f)
	if _, shown := m.in(v); !shown {
		a.foreign = true
	}
	a.close(m.elem, member, o, l)
}

// leaf is owned as one.
func (a *applier) leaf(elem string, same bool) {
	a.owned.push(elem, true, nil)
	if !same {
		a.lost.push(elem, true, nil)
	}
}

// close makes of what was pushed since the marks the kids of elem.
func (a *applier) close(elem string, member bool, o, l int) {
	if member || len(a.owned.stack) > o {
		a.owned.push(elem, member, a.owned.pop(o))
	}
	if len(a.lost.stack) > l {
		a.lost.push(elem, false, a.lost.pop(l))
	}
}

// parts sets what is owned by what it holds, and says whether it is owned
// itself, too: because it holds nothing.
func (a *applier) parts(sh *shape, c any, f reflect.Value) bool {
	switch c := c.(type) {
	case map[string]any:
		switch sh.form {
		case record:
			if f.Kind() == reflect.Pointer {
				if f.IsNil() {
					f.Set(reflect.New(f.Type().Elem()))
				}
				f = f.Elem()
			}
			if len(c) == 0 {
				a.foreign = a.foreign || !sh.solid(f)
			} else {
				a.record(sh, c, f)
			}
			return len(c) == 0
		case dict:
			a.dict(sh, c, f)
			return len(c) == 0
		}
	case []any:
		if sh.form == items || sh.form == members {
			a.list(sh, c, f)
			return false
		}
	}
	a.foreign = true // null, too
	return false
}

func (a *applier) dict(sh *shape, config map[string]any, f reflect.Value) {
	if sh.elem.form != atom || f.Kind() != reflect.Map {
		a.foreign = true
		return
	}
	if f.IsNil() {
		f.Set(reflect.MakeMapWithSize(f.Type(), len(config)))
	}
	for _, k := range slices.Sorted(maps.Keys(config)) {
		v := reflect.New(f.Type().Elem()).Elem()
		same := a.set(sh.elem, config[k], v)
		a.foreign = a.foreign || !plain(k)
		f.SetMapIndex(reflect.ValueOf(k).Convert(f.Type().Key()), v)
		a.leaf("f:"+k, same)
	}
}

// list merges item with item of the same element.
func (a *applier) list(sh *shape, config []any, f reflect.Value) {
	if len(config) == 0 {
		if f.Len() == 0 {
			f.Set(reflect.MakeSlice(f.Type(), 0, 0))
		}
		return
	}
	left, right := a.elems(sh, f), a.given(sh, config)
	if a.foreign {
		return
	}
	o, l := len(a.owned.stack), len(a.lost.stack)
	order := mergedOrder(left, right)
	out := reflect.MakeSlice(f.Type(), len(order), len(order))
	for i, p := range order {
		v := out.Index(i)
		if p.left >= 0 {
			v.Set(f.Index(p.left))
		}
		if p.right >= 0 {
			a.item(sh, right[p.right], config[p.right], v)
		}
	}
	f.Set(out)
	a.owned.sort(o)
	a.lost.sort(l)
}

func (a *applier) item(sh *shape, elem string, c any, v reflect.Value) {
	config, _ := c.(map[string]any)
	switch {
	case sh.elem.form == atom:
		a.leaf(elem, a.set(sh.elem, c, v))
	case sh.elem.form == record && len(config) > 0 && v.Kind() == reflect.Struct: // the library may prune an empty item
		o, l := len(a.owned.stack), len(a.lost.stack)
		a.record(sh.elem, config, v)
		a.close(elem, true, o, l)
	default:
		a.foreign = true
	}
	if is, err := sh.elemOf(v); err != nil || is != elem {
		a.foreign = true // a key that is lost
	}
}

// elems of a list, no two of which may be the same.
func (a *applier) elems(sh *shape, list reflect.Value) []string {
	if list.Len() > maxItems {
		a.foreign = true
		return nil
	}
	out := make([]string, list.Len())
	for i := range out {
		elem, err := sh.elemOf(list.Index(i))
		a.foreign = a.foreign || err != nil || slices.Contains(out[:i], elem)
		out[i] = elem
	}
	return out
}

// given are the elems of a list of the configuration.
func (a *applier) given(sh *shape, list []any) []string {
	if len(list) > maxItems {
		a.foreign = true
		return nil
	}
	out := make([]string, len(list))
	for i, c := range list {
		elem, err := sh.givenElem(c)
		a.foreign = a.foreign || err != nil || slices.Contains(out[:i], elem)
		out[i] = elem
	}
	return out
}

// givenElem is elemOf for an item of a configuration.
func (sh *shape) givenElem(c any) (string, error) {
	if sh.form == members {
		s, err := givenScalar(c)
		return "v:" + s, err
	}
	item, ok := c.(map[string]any)
	if !ok {
		return "", errForeign
	}
	parts := make([]string, 0, 2)
	for _, k := range sh.keys {
		v, ok := item[k.name]
		if !ok {
			if v = defaultOf(k.key, k.field.shape.typ); v == nil {
				continue
			}
		}
		s, err := givenScalar(v)
		if err != nil {
			return "", err
		}
		parts = append(parts, `"`+k.name+`":`+s)
	}
	if len(parts) == 0 {
		return "", errForeign
	}
	return "k:{" + strings.Join(parts, ",") + "}", nil
}

func givenScalar(c any) (string, error) {
	switch c := c.(type) {
	case string:
		return jsonString(c)
	case int64:
		return strconv.FormatInt(c, 10), nil
	case bool:
		return strconv.FormatBool(c), nil
	}
	return "", errForeign
}

// pair of indexes of one item in two lists; negative where it is not.
type pair struct{ left, right int }

// mergedOrder of two lists without duplicates: the common items and the new
// ones stand as in the right one. Those that are only in the left one stay
// behind what they stood behind, unless that moves backwards.
func mergedOrder(left, right []string) []pair {
	at := make([]int, len(right)) // where the right one's items are in the left
	var shared []int              // indexes into right of the common items that are not yet out
	for i, elem := range right {
		if at[i] = slices.Index(left, elem); at[i] >= 0 {
			shared = append(shared, i)
		}
	}
	out := make([]pair, 0, len(left)+len(right))
	l, r := 0, 0
	take := func() { // the right one's next item
		out = append(out, pair{at[r], r})
		if len(shared) > 0 && shared[0] == r {
			shared = shared[1:]
		}
		r++
	}
	for l < len(left) {
		in := slices.Index(right, left[l])
		switch {
		case in < 0:
			out = append(out, pair{l, -1})
			l++
		case in == r:
			take()
			l++
		case in == shared[0]: // new ones come first
			take()
		default: // waits for its turn in the right one
			l++
		}
	}
	for r < len(right) {
		take()
	}
	return out
}

// set makes f what the configuration says, as one. same: if f is shown, it is
// shown just so.
func (a *applier) set(sh *shape, c any, f reflect.Value) (same bool) {
	if f.Kind() == reflect.Pointer {
		if c == nil {
			f.SetZero()
			return true
		}
		p := reflect.New(f.Type().Elem())
		same = a.set(sh, c, p.Elem())
		f.Set(p)
		return same
	}
	ok := false
	switch {
	case sh.form == foreign:
	case sh.read != nil:
		same, ok = sh.read(c, f)
	case f.Kind() == reflect.Struct:
		var m map[string]any
		if m, ok = c.(map[string]any); ok {
			return a.setStruct(sh, m, f)
		}
	case f.Kind() == reflect.Map, f.Kind() == reflect.Slice:
		return a.setMany(sh, c, f)
	default:
		same, ok = setScalar(c, f)
	}
	a.foreign = a.foreign || !ok
	return same
}

func (a *applier) setStruct(sh *shape, config map[string]any, f reflect.Value) bool {
	f.SetZero()
	same, left := true, len(config)
	for i := range sh.fields {
		m := &sh.fields[i]
		c, given := config[m.name]
		if given {
			left--
			v, ok := m.place(f)
			if !ok {
				a.foreign = true
				return false
			}
			same = a.set(m.shape, c, v) && same
		}
		if _, shown := m.in(f); shown != given {
			same = false
		}
	}
	a.foreign = a.foreign || left > 0
	return same
}

// setMany: a map or a list.
func (a *applier) setMany(sh *shape, c any, f reflect.Value) bool {
	f.SetZero()
	same, t := true, f.Type()
	switch c := c.(type) {
	case nil:
		return true
	case string: // bytes
		data, err := base64.StdEncoding.DecodeString(c)
		if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 && err == nil {
			f.SetBytes(data)
			return base64.StdEncoding.EncodeToString(data) == c
		}
	case map[string]any:
		if t.Kind() == reflect.Map {
			f.Set(reflect.MakeMapWithSize(t, len(c)))
			for k, x := range c {
				v := reflect.New(t.Elem()).Elem()
				same = a.set(sh.elem, x, v) && same
				f.SetMapIndex(reflect.ValueOf(k).Convert(t.Key()), v)
			}
			return same
		}
	case []any:
		if t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8 {
			if sh.form == items || sh.form == members {
				a.given(sh, c)
			}
			f.Set(reflect.MakeSlice(t, len(c), len(c)))
			for i, x := range c {
				same = a.set(sh.elem, x, f.Index(i)) && same
			}
			return same
		}
	}
	a.foreign = true
	return false
}

// setScalar: ok says that it is of the right type.
func setScalar(c any, f reflect.Value) (same, ok bool) {
	switch c := c.(type) {
	case nil:
		f.SetZero()
		return false, f.CanInt() || f.Kind() == reflect.String || f.Kind() == reflect.Bool
	case string:
		if ok = f.Kind() == reflect.String; ok {
			f.SetString(c)
		}
	case bool:
		if ok = f.Kind() == reflect.Bool; ok {
			f.SetBool(c)
		}
	case int64:
		if ok = f.CanInt() && !f.OverflowInt(c); ok {
			f.SetInt(c)
		}
	}
	return ok, ok
}
