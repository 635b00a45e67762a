// Package rootca puts the certificate of the cluster's authority into every
// namespace, where pods find it to verify the API server.
package rootca

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

const (
	// Name of the config map and Key of the certificates in it, which the
	// token volumes of pods refer to.
	Name = "kube-root-ca.crt"
	Key  = "ca.crt"
)

// Observed is a namespace, its config map, and what that should say.
type Observed struct {
	Namespace *corev1.Namespace
	Have      *corev1.ConfigMap // nil: none
	Bundle    string            // PEM
}

// Plan makes the config map say the bundle and nothing else.
func Plan(o Observed) plan.Result {
	if o.Bundle == "" || o.Namespace.DeletionTimestamp != nil || o.Namespace.Status.Phase == corev1.NamespaceTerminating {
		return plan.Result{}
	}
	data := map[string]string{Key: o.Bundle}
	if o.Have == nil {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace.Name, Name: Name}, Data: data}
		return plan.Result{Actions: []plan.Action{{
			Verb: plan.Create, Ref: kinds.RefTo(kinds.ConfigMap, cm), Object: cm,
		}}}
	}
	if o.Have.DeletionTimestamp != nil || maps.Equal(o.Have.Data, data) && len(o.Have.BinaryData) == 0 {
		return plan.Result{}
	}
	cm := o.Have.DeepCopy()
	cm.Data, cm.BinaryData = data, nil
	return plan.Result{Actions: []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.ConfigMap, cm), Object: cm}}}
}
