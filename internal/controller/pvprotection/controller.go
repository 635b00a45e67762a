package pvprotection

import (
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Controller protects volumes that are in use.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "pv-protection-controller", For: kinds.PersistentVolume,
		Writes: []reconcile.Write{{Kind: kinds.PersistentVolume, Verbs: []plan.Verb{plan.Patch}}},
		Plan: reconcile.Pair(func(in reconcile.Input) (*corev1.PersistentVolume, bool) {
			pv := view.Get[*corev1.PersistentVolume](in.View, kinds.PersistentVolume, "", in.Key.Name)
			return pv, pv != nil
		}, Plan),
	}
}
