package kinds

import (
	"reflect"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestWorkloadLines(t *testing.T) {
	began, ended := ago(5*time.Minute), ago(2*time.Minute)
	meta := metav1.ObjectMeta{Name: "a", CreationTimestamp: ago(time.Hour)}
	job := func(change func(*batchv1.Job)) *batchv1.Job {
		j := &batchv1.Job{ObjectMeta: meta}
		j.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
		change(j)
		return j
	}
	is := func(t batchv1.JobConditionType) []batchv1.JobCondition {
		return []batchv1.JobCondition{{Type: t, Status: corev1.ConditionTrue}}
	}
	hpa := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: meta, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "web"}, MaxReplicas: 5}, Status: autoscalingv2.HorizontalPodAutoscalerStatus{CurrentReplicas: 2}}
	HorizontalPodAutoscaler.Default(hpa)
	more := hpa.DeepCopy()
	one := resource.MustParse("1")
	more.Spec.Metrics = []autoscalingv2.MetricSpec{
		{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Target: autoscalingv2.MetricTarget{AverageValue: &one}}},
		{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Target: autoscalingv2.MetricTarget{AverageValue: &one}}}, {}}
	more.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{Pods: &autoscalingv2.PodsMetricStatus{Current: autoscalingv2.MetricValueStatus{AverageValue: &one}}}}
	for _, c := range []struct {
		kind *Kind
		o    Object
		want string
	}{
		{Job, job(func(j *batchv1.Job) {
			j.Spec.Completions, j.Status.Succeeded, j.Status.StartTime = ptr[int32](3), 1, &began
		}), "a Running 1/3 5m 60m | c i <none>"},
		{Job, job(func(j *batchv1.Job) {
			j.Spec.Parallelism, j.Status.StartTime, j.Status.CompletionTime, j.Status.Conditions = ptr[int32](2), &began, &ended, is(batchv1.JobComplete)
		}), "a Complete 0/1 of 2 3m 60m | c i <none>"},
		{Job, job(func(j *batchv1.Job) { j.Status.Conditions = is(batchv1.JobSuspended) }), "a Suspended 0/1  60m | c i <none>"},
		{Job, job(func(j *batchv1.Job) { j.DeletionTimestamp = &ended }), "a Terminating 0/1  60m | c i <none>"},
		{CronJob, &batchv1.CronJob{ObjectMeta: meta, Spec: batchv1.CronJobSpec{Schedule: "@daily", Suspend: ptr(false)}}, "a @daily <none> False 0 <none> 60m |   <none>"},
		{CronJob, &batchv1.CronJob{ObjectMeta: meta, Spec: batchv1.CronJobSpec{Schedule: "@daily", TimeZone: ptr("UTC")}, Status: batchv1.CronJobStatus{LastScheduleTime: &ended, Active: make([]corev1.ObjectReference, 2)}}, "a @daily UTC <unset> 2 2m 60m |   <none>"},
		{HorizontalPodAutoscaler, hpa, "a Deployment/web cpu: <unknown>/80% 1 5 2 60m"},
		{HorizontalPodAutoscalerV1, HorizontalPodAutoscalerV1.FromStored(hpa), "a Deployment/web cpu: <unknown>/80% 1 5 2 60m"},
		{HorizontalPodAutoscaler, more, "a Deployment/web 1/1, <unknown>/1 (avg) + 1 more... 1 5 2 60m"},
		{PodDisruptionBudget, &policyv1.PodDisruptionBudget{ObjectMeta: meta, Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr(intstr.FromString("10%"))}}, "a N/A 10% 0 60m"},
	} {
		if got := line(c.kind, c.o); got != c.want {
			t.Errorf("%s: got %q, want %q", c.kind, got, c.want)
		}
	}
}

func TestJobIsOfItsOwnPods(t *testing.T) {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "sum", UID: "u"}}
	Job.Default(j)
	Job.PrepareCreate(j)
	want := map[string]string{"controller-uid": "u", "job-name": "sum", batchv1.ControllerUidLabel: "u", batchv1.JobNameLabel: "sum"}
	if !reflect.DeepEqual(j.Spec.Template.Labels, want) || !reflect.DeepEqual(j.Labels, want) {
		t.Errorf("labels %v, of the job %v", j.Spec.Template.Labels, j.Labels)
	}
	if s := metav1.FormatLabelSelector(j.Spec.Selector); s != batchv1.ControllerUidLabel+"=u" {
		t.Errorf("selector %s", s)
	}
	manual := &batchv1.Job{Spec: batchv1.JobSpec{ManualSelector: ptr(true)}}
	Job.Default(manual)
	Job.PrepareCreate(manual)
	if manual.Spec.Selector != nil || manual.Spec.Template.Labels != nil {
		t.Errorf("manual: %+v", manual.Spec)
	}
	limited := &batchv1.Job{Spec: batchv1.JobSpec{BackoffLimitPerIndex: ptr[int32](1), PodFailurePolicy: &batchv1.PodFailurePolicy{}}}
	Job.Default(limited)
	if *limited.Spec.BackoffLimit != 1<<31-1 || *limited.Spec.PodReplacementPolicy != batchv1.Failed {
		t.Errorf("defaults: %+v", limited.Spec)
	}
}

// TestAutoscalerVersions: what is stored comes back from version 1 unchanged.
func TestAutoscalerVersions(t *testing.T) {
	for seed := range int64(200) {
		in := &autoscalingv2.HorizontalPodAutoscaler{}
		filler(seed).Fill(in)
		lossless(in)
		HorizontalPodAutoscaler.Default(in)
		before := in.DeepCopy()
		out := HorizontalPodAutoscalerV1.FromStored(in)
		back := HorizontalPodAutoscalerV1.ToStored(out)
		if !equality.Semantic.DeepEqual(before, in) {
			t.Fatal("the stored object was changed")
		}
		if !equality.Semantic.DeepEqual(in, back) {
			t.Fatalf("there and back, seed %d:\n%+v\n%+v\n%+v", seed, in, out, back)
		}
	}
}

// lossless gives an object the one form that version 1 has for it: a metric
// without what its type does not need, the one of CPU at the end.
func lossless(h *autoscalingv2.HorizontalPodAutoscaler) {
	h.TypeMeta = metav1.TypeMeta{APIVersion: "autoscaling/v2", Kind: "HorizontalPodAutoscaler"}
	n := resource.MustParse("7")
	var metrics []autoscalingv2.MetricSpec
	for i, m := range h.Spec.Metrics {
		average := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &n}
		switch i % 3 {
		case 0:
			metrics = append(metrics, autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Target: average}})
		case 1:
			if m.External != nil {
				metrics = append(metrics, autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: m.External.Metric, Target: average}})
			}
		default:
			metrics = append(metrics, autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{Target: average}},
				autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU,
					Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr[int32](50)}}})
		}
	}
	h.Spec.Metrics = metrics
	var statuses []autoscalingv2.MetricStatus
	for range h.Status.CurrentMetrics {
		statuses = append(statuses, autoscalingv2.MetricStatus{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{
			Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageValue: &n, AverageUtilization: ptr[int32](3)}}})
	}
	h.Status.CurrentMetrics = statuses
	if b := h.Spec.Behavior; b != nil && b.ScaleUp == nil && b.ScaleDown == nil {
		h.Spec.Behavior = nil
	}
}

func TestAutoscalerV1(t *testing.T) {
	v1 := &autoscalingv1.HorizontalPodAutoscaler{Spec: autoscalingv1.HorizontalPodAutoscalerSpec{MaxReplicas: 3, TargetCPUUtilizationPercentage: ptr[int32](55)}}
	v1.Annotations = map[string]string{
		"own": "kept",
		"autoscaling.alpha.kubernetes.io/metrics":         `[{"type":"Object","object":{"target":{"kind":"Service","name":"s","apiVersion":"v1"},"metricName":"hits","targetValue":"0","averageValue":"10"}}]`,
		"autoscaling.alpha.kubernetes.io/behavior":        `{"ScaleUp":null,"ScaleDown":{"StabilizationWindowSeconds":60,"SelectPolicy":"Min","Policies":[{"Type":"Pods","Value":1,"PeriodSeconds":30}],"Tolerance":"100m"}}`,
		"autoscaling.alpha.kubernetes.io/conditions":      `[{"type":"AbleToScale","status":"True","lastTransitionTime":null}]`,
		"autoscaling.alpha.kubernetes.io/current-metrics": `no list`,
	}
	h := HorizontalPodAutoscalerV1.ToStored(v1).(*autoscalingv2.HorizontalPodAutoscaler)
	if !reflect.DeepEqual(h.Annotations, map[string]string{"own": "kept"}) {
		t.Errorf("annotations %v", h.Annotations)
	}
	if len(h.Spec.Metrics) != 2 || h.Spec.Metrics[0].Object.Target.Value != nil || *h.Spec.Metrics[1].Resource.Target.AverageUtilization != 55 {
		t.Errorf("metrics %+v", h.Spec.Metrics)
	}
	down := h.Spec.Behavior.ScaleDown
	if *down.StabilizationWindowSeconds != 60 || down.Policies[0].PeriodSeconds != 30 || down.Tolerance.String() != "100m" || len(h.Spec.Behavior.ScaleUp.Policies) != 2 {
		t.Errorf("behaviour %+v", h.Spec.Behavior)
	}
	if len(h.Status.Conditions) != 1 || len(h.Status.CurrentMetrics) != 0 {
		t.Errorf("status %+v", h.Status)
	}
	again := HorizontalPodAutoscalerV1.FromStored(h).(*autoscalingv1.HorizontalPodAutoscaler)
	if a := again.Annotations["autoscaling.alpha.kubernetes.io/behavior"]; !strings.Contains(a, `"ScaleDown":{"StabilizationWindowSeconds":60,"SelectPolicy":"Min","Policies":[{"Type":"Pods","Value":1,"PeriodSeconds":30}],"Tolerance":"100m"}`) {
		t.Errorf("behaviour %s", a)
	}
	// Version 2 cannot write what version 1 reads.
	h.Annotations = map[string]string{"autoscaling.alpha.kubernetes.io/conditions": "[]"}
	HorizontalPodAutoscaler.PrepareUpdate(h, h.DeepCopy())
	if len(h.Annotations) > 0 {
		t.Errorf("annotations %v", h.Annotations)
	}
	bare := HorizontalPodAutoscalerV1.ToStored(&autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{UID: types.UID("u")}}).(*autoscalingv2.HorizontalPodAutoscaler)
	if len(bare.Spec.Metrics) != 1 || *bare.Spec.Metrics[0].Resource.Target.AverageUtilization != 80 {
		t.Errorf("default %+v", bare.Spec)
	}
}
