package rootca

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// resync bounds how long a namespace goes without a new bundle after the
// authority has been rotated, which no object tells.
const resync = 10 * time.Minute

// Config of the controller.
type Config struct {
	// Bundle returns the certificates to publish, PEM encoded. It must be
	// quick; an empty one publishes nothing.
	Bundle func() []byte
}

// Controller keeps the config maps.
func Controller(c Config) reconcile.Controller {
	return reconcile.Controller{
		Name: "root-ca-cert-publisher", For: kinds.Namespace, Resync: resync,
		Watches: []reconcile.Watch{{Kind: kinds.ConfigMap, Keys: func(_ *view.Snapshot, ch view.Change) []reconcile.Key {
			if ch.Object().GetName() != Name {
				return nil
			}
			return []reconcile.Key{{Name: ch.Object().GetNamespace()}}
		}}},
		Writes: []reconcile.Write{{Kind: kinds.ConfigMap, Verbs: []plan.Verb{plan.Create, plan.Update}}},
		Plan: reconcile.Pair(func(in reconcile.Input) (Observed, bool) {
			ns := view.Get[*corev1.Namespace](in.View, kinds.Namespace, "", in.Key.Name)
			return Observed{ns, view.Get[*corev1.ConfigMap](in.View, kinds.ConfigMap, in.Key.Name, Name), string(c.Bundle())}, ns != nil
		}, Plan),
	}
}
