package ipaddress

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// resync is how often what cannot be repaired is told again.
const resync = 10 * time.Minute

// Controller repairs addresses; its keys are their names.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "ipallocator-repair-controller", For: kinds.IPAddress, Resync: resync,
		Watches: []reconcile.Watch{{Kind: kinds.Service, Keys: serviceKeys}},
		Reads:   []*kinds.Kind{kinds.ServiceCIDR},
		Writes:  []reconcile.Write{{Kind: kinds.IPAddress, Verbs: []plan.Verb{plan.Create, plan.Delete}}},
		Plan:    reconcile.Pair(observe, Plan),
	}
}

func observe(in reconcile.Input) (o Observed, ok bool) {
	ip, err := netip.ParseAddr(in.Key.Name)
	if err != nil {
		return o, false
	}
	s := in.View
	o = Observed{IP: ip, Now: in.Now, Address: view.Get[*networkingv1.IPAddress](s, kinds.IPAddress, "", in.Key.Name),
		Services: slices.Collect(view.By[*corev1.Service](s, view.ServicesByAddress, in.Key.Name))}
	if o.Address == nil && len(o.Services) == 0 {
		return o, false
	}
	if o.Address != nil && ours(o.Address) && len(o.Services) == 0 {
		o.Parent = view.Get[*corev1.Service](s, kinds.Service, o.Address.Spec.ParentRef.Namespace, o.Address.Spec.ParentRef.Name)
	}
	for c := range view.List[*networkingv1.ServiceCIDR](s, kinds.ServiceCIDR, "") {
		o.InRange = o.InRange || slices.ContainsFunc(c.Spec.CIDRs, func(text string) bool {
			p, err := netip.ParsePrefix(text)
			return err == nil && p.Contains(ip)
		})
	}
	return o, true
}

// serviceKeys are the addresses that a service has or had.
func serviceKeys(_ *view.Snapshot, c view.Change) (keys []reconcile.Key) {
	old, _ := c.Old.(*corev1.Service)
	now, _ := c.New.(*corev1.Service)
	if old != nil && now != nil && slices.Equal(old.Spec.ClusterIPs, now.Spec.ClusterIPs) {
		return nil
	}
	for _, svc := range [...]*corev1.Service{old, now} {
		if svc == nil {
			continue
		}
		for _, ip := range svc.Spec.ClusterIPs {
			if k := (reconcile.Key{Name: ip}); ip != corev1.ClusterIPNone && !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	return keys
}
