package devicetaint

import (
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Rules tells in rules how far they are. The view needs view.PodsByDeviceClaim
// and view.DevicesByPool.
func Rules(t *Tally) reconcile.Controller {
	return reconcile.Controller{
		Name: "device-taint-rule-controller", For: kinds.DeviceTaintRule,
		Watches: []reconcile.Watch{
			{Kind: kinds.Pod, Keys: rulesOfPod},
			{Kind: kinds.ResourceClaim, Keys: rulesOfClaim},
		},
		Reads:  []*kinds.Kind{kinds.ResourceSlice},
		Writes: []reconcile.Write{{Kind: kinds.DeviceTaintRule, Sub: "status", Verbs: []plan.Verb{plan.Patch}}},
		Plan:   reconcile.Pair(func(in reconcile.Input) (Effect, bool) { return observeRule(in, t) }, PlanRule),
		Passed: t.reported,
	}
}

// rulesOfPod are the rules that evict from its devices.
func rulesOfPod(s *view.Snapshot, c view.Change) (keys []reconcile.Key) {
	p := c.Object().(*corev1.Pod)
	for name := range resourceclaim.PodClaims(p) {
		if claim := view.Get[*resourcev1.ResourceClaim](s, kinds.ResourceClaim, p.Namespace, name); claim != nil {
			keys = append(keys, rulesOf(s, claim)...)
		}
	}
	return keys
}

// rulesOfClaim are the rules that evict from the devices that it has or had.
func rulesOfClaim(s *view.Snapshot, c view.Change) (keys []reconcile.Key) {
	for _, o := range []kinds.Object{c.Old, c.New} {
		if claim, ok := o.(*resourcev1.ResourceClaim); ok {
			keys = append(keys, rulesOf(s, claim)...)
		}
	}
	return keys
}

func rulesOf(s *view.Snapshot, c *resourcev1.ResourceClaim) (keys []reconcile.Key) {
	for r := range view.List[*resourcev1.DeviceTaintRule](s, kinds.DeviceTaintRule, "") {
		if !evicts(r) {
			continue
		}
		for d := range devicesOf(c) {
			if selects(r, d) {
				keys = append(keys, reconcile.KeyOf(r))
				break
			}
		}
	}
	return keys
}

func observeRule(in reconcile.Input, t *Tally) (Effect, bool) {
	r := view.Get[*resourcev1.DeviceTaintRule](in.View, kinds.DeviceTaintRule, "", in.Key.Name)
	if r == nil {
		t.forget(in.Key.Name)
		return Effect{}, false
	}
	o := Effect{Rule: r, Now: in.Now}
	o.Evicted, o.Since = t.recall(r)
	if o.pausing() > 0 || told(r) && !evicts(r) {
		return o, true // counting is work
	}
	o.Published = published(in.View, r)
	o.affects(in.View)
	o.Since = t.since(r, o.stale(), in.Now)
	return o, true
}

// published devices that a rule selects.
func published(s *view.Snapshot, r *resourcev1.DeviceTaintRule) (n int) {
	type pool struct{ driver, name string }
	seen := sets.New[pool]()
	for slice := range view.List[*resourcev1.ResourceSlice](s, kinds.ResourceSlice, "") {
		p := pool{slice.Spec.Driver, slice.Spec.Pool.Name}
		if seen.Has(p) {
			continue
		}
		seen.Insert(p)
		for _, slice := range current(s, p.driver, p.name) {
			for _, d := range slice.Spec.Devices {
				if kinds.SelectsDevice(r, p.driver, p.name, d.Name) {
					n++
				}
			}
		}
	}
	return n
}

// affects counts the devices that claims have, and the pods that have to go for
// the rule, or would if it was to evict.
func (o *Effect) affects(s *view.Snapshot) {
	taint := o.Rule.Spec.Taint
	taint.Effect = resourcev1.DeviceTaintEffectNoExecute
	pods, namespaces := sets.New[types.UID](), sets.New[string]()
	for c := range view.List[*resourcev1.ResourceClaim](s, kinds.ResourceClaim, "") {
		leave := false
		for d := range devicesOf(c) {
			if selects(o.Rule, d) {
				o.Allocated++
				_, ever := deadline(&taint, d.Tolerations)
				leave = leave || ever
			}
		}
		if !leave {
			continue
		}
		for p := range usersOf(s, c) {
			pods.Insert(p.UID)
			namespaces.Insert(p.Namespace)
		}
	}
	o.Pods, o.Namespaces = pods.Len(), namespaces.Len()
}
