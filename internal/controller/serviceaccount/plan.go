// Package serviceaccount gives every namespace its service account "default",
// which pods run as that name none.
package serviceaccount

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Name of the account.
const Name = "default"

// Observed is a namespace and its account.
type Observed struct {
	Namespace *corev1.Namespace
	Have      *corev1.ServiceAccount // nil: none
}

// Plan creates the account where it is missing. An account that is there is
// its namespace's own: users add pull secrets to it.
func Plan(o Observed) plan.Result {
	if o.Have != nil || o.Namespace.DeletionTimestamp != nil || o.Namespace.Status.Phase == corev1.NamespaceTerminating {
		return plan.Result{}
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace.Name, Name: Name}}
	return plan.Result{Actions: []plan.Action{{
		Verb: plan.Create, Ref: kinds.RefTo(kinds.ServiceAccount, sa), Object: sa,
		Tolerate: []metav1.StatusReason{metav1.StatusReasonAlreadyExists},
	}}}
}
