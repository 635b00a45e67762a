// Package ttlafterfinished deletes jobs some time after they have ended.
package ttlafterfinished

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Observed is what a plan depends on.
type Observed struct {
	Job *batchv1.Job
	Now time.Time
}

// Plan deletes the job once its time is over. It is deleted as it was seen, so
// that a time that somebody has just made longer counts; its pods go first.
func Plan(o Observed) plan.Result {
	end, ok := endOf(o.Job)
	if o.Job.DeletionTimestamp != nil || o.Job.Spec.TTLSecondsAfterFinished == nil || !ok {
		return plan.Result{}
	}
	if left := end.Add(time.Duration(*o.Job.Spec.TTLSecondsAfterFinished) * time.Second).Sub(o.Now); left > 0 {
		return plan.Result{After: left}
	}
	return plan.Result{Actions: []plan.Action{{
		Verb: plan.Delete, Ref: kinds.RefTo(kinds.Job, o.Job), UID: o.Job.UID, ResourceVersion: o.Job.ResourceVersion,
		Propagation: metav1.DeletePropagationForeground, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
	}}}
}

// endOf a job that has ended, and says when.
func endOf(j *batchv1.Job) (time.Time, bool) {
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time, !c.LastTransitionTime.IsZero()
		}
	}
	return time.Time{}, false
}
