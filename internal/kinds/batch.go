package kinds

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/kinds/prepare"
	"knarr.dev/knarr/internal/kinds/validate"
	"knarr.dev/knarr/internal/kinds/warnings"
)

// The kinds of batch: pods that are to end.
var (
	Job = &Kind{
		GVK: batchv1.SchemeGroupVersion.WithKind("Job"), Resource: "jobs", Singular: "job", Categories: []string{"all"},
		Namespaced: true, Prefix: "jobs",
		New: func() Object { return &batchv1.Job{} }, NewList: func() runtime.Object { return &batchv1.JobList{} },
		Default:       do(defaults.Job),
		PrepareCreate: do(prepare.JobCreate), PrepareUpdate: doBoth(prepare.JobUpdate),
		Validate: check(validate.Job), ValidateUpdate: checkBoth(validate.JobUpdate),
		Warnings:     warn(warnings.Job),
		Subresources: map[string]Subresource{"status": status(prepare.JobStatusUpdate, validate.JobStatusUpdate)},
		Columns: columns([]Column{
			nameColumn,
			cell("Status", "string", "Status of the job.", func(j *batchv1.Job) any { return jobState(j) }),
			cell("Completions", "string", "Pods that have succeeded, of how many.", func(j *batchv1.Job) any { return completions(j) }),
			timed("Duration", "string", "Time required to complete the job.", func(j *batchv1.Job, now time.Time) any { return jobDuration(j, now) }),
			ageColumn,
		}, containerColumns(func(j *batchv1.Job) *corev1.PodSpec { return &j.Spec.Template.Spec }),
			selectorColumn(func(j *batchv1.Job) *metav1.LabelSelector { return j.Spec.Selector })),
		Fields: selectable{
			"status.successful": text(func(j *batchv1.Job) string { return fmt.Sprint(j.Status.Succeeded) }),
		},
		DefaultPropagation: metav1.DeletePropagationOrphan, // as in the first version of the API
	}
	CronJob = &Kind{
		GVK: batchv1.SchemeGroupVersion.WithKind("CronJob"), Resource: "cronjobs", Singular: "cronjob", ShortNames: []string{"cj"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "cronjobs",
		New: func() Object { return &batchv1.CronJob{} }, NewList: func() runtime.Object { return &batchv1.CronJobList{} },
		Default:       do(defaults.CronJob),
		PrepareCreate: do(prepare.CronJobCreate), PrepareUpdate: doBoth(prepare.CronJobUpdate),
		Validate: check(validate.CronJob), ValidateUpdate: checkBoth(validate.CronJobUpdate),
		Warnings:     warn(warnings.CronJob),
		Subresources: map[string]Subresource{"status": status(prepare.CronJobStatusUpdate, validate.CronJobStatusUpdate)},
		Columns: columns([]Column{
			nameColumn,
			cell("Schedule", "string", "When jobs are made, as in a crontab.", func(c *batchv1.CronJob) any { return c.Spec.Schedule }),
			cell("Timezone", "string", "Time zone of the schedule.", func(c *batchv1.CronJob) any { return valueOr(c.Spec.TimeZone, none) }),
			cell("Suspend", "boolean", "Whether no jobs are made at present.", func(c *batchv1.CronJob) any { return yesNo(c.Spec.Suspend) }),
			cell("Active", "integer", "Number of jobs that run.", func(c *batchv1.CronJob) any { return int64(len(c.Status.Active)) }),
			timed("Last Schedule", "string", "Time since the last job was made.", func(c *batchv1.CronJob, now time.Time) any {
				if c.Status.LastScheduleTime == nil {
					return none
				}
				return since(c.Status.LastScheduleTime.Time, now)
			}),
			ageColumn,
		}, containerColumns(func(c *batchv1.CronJob) *corev1.PodSpec { return &c.Spec.JobTemplate.Spec.Template.Spec }),
			selectorColumn(func(c *batchv1.CronJob) *metav1.LabelSelector { return c.Spec.JobTemplate.Spec.Selector })),
	}
)

var batchKinds = []*Kind{Job, CronJob}

func yesNo(b *bool) string {
	switch {
	case b == nil:
		return unset
	case *b:
		return "True"
	}
	return "False"
}

func jobState(j *batchv1.Job) string {
	is := func(t batchv1.JobConditionType) bool {
		for _, c := range j.Status.Conditions {
			if c.Type == t {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	}
	switch {
	case is(batchv1.JobComplete):
		return "Complete"
	case is(batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	}
	for _, t := range []batchv1.JobConditionType{batchv1.JobSuspended, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if is(t) {
			return string(t)
		}
	}
	return "Running"
}

func completions(j *batchv1.Job) string {
	switch n := j.Spec.Parallelism; {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case n != nil && *n > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, *n)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job, now time.Time) string {
	if j.Status.StartTime == nil {
		return ""
	}
	if end := j.Status.CompletionTime; end != nil {
		now = end.Time
	}
	return duration.HumanDuration(now.Sub(j.Status.StartTime.Time))
}
