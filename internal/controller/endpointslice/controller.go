package endpointslice

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// workers plan that many services at once, as upstream.
const workers = 5

// Controller keeps the slices of all services. The view needs
// view.SlicesByService and view.PodsByNode.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "endpointslice-controller", For: kinds.Service, Owns: []*kinds.Kind{kinds.EndpointSlice}, Workers: workers,
		Watches: []reconcile.Watch{
			{Kind: kinds.Pod, Keys: podKeys},
			{Kind: kinds.Node, Keys: nodeKeys},
		},
		Writes: []reconcile.Write{{Kind: kinds.EndpointSlice, Verbs: []plan.Verb{plan.Create, plan.Update, plan.Delete}}},
		Plan:   reconcile.Pair(observe, Plan),
	}
}

func observe(in reconcile.Input) (Observed, bool) {
	svc := view.Get[*corev1.Service](in.View, kinds.Service, in.Key.Namespace, in.Key.Name)
	if svc == nil {
		return Observed{}, false // its slices go with it
	}
	o := Observed{Service: svc, Suffix: in.Suffix, Zones: map[string]string{}}
	o.Slices = slices.Collect(view.By[*discoveryv1.EndpointSlice](in.View, view.SlicesByService, svc.Namespace+"/"+svc.Name))
	if svc.Spec.Selector == nil {
		return o, true
	}
	for p := range view.List[*corev1.Pod](in.View, kinds.Pod, svc.Namespace) {
		if !selects(svc, p.Labels) {
			continue
		}
		o.Pods = append(o.Pods, p)
		if name := p.Spec.NodeName; name != "" {
			if n := view.Get[*corev1.Node](in.View, kinds.Node, "", name); n != nil {
				if zone := n.Labels[corev1.LabelTopologyZone]; zone != "" {
					o.Zones[name] = zone
				}
			}
		}
	}
	return o, true
}

// selects reports whether the service's selector finds the labels. An empty
// selector finds every pod, as upstream.
func selects(svc *corev1.Service, labels map[string]string) bool {
	if svc.Spec.Selector == nil {
		return false
	}
	for k, v := range svc.Spec.Selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// podKeys are the services of a pod, before and after a change that matters to
// endpoints.
func podKeys(s *view.Snapshot, c view.Change) []reconcile.Key {
	var before, after *corev1.Pod
	if c.Old != nil {
		before = c.Old.(*corev1.Pod)
	}
	if c.New != nil {
		after = c.New.(*corev1.Pod)
	}
	if before != nil && after != nil && samePod(before, after) || !addressed(before) && !addressed(after) {
		return nil
	}
	var keys []reconcile.Key
	for svc := range view.List[*corev1.Service](s, kinds.Service, c.Object().GetNamespace()) {
		if before != nil && selects(svc, before.Labels) || after != nil && selects(svc, after.Labels) {
			keys = append(keys, reconcile.KeyOf(svc))
		}
	}
	return keys
}

// addressed pods are the only ones that slices tell of: the way of a pod to its
// address, a handful of changes, wakes nobody.
func addressed(p *corev1.Pod) bool {
	return p != nil && (p.Status.PodIP != "" || len(p.Status.PodIPs) > 0)
}

func samePod(a, b *corev1.Pod) bool {
	return a.UID == b.UID && podReady(a) == podReady(b) && a.Status.Phase == b.Status.Phase &&
		(a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) && a.Spec.NodeName == b.Spec.NodeName &&
		a.Status.PodIP == b.Status.PodIP && slices.Equal(a.Status.PodIPs, b.Status.PodIPs) && maps.Equal(a.Labels, b.Labels)
}

// nodeKeys are the services with pods on a node whose zone changed.
func nodeKeys(s *view.Snapshot, c view.Change) []reconcile.Key {
	if c.Old != nil && c.New != nil && c.Old.GetLabels()[corev1.LabelTopologyZone] == c.New.GetLabels()[corev1.LabelTopologyZone] {
		return nil
	}
	found := map[reconcile.Key]bool{}
	var keys []reconcile.Key
	for p := range view.By[*corev1.Pod](s, view.PodsByNode, c.Object().GetName()) {
		for _, k := range podKeys(s, view.Change{Kind: kinds.Pod, New: p}) {
			if !found[k] {
				found[k] = true
				keys = append(keys, k)
			}
		}
	}
	return keys
}
