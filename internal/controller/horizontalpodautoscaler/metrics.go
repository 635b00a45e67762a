package horizontalpodautoscaler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// What was done and what went wrong, in upstream's words.
const (
	scaleUp, scaleDown, none = "scale_up", "scale_down", "none"
	spec, internal           = "spec", "internal"
)

// Computed is what became of one metric.
type Computed struct {
	Type     autoscalingv2.MetricSourceType
	Replicas int32 // that it asks for
	Failed   bool
}

// counts are upstream's beta metrics of autoscalers. Types of metrics are those
// that validation lets in.
type counts struct {
	passes, metrics *prometheus.CounterVec
	took, computed  *prometheus.HistogramVec
}

func newCounts() *counts {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "horizontal_pod_autoscaler_controller", Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Subsystem: "horizontal_pod_autoscaler_controller", Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}, labels)
	}
	return &counts{
		passes:   counter("reconciliations_total", "Autoscalers that were looked at, by what was done.", "action", "error"),
		took:     histogram("reconciliation_duration_seconds", "How long it took to look at an autoscaler.", "action", "error"),
		metrics:  counter("metric_computation_total", "Metrics that were read, by what they ask for.", "action", "error", "metric_type"),
		computed: histogram("metric_computation_duration_seconds", "How long it took to read a metric.", "action", "error", "metric_type"),
	}
}

func (c *counts) all() []prometheus.Collector {
	return []prometheus.Collector{c.passes, c.took, c.metrics, c.computed}
}

// look is one at an autoscaler, until it is known what became of it.
type look struct {
	from     int32 // replicas
	computed []Computed
	took     []time.Duration // to read each of them
}

// passed counts a look; when an autoscaler rests there is none.
func (s *scaler) passed(p reconcile.Pass) {
	s.mu.Lock()
	l := s.looks[p.Key]
	delete(s.looks, p.Key)
	s.mu.Unlock()
	h := view.Get[*autoscalingv2.HorizontalPodAutoscaler](p.View, kinds.HorizontalPodAutoscaler, p.Key.Namespace, p.Key.Name)
	if l == nil || h == nil {
		return
	}
	action, bad := none, mistake(h, p)
	for _, a := range p.Applied {
		if to, ok := a.Object.(*autoscalingv1.Scale); ok && a.Verb == plan.Update {
			action = direction(l.from, to.Spec.Replicas)
		}
	}
	s.counts.passes.WithLabelValues(action, bad).Inc()
	s.counts.took.WithLabelValues(action, bad).Observe(p.Took.Seconds())
	for i, m := range l.computed {
		action, bad := direction(l.from, m.Replicas), none
		if m.Failed {
			action, bad = none, internal
		}
		s.counts.metrics.WithLabelValues(action, bad, string(m.Type)).Inc()
		if i < len(l.took) {
			s.counts.computed.WithLabelValues(action, bad, string(m.Type)).Observe(l.took[i].Seconds())
		}
	}
}

// mistake is what ended the look before its end.
func mistake(h *autoscalingv2.HorizontalPodAutoscaler, p reconcile.Pass) string {
	if _, err := schema.ParseGroupVersion(h.Spec.ScaleTargetRef.APIVersion); err != nil {
		return spec
	}
	if p.Err != nil {
		return internal
	}
	for _, e := range p.Result.Events {
		if e.Type == corev1.EventTypeWarning && (e.Reason == "FailedGetScale" || e.Reason == "FailedComputeMetricsReplicas") {
			return internal
		}
	}
	return none
}

func direction(from, to int32) string {
	switch {
	case to > from:
		return scaleUp
	case to < from:
		return scaleDown
	}
	return none
}
