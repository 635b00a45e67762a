package probe

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"knarr.dev/knarr/internal/kubelet/plan"
)

// metrics of probes, under upstream's names. A pod that goes takes its own
// away; until then they outlast its containers.
type metrics struct {
	total   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	pods    map[string]prometheus.Labels // namespace and name by UID; guarded by the prober's lock
}

func newMetrics() *metrics {
	return &metrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "prober_probe_total", Help: "Probes of a container, by what they found."},
			[]string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "prober_probe_duration_seconds", Help: "Time until a container answered."},
			[]string{"probe_type", "container", "pod", "namespace"}),
		pods: map[string]prometheus.Labels{},
	}
}

// Describe implements prometheus.Collector.
func (p *Prober) Describe(ch chan<- *prometheus.Desc) {
	p.metrics.total.Describe(ch)
	p.metrics.seconds.Describe(ch)
}

// Collect implements prometheus.Collector.
func (p *Prober) Collect(ch chan<- prometheus.Metric) {
	p.metrics.total.Collect(ch)
	p.metrics.seconds.Collect(ch)
}

// results in upstream's words.
var results = map[plan.Outcome]string{plan.Success: "successful", plan.Failure: "failed", plan.NoOutcome: "unknown"}

// probed counts one probe; the caller holds the lock. What failed has no
// duration, as upstream.
func (m *metrics) probed(t *Target, o plan.Outcome, took time.Duration) {
	uid, name, space := string(t.Pod.UID), t.Pod.Name, t.Pod.Namespace
	if m.pods[uid] == nil {
		m.pods[uid] = prometheus.Labels{"pod": name, "namespace": space}
	}
	m.total.WithLabelValues(string(t.Kind), results[o], t.Spec.Name, name, space, uid).Inc()
	if o != plan.Failure {
		m.seconds.WithLabelValues(string(t.Kind), t.Spec.Name, name, space).Observe(took.Seconds())
	}
}

// forget a pod; the caller holds the lock.
func (m *metrics) forget(uid string) {
	if of := m.pods[uid]; of != nil {
		m.total.DeletePartialMatch(prometheus.Labels{"pod_uid": uid})
		m.seconds.DeletePartialMatch(of)
		delete(m.pods, uid)
	}
}
