package validate

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/internal/kinds/defaults"
)

type serviceChange = change[*corev1.Service]

func goodService() *corev1.Service {
	return &corev1.Service{ObjectMeta: named("s", "default"), Spec: corev1.ServiceSpec{
		ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7"},
		Ports: []corev1.ServicePort{{Port: 80}}, Selector: map[string]string{"app": "web"},
	}}
}

func TestService(t *testing.T) {
	const p0 = "spec.ports[0]"
	creates(t, goodService, defaults.Service, Service, []serviceChange{
		{"good", nil, nil},
		{"name starting with a digit", func(s *corev1.Service) { s.Name = "1s" }, []string{"metadata.name Invalid: a DNS-1035 label"}},
		{"no ports", func(s *corev1.Service) { s.Spec.Ports = nil }, []string{"spec.ports Required"}},
		{"headless without ports", func(s *corev1.Service) {
			s.Spec.Ports, s.Spec.ClusterIP, s.Spec.ClusterIPs = nil, "None", []string{"None"}
		}, nil},
		{"unknown type", func(s *corev1.Service) { s.Spec.Type = "Magic" }, []string{`spec.type NotSupported: supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`}},
		{"port", func(s *corev1.Service) { s.Spec.Ports[0].Port = 0 }, []string{p0 + ".port Invalid: must be between 1 and 65535, inclusive"}},
		{"protocol", func(s *corev1.Service) { s.Spec.Ports[0].Protocol = "ICMP" }, []string{p0 + ".protocol NotSupported"}},
		{"target port", func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(-1) }, []string{p0 + ".targetPort Invalid"}},
		{"two ports need names", func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 81, Protocol: "TCP", TargetPort: intstr.FromInt32(81)})
		}, []string{"spec.ports[0].name Required", "spec.ports[1].name Required"}},
		{"two of a port", func(s *corev1.Service) {
			s.Spec.Ports[0].Name = "a"
			s.Spec.Ports = append(s.Spec.Ports, s.Spec.Ports[0])
		}, []string{"spec.ports[1].name Duplicate", "spec.ports[1] Duplicate"}},
		{"node port of a cluster service", func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30000 }, []string{p0 + ".nodePort Forbidden: may not be used when `type` is 'ClusterIP'"}},
		{"headless node port", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.ExternalTrafficPolicy = "NodePort", "None", []string{"None"}, "Cluster"
		}, []string{"spec.clusterIPs[0] Invalid: may not be set to 'None' for NodePort services"}},
		{"addresses out of step", func(s *corev1.Service) { s.Spec.ClusterIP = "10.96.0.8" }, []string{"spec.clusterIPs Invalid: first value must match `clusterIP`"}},
		{"address", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "x", []string{"x"} }, []string{"spec.clusterIPs[0] Invalid: must be a valid IP address"}},
		{"two of a family", func(s *corev1.Service) { s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "10.96.0.8") }, []string{"spec.clusterIPs Invalid: may specify no more than one IP for each IP family"}},
		{"wrong family", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "fd00::1", []string{"fd00::1"} }, []string{"spec.clusterIPs[0] Invalid: expected an IPv4 value as indicated by `ipFamilies[0]`"}},
		{"no IPv6 here", func(s *corev1.Service) {
			s.Spec.IPFamilies, s.Spec.ClusterIP, s.Spec.ClusterIPs = []corev1.IPFamily{"IPv6"}, "", nil
		},
			[]string{"spec.ipFamilies[0] Invalid: not configured on this cluster"}},
		{"no dual stack here", func(s *corev1.Service) { s.Spec.IPFamilyPolicy = ptr(corev1.IPFamilyPolicyRequireDualStack) },
			[]string{"spec.ipFamilyPolicy Invalid: this cluster is not configured for dual-stack services"}},
		{"affinity", func(s *corev1.Service) { s.Spec.SessionAffinity = "Cookie" }, []string{`spec.sessionAffinity NotSupported: "ClientIP", "None"`}},
		{"affinity timeout", func(s *corev1.Service) {
			s.Spec.SessionAffinity, s.Spec.SessionAffinityConfig = "ClientIP", &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(86401))}}
		}, []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds Invalid: must be greater than 0 and less than 86400"}},
		{"external name", func(s *corev1.Service) { s.Spec = corev1.ServiceSpec{Type: "ExternalName", SessionAffinity: "None"} }, []string{"spec.externalName Required"}},
		{"external name with address", func(s *corev1.Service) { s.Spec.Type, s.Spec.ExternalName = "ExternalName", "A" },
			[]string{"spec.clusterIPs Forbidden: may not be set for ExternalName services", "spec.ipFamilies Forbidden", "spec.ipFamilyPolicy Forbidden", "spec.externalName Invalid"}},
		{"external address", func(s *corev1.Service) {
			s.Spec.ExternalIPs, s.Spec.ExternalTrafficPolicy = []string{"1.2.3.4", "127.0.0.1", "x"}, "Cluster"
		}, []string{"spec.externalIPs Forbidden: CVE-2020-8554", "spec.externalIPs[1] Invalid: loopback range", "spec.externalIPs[2] Invalid"}},
		{"source ranges", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{" 10.0.0.0/8", "x"} },
			[]string{"spec.LoadBalancerSourceRanges Forbidden: may only be used when `type` is 'LoadBalancer'", "spec.LoadBalancerSourceRanges[1] Invalid"}},
		{"class", func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr("x") }, []string{"spec.loadBalancerClass Forbidden"}},
		{"external policy", func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = "Local" }, []string{"spec.externalTrafficPolicy Invalid: may only be set for externally-accessible services"}},
		{"internal policy", func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = nil }, []string{"spec.internalTrafficPolicy Required"}},
		{"health port", func(s *corev1.Service) { s.Spec.HealthCheckNodePort = 30000 }, []string{"spec.healthCheckNodePort Invalid: may only be set when"}},
		{"distribution", func(s *corev1.Service) { s.Spec.TrafficDistribution = ptr("Far") }, []string{"spec.trafficDistribution NotSupported"}},
	})
}

func TestServiceUpdate(t *testing.T) {
	updates(t, goodService, defaults.Service, ServiceUpdate, []serviceChange{
		{"nothing", nil, nil},
		{"other address", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.8", []string{"10.96.0.8"} }, []string{"spec.clusterIPs[0] Invalid: may not change once set"}},
		{"no address", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil }, []string{"spec.clusterIPs[0] Invalid: primary clusterIP can not be unset"}},
		{"to external name", func(s *corev1.Service) {
			s.Spec = corev1.ServiceSpec{Type: "ExternalName", ExternalName: "x.example", SessionAffinity: "None"}
		}, nil},
	})
	updates(t, goodService, defaults.Service, ServiceStatusUpdate, []serviceChange{
		{"balanced", func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "1.2.3.4"}} },
			[]string{"status.loadBalancer.ingress Forbidden: may only be used when `spec.type` is \"LoadBalancer\"", "status.loadBalancer.ingress[0].ipMode Required"}},
	})
}

func TestEndpoints(t *testing.T) {
	good := func() *corev1.Endpoints {
		return &corev1.Endpoints{ObjectMeta: named("e", "default"), Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: "10.244.0.2"}}, Ports: []corev1.EndpointPort{{Port: 80}},
		}}}
	}
	const a0 = "subsets[0].addresses[0]"
	address := func(ip string) func(*corev1.Endpoints) {
		return func(e *corev1.Endpoints) { e.Subsets[0].Addresses[0].IP = ip }
	}
	creates(t, good, defaults.Endpoints, Endpoints, []change[*corev1.Endpoints]{
		{"good", nil, nil},
		{"loopback", address("127.0.0.1"), []string{a0 + ".ip Invalid: may not be in the loopback range (127.0.0.0/8, ::1/128)"}},
		{"loopback 6", address("::1"), []string{a0 + ".ip Invalid: loopback"}},
		{"link-local", address("169.254.169.254"), []string{a0 + ".ip Invalid: may not be in the link-local range (169.254.0.0/16, fe80::/10)"}},
		{"link-local 6", address("fe80::1"), []string{a0 + ".ip Invalid: link-local range"}},
		{"multicast", address("224.0.0.1"), []string{a0 + ".ip Invalid: link-local multicast range"}},
		{"unspecified", address("0.0.0.0"), []string{a0 + ".ip Invalid: may not be unspecified (0.0.0.0)"}},
		{"mapped loopback", address("::ffff:127.0.0.1"), []string{a0 + ".ip Invalid: must not be an IPv4-mapped IPv6 address"}},
		{"octal", address("0177.0.0.1"), []string{a0 + ".ip Invalid: must not have leading 0s"}},
		{"empty subset", func(e *corev1.Endpoints) { e.Subsets[0].Addresses = nil }, []string{"subsets[0] Required: must specify `addresses` or `notReadyAddresses`"}},
		{"ports need names", func(e *corev1.Endpoints) { e.Subsets[0].Ports = append(e.Subsets[0].Ports, e.Subsets[0].Ports[0]) }, []string{"subsets[0].ports[0].name Required", "subsets[0].ports[1].name Required"}},
	})
}

func TestEndpointSlice(t *testing.T) {
	good := func() *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: named("e", "default"), AddressType: "IPv4",
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.2"}}}, Ports: []discoveryv1.EndpointPort{{Port: ptr(int32(80))}}}
	}
	type slice = discoveryv1.EndpointSlice
	creates(t, good, defaults.EndpointSlice, EndpointSlice, []change[*slice]{
		{"good", nil, nil},
		{"no type", func(s *slice) { s.AddressType = "" }, []string{"addressType Required"}},
		{"type", func(s *slice) { s.AddressType = "IPX" }, []string{`addressType NotSupported: "FQDN", "IPv4", "IPv6"`}},
		{"loopback", func(s *slice) { s.Endpoints[0].Addresses[0] = "127.0.0.1" }, []string{"endpoints[0].addresses[0] Invalid: loopback"}},
		{"family", func(s *slice) { s.Endpoints[0].Addresses[0] = "fd00::1" }, []string{"endpoints[0].addresses[0] Invalid: must be an IPv4 address"}},
		{"no address", func(s *slice) { s.Endpoints[0].Addresses = nil }, []string{"endpoints[0].addresses Required: must contain at least 1 address"}},
		{"too many", func(s *slice) { s.Endpoints = make([]discoveryv1.Endpoint, 1001) }, []string{"endpoints TooMany: must have at most 1000 items"}},
		{"ports", func(s *slice) { s.Ports = append(s.Ports, s.Ports[0]) }, []string{"ports[1].name Duplicate"}},
		{"hints", func(s *slice) {
			s.Endpoints[0].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}, {Name: "a"}}}
		},
			[]string{"endpoints[0].hints.forZones[1].name Duplicate"}},
	})
	updates(t, good, defaults.EndpointSlice, EndpointSliceUpdate, []change[*slice]{
		{"type", func(s *slice) { s.AddressType = "FQDN"; s.Endpoints[0].Addresses[0] = "a.example" }, []string{"addressType Invalid: field is immutable"}},
	})
}
