// Package tokencleaner removes bootstrap tokens whose time is over.
package tokencleaner

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

const (
	tokenType  = "bootstrap.kubernetes.io/token"
	expiration = "expiration"
)

// Observed is a Secret and what time it is.
type Observed struct {
	Secret *corev1.Secret
	Now    time.Time
}

// Plan removes an expired token; one whose end cannot be read counts as
// expired, as it does where it is shown.
func Plan(o Observed) plan.Result {
	s := o.Secret
	end := string(s.Data[expiration])
	if s.Namespace != metav1.NamespaceSystem || s.Type != tokenType || s.DeletionTimestamp != nil || end == "" {
		return plan.Result{}
	}
	if at, err := time.Parse(time.RFC3339, end); err == nil && o.Now.Before(at) {
		return plan.Result{After: at.Sub(o.Now)}
	}
	return plan.Result{Actions: []plan.Action{{Verb: plan.Delete, Ref: kinds.RefTo(kinds.Secret, s), UID: s.UID, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound}}}}
}
