package resourceclaim

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

const reporter = "resource_claim"

// Pods makes the claims of pods. Its keys are pods, but only those that have
// claims wake it. The view needs view.Owned, view.PodsByDeviceClaim and
// view.PodsByClaimTemplate.
func Pods() reconcile.Controller {
	return reconcile.Controller{
		Name: "resource-claim-controller", Reporter: reporter,
		Watches: []reconcile.Watch{
			{Kind: kinds.Pod, Keys: claimants},
			{Kind: kinds.ResourceClaim, Keys: usersOf},
			{Kind: kinds.ResourceClaimTemplate, Keys: waitingFor},
		},
		Writes: []reconcile.Write{
			{Kind: kinds.ResourceClaim, Verbs: []plan.Verb{plan.Create}},
			{Kind: kinds.ResourceClaim, Sub: "status", Verbs: []plan.Verb{plan.Patch}},
			{Kind: kinds.ResourceClaim, Sub: resourcev1.SubresourceBinding, Verbs: []plan.Verb{plan.Patch}},
			{Kind: kinds.Pod, Sub: "status", Verbs: []plan.Verb{plan.Patch}},
		},
		Plan: reconcile.Pair(observe, Plan),
	}
}

// claimants are the pods that have claims.
func claimants(_ *view.Snapshot, c view.Change) []reconcile.Key {
	if p, ok := c.New.(*corev1.Pod); ok && len(p.Spec.ResourceClaims) > 0 {
		return []reconcile.Key{reconcile.KeyOf(p)}
	}
	return nil
}

// usersOf a claim that comes, goes, or gets devices.
func usersOf(s *view.Snapshot, c view.Change) (keys []reconcile.Key) {
	for p := range view.By[*corev1.Pod](s, view.PodsByDeviceClaim, reconcile.KeyOf(c.Object()).String()) {
		keys = append(keys, reconcile.KeyOf(p))
	}
	return keys
}

// waitingFor a template that has come.
func waitingFor(s *view.Snapshot, c view.Change) (keys []reconcile.Key) {
	if c.New == nil || c.Old != nil {
		return nil // what it says does not change
	}
	for p := range view.By[*corev1.Pod](s, view.PodsByClaimTemplate, reconcile.KeyOf(c.New).String()) {
		keys = append(keys, reconcile.KeyOf(p))
	}
	return keys
}

func observe(in reconcile.Input) (Observed, bool) {
	pod := view.Get[*corev1.Pod](in.View, kinds.Pod, in.Key.Namespace, in.Key.Name)
	if pod == nil || len(pod.Spec.ResourceClaims) == 0 {
		return Observed{}, false
	}
	o := Observed{
		Pod: pod, Suffix: in.Suffix, Claim: claimsOf(in.View, pod.Namespace),
		Template: func(name string) *resourcev1.ResourceClaimTemplate {
			return view.Get[*resourcev1.ResourceClaimTemplate](in.View, kinds.ResourceClaimTemplate, pod.Namespace, name)
		},
		Made: slices.SortedFunc(view.ByOf[*resourcev1.ResourceClaim](in.View, view.Owned, kinds.ResourceClaim, string(pod.UID)),
			func(a, b *resourcev1.ResourceClaim) int { return strings.Compare(a.Name, b.Name) }),
	}
	return o, true
}

func claimsOf(s *view.Snapshot, namespace string) func(string) *resourcev1.ResourceClaim {
	return func(name string) *resourcev1.ResourceClaim {
		return view.Get[*resourcev1.ResourceClaim](s, kinds.ResourceClaim, namespace, name)
	}
}

// Claims gives back what nobody uses. The view needs view.Owned and
// view.PodsByDeviceClaim.
func Claims() reconcile.Controller {
	return reconcile.Controller{
		Name: "resource-claim-releaser", Reporter: reporter, For: kinds.ResourceClaim,
		Watches: []reconcile.Watch{{Kind: kinds.Pod, Keys: given}},
		Writes: []reconcile.Write{
			{Kind: kinds.ResourceClaim, Verbs: []plan.Verb{plan.Patch, plan.Delete}},
			{Kind: kinds.ResourceClaim, Sub: "status", Verbs: []plan.Verb{plan.Patch}},
			{Kind: kinds.ResourceClaim, Sub: resourcev1.SubresourceBinding, Verbs: []plan.Verb{plan.Patch}},
		},
		Plan: reconcile.Pair(observeClaim, PlanRelease),
	}
}

// given up are the claims of a pod that is done or gone, those included that
// were made for it, but of which its status does not tell.
func given(s *view.Snapshot, c view.Change) (keys []reconcile.Key) {
	old, _ := c.Old.(*corev1.Pod)
	now, _ := c.New.(*corev1.Pod)
	if now != nil && (old == nil || old.UID == now.UID) && !done(now) {
		return nil
	}
	for _, p := range []*corev1.Pod{old, now} {
		for name := range resourceclaim.PodClaims(p) {
			if k := (reconcile.Key{Namespace: p.Namespace, Name: name}); !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	for claim := range view.ByOf[*resourcev1.ResourceClaim](s, view.Owned, kinds.ResourceClaim, string(c.Object().GetUID())) {
		if k := reconcile.KeyOf(claim); !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return keys
}

func observeClaim(in reconcile.Input) (Held, bool) {
	c := view.Get[*resourcev1.ResourceClaim](in.View, kinds.ResourceClaim, in.Key.Namespace, in.Key.Name)
	if c == nil {
		return Held{}, false
	}
	h := Held{Claim: c, Pod: func(name string) *corev1.Pod {
		return view.Get[*corev1.Pod](in.View, kinds.Pod, c.Namespace, name)
	}}
	for p := range view.By[*corev1.Pod](in.View, view.PodsByDeviceClaim, in.Key.String()) {
		h.Placed = h.Placed || p.Spec.NodeName != "" && !done(p)
	}
	return h, true
}
