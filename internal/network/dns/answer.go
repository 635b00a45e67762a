// Package dns answers the cluster's names on every node, from the view
// (Kubernetes DNS specification 1.1), and forwards the rest.
package dns

import (
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
	// ttl of cluster records in seconds: endpoints come and go; CoreDNS's figure.
	ttl = 5
	// specVersion is what dns-version.<domain> says.
	specVersion = "1.1.0"
	// maxRecords bounds one answer; a UDP client gets a truncated one anyway.
	maxRecords = 1000
)

// found is what is known of a name. Exists without records is NODATA.
type found struct {
	exists  bool
	records []dns.RR
	extra   []dns.RR
	target  string // ExternalName: to be resolved elsewhere
}

// zone is the cluster's names at one moment.
type zone struct {
	domain string // with a dot at its end
	view   *view.Snapshot
}

// answer looks a question up. mine is false for names that are not the
// cluster's.
func (z zone) answer(name string, qtype uint16) (f found, mine bool) {
	name = strings.ToLower(dns.Fqdn(name))
	if addr, ok := reverse(name); ok {
		return z.pointer(name, addr)
	}
	if name == z.domain {
		return found{exists: true}, true
	}
	rest, ok := strings.CutSuffix(name, "."+z.domain)
	if !ok {
		return found{}, false
	}
	labels := strings.Split(rest, ".")
	slices.Reverse(labels)
	switch {
	case labels[0] == "dns-version" && len(labels) == 1:
		f.exists = true
		if qtype == dns.TypeTXT {
			f.records = []dns.RR{&dns.TXT{Hdr: header(name, dns.TypeTXT), Txt: []string{specVersion}}}
		}
		return f, true
	case labels[0] == "svc":
		return z.services(name, labels[1:], qtype), true
	case labels[0] == "pod":
		return z.pods(name, labels[1:], qtype), true
	}
	return found{}, true
}

func header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

// address is an A record, if that is what was asked for.
func address(name string, ip netip.Addr, qtype uint16) []dns.RR {
	if !ip.Is4() || qtype != dns.TypeA && qtype != dns.TypeANY {
		return nil
	}
	return []dns.RR{&dns.A{Hdr: header(name, dns.TypeA), A: ip.AsSlice()}}
}

// pods: a-b-c-d.<namespace>.pod.<domain> is the address itself.
func (z zone) pods(name string, labels []string, qtype uint16) found {
	if len(labels) == 0 {
		return found{exists: true}
	}
	if view.Get[*corev1.Namespace](z.view, kinds.Namespace, "", labels[0]) == nil {
		return found{}
	}
	switch len(labels) {
	case 1:
		return found{exists: true}
	case 2:
		if ip, err := netip.ParseAddr(strings.ReplaceAll(labels[1], "-", ".")); err == nil && ip.Is4() {
			return found{exists: true, records: address(name, ip, qtype)}
		}
	}
	return found{}
}

// services: <service>.<namespace>.svc.<domain> and what is below it; labels
// begin with the namespace.
func (z zone) services(name string, labels []string, qtype uint16) found {
	if len(labels) == 0 {
		return found{exists: true}
	}
	if len(labels) == 1 {
		return found{exists: view.Get[*corev1.Namespace](z.view, kinds.Namespace, "", labels[0]) != nil}
	}
	svc := view.Get[*corev1.Service](z.view, kinds.Service, labels[0], labels[1])
	if svc == nil {
		return found{}
	}
	below := labels[2:]
	switch {
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		if len(below) > 0 {
			return found{}
		}
		target := dns.Fqdn(svc.Spec.ExternalName)
		return found{exists: true, target: target, records: []dns.RR{&dns.CNAME{Hdr: header(name, dns.TypeCNAME), Target: target}}}
	case svc.Spec.ClusterIP == corev1.ClusterIPNone:
		return z.headless(name, svc, below, qtype)
	}
	return clusterIP(name, svc, below, qtype, z.domain)
}

// clusterIP: the service's address, and SRV records of its named ports.
func clusterIP(name string, svc *corev1.Service, below []string, qtype uint16, domain string) found {
	ip, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil {
		return found{exists: true} // not given an address yet
	}
	if len(below) == 0 {
		f := found{exists: true, records: address(name, ip, qtype)}
		if qtype == dns.TypeSRV {
			for _, p := range svc.Spec.Ports {
				f.records = append(f.records, srv(name, p.Port, name))
			}
			f.extra = address(name, ip, dns.TypeA)
		}
		return f
	}
	proto := strings.TrimPrefix(below[0], "_")
	if proto == below[0] || len(below) > 2 {
		return found{}
	}
	target := svc.Name + "." + svc.Namespace + ".svc." + domain
	f := found{}
	for _, p := range svc.Spec.Ports {
		if !strings.EqualFold(string(p.Protocol), proto) {
			continue
		}
		if len(below) == 1 {
			f.exists = true
			continue
		}
		if p.Name != "" && below[1] == "_"+strings.ToLower(p.Name) {
			f.exists = true
			if qtype == dns.TypeSRV || qtype == dns.TypeANY {
				f.records = append(f.records, srv(name, p.Port, target))
				f.extra = address(target, ip, dns.TypeA)
			}
		}
	}
	return f
}

func srv(name string, port int32, target string) dns.RR {
	return &dns.SRV{Hdr: header(name, dns.TypeSRV), Priority: 0, Weight: 100, Port: uint16(port), Target: target}
}

// endpoint is one ready address of a headless service.
type endpoint struct {
	ip    netip.Addr
	host  string // its name below the service
	ports []discoveryv1.EndpointPort
}

func (z zone) endpoints(svc *corev1.Service) []endpoint {
	var out []endpoint
	for s := range view.By[*discoveryv1.EndpointSlice](z.view, view.SlicesByService, svc.Namespace+"/"+svc.Name) {
		if s.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for _, e := range s.Endpoints {
			if !svc.Spec.PublishNotReadyAddresses && e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, a := range e.Addresses {
				ip, err := netip.ParseAddr(a)
				if err != nil || len(out) >= maxRecords {
					continue
				}
				host := strings.ReplaceAll(a, ".", "-")
				if e.Hostname != nil && *e.Hostname != "" {
					host = strings.ToLower(*e.Hostname)
				}
				out = append(out, endpoint{ip, host, s.Ports})
			}
		}
	}
	return out
}

// headless: all endpoints, one by its host name, or the SRV records of a port.
func (z zone) headless(name string, svc *corev1.Service, below []string, qtype uint16) found {
	base := svc.Name + "." + svc.Namespace + ".svc." + z.domain
	f := found{exists: len(below) == 0}
	for _, e := range z.endpoints(svc) {
		target := e.host + "." + base
		switch {
		case len(below) == 0:
			f.records = append(f.records, address(name, e.ip, qtype)...)
			if qtype == dns.TypeSRV {
				for _, p := range e.ports {
					if p.Port != nil {
						f.records = append(f.records, srv(name, *p.Port, target))
						f.extra = append(f.extra, address(target, e.ip, dns.TypeA)...)
					}
				}
			}
		case len(below) == 1 && below[0] == e.host:
			f.exists = true
			f.records = append(f.records, address(name, e.ip, qtype)...)
		case strings.HasPrefix(below[0], "_"):
			z.headlessPort(&f, name, target, e, below, qtype)
		}
	}
	return f
}

func (z zone) headlessPort(f *found, name, target string, e endpoint, below []string, qtype uint16) {
	for _, p := range e.ports {
		if p.Port == nil || p.Protocol == nil || !strings.EqualFold("_"+string(*p.Protocol), below[0]) {
			continue
		}
		if len(below) == 1 {
			f.exists = true
			continue
		}
		if len(below) == 2 && p.Name != nil && *p.Name != "" && below[1] == "_"+strings.ToLower(*p.Name) {
			f.exists = true
			if qtype == dns.TypeSRV || qtype == dns.TypeANY {
				f.records = append(f.records, srv(name, *p.Port, target))
				f.extra = append(f.extra, address(target, e.ip, dns.TypeA)...)
			}
		}
	}
}

// reverse reads d.c.b.a.in-addr.arpa.
func reverse(name string) (netip.Addr, bool) {
	rest, ok := strings.CutSuffix(name, ".in-addr.arpa.")
	if !ok {
		return netip.Addr{}, false
	}
	labels := strings.Split(rest, ".")
	slices.Reverse(labels)
	ip, err := netip.ParseAddr(strings.Join(labels, "."))
	return ip, err == nil && len(labels) == 4
}

// pointer names the service, or the endpoint of a headless one, that has the
// address; others are not the cluster's.
func (z zone) pointer(name string, ip netip.Addr) (found, bool) {
	text := ip.String()
	ptr := func(target string) found {
		return found{exists: true, records: []dns.RR{&dns.PTR{Hdr: header(name, dns.TypePTR), Ptr: target}}}
	}
	for svc := range view.List[*corev1.Service](z.view, kinds.Service, "") {
		base := svc.Name + "." + svc.Namespace + ".svc." + z.domain
		if svc.Spec.ClusterIP == text {
			return ptr(base), true
		}
		if svc.Spec.ClusterIP != corev1.ClusterIPNone {
			continue
		}
		for _, e := range z.endpoints(svc) {
			if e.ip == ip {
				return ptr(e.host + "." + base), true
			}
		}
	}
	return found{}, false
}
