package ownership

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// set is what a FieldsV1 holds: a trie of path elements in their serialized
// form ("f:spec", `k:{"name":"a"}`), sorted as structured-merge-diff sorts
// them. No node is empty: it is a member or has kids. Sets are never changed
// once they are built, so they share nodes.
type set []node

type node struct {
	elem   string
	member bool // the path to here is in the set, not only paths below
	kids   set
}

// errForeign: a set, or an object, that only the library can read.
var errForeign = errors.New("not in the plain form")

// compareElems orders path elements: names, keys, values, as the library does.
func compareElems(a, b string) int {
	if a == b {
		return 0
	}
	if a[0] == 'f' && b[0] == 'f' {
		return strings.Compare(a, b)
	}
	if a[0] != b[0] {
		return cmp.Compare(a[0], b[0]) // f, k, v; there are no indexes in a set
	}
	if x, y, ok := plainKeys(a, b); ok {
		return strings.Compare(x, y)
	}
	x, errX := fieldpath.DeserializePathElement(a)
	y, errY := fieldpath.DeserializePathElement(b)
	if errX != nil || errY != nil {
		return strings.Compare(a, b) // parseSet lets none in
	}
	return x.Compare(y)
}

// plainKeys returns what tells two elements of one list apart that have one
// and the same key with plain strings: by far the most.
func plainKeys(a, b string) (x, y string, ok bool) {
	i := strings.Index(a, `":"`) + 3
	if i < 3 || len(a) < i+2 || len(b) < i+2 || a[:i] != b[:i] {
		return "", "", false
	}
	x, y = a[i:len(a)-2], b[i:len(b)-2]
	return x, y, !strings.ContainsAny(x, `"\`) && !strings.ContainsAny(y, `"\`)
}

// minus is s without the members of t; what lies below them stays. changed
// says whether there were any.
func minus(s, t set) (out set, changed bool) {
	i, j := 0, 0
	for i < len(s) && j < len(t) {
		switch c := compareElems(s[i].elem, t[j].elem); {
		case c < 0:
			i++
		case c > 0:
			j++
		default:
			kids, below := minus(s[i].kids, t[j].kids)
			if below || s[i].member && t[j].member {
				if !changed {
					out, changed = slices.Clone(s), true
				}
				at := i - (len(s) - len(out))
				out[at] = node{s[i].elem, s[i].member && !t[j].member, kids}
				if !out[at].member && len(kids) == 0 {
					out = slices.Delete(out, at, at+1)
				}
			}
			i++
			j++
		}
	}
	if !changed {
		return s, false
	}
	return out, true
}

func union(s, t set) set {
	if len(s) == 0 {
		return t
	}
	if len(t) == 0 {
		return s
	}
	out := make(set, 0, len(s)+len(t))
	for len(s) > 0 && len(t) > 0 {
		switch c := compareElems(s[0].elem, t[0].elem); {
		case c < 0:
			out, s = append(out, s[0]), s[1:]
		case c > 0:
			out, t = append(out, t[0]), t[1:]
		default:
			out = append(out, node{s[0].elem, s[0].member || t[0].member, union(s[0].kids, t[0].kids)})
			s, t = s[1:], t[1:]
		}
	}
	return append(append(out, s...), t...)
}

// without cuts off the given paths and all below them.
func without(s set, paths [][]string) set {
	if len(paths) == 0 {
		return s
	}
	var out set
	for _, n := range s {
		var deeper [][]string
		cut := false
		for _, p := range paths {
			if "f:"+p[0] == n.elem {
				cut = cut || len(p) == 1
				deeper = append(deeper, p[1:])
			}
		}
		if cut {
			continue
		}
		if len(deeper) > 0 {
			n.kids = without(n.kids, deeper)
		}
		if n.member || len(n.kids) > 0 {
			out = append(out, n)
		}
	}
	return out
}

// only keeps the given paths, what leads there and what is below; "*" stands
// for any element.
func only(s set, paths [][]string) set {
	var out set
	for _, n := range s {
		var deeper [][]string
		match, all := false, false
		for _, p := range paths {
			if p[0] == "*" || "f:"+p[0] == n.elem {
				match, all = true, all || len(p) == 1
				deeper = append(deeper, p[1:])
			}
		}
		if !match {
			continue
		}
		if !all {
			n.kids = only(n.kids, deeper)
		}
		if n.member || len(n.kids) > 0 {
			out = append(out, n)
		}
	}
	return out
}

// appendJSON writes the form of a FieldsV1.
func (s set) appendJSON(b []byte) []byte {
	b = append(b, '{')
	for i := range s {
		if i > 0 {
			b = append(b, ',')
		}
		b = s[i].appendJSON(b)
	}
	return append(b, '}')
}

func (n *node) appendJSON(b []byte) []byte {
	b = append(b, '"')
	if strings.IndexByte(n.elem, '"') < 0 && strings.IndexByte(n.elem, '\\') < 0 {
		b = append(b, n.elem...)
	} else {
		for i := range len(n.elem) {
			if c := n.elem[i]; c == '"' || c == '\\' {
				b = append(b, '\\', c)
			} else {
				b = append(b, c)
			}
		}
	}
	b = append(b, '"', ':', '{')
	if n.member && len(n.kids) > 0 {
		b = append(b, `".":{},`...)
	}
	for i := range n.kids {
		if i > 0 {
			b = append(b, ',')
		}
		b = n.kids[i].appendJSON(b)
	}
	return append(b, '}')
}

// builder collects the nodes of a level on a stack, so that each level is made
// once, in its size. It can be used again once nobody needs its sets any more.
type builder struct {
	stack []node
	chunk []node
	room  []node // what is left of chunk
}

func (b *builder) reset() {
	clear(b.stack[:cap(b.stack)])
	clear(b.chunk)
	b.stack, b.room = b.stack[:0], b.chunk
}

func (b *builder) push(elem string, member bool, kids set) {
	b.stack = append(b.stack, node{elem, member, kids})
}

// pop is what has been pushed since the stack had a length of mark.
func (b *builder) pop(mark int) set {
	n := len(b.stack) - mark
	if n == 0 {
		return nil
	}
	if len(b.room) < n {
		b.chunk = make([]node, max(n, min(1024, max(64, 2*len(b.chunk)))))
		b.room = b.chunk
	}
	out := b.room[:n:n]
	b.room = b.room[n:]
	copy(out, b.stack[mark:])
	b.stack = b.stack[:mark]
	return out
}

// parseSet reads what appendJSON writes, and is sorted; anything else is
// foreign.
func parseSet(raw string) (set, error) {
	p := parser{rest: raw}
	s, dot := p.object(0)
	if p.bad || dot || len(p.rest) > 0 {
		return nil, errForeign
	}
	return s, nil
}

// maxSetDepth bounds the recursion; the deepest built-in type needs 30.
const maxSetDepth = 100

type parser struct {
	rest string
	bad  bool
	builder
}

func (p *parser) take(c byte) bool {
	if len(p.rest) == 0 || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

// object reads one level; dot says that the path to it is a member.
func (p *parser) object(depth int) (s set, dot bool) {
	if depth > maxSetDepth || !p.take('{') {
		p.bad = true
	}
	if p.bad || p.take('}') {
		return nil, false
	}
	mark := len(p.stack)
	for {
		elem := p.name()
		if p.bad || !p.take(':') {
			p.bad = true
			return nil, false
		}
		kids, member := p.object(depth + 1)
		first := len(p.stack) == mark
		switch {
		case p.bad:
			return nil, false
		case elem == ".":
			if dot || !first || len(kids) > 0 {
				p.bad = true
				return nil, false
			}
			dot = true
		case !isElem(elem) || !first && compareElems(p.stack[len(p.stack)-1].elem, elem) >= 0:
			p.bad = true
			return nil, false
		default:
			p.push(elem, member || len(kids) == 0, kids)
		}
		if p.take(',') {
			continue
		}
		p.bad = p.bad || !p.take('}')
		return p.pop(mark), dot
	}
}

// isElem reports whether elem is one in the way that the library writes it: the
// name of a field, the keys of an item in order, a value.
func isElem(elem string) bool {
	p := parser{rest: elem}
	switch {
	case p.take2("f:"):
		return true
	case p.take2("v:"):
		return p.scalar() && p.rest == ""
	case !p.take2("k:") || !p.take('{'):
		return false
	}
	for last := ""; ; {
		key := p.name()
		if p.bad || key <= last || !p.take(':') || !p.scalar() {
			return false
		}
		if last = key; !p.take(',') {
			return p.take('}') && p.rest == ""
		}
	}
}

func (p *parser) take2(s string) bool {
	var ok bool
	p.rest, ok = strings.CutPrefix(p.rest, s)
	return ok
}

// scalar reads a string, a whole number, true or false.
func (p *parser) scalar() bool {
	if strings.HasPrefix(p.rest, `"`) {
		p.name()
		return !p.bad
	}
	n := strings.IndexAny(p.rest, ",}")
	if n < 0 {
		n = len(p.rest)
	}
	word := p.rest[:n]
	p.rest = p.rest[n:]
	i, err := strconv.ParseInt(word, 10, 64)
	return word == "true" || word == "false" || err == nil && strconv.FormatInt(i, 10) == word
}

// name reads a JSON string of printable ASCII.
func (p *parser) name() string {
	if !p.take('"') {
		p.bad = true
		return ""
	}
	escaped := false
	for i := 0; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			raw := p.rest[:i]
			p.rest = p.rest[i+1:]
			if !escaped {
				return raw
			}
			return p.unescape(raw)
		case c == '\\':
			escaped = true
			i++
		case c < ' ' || c > '~':
			p.bad = true
			return ""
		}
	}
	p.bad = true
	return ""
}

func (p *parser) unescape(raw string) string {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] == '\\' {
			if i++; i == len(raw) || raw[i] != '"' && raw[i] != '\\' {
				p.bad = true
				return ""
			}
		}
		out = append(out, raw[i])
	}
	return string(out)
}

// touches reports whether the set that raw holds has a member in common with s
// or t. It reads no more than that takes.
func touches(raw string, s, t set) bool {
	if len(s) == 0 && len(t) == 0 {
		return false
	}
	p := parser{rest: raw}
	return p.touches(s, t, 0) || p.bad
}

func (p *parser) touches(s, t set, depth int) bool {
	if depth > maxSetDepth || !p.take('{') {
		p.bad = true
		return false
	}
	if p.take('}') {
		return false
	}
	for {
		elem := p.name()
		if p.bad || !p.take(':') {
			p.bad = true
			return false
		}
		a, b := s.find(elem), t.find(elem)
		if a == nil && b == nil {
			p.skip()
		} else {
			var kidsA, kidsB set
			owned := strings.HasPrefix(p.rest, `{}`) || strings.HasPrefix(p.rest, `{".":`)
			if a != nil {
				kidsA = a.kids
			}
			if b != nil {
				kidsB = b.kids
			}
			if owned && (a != nil && a.member || b != nil && b.member) || p.touches(kidsA, kidsB, depth+1) {
				return true
			}
		}
		if p.bad || p.take('}') {
			return false
		}
		if !p.take(',') {
			p.bad = true
			return false
		}
	}
}

func (s set) find(elem string) *node {
	if len(s) > 16 && elem != "" { // clients choose how many
		i, ok := slices.BinarySearchFunc(s, elem, func(n node, elem string) int { return compareElems(n.elem, elem) })
		if !ok || s[i].elem != elem {
			return nil
		}
		return &s[i]
	}
	for i := range s {
		if s[i].elem == elem {
			return &s[i]
		}
	}
	return nil
}

// skip one object.
func (p *parser) skip() {
	depth := 0
	for i := 0; i < len(p.rest); i++ {
		switch p.rest[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				p.rest = p.rest[i+1:]
				return
			}
		case '"':
			for i++; i < len(p.rest) && p.rest[i] != '"'; i++ {
				if p.rest[i] == '\\' {
					i++
				}
			}
		}
	}
	p.bad = true
}

// jsonString is a string as the library writes it into an element.
func jsonString(s string) (string, error) {
	if !plain(s) {
		return "", errForeign
	}
	if !strings.ContainsAny(s, "\"\\<>&") {
		return `"` + s + `"`, nil
	}
	b, err := json.Marshal(s)
	return string(b), err
}

// plain strings are written alike by everybody.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
