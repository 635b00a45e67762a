// Package nodeipam gives every node a range of pod addresses of its own, out
// of the cluster's.
package nodeipam

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Observed is all nodes and the range that they share.
type Observed struct {
	Nodes   []*corev1.Node
	Cluster netip.Prefix
	Bits    int // of a node's range
	// Tried are ranges that have been given to nodes which do not show them
	// yet: the write may have gone through without our knowing.
	Tried map[types.UID]netip.Prefix
}

// Plan gives each node without a range the first free one, the oldest node
// first, and says which. A range that was tried for a node stays that node's
// as long as it is there, so that no two nodes ever have the same one.
func Plan(o Observed) (plan.Result, map[types.UID]netip.Prefix) {
	var res plan.Result
	tried := map[types.UID]netip.Prefix{}
	used := make([]bool, 1<<(o.Bits-o.Cluster.Bits()))
	var without []*corev1.Node
	for _, n := range o.Nodes {
		if ranges := rangesOf(n); len(ranges) > 0 {
			for _, r := range ranges {
				mark(used, o.Cluster, o.Bits, r)
			}
			continue
		}
		if n.DeletionTimestamp == nil {
			without = append(without, n)
		}
		if r, ok := o.Tried[n.UID]; ok {
			tried[n.UID] = r
			mark(used, o.Cluster, o.Bits, r)
		}
	}
	slices.SortFunc(without, func(a, b *corev1.Node) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	next := 0
	for _, n := range without {
		r, ok := tried[n.UID]
		if !ok {
			for next < len(used) && used[next] {
				next++
			}
			if next == len(used) {
				res.Events = append(res.Events, exhausted(n, o.Cluster))
				continue
			}
			used[next] = true
			r = nth(o.Cluster, o.Bits, next)
			tried[n.UID] = r
		}
		res.Actions = append(res.Actions, give(n, r))
	}
	return res, tried
}

func rangesOf(n *corev1.Node) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

// mark all of the cluster's parts that a range touches, whatever its size.
func mark(used []bool, cluster netip.Prefix, bits int, r netip.Prefix) {
	if !cluster.Overlaps(r) {
		return
	}
	if r.Bits() <= cluster.Bits() {
		for i := range used {
			used[i] = true
		}
		return
	}
	first := index(cluster, bits, r.Addr())
	last := first
	if r.Bits() < bits {
		last = first + 1<<(bits-r.Bits()) - 1
	}
	for i := first; i <= last; i++ {
		used[i] = true
	}
}

// index of the part of the cluster's range that an address lies in.
func index(cluster netip.Prefix, bits int, a netip.Addr) int {
	base, addr := number(cluster.Masked().Addr()), number(a)
	return int((addr - base) >> (32 - bits))
}

// nth part of the cluster's range.
func nth(cluster netip.Prefix, bits, i int) netip.Prefix {
	v := number(cluster.Masked().Addr()) + uint32(i)<<(32-bits)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), bits)
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// give writes the range; a node that has got another one meanwhile refuses,
// since a range never changes.
func give(n *corev1.Node, r netip.Prefix) plan.Action {
	data, err := json.Marshal(map[string]any{"spec": map[string]any{"podCIDR": r.String(), "podCIDRs": []string{r.String()}}})
	if err != nil {
		panic("nodeipam: " + err.Error()) // strings always marshal
	}
	return plan.Action{
		Verb: plan.Patch, Ref: kinds.RefTo(kinds.Node, n), PatchType: types.MergePatchType, Data: data, UID: n.UID, Parallel: true,
	}
}

func exhausted(n *corev1.Node, cluster netip.Prefix) plan.Event {
	return plan.Event{
		Regarding: kinds.RefTo(kinds.Node, n), UID: n.UID, Type: corev1.EventTypeWarning, Reason: "CIDRNotAvailable",
		Message: "no range of pod addresses is left in " + cluster.String() + "; choose a larger one with --cluster-cidr",
	}
}
