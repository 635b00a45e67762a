package reconcile

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the runtime; the label is the controller's name, of which there
// are few.
type metrics struct {
	passes  *prometheus.CounterVec
	refused *prometheus.CounterVec
	panics  *prometheus.CounterVec
	ready   *depth
}

func newMetrics(r *Runtime) *metrics {
	return &metrics{
		passes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "knarr_reconcile_passes_total", Help: "Keys planned, by controller and result (ok, early, error).",
		}, []string{"controller", "result"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "knarr_reconcile_refused_writes_total", Help: "Writes that a plan asked for but its controller did not declare.",
		}, []string{"controller"}),
		panics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "knarr_reconcile_panics_total", Help: "Panics contained in plans.",
		}, []string{"controller"}),
		ready: &depth{r: r, desc: prometheus.NewDesc("knarr_reconcile_keys",
			"Keys known to the queue, by controller and state.", []string{"controller", "state"}, nil)},
	}
}

func (m *metrics) register(reg prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.passes, m.refused, m.panics, m.ready} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("cannot register metrics: %w", err)
		}
	}
	return nil
}

func (m *metrics) passed(controller string, err error) {
	result := "ok"
	switch {
	case err == nil:
	case quiet(err):
		result = "early"
	default:
		result = "error"
	}
	m.passes.WithLabelValues(controller, result).Inc()
}

// depth counts the queue's keys when it is asked, so that nothing is kept up
// to date for nobody.
type depth struct {
	r    *Runtime
	desc *prometheus.Desc
}

func (d *depth) Describe(ch chan<- *prometheus.Desc) { ch <- d.desc }

func (d *depth) Collect(ch chan<- prometheus.Metric) {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	for _, ctl := range d.r.ctls {
		for state, n := range map[string]int{"ready": len(ctl.ready), "running": ctl.running, "known": len(ctl.items)} {
			ch <- prometheus.MustNewConstMetric(d.desc, prometheus.GaugeValue, float64(n), ctl.Name, state)
		}
	}
}
