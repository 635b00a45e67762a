package audit

import "github.com/prometheus/client_golang/prometheus"

// metrics have upstream's names.
type metrics struct {
	events, rejected prometheus.Counter
	errors, levels   *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		events: prometheus.NewCounter(prometheus.CounterOpts{Name: "apiserver_audit_event_total", Help: "Audit events that were made and given to the outputs."}),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{Name: "apiserver_audit_requests_rejected_total",
			Help: "Requests that were refused because their audit event could not be written."}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_audit_error_total", Help: "Audit events that were lost, by what lost them."}, []string{"plugin"}),
		levels: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_audit_level_total", Help: "Requests by the level that the audit policy has for them."}, []string{"level"}),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.events, m.rejected, m.errors, m.levels}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(ch)
	}
}
