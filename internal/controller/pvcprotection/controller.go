package pvcprotection

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Controller protects claims that are in use. The view needs view.PodsByClaim.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "pvc-protection-controller", For: kinds.PersistentVolumeClaim,
		Watches: []reconcile.Watch{{Kind: kinds.Pod, Keys: podKeys}},
		Writes: []reconcile.Write{
			{Kind: kinds.PersistentVolumeClaim, Verbs: []plan.Verb{plan.Patch}},
			{Kind: kinds.PersistentVolumeClaim, Sub: "status", Verbs: []plan.Verb{plan.Patch}},
		},
		Plan: reconcile.Pair(observe, Plan),
	}
}

// podKeys are the claims of a pod that comes, goes, is placed or ends.
func podKeys(_ *view.Snapshot, c view.Change) []reconcile.Key {
	old, _ := c.Old.(*corev1.Pod)
	now, _ := c.New.(*corev1.Pod)
	if old != nil && now != nil && old.UID == now.UID && old.Spec.NodeName == now.Spec.NodeName && ended(old) == ended(now) &&
		(old.DeletionTimestamp == nil) == (now.DeletionTimestamp == nil) && grace(old) == grace(now) {
		return nil
	}
	var keys []reconcile.Key
	for _, pod := range []*corev1.Pod{old, now} {
		if pod == nil {
			continue
		}
		for i := range pod.Spec.Volumes {
			k := reconcile.Key{Namespace: pod.Namespace, Name: view.ClaimOf(pod, &pod.Spec.Volumes[i])}
			if k.Name != "" && !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	return keys
}

func grace(p *corev1.Pod) int64 {
	if p.DeletionGracePeriodSeconds == nil {
		return -1
	}
	return *p.DeletionGracePeriodSeconds
}

func observe(in reconcile.Input) (Observed, bool) {
	claim := view.Get[*corev1.PersistentVolumeClaim](in.View, kinds.PersistentVolumeClaim, in.Key.Namespace, in.Key.Name)
	if claim == nil {
		return Observed{}, false
	}
	rev, err := strconv.ParseInt(claim.ResourceVersion, 10, 64)
	return Observed{Claim: claim, Pods: slices.Collect(view.By[*corev1.Pod](in.View, view.PodsByClaim, in.Key.String())), Now: in.Now,
		CaughtUp: err == nil && in.View.Rev(kinds.Pod) >= rev}, true
}
