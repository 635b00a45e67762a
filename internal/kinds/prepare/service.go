package prepare

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// ServiceCreate clears the status.
func ServiceCreate(svc *corev1.Service) {
	fresh(svc, false)
	svc.Status = corev1.ServiceStatus{}
	clusterIPs(svc, nil)
}

// ServiceUpdate keeps the status and what was allocated, where the new object
// leaves it out and still needs it.
func ServiceUpdate(svc, old *corev1.Service) {
	Keep(svc, old)
	svc.Status = old.Status
	clusterIPs(svc, old)
	keepAllocated(&svc.Spec, &old.Spec)
	dropUnused(&svc.Spec, &old.Spec)
}

// ServiceStatusUpdate keeps the spec.
func ServiceStatusUpdate(svc, old *corev1.Service) {
	Keep(svc, old)
	svc.Spec = old.Spec
}

// clusterIPs keeps clusterIP and clusterIPs in step: clients may know only the
// older field.
func clusterIPs(svc, old *corev1.Service) {
	s := &svc.Spec
	if old == nil {
		if s.ClusterIP != "" && len(s.ClusterIPs) == 0 {
			s.ClusterIPs = []string{s.ClusterIP}
		}
		return
	}
	was := &old.Spec
	same := len(s.ClusterIPs) == len(was.ClusterIPs)
	for i := 0; same && i < len(s.ClusterIPs); i++ {
		same = s.ClusterIPs[i] == was.ClusterIPs[i]
	}
	switch {
	case s.ClusterIP == was.ClusterIP:
	case s.ClusterIP == "": // cleared by a client that knows only this field
		if same {
			s.ClusterIPs = nil
		}
	case same:
		s.ClusterIPs = []string{s.ClusterIP}
	}
}

func needsIP(s *corev1.ServiceSpec) bool { return s.Type != corev1.ServiceTypeExternalName }

func needsNodePort(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeNodePort ||
		s.Type == corev1.ServiceTypeLoadBalancer && (s.AllocateLoadBalancerNodePorts == nil || *s.AllocateLoadBalancerNodePorts)
}

func needsHealthPort(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeLoadBalancer && s.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func keepAllocated(s, was *corev1.ServiceSpec) {
	if needsIP(was) && needsIP(s) && s.ClusterIP == "" && len(s.ClusterIPs) == 0 {
		s.ClusterIP, s.ClusterIPs = was.ClusterIP, was.ClusterIPs
	}
	if needsNodePort(was) && needsNodePort(s) {
		keepNodePorts(s, was)
	}
	if needsHealthPort(was) && needsHealthPort(s) && s.HealthCheckNodePort == 0 {
		s.HealthCheckNodePort = was.HealthCheckNodePort
	}
}

// keepNodePorts matches ports by protocol and number, and never gives one away
// that the new object asks for elsewhere.
func keepNodePorts(s, was *corev1.ServiceSpec) {
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	allocated := make(map[key]int32, len(was.Ports))
	for _, p := range was.Ports {
		allocated[key{p.Protocol, p.Port}] = p.NodePort
	}
	taken := make(map[key]bool, len(s.Ports))
	for _, p := range s.Ports {
		if p.NodePort != 0 {
			taken[key{p.Protocol, p.NodePort}] = true
		}
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		if had := allocated[key{p.Protocol, p.Port}]; p.NodePort == 0 && had != 0 && !taken[key{p.Protocol, had}] {
			p.NodePort = had
			taken[key{p.Protocol, had}] = true
		}
	}
}

// dropUnused clears what a change of type leaves behind and the client did not
// ask for.
func dropUnused(s, was *corev1.ServiceSpec) {
	if needsIP(was) && !needsIP(s) && s.ClusterIP == was.ClusterIP {
		s.ClusterIP, s.ClusterIPs = "", nil
		s.IPFamilies, s.IPFamilyPolicy = nil, nil
	}
	if needsNodePort(was) && !needsNodePort(s) && sameNodePorts(s, was) {
		for i := range s.Ports {
			s.Ports[i].NodePort = 0
		}
	}
	if needsHealthPort(was) && !needsHealthPort(s) && s.HealthCheckNodePort == was.HealthCheckNodePort {
		s.HealthCheckNodePort = 0
	}
	external := func(x *corev1.ServiceSpec) bool {
		return x.Type == corev1.ServiceTypeNodePort || x.Type == corev1.ServiceTypeLoadBalancer ||
			x.Type == corev1.ServiceTypeClusterIP && len(x.ExternalIPs) > 0
	}
	if external(was) && !external(s) && s.ExternalTrafficPolicy == was.ExternalTrafficPolicy {
		s.ExternalTrafficPolicy = ""
	}
	if was.Type == corev1.ServiceTypeLoadBalancer && s.Type != corev1.ServiceTypeLoadBalancer {
		if equalPtr(s.AllocateLoadBalancerNodePorts, was.AllocateLoadBalancerNodePorts) {
			s.AllocateLoadBalancerNodePorts = nil
		}
		if equalPtr(s.LoadBalancerClass, was.LoadBalancerClass) {
			s.LoadBalancerClass = nil
		}
	}
}

func sameNodePorts(s, was *corev1.ServiceSpec) bool {
	had := make(map[int32]bool, len(was.Ports))
	for _, p := range was.Ports {
		had[p.NodePort] = true
	}
	for _, p := range s.Ports {
		if p.NodePort != 0 && !had[p.NodePort] {
			return false
		}
	}
	return true
}

func equalPtr[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// EndpointSliceUpdate counts changes of what it lists.
func EndpointSliceUpdate(s, old *discoveryv1.EndpointSlice) {
	Keep(s, old)
	bump(s, old, differ(s.Endpoints, old.Endpoints) || differ(s.Ports, old.Ports) || s.AddressType != old.AddressType || differ(s.Labels, old.Labels))
}
