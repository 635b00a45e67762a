package apiserver

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestAsksPorts(t *testing.T) {
	service := func(kind corev1.ServiceType, ports ...int32) *corev1.Service {
		svc := &corev1.Service{Spec: corev1.ServiceSpec{Type: kind}}
		for _, p := range ports {
			svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{NodePort: p, Protocol: corev1.ProtocolTCP})
		}
		return svc
	}
	local := func(check int32) *corev1.Service {
		svc := service(corev1.ServiceTypeLoadBalancer, 30001)
		svc.Spec.ExternalTrafficPolicy, svc.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyLocal, check
		return svc
	}
	const plain, node = corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort
	for name, c := range map[string]struct {
		svc, before *corev1.Service
		want        bool
	}{
		"without":           {service(plain, 0), nil, false},
		"without, given":    {service(plain, 30001), nil, true},
		"no type":           {service("", 0), nil, false},
		"new":               {service(node, 0), nil, true},
		"as it was":         {service(node, 30001), service(node, 30001), false},
		"another":           {service(node, 30002), service(node, 30001), true},
		"one more":          {service(node, 30001, 0), service(node, 30001), true},
		"one less":          {service(node, 30001), service(node, 30001, 30002), false},
		"of another type":   {service(node, 0), service(plain, 0), true},
		"no longer":         {service(plain, 0), service(node, 30001), false},
		"check is missing":  {local(0), local(0), true},
		"check as it was":   {local(30005), local(30005), false},
		"check is another":  {local(30006), local(30005), true},
		"other protocol is": {&corev1.Service{Spec: corev1.ServiceSpec{Type: node, Ports: []corev1.ServicePort{{NodePort: 30001, Protocol: corev1.ProtocolUDP}}}}, service(node, 30001), true},
	} {
		if got := asksPorts(c.svc, c.before); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
