package kinds

import (
	"fmt"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/kinds/prepare"
	"knarr.dev/knarr/internal/kinds/validate"
)

// Autoscalers are stored in version 2. Version 1 knows no metric but the use of
// CPU: what it lacks is in annotations there.
var (
	HorizontalPodAutoscaler = &Kind{
		GVK: autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"), Resource: "horizontalpodautoscalers", Singular: "horizontalpodautoscaler",
		ShortNames: []string{"hpa"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "horizontalpodautoscalers",
		New: func() Object { return &autoscalingv2.HorizontalPodAutoscaler{} }, NewList: func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscalerList{} },
		Default:       do(defaults.HorizontalPodAutoscaler),
		PrepareCreate: do(prepare.HorizontalPodAutoscalerCreate), PrepareUpdate: doBoth(prepare.HorizontalPodAutoscalerUpdate),
		Validate: check(validate.HorizontalPodAutoscaler), ValidateUpdate: checkBoth(validate.HorizontalPodAutoscalerUpdate),
		Subresources: autoscalerSubresources,
		Columns:      autoscalerColumns,
	}
	HorizontalPodAutoscalerV1 = &Kind{
		GVK: autoscalingv1.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"), Resource: "horizontalpodautoscalers", Singular: "horizontalpodautoscaler",
		ShortNames: []string{"hpa"}, Categories: []string{"all"},
		Namespaced: true,
		New:        func() Object { return &autoscalingv1.HorizontalPodAutoscaler{} }, NewList: func() runtime.Object { return &autoscalingv1.HorizontalPodAutoscalerList{} },
		Default:      do(defaults.HorizontalPodAutoscalerV1), // the rest is for the stored form
		Subresources: autoscalerSubresources,
		Columns:      storedColumns(autoscalerColumns, autoscalerToStored),
		StoredAs:     HorizontalPodAutoscaler, FromStored: autoscalerFromStored, ToStored: autoscalerToStored,
	}
	autoscalerSubresources = map[string]Subresource{"status": status(prepare.HorizontalPodAutoscalerStatusUpdate, validate.HorizontalPodAutoscalerStatusUpdate)}
	autoscalerColumns      = []Column{
		nameColumn,
		cell("Reference", "string", "What is scaled.", func(h *autoscalingv2.HorizontalPodAutoscaler) any {
			return h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name
		}),
		cell("Targets", "string", "Metrics as they are, and as they should be.", func(h *autoscalingv2.HorizontalPodAutoscaler) any { return metricCells(h) }),
		cell("MinPods", "string", "Fewest pods.", func(h *autoscalingv2.HorizontalPodAutoscaler) any {
			if h.Spec.MinReplicas == nil {
				return unset
			}
			return fmt.Sprint(*h.Spec.MinReplicas)
		}),
		cell("MaxPods", "string", "Most pods.", func(h *autoscalingv2.HorizontalPodAutoscaler) any { return int64(h.Spec.MaxReplicas) }),
		cell("Replicas", "string", "Pods as last counted.", func(h *autoscalingv2.HorizontalPodAutoscaler) any { return int64(h.Status.CurrentReplicas) }),
		ageColumn,
	}
)

var autoscalingKinds = []*Kind{HorizontalPodAutoscaler, HorizontalPodAutoscalerV1}

// storedColumns are those of the stored form, of objects in another.
func storedColumns(list []Column, toStored func(Object) Object) []Column {
	out := make([]Column, len(list))
	for i, c := range list {
		value := c.Value
		c.Value = func(o Object, now metav1.Time) any { return value(toStored(o), now) }
		out[i] = c
	}
	return out
}

func metricCells(h *autoscalingv2.HorizontalPodAutoscaler) string {
	const most = 2
	specs := h.Spec.Metrics
	if len(specs) == 0 {
		return none
	}
	var list []string
	for i := range specs[:min(len(specs), most)] {
		now := autoscalingv2.MetricStatus{}
		if i < len(h.Status.CurrentMetrics) {
			now = h.Status.CurrentMetrics[i]
		}
		list = append(list, metricCell(&specs[i], &now))
	}
	text := strings.Join(list, ", ")
	if more := len(specs) - most; more > 0 {
		text = fmt.Sprintf("%s + %d more...", text, more)
	}
	return text
}

// metricCell is "current/target" of one metric.
func metricCell(m *autoscalingv2.MetricSpec, now *autoscalingv2.MetricStatus) string {
	var target autoscalingv2.MetricTarget
	var current autoscalingv2.MetricValueStatus
	name, plain := "", false // plain: only an average of its own is marked as one
	switch {
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		target, plain = m.External.Target, true
		if now.External != nil {
			current = now.External.Current
		}
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		target, plain = m.Object.Target, true
		if now.Object != nil {
			current = now.Object.Current
		}
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		target = m.Pods.Target
		if now.Pods != nil {
			current = now.Pods.Current
		}
		return amount(current.AverageValue) + "/" + amount(target.AverageValue)
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		name, target = string(m.Resource.Name), m.Resource.Target
		if now.Resource != nil {
			current = now.Resource.Current
		}
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		name, target = string(m.ContainerResource.Name), m.ContainerResource.Target
		if now.ContainerResource != nil {
			current = now.ContainerResource.Current
		}
	default:
		return "<unknown type>"
	}
	switch {
	case plain && target.AverageValue != nil:
		return amount(current.AverageValue) + "/" + amount(target.AverageValue) + " (avg)"
	case plain:
		return amount(current.Value) + "/" + amount(target.Value)
	case target.AverageValue != nil:
		return name + ": " + amount(current.AverageValue) + "/" + amount(target.AverageValue)
	}
	return name + ": " + percentage(current.AverageUtilization, unknown) + "/" + percentage(target.AverageUtilization, "<auto>")
}

func amount(q *resource.Quantity) string {
	if q == nil {
		return unknown
	}
	return q.String()
}

func percentage(n *int32, absent string) string {
	if n == nil {
		return absent
	}
	return fmt.Sprintf("%d%%", *n)
}
