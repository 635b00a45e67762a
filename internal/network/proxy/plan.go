package proxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Protocol numbers (IANA), as packets and keys carry them.
const (
	tcp  = 6
	udp  = 17
	sctp = 132
)

// Node is what the plan knows of the node that it is for.
type Node struct {
	Name, Zone string
}

// Frontend is one address and port on which a service answers.
type Frontend struct {
	Service string     // namespace/name:port, for people
	Addr    netip.Addr // the zero Addr: every address of the node
	Proto   uint8
	Port    uint16
	// External: reached from outside; the source is masqueraded unless it is
	// a pod of this node or only local endpoints are used.
	External bool
	// Endpoints for every source or, if Local, for sources inside the cluster.
	Endpoints []netip.AddrPort
	// Local: sources outside of the cluster reach LocalEndpoints only, under
	// their own address.
	Local          bool
	LocalEndpoints []netip.AddrPort
	// Drop instead of refusing when Endpoints is empty: there are some, only
	// not where the policy allows.
	Drop bool
	// Sticky keeps a client at its endpoint for so long after its last
	// connection; 0: no.
	Sticky time.Duration
	// Guarded: only Sources may come in.
	Guarded bool
	Sources []netip.Prefix
}

// Health of a service with externalTrafficPolicy Local, for load balancers
// that ask each node whether it has endpoints.
type Health struct {
	Namespace, Name string
	Port            uint16
	Local           int
}

// Result of planning one service.
type Result struct {
	Frontends []Frontend
	Hairpin   []netip.Addr // endpoints on this node: they may meet themselves
	Health    *Health
}

// headless is the clusterIP of services without one.
const headless = corev1.ClusterIPNone

// Plan says where one service answers on a node, and with what. It depends on
// its input only; the order of slices does not matter.
func Plan(svc *corev1.Service, slicesOf []*discoveryv1.EndpointSlice, node Node) Result {
	var res Result
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == headless || svc.Spec.ClusterIP == "" ||
		svc.Labels["service.kubernetes.io/service-proxy-name"] != "" {
		return res
	}
	sticky := stickiness(svc)
	var hairpin []netip.Addr
	for _, port := range svc.Spec.Ports {
		proto, ok := protocol(port.Protocol)
		if !ok {
			continue
		}
		eps := gather(slicesOf, port.Name, port.Protocol, node.Name)
		for _, e := range eps {
			if e.local {
				hairpin = append(hairpin, e.addr.Addr())
			}
		}
		base := Frontend{Service: fmt.Sprintf("%s/%s:%s", svc.Namespace, svc.Name, port.Name), Proto: proto, Sticky: sticky}
		cluster := pick(eps, node, false)
		local := pick(eps, node, true)
		res.Frontends = append(res.Frontends, internal(svc, port, base, cluster, local)...)
		res.Frontends = append(res.Frontends, external(svc, port, base, cluster, local)...)
		if res.Health == nil && svc.Spec.HealthCheckNodePort > 0 && localOnly(svc) {
			res.Health = &Health{Namespace: svc.Namespace, Name: svc.Name, Port: uint16(svc.Spec.HealthCheckNodePort), Local: len(ready(eps, true))}
		}
	}
	slices.SortFunc(hairpin, netip.Addr.Compare)
	res.Hairpin = slices.Compact(hairpin)
	return res
}

func stickiness(svc *corev1.Service) time.Duration {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := int32(corev1.DefaultClientIPServiceAffinitySeconds)
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil && *c.ClientIP.TimeoutSeconds > 0 {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

func protocol(p corev1.Protocol) (uint8, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return tcp, true
	case corev1.ProtocolUDP:
		return udp, true
	case corev1.ProtocolSCTP:
		return sctp, true
	}
	return 0, false
}

func localOnly(svc *corev1.Service) bool {
	return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// internal are the cluster addresses.
func internal(svc *corev1.Service, port corev1.ServicePort, f Frontend, cluster, local []netip.AddrPort) []Frontend {
	f.Endpoints, f.Port = cluster, uint16(port.Port)
	if p := svc.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		f.Endpoints, f.Drop = local, len(local) == 0 && len(cluster) > 0
	}
	ips := svc.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{svc.Spec.ClusterIP}
	}
	var out []Frontend
	for _, ip := range ips {
		if a, ok := address(ip); ok {
			f.Addr = a
			out = append(out, f)
		}
	}
	return out
}

// external are node ports, external addresses and those of load balancers.
func external(svc *corev1.Service, port corev1.ServicePort, f Frontend, cluster, local []netip.AddrPort) []Frontend {
	f.External, f.Endpoints = true, cluster
	if localOnly(svc) {
		f.Local, f.LocalEndpoints = true, local
	}
	var out []Frontend
	if port.NodePort > 0 {
		n := f
		n.Port = uint16(port.NodePort)
		out = append(out, n)
	}
	f.Port = uint16(port.Port)
	for _, ip := range svc.Spec.ExternalIPs {
		if a, ok := address(ip); ok {
			f.Addr = a
			out = append(out, f)
		}
	}
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return out
	}
	for _, s := range svc.Spec.LoadBalancerSourceRanges {
		f.Guarded = true // an unreadable range allows nobody
		if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Is4() {
			f.Sources = append(f.Sources, p.Masked())
		}
	}
	f.Sources = disjoint(f.Sources)
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode != nil && *in.IPMode == corev1.LoadBalancerIPModeProxy {
			continue // the balancer must see its own traffic
		}
		if a, ok := address(in.IP); ok {
			f.Addr = a
			out = append(out, f)
		}
	}
	return out
}

// disjoint drops ranges that lie in others: sets of intervals hold none twice.
func disjoint(list []netip.Prefix) []netip.Prefix {
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	var out []netip.Prefix
	for _, p := range list {
		if !slices.ContainsFunc(out, func(o netip.Prefix) bool { return o.Overlaps(p) }) {
			out = append(out, p)
		}
	}
	return out
}

// address reads an IPv4 address that a service may have: never a loopback,
// link-local or unspecified one (CVE-2020-8554's worst cases, whatever
// admission let through).
func address(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a, err == nil && a.Is4() && usable(a)
}

func usable(a netip.Addr) bool {
	return !a.IsLoopback() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() && !a.IsMulticast()
}

// endpoint of one port.
type endpoint struct {
	addr               netip.AddrPort
	ready, terminating bool // terminating: still serving, but on its way out
	local              bool
	zones, nodes       []string // hints: for whom it is meant
}

// gather reads a port's endpoints from all slices, once each, by address.
func gather(list []*discoveryv1.EndpointSlice, name string, proto corev1.Protocol, node string) []endpoint {
	byAddr := map[netip.AddrPort]endpoint{}
	for _, s := range list {
		if s.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for _, p := range s.Ports {
			if p.Port == nil || *p.Port < 1 || *p.Port > 65535 || value(p.Name) != name || protocolOf(p.Protocol) != orTCP(proto) {
				continue
			}
			for i := range s.Endpoints {
				e, ok := read(&s.Endpoints[i], uint16(*p.Port), node)
				if !ok {
					continue
				}
				// While an endpoint moves between slices it is in both: the
				// better news wins.
				if old, dup := byAddr[e.addr]; !dup || (e.ready && !old.ready) {
					byAddr[e.addr] = e
				}
			}
		}
	}
	out := make([]endpoint, 0, len(byAddr))
	for _, e := range byAddr {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	return out
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func orTCP(p corev1.Protocol) corev1.Protocol { return cmp.Or(p, corev1.ProtocolTCP) }

func protocolOf(p *corev1.Protocol) corev1.Protocol {
	if p == nil {
		return corev1.ProtocolTCP
	}
	return orTCP(*p)
}

// read one endpoint; loopback and link-local ones would lead into the node
// itself (CVE-2021-25737) and do not count.
func read(e *discoveryv1.Endpoint, port uint16, node string) (endpoint, bool) {
	if len(e.Addresses) == 0 {
		return endpoint{}, false
	}
	a, err := netip.ParseAddr(e.Addresses[0]) // the others are the same pod's
	if err != nil || !a.Is4() || !usable(a) {
		return endpoint{}, false
	}
	c := e.Conditions
	out := endpoint{addr: netip.AddrPortFrom(a, port), local: value(e.NodeName) == node && node != ""}
	out.ready = c.Ready == nil || *c.Ready
	out.terminating = !out.ready && c.Terminating != nil && *c.Terminating && (c.Serving == nil || *c.Serving)
	if h := e.Hints; h != nil {
		for _, z := range h.ForZones {
			out.zones = append(out.zones, z.Name)
		}
		for _, n := range h.ForNodes {
			out.nodes = append(out.nodes, n.Name)
		}
	}
	return out, out.ready || out.terminating
}

// ready ones, on this node or anywhere.
func ready(eps []endpoint, local bool) []endpoint {
	var out []endpoint
	for _, e := range eps {
		if e.ready && (e.local || !local) {
			out = append(out, e)
		}
	}
	return out
}

// pick chooses among a port's endpoints: the ready ones, or while there are
// none those that still serve while they end; on this node only, or those
// that hints mean for this node or its zone.
func pick(eps []endpoint, node Node, local bool) []netip.AddrPort {
	use := ready(eps, local)
	if len(use) == 0 {
		for _, e := range eps {
			if e.terminating && (e.local || !local) {
				use = append(use, e)
			}
		}
	}
	if !local {
		use = hinted(use, node)
	}
	out := make([]netip.AddrPort, len(use))
	for i, e := range use {
		out[i] = e.addr
	}
	return out
}

// hinted follows hints only if every endpoint has one and somebody is meant
// for us: otherwise some would get no traffic, or we no endpoint.
func hinted(eps []endpoint, node Node) []endpoint {
	for _, by := range []struct {
		name  string
		hints func(endpoint) []string
	}{{node.Name, func(e endpoint) []string { return e.nodes }}, {node.Zone, func(e endpoint) []string { return e.zones }}} {
		if by.name == "" || slices.ContainsFunc(eps, func(e endpoint) bool { return len(by.hints(e)) == 0 }) {
			continue
		}
		var ours []endpoint
		for _, e := range eps {
			if slices.Contains(by.hints(e), by.name) {
				ours = append(ours, e)
			}
		}
		if len(ours) > 0 {
			return ours
		}
	}
	return eps
}
