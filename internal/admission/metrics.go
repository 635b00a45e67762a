package admission

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	registrationv1 "k8s.io/api/admissionregistration/v1"

	"knarr.dev/knarr/internal/webhook"
)

// calls of webhooks, counted under upstream's names. A nil one counts nothing.
type calls struct {
	seconds                   *prometheus.HistogramVec
	total, rejected, failOpen *prometheus.CounterVec
}

// maxCode bounds the codes that webhooks make up, as upstream.
const maxCode = 600

func newCalls(r prometheus.Registerer) (*calls, error) {
	if r == nil {
		return nil, nil
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_admission_webhook_" + name, Help: help}, labels)
	}
	c := &calls{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_admission_webhook_admission_duration_seconds", Help: "Time in a webhook.",
			Buckets: []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 25}}, []string{"name", "type", "operation", "rejected"}),
		total:    counter("request_total", "Calls of webhooks.", "name", "type", "operation", "code", "rejected"),
		rejected: counter("rejection_count", "Requests that a webhook refused, or that failed with it.", "name", "type", "operation", "error_type", "rejection_code"),
		failOpen: counter("fail_open_count", "Webhooks that failed and were passed over.", "name", "type"),
	}
	for _, m := range []prometheus.Collector{c.seconds, c.total, c.rejected, c.failOpen} {
		if err := r.Register(m); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// step is a kind of webhooks in upstream's words.
func step(mutating bool) string {
	if mutating {
		return "admit"
	}
	return "validating"
}

// told counts one call by its outcome.
func (c *calls) told(h *hook, r *Request, mutating bool, out *reply, err error, took time.Duration) {
	if c == nil {
		return
	}
	kind, operation := step(mutating), string(r.Operation)
	code, rejected, why := http.StatusOK, false, "no_error"
	var failed *callError
	switch {
	case errors.As(err, &failed):
		code, why = 0, "calling_webhook_error"
		var status *webhook.StatusError
		if errors.As(failed.err, &status) {
			code = min(status.Code, maxCode)
		}
		if rejected = h.FailurePolicy == nil || *h.FailurePolicy != registrationv1.Ignore; !rejected {
			c.failOpen.WithLabelValues(h.Name, kind).Inc()
		}
	case err != nil:
		code, rejected, why = 0, true, "apiserver_internal_error"
	case !out.allowed:
		code, rejected = http.StatusBadRequest, true
		if out.result != nil && out.result.Code >= http.StatusBadRequest {
			code = min(int(out.result.Code), maxCode)
		}
	}
	c.seconds.WithLabelValues(h.Name, kind, operation, strconv.FormatBool(rejected)).Observe(took.Seconds())
	c.total.WithLabelValues(h.Name, kind, operation, strconv.Itoa(code), strconv.FormatBool(rejected)).Inc()
	if rejected {
		c.rejected.WithLabelValues(h.Name, kind, operation, why, strconv.Itoa(code)).Inc()
	}
}
