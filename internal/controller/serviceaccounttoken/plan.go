// Package serviceaccounttoken fills Secrets of type
// kubernetes.io/service-account-token: whoever makes one gets a token that
// lasts as long as the Secret and the account. Nobody needs one to run pods.
package serviceaccounttoken

import (
	"bytes"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Observed is a Secret, the account that it is for, and what it should hold.
type Observed struct {
	Secret  *corev1.Secret
	Account *corev1.ServiceAccount // nil: there is none of that name and UID
	CA      []byte                 // PEM; empty: not known
	// Token is put into a Secret that has none.
	Token string
}

// accountOf is the name and, if it is known, the UID of the account.
func accountOf(s *corev1.Secret) (string, types.UID) {
	return s.Annotations[corev1.ServiceAccountNameKey], types.UID(s.Annotations[corev1.ServiceAccountUIDKey])
}

// Plan fills in what is missing, and removes a Secret whose account is gone.
func Plan(o Observed) plan.Result {
	s := o.Secret
	if s.Type != corev1.SecretTypeServiceAccountToken || s.DeletionTimestamp != nil {
		return plan.Result{}
	}
	if o.Account == nil {
		name, uid := accountOf(s)
		return plan.Result{Actions: []plan.Action{{
			Verb: plan.Delete, Ref: kinds.RefTo(kinds.Secret, s), UID: s.UID, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
			Live: []plan.Live{{Want: plan.Absent, Ref: kinds.Ref{Kind: kinds.ServiceAccount, Namespace: s.Namespace, Name: name}, UID: uid}},
		}}}
	}
	next := s.DeepCopy()
	if next.Data == nil {
		next.Data = map[string][]byte{}
	}
	changed := false
	set := func(key string, value []byte) { next.Data[key], changed = value, true }
	if len(o.CA) > 0 && !bytes.Equal(s.Data[corev1.ServiceAccountRootCAKey], o.CA) {
		set(corev1.ServiceAccountRootCAKey, o.CA)
	}
	if len(s.Data[corev1.ServiceAccountNamespaceKey]) == 0 {
		set(corev1.ServiceAccountNamespaceKey, []byte(s.Namespace))
	}
	if len(s.Data[corev1.ServiceAccountTokenKey]) == 0 && o.Token != "" {
		set(corev1.ServiceAccountTokenKey, []byte(o.Token))
	}
	if !changed {
		return plan.Result{}
	}
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.ServiceAccountNameKey, o.Account.Name)
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.ServiceAccountUIDKey, string(o.Account.UID))
	return plan.Result{Actions: []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.Secret, next), Object: next}}}
}
