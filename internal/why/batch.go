package why

import (
	"cmp"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

func jobCondition(j *batchv1.Job, types ...batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range j.Status.Conditions {
		if c := &j.Status.Conditions[i]; c.Status == corev1.ConditionTrue && slices.Contains(types, c.Type) {
			return c
		}
	}
	return nil
}

func (l *look) job(j *batchv1.Job) *finding {
	if jobCondition(j, batchv1.JobComplete, batchv1.JobSuccessCriteriaMet) != nil {
		return nil
	}
	if by := j.Spec.ManagedBy; by != nil && *by != batchv1.JobControllerName {
		return about(kinds.Job, j, "it is left to %s, and has not ended", *by)
	}
	var pods []*corev1.Pod
	if j.Spec.Selector != nil {
		pods = l.podsOf(j.Namespace, selectorOf(j.Spec.Selector), j.UID)
	}
	if c := jobCondition(j, batchv1.JobFailed, batchv1.JobFailureTarget); c != nil {
		return l.failedJob(j, c, pods)
	}
	if j.Spec.Suspend != nil && *j.Spec.Suspend {
		f := about(kinds.Job, j, "it is suspended").help("`kubectl patch job %s -n %s -p '{\"spec\":{\"suspend\":false}}'`", j.Name, j.Namespace)
		if c := jobCondition(j, batchv1.JobSuspended); c != nil {
			f.since(c.LastTransitionTime)
		}
		return f
	}
	f := about(kinds.Job, j, "%d of %d pods have succeeded, %d have failed, %d are at work", j.Status.Succeeded, pointed(j.Spec.Completions), j.Status.Failed, j.Status.Active)
	if j.Status.StartTime != nil {
		f.since(*j.Status.StartTime)
	}
	if j.Status.Active == 0 {
		if failed := l.failedCreate(kinds.Job, j); failed != nil {
			return failed
		}
	}
	// Those that run well are not the matter: a job takes its time.
	if p, _ := worst(pods); p != nil {
		return byPods(f, pods)
	}
	if j.Status.Active > 0 && j.Status.Failed == 0 {
		return nil
	}
	return l.blind(f)
}

func (l *look) failedJob(j *batchv1.Job, c *batchv1.JobCondition, pods []*corev1.Pod) *finding {
	f := about(kinds.Job, j, "it has failed (%s): %s", c.Reason, c.Message).since(c.LastTransitionTime)
	pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || c.Reason == batchv1.JobReasonDeadlineExceeded && p.Status.Phase == corev1.PodFailed && exitedWell(p)
	})
	if c.Reason == batchv1.JobReasonDeadlineExceeded {
		f.help("raise activeDeadlineSeconds, or make it faster")
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for _, p := range pods {
		if p.Status.Phase == corev1.PodFailed {
			return f.behind(kinds.Pod, p)
		}
	}
	if len(pods) > 0 && f.Remedy == "" {
		return byPods(f, pods)
	}
	return l.lastFailure(f, j)
}

// lastFailure: of a job whose pods are gone, events tell.
func (l *look) lastFailure(f *finding, j *batchv1.Job) *finding {
	if f.Remedy == "" {
		if e := l.told(j, "FailedCreate"); e != nil {
			return f.because(l.refusal(j.Namespace, e.Message))
		}
	}
	return l.blind(f)
}

// exitedWell: no container of a pod ended badly by itself.
func exitedWell(p *corev1.Pod) bool {
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if t := s.State.Terminated; t != nil && t.ExitCode != 0 && t.ExitCode != 128+9 && t.ExitCode != 128+15 {
			return false
		}
	}
	return true
}

func (l *look) cronJob(c *batchv1.CronJob) *finding {
	if c.Spec.Suspend != nil && *c.Spec.Suspend {
		return about(kinds.CronJob, c, "it is suspended").help("`kubectl patch cronjob %s -n %s -p '{\"spec\":{\"suspend\":false}}'`", c.Name, c.Namespace)
	}
	if e := l.told(c, "UnknownTimeZone", "UnparseableSchedule", "InvalidSchedule", "SuccessfulCreate"); e != nil && e.Reason != "SuccessfulCreate" {
		return about(kinds.CronJob, c, "it cannot be scheduled: %s", e.Message).since(began(e)).help("correct its schedule or time zone")
	}
	if failed := l.failedCreate(kinds.CronJob, c); failed != nil {
		return failed
	}
	all, _ := list[*batchv1.Job](l, Want{Kind: kinds.Job, Namespace: c.Namespace})
	all = slices.DeleteFunc(all, func(j *batchv1.Job) bool { return !metav1.IsControlledBy(j, c) })
	slices.SortFunc(all, func(a, b *batchv1.Job) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	if len(all) > 0 && l.at(kinds.Job, all[0]) != nil {
		return about(kinds.CronJob, c, "its newest job has not done well").since(all[0].CreationTimestamp).behind(kinds.Job, all[0])
	}
	switch e := l.told(c, "JobAlreadyActive", "TooManyMissedTimes", "MissSchedule", "SuccessfulCreate"); {
	case e == nil || e.Reason == "SuccessfulCreate":
	case e.Reason != "JobAlreadyActive":
		return about(kinds.CronJob, c, "it misses its times: %s", e.Message).since(began(e)).help("raise or remove startingDeadlineSeconds, or shorten the schedule's gaps")
	default:
		f := about(kinds.CronJob, c, "the next job waits, since concurrencyPolicy is Forbid and one still runs").since(began(e)).
			help("have the job end sooner, or allow several at once")
		return f
	}
	return nil
}
