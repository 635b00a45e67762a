package validate

import (
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/internal/kinds/defaults"
)

func goodAutoscaler() *autoscalingv2.HorizontalPodAutoscaler {
	h := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: named("web", "default")}
	h.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}
	h.Spec.MaxReplicas = 5
	return h
}

func TestHorizontalPodAutoscaler(t *testing.T) {
	type hpa = autoscalingv2.HorizontalPodAutoscaler
	one := resource.MustParse("1")
	metric := func(m autoscalingv2.MetricSpec) func(*hpa) {
		return func(h *hpa) { h.Spec.Metrics = []autoscalingv2.MetricSpec{m} }
	}
	value := autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: &one}
	queue := autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "queue"}, Target: value}}
	rules := func(r autoscalingv2.HPAScalingRules) func(*hpa) {
		return func(h *hpa) { h.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &r} }
	}
	const m = "spec.metrics[0]"
	creates(t, goodAutoscaler, defaults.HorizontalPodAutoscaler, HorizontalPodAutoscaler, []change[*hpa]{
		{"good", nil, nil},
		{"no limit", func(h *hpa) { h.Spec.MaxReplicas = 0 }, []string{"spec.maxReplicas Required: must be set and greater than 0", "spec.maxReplicas Invalid: must be greater than or equal to `minReplicas`"}},
		{"limits", func(h *hpa) { h.Spec.MinReplicas, h.Spec.MaxReplicas = ptr[int32](-1), -2 }, []string{"spec.minReplicas Invalid: must be greater than or equal to 0", "spec.maxReplicas Invalid: must be greater than or equal to 1", "spec.maxReplicas Invalid: must be greater than or equal to `minReplicas`"}},
		{"to zero", func(h *hpa) { h.Spec.MinReplicas = ptr[int32](0) }, []string{"spec.metrics Forbidden: must specify at least one Object or External metric to support scaling to zero replicas"}},
		{"to zero by a queue", func(h *hpa) { h.Spec.MinReplicas = ptr[int32](0); metric(queue)(h) }, nil},
		{"of what", func(h *hpa) { h.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{Kind: "a/b"} }, []string{
			"spec.scaleTargetRef.kind Invalid", "spec.scaleTargetRef.name Required", "spec.scaleTargetRef.apiVersion Invalid: apiVersion must specify API group"}},
		{"of the core group", func(h *hpa) {
			h.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "ReplicationController", Name: "a"}
		}, nil},
		{"of no version", func(h *hpa) { h.Spec.ScaleTargetRef.APIVersion = "a/b/c" }, []string{"spec.scaleTargetRef.apiVersion Invalid: unexpected GroupVersion string: a/b/c"}},
		{"no type", metric(autoscalingv2.MetricSpec{}), []string{m + ".type Required: must specify a metric source type", m + ".type NotSupported", m + ".type NotSupported"}},
		{"no source", metric(autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType}), []string{m + ".pods Required: must populate information for the given metric source"}},
		{"two sources", metric(autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: queue.External, Pods: &autoscalingv2.PodsMetricSource{}}), []string{m + ".pods Forbidden: must populate the given metric source only"}},
		{"pods", metric(autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Target: value}}), []string{
			m + ".pods.metric.name Required: must specify a metric name", m + ".pods.target.averageValue Required: must specify a positive target averageValue"}},
		{"object", metric(autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{
			DescribedObject: autoscalingv2.CrossVersionObjectReference{Kind: "Service", Name: "s", APIVersion: "v1"}, Metric: autoscalingv2.MetricIdentifier{Name: "a%b"}, Target: autoscalingv2.MetricTarget{Type: "Any"}}}), []string{
			m + ".object.metric.name Invalid", m + ".object.target.type Invalid: must be either Utilization, Value, or AverageValue", m + ".object.target.averageValue Required: must set either a target value or averageValue"}},
		{"external", metric(autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "q"},
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: &one, AverageValue: &resource.Quantity{}}}}), []string{
			m + ".external.target.averageValue Invalid: must be positive", m + ".external.target.value Forbidden: may not set both a target value for metric and a per-pod target"}},
		{"resource", metric(autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr[int32](0), AverageValue: &one}}}), []string{
			m + ".resource.name Required: must specify a resource name", m + ".resource.target.averageUtilization Invalid: must be greater than 0",
			m + ".resource.target.averageValue Forbidden: may not set both a target raw value and a target utilization"}},
		{"container", metric(autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{
			Name: corev1.ResourceCPU, Container: "A b", Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType}}}), []string{
			m + ".containerResource.container Invalid", m + ".containerResource.target.averageUtilization Required: must set either a target raw value or a target utilization"}},
		{"rules", rules(autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr[int32](3601), SelectPolicy: ptr(autoscalingv2.ScalingPolicySelect("Any")), Tolerance: ptr(resource.MustParse("-1")),
			Policies: []autoscalingv2.HPAScalingPolicy{{Type: "Nodes", PeriodSeconds: 1801}}}), []string{
			"spec.behavior.scaleDown.stabilizationWindowSeconds Invalid: must be less than or equal to 3600", "spec.behavior.scaleDown.selectPolicy NotSupported", "spec.behavior.scaleDown.tolerance Invalid",
			"spec.behavior.scaleDown.policies[0].type NotSupported", "spec.behavior.scaleDown.policies[0].value Invalid: must be greater than zero", "spec.behavior.scaleDown.policies[0].periodSeconds Invalid: must be less than or equal to 1800"}},
		{"no rules", rules(autoscalingv2.HPAScalingRules{Policies: []autoscalingv2.HPAScalingPolicy{}, StabilizationWindowSeconds: ptr[int32](-1)}), []string{
			"spec.behavior.scaleDown.policies Required: must specify at least one Policy", "spec.behavior.scaleDown.stabilizationWindowSeconds Invalid: must be greater than or equal to zero"}},
	})
	old := func() *hpa { h := goodAutoscaler(); h.Spec.ScaleTargetRef.APIVersion = ""; return h }
	updates(t, old, defaults.HorizontalPodAutoscaler, HorizontalPodAutoscalerUpdate, []change[*hpa]{
		{"of an older server", func(h *hpa) { h.Spec.MaxReplicas = 7 }, nil},
		{"of another kind", func(h *hpa) { h.Spec.ScaleTargetRef.Kind = "StatefulSet" }, []string{"spec.scaleTargetRef.apiVersion Invalid"}},
	})
	updates(t, goodAutoscaler, nothing[*hpa], HorizontalPodAutoscalerStatusUpdate, []change[*hpa]{
		{"counts", func(h *hpa) {
			h.Status.CurrentReplicas, h.Status.DesiredReplicas, h.Status.Conditions = -1, -1, []autoscalingv2.HorizontalPodAutoscalerCondition{{ObservedGeneration: ptr[int64](-1)}}
		}, []string{"status.currentReplicas Invalid", "status.desiredReplicas Invalid", "status.conditions[0].observedGeneration Invalid"}},
	})
}

func TestPodDisruptionBudget(t *testing.T) {
	type pdb = policyv1.PodDisruptionBudget
	good := func() *pdb {
		return &pdb{ObjectMeta: named("web", "default"), Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr(intstr.FromInt32(1)), Selector: goodSelector()}}
	}
	creates(t, good, nothing[*pdb], PodDisruptionBudget, []change[*pdb]{
		{"good", nil, nil},
		{"selects nothing", func(b *pdb) { b.Spec.Selector = nil }, nil},
		{"both", func(b *pdb) { b.Spec.MaxUnavailable = ptr(intstr.FromString("50%")) }, []string{"spec Invalid: minAvailable and maxUnavailable cannot be both set"}},
		{"amounts", func(b *pdb) { b.Spec.MinAvailable = ptr(intstr.FromString("101%")) }, []string{"spec.minAvailable Invalid: must not be greater than 100%"}},
		{"negative", func(b *pdb) { b.Spec.MinAvailable = ptr(intstr.FromInt32(-1)) }, []string{"spec.minAvailable Invalid: must be greater than or equal to 0"}},
		{"no amount", func(b *pdb) { b.Spec.MinAvailable = ptr(intstr.FromString("some")) }, []string{"spec.minAvailable Invalid: a valid percent string"}},
		{"policy", func(b *pdb) { b.Spec.UnhealthyPodEvictionPolicy = ptr(policyv1.UnhealthyPodEvictionPolicyType("Ask")) }, []string{"spec.unhealthyPodEvictionPolicy NotSupported"}},
		{"selector", func(b *pdb) { b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a b": "c"}} }, []string{"spec.selector.matchLabels Invalid"}},
	})
	updates(t, good, nothing[*pdb], PodDisruptionBudgetStatusUpdate, []change[*pdb]{
		{"counts", func(b *pdb) {
			b.Status = policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: -1, CurrentHealthy: -1, DesiredHealthy: -1, ExpectedPods: -1}
		}, []string{
			"status.disruptionsAllowed Invalid", "status.currentHealthy Invalid", "status.desiredHealthy Invalid", "status.expectedPods Invalid"}},
		{"conditions", func(b *pdb) {
			b.Status.Conditions = []metav1.Condition{{Type: "A", Status: metav1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		}, []string{"status.conditions[0].reason Required"}},
	})
}

func TestRuntimeClass(t *testing.T) {
	type class = nodev1.RuntimeClass
	good := func() *class { return &class{ObjectMeta: named("sandboxed", ""), Handler: "runsc"} }
	creates(t, good, nothing[*class], RuntimeClass, []change[*class]{
		{"good", nil, nil},
		{"no handler", func(c *class) { c.Handler = "" }, []string{"handler Required"}},
		{"handler", func(c *class) { c.Handler = "a.b" }, []string{"handler Invalid"}},
		{"overhead", func(c *class) { c.Overhead = &nodev1.Overhead{PodFixed: quantities("cpu", "-1")} }, []string{"overhead.limits[cpu] Invalid"}},
		{"scheduling", func(c *class) {
			same := corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists}
			c.Scheduling = &nodev1.Scheduling{NodeSelector: map[string]string{"a b": "c"}, Tolerations: []corev1.Toleration{same, same}}
		}, []string{"scheduling.nodeSelector Invalid", "scheduling.tolerations[1] Duplicate"}},
	})
	updates(t, good, nothing[*class], RuntimeClassUpdate, []change[*class]{
		{"handler", func(c *class) { c.Handler = "kata" }, []string{"handler Invalid: field is immutable"}},
	})
}
