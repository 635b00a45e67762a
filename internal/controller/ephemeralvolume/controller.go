package ephemeralvolume

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Controller makes claims. The view needs view.PodsByClaim.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "ephemeral-volume-controller", Reporter: "ephemeral_volume", For: kinds.Pod,
		Watches: []reconcile.Watch{{Kind: kinds.PersistentVolumeClaim, Keys: users}},
		Writes:  []reconcile.Write{{Kind: kinds.PersistentVolumeClaim, Verbs: []plan.Verb{plan.Create}}},
		Plan:    reconcile.Pair(observe, Plan),
	}
}

// users are the pods that lost a claim.
func users(s *view.Snapshot, c view.Change) (keys []reconcile.Key) {
	if c.New != nil {
		return nil
	}
	for p := range view.By[*corev1.Pod](s, view.PodsByClaim, reconcile.KeyOf(c.Old).String()) {
		keys = append(keys, reconcile.KeyOf(p))
	}
	return keys
}

func observe(in reconcile.Input) (Observed, bool) {
	pod := view.Get[*corev1.Pod](in.View, kinds.Pod, in.Key.Namespace, in.Key.Name)
	if pod == nil || !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Ephemeral != nil }) {
		return Observed{}, false
	}
	return Observed{Pod: pod, Claim: func(name string) *corev1.PersistentVolumeClaim {
		return view.Get[*corev1.PersistentVolumeClaim](in.View, kinds.PersistentVolumeClaim, pod.Namespace, name)
	}}, true
}
