// Package ipaddress keeps services and the IPAddress objects by which their
// addresses are taken in step: it makes those that are missing and removes
// those that nobody uses.
package ipaddress

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

const (
	// manager is what upstream's allocator is called in labels.
	manager = "ipallocator.k8s.io"
	// birth is how long a new address may wait for its service, which is
	// written after it: the longest that a request takes.
	birth = time.Minute
	// revert is how long an apiserver may take to give back the address of a
	// service that could not be written. Both are upstream's figures.
	revert = 5 * time.Second
)

// Observed is everything about one address.
type Observed struct {
	IP      netip.Addr
	Address *networkingv1.IPAddress // nil: nobody has taken it
	// Services that say the address is theirs.
	Services []*corev1.Service
	// Parent is the service that Address belongs to; nil: there is none.
	Parent *corev1.Service
	// InRange: a ServiceCIDR holds the address.
	InRange bool
	Now     time.Time
}

// Plan repairs one address.
func Plan(o Observed) plan.Result {
	services := slices.Clone(o.Services)
	slices.SortFunc(services, func(a, b *corev1.Service) int { // who was first has it
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	switch {
	case len(services) == 0 && o.Address == nil:
		return plan.Result{}
	case len(services) == 0:
		return unused(o)
	case !o.InRange:
		var res plan.Result
		for _, svc := range services {
			res.Events = append(res.Events, o.warn(svc, "ClusterIPOutOfRange", "Cluster IP [%v]: %s is not within any configured Service CIDR; please recreate service", o.family(), o.IP))
		}
		return res
	case o.Address == nil:
		e := o.warn(services[0], "ClusterIPNotAllocated", "Cluster IP [%v]: %s is not allocated; repairing", o.family(), o.IP)
		return plan.Result{Actions: []plan.Action{o.take(services[0], &e)}}
	}
	return inUse(o, services)
}

func (o Observed) family() corev1.IPFamily {
	if o.IP.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func (o Observed) warn(svc *corev1.Service, reason, format string, args ...any) plan.Event {
	return plan.Event{Regarding: kinds.RefTo(kinds.Service, svc), UID: svc.UID, Type: corev1.EventTypeWarning, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func (o Observed) take(svc *corev1.Service, e *plan.Event) plan.Action {
	a := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: o.IP.String(), Labels: map[string]string{networkingv1.LabelIPAddressFamily: string(o.family()), networkingv1.LabelManagedBy: manager}},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: svc.Namespace, Name: svc.Name}},
	}
	return plan.Action{Verb: plan.Create, Ref: kinds.RefTo(kinds.IPAddress, a), Object: a, Event: e, Tolerate: []metav1.StatusReason{metav1.StatusReasonAlreadyExists}}
}

// remove takes the address's object away. A service that needs one wakes us
// again, to make it anew.
func (o Observed) remove(e *plan.Event) plan.Action {
	return plan.Action{Verb: plan.Delete, Ref: kinds.RefTo(kinds.IPAddress, o.Address), UID: o.Address.UID, Event: e, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound}}
}

// ours: the object says that a service of this cluster has it.
func ours(a *networkingv1.IPAddress) bool {
	ref := a.Spec.ParentRef
	return ref != nil && ref.Group == "" && ref.Resource == "services"
}

// inUse: the object has to name one of the services, the others share what is
// not theirs.
func inUse(o Observed, services []*corev1.Service) plan.Result {
	if o.Address.DeletionTimestamp != nil {
		return plan.Result{}
	}
	owner := -1
	if ours(o.Address) {
		owner = slices.IndexFunc(services, func(s *corev1.Service) bool {
			return s.Namespace == o.Address.Spec.ParentRef.Namespace && s.Name == o.Address.Spec.ParentRef.Name
		})
	}
	if owner < 0 {
		svc := services[0]
		e := o.warn(svc, "ClusterIPNotAllocated", "the ClusterIP [%v]: %s for Service %s/%s has a wrong reference; repairing", o.family(), o.IP, svc.Namespace, svc.Name)
		return plan.Result{Actions: []plan.Action{o.remove(&e)}}
	}
	var res plan.Result
	for i, svc := range services {
		if i != owner {
			res.Events = append(res.Events, o.warn(svc, "ClusterIPAlreadyAllocated", "Cluster IP [%v]:%s was assigned to multiple services; please recreate service", o.family(), o.IP))
		}
	}
	if l := o.Address.Labels; l[networkingv1.LabelManagedBy] != manager || l[networkingv1.LabelIPAddressFamily] != string(o.family()) {
		res.Actions = append(res.Actions, o.remove(nil))
	}
	return res
}

// unused: an address that this cluster has given out and no service has.
// Others' are none of our business.
func unused(o Observed) plan.Result {
	a := o.Address
	if a.Labels[networkingv1.LabelManagedBy] != manager || a.DeletionTimestamp != nil {
		return plan.Result{}
	}
	event := func(reason, format string, args ...any) *plan.Event {
		return &plan.Event{Regarding: kinds.RefTo(kinds.IPAddress, a), UID: a.UID, Type: corev1.EventTypeWarning, Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	if !ours(a) {
		return plan.Result{Actions: []plan.Action{o.remove(event("IPAddressNotAllocated", "IPAddress %s appears to have been modified, not referencing a Service %v: cleaning up", a.Name, a.Spec.ParentRef))}}
	}
	ref, age := a.Spec.ParentRef, o.Now.Sub(a.CreationTimestamp.Time)
	switch {
	case (o.Parent == nil || o.Parent.Spec.Type == corev1.ServiceTypeExternalName) && age <= birth:
		return plan.Result{After: birth - age + time.Second}
	case o.Parent == nil:
		return plan.Result{Actions: []plan.Action{o.remove(event("IPAddressNotAllocated", "IPAddress: %s for Service %s/%s appears to have leaked: cleaning up", a.Name, ref.Namespace, ref.Name))}}
	case a.CreationTimestamp.After(o.Parent.CreationTimestamp.Time) && age < revert:
		return plan.Result{After: revert}
	}
	return plan.Result{Actions: []plan.Action{o.remove(event("IPAddressWrongReference", "IPAddress: %s for Service %s/%s has a wrong reference; cleaning up", a.Name, ref.Namespace, ref.Name))}}
}
