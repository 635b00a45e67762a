package validate

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// Bounds of one slice, as the API documents them.
const (
	maxEndpoints      = 1000
	maxAddresses      = 100
	maxTopology       = 16
	maxSlicePorts     = 20000
	maxZoneHints      = 8
	maxNodeHints      = 8
	mustOneAddress    = "must contain at least 1 address"
	topologyDeprecate = "topology cannot be set in discovery.k8s.io/v1"
)

// Endpoints judges a new object.
func Endpoints(ep *corev1.Endpoints) field.ErrorList {
	e := meta(&ep.ObjectMeta, true, subdomain)
	e.subsets(field.NewPath("subsets"), ep.Subsets)
	return e.list
}

// EndpointsUpdate judges a changed one.
func EndpointsUpdate(ep, old *corev1.Endpoints) field.ErrorList {
	e := metaUpdate(&ep.ObjectMeta, &old.ObjectMeta)
	e.subsets(field.NewPath("subsets"), ep.Subsets)
	return e.list
}

func (e *errors) subsets(p *field.Path, list []corev1.EndpointSubset) {
	for i := range list {
		s, at := &list[i], p.Index(i)
		if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
			e.add(field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range s.Addresses {
			e.endpointAddress(at.Child("addresses").Index(j), &s.Addresses[j])
		}
		for j := range s.NotReadyAddresses {
			e.endpointAddress(at.Child("notReadyAddresses").Index(j), &s.NotReadyAddresses[j])
		}
		for j := range s.Ports {
			e.endpointPort(at.Child("ports").Index(j), &s.Ports[j], len(s.Ports) > 1)
		}
	}
}

func (e *errors) endpointAddress(p *field.Path, a *corev1.EndpointAddress) {
	if e.ip(p.Child("ip"), a.IP) {
		e.ordinaryIP(p.Child("ip"), a.IP)
	}
	if a.Hostname != "" {
		e.dnsLabel(p.Child("hostname"), a.Hostname)
	}
	if a.NodeName != nil {
		e.msgs(p.Child("nodeName"), *a.NodeName, subdomain(*a.NodeName, false))
	}
}

func (e *errors) endpointPort(p *field.Path, port *corev1.EndpointPort, named bool) {
	if port.Name != "" {
		e.dnsLabel(p.Child("name"), port.Name)
	} else if named {
		e.required(p.Child("name"))
	}
	e.msgs(p.Child("port"), port.Port, validation.IsValidPortNum(int(port.Port)))
	protocol(e, p.Child("protocol"), port.Protocol)
	if port.AppProtocol != nil {
		e.qualifiedName(p.Child("appProtocol"), *port.AppProtocol)
	}
}

// EndpointSlice judges a new slice.
func EndpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	e := meta(&s.ObjectMeta, true, subdomain)
	in(e, field.NewPath("addressType"), s.AddressType, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN)
	e.slice(s)
	return e.list
}

// EndpointSliceUpdate judges a changed one; what its addresses are stays.
func EndpointSliceUpdate(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	e := metaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	e.immutable(field.NewPath("addressType"), s.AddressType, old.AddressType)
	e.slice(s)
	return e.list
}

func (e *errors) slice(s *discoveryv1.EndpointSlice) {
	p := field.NewPath("endpoints")
	if len(s.Endpoints) > maxEndpoints {
		e.add(field.TooMany(p, len(s.Endpoints), maxEndpoints))
	} else {
		for i := range s.Endpoints {
			e.endpoint(p.Index(i), &s.Endpoints[i], s.AddressType)
		}
	}
	p = field.NewPath("ports")
	if len(s.Ports) > maxSlicePorts {
		e.add(field.TooMany(p, len(s.Ports), maxSlicePorts))
		return
	}
	names := map[string]bool{}
	for i := range s.Ports {
		port, at := &s.Ports[i], p.Index(i)
		name := ""
		if port.Name != nil {
			name = *port.Name
		}
		if name != "" {
			e.dnsLabel(at.Child("name"), name)
		}
		unique(e, names, at.Child("name"), name, name)
		if port.Protocol == nil {
			e.required(at.Child("protocol"))
		} else {
			oneOf(e, at.Child("protocol"), *port.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		}
		if port.Port != nil {
			e.msgs(at.Child("port"), *port.Port, validation.IsValidPortNum(int(*port.Port)))
		}
		if port.AppProtocol != nil {
			e.qualifiedName(at.Child("appProtocol"), *port.AppProtocol)
		}
	}
}

func (e *errors) endpoint(p *field.Path, ep *discoveryv1.Endpoint, kind discoveryv1.AddressType) {
	at := p.Child("addresses")
	switch n := len(ep.Addresses); {
	case n == 0:
		e.add(field.Required(at, mustOneAddress))
	case n > maxAddresses:
		e.add(field.TooMany(at, n, maxAddresses))
	default:
		for i, a := range ep.Addresses {
			e.sliceAddress(at.Index(i), a, kind)
		}
	}
	if ep.NodeName != nil {
		e.msgs(p.Child("nodeName"), *ep.NodeName, subdomain(*ep.NodeName, false))
	}
	if ep.Hostname != nil {
		e.dnsLabel(p.Child("hostname"), *ep.Hostname)
	}
	if len(ep.DeprecatedTopology) > maxTopology {
		e.add(field.TooMany(p.Child("deprecatedTopology"), len(ep.DeprecatedTopology), maxTopology))
	}
	e.labels(p.Child("deprecatedTopology"), ep.DeprecatedTopology)
	if _, ok := ep.DeprecatedTopology[corev1.LabelTopologyZone]; ok {
		e.forbid(p.Child("deprecatedTopology").Key(corev1.LabelTopologyZone), topologyDeprecate)
	}
	if ep.Hints != nil {
		e.hints(p.Child("hints"), ep.Hints)
	}
}

func (e *errors) sliceAddress(p *field.Path, a string, kind discoveryv1.AddressType) {
	switch kind {
	case discoveryv1.AddressTypeFQDN:
		e.all(validation.IsFullyQualifiedDomainName(p, a))
	case discoveryv1.AddressTypeIPv4:
		if e.ip(p, a) {
			if netutils.IsIPv6String(a) {
				e.invalid(p, a, "must be an IPv4 address")
			}
			e.ordinaryIP(p, a)
		}
	case discoveryv1.AddressTypeIPv6:
		if e.ip(p, a) {
			if !netutils.IsIPv6String(a) {
				e.invalid(p, a, "must be an IPv6 address")
			}
			e.ordinaryIP(p, a)
		}
	}
}

func (e *errors) hints(p *field.Path, h *discoveryv1.EndpointHints) {
	check := func(at *field.Path, names []string, most int) {
		if len(names) > most {
			e.add(field.TooMany(at, len(names), most))
			return
		}
		seen := map[string]bool{}
		for i, n := range names {
			if n == "" {
				e.required(at.Index(i).Child("name"))
			}
			unique(e, seen, at.Index(i).Child("name"), n, n)
			e.msgs(at.Index(i).Child("name"), n, validation.IsValidLabelValue(n))
		}
	}
	zones, nodes := make([]string, len(h.ForZones)), make([]string, len(h.ForNodes))
	for i, z := range h.ForZones {
		zones[i] = z.Name
	}
	for i, n := range h.ForNodes {
		nodes[i] = n.Name
	}
	check(p.Child("forZones"), zones, maxZoneHints)
	check(p.Child("forNodes"), nodes, maxNodeHints)
}
