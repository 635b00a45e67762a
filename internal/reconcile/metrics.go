package reconcile

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the runtime: the queue's are upstream's for work queues, by the
// name of the controller, of which there are few.
type metrics struct {
	passes  *prometheus.CounterVec
	refused *prometheus.CounterVec
	panics  *prometheus.CounterVec
	adds    *prometheus.CounterVec
	retries *prometheus.CounterVec
	waited  *prometheus.HistogramVec
	worked  *prometheus.HistogramVec
	keys    *keys
}

// queueBuckets are upstream's: from 10 ns to 10 s.
var queueBuckets = prometheus.ExponentialBuckets(10e-9, 10, 10)

func newMetrics(r *Runtime) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: queueBuckets}, []string{"name"})
	}
	return &metrics{
		passes:  counter("knarr_reconcile_passes_total", "Keys planned, by controller and result (ok, early, error).", "controller", "result"),
		refused: counter("knarr_reconcile_refused_writes_total", "Writes that a plan asked for but its controller did not declare.", "controller"),
		panics:  counter("knarr_reconcile_panics_total", "Panics contained in plans.", "controller"),
		adds:    counter("workqueue_adds_total", "Keys that became ready.", "name"),
		retries: counter("workqueue_retries_total", "Keys that are planned again because a pass failed.", "name"),
		waited:  histogram("workqueue_queue_duration_seconds", "Time that keys were ready before they were planned."),
		worked:  histogram("workqueue_work_duration_seconds", "Time that planning a key and its writes took."),
		keys:    &keys{r},
	}
}

func (m *metrics) register(reg prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.passes, m.refused, m.panics, m.adds, m.retries, m.waited, m.worked, m.keys} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("cannot register metrics: %w", err)
		}
	}
	return nil
}

// queued is where one controller's keys are counted.
type queued struct {
	adds, retries  prometheus.Counter
	waited, worked prometheus.Observer
}

func (m *metrics) of(controller string) queued {
	return queued{m.adds.WithLabelValues(controller), m.retries.WithLabelValues(controller), m.waited.WithLabelValues(controller), m.worked.WithLabelValues(controller)}
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

// keys counts the queue's when it is asked, so that nothing is kept up to date
// for nobody.
type keys struct{ r *Runtime }

var (
	keysDesc       = prometheus.NewDesc("knarr_reconcile_keys", "Keys known to the queue, by controller and state.", []string{"controller", "state"}, nil)
	depthDesc      = prometheus.NewDesc("workqueue_depth", "Keys that are ready.", []string{"name"}, nil)
	unfinishedDesc = prometheus.NewDesc("workqueue_unfinished_work_seconds", "Time that the keys being planned have taken so far, in sum.", []string{"name"}, nil)
	longestDesc    = prometheus.NewDesc("workqueue_longest_running_processor_seconds", "Time that the longest of them has taken so far.", []string{"name"}, nil)
)

func (k *keys) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{keysDesc, depthDesc, unfinishedDesc, longestDesc} {
		ch <- d
	}
}

func (k *keys) Collect(ch chan<- prometheus.Metric) {
	now := k.r.now()
	k.r.mu.Lock()
	defer k.r.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, ctl := range k.r.ctls {
		var sum, longest time.Duration
		for _, it := range ctl.items {
			if it.state == running {
				took := now.Sub(it.since)
				sum, longest = sum+took, max(longest, took)
			}
		}
		gauge(keysDesc, float64(len(ctl.ready)), ctl.Name, "ready")
		gauge(keysDesc, float64(ctl.running), ctl.Name, "running")
		gauge(keysDesc, float64(len(ctl.items)), ctl.Name, "known")
		gauge(depthDesc, float64(len(ctl.ready)), ctl.Name)
		gauge(unfinishedDesc, sum.Seconds(), ctl.Name)
		gauge(longestDesc, longest.Seconds(), ctl.Name)
	}
}
