// Package servicecidr keeps the ranges of addresses of services: it makes the
// default one, says which are ready, and lets none go while addresses in use
// would be left in no range.
package servicecidr

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

const (
	// DefaultName of the range that the configuration gives.
	DefaultName = "kubernetes"
	// Finalizer that holds a range while it is needed.
	Finalizer = "networking.k8s.io/service-cidr-finalizer"

	// grace between a range's deletion and its end, in which an apiserver that
	// has not heard of it may still give out one of its addresses. Upstream's
	// figure.
	grace = 10 * time.Second
)

// Observed is what a range's state depends on.
type Observed struct {
	CIDR *networkingv1.ServiceCIDR
	All  []*networkingv1.ServiceCIDR
	// Used are the addresses of services; only looked at if CIDR is being
	// deleted.
	Used []netip.Addr
	Now  time.Time
}

// Plan guards one range.
func Plan(o Observed) plan.Result {
	c := o.CIDR
	switch {
	case c == nil:
		return plan.Result{}
	case c.DeletionTimestamp != nil:
		return end(o)
	case !slices.Contains(c.Finalizers, Finalizer):
		// Its condition follows, once this write is seen.
		c = c.DeepCopy()
		c.Finalizers = append(c.Finalizers, Finalizer)
		return plan.Result{Actions: []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.ServiceCIDR, c), Object: c}}}
	}
	return condition(o, metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes Service CIDR is ready"})
}

func end(o Observed) plan.Result {
	if !slices.Contains(o.CIDR.Finalizers, Finalizer) {
		return plan.Result{}
	}
	if needed(o) {
		return condition(o, metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionFalse, Reason: networkingv1.ServiceCIDRReasonTerminating,
			Message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"})
	}
	if left := grace - o.Now.Sub(o.CIDR.DeletionTimestamp.Time); left > 0 {
		return plan.Result{After: left}
	}
	c := o.CIDR.DeepCopy()
	c.Finalizers = slices.DeleteFunc(c.Finalizers, func(f string) bool { return f == Finalizer })
	return plan.Result{Actions: []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.ServiceCIDR, c), Object: c}}}
}

// needed: an address in use lies in this range and in no other one that stays.
// Of two equal ranges that are both being deleted neither covers the other;
// upstream lets both go.
func needed(o Observed) bool {
	mine := prefixes(o.CIDR)
	var others []netip.Prefix
	for _, c := range o.All {
		if c.Name != o.CIDR.Name && c.DeletionTimestamp == nil {
			others = append(others, prefixes(c)...)
		}
	}
	covered := func(p netip.Prefix) bool {
		return slices.ContainsFunc(others, func(q netip.Prefix) bool { return q.Overlaps(p) && q.Bits() <= p.Bits() })
	}
	if !slices.ContainsFunc(mine, func(p netip.Prefix) bool { return !covered(p) }) {
		return false
	}
	return slices.ContainsFunc(o.Used, func(a netip.Addr) bool { return holds(mine, a) && !holds(others, a) })
}

func prefixes(c *networkingv1.ServiceCIDR) (out []netip.Prefix) {
	for _, s := range c.Spec.CIDRs {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

func holds(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) && a != p.Addr() })
}

// condition writes it where it is not there yet.
func condition(o Observed, want metav1.Condition) plan.Result {
	have := apimeta.FindStatusCondition(o.CIDR.Status.Conditions, want.Type)
	if have != nil && have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message {
		return plan.Result{}
	}
	want.LastTransitionTime = metav1.NewTime(o.Now)
	c := o.CIDR.DeepCopy()
	apimeta.SetStatusCondition(&c.Status.Conditions, want)
	return plan.Result{Actions: []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.ServiceCIDR, c).WithSub("status"), Object: c}}}
}

// PlanDefault makes the default range. One that says something else than the
// configuration is left alone: addresses may depend on it.
func PlanDefault(c *networkingv1.ServiceCIDR, configured []string) plan.Result {
	if c == nil {
		c = &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: DefaultName}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: configured}}
		return plan.Result{Actions: []plan.Action{{Verb: plan.Create, Ref: kinds.RefTo(kinds.ServiceCIDR, c), Object: c, Tolerate: []metav1.StatusReason{metav1.StatusReasonAlreadyExists}}}}
	}
	if c.DeletionTimestamp != nil || slices.Equal(c.Spec.CIDRs, configured) {
		return plan.Result{}
	}
	return plan.Result{Events: []plan.Event{{Regarding: kinds.RefTo(kinds.ServiceCIDR, c), UID: c.UID, Type: corev1.EventTypeWarning, Reason: "KubernetesDefaultServiceCIDRInconsistent",
		Message: fmt.Sprintf("The default ServiceCIDR %v does not match the controller flag configurations %s", c.Spec.CIDRs, configured)}}}
}
