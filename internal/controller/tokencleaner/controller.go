package tokencleaner

import (
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Controller removes the Secrets.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "token-cleaner", For: kinds.Secret,
		Writes: []reconcile.Write{{Kind: kinds.Secret, Verbs: []plan.Verb{plan.Delete}}},
		Plan: reconcile.Pair(func(in reconcile.Input) (Observed, bool) {
			s := view.Get[*corev1.Secret](in.View, kinds.Secret, in.Key.Namespace, in.Key.Name)
			return Observed{s, in.Now}, s != nil
		}, Plan),
	}
}
