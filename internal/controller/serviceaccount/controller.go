package serviceaccount

import (
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Controller keeps the default accounts.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "service-account-controller", For: kinds.Namespace,
		Watches: []reconcile.Watch{{Kind: kinds.ServiceAccount, Keys: func(_ *view.Snapshot, c view.Change) []reconcile.Key {
			if c.New != nil || c.Old.GetName() != Name {
				return nil
			}
			return []reconcile.Key{{Name: c.Old.GetNamespace()}}
		}}},
		Writes: []reconcile.Write{{Kind: kinds.ServiceAccount, Verbs: []plan.Verb{plan.Create}}},
		Plan: reconcile.Pair(func(in reconcile.Input) (Observed, bool) {
			ns := view.Get[*corev1.Namespace](in.View, kinds.Namespace, "", in.Key.Name)
			return Observed{ns, view.Get[*corev1.ServiceAccount](in.View, kinds.ServiceAccount, in.Key.Name, Name)}, ns != nil
		}, Plan),
	}
}
