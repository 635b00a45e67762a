package servicecidr

import (
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Controller guards the ranges.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "service-cidrs-controller", For: kinds.ServiceCIDR,
		Watches: []reconcile.Watch{{Kind: kinds.ServiceCIDR, Keys: ending}, {Kind: kinds.IPAddress, Keys: ending}},
		Writes: []reconcile.Write{
			{Kind: kinds.ServiceCIDR, Verbs: []plan.Verb{plan.Update}},
			{Kind: kinds.ServiceCIDR, Sub: "status", Verbs: []plan.Verb{plan.Update}},
		},
		Plan: func(in reconcile.Input) plan.Result {
			o := Observed{CIDR: view.Get[*networkingv1.ServiceCIDR](in.View, kinds.ServiceCIDR, "", in.Key.Name), Now: in.Now}
			if o.CIDR != nil && o.CIDR.DeletionTimestamp != nil {
				o.All = slices.Collect(view.List[*networkingv1.ServiceCIDR](in.View, kinds.ServiceCIDR, ""))
				o.Used = used(in.View)
			}
			return Plan(o)
		},
	}
}

// ending are the ranges that wait for addresses to go, or for another range to
// take them over.
func ending(s *view.Snapshot, _ view.Change) (keys []reconcile.Key) {
	for c := range view.By[*networkingv1.ServiceCIDR](s, view.EndingServiceCIDRs, "") {
		keys = append(keys, reconcile.KeyOf(c))
	}
	return keys
}

// used are the addresses that the apiserver has given to services.
func used(s *view.Snapshot) (out []netip.Addr) {
	for a := range view.List[*networkingv1.IPAddress](s, kinds.IPAddress, "") {
		if ip, err := netip.ParseAddr(a.Name); err == nil && a.Labels[networkingv1.LabelManagedBy] == "ipallocator.k8s.io" {
			out = append(out, ip)
		}
	}
	return out
}

// Default makes the range that the configuration gives.
func Default(configured ...string) reconcile.Controller {
	return reconcile.Controller{
		Name: "kubernetes-service-cidr-controller",
		Watches: []reconcile.Watch{{Kind: kinds.ServiceCIDR, Keys: func(_ *view.Snapshot, c view.Change) []reconcile.Key {
			if c.Object().GetName() != DefaultName {
				return nil
			}
			return []reconcile.Key{{}}
		}}},
		Writes: []reconcile.Write{{Kind: kinds.ServiceCIDR, Verbs: []plan.Verb{plan.Create}}},
		Plan: func(in reconcile.Input) plan.Result {
			return PlanDefault(view.Get[*networkingv1.ServiceCIDR](in.View, kinds.ServiceCIDR, "", DefaultName), configured)
		},
	}
}
