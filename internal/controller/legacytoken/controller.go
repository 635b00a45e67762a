package legacytoken

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Config of the controllers.
type Config struct {
	// Mounts reports whether a pod names the Secret.
	Mounts func(pod *corev1.Pod, secret string) bool
}

// Controllers are the one that cleans and the one that notes since when.
func Controllers(c Config) []reconcile.Controller {
	return []reconcile.Controller{{
		Name: "legacy-service-account-token-cleaner", For: kinds.Secret, Resync: 24 * time.Hour,
		Reads:  []*kinds.Kind{kinds.ServiceAccount, kinds.Pod, kinds.ConfigMap},
		Writes: []reconcile.Write{{Kind: kinds.Secret, Verbs: []plan.Verb{plan.Patch, plan.Delete}}},
		Plan:   reconcile.Pair(c.observe, Plan),
	}, {
		Name: "legacy-token-tracking-controller",
		Watches: []reconcile.Watch{{Kind: kinds.ConfigMap, Keys: func(_ *view.Snapshot, c view.Change) []reconcile.Key {
			if o := c.Object(); o.GetNamespace() != metav1.NamespaceSystem || o.GetName() != Map {
				return nil
			}
			return []reconcile.Key{{}}
		}}},
		Writes: []reconcile.Write{{Kind: kinds.ConfigMap, Verbs: []plan.Verb{plan.Create, plan.Update}}},
		Plan: func(in reconcile.Input) plan.Result {
			return PlanTracking(view.Get[*corev1.ConfigMap](in.View, kinds.ConfigMap, metav1.NamespaceSystem, Map), in.Now)
		},
	}}
}

func (c Config) observe(in reconcile.Input) (Observed, bool) {
	s := view.Get[*corev1.Secret](in.View, kinds.Secret, in.Key.Namespace, in.Key.Name)
	if s == nil || s.Type != corev1.SecretTypeServiceAccountToken {
		return Observed{}, false
	}
	o := Observed{Secret: s, Now: in.Now}
	if cm := view.Get[*corev1.ConfigMap](in.View, kinds.ConfigMap, metav1.NamespaceSystem, Map); cm != nil {
		o.Since = cm.Data[Since]
	}
	sa := view.Get[*corev1.ServiceAccount](in.View, kinds.ServiceAccount, s.Namespace, s.Annotations[corev1.ServiceAccountNameKey])
	o.Made = sa != nil && slices.ContainsFunc(sa.Secrets, func(r corev1.ObjectReference) bool { return r.Name == s.Name })
	if o.Made {
		for p := range view.List[*corev1.Pod](in.View, kinds.Pod, s.Namespace) {
			if o.Mounted = c.Mounts(p, s.Name); o.Mounted {
				break
			}
		}
	}
	return o, true
}
