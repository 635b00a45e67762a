// Package legacytoken takes service account tokens that upstream once made for
// every account, and that nobody has used for a year, out of use, and removes
// them another year later. A cluster that began with knarr has none; one that
// came with its etcd may.
package legacytoken

import (
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

const (
	// Map is the ConfigMap of kube-system that tells since when the use of
	// tokens has been noted, under Since.
	Map   = "kube-apiserver-legacy-service-account-token-tracking"
	Since = "since"

	lastUsed     = "kubernetes.io/legacy-token-last-used"
	invalidSince = "kubernetes.io/legacy-token-invalid-since"

	// unused is how long a token may go without use; upstream's figure.
	unused = 365 * 24 * time.Hour
)

// Observed is a Secret and what decides over it.
type Observed struct {
	Secret *corev1.Secret
	Since  string // when the noting began; empty: it has not
	// Made: the account lists the Secret, as only those that upstream made are.
	Made bool
	// Mounted: a pod uses the Secret.
	Mounted bool
	Now     time.Time
}

// Plan marks a token that is out of use, and removes one that was marked long
// ago.
func Plan(o Observed) plan.Result {
	s, now := o.Secret, o.Now.UTC()
	began, err := time.Parse(time.DateOnly, o.Since)
	if err != nil || now.Before(began.AddDate(0, 0, 1).Add(unused)) {
		return plan.Result{}
	}
	keep := now.Add(-unused)
	keepDay := keep.Format(time.DateOnly)
	if s.Type != corev1.SecretTypeServiceAccountToken || s.DeletionTimestamp != nil || !s.CreationTimestamp.Time.Before(keep) || !o.Made || o.Mounted {
		return plan.Result{}
	}
	if used, noted := s.Labels[lastUsed]; noted {
		if _, err := time.Parse(time.DateOnly, used); err != nil || used >= keepDay {
			return plan.Result{}
		}
	}
	marked := s.Labels[invalidSince]
	if _, err := time.Parse(time.DateOnly, marked); err != nil {
		return plan.Result{Actions: []plan.Action{{Verb: plan.Patch, Ref: kinds.RefTo(kinds.Secret, s), UID: s.UID, PatchType: types.MergePatchType, Data: label(invalidSince, now.Format(time.DateOnly))}}}
	}
	if marked >= keepDay {
		return plan.Result{}
	}
	return plan.Result{Actions: []plan.Action{{Verb: plan.Delete, Ref: kinds.RefTo(kinds.Secret, s), UID: s.UID, ResourceVersion: s.ResourceVersion,
		Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound}}}}
}

func label(key, value string) []byte {
	b, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{key: value}}})
	if err != nil {
		panic("legacytoken: " + err.Error()) // strings always marshal
	}
	return b
}

// PlanTracking notes once since when the use of tokens is noted.
func PlanTracking(have *corev1.ConfigMap, now time.Time) plan.Result {
	today := now.UTC().Format(time.DateOnly)
	if have == nil {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: Map}, Data: map[string]string{Since: today}}
		return plan.Result{Actions: []plan.Action{{Verb: plan.Create, Ref: kinds.RefTo(kinds.ConfigMap, cm), Object: cm, Tolerate: []metav1.StatusReason{metav1.StatusReasonAlreadyExists}}}}
	}
	if _, err := time.Parse(time.DateOnly, have.Data[Since]); err == nil || have.DeletionTimestamp != nil {
		return plan.Result{}
	}
	next := have.DeepCopy()
	if next.Data == nil {
		next.Data = map[string]string{}
	}
	next.Data[Since] = today
	return plan.Result{Actions: []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.ConfigMap, next), Object: next}}}
}
