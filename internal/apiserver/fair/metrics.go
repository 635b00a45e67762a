package fair

import (
	"math"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Names are upstream's. Labels are the names of objects that administrators
// make; they go when the objects do.
const prefix = "apiserver_flowcontrol_"

var (
	seconds    = []float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30}
	bySchema   = []string{"priority_level", "flow_schema"}
	byLevel    = []string{"priority_level"}
	withReason = append(bySchema[:2:2], "reason")
)

type metrics struct {
	dispatched, rejected             *prometheus.CounterVec
	waited, lasted, length, estimate *prometheus.HistogramVec
	fraction                         atomic.Uint64
}

// usage is what one schema has of its level, and where it is told. What is
// rare is looked up when it happens.
type usage struct {
	queued, queuedSeats, running, runningSeats atomic.Int64
	dispatched                                 prometheus.Counter
	waited, lasted, estimated                  prometheus.Observer
}

func newMetrics() *metrics {
	counter := func(name, help string, labels []string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + name, Help: help, Buckets: buckets}, append(bySchema[:2:2], labels...))
	}
	return &metrics{
		dispatched: counter("dispatched_requests_total", "Requests that were let in.", bySchema),
		rejected:   counter("rejected_requests_total", "Requests that were sent away, by reason.", withReason),
		waited:     histogram("request_wait_duration_seconds", "Time that a request waited in its queue.", seconds, "execute"),
		lasted:     histogram("request_execution_seconds", "Time that a request ran; of a watch, until it had begun.", seconds, "type"),
		length:     histogram("request_queue_length_after_enqueue", "Length of the queue that a request has joined.", []float64{0, 10, 25, 50, 100, 250, 500, 1000}),
		estimate:   histogram("work_estimated_seats", "Seats that requests were taken to need.", []float64{1, 2, 4, 8, 16, 32, 64, 100}),
	}
}

// usageOf a schema goes on when its configuration changes.
func (m *metrics) usageOf(old *state, s *schema) *usage {
	for _, o := range old.schemas {
		if o.name == s.name && o.level == s.level {
			return o.usage
		}
	}
	l, f := s.levelName, s.name
	return &usage{dispatched: m.dispatched.WithLabelValues(l, f), estimated: m.estimate.WithLabelValues(l, f),
		waited: m.waited.WithLabelValues(l, f, "true"), lasted: m.lasted.WithLabelValues(l, f, "regular")}
}

// forget what is no longer there.
func (m *metrics) forget(old, next *state) {
	kept := map[*usage]bool{}
	for _, s := range next.schemas {
		kept[s.usage] = true
	}
	for _, s := range old.schemas {
		if kept[s.usage] {
			continue
		}
		labels := prometheus.Labels{"priority_level": s.levelName, "flow_schema": s.name}
		for _, v := range []interface {
			DeletePartialMatch(prometheus.Labels) int
		}{m.dispatched, m.rejected, m.waited, m.lasted, m.length, m.estimate} {
			v.DeletePartialMatch(labels)
		}
	}
}

func (m *metrics) vectors() []prometheus.Collector {
	return []prometheus.Collector{m.dispatched, m.rejected, m.waited, m.lasted, m.length, m.estimate}
}

func desc(name, help string, labels []string) *prometheus.Desc {
	return prometheus.NewDesc(prefix+name, help, labels, nil)
}

// What is counted when it is asked for.
var (
	perSchema = []struct {
		desc *prometheus.Desc
		of   func(*usage) *atomic.Int64
	}{
		{desc("current_inqueue_requests", "Requests that wait in queues.", bySchema), func(u *usage) *atomic.Int64 { return &u.queued }},
		{desc("current_inqueue_seats", "Seats that waiting requests need.", bySchema), func(u *usage) *atomic.Int64 { return &u.queuedSeats }},
		{desc("current_executing_requests", "Requests that run; watches until they have begun.", bySchema), func(u *usage) *atomic.Int64 { return &u.running }},
		{desc("current_executing_seats", "Seats of the requests that run.", bySchema), func(u *usage) *atomic.Int64 { return &u.runningSeats }},
	}
	perLevel = []struct {
		desc *prometheus.Desc
		of   func(*level) float64
	}{
		{desc("nominal_limit_seats", "Seats by configuration.", byLevel), func(l *level) float64 { return float64(l.nominal) }},
		{desc("lower_limit_seats", "Seats that are not lent.", byLevel), func(l *level) float64 { return float64(l.lowest) }},
		{desc("upper_limit_seats", "Seats with all that may be borrowed.", byLevel), func(l *level) float64 { return float64(l.highest) }},
		{desc("current_limit_seats", "Seats for now.", byLevel), func(l *level) float64 { return float64(l.limit) }},
		{desc("target_seats", "Seats that the level would use.", byLevel), func(l *level) float64 { return l.stats.target }},
		{desc("demand_seats_high_watermark", "Most seats asked for in the last period.", byLevel), func(l *level) float64 { return float64(l.stats.most) }},
		{desc("demand_seats_average", "Seats asked for in the last period, on average.", byLevel), func(l *level) float64 { return l.stats.average }},
		{desc("demand_seats_stdev", "Their standard deviation.", byLevel), func(l *level) float64 { return l.stats.deviation }},
		{desc("demand_seats_smoothed", "Seats asked for, smoothed over periods.", byLevel), func(l *level) float64 { return l.stats.smoothed }},
	}
	fractionDesc = desc("seat_fair_frac", "Part of what is asked for that every level can have.", nil)
	inFlightDesc = prometheus.NewDesc("apiserver_current_inflight_requests", "Requests that are being answered, without watches and streams.", []string{"request_kind"}, nil)
	inQueueDesc  = prometheus.NewDesc("apiserver_current_inqueue_requests", "Requests that wait to be answered.", []string{"request_kind"}, nil)
	requestKinds = [2]string{"readOnly", "mutating"}
)

// Describe implements prometheus.Collector.
func (d *Dispatcher) Describe(ch chan<- *prometheus.Desc) {
	for _, v := range d.metrics.vectors() {
		v.Describe(ch)
	}
	for _, g := range perSchema {
		ch <- g.desc
	}
	for _, g := range perLevel {
		ch <- g.desc
	}
	ch <- fractionDesc
	ch <- inFlightDesc
	ch <- inQueueDesc
}

// Collect implements prometheus.Collector.
func (d *Dispatcher) Collect(ch chan<- prometheus.Metric) {
	st := d.current(d.now())
	for _, v := range d.metrics.vectors() {
		v.Collect(ch)
	}
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	for _, s := range st.schemas {
		for _, g := range perSchema {
			gauge(g.desc, float64(g.of(s.usage).Load()), s.levelName, s.name)
		}
	}
	for _, l := range st.levels {
		l.mu.Lock()
		values := make([]float64, len(perLevel))
		for i, g := range perLevel {
			values[i] = g.of(l)
		}
		l.mu.Unlock()
		for i, g := range perLevel {
			gauge(g.desc, values[i], l.name)
		}
	}
	gauge(fractionDesc, math.Float64frombits(d.metrics.fraction.Load()))
	for i, kind := range requestKinds {
		gauge(inFlightDesc, float64(d.running[i].Load()), kind)
		gauge(inQueueDesc, float64(d.waiting[i].Load()), kind)
	}
}
