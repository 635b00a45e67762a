package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

const (
	// ttl of everything in the zone, in seconds: what resolvers commonly use
	// for cluster names; services move.
	ttl = 5
	// schemaVersion is the version of the Kubernetes DNS specification.
	schemaVersion = "1.1.0"
	// maxChain bounds how many aliases are followed.
	maxChain = 8
)

// zone answers for the cluster's domain. It is pure: names in, records out.
type zone struct {
	domain     string     // with a closing dot: "cluster.local."
	server     netip.Addr // our own address
	namespaces bool       // snapshots hold them
}

// reply of the zone. Records carry the name that was asked, in its letters.
type reply struct {
	answer, extra []dns.RR
	exists        bool   // the name is there, if perhaps not with that type
	alias         string // the answer ends in a CNAME to this name outside of the zone
}

// in reports whether a name (lower case) belongs to the zone.
func (z zone) in(name string) bool {
	return name == z.domain || strings.HasSuffix(name, "."+z.domain)
}

// lookup answers a question for a name in the zone. name is as asked; turn
// rotates answers, so that clients that take the first spread.
func (z zone) lookup(s *view.Snapshot, name string, qtype uint16, turn uint32) reply {
	lower := strings.ToLower(name)
	q := question{zone: z, s: s, name: name, qtype: qtype, turn: turn}
	if lower == z.domain {
		return q.apex()
	}
	labels := strings.Split(strings.TrimSuffix(lower, "."+z.domain), ".")
	slices.Reverse(labels) // from the zone downwards
	switch labels[0] {
	case "svc":
		return q.services(labels[1:])
	case "pod":
		return q.pods(labels[1:])
	case "dns":
		if len(labels) == 2 && labels[1] == "ns" {
			return q.addresses(z.server)
		}
		return reply{exists: len(labels) == 1}
	case "dns-version":
		if len(labels) > 1 {
			return reply{}
		}
		r := reply{exists: true}
		if qtype == dns.TypeTXT {
			r.answer = []dns.RR{&dns.TXT{Hdr: q.header(dns.TypeTXT), Txt: []string{schemaVersion}}}
		}
		return r
	}
	return reply{}
}

// question is one lookup on its way.
type question struct {
	zone
	s     *view.Snapshot
	name  string
	qtype uint16
	turn  uint32
	depth int
}

func (q question) header(rrtype uint16) dns.RR_Header { return header(q.name, rrtype) }

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

func (q question) apex() reply {
	r := reply{exists: true}
	switch q.qtype {
	case dns.TypeSOA:
		r.answer = []dns.RR{q.soa(q.s)}
	case dns.TypeNS:
		r.answer = []dns.RR{&dns.NS{Hdr: q.header(dns.TypeNS), Ns: q.nameServer()}}
		r.extra = []dns.RR{&dns.A{Hdr: header(q.nameServer(), dns.TypeA), A: q.server.AsSlice()}}
	}
	return r
}

func (z zone) nameServer() string { return "ns.dns." + z.domain }

// soa says how long "there is none" holds: its last field (RFC 2308).
func (z zone) soa(s *view.Snapshot) dns.RR {
	return &dns.SOA{
		Hdr: header(z.domain, dns.TypeSOA), Ns: z.nameServer(), Mbox: "hostmaster." + z.domain,
		Serial: uint32(s.Rev(kinds.Service)), Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}

// addresses answers with A records of the name; other types have none.
func (q question) addresses(list ...netip.Addr) reply {
	r := reply{exists: true}
	if q.qtype != dns.TypeA {
		return r
	}
	for _, a := range list {
		if a.Is4() {
			r.answer = append(r.answer, &dns.A{Hdr: q.header(dns.TypeA), A: a.AsSlice()})
		}
	}
	rotate(r.answer, q.turn)
	return r
}

func rotate(rrs []dns.RR, turn uint32) {
	if len(rrs) > 1 {
		n := int(turn % uint32(len(rrs)))
		slices.Reverse(rrs[:n])
		slices.Reverse(rrs[n:])
		slices.Reverse(rrs)
	}
}

// services answers below svc. Labels go from the zone downwards: namespace,
// service, and below it an endpoint's name or _proto, _port.
func (q question) services(labels []string) reply {
	if len(labels) == 0 {
		return reply{exists: true}
	}
	namespace := labels[0]
	if len(labels) == 1 {
		return reply{exists: q.namespace(namespace)}
	}
	svc := view.Get[*corev1.Service](q.s, kinds.Service, namespace, labels[1])
	if svc == nil {
		return reply{}
	}
	rest := labels[2:]
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		if len(rest) > 0 {
			return reply{}
		}
		return q.alias(svc.Spec.ExternalName)
	}
	switch {
	case len(rest) == 0 && q.qtype == dns.TypeSRV:
		return q.ports(svc, "", "")
	case len(rest) == 0:
		if !isHeadless(svc) {
			return q.addresses(clusterIPs(svc)...)
		}
		var list []netip.Addr
		for _, e := range q.endpoints(svc) {
			list = append(list, e.addr)
		}
		return q.addresses(unique(list)...)
	case strings.HasPrefix(rest[0], "_"):
		return q.portNames(svc, rest)
	case len(rest) == 1 && isHeadless(svc):
		return q.host(svc, rest[0])
	}
	return reply{}
}

func isHeadless(svc *corev1.Service) bool { return svc.Spec.ClusterIP == corev1.ClusterIPNone }

func clusterIPs(svc *corev1.Service) []netip.Addr {
	list := svc.Spec.ClusterIPs
	if len(list) == 0 {
		list = []string{svc.Spec.ClusterIP}
	}
	var out []netip.Addr
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}

func unique(list []netip.Addr) []netip.Addr {
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// alias of an ExternalName service. An alias into the zone is followed here,
// one out of it by whoever asked.
func (q question) alias(target string) reply {
	to := dns.Fqdn(target)
	if _, ok := dns.IsDomainName(to); !ok || to == "." {
		return reply{exists: true}
	}
	r := reply{exists: true, answer: []dns.RR{&dns.CNAME{Hdr: q.header(dns.TypeCNAME), Target: to}}}
	if q.qtype == dns.TypeCNAME {
		return r
	}
	if !q.in(strings.ToLower(to)) {
		r.alias = to
		return r
	}
	if q.depth >= maxChain {
		return r
	}
	next := q
	next.name, next.depth = to, q.depth+1
	more := next.relookup()
	r.answer, r.extra, r.alias = append(r.answer, more.answer...), more.extra, more.alias
	return r
}

// relookup asks for q's name again, keeping count of the aliases.
func (q question) relookup() reply {
	lower := strings.ToLower(q.name)
	labels := strings.Split(strings.TrimSuffix(lower, "."+q.domain), ".")
	slices.Reverse(labels)
	if labels[0] == "svc" {
		return q.services(labels[1:])
	}
	return q.lookup(q.s, q.name, q.qtype, q.turn)
}

// host answers for one endpoint of a headless service.
func (q question) host(svc *corev1.Service, host string) reply {
	var list []netip.Addr
	for _, e := range q.endpoints(svc) {
		if e.host == host {
			list = append(list, e.addr)
		}
	}
	if len(list) == 0 {
		return reply{}
	}
	return q.addresses(unique(list)...)
}

// portNames answers below _proto: SRV records at _port._proto, nothing else.
func (q question) portNames(svc *corev1.Service, rest []string) reply {
	proto := strings.TrimPrefix(rest[0], "_")
	port := ""
	switch {
	case len(rest) > 2 || (len(rest) == 2 && !strings.HasPrefix(rest[1], "_")):
		return reply{}
	case len(rest) == 2:
		port = strings.TrimPrefix(rest[1], "_")
	}
	all := q
	all.qtype = dns.TypeSRV
	r := all.ports(svc, proto, port)
	if len(r.answer) == 0 {
		return reply{}
	}
	if q.qtype != dns.TypeSRV || len(rest) == 1 {
		return reply{exists: true}
	}
	return r
}

// ports answers with SRV records of the ports that match; "" matches all.
func (q question) ports(svc *corev1.Service, proto, port string) reply {
	r := reply{exists: true}
	own := fmt.Sprintf("%s.%s.svc.%s", svc.Name, svc.Namespace, q.domain)
	seen := map[string]bool{}
	add := func(target string, n uint16, addrs ...netip.Addr) {
		id := fmt.Sprint(target, " ", n)
		if !seen[id] {
			seen[id] = true
			r.answer = append(r.answer, &dns.SRV{Hdr: q.header(dns.TypeSRV), Weight: 100, Port: n, Target: target})
		}
		for _, a := range addrs {
			if id := target + a.String(); a.Is4() && !seen[id] {
				seen[id] = true
				r.extra = append(r.extra, &dns.A{Hdr: header(target, dns.TypeA), A: a.AsSlice()})
			}
		}
	}
	match := func(name string, p corev1.Protocol) bool {
		if p == "" {
			p = corev1.ProtocolTCP
		}
		return (proto == "" || strings.EqualFold(string(p), proto)) && (port == "" || name == port) && (name != "" || port == "")
	}
	if !isHeadless(svc) {
		for _, p := range svc.Spec.Ports {
			if match(p.Name, p.Protocol) {
				add(own, uint16(p.Port), clusterIPs(svc)...)
			}
		}
		return r
	}
	for _, e := range q.endpoints(svc) {
		for _, p := range e.ports {
			if match(p.name, p.proto) {
				add(e.host+"."+own, p.port, e.addr)
			}
		}
	}
	rotate(r.answer, q.turn)
	return r
}

// endpoint of a headless service.
type endpoint struct {
	addr  netip.Addr
	host  string // its hostname, or its address with dashes
	ports []endpointPort
}

type endpointPort struct {
	name  string
	proto corev1.Protocol
	port  uint16
}

func (q question) endpoints(svc *corev1.Service) []endpoint {
	var out []endpoint
	for slice := range view.By[*discoveryv1.EndpointSlice](q.s, view.SlicesByService, svc.Namespace+"/"+svc.Name) {
		out = appendEndpoints(out, slice)
	}
	return out
}

func appendEndpoints(out []endpoint, slice *discoveryv1.EndpointSlice) []endpoint {
	var ports []endpointPort
	for _, p := range slice.Ports {
		if p.Port == nil {
			continue
		}
		ep := endpointPort{port: uint16(*p.Port), proto: corev1.ProtocolTCP}
		if p.Name != nil {
			ep.name = *p.Name
		}
		if p.Protocol != nil {
			ep.proto = *p.Protocol
		}
		ports = append(ports, ep)
	}
	for _, e := range slice.Endpoints {
		// Not ready ones that are to be published are marked ready.
		if e.Conditions.Ready != nil && !*e.Conditions.Ready {
			continue
		}
		for _, s := range e.Addresses {
			a, err := netip.ParseAddr(s)
			if err != nil {
				continue
			}
			out = append(out, endpoint{addr: a, host: hostOf(e, a), ports: ports})
		}
	}
	return out
}

func hostOf(e discoveryv1.Endpoint, a netip.Addr) string {
	if e.Hostname != nil && *e.Hostname != "" {
		return strings.ToLower(*e.Hostname)
	}
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
}

// pods answers a-b-c-d.namespace.pod: what the name says, if the namespace
// may exist.
func (q question) pods(labels []string) reply {
	switch len(labels) {
	case 0:
		return reply{exists: true}
	case 1:
		return reply{exists: q.namespace(labels[0])}
	case 2:
		a, err := netip.ParseAddr(strings.ReplaceAll(labels[1], "-", "."))
		if err != nil || !a.Is4() || !q.namespace(labels[0]) {
			return reply{}
		}
		return q.addresses(a)
	}
	return reply{}
}

// namespace reports whether a namespace exists, as far as this node knows: a
// view without namespaces knows those with services.
func (q question) namespace(name string) bool {
	if q.namespaces {
		return view.Get[*corev1.Namespace](q.s, kinds.Namespace, "", name) != nil
	}
	for range view.List[*corev1.Service](q.s, kinds.Service, name) {
		return true
	}
	return false
}
