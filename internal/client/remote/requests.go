package remote

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Requests counts what a client asks of the API server, under upstream's names.
type Requests struct {
	total   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

// NewRequests makes counters of nothing yet.
func NewRequests() *Requests {
	return &Requests{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rest_client_requests_total", Help: "Requests to the API server, by the answer's code."}, []string{"code", "method", "host"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "rest_client_request_duration_seconds", Help: "Time until the answer began.",
			Buckets: []float64{0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60}}, []string{"verb", "host"}),
	}
}

// Describe implements prometheus.Collector.
func (q *Requests) Describe(ch chan<- *prometheus.Desc) {
	q.total.Describe(ch)
	q.seconds.Describe(ch)
}

// Collect implements prometheus.Collector.
func (q *Requests) Collect(ch chan<- prometheus.Metric) {
	q.total.Collect(ch)
	q.seconds.Collect(ch)
}

// through counts what goes through next.
func (q *Requests) through(next http.RoundTripper) http.RoundTripper {
	return &countedTransport{q, next}
}

type countedTransport struct {
	requests *Requests
	next     http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *countedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := t.next.RoundTrip(r)
	code := "<error>" // upstream's word
	if err == nil {
		code = strconv.Itoa(resp.StatusCode)
	}
	t.requests.total.WithLabelValues(code, r.Method, r.URL.Host).Inc()
	t.requests.seconds.WithLabelValues(r.Method, r.URL.Host).Observe(time.Since(began).Seconds())
	return resp, err
}

// CloseIdleConnections is looked for by http.Client.
func (t *countedTransport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
