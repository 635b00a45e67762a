package aggregate

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// Observed is all that availability depends on but the backend's own answer.
type Observed struct {
	APIService *apiregistrationv1.APIService
	Service    *corev1.Service // nil: there is none
	Slices     []*discoveryv1.EndpointSlice
}

// Judge says what is wrong with an API that another server answers for, or nil
// if there is somebody to ask.
func Judge(o Observed) *apiregistrationv1.APIServiceCondition {
	ref := o.APIService.Spec.Service
	port := int32(443)
	if ref.Port != nil {
		port = *ref.Port
	}
	unavailable := func(reason, format string, args ...any) *apiregistrationv1.APIServiceCondition {
		return condition(apiregistrationv1.ConditionFalse, reason, fmt.Sprintf("%s "+format, append([]any{fmt.Sprintf("service/%s in %q", ref.Name, ref.Namespace)}, args...)...))
	}
	if o.Service == nil {
		return unavailable("ServiceNotFound", "is not present")
	}
	if o.Service.Spec.Type == corev1.ServiceTypeExternalName {
		// A name outside of the cluster would have the server fetch what a user names.
		return unavailable("ServiceAccessError", "cannot be checked due to: it is of type ExternalName")
	}
	i := slices.IndexFunc(o.Service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == port })
	if i < 0 {
		return unavailable("ServicePortError", "is not listening on port %d", port)
	}
	if len(o.Slices) == 0 {
		return condition(apiregistrationv1.ConditionFalse, "EndpointsNotFound", fmt.Sprintf("cannot find endpointslices for service/%s in %q", ref.Name, ref.Namespace))
	}
	name := o.Service.Spec.Ports[i].Name
	if !slices.ContainsFunc(o.Slices, func(s *discoveryv1.EndpointSlice) bool { return serves(s, name) }) {
		return condition(apiregistrationv1.ConditionFalse, "MissingEndpoints",
			fmt.Sprintf("endpointslices for service/%s in %q have no addresses with port name %q", ref.Name, ref.Namespace, name))
	}
	return nil
}

// serves reports whether the slice has a ready endpoint with the port.
func serves(s *discoveryv1.EndpointSlice, port string) bool {
	return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return e.Conditions.Ready == nil || *e.Conditions.Ready }) &&
		slices.ContainsFunc(s.Ports, func(p discoveryv1.EndpointPort) bool {
			return p.Port != nil && (p.Name == nil && port == "" || p.Name != nil && *p.Name == port)
		})
}

func condition(status apiregistrationv1.ConditionStatus, reason, message string) *apiregistrationv1.APIServiceCondition {
	return &apiregistrationv1.APIServiceCondition{Type: apiregistrationv1.Available, Status: status, Reason: reason, Message: message}
}

// withCondition returns a copy that says c, or nil if it says so already.
func withCondition(a *apiregistrationv1.APIService, c apiregistrationv1.APIServiceCondition, now metav1.Time) *apiregistrationv1.APIService {
	c.LastTransitionTime = now
	i := slices.IndexFunc(a.Status.Conditions, func(have apiregistrationv1.APIServiceCondition) bool { return have.Type == c.Type })
	if i < 0 {
		a = a.DeepCopy()
		a.Status.Conditions = append(a.Status.Conditions, c)
		return a
	}
	have := a.Status.Conditions[i]
	if have.Status == c.Status {
		c.LastTransitionTime = have.LastTransitionTime
	}
	if have == c {
		return nil
	}
	a = a.DeepCopy()
	a.Status.Conditions[i] = c
	return a
}
