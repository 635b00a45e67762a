package defaults

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Service fills everything that needs no allocation; addresses and node ports
// are the apiserver's.
func Service(svc *corev1.Service) {
	spec := &svc.Spec
	or(&spec.Type, corev1.ServiceTypeClusterIP)
	affinity(spec)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		or(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	switch spec.Type {
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		or(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
		set(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
		families(spec)
	case corev1.ServiceTypeClusterIP:
		if len(spec.ExternalIPs) > 0 {
			or(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
		}
		set(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
		families(spec)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		set(&spec.AllocateLoadBalancerNodePorts, true)
		for i := range svc.Status.LoadBalancer.Ingress {
			if in := &svc.Status.LoadBalancer.Ingress[i]; in.IP != "" {
				set(&in.IPMode, corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

func affinity(spec *corev1.ServiceSpec) {
	or(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		c := spec.SessionAffinityConfig
		if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			timeout := corev1.DefaultClientIPServiceAffinitySeconds
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &timeout}}
		}
	}
}

// families: the cluster has IPv4 service addresses only. A headless service
// without selector may still list endpoints of both families, and by the
// documentation does so unless it says otherwise.
func families(spec *corev1.ServiceSpec) {
	headless := spec.ClusterIP == corev1.ClusterIPNone || len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] == corev1.ClusterIPNone
	if headless && len(spec.Selector) == 0 {
		if len(spec.IPFamilies) == 0 {
			set(&spec.IPFamilyPolicy, corev1.IPFamilyPolicyRequireDualStack)
			spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
			if *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
				spec.IPFamilies = append(spec.IPFamilies, corev1.IPv6Protocol)
			}
			return
		}
	}
	set(&spec.IPFamilyPolicy, corev1.IPFamilyPolicySingleStack)
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	}
}

// EndpointSlice ports have a name, if only the empty one, and a protocol.
func EndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		set(&s.Ports[i].Name, "")
		set(&s.Ports[i].Protocol, corev1.ProtocolTCP)
	}
}
