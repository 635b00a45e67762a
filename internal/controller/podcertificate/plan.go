// Package podcertificate removes requests for certificates of pods that are
// over: the certificate has reached the kubelet, or nobody wants it any more.
package podcertificate

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// keep is how long a request may take and is kept; upstream's figure.
const keep = 15 * time.Minute

// Plan removes a request that is old, whatever became of it.
func Plan(r *certificatesv1.PodCertificateRequest, now time.Time) plan.Result {
	if r == nil || r.DeletionTimestamp != nil {
		return plan.Result{}
	}
	if left := r.CreationTimestamp.Add(keep).Sub(now); left > 0 {
		return plan.Result{After: left}
	}
	return plan.Result{Actions: []plan.Action{{
		Verb: plan.Delete, Ref: kinds.RefTo(kinds.PodCertificateRequest, r), UID: r.UID, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
	}}}
}
