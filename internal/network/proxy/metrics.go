package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// maxTriggers bounds the changes whose way to the kernel is timed at once: who
// writes slices writes when they were triggered.
const maxTriggers = 4096

// ipFamily is a label's value: there are IPv4 services only.
const ipFamily = string(corev1.IPv4Protocol)

// metrics are kube-proxy's in its nftables mode, as far as they have a meaning
// here. Numbers of changes are of objects, not of what is written for them.
type metrics struct {
	all                             []prometheus.Collector
	syncs, fullSyncs, partialSyncs  prometheus.Observer
	programmed                      prometheus.Observer
	syncedAt, queuedAt              prometheus.Gauge
	failures                        prometheus.Counter
	endpointChanges, serviceChanges prometheus.Counter
}

func newMetrics(p *Proxy) *metrics {
	m := &metrics{}
	add := func(c prometheus.Collector) { m.all = append(m.all, c) }
	family := []string{"ip_family"}
	histogram := func(name, help string, buckets []float64) prometheus.Observer {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kubeproxy_" + name, Help: help, Buckets: buckets}, family)
		add(h)
		return h.WithLabelValues(ipFamily)
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kubeproxy_" + name, Help: help}, family)
		add(g)
		return g.WithLabelValues(ipFamily)
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "kubeproxy_sync_proxy_rules_" + name, Help: help})
		add(c)
		return c
	}
	pending := func(name, help string, of func() int) {
		add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kubeproxy_sync_proxy_rules_" + name, Help: help}, func() float64 {
			p.mu.Lock()
			defer p.mu.Unlock()
			return float64(of())
		}))
	}
	m.syncs = histogram("sync_proxy_rules_duration_seconds", "Time of one pass over what has changed.", prometheus.ExponentialBuckets(0.001, 2, 15))
	m.fullSyncs = histogram("sync_full_proxy_rules_duration_seconds", "Of those, the ones that wrote all rules anew.", prometheus.ExponentialBuckets(0.001, 2, 15))
	m.partialSyncs = histogram("sync_partial_proxy_rules_duration_seconds", "Of those, the others.", prometheus.ExponentialBuckets(0.001, 2, 15))
	m.programmed = histogram("network_programming_duration_seconds", "Time from what changed a service's endpoints until the kernel had the rules.", programmingBuckets())
	m.syncedAt = gauge("sync_proxy_rules_last_timestamp_seconds", "When the rules were last right.")
	m.queuedAt = gauge("sync_proxy_rules_last_queued_timestamp_seconds", "When a pass was last asked for.")
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubeproxy_sync_proxy_rules_nftables_sync_failures_total", Help: "Passes whose rules the kernel did not take."}, family)
	add(failures)
	m.failures = failures.WithLabelValues(ipFamily)
	m.endpointChanges = counter("endpoint_changes_total", "Changes of endpoint slices.")
	m.serviceChanges = counter("service_changes_total", "Changes of services.")
	pending("endpoint_changes_pending", "Changes of endpoint slices that the rules do not have yet.", func() int { return p.pendingSlices })
	pending("service_changes_pending", "Changes of services that the rules do not have yet.", func() int { return p.pendingServices })
	return m
}

// programmingBuckets are upstream's.
func programmingBuckets() []float64 {
	out := append([]float64{0.25, 0.5}, prometheus.LinearBuckets(1, 1, 59)...)
	return append(append(out, prometheus.LinearBuckets(60, 5, 12)...), prometheus.LinearBuckets(120, 30, 7)...)
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// synced tells of a pass that began then.
func (m *metrics) synced(began time.Time, full bool, err error, triggers []time.Time) {
	now := time.Now()
	took := now.Sub(began).Seconds()
	m.syncs.Observe(took)
	if full {
		m.fullSyncs.Observe(took)
	} else {
		m.partialSyncs.Observe(took)
	}
	if err != nil {
		m.failures.Inc()
		return
	}
	m.syncedAt.Set(seconds(now))
	for _, t := range triggers {
		m.programmed.Observe(now.Sub(t).Seconds())
	}
}

// triggered is when a slice's change was, if that is told and worth timing:
// what was before this proxy says nothing about it.
func triggered(old, now map[string]string, began time.Time) (time.Time, bool) {
	text := now[corev1.EndpointsLastChangeTriggerTime]
	if text == "" || text == old[corev1.EndpointsLastChangeTriggerTime] {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	return t, err == nil && t.After(began) && !t.After(time.Now())
}
