package proxy

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"knarr.dev/knarr/internal/network/nft"
)

// Set names one of the table's sets and maps.
type Set uint8

// The sets. Their keys are concatenations; README of the shape: rules.go.
const (
	services      Set = iota // address, protocol, port → chain
	nodePorts                // protocol, port → chain
	refused                  // address, protocol, port → chain
	refusedPorts             // protocol, port → chain
	endpoints                // address, protocol, port, slot → address, port
	nodeEndpoints            // protocol, port, slot → address, port
	sticky                   // address, protocol, port → chain
	stickyPorts              // protocol, port → chain
	hairpin                  // address, address
	sources                  // address, protocol, port, range of sources
	numSets
)

var setNames = [numSets]string{"services", "nodeports", "refused", "refusedports", "endpoints", "nodeendpoints", "sticky", "stickyports", "hairpin", "sources"}

func (s Set) String() string { return setNames[s] }

// Class of frontends: those that one chain serves. The chain is made of what
// is written here; everything else is looked up by the packet's address.
type Class struct {
	Node     bool // the key has no address
	External bool
	Slots    int  // endpoints
	Local    bool // split: LocalSlots for sources outside of the cluster
	Locals   int
	Sticky   bool
	Guarded  bool

	Refuse   bool // not served: refused
	Drop     bool // not served: dropped
	Remember int  // the chain that records affinity for so many seconds
}

// Chain is the name of the class's chain.
func (c Class) Chain() string {
	switch {
	case c == Class{}:
		return ""
	case c.Refuse:
		return "refuse"
	case c.Drop:
		return "discard"
	case c.Remember > 0:
		return fmt.Sprintf("remember-%d", c.Remember)
	}
	name := "cluster"
	switch {
	case c.Node:
		name = "node"
	case c.External:
		name = "external"
	}
	name += fmt.Sprintf("-%d", c.Slots)
	if c.Local {
		name += fmt.Sprintf("-local-%d", c.Locals)
	}
	if c.Sticky {
		name += "-sticky"
	}
	if c.Guarded {
		name += "-guarded"
	}
	return name
}

// Element of a set. It is comparable: two plans differ where elements do.
type Element struct {
	Set    Set
	Key    string // packed, as the kernel compares it
	KeyEnd string // of a range: the last key
	Val    string // packed data; for chains see Class
	Class  Class
}

func (e Element) id() elementID { return elementID{e.Set, e.Key, e.KeyEnd} }

type elementID struct {
	set      Set
	key, end string
}

// localBase is where the slots of local endpoints begin in a frontend that
// has both kinds.
const localBase = 1 << 24

// Elements of a planned service.
func (r Result) Elements() []Element {
	var out []Element
	for _, f := range r.Frontends {
		out = f.elements(out)
	}
	for _, a := range r.Hairpin {
		out = append(out, Element{Set: hairpin, Key: string(nft.AppendAddr(nft.AppendAddr(nil, a), a))})
	}
	return out
}

func (f Frontend) elements(out []Element) []Element {
	node := !f.Addr.IsValid()
	front, refuse, to, remember := services, refused, endpoints, sticky
	if node {
		front, refuse, to, remember = nodePorts, refusedPorts, nodeEndpoints, stickyPorts
	}
	key := f.key()
	if len(f.Endpoints) == 0 {
		return append(out, Element{Set: refuse, Key: key, Class: Class{Refuse: !f.Drop, Drop: f.Drop}})
	}
	class := Class{Node: node, External: f.External, Slots: len(f.Endpoints), Local: f.Local, Locals: len(f.LocalEndpoints), Sticky: f.Sticky > 0, Guarded: f.Guarded}
	out = append(out, Element{Set: front, Key: key, Class: class})
	for i, e := range f.Endpoints {
		out = append(out, Element{Set: to, Key: slotKey(key, i), Val: target(e)})
	}
	if f.Local {
		for i, e := range f.LocalEndpoints {
			out = append(out, Element{Set: to, Key: slotKey(key, localBase+i), Val: target(e)})
		}
	}
	if f.Sticky > 0 {
		out = append(out, Element{Set: remember, Key: key, Class: Class{Remember: int(f.Sticky / time.Second)}})
	}
	for _, p := range f.Sources {
		first, last := p.Addr(), lastOf(p)
		out = append(out, Element{Set: sources, Key: key + string(first.AsSlice()), KeyEnd: key + string(last.AsSlice())})
	}
	return out
}

// key of the frontend: what packets to it carry.
func (f Frontend) key() string {
	var b []byte
	if f.Addr.IsValid() {
		b = nft.AppendAddr(b, f.Addr)
	}
	return string(nft.AppendPort(nft.AppendProto(b, f.Proto), f.Port))
}

func slotKey(key string, slot int) string { return string(nft.AppendMark([]byte(key), uint32(slot))) }

func target(e netip.AddrPort) string {
	return string(nft.AppendPort(nft.AppendAddr(nil, e.Addr()), e.Port()))
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Table is the desired content of all sets. Services claim elements; where two
// claim the same key (a shared external address and port), the first by name
// has it in every set, so that what belongs together comes from one.
type Table struct {
	claims   map[elementID][]claim
	services map[string][]Element
	before   map[elementID]Element // of keys touched since Changes; zero Class and Val: absent
	absent   map[elementID]bool
}

type claim struct {
	service string
	element Element
}

// NewTable is empty.
func NewTable() *Table {
	t := &Table{claims: map[elementID][]claim{}, services: map[string][]Element{}}
	t.settled()
	return t
}

func (t *Table) settled() { t.before, t.absent = map[elementID]Element{}, map[elementID]bool{} }

// Put makes elements all that the service claims; none removes it.
func (t *Table) Put(service string, elements []Element) {
	for _, e := range t.services[service] {
		t.touch(e.id())
		list := slices.DeleteFunc(t.claims[e.id()], func(c claim) bool { return c.service == service })
		if len(list) == 0 {
			delete(t.claims, e.id())
		} else {
			t.claims[e.id()] = list
		}
	}
	if len(elements) == 0 {
		delete(t.services, service)
		return
	}
	t.services[service] = elements
	for _, e := range elements {
		id := e.id()
		t.touch(id)
		list := t.claims[id]
		i, dup := slices.BinarySearchFunc(list, service, func(c claim, s string) int { return cmp.Compare(c.service, s) })
		if !dup { // a service that names a key twice means the first
			t.claims[id] = slices.Insert(list, i, claim{service, e})
		}
	}
}

func (t *Table) touch(id elementID) {
	if _, ok := t.before[id]; ok || t.absent[id] {
		return
	}
	if e, ok := t.get(id); ok {
		t.before[id] = e
	} else {
		t.absent[id] = true
	}
}

func (t *Table) get(id elementID) (Element, bool) {
	if list := t.claims[id]; len(list) > 0 {
		return list[0].element, true
	}
	return Element{}, false
}

// All elements, in no order.
func (t *Table) All() iter.Seq[Element] {
	return func(yield func(Element) bool) {
		for _, list := range t.claims {
			if !yield(list[0].element) {
				return
			}
		}
	}
}

// Delta is what must be removed and added; a changed element is in both.
type Delta struct {
	Del, Add []Element
}

// Empty reports whether nothing changed.
func (d Delta) Empty() bool { return len(d.Del) == 0 && len(d.Add) == 0 }

// Changes since the last call, in a fixed order.
func (t *Table) Changes() Delta {
	var d Delta
	for id, was := range t.before {
		now, ok := t.get(id)
		if ok && now == was {
			continue
		}
		d.Del = append(d.Del, was)
		if ok {
			d.Add = append(d.Add, now)
		}
	}
	for id := range t.absent {
		if now, ok := t.get(id); ok {
			d.Add = append(d.Add, now)
		}
	}
	t.settled()
	slices.SortFunc(d.Del, compareElements)
	slices.SortFunc(d.Add, compareElements)
	return d
}

func compareElements(a, b Element) int {
	return cmp.Or(cmp.Compare(a.Set, b.Set), strings.Compare(a.Key, b.Key), strings.Compare(a.KeyEnd, b.KeyEnd))
}

// leads reports whether one of the frontend's slots leads to the endpoint.
func (t *Table) leads(front string, node bool, to string) bool {
	set, slots := services, endpoints
	if node {
		set, slots = nodePorts, nodeEndpoints
	}
	f, ok := t.get(elementID{set: set, key: front})
	if !ok {
		return false
	}
	for i := range f.Class.Slots {
		if e, ok := t.get(elementID{set: slots, key: slotKey(front, i)}); ok && e.Val == to {
			return true
		}
	}
	for i := range f.Class.Locals {
		if e, ok := t.get(elementID{set: slots, key: slotKey(front, localBase+i)}); ok && e.Val == to {
			return true
		}
	}
	return false
}

// String prints an element for people and tests.
func (e Element) String() string {
	b := []byte(e.Key)
	var parts []string
	take := func(n int) []byte {
		if len(b) < n {
			return make([]byte, n)
		}
		out := b[:n]
		b = b[n:]
		return out
	}
	addr := func() string { a, _ := netip.AddrFromSlice(take(4)); return a.String() }
	switch e.Set {
	case hairpin:
		return fmt.Sprintf("%s %s", e.Set, addr())
	case services, refused, endpoints, sticky, sources:
		parts = append(parts, addr())
	}
	proto := take(4)[0]
	port := take(4)
	parts = append(parts, fmt.Sprintf("%d/%d", int(port[0])<<8|int(port[1]), proto))
	switch e.Set {
	case endpoints, nodeEndpoints:
		slot := take(4)
		n := uint32(slot[0]) | uint32(slot[1])<<8 | uint32(slot[2])<<16 | uint32(slot[3])<<24
		if n >= localBase {
			parts = append(parts, fmt.Sprintf("local %d", n-localBase))
		} else {
			parts = append(parts, fmt.Sprint(n))
		}
		b = []byte(e.Val)
		to := addr()
		port := take(4)
		parts = append(parts, fmt.Sprintf("→ %s:%d", to, int(port[0])<<8|int(port[1])))
	case sources:
		first := addr()
		b = []byte(e.KeyEnd[len(e.KeyEnd)-4:])
		parts = append(parts, first+"-"+addr())
	default:
		parts = append(parts, "→ "+e.Class.Chain())
	}
	return e.Set.String() + " " + strings.Join(parts, " ")
}
