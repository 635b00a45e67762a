package aggregate

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/utils/ptr"
)

func TestJudge(t *testing.T) {
	api := &apiregistrationv1.APIService{Spec: apiregistrationv1.APIServiceSpec{Service: &apiregistrationv1.ServiceReference{Namespace: "ns", Name: "s", Port: ptr.To[int32](8443)}}}
	service := func(typ corev1.ServiceType, port int32) *corev1.Service {
		return &corev1.Service{Spec: corev1.ServiceSpec{Type: typ, Ports: []corev1.ServicePort{{Name: "https", Port: port}}}}
	}
	slice := func(port string, ready *bool) []*discoveryv1.EndpointSlice {
		return []*discoveryv1.EndpointSlice{{Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: ready}}},
			Ports: []discoveryv1.EndpointPort{{Name: &port, Port: ptr.To[int32](443)}}}}
	}
	for _, tt := range []struct {
		name            string
		o               Observed
		reason, message string
	}{
		{"no service", Observed{APIService: api}, "ServiceNotFound", `service/s in "ns" is not present`},
		{"outside", Observed{api, service(corev1.ServiceTypeExternalName, 8443), nil}, "ServiceAccessError", `service/s in "ns" cannot be checked due to: it is of type ExternalName`},
		{"another port", Observed{api, service(corev1.ServiceTypeClusterIP, 443), nil}, "ServicePortError", `service/s in "ns" is not listening on port 8443`},
		{"no slices", Observed{api, service(corev1.ServiceTypeClusterIP, 8443), nil}, "EndpointsNotFound", `cannot find endpointslices for service/s in "ns"`},
		{"not ready", Observed{api, service(corev1.ServiceTypeClusterIP, 8443), slice("https", ptr.To(false))}, "MissingEndpoints", `endpointslices for service/s in "ns" have no addresses with port name "https"`},
		{"other port's endpoints", Observed{api, service(corev1.ServiceTypeClusterIP, 8443), slice("http", nil)}, "MissingEndpoints", `endpointslices for service/s in "ns" have no addresses with port name "https"`},
		{"there", Observed{api, service(corev1.ServiceTypeClusterIP, 8443), slice("https", ptr.To(true))}, "", ""},
	} {
		c := Judge(tt.o)
		if c == nil {
			c = &apiregistrationv1.APIServiceCondition{}
		}
		if c.Reason != tt.reason || c.Message != tt.message || tt.reason != "" && c.Status != apiregistrationv1.ConditionFalse {
			t.Errorf("%s: %+v", tt.name, c)
		}
	}
}

func TestWithCondition(t *testing.T) {
	at := func(s int64) metav1.Time { return metav1.NewTime(time.Unix(s, 0)) }
	failed := *condition(apiregistrationv1.ConditionFalse, "A", "a")
	first := withCondition(&apiregistrationv1.APIService{}, failed, at(1))
	if first == nil || len(first.Status.Conditions) != 1 || first.Status.Conditions[0].LastTransitionTime != at(1) {
		t.Fatalf("%+v", first)
	}
	if again := withCondition(first, failed, at(2)); again != nil {
		t.Errorf("the same is written again: %+v", again)
	}
	other := withCondition(first, *condition(apiregistrationv1.ConditionFalse, "B", "b"), at(3))
	if other == nil || other.Status.Conditions[0].LastTransitionTime != at(1) || first.Status.Conditions[0].Reason != "A" {
		t.Errorf("another reason of the same status: %+v of %+v", other, first)
	}
	passed := withCondition(other, *condition(apiregistrationv1.ConditionTrue, "Passed", ""), at(4))
	if passed == nil || passed.Status.Conditions[0].LastTransitionTime != at(4) {
		t.Errorf("%+v", passed)
	}
}
