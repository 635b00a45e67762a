package warnings

import (
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Sizes of an indexed job above which its failed indexes may be too many to
// keep track of.
const (
	manyCompletions = 100_000
	manyAtOnce      = 10_000
)

// Job looks at the name, from which those of its pods are made, and the template.
func Job(j, old *batchv1.Job) []string {
	var l list
	if old == nil {
		l.hostName(j.Name)
	} else if j.Generation == old.Generation {
		return l
	}
	l.job(field.NewPath("spec"), &j.Spec)
	return l
}

// CronJob likewise.
func CronJob(c, old *batchv1.CronJob) []string {
	var l list
	if old == nil {
		l.hostName(c.Name)
	}
	if old == nil || c.Generation != old.Generation {
		l.job(field.NewPath("spec", "jobTemplate", "spec"), &c.Spec.JobTemplate.Spec)
	}
	if old != nil && strings.Contains(c.Spec.Schedule, "TZ") {
		// The field is named twice in upstream's text too.
		l.addf("cannot use TZ or CRON_TZ in %s, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", field.NewPath("spec", "spec", "schedule"))
	}
	return l
}

func (l *list) hostName(name string) {
	if m := validation.IsDNS1123Label(name); len(m) > 0 {
		l.addf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", m)
	}
}

func (l *list) job(p *field.Path, s *batchv1.JobSpec) {
	if s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion &&
		s.Completions != nil && *s.Completions > manyCompletions && s.Parallelism != nil && *s.Parallelism > manyAtOnce {
		l.addf("%s: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail", p)
	}
	l.podSpec(p.Child("template"), &s.Template.Spec, s.Template.Annotations)
}

// RuntimeClass looks for labels of nodes that have another name by now.
func RuntimeClass(rc, _ *nodev1.RuntimeClass) []string {
	if rc.Scheduling == nil {
		return nil
	}
	var l list
	for key := range rc.Scheduling.NodeSelector {
		if why, ok := oldNodeLabels[key]; ok {
			l.addf("%s: %s", field.NewPath("scheduling", "nodeSelector"), why)
		}
	}
	return l
}
