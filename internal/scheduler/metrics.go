package scheduler

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics under the names and in the buckets that upstream's dashboards know.
type metrics struct {
	attempts  *prometheus.CounterVec
	decisions *prometheus.HistogramVec
	seconds   prometheus.Histogram
	pending   *prometheus.GaugeVec
	tries     prometheus.Histogram
	lasted    *prometheus.HistogramVec
	incoming  *prometheus.CounterVec
	points    *prometheus.HistogramVec
	rooms     prometheus.Counter
	victims   prometheus.Histogram
}

// What puts pods into the queue, in upstream's words.
const (
	podAdd          = "PodAdd"
	podUpdate       = "PodUpdate"
	attemptFailed   = "ScheduleAttemptFailure"
	backoffComplete = "BackoffComplete"
)

func newMetrics() *metrics {
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	return &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "scheduler_schedule_attempts_total", Help: "Decisions about a pod, by result.",
		}, []string{"result", "profile"}),
		decisions: histogram("scheduler_scheduling_attempt_duration_seconds", "Time of one decision and its binding.", prometheus.ExponentialBuckets(0.001, 2, 15), "result", "profile"),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "scheduler_scheduling_algorithm_duration_seconds", Help: "Time of one decision.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}),
		pending: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "scheduler_pending_pods", Help: "Pods without a node, by what they wait for.",
		}, []string{"queue"}),
		tries: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "scheduler_pod_scheduling_attempts", Help: "Decisions that a pod took until it was bound.", Buckets: prometheus.ExponentialBuckets(1, 2, 5),
		}),
		lasted: histogram("scheduler_pod_scheduling_sli_duration_seconds", "Time from when a pod was seen until it was bound.", prometheus.ExponentialBuckets(0.01, 2, 20), "attempts"),
		incoming: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "scheduler_queue_incoming_pods_total", Help: "Pods that came into a queue, by what brought them.",
		}, []string{"queue", "event"}),
		points: histogram("scheduler_framework_extension_point_duration_seconds", "Time in the parts of a decision.", prometheus.ExponentialBuckets(0.0001, 2, 12), "extension_point", "status", "profile"),
		rooms:  prometheus.NewCounter(prometheus.CounterOpts{Name: "scheduler_preemption_attempts_total", Help: "Pods for which preemption was tried."}),
		victims: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "scheduler_preemption_victims", Help: "Pods that had to go for one.", Buckets: prometheus.ExponentialBuckets(1, 2, 7),
		}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.attempts, m.decisions, m.seconds, m.pending, m.tries, m.lasted, m.incoming, m.points, m.rooms, m.victims} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) decided(profile string, took time.Duration, d decision, err error) {
	m.seconds.Observe(took.Seconds())
	switch {
	case err != nil:
		m.attempted(profile, "error", took)
	case d.node == nil:
		m.attempted(profile, "unschedulable", took)
		if d.preemption != "" {
			m.rooms.Inc()
		}
	}
}

func (m *metrics) attempted(profile, result string, took time.Duration) {
	m.attempts.WithLabelValues(result, profile).Inc()
	m.decisions.WithLabelValues(result, profile).Observe(took.Seconds())
}

// bound tells of a pod that has its node; began is when its last decision did.
func (m *metrics) bound(w *queued, began, now time.Time) {
	m.attempted(w.pod.profile(), "scheduled", now.Sub(began))
	m.tries.Observe(float64(w.attempts))
	const told = 16 // attempts that are told apart
	attempts := strconv.Itoa(w.attempts)
	if w.attempts > told {
		attempts = strconv.Itoa(told) + "+"
	}
	m.lasted.WithLabelValues(attempts).Observe(now.Sub(w.since).Seconds())
}

// point tells how long a part of a decision took.
func (m *metrics) point(profile, name, status string, took time.Duration) {
	m.points.WithLabelValues(name, status, profile).Observe(took.Seconds())
}

// preempted tells of pods that have to go for another.
func (m *metrics) preempted(r *room) { m.victims.Observe(float64(len(r.victims))) }

func (m *metrics) came(queue, event string) { m.incoming.WithLabelValues(queue, event).Inc() }

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
