package apiserver

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store/cache"
)

// metrics have upstream's names. Labels take values from the table of kinds
// and fixed sets only, never from a client (CVE-2020-8552).
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	table    *kinds.Table
}

func newMetrics(s *Server) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), table: s.cfg.Kinds}
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_total", Help: "Requests by verb, group, version, resource, subresource and status code."},
		[]string{"verb", "group", "version", "resource", "subresource", "code"})
	m.duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_request_duration_seconds", Help: "Time to answer, without watches and streams.",
		Buckets: []float64{0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}}, []string{"verb", "group", "version", "resource", "subresource"})
	m.registry.MustRegister(m.requests, m.duration, objectCounts{s.cfg.Cache, s.cfg.Kinds}, s.fair,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "apiserver_longrunning_requests",
		Help: "Watches and streams that are open."}, func() float64 { return float64(len(s.streams)) }))
	return m
}

var verbLabels = map[string]string{"get": "GET", "list": "LIST", "watch": "WATCH", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE", "deletecollection": "DELETECOLLECTION"}

func (m *metrics) observe(in *info, code int, took time.Duration) {
	verb := verbLabels[in.verb]
	if verb == "" {
		verb = "other"
	}
	var group, version, resource, sub string
	if k := m.table.ByResource(in.gvr); k != nil {
		if _, ok := k.Subresources[in.sub]; ok || in.sub == "" {
			group, version, resource, sub = in.gvr.Group, in.gvr.Version, in.gvr.Resource, in.sub
		}
	}
	if code < 100 || code > 599 {
		code = 0 // a backend's invention, or a client that has gone before the answer
	}
	if in.longRunning() && verb != "WATCH" {
		verb = "CONNECT"
	}
	m.requests.WithLabelValues(verb, group, version, resource, sub, strconv.Itoa(code)).Inc()
	if !in.longRunning() {
		m.duration.WithLabelValues(verb, group, version, resource, sub).Observe(took.Seconds())
	}
}

// objectCounts is counted when asked for.
type objectCounts struct {
	cache *cache.Cache
	table *kinds.Table
}

var objectsDesc = prometheus.NewDesc("apiserver_storage_objects", "Stored objects by resource.", []string{"resource"}, nil)

func (o objectCounts) Describe(ch chan<- *prometheus.Desc) { ch <- objectsDesc }

func (o objectCounts) Collect(ch chan<- prometheus.Metric) {
	for _, k := range o.table.All() {
		if k.Stored() {
			ch <- prometheus.MustNewConstMetric(objectsDesc, prometheus.GaugeValue, float64(o.cache.List(k, "").Len()), k.String())
		}
	}
}
