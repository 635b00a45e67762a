package cronjob

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	batchv1 "k8s.io/api/batch/v1"

	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
)

// newSkew is upstream's metric of how late jobs are.
func newSkew() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Subsystem: "cronjob_controller", Name: "job_creation_skew_duration_seconds",
		Help: "How long after the time that it is for a job is made.", Buckets: prometheus.ExponentialBuckets(1, 2, 10)})
}

// noteLate notes how late the jobs are that a pass has made.
func noteLate(skew prometheus.Observer, p reconcile.Pass) {
	for _, a := range p.Applied {
		j, ok := a.Object.(*batchv1.Job)
		if !ok || a.Verb != plan.Create {
			continue
		}
		if at, err := time.Parse(time.RFC3339, j.Annotations[batchv1.CronJobScheduledTimestampAnnotation]); err == nil {
			skew.Observe(p.Now.Sub(at).Seconds())
		}
	}
}
