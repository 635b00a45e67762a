package route

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Route that this node should have.
type Route struct {
	Dst  netip.Prefix
	Via  netip.Addr // the next hop; zero for the other kinds
	Link int        // index of the link that leads there
	Kind Kind
}

// Kind of a route.
type Kind int

// The kinds: to another node, to nowhere, to our own link.
const (
	ToNode Kind = iota
	Unreachable
	ToServices
)

func (r Route) String() string {
	switch r.Kind {
	case Unreachable:
		return "unreachable " + r.Dst.String()
	case ToServices:
		return r.Dst.String() + " dev " + LinkName
	}
	return fmt.Sprintf("%s via %s link %d", r.Dst, r.Via, r.Link)
}

// OnLink is a range of neighbours that are reached without a gateway.
type OnLink struct {
	Prefix netip.Prefix
	Link   int
}

// Observed is all that the plan depends on.
type Observed struct {
	Nodes       []*corev1.Node
	Self        string
	Neighbours  []OnLink
	ClusterCIDR netip.Prefix
	ServiceCIDR netip.Prefix
	// Services are further ranges of addresses of services. A route spares
	// programs of this machine the way to a gateway that may not be there; pods
	// need none. Such a range is anybody's who may write ServiceCIDRs: one that
	// would cover nodes, pods or neighbours gets no route.
	Services []netip.Prefix
}

// Problem says why pods of a node cannot be reached.
type Problem struct {
	Node    string
	Message string
}

// Plan returns the routes to have, in order of destination, and what stands in
// the way of others. A node without a range or an address yet is no problem.
func Plan(o Observed) ([]Route, []Problem) {
	routes := []Route{{Dst: o.ClusterCIDR.Masked(), Kind: Unreachable}, {Dst: o.ServiceCIDR.Masked(), Kind: ToServices}}
	for _, p := range o.Services {
		if p = p.Masked(); harmless(o, p) {
			routes = append(routes, Route{Dst: p, Kind: ToServices})
		}
	}
	var problems []Problem
	taken := map[netip.Prefix]string{}
	nodes := slices.Clone(o.Nodes)
	slices.SortFunc(nodes, func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, n := range nodes {
		for _, p := range PodCIDRs(n) {
			if !within(o.ClusterCIDR, p) {
				problems = append(problems, Problem{n.Name, fmt.Sprintf("its pod range %s lies outside of the cluster's %s", p, o.ClusterCIDR)})
				continue
			}
			if other, ok := taken[p]; ok {
				problems = append(problems, Problem{n.Name, fmt.Sprintf("its pod range %s is node %s's", p, other)})
				continue
			}
			taken[p] = n.Name
			if n.Name == o.Self {
				continue
			}
			via := address(n)
			if !via.IsValid() {
				continue
			}
			link, ok := neighbour(o.Neighbours, via)
			if !ok {
				problems = append(problems, Problem{n.Name, fmt.Sprintf("its address %s is not on a network that this node is on, and there is no overlay network yet: put both on one network, or give one that they share with --node-ip", via)})
				continue
			}
			routes = append(routes, Route{Dst: p, Via: via, Link: link})
		}
	}
	slices.SortFunc(routes, compare)
	return routes, problems
}

// shortest is how large a further range of services may be to get a route.
const shortest = 8

func harmless(o Observed, p netip.Prefix) bool {
	if !p.Addr().Is4() || p.Bits() < shortest || p == o.ServiceCIDR.Masked() || p.Overlaps(o.ClusterCIDR) {
		return false
	}
	return !slices.ContainsFunc(o.Neighbours, func(n OnLink) bool { return n.Prefix.Overlaps(p) }) &&
		!slices.ContainsFunc(o.Nodes, func(n *corev1.Node) bool { return p.Contains(address(n)) })
}

func compare(a, b Route) int {
	return cmp.Or(a.Dst.Addr().Compare(b.Dst.Addr()), cmp.Compare(a.Dst.Bits(), b.Dst.Bits()))
}

func within(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// PodCIDRs are a node's IPv4 pod ranges.
func PodCIDRs(n *corev1.Node) []netip.Prefix {
	list := n.Spec.PodCIDRs
	if len(list) == 0 && n.Spec.PodCIDR != "" {
		list = []string{n.Spec.PodCIDR}
	}
	var out []netip.Prefix
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Is4() {
			out = append(out, p.Masked())
		}
	}
	return out
}

// address is the node's first internal IPv4 address.
func address(n *corev1.Node) netip.Addr {
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		// A next hop must be a machine's own address, whatever a node claims.
		if ip, err := netip.ParseAddr(a.Address); err == nil && ip.Is4() && ip.IsGlobalUnicast() {
			return ip
		}
	}
	return netip.Addr{}
}

// neighbour finds the link of the narrowest range that holds a.
func neighbour(ranges []OnLink, a netip.Addr) (link int, ok bool) {
	bits := -1
	for _, r := range ranges {
		if r.Prefix.Contains(a) && r.Prefix.Bits() > bits {
			link, bits = r.Link, r.Prefix.Bits()
		}
	}
	return link, bits >= 0
}
