package view

import (
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"

	"knarr.dev/knarr/internal/kinds"
)

// ServiceRanges are the IPv4 networks that services have addresses in: the
// configured one and those of all ServiceCIDRs, if the view holds them, whatever
// their state. None lies inside of another one; they are sorted.
func ServiceRanges(s *Snapshot, configured netip.Prefix) []netip.Prefix {
	all := []netip.Prefix{configured.Masked()}
	if s.Has(kinds.ServiceCIDR) {
		for c := range List[*networkingv1.ServiceCIDR](s, kinds.ServiceCIDR, "") {
			for _, text := range c.Spec.CIDRs {
				if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() {
					all = append(all, p.Masked())
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits() // the larger one first
	})
	out := all[:0]
	for _, p := range all {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}
