package clusterauthentication

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// resync bounds how long a rotated authority goes untold.
const resync = 10 * time.Minute

// Controller keeps the ConfigMap. data must be quick.
func Controller(data func() map[string]string) reconcile.Controller {
	return reconcile.Controller{
		Name: "cluster-authentication-trust-controller", Resync: resync,
		Watches: []reconcile.Watch{{Kind: kinds.ConfigMap, Keys: func(_ *view.Snapshot, c view.Change) []reconcile.Key {
			if o := c.Object(); o.GetNamespace() != metav1.NamespaceSystem || o.GetName() != Name {
				return nil
			}
			return []reconcile.Key{{}}
		}}},
		Writes: []reconcile.Write{{Kind: kinds.ConfigMap, Verbs: []plan.Verb{plan.Create, plan.Update}}},
		Plan: func(in reconcile.Input) plan.Result {
			return Plan(view.Get[*corev1.ConfigMap](in.View, kinds.ConfigMap, metav1.NamespaceSystem, Name), data())
		},
	}
}
