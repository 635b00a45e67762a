package leader

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// register makes the metrics, which have upstream's names.
func (e *Elector) register() error {
	labels := prometheus.Labels{"name": e.ref.Name}
	e.slowpath = prometheus.NewCounter(prometheus.CounterOpts{Name: "leader_election_slowpath_total", ConstLabels: labels,
		Help: "Renewals of a lease that had to read it first, because others had changed it."})
	status := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "leader_election_master_status", ConstLabels: labels,
		Help: "Whether this server leads: 1, or is a candidate: 0."}, func() float64 {
		if e.Leads() {
			return 1
		}
		return 0
	})
	if e.cfg.Metrics == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{e.slowpath, status} {
		if err := e.cfg.Metrics.Register(c); err != nil {
			return fmt.Errorf("cannot register metrics: %w", err)
		}
	}
	return nil
}
