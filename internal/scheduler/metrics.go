package scheduler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics under the names that upstream's dashboards know.
type metrics struct {
	attempts *prometheus.CounterVec
	seconds  prometheus.Histogram
	pending  *prometheus.GaugeVec
}

func newMetrics() *metrics {
	return &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "scheduler_schedule_attempts_total", Help: "Decisions about a pod, by result.",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "scheduler_scheduling_algorithm_duration_seconds", Help: "Time of one decision.",
			Buckets: prometheus.ExponentialBuckets(10e-6, 2, 14),
		}),
		pending: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "scheduler_pending_pods", Help: "Pods without a node, by what they wait for.",
		}, []string{"queue"}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.attempts, m.seconds, m.pending} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) decided(took time.Duration, d decision, err error) {
	m.seconds.Observe(took.Seconds())
	switch {
	case err != nil:
		m.attempts.WithLabelValues("error").Inc()
	case d.node == nil:
		m.attempts.WithLabelValues("unschedulable").Inc()
	default:
		m.attempts.WithLabelValues("scheduled").Inc()
	}
}

// show is called when the loop has come to rest.
func (m *metrics) show(q *queue) {
	waiting := 0
	for _, set := range q.waiting {
		waiting += len(set)
	}
	m.pending.WithLabelValues("active").Set(float64(len(q.active)))
	m.pending.WithLabelValues("backoff").Set(float64(len(q.backing)))
	m.pending.WithLabelValues("unschedulable").Set(float64(waiting))
}
