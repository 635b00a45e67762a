package prepare

import (
	"maps"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The labels of a job's pods without a domain: they are older than the rule
// that the project's own labels have one.
const (
	oldJobName       = "job-name"
	oldControllerUID = "controller-uid"
)

// JobCreate clears the status and, unless the client selects its pods itself,
// makes the template's pods those of this job and of no other.
func JobCreate(j *batchv1.Job) {
	fresh(j, true)
	j.Status = batchv1.JobStatus{}
	if manual := j.Spec.ManualSelector; manual == nil || !*manual {
		selectByUID(j)
	}
	if len(j.Labels) == 0 && j.Spec.Template.Labels != nil {
		// What reading it back would default: the answer is what is stored.
		j.Labels = maps.Clone(j.Spec.Template.Labels)
	}
}

// selectByUID leaves what is there: validation refuses what does not fit.
func selectByUID(j *batchv1.Job) {
	labels := &j.Spec.Template.Labels
	add := func(key, value string) {
		if *labels == nil {
			*labels = map[string]string{}
		}
		if _, ok := (*labels)[key]; !ok {
			(*labels)[key] = value
		}
	}
	add(oldJobName, j.Name)
	add(batchv1.JobNameLabel, j.Name)
	add(oldControllerUID, string(j.UID))
	add(batchv1.ControllerUidLabel, string(j.UID))
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	labels = &j.Spec.Selector.MatchLabels
	add(batchv1.ControllerUidLabel, string(j.UID))
}

// JobUpdate keeps the status and counts changes.
func JobUpdate(j, old *batchv1.Job) {
	Keep(j, old)
	j.Status = old.Status
	bump(j, old, differ(j.Spec, old.Spec))
}

// JobStatusUpdate keeps the spec.
func JobStatusUpdate(j, old *batchv1.Job) {
	Keep(j, old)
	j.Spec = old.Spec
}

// CronJobCreate clears the status.
func CronJobCreate(c *batchv1.CronJob) {
	fresh(c, true)
	c.Status = batchv1.CronJobStatus{}
}

// CronJobUpdate keeps the status and counts changes.
func CronJobUpdate(c, old *batchv1.CronJob) {
	Keep(c, old)
	c.Status = old.Status
	bump(c, old, differ(c.Spec, old.Spec))
}

// CronJobStatusUpdate keeps the spec.
func CronJobStatusUpdate(c, old *batchv1.CronJob) {
	Keep(c, old)
	c.Spec = old.Spec
}
