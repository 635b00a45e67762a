package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// reverseOf reads the address from a name below in-addr.arpa.
func reverseOf(name string) (netip.Addr, bool) {
	rest, ok := strings.CutSuffix(strings.ToLower(name), ".in-addr.arpa.")
	if !ok {
		return netip.Addr{}, false
	}
	parts := strings.Split(rest, ".")
	if len(parts) != 4 {
		return netip.Addr{}, false
	}
	var b [4]byte
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 8)
		if err != nil {
			return netip.Addr{}, false
		}
		b[3-i] = byte(n)
	}
	return netip.AddrFrom4(b), true
}

// names of all cluster addresses, and of the endpoints of headless services
// that have a host name.
func (z zone) names(s *view.Snapshot) map[netip.Addr][]string {
	out := map[netip.Addr][]string{}
	add := func(a netip.Addr, name string) {
		if !slices.Contains(out[a], name) {
			out[a] = append(out[a], name)
		}
	}
	for svc := range view.List[*corev1.Service](s, kinds.Service, "") {
		own := svc.Name + "." + svc.Namespace + ".svc." + z.domain
		if svc.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		for _, a := range clusterIPs(svc) {
			add(a, own)
		}
		if !isHeadless(svc) {
			continue
		}
		for slice := range view.By[*discoveryv1.EndpointSlice](s, view.SlicesByService, svc.Namespace+"/"+svc.Name) {
			for _, e := range appendEndpoints(nil, slice) {
				add(e.addr, e.host+"."+own)
			}
		}
	}
	return out
}

// staleReverse is how old the reverse names may be while services change all
// the time: building them reads every service.
const staleReverse = 250 * time.Millisecond

// reverse caches names until services or endpoints change.
type reverse struct {
	mu    sync.Mutex
	revs  [2]int64
	built time.Time
	names map[netip.Addr][]string
}

func (r *reverse) of(z zone, s *view.Snapshot, a netip.Addr) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	revs := [2]int64{s.Rev(kinds.Service), s.Rev(kinds.EndpointSlice)}
	if r.names == nil || (revs != r.revs && time.Since(r.built) > staleReverse) {
		r.names, r.revs, r.built = z.names(s), revs, time.Now()
	}
	return r.names[a]
}

func (r *reverse) records(z zone, s *view.Snapshot, name string, a netip.Addr) []dns.RR {
	var out []dns.RR
	for _, n := range r.of(z, s, a) {
		out = append(out, &dns.PTR{Hdr: header(name, dns.TypePTR), Ptr: n})
	}
	return out
}
