package devicetaint

import (
	"iter"
	"math"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Pods evicts pods. Its keys are pods, but only those that have claims wake it.
// The view needs view.PodsByDeviceClaim and view.DevicesByPool.
func Pods(t *Tally) reconcile.Controller {
	return reconcile.Controller{
		Name: "device-taint-eviction-controller",
		Watches: []reconcile.Watch{
			{Kind: kinds.Pod, Keys: claimant},
			{Kind: kinds.ResourceClaim, Keys: claimChanged},
			{Kind: kinds.ResourceSlice, Keys: poolChanged},
			{Kind: kinds.DeviceTaintRule, Keys: ruleChanged},
		},
		Writes: []reconcile.Write{
			{Kind: kinds.Pod, Verbs: []plan.Verb{plan.Delete}},
			{Kind: kinds.Pod, Sub: "status", Verbs: []plan.Verb{plan.Patch}},
		},
		Plan:    reconcile.Pair(observe, Plan),
		Metrics: []prometheus.Collector{t.deletions, t.latency}, Passed: t.passed,
		Workers: 4,
	}
}

// evictable pods are on a node, neither done nor going.
func evictable(p *corev1.Pod) bool {
	return p.Spec.NodeName != "" && p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

func claimant(_ *view.Snapshot, c view.Change) []reconcile.Key {
	if p, ok := c.New.(*corev1.Pod); ok && len(p.Spec.ResourceClaims) > 0 && evictable(p) {
		return []reconcile.Key{reconcile.KeyOf(p)}
	}
	return nil
}

// usersOf a claim are the pods that name it and that it is reserved for.
func usersOf(s *view.Snapshot, c *resourcev1.ResourceClaim) iter.Seq[*corev1.Pod] {
	return func(yield func(*corev1.Pod) bool) {
		for p := range view.By[*corev1.Pod](s, view.PodsByDeviceClaim, reconcile.KeyOf(c).String()) {
			if evictable(p) && slices.ContainsFunc(claimsOf(s, p), func(o *resourcev1.ResourceClaim) bool { return o.UID == c.UID }) && !yield(p) {
				return
			}
		}
	}
}

// claimsOf a pod that have devices for it.
func claimsOf(s *view.Snapshot, p *corev1.Pod) (out []*resourcev1.ResourceClaim) {
	for name, own := range resourceclaim.PodClaims(p) {
		c := view.Get[*resourcev1.ResourceClaim](s, kinds.ResourceClaim, p.Namespace, name)
		if c == nil || c.Status.Allocation == nil || own && resourceclaim.IsForPod(p, c, false) != nil ||
			!resourceclaim.IsReservedForPod(p, c, false) || slices.Contains(out, c) {
			continue
		}
		out = append(out, c)
	}
	return out
}

func keysOf(pods iter.Seq[*corev1.Pod]) (keys []reconcile.Key) {
	for p := range pods {
		keys = append(keys, reconcile.KeyOf(p))
	}
	return keys
}

// claimChanged wakes those that have the claim now. Who lost it has nothing to
// do: a pod that waits for its end is looked at again then.
func claimChanged(s *view.Snapshot, c view.Change) []reconcile.Key {
	if claim, ok := c.New.(*resourcev1.ResourceClaim); ok && claim.Status.Allocation != nil {
		return keysOf(usersOf(s, claim))
	}
	return nil
}

// users of the devices that match.
func users(s *view.Snapshot, match func(*resourcev1.DeviceRequestAllocationResult) bool) (keys []reconcile.Key) {
	for c := range view.List[*resourcev1.ResourceClaim](s, kinds.ResourceClaim, "") {
		for d := range devicesOf(c) {
			if match(d) {
				keys = append(keys, keysOf(usersOf(s, c))...)
				break
			}
		}
	}
	return keys
}

func devicesOf(c *resourcev1.ResourceClaim) iter.Seq[*resourcev1.DeviceRequestAllocationResult] {
	return func(yield func(*resourcev1.DeviceRequestAllocationResult) bool) {
		if c.Status.Allocation == nil {
			return
		}
		for i := range c.Status.Allocation.Devices.Results {
			if !yield(&c.Status.Allocation.Devices.Results[i]) {
				return
			}
		}
	}
}

// poolChanged wakes the users of a pool some of whose devices are tainted, be it
// because a slice came or because another of the pool counts again.
func poolChanged(s *view.Snapshot, c view.Change) []reconcile.Key {
	spec := &c.Object().(*resourcev1.ResourceSlice).Spec
	for _, slice := range current(s, spec.Driver, spec.Pool.Name) {
		if slices.ContainsFunc(slice.Spec.Devices, func(d resourcev1.Device) bool { return len(d.Taints) > 0 }) {
			return users(s, func(d *resourcev1.DeviceRequestAllocationResult) bool {
				return d.Driver == spec.Driver && d.Pool == spec.Pool.Name
			})
		}
	}
	return nil
}

// current slices of a pool: those of its newest generation.
func current(s *view.Snapshot, driver, pool string) (out []*resourcev1.ResourceSlice) {
	newest := int64(math.MinInt64)
	for slice := range view.By[*resourcev1.ResourceSlice](s, view.DevicesByPool, driver+"/"+pool) {
		if g := slice.Spec.Pool.Generation; g > newest {
			newest, out = g, nil
		}
		if slice.Spec.Pool.Generation == newest {
			out = append(out, slice)
		}
	}
	return out
}

// ruleChanged wakes the users of the devices that a rule evicts from.
func ruleChanged(s *view.Snapshot, c view.Change) []reconcile.Key {
	rule, ok := c.New.(*resourcev1.DeviceTaintRule)
	if !ok || !evicts(rule) {
		return nil
	}
	if old, ok := c.Old.(*resourcev1.DeviceTaintRule); ok && old.UID == rule.UID && apiequality.Semantic.DeepEqual(old.Spec, rule.Spec) {
		return nil
	}
	return users(s, func(d *resourcev1.DeviceRequestAllocationResult) bool { return selects(rule, d) })
}

func selects(r *resourcev1.DeviceTaintRule, d *resourcev1.DeviceRequestAllocationResult) bool {
	return kinds.SelectsDevice(r, d.Driver, d.Pool, d.Device)
}

func observe(in reconcile.Input) (Observed, bool) {
	p := view.Get[*corev1.Pod](in.View, kinds.Pod, in.Key.Namespace, in.Key.Name)
	if p == nil || !evictable(p) {
		return Observed{}, false
	}
	o := Observed{Pod: p, Now: in.Now}
	for _, c := range claimsOf(in.View, p) {
		for d := range devicesOf(c) {
			o.Devices = append(o.Devices, Device{d, taintsOf(in.View, d)})
		}
	}
	return o, true
}

// taintsOf a device that evict, its driver's first. Rules are about devices that
// are not published any more too.
func taintsOf(s *view.Snapshot, d *resourcev1.DeviceRequestAllocationResult) (out []Taint) {
	for _, slice := range current(s, d.Driver, d.Pool) {
		for i := range slice.Spec.Devices {
			if slice.Spec.Devices[i].Name != d.Device {
				continue
			}
			for j := range slice.Spec.Devices[i].Taints {
				if t := &slice.Spec.Devices[i].Taints[j]; t.Effect == resourcev1.DeviceTaintEffectNoExecute {
					out = append(out, Taint{DeviceTaint: t})
				}
			}
		}
	}
	for r := range view.List[*resourcev1.DeviceTaintRule](s, kinds.DeviceTaintRule, "") {
		if evicts(r) && selects(r, d) {
			out = append(out, Taint{&r.Spec.Taint, r})
		}
	}
	return out
}
