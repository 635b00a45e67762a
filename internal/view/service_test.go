package view

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/kinds"
)

// TestCVE2020_8555: what this server calls by a service is a pod behind it, never
// a host that a user names.
func TestCVE2020_8555(t *testing.T) {
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "ns", Name: name} }
	service := func(name string, typ corev1.ServiceType) kinds.Object {
		return &corev1.Service{ObjectMeta: meta(name), Spec: corev1.ServiceSpec{Type: typ, Ports: []corev1.ServicePort{{Name: "a", Port: 1}, {Name: "b", Port: 443}}}}
	}
	slice := func(name, svc, port string, number int32, es ...discoveryv1.Endpoint) kinds.Object {
		s := &discoveryv1.EndpointSlice{ObjectMeta: meta(name), Endpoints: es, Ports: []discoveryv1.EndpointPort{{Name: &port, Port: &number}}}
		s.Labels = map[string]string{discoveryv1.LabelServiceName: svc}
		return s
	}
	endpoint := func(address string, ready *bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: ready}}
	}
	v := New([]*kinds.Kind{kinds.Service, kinds.EndpointSlice}, SlicesByService)
	rev := int64(0)
	put := func(k *kinds.Kind, os ...kinds.Object) {
		for _, o := range os {
			rev++
			v.Apply(Change{Kind: k, New: o, Rev: rev})
		}
	}
	put(kinds.Service, service("s", corev1.ServiceTypeClusterIP), service("none", corev1.ServiceTypeClusterIP), service("out", corev1.ServiceTypeExternalName))
	put(kinds.EndpointSlice,
		slice("s-1", "s", "a", 8080, endpoint("10.0.0.1", nil)),
		slice("s-2", "s", "b", 8443, endpoint("10.0.0.2", ptr.To(false)), endpoint("10.0.0.3", ptr.To(true)), endpoint("fd00::4", nil)),
		slice("out-1", "out", "b", 8443, endpoint("10.0.0.5", nil)),
		slice("none-1", "none", "b", 8443, endpoint("10.0.0.6", ptr.To(false))))
	for _, tt := range []struct {
		service string
		port    int32
		want    string // addresses, or the error
	}{
		{"s", 1, "10.0.0.1:8080"},
		{"s", 443, "10.0.0.3:8443 [fd00::4]:8443"},
		{"s", 80, `no service port 80 found for service "s"`},
		{"none", 443, `no endpoints available for service "none"`},
		{"out", 443, `service "out" is of type ExternalName`},
		{"nope", 443, `service "nope" not found`},
	} {
		for range 20 {
			got, err := ServiceAddress(v.Snapshot(), "ns", tt.service, tt.port)
			if err != nil {
				if !apierrors.IsServiceUnavailable(err) || err.Error() != tt.want {
					t.Errorf("%s:%d: %v, want %s", tt.service, tt.port, err, tt.want)
				}
			} else if !strings.Contains(" "+tt.want+" ", " "+got+" ") {
				t.Errorf("%s:%d: %s, want one of %s", tt.service, tt.port, got, tt.want)
			}
		}
	}
}
