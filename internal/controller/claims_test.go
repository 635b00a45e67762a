package controller_test

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

// drawClaims to devices, and pods that have some: named, made, to be made, of
// which some are reserved for pods that are there, done or gone.
func drawClaims(t *rapid.T) things {
	out := pods(t, func(i int, p *corev1.Pod) {
		p.UID = types.UID(fmt.Sprint("u-p-", i))
		if chance(t, "names one") {
			name := fmt.Sprint("c-", rapid.IntRange(0, 3).Draw(t, "claim"))
			if p.Spec.NodeName != "" {
				name = fmt.Sprint("c-", i) // its own: who reserves first comes first
			}
			p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: "named", ResourceClaimName: &name})
		}
		if !chance(t, "has one that is made") {
			return
		}
		template := rapid.SampledFrom([]string{"t-0", "none"}).Draw(t, "template")
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: "made", ResourceClaimTemplateName: &template})
		// Names that are made anew are by chance: what was made is told, or is
		// not needed, or cannot be made.
		if template != "none" {
			s := corev1.PodResourceClaimStatus{Name: "made"}
			if chance(t, "needed") {
				s.ResourceClaimName = ptrTo(fmt.Sprint("m-", i))
			}
			p.Status.ResourceClaimStatuses = append(p.Status.ResourceClaimStatuses, s)
		}
	})
	var made things
	for _, x := range out {
		p := x.Object.(*corev1.Pod)
		for _, s := range p.Status.ResourceClaimStatuses {
			if s.ResourceClaimName != nil {
				c := &resourcev1.ResourceClaim{ObjectMeta: named("ns", *s.ResourceClaimName)}
				c.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(p, kinds.Pod.GVK)}
				c.Annotations = map[string]string{"resource.kubernetes.io/pod-claim-name": s.Name}
				drawAllocation(t, c)
				made = append(made, thing(kinds.ResourceClaim, c))
			}
		}
	}
	out = append(append(out, made...), several(t, kinds.ResourceClaimTemplate, 1, func(i int) kinds.Object {
		return &resourcev1.ResourceClaimTemplate{ObjectMeta: named("ns", fmt.Sprint("t-", i))}
	})...)
	return append(out, several(t, kinds.ResourceClaim, 6, func(i int) kinds.Object {
		c := &resourcev1.ResourceClaim{ObjectMeta: named("ns", fmt.Sprint("c-", i))}
		if rapid.IntRange(0, 3).Draw(t, "going") == 0 {
			c.ObjectMeta = going(c.ObjectMeta)
		}
		drawAllocation(t, c)
		return c
	})...)
}

func drawAllocation(t *rapid.T, c *resourcev1.ResourceClaim) {
	if !chance(t, "has devices") {
		return
	}
	c.Status.Allocation = &resourcev1.AllocationResult{}
	c.Finalizers = append(c.Finalizers, resourcev1.Finalizer)
	for i := range 6 {
		if rapid.IntRange(0, 3).Draw(t, "user") == 0 {
			c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: fmt.Sprint("p-", i), UID: types.UID(fmt.Sprint("u-p-", i))})
		}
	}
}

// drawTainted devices, by drivers and rules, and what drawClaims draws with them.
func drawTainted(t *rapid.T) things {
	effect := func() resourcev1.DeviceTaintEffect {
		return rapid.SampledFrom([]resourcev1.DeviceTaintEffect{resourcev1.DeviceTaintEffectNone, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNoExecute}).Draw(t, "effect")
	}
	taint := func() resourcev1.DeviceTaint {
		at := metav1.NewTime(made.Add(time.Duration(rapid.IntRange(-9, 9).Draw(t, "added")) * time.Second))
		return resourcev1.DeviceTaint{Key: rapid.SampledFrom([]string{"k", "l"}).Draw(t, "key"), Effect: effect(), TimeAdded: &at}
	}
	out := drawClaims(t)
	for _, x := range out {
		c, ok := x.Object.(*resourcev1.ResourceClaim)
		if !ok || c.Status.Allocation == nil {
			continue
		}
		for range rapid.IntRange(0, 2).Draw(t, "devices") {
			r := resourcev1.DeviceRequestAllocationResult{Driver: "d", Pool: "p", Device: rapid.SampledFrom([]string{"d-0", "d-1", "gone"}).Draw(t, "device")}
			if chance(t, "tolerates") {
				tol := resourcev1.DeviceToleration{Key: "k", Operator: resourcev1.DeviceTolerationOpExists, Effect: effect()}
				if chance(t, "for a while") {
					tol.TolerationSeconds = ptrTo(int64(rapid.IntRange(-1, 30).Draw(t, "seconds")))
				}
				r.Tolerations = append(r.Tolerations, tol)
			}
			c.Status.Allocation.Devices.Results = append(c.Status.Allocation.Devices.Results, r)
		}
	}
	out = append(out, several(t, kinds.ResourceSlice, 3, func(i int) kinds.Object {
		s := &resourcev1.ResourceSlice{ObjectMeta: named("", fmt.Sprint("s-", i))}
		s.Spec.Driver, s.Spec.Pool.Name, s.Spec.Pool.Generation = "d", "p", int64(rapid.IntRange(0, 1).Draw(t, "generation"))
		for j := range 2 {
			d := resourcev1.Device{Name: fmt.Sprint("d-", j)}
			if chance(t, "tainted") {
				d.Taints = append(d.Taints, taint())
			}
			s.Spec.Devices = append(s.Spec.Devices, d)
		}
		return s
	})...)
	return append(out, several(t, kinds.DeviceTaintRule, 2, func(i int) kinds.Object {
		r := &resourcev1.DeviceTaintRule{ObjectMeta: named("", fmt.Sprint("r-", i))}
		r.Generation, r.Spec.Taint = 1, taint()
		if chance(t, "selects") {
			r.Spec.DeviceSelector = &resourcev1.DeviceTaintSelector{}
			if chance(t, "one") {
				r.Spec.DeviceSelector.Device = ptrTo("d-0")
			}
		}
		return r
	})...)
}

func thing(k *kinds.Kind, o kinds.Object) reconciletest.Thing {
	return reconciletest.Thing{Kind: k, Object: o}
}

func ptrTo[T any](v T) *T { return &v }
