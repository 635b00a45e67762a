package prepare

import (
	"maps"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
)

// The annotations of version 1 that carry what it has no field for. They are
// never stored: who writes version 2 cannot set them.
const (
	MetricsAnnotation    = "autoscaling.alpha.kubernetes.io/metrics"
	BehaviorAnnotation   = "autoscaling.alpha.kubernetes.io/behavior"
	StatusesAnnotation   = "autoscaling.alpha.kubernetes.io/current-metrics"
	ConditionsAnnotation = "autoscaling.alpha.kubernetes.io/conditions"
	// Only upstream's older versions wrote these.
	toleranceUp   = "autoscaling.alpha.kubernetes.io/scale-up-tolerance"
	toleranceDown = "autoscaling.alpha.kubernetes.io/scale-down-tolerance"
)

// WithoutCarried are the annotations without those; the map is not changed.
func WithoutCarried(annotations map[string]string) map[string]string {
	var out map[string]string
	for _, key := range []string{MetricsAnnotation, BehaviorAnnotation, StatusesAnnotation, ConditionsAnnotation, toleranceUp, toleranceDown} {
		if _, ok := annotations[key]; ok {
			if out == nil {
				out = maps.Clone(annotations)
			}
			delete(out, key)
		}
	}
	if out == nil {
		return annotations
	}
	return out
}

// HorizontalPodAutoscalerCreate clears the status.
func HorizontalPodAutoscalerCreate(h *autoscalingv2.HorizontalPodAutoscaler) {
	fresh(h, true)
	h.Annotations = WithoutCarried(h.Annotations)
	h.Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
}

// HorizontalPodAutoscalerUpdate keeps the status and counts changes.
func HorizontalPodAutoscalerUpdate(h, old *autoscalingv2.HorizontalPodAutoscaler) {
	Keep(h, old)
	h.Annotations = WithoutCarried(h.Annotations)
	h.Status = old.Status
	bump(h, old, differ(h.Spec, old.Spec))
}

// HorizontalPodAutoscalerStatusUpdate keeps the spec.
func HorizontalPodAutoscalerStatusUpdate(h, old *autoscalingv2.HorizontalPodAutoscaler) {
	Keep(h, old)
	h.Annotations = WithoutCarried(h.Annotations)
	h.Spec = old.Spec
}
