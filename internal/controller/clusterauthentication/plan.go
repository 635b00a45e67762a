// Package clusterauthentication tells other API servers how clients of this one
// are authenticated: by which authority's certificates, and by which headers of
// its proxy.
package clusterauthentication

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Name of the ConfigMap of kube-system.
const Name = "extension-apiserver-authentication"

// Plan makes the ConfigMap hold these values; what others have added stays.
func Plan(have *corev1.ConfigMap, want map[string]string) plan.Result {
	if have == nil {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: Name}, Data: want}
		return plan.Result{Actions: []plan.Action{{Verb: plan.Create, Ref: kinds.RefTo(kinds.ConfigMap, cm), Object: cm}}}
	}
	next := have.DeepCopy()
	if next.Data == nil {
		next.Data = map[string]string{}
	}
	maps.Copy(next.Data, want)
	if have.DeletionTimestamp != nil || maps.Equal(next.Data, have.Data) {
		return plan.Result{}
	}
	return plan.Result{Actions: []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.ConfigMap, next), Object: next}}}
}
