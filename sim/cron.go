package main

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// cronJob of any policy. Some of its jobs wait for somebody to let them go, and
// last, so that the policy counts.
func (u *users) cronJob(ns string) *batchv1.CronJob {
	c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "cron"}, Spec: batchv1.CronJobSpec{Schedule: "* * * * *"}}
	c.Spec.ConcurrencyPolicy = []batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent}[u.rng.IntN(4)]
	c.Spec.JobTemplate.Spec = u.jobSpec()
	if suspend := true; u.rng.IntN(3) == 0 {
		c.Spec.JobTemplate.Spec.Suspend = &suspend
	}
	if n := int32(u.rng.IntN(3)); u.rng.IntN(2) == 0 {
		c.Spec.SuccessfulJobsHistoryLimit, c.Spec.FailedJobsHistoryLimit = &n, &n
	}
	return c
}

// cronAudit watches what schedules may never do.
type cronAudit struct {
	world *world
	jobs  map[types.UID]*batchv1.Job
}

func (a *cronAudit) observe(before, after kinds.Object) error {
	if before != nil && after == nil {
		delete(a.jobs, before.GetUID())
	}
	j, ok := after.(*batchv1.Job)
	if !ok {
		return nil
	}
	a.jobs[j.UID] = j
	ref := metav1.GetControllerOf(j)
	if before != nil || ref == nil || ref.Kind != "CronJob" {
		return nil
	}
	at, err := time.Parse(time.RFC3339, j.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
	switch {
	case err != nil:
		return fmt.Errorf("job %s/%s does not say what time it is for: %w", j.Namespace, j.Name, err)
	case at.After(a.world.now) || at.Second() != 0:
		return fmt.Errorf("job %s/%s for %v is made at %v", j.Namespace, j.Name, at, a.world.now)
	}
	c := view.Get[*batchv1.CronJob](a.world.tap.Snapshot(), kinds.CronJob, j.Namespace, ref.Name)
	if c == nil || c.UID != ref.UID || c.Spec.ConcurrencyPolicy != batchv1.ForbidConcurrent {
		return nil
	}
	for _, other := range a.jobs {
		if other.UID != j.UID && metav1.IsControlledBy(other, c) && other.DeletionTimestamp == nil && jobEnd(other) == nil {
			return fmt.Errorf("job %s/%s is made while %s runs, which its schedule forbids", j.Namespace, j.Name, other.Name)
		}
	}
	return nil
}

// jobEnd is the condition of its end, if it has ended.
func jobEnd(j *batchv1.Job) *batchv1.JobCondition {
	i := slices.IndexFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
		return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
	})
	if i < 0 {
		return nil
	}
	return &j.Status.Conditions[i]
}

// checkSchedules: each lists what runs, and keeps no more of what has ended than
// it is to; and no job outlives its time.
func (w *world) checkSchedules(t truth) error {
	for _, c := range all[*batchv1.CronJob](t, kinds.CronJob) {
		running, ended := 0, map[batchv1.JobConditionType]int{}
		for _, j := range all[*batchv1.Job](t, kinds.Job) {
			if !metav1.IsControlledBy(j, c) {
				continue
			}
			if end := jobEnd(j); end != nil {
				ended[end.Type]++
			} else if running++; !slices.ContainsFunc(c.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == j.UID }) {
				return fmt.Errorf("cron job %s/%s does not list %s, which runs", c.Namespace, c.Name, j.Name)
			}
		}
		if len(c.Status.Active) != running {
			return fmt.Errorf("cron job %s/%s lists %d jobs, %d run", c.Namespace, c.Name, len(c.Status.Active), running)
		}
		if ended[batchv1.JobComplete] > int(*c.Spec.SuccessfulJobsHistoryLimit) || ended[batchv1.JobFailed] > int(*c.Spec.FailedJobsHistoryLimit) {
			return fmt.Errorf("cron job %s/%s keeps too much: %v", c.Namespace, c.Name, ended)
		}
	}
	for _, j := range all[*batchv1.Job](t, kinds.Job) {
		end, ttl := jobEnd(j), j.Spec.TTLSecondsAfterFinished
		if end != nil && ttl != nil && w.now.Sub(end.LastTransitionTime.Time) > time.Duration(*ttl+1)*time.Second {
			return fmt.Errorf("job %s/%s ended at %v and has outlived its %d seconds", j.Namespace, j.Name, end.LastTransitionTime, *ttl)
		}
	}
	return nil
}
