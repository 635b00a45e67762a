package validate

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

const ingressClassAnnotation = "kubernetes.io/ingress.class"

// NetworkPolicy judges a new policy.
func NetworkPolicy(np *networkingv1.NetworkPolicy) field.ErrorList {
	e := meta(&np.ObjectMeta, true, subdomain)
	e.networkPolicy(&np.Spec)
	return e.list
}

// NetworkPolicyUpdate judges a changed one.
func NetworkPolicyUpdate(np, old *networkingv1.NetworkPolicy) field.ErrorList {
	e := metaUpdate(&np.ObjectMeta, &old.ObjectMeta)
	e.networkPolicy(&np.Spec)
	return e.list
}

func (e *errors) networkPolicy(spec *networkingv1.NetworkPolicySpec) {
	e.selector(specPath.Child("podSelector"), &spec.PodSelector)
	for i := range spec.Ingress {
		p := specPath.Child("ingress").Index(i)
		e.policyPorts(p.Child("ports"), spec.Ingress[i].Ports)
		e.peers(p.Child("from"), spec.Ingress[i].From)
	}
	for i := range spec.Egress {
		p := specPath.Child("egress").Index(i)
		e.policyPorts(p.Child("ports"), spec.Egress[i].Ports)
		e.peers(p.Child("to"), spec.Egress[i].To)
	}
	p := specPath.Child("policyTypes")
	if len(spec.PolicyTypes) > 2 {
		e.invalid(p, len(spec.PolicyTypes), "may not specify more than two policyTypes")
		return
	}
	for i, t := range spec.PolicyTypes {
		oneOf(e, p.Index(i), t, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)
	}
}

func (e *errors) policyPorts(p *field.Path, ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		port, at := &ports[i], p.Index(i)
		inPtr(e, at.Child("protocol"), port.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		end := at.Child("endPort")
		switch {
		case port.Port == nil:
			if port.EndPort != nil {
				e.invalid(end, *port.EndPort, "must not be specified when `port` is not specified")
			}
			continue
		case port.Port.Type == intstr.String:
			if port.EndPort != nil {
				e.invalid(end, *port.EndPort, "may not be specified when `port` is non-numeric")
			}
		case port.EndPort != nil:
			if *port.EndPort < port.Port.IntVal {
				e.invalid(end, *port.EndPort, "must be greater than or equal to `port`")
			}
			e.msgs(end, *port.EndPort, validation.IsValidPortNum(int(*port.EndPort)))
		}
		e.portOrName(at.Child("port"), *port.Port)
	}
}

func (e *errors) peers(p *field.Path, peers []networkingv1.NetworkPolicyPeer) {
	for i := range peers {
		peer, at := &peers[i], p.Index(i)
		if peer.PodSelector != nil {
			e.selector(at.Child("podSelector"), peer.PodSelector)
		}
		if peer.NamespaceSelector != nil {
			e.selector(at.Child("namespaceSelector"), peer.NamespaceSelector)
		}
		switch chosen := peer.PodSelector != nil || peer.NamespaceSelector != nil; {
		case peer.IPBlock != nil && chosen:
			e.forbid(at, "may not specify both ipBlock and another peer")
		case peer.IPBlock != nil:
			e.ipBlock(at.Child("ipBlock"), peer.IPBlock)
		case !chosen:
			e.add(field.Required(at, "must specify a peer"))
		}
	}
}

func (e *errors) ipBlock(p *field.Path, b *networkingv1.IPBlock) {
	if b.CIDR == "" {
		e.required(p.Child("cidr"))
		return
	}
	if !e.cidr(p.Child("cidr"), b.CIDR) {
		return
	}
	whole, err := netip.ParsePrefix(b.CIDR)
	for i, x := range b.Except {
		at := p.Child("except").Index(i)
		if !e.cidr(at, x) || err != nil {
			continue
		}
		part, err := netip.ParsePrefix(x)
		if err != nil || !whole.Contains(part.Addr()) || part.Bits() <= whole.Bits() {
			e.invalid(at, x, "must be a strict subset of `cidr`")
		}
	}
}

// Ingress judges a new ingress.
func Ingress(ing *networkingv1.Ingress) field.ErrorList {
	e := meta(&ing.ObjectMeta, true, subdomain)
	if class, ok := ing.Annotations[ingressClassAnnotation]; ok && ing.Spec.IngressClassName != nil {
		e.invalid(metaPath.Child("annotations").Child(ingressClassAnnotation), class, "can not be set when the class field is also set")
	}
	e.ingress(&ing.Spec)
	return e.list
}

// IngressUpdate judges a changed one.
func IngressUpdate(ing, old *networkingv1.Ingress) field.ErrorList {
	e := metaUpdate(&ing.ObjectMeta, &old.ObjectMeta)
	e.ingress(&ing.Spec)
	return e.list
}

// IngressStatusUpdate judges the addresses.
func IngressStatusUpdate(ing, old *networkingv1.Ingress) field.ErrorList {
	e := metaUpdate(&ing.ObjectMeta, &old.ObjectMeta)
	for i := range ing.Status.LoadBalancer.Ingress {
		in := &ing.Status.LoadBalancer.Ingress[i]
		e.balancerAddress(statusPath.Child("loadBalancer", "ingress").Index(i), in.IP, in.Hostname)
	}
	return e.list
}

func (e *errors) ingress(spec *networkingv1.IngressSpec) {
	if len(spec.Rules) == 0 && spec.DefaultBackend == nil {
		e.invalid(specPath, spec.Rules, "either `defaultBackend` or `rules` must be specified")
	}
	if spec.DefaultBackend != nil {
		e.backend(specPath.Child("defaultBackend"), spec.DefaultBackend)
	}
	if c := spec.IngressClassName; c != nil {
		e.msgs(specPath.Child("ingressClassName"), *c, subdomain(*c, false))
	}
	for i := range spec.Rules {
		e.ingressRule(specPath.Child("rules").Index(i), &spec.Rules[i])
	}
	for i := range spec.TLS {
		t, at := &spec.TLS[i], specPath.Child("tls").Index(i)
		for j, h := range t.Hosts {
			e.hostPattern(at.Child("hosts").Index(j), h)
		}
		if t.SecretName != "" {
			e.msgs(at.Child("secretName"), t.SecretName, subdomain(t.SecretName, false))
		}
	}
}

func (e *errors) hostPattern(p *field.Path, host string) {
	if strings.Contains(host, "*") {
		e.msgs(p, host, validation.IsWildcardDNS1123Subdomain(host))
	} else {
		e.dnsSubdomain(p, host)
	}
}

func (e *errors) ingressRule(p *field.Path, r *networkingv1.IngressRule) {
	if r.Host != "" {
		if netutils.ParseIPSloppy(r.Host) != nil {
			e.invalid(p.Child("host"), r.Host, "must be a DNS name, not an IP address")
		} else {
			e.hostPattern(p.Child("host"), r.Host)
		}
	}
	if r.HTTP == nil {
		return
	}
	paths := p.Child("http", "paths")
	if len(r.HTTP.Paths) == 0 {
		e.required(paths)
	}
	for i := range r.HTTP.Paths {
		e.ingressPath(paths.Index(i), &r.HTTP.Paths[i])
		e.backend(paths.Index(i).Child("backend"), &r.HTTP.Paths[i].Backend)
	}
}

func (e *errors) ingressPath(p *field.Path, h *networkingv1.HTTPIngressPath) {
	if h.PathType == nil {
		e.add(field.Required(p.Child("pathType"), "pathType must be specified"))
		return
	}
	const absolute = "must be an absolute path"
	at := p.Child("path")
	switch *h.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(h.Path, "/") {
			e.invalid(at, h.Path, absolute)
		}
		for _, seq := range [...]string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(h.Path, seq) {
				e.invalid(at, h.Path, "must not contain '"+seq+"'")
			}
		}
		for _, end := range [...]string{"/..", "/."} {
			if strings.HasSuffix(h.Path, end) {
				e.invalid(at, h.Path, "cannot end with '"+end+"'")
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if h.Path != "" && !strings.HasPrefix(h.Path, "/") {
			e.invalid(at, h.Path, absolute)
		}
	default:
		oneOf(e, p.Child("pathType"), *h.PathType, networkingv1.PathTypeExact, networkingv1.PathTypePrefix, networkingv1.PathTypeImplementationSpecific)
	}
}

func (e *errors) backend(p *field.Path, b *networkingv1.IngressBackend) {
	switch {
	case b.Resource != nil && b.Service != nil:
		e.invalid(p, "", "cannot set both resource and service backends")
	case b.Resource != nil:
		at := p.Child("resource")
		if g := b.Resource.APIGroup; g != nil && *g != "" {
			e.dnsSubdomain(at.Child("apiGroup"), *g)
		}
		e.name(at.Child("kind"), b.Resource.Kind, path.ValidatePathSegmentName)
		e.name(at.Child("name"), b.Resource.Name, path.ValidatePathSegmentName)
	case b.Service != nil:
		at := p.Child("service")
		e.name(at.Child("name"), b.Service.Name, apivalidation.NameIsDNS1035Label)
		switch name, number := b.Service.Port.Name, b.Service.Port.Number; {
		case name != "" && number != 0:
			e.invalid(p, "", "cannot set both port name & port number")
		case name != "":
			e.msgs(at.Child("port", "name"), name, validation.IsValidPortName(name))
		case number != 0:
			e.msgs(at.Child("port", "number"), number, validation.IsValidPortNum(int(number)))
		default:
			e.add(field.Required(p, "port name or number is required"))
		}
	default:
		e.invalid(p, "", "resource or service backend is required")
	}
}

// IngressClass judges a new class.
func IngressClass(ic *networkingv1.IngressClass) field.ErrorList {
	e := meta(&ic.ObjectMeta, false, subdomain)
	e.ingressClass(&ic.Spec)
	return e.list
}

// IngressClassUpdate judges a changed class; who serves it stays.
func IngressClassUpdate(ic, old *networkingv1.IngressClass) field.ErrorList {
	e := metaUpdate(&ic.ObjectMeta, &old.ObjectMeta)
	e.immutable(specPath.Child("controller"), ic.Spec.Controller, old.Spec.Controller)
	e.ingressClass(&ic.Spec)
	return e.list
}

func (e *errors) ingressClass(spec *networkingv1.IngressClassSpec) {
	const maxController = 250
	if len(spec.Controller) > maxController {
		e.add(field.TooLong(specPath.Child("controller"), "", maxController))
	}
	e.all(validation.IsDomainPrefixedPath(specPath.Child("controller"), spec.Controller))
	ref, p := spec.Parameters, specPath.Child("parameters")
	if ref == nil {
		return
	}
	if g := ref.APIGroup; g != nil && *g != "" {
		e.dnsSubdomain(p.Child("apiGroup"), *g)
	}
	e.name(p.Child("kind"), ref.Kind, path.ValidatePathSegmentName)
	e.name(p.Child("name"), ref.Name, path.ValidatePathSegmentName)
	if ref.Scope == nil {
		e.required(p.Child("scope"))
		return
	}
	oneOf(e, p.Child("scope"), *ref.Scope, networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace)
	switch {
	case *ref.Scope == networkingv1.IngressClassParametersReferenceScopeNamespace && (ref.Namespace == nil || *ref.Namespace == ""):
		e.add(field.Required(p.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
	case *ref.Scope == networkingv1.IngressClassParametersReferenceScopeNamespace:
		e.msgs(p.Child("namespace"), *ref.Namespace, label(*ref.Namespace, false))
	case ref.Namespace != nil:
		e.forbid(p.Child("namespace"), "`parameters.scope` is set to 'Cluster'")
	}
}
