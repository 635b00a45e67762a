package defaults

import (
	"maps"
	"math"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// Job runs one pod to its end, and has the labels of its pods.
func Job(j *batchv1.Job) {
	jobTemplate(&j.Spec)
	s := &j.Spec
	if s.Parallelism == nil {
		if s.Completions == nil {
			set(&s.Completions, 1)
		}
		set(&s.Parallelism, 1)
	}
	if s.BackoffLimitPerIndex != nil {
		set(&s.BackoffLimit, math.MaxInt32)
	}
	set(&s.BackoffLimit, 6)
	if len(j.Labels) == 0 && s.Template.Labels != nil {
		j.Labels = maps.Clone(s.Template.Labels)
	}
	set(&s.CompletionMode, batchv1.NonIndexedCompletion)
	set(&s.Suspend, false)
	if s.PodFailurePolicy != nil {
		set(&s.PodReplacementPolicy, batchv1.Failed)
	}
	set(&s.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	set(&s.ManualSelector, false)
}

// CronJob starts a job whether or not the last one has ended. What its jobs
// are made of is defaulted once there is a job.
func CronJob(c *batchv1.CronJob) {
	jobTemplate(&c.Spec.JobTemplate.Spec)
	or(&c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
	set(&c.Spec.Suspend, false)
	set(&c.Spec.SuccessfulJobsHistoryLimit, 3)
	set(&c.Spec.FailedJobsHistoryLimit, 1)
}

func jobTemplate(s *batchv1.JobSpec) {
	PodSpec(&s.Template.Spec)
	if s.PodFailurePolicy == nil {
		return
	}
	for i := range s.PodFailurePolicy.Rules {
		conditions := s.PodFailurePolicy.Rules[i].OnPodConditions
		for j := range conditions {
			or(&conditions[j].Status, corev1.ConditionTrue)
		}
	}
}
