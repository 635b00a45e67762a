// Package endpoints keeps the old Endpoints objects of Services with a
// selector, for clients that do not read EndpointSlices yet. It computes
// nothing of its own: it says what the slices of the service say.
package endpoints

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

const (
	// sliceManager marks the slices that are mirrored.
	sliceManager = "endpointslice-controller.k8s.io"
	// labelManagedBy and managedBy mark the objects of this controller, as
	// upstream does since 1.33; only those are ever deleted.
	labelManagedBy = "endpoints.kubernetes.io/managed-by"
	managedBy      = "endpoint-controller"
	// maxAddresses of one object: what the API documents. Those that are not
	// ready are left out first.
	maxAddresses = 1000
	truncated    = "truncated" // value of the over-capacity annotation
)

// Observed is what a service's Endpoints depend on.
type Observed struct {
	Service *corev1.Service // nil: it is gone
	Slices  []*discoveryv1.EndpointSlice
	Have    *corev1.Endpoints // nil: none
}

// Plan returns what must change so that the Endpoints say what the slices say.
// What belongs to a service without a selector is its user's.
func Plan(o Observed) plan.Result {
	if o.Service == nil || o.Service.Spec.Type == corev1.ServiceTypeExternalName {
		if o.Have == nil || o.Have.Labels[labelManagedBy] != managedBy || o.Have.DeletionTimestamp != nil {
			return plan.Result{}
		}
		return plan.Result{Actions: []plan.Action{{
			Verb: plan.Delete, Ref: kinds.RefTo(kinds.Endpoints, o.Have), UID: o.Have.UID,
			Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
		}}}
	}
	if o.Service.Spec.Selector == nil || o.Service.DeletionTimestamp != nil {
		return plan.Result{}
	}
	want := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: o.Service.Namespace, Name: o.Service.Name}}
	if o.Have != nil {
		want = o.Have.DeepCopy()
	}
	want.Labels = labelsOf(o.Service)
	over := false
	want.Subsets, over = subsets(o)
	if over {
		metav1.SetMetaDataAnnotation(&want.ObjectMeta, corev1.EndpointsOverCapacity, truncated)
	} else {
		delete(want.Annotations, corev1.EndpointsOverCapacity)
	}
	a := plan.Action{Verb: plan.Create, Ref: kinds.RefTo(kinds.Endpoints, want), Object: want}
	if o.Have != nil {
		if apiequality.Semantic.DeepEqual(want, o.Have) {
			return plan.Result{}
		}
		a.Verb = plan.Update
	}
	return plan.Result{Actions: []plan.Action{a}}
}

func labelsOf(svc *corev1.Service) map[string]string {
	labels := map[string]string{}
	maps.Copy(labels, svc.Labels)
	delete(labels, corev1.IsHeadlessService)
	labels[labelManagedBy] = managedBy
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[corev1.IsHeadlessService] = ""
	}
	return labels
}

// subsets are the slices' endpoints of the service's first address family, by
// ports. Endpoints know no third state: one that is ending is left out unless
// it is published as ready.
func subsets(o Observed) (out []corev1.EndpointSubset, over bool) {
	family := discoveryv1.AddressTypeIPv4
	if f := o.Service.Spec.IPFamilies; len(f) > 0 && f[0] == corev1.IPv6Protocol {
		family = discoveryv1.AddressTypeIPv6
	}
	byPorts := map[string]*corev1.EndpointSubset{}
	seen := map[string]bool{} // an endpoint that moves is in two slices for a moment
	for _, s := range o.Slices {
		if s.AddressType != family || s.Labels[discoveryv1.LabelManagedBy] != sliceManager || !metav1.IsControlledBy(s, o.Service) {
			continue
		}
		ports, key := portsOf(s)
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if len(e.Addresses) == 0 || seen[key+"|"+e.Addresses[0]] {
				continue
			}
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready
			if !ready && e.Conditions.Terminating != nil && *e.Conditions.Terminating {
				continue
			}
			seen[key+"|"+e.Addresses[0]] = true
			sub := byPorts[key]
			if sub == nil {
				sub = &corev1.EndpointSubset{Ports: ports}
				byPorts[key] = sub
			}
			if ready {
				sub.Addresses = append(sub.Addresses, addressOf(e))
			} else {
				sub.NotReadyAddresses = append(sub.NotReadyAddresses, addressOf(e))
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(byPorts)) {
		sub := byPorts[key]
		sortAddresses(sub.Addresses)
		sortAddresses(sub.NotReadyAddresses)
		out = append(out, *sub)
	}
	return bound(out)
}

func addressOf(e *discoveryv1.Endpoint) corev1.EndpointAddress {
	a := corev1.EndpointAddress{IP: e.Addresses[0], NodeName: e.NodeName, TargetRef: e.TargetRef}
	if e.Hostname != nil {
		a.Hostname = *e.Hostname
	}
	return a
}

func sortAddresses(list []corev1.EndpointAddress) {
	slices.SortFunc(list, func(a, b corev1.EndpointAddress) int { return cmp.Compare(a.IP, b.IP) })
}

func portsOf(s *discoveryv1.EndpointSlice) (ports []corev1.EndpointPort, key string) {
	for _, p := range s.Ports {
		var e corev1.EndpointPort
		if p.Name != nil {
			e.Name = *p.Name
		}
		if p.Port != nil {
			e.Port = *p.Port
		}
		if p.Protocol != nil {
			e.Protocol = *p.Protocol
		}
		e.AppProtocol = p.AppProtocol
		ports = append(ports, e)
	}
	slices.SortFunc(ports, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	keys := make([]string, 0, len(ports))
	for _, p := range ports {
		app := ""
		if p.AppProtocol != nil {
			app = *p.AppProtocol
		}
		keys = append(keys, fmt.Sprintf("%q/%d/%s/%q", p.Name, p.Port, p.Protocol, app))
	}
	return ports, strings.Join(keys, ",")
}

// bound keeps at most maxAddresses, ready ones first, taken evenly from the
// subsets so that none vanishes.
func bound(subs []corev1.EndpointSubset) ([]corev1.EndpointSubset, bool) {
	ready, rest := 0, 0
	for _, s := range subs {
		ready += len(s.Addresses)
		rest += len(s.NotReadyAddresses)
	}
	if ready+rest <= maxAddresses {
		return subs, false
	}
	keepReady := min(ready, maxAddresses)
	keepRest := min(rest, maxAddresses-keepReady)
	var out []corev1.EndpointSubset
	readySeen, restSeen := 0, 0
	for _, s := range subs {
		// The share of what has been seen so far, minus what has been taken.
		n := (readySeen+len(s.Addresses))*keepReady/max(ready, 1) - readySeen*keepReady/max(ready, 1)
		m := (restSeen+len(s.NotReadyAddresses))*keepRest/max(rest, 1) - restSeen*keepRest/max(rest, 1)
		readySeen, restSeen = readySeen+len(s.Addresses), restSeen+len(s.NotReadyAddresses)
		s.Addresses, s.NotReadyAddresses = s.Addresses[:n], s.NotReadyAddresses[:m]
		if n+m > 0 {
			out = append(out, s)
		}
	}
	return out, true
}
