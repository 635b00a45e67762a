package job

import (
	"github.com/prometheus/client_golang/prometheus"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// How pods and jobs end, in the words of metrics.
const (
	resultSucceeded = "succeeded"
	resultFailed    = "failed"
)

// counts are upstream's stable metrics of jobs. Their labels are of a few words
// each, which are this package's own.
type counts struct {
	syncs, finished, pods, policy *prometheus.CounterVec
	took                          *prometheus.HistogramVec
}

func newCounts() *counts {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "job_controller", Name: name, Help: help}, labels)
	}
	return &counts{
		syncs:    counter("job_syncs_total", "Jobs that were looked at, by what was done.", "completion_mode", "result", "action"),
		finished: counter("jobs_finished_total", "Jobs that have ended, by why.", "completion_mode", "result", "reason"),
		pods:     counter("job_pods_finished_total", "Pods that have ended and are counted.", "completion_mode", "result"),
		policy:   counter("pod_failures_handled_by_failure_policy_total", "Failed pods of which a failure policy had something to say, by what.", "action"),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Subsystem: "job_controller", Name: "job_sync_duration_seconds",
			Help: "How long it took to look at a job.", Buckets: prometheus.ExponentialBuckets(0.004, 2, 15)}, []string{"completion_mode", "result", "action"}),
	}
}

func (c *counts) all() []prometheus.Collector {
	return []prometheus.Collector{c.syncs, c.finished, c.pods, c.policy, c.took}
}

// passed counts one look at a job; those at one that has ended do not count.
func (c *counts) passed(p reconcile.Pass) {
	j := view.Get[*batchv1.Job](p.View, kinds.Job, p.Key.Namespace, p.Key.Name)
	if j == nil || done(j) || (&Observed{Job: j}).foreign() {
		return
	}
	mode, result := string(batchv1.NonIndexedCompletion), "success"
	if j.Spec.CompletionMode != nil {
		mode = string(*j.Spec.CompletionMode)
	}
	if p.Err != nil {
		result = "error"
	}
	action := did(p.Result.Actions)
	c.syncs.WithLabelValues(mode, result, action).Inc()
	c.took.WithLabelValues(mode, result, action).Observe(p.Took.Seconds())
	for _, a := range p.Applied {
		switch {
		case a.Ref.Kind == kinds.Job && a.Ref.Sub == "status":
			c.told(j, a.Object.(*batchv1.Job), mode)
		case a.Ref.Kind == kinds.Pod && a.Verb == plan.Patch && j.Spec.PodFailurePolicy != nil:
			c.judged(j, view.Get[*corev1.Pod](p.View, kinds.Pod, a.Ref.Namespace, a.Ref.Name))
		}
	}
}

// did is what a plan does, in upstream's words.
func did(actions []plan.Action) string {
	out := "tracking"
	for i := range actions {
		switch a := &actions[i]; {
		case a.Ref.Kind == kinds.Pod && a.Verb == plan.Create:
			return "pods_created"
		case a.Ref.Kind == kinds.Pod && a.Verb == plan.Delete:
			out = "pods_deleted"
		}
	}
	return out
}

// told: the status says something new.
func (c *counts) told(was, is *batchv1.Job, mode string) {
	more := is.Status.Succeeded - was.Status.Succeeded
	if mode == string(batchv1.IndexedCompletion) && was.Spec.Completions != nil {
		n := int(*was.Spec.Completions)
		more = int32(parseSpans(is.Status.CompletedIndexes, n).total() - parseSpans(was.Status.CompletedIndexes, n).total())
	}
	c.pods.WithLabelValues(mode, resultSucceeded).Add(float64(max(0, more)))
	c.pods.WithLabelValues(mode, resultFailed).Add(float64(max(0, is.Status.Failed-was.Status.Failed)))
	for result, t := range map[string]batchv1.JobConditionType{resultSucceeded: batchv1.JobComplete, resultFailed: batchv1.JobFailed} {
		if end := conditionOf(&is.Status, t); end != nil && end.Status == corev1.ConditionTrue {
			c.finished.WithLabelValues(mode, result, end.Reason).Inc()
		}
	}
}

// judged: a failed pod that is let go was one for the policy, unless no rule of it
// matches.
func (c *counts) judged(j *batchv1.Job, p *corev1.Pod) {
	if p == nil || p.Status.Phase != corev1.PodFailed || !tracked(p) {
		return
	}
	if action, why := verdictOn(j.Spec.PodFailurePolicy, p); why != "" {
		c.policy.WithLabelValues(string(action)).Inc()
	}
}
