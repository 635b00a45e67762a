package validate

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
)

const onlyLoadBalancer = "may only be used when `type` is 'LoadBalancer'"

// Service judges a new service.
func Service(svc *corev1.Service) field.ErrorList {
	e := meta(&svc.ObjectMeta, true, apivalidation.NameIsDNS1035Label)
	e.service(svc)
	return e.list
}

// ServiceUpdate judges a changed service.
func ServiceUpdate(svc, old *corev1.Service) field.ErrorList {
	e := metaUpdate(&svc.ObjectMeta, &old.ObjectMeta)
	e.clusterIPUpdate(svc, old)
	e.familyUpdate(svc, old)
	if balanced(svc) && balanced(old) && !same(svc.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		e.invalid(specPath.Child("loadBalancerClass"), svc.Spec.LoadBalancerClass, "may not change once set")
	}
	if was := old.Spec.HealthCheckNodePort; healthChecked(old) && healthChecked(svc) && was != 0 && svc.Spec.HealthCheckNodePort != was {
		e.forbid(specPath.Child("healthCheckNodePort"), "field is immutable")
	}
	e.service(svc)
	return e.list
}

// ServiceStatusUpdate judges the addresses of a load balancer.
func ServiceStatusUpdate(svc, old *corev1.Service) field.ErrorList {
	e := metaUpdate(&svc.ObjectMeta, &old.ObjectMeta)
	p := statusPath.Child("loadBalancer", "ingress")
	if len(svc.Status.LoadBalancer.Ingress) > 0 && !balanced(svc) {
		e.forbid(p, "may only be used when `spec.type` is \"LoadBalancer\"")
	}
	for i := range svc.Status.LoadBalancer.Ingress {
		in, at := &svc.Status.LoadBalancer.Ingress[i], p.Index(i)
		e.balancerAddress(at, in.IP, in.Hostname)
		switch {
		case in.IPMode != nil && in.IP == "":
			e.forbid(at.Child("ipMode"), "may not be specified when `ip` is not set")
		case in.IPMode == nil && in.IP != "":
			e.add(field.Required(at.Child("ipMode"), "must be specified when `ip` is set"))
		default:
			inPtr(e, at.Child("ipMode"), in.IPMode, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy)
		}
	}
	return e.list
}

func (e *errors) balancerAddress(p *field.Path, ip, hostname string) {
	if ip != "" {
		e.ip(p.Child("ip"), ip)
	}
	if hostname != "" {
		e.dnsSubdomain(p.Child("hostname"), hostname)
		if netutils.ParseIPSloppy(hostname) != nil {
			e.invalid(p.Child("hostname"), hostname, "must be a DNS name, not an IP address")
		}
	}
}

func balanced(svc *corev1.Service) bool { return svc.Spec.Type == corev1.ServiceTypeLoadBalancer }

func headless(svc *corev1.Service) bool {
	return len(svc.Spec.ClusterIPs) == 1 && svc.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// external: traffic may come from outside of the cluster.
func external(svc *corev1.Service) bool {
	return balanced(svc) || svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeClusterIP && len(svc.Spec.ExternalIPs) > 0
}

func healthChecked(svc *corev1.Service) bool {
	return balanced(svc) && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func (e *errors) service(svc *corev1.Service) {
	spec := &svc.Spec
	in(e, specPath.Child("type"), spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)
	e.serviceType(svc)
	e.servicePorts(svc)
	e.labels(specPath.Child("selector"), spec.Selector)
	e.sessionAffinity(spec)
	if spec.Type != corev1.ServiceTypeExternalName {
		e.clusterIPs(svc)
	}
	e.externalIPs(spec)
	e.sourceRanges(svc)
	if spec.AllocateLoadBalancerNodePorts != nil && !balanced(svc) {
		e.forbid(specPath.Child("allocateLoadBalancerNodePorts"), onlyLoadBalancer)
	}
	if c := spec.LoadBalancerClass; c != nil {
		if balanced(svc) {
			e.qualifiedName(specPath.Child("loadBalancerClass"), *c)
		} else {
			e.forbid(specPath.Child("loadBalancerClass"), onlyLoadBalancer)
		}
	}
	e.trafficPolicies(svc)
}

func (e *errors) serviceType(svc *corev1.Service) {
	spec := &svc.Spec
	if len(spec.Ports) == 0 && !headless(svc) && spec.Type != corev1.ServiceTypeExternalName {
		e.required(specPath.Child("ports"))
	}
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if headless(svc) {
			e.invalid(specPath.Child("clusterIPs").Index(0), spec.ClusterIPs[0], fmt.Sprintf("may not be set to 'None' for %s services", spec.Type))
		}
	case corev1.ServiceTypeExternalName:
		const why = "may not be set for ExternalName services"
		if len(spec.ClusterIPs) > 0 || spec.ClusterIP != "" {
			e.forbid(specPath.Child("clusterIPs"), why)
		}
		if len(spec.IPFamilies) > 0 {
			e.forbid(specPath.Child("ipFamilies"), why)
		}
		if spec.IPFamilyPolicy != nil {
			e.forbid(specPath.Child("ipFamilyPolicy"), why)
		}
		if name := strings.TrimSuffix(spec.ExternalName, "."); name == "" {
			e.required(specPath.Child("externalName"))
		} else {
			e.dnsSubdomain(specPath.Child("externalName"), name)
		}
	}
}

func (e *errors) servicePorts(svc *corev1.Service) {
	type number struct {
		protocol corev1.Protocol
		port     int32
	}
	ports := svc.Spec.Ports
	names, numbers, nodePorts := map[string]bool{}, map[number]bool{}, map[number]bool{}
	for i := range ports {
		port, p := &ports[i], specPath.Child("ports").Index(i)
		switch {
		case port.Name != "":
			e.dnsLabel(p.Child("name"), port.Name)
			unique(e, names, p.Child("name"), port.Name, port.Name)
		case len(ports) > 1:
			e.required(p.Child("name"))
		}
		e.msgs(p.Child("port"), port.Port, validation.IsValidPortNum(int(port.Port)))
		protocol(e, p.Child("protocol"), port.Protocol)
		e.portOrName(p.Child("targetPort"), port.TargetPort)
		if port.AppProtocol != nil {
			e.qualifiedName(p.Child("appProtocol"), *port.AppProtocol)
		}
		if port.NodePort != 0 {
			if svc.Spec.Type == corev1.ServiceTypeClusterIP || svc.Spec.Type == corev1.ServiceTypeExternalName {
				e.forbid(p.Child("nodePort"), fmt.Sprintf("may not be used when `type` is '%s'", svc.Spec.Type))
			}
			unique(e, nodePorts, p.Child("nodePort"), number{port.Protocol, port.NodePort}, port.NodePort)
		}
		unique(e, numbers, p, number{port.Protocol, port.Port}, corev1.ServicePort{Protocol: port.Protocol, Port: port.Port})
	}
}

func (e *errors) sessionAffinity(spec *corev1.ServiceSpec) {
	in(e, specPath.Child("sessionAffinity"), spec.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	p, c := specPath.Child("sessionAffinityConfig"), spec.SessionAffinityConfig
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		if c != nil {
			e.forbid(p, fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone))
		}
	case corev1.ServiceAffinityClientIP:
		when := fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP)
		const most = 86400 // a day, as the API says
		switch {
		case c == nil:
			e.add(field.Required(p, when))
		case c.ClientIP == nil:
			e.add(field.Required(p.Child("clientIP"), when))
		case c.ClientIP.TimeoutSeconds == nil:
			e.add(field.Required(p.Child("clientIP", "timeoutSeconds"), when))
		case *c.ClientIP.TimeoutSeconds <= 0 || *c.ClientIP.TimeoutSeconds > most:
			e.invalid(p.Child("clientIP", "timeoutSeconds"), *c.ClientIP.TimeoutSeconds, fmt.Sprintf("must be greater than 0 and less than %d", most))
		}
	}
}

// clusterIPs: at most one of each family, and in step with the families.
func (e *errors) clusterIPs(svc *corev1.Service) {
	spec, p := &svc.Spec, specPath.Child("clusterIPs")
	switch {
	case spec.ClusterIP == "":
		if len(spec.ClusterIPs) != 0 {
			e.invalid(p, spec.ClusterIPs, "must be empty when `clusterIP` is not specified")
		}
	case len(spec.ClusterIPs) == 0:
		e.required(p)
	case spec.ClusterIPs[0] != spec.ClusterIP:
		e.invalid(p, spec.ClusterIPs, "first value must match `clusterIP`")
	}
	e.families(spec)
	valid := true
	for i, ip := range spec.ClusterIPs {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(spec.ClusterIPs) > 1 {
				valid = false
				e.invalid(p, spec.ClusterIPs, "'None' must be the first and only value")
			}
			continue
		}
		valid = e.ip(p.Index(i), ip) && valid
	}
	if len(spec.ClusterIPs) > 2 {
		e.invalid(p, spec.ClusterIPs, "may only hold up to 2 values")
	}
	if !valid {
		return
	}
	if len(spec.ClusterIPs) > 1 {
		if dual, err := netutils.IsDualStackIPStrings(spec.ClusterIPs); err != nil || !dual {
			e.invalid(p, spec.ClusterIPs, "may specify no more than one IP for each IP family")
		}
	}
	if headless(svc) {
		return
	}
	for i := range min(len(spec.ClusterIPs), len(spec.IPFamilies)) {
		if ip, family := spec.ClusterIPs[i], spec.IPFamilies[i]; netutils.IsIPv6String(ip) != (family == corev1.IPv6Protocol) {
			e.invalid(p.Index(i), ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%v]`", family, i))
		}
	}
}

func (e *errors) families(spec *corev1.ServiceSpec) {
	seen := map[corev1.IPFamily]bool{}
	p := specPath.Child("ipFamilies")
	for i, f := range spec.IPFamilies {
		oneOf(e, p.Index(i), f, corev1.IPv4Protocol, corev1.IPv6Protocol)
		unique(e, seen, p.Index(i), f, f)
	}
	inPtr(e, specPath.Child("ipFamilyPolicy"), spec.IPFamilyPolicy,
		corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack)
	headlessOpen := spec.ClusterIP == corev1.ClusterIPNone && len(spec.Selector) == 0
	if headlessOpen {
		return
	}
	// The cluster has IPv4 service addresses only.
	for i, f := range spec.IPFamilies {
		if f == corev1.IPv6Protocol {
			e.invalid(p.Index(i), f, "not configured on this cluster")
		}
	}
	if pol := spec.IPFamilyPolicy; pol != nil && *pol == corev1.IPFamilyPolicyRequireDualStack {
		e.invalid(specPath.Child("ipFamilyPolicy"), *pol, "this cluster is not configured for dual-stack services")
	}
}

// externalIPs let whoever may create a service take over traffic to any
// address (CVE-2020-8554), so they are checked and refused.
func (e *errors) externalIPs(spec *corev1.ServiceSpec) {
	p := specPath.Child("externalIPs")
	for i, ip := range spec.ExternalIPs {
		if e.ip(p.Index(i), ip) {
			e.ordinaryIP(p.Index(i), ip)
		}
	}
	if len(spec.ExternalIPs) > 0 {
		e.forbid(p, "externalIPs are not allowed: they let a service intercept traffic to any address (CVE-2020-8554)")
	}
}

// ordinaryIP refuses addresses that mean the node itself or its link
// (CVE-2021-25737).
func (e *errors) ordinaryIP(p *field.Path, value string) {
	ip, err := netip.ParseAddr(value)
	if err != nil {
		return // reported where the form is judged
	}
	ip = ip.Unmap()
	switch {
	case ip.IsUnspecified():
		e.invalid(p, value, fmt.Sprintf("may not be unspecified (%v)", value))
	case ip.IsLoopback():
		e.invalid(p, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	case ip.IsLinkLocalUnicast():
		e.invalid(p, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	case ip.IsLinkLocalMulticast():
		e.invalid(p, value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	}
}

func (e *errors) sourceRanges(svc *corev1.Service) {
	if ranges := svc.Spec.LoadBalancerSourceRanges; len(ranges) > 0 {
		p := specPath.Child("LoadBalancerSourceRanges")
		if !balanced(svc) {
			e.forbid(p, onlyLoadBalancer)
		}
		for i, r := range ranges {
			e.cidr(p.Index(i), strings.TrimSpace(r))
		}
		return
	}
	value, ok := svc.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if !ok {
		return
	}
	p := metaPath.Child("annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	if !balanced(svc) {
		e.forbid(p, onlyLoadBalancer)
	}
	if value = strings.TrimSpace(value); value == "" {
		return
	}
	for r := range strings.SplitSeq(value, ",") {
		e.cidr(p, strings.TrimSpace(r))
	}
}

func (e *errors) trafficPolicies(svc *corev1.Service) {
	spec := &svc.Spec
	p := specPath.Child("externalTrafficPolicy")
	if external(svc) {
		in(e, p, spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	} else if spec.ExternalTrafficPolicy != "" {
		e.invalid(p, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services")
	}
	// The apiserver allocates the port; one that is given is judged here.
	if port, p := spec.HealthCheckNodePort, specPath.Child("healthCheckNodePort"); port != 0 {
		if healthChecked(svc) {
			e.msgs(p, port, validation.IsValidPortNum(int(port)))
		} else {
			e.invalid(p, port, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")
		}
	}
	p = specPath.Child("internalTrafficPolicy")
	if spec.InternalTrafficPolicy == nil && spec.Type != corev1.ServiceTypeExternalName {
		e.required(p)
	}
	inPtr(e, p, spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	inPtr(e, specPath.Child("trafficDistribution"), spec.TrafficDistribution,
		corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)
}

// clusterIPUpdate: the first address stays for the life of the service, unless
// it is or becomes an ExternalName.
func (e *errors) clusterIPUpdate(svc, old *corev1.Service) {
	if svc.Spec.Type == corev1.ServiceTypeExternalName || old.Spec.Type == corev1.ServiceTypeExternalName || headless(svc) && headless(old) {
		return
	}
	p, is, was := specPath.Child("clusterIPs"), svc.Spec.ClusterIPs, old.Spec.ClusterIPs
	const stays = "may not change once set"
	switch {
	case len(was) == len(is):
		for i := range was {
			if was[i] != is[i] {
				e.invalid(p.Index(i), is, stays)
			}
		}
	case len(is) == 0:
		e.invalid(p.Index(0), is, "primary clusterIP can not be unset")
	case len(was) > 0 && was[0] != is[0]:
		e.invalid(p.Index(0), is, stays)
	}
	if len(was) > len(is) && len(is) == 1 && !singleStack(svc) {
		e.invalid(specPath.Child("ipFamilyPolicy"), svc.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary clusterIP")
	}
}

func singleStack(svc *corev1.Service) bool {
	return svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
}

func (e *errors) familyUpdate(svc, old *corev1.Service) {
	if svc.Spec.Type == corev1.ServiceTypeExternalName || old.Spec.Type == corev1.ServiceTypeExternalName || headless(svc) || headless(old) {
		return
	}
	p, is, was := specPath.Child("ipFamilies"), svc.Spec.IPFamilies, old.Spec.IPFamilies
	switch {
	case len(was) > 0 && len(is) == 0:
		e.invalid(p.Index(0), is, "primary ipFamily can not be unset")
	case len(was) > 0 && was[0] != is[0] || len(was) == len(is) && !same(is, was):
		e.invalid(p.Index(0), is, "may not change once set")
	}
	if len(was) > len(is) && len(is) == 1 && !singleStack(svc) {
		e.invalid(specPath.Child("ipFamilyPolicy"), svc.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary ipFamily")
	}
}
