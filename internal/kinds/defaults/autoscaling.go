package defaults

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

const (
	cpuUtilization = 80 // percent of what is requested
	scalingPeriod  = 15 // seconds, of the default policies
)

// HorizontalPodAutoscaler scales by the use of CPU. Its behaviour is filled in
// only where there is one: what is absent is left to the controller.
func HorizontalPodAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	set(&h.Spec.MinReplicas, 1)
	if len(h.Spec.Metrics) == 0 {
		target := autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType}
		set(&target.AverageUtilization, cpuUtilization)
		h.Spec.Metrics = []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU, Target: target}}}
	}
	b := h.Spec.Behavior
	if b == nil {
		return
	}
	set(&b.ScaleUp, autoscalingv2.HPAScalingRules{})
	set(&b.ScaleUp.StabilizationWindowSeconds, 0)
	scalingRules(b.ScaleUp,
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: scalingPeriod},
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: scalingPeriod})
	set(&b.ScaleDown, autoscalingv2.HPAScalingRules{})
	scalingRules(b.ScaleDown, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: scalingPeriod})
}

// scalingRules: an empty list of policies is one that was given, and wrong.
func scalingRules(r *autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) {
	set(&r.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if r.Policies == nil {
		r.Policies = policies
	}
}

// HorizontalPodAutoscalerV1 has its metrics defaulted when it is converted.
func HorizontalPodAutoscalerV1(h *autoscalingv1.HorizontalPodAutoscaler) { set(&h.Spec.MinReplicas, 1) }
