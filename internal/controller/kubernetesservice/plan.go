// Package kubernetesservice keeps the Service "kubernetes" in namespace
// default, by which pods reach the API servers, and its endpoints.
package kubernetesservice

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

const (
	// Name of the service and of its endpoints, which every client library
	// knows by the environment of pods.
	Name = "kubernetes"

	portName    = "https"
	servicePort = 443
)

// Observed is what the service should be and what there is.
type Observed struct {
	IP      netip.Addr   // of the service
	Servers []netip.Addr // addresses of the API servers
	Port    int32        // theirs

	Service   *corev1.Service // nil: none; and so on
	Slice     *discoveryv1.EndpointSlice
	Endpoints *corev1.Endpoints
}

// Plan makes the three objects say where the API servers are. While no server
// is known the endpoints stay as they are: old ones are better than none.
func Plan(o Observed) plan.Result {
	var res plan.Result
	if o.Service == nil {
		svc := newService(o)
		res.Actions = append(res.Actions, plan.Action{Verb: plan.Create, Ref: kinds.RefTo(kinds.Service, svc), Object: svc})
	} else if svc := repairService(o); svc != nil {
		res.Actions = append(res.Actions, plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.Service, svc), Object: svc})
	}
	if len(o.Servers) == 0 {
		return res
	}
	servers := slices.Clone(o.Servers)
	slices.SortFunc(servers, netip.Addr.Compare)
	servers = slices.Compact(servers)
	res.Actions = append(res.Actions, sliceActions(o, servers)...)
	res.Actions = append(res.Actions, endpointsActions(o, servers)...)
	return res
}

func meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: Name}
}

func newService(o Observed) *corev1.Service {
	single, affinity := corev1.IPFamilyPolicySingleStack, corev1.ServiceAffinityNone
	svc := &corev1.Service{ObjectMeta: meta(), Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: o.IP.String(), ClusterIPs: []string{o.IP.String()},
		IPFamilies: []corev1.IPFamily{familyOf(o.IP)}, IPFamilyPolicy: &single, SessionAffinity: affinity, Ports: servicePorts(o.Port),
	}}
	svc.Labels = map[string]string{"component": "apiserver", "provider": Name}
	return svc
}

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func servicePorts(target int32) []corev1.ServicePort {
	return []corev1.ServicePort{{Name: portName, Protocol: corev1.ProtocolTCP, Port: servicePort, TargetPort: intstr.FromInt32(target)}}
}

// repairService returns the service as it should be, or nil if it is. Its
// address is not the controller's to change: the API server refuses.
func repairService(o Observed) *corev1.Service {
	if o.Service.DeletionTimestamp != nil {
		return nil
	}
	if apiequality.Semantic.DeepEqual(o.Service.Spec.Ports, servicePorts(o.Port)) && len(o.Service.Spec.Selector) == 0 {
		return nil
	}
	svc := o.Service.DeepCopy()
	svc.Spec.Ports, svc.Spec.Selector = servicePorts(o.Port), nil
	return svc
}

func sliceActions(o Observed, servers []netip.Addr) []plan.Action {
	name, protocol, port := portName, corev1.ProtocolTCP, o.Port
	ports := []discoveryv1.EndpointPort{{Name: &name, Protocol: &protocol, Port: &port}}
	ready := true
	endpoints := make([]discoveryv1.Endpoint, 0, len(servers))
	for _, a := range servers {
		endpoints = append(endpoints, discoveryv1.Endpoint{Addresses: []string{a.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	family := discoveryv1.AddressType(familyOf(servers[0]))
	if o.Slice == nil {
		s := &discoveryv1.EndpointSlice{ObjectMeta: meta(), AddressType: family, Ports: ports, Endpoints: endpoints}
		s.Labels = map[string]string{discoveryv1.LabelServiceName: Name}
		return []plan.Action{{Verb: plan.Create, Ref: kinds.RefTo(kinds.EndpointSlice, s), Object: s}}
	}
	if o.Slice.DeletionTimestamp != nil {
		return nil
	}
	if o.Slice.AddressType != family {
		// It never changes; the deletion wakes us to make a new one.
		return []plan.Action{{Verb: plan.Delete, Ref: kinds.RefTo(kinds.EndpointSlice, o.Slice), UID: o.Slice.UID}}
	}
	if apiequality.Semantic.DeepEqual(o.Slice.Ports, ports) && apiequality.Semantic.DeepEqual(o.Slice.Endpoints, endpoints) &&
		o.Slice.Labels[discoveryv1.LabelServiceName] == Name {
		return nil
	}
	s := o.Slice.DeepCopy()
	s.Ports, s.Endpoints = ports, endpoints
	metav1.SetMetaDataLabel(&s.ObjectMeta, discoveryv1.LabelServiceName, Name)
	return []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.EndpointSlice, s), Object: s}}
}

func endpointsActions(o Observed, servers []netip.Addr) []plan.Action {
	subset := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: portName, Protocol: corev1.ProtocolTCP, Port: o.Port}}}
	for _, a := range servers {
		subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: a.String()})
	}
	// The mirror would make a second slice of these.
	e := &corev1.Endpoints{ObjectMeta: meta()}
	if o.Endpoints != nil {
		e = o.Endpoints.DeepCopy()
	}
	metav1.SetMetaDataLabel(&e.ObjectMeta, discoveryv1.LabelSkipMirror, "true")
	e.Subsets = []corev1.EndpointSubset{subset}
	switch {
	case o.Endpoints == nil:
		return []plan.Action{{Verb: plan.Create, Ref: kinds.RefTo(kinds.Endpoints, e), Object: e}}
	case o.Endpoints.DeletionTimestamp != nil || apiequality.Semantic.DeepEqual(e, o.Endpoints):
		return nil
	}
	return []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.Endpoints, e), Object: e}}
}
