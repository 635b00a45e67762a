package kinds

import (
	"encoding/json"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/kinds/prepare"
)

// The behaviour in the annotation has the names of upstream's internal type,
// which has none of JSON.
type (
	carriedBehavior struct {
		ScaleUp, ScaleDown *carriedRules
	}
	carriedRules struct {
		StabilizationWindowSeconds *int32
		SelectPolicy               *autoscalingv2.ScalingPolicySelect
		Policies                   []carriedPolicy
		Tolerance                  *resource.Quantity
	}
	carriedPolicy struct {
		Type          autoscalingv2.HPAScalingPolicyType
		Value         int32
		PeriodSeconds int32
	}
)

func carryRules(r *autoscalingv2.HPAScalingRules) *carriedRules {
	if r == nil {
		return nil
	}
	out := &carriedRules{StabilizationWindowSeconds: r.StabilizationWindowSeconds, SelectPolicy: r.SelectPolicy, Tolerance: r.Tolerance}
	if r.Policies != nil { // none is not the same as absent
		out.Policies = make([]carriedPolicy, len(r.Policies))
	}
	for i, p := range r.Policies {
		out.Policies[i] = carriedPolicy(p)
	}
	return out
}

func (r *carriedRules) rules() *autoscalingv2.HPAScalingRules {
	if r == nil {
		return nil
	}
	out := &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: r.StabilizationWindowSeconds, SelectPolicy: r.SelectPolicy, Tolerance: r.Tolerance}
	if r.Policies != nil {
		out.Policies = make([]autoscalingv2.HPAScalingPolicy, len(r.Policies))
	}
	for i, p := range r.Policies {
		out.Policies[i] = autoscalingv2.HPAScalingPolicy(p)
	}
	return out
}

// ofCPU is the one metric that version 1 has a field for.
func ofCPU(m *autoscalingv2.MetricSpec) bool {
	return m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU && m.Resource.Target.AverageUtilization != nil
}

func autoscalerFromStored(o Object) Object {
	in := o.(*autoscalingv2.HorizontalPodAutoscaler).DeepCopy()
	out := &autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: in.ObjectMeta,
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
			MinReplicas:    in.Spec.MinReplicas, MaxReplicas: in.Spec.MaxReplicas,
		},
		Status: autoscalingv1.HorizontalPodAutoscalerStatus{
			ObservedGeneration: in.Status.ObservedGeneration, LastScaleTime: in.Status.LastScaleTime,
			CurrentReplicas: in.Status.CurrentReplicas, DesiredReplicas: in.Status.DesiredReplicas,
		},
	}
	out.SetGroupVersionKind(autoscalingv1.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"))
	out.Annotations = prepare.WithoutCarried(out.Annotations)
	var others []autoscalingv1.MetricSpec
	for i := range in.Spec.Metrics {
		m := &in.Spec.Metrics[i]
		if !ofCPU(m) {
			others = append(others, metricToV1(m))
		} else if out.Spec.TargetCPUUtilizationPercentage == nil {
			out.Spec.TargetCPUUtilizationPercentage = m.Resource.Target.AverageUtilization
		}
	}
	carry(out, prepare.MetricsAnnotation, others)
	if b := in.Spec.Behavior; b != nil {
		carry(out, prepare.BehaviorAnnotation, []carriedBehavior{{carryRules(b.ScaleUp), carryRules(b.ScaleDown)}})
	}
	var statuses []autoscalingv1.MetricStatus
	for i := range in.Status.CurrentMetrics {
		m := &in.Status.CurrentMetrics[i]
		if m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU && m.Resource.Current.AverageUtilization != nil {
			out.Status.CurrentCPUUtilizationPercentage = m.Resource.Current.AverageUtilization
		}
		statuses = append(statuses, metricStatusToV1(m))
	}
	carry(out, prepare.StatusesAnnotation, statuses)
	carry(out, prepare.ConditionsAnnotation, in.Status.Conditions) // the same type, but for its name
	return out
}

// carry writes a list into an annotation, or the one behaviour that there is.
func carry[T any](out *autoscalingv1.HorizontalPodAutoscaler, key string, list []T) {
	if len(list) == 0 {
		return
	}
	var value any = list
	if b, ok := value.([]carriedBehavior); ok {
		value = b[0]
	}
	data, err := json.Marshal(value)
	if err != nil {
		panic("kinds: " + err.Error()) // API types always marshal
	}
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	out.Annotations[key] = string(data)
}

// carried reads an annotation; what is no such list counts as absent.
func carried[T any](in *autoscalingv1.HorizontalPodAutoscaler, key string) (value T, ok bool) {
	text, there := in.Annotations[key]
	if !there {
		return value, false
	}
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		var none T
		return none, false
	}
	return value, true
}

func autoscalerToStored(o Object) Object {
	in := o.(*autoscalingv1.HorizontalPodAutoscaler).DeepCopy()
	out := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: in.ObjectMeta,
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
			MinReplicas:    in.Spec.MinReplicas, MaxReplicas: in.Spec.MaxReplicas,
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			ObservedGeneration: in.Status.ObservedGeneration, LastScaleTime: in.Status.LastScaleTime,
			CurrentReplicas: in.Status.CurrentReplicas, DesiredReplicas: in.Status.DesiredReplicas,
		},
	}
	out.SetGroupVersionKind(autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"))
	out.Annotations = prepare.WithoutCarried(in.Annotations)
	if list, ok := carried[[]autoscalingv1.MetricSpec](in, prepare.MetricsAnnotation); ok {
		for i := range list {
			out.Spec.Metrics = append(out.Spec.Metrics, metricFromV1(&list[i]))
		}
	}
	if n := in.Spec.TargetCPUUtilizationPercentage; n != nil {
		out.Spec.Metrics = append(out.Spec.Metrics, autoscalingv2.MetricSpec{
			Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: n}}})
	}
	if b, ok := carried[carriedBehavior](in, prepare.BehaviorAnnotation); ok && b != (carriedBehavior{}) {
		out.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: b.ScaleUp.rules(), ScaleDown: b.ScaleDown.rules()}
	}
	if list, ok := carried[[]autoscalingv1.MetricStatus](in, prepare.StatusesAnnotation); ok { // they say more than the field
		for i := range list {
			out.Status.CurrentMetrics = append(out.Status.CurrentMetrics, metricStatusFromV1(&list[i]))
		}
	} else if n := in.Status.CurrentCPUUtilizationPercentage; n != nil {
		out.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricStatus{Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: n}}}}
	}
	if list, ok := carried[[]autoscalingv2.HorizontalPodAutoscalerCondition](in, prepare.ConditionsAnnotation); ok {
		out.Status.Conditions = list
	}
	defaults.HorizontalPodAutoscaler(out) // what is absent here has a meaning there
	return out
}
