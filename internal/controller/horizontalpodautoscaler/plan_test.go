package horizontalpodautoscaler

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type hpa = autoscalingv2.HorizontalPodAutoscaler

func autoscaler(least, most int32, metrics ...autoscalingv2.MetricSpec) *hpa {
	h := &hpa{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "hpa", Generation: 3}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
		MinReplicas:    &least, MaxReplicas: most, Metrics: metrics}}
	defaults.HorizontalPodAutoscaler(h)
	return h
}

func behave(h *hpa, up, down *autoscalingv2.HPAScalingRules) *hpa {
	h.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: up, ScaleDown: down}
	defaults.HorizontalPodAutoscaler(h)
	return h
}

func cpu(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU,
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent}}}
}

func target(value, average string) autoscalingv2.MetricTarget {
	t := autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType}
	if value != "" {
		t.Value = ptr.To(resource.MustParse(value))
	}
	if average != "" {
		t.Type, t.AverageValue = autoscalingv2.AverageValueMetricType, ptr.To(resource.MustParse(average))
	}
	return t
}

func external(t autoscalingv2.MetricTarget) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "queue"}, Target: t}}
}

func object(t autoscalingv2.MetricTarget) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{
		DescribedObject: autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Service", Name: "web"}, Metric: autoscalingv2.MetricIdentifier{Name: "hits"}, Target: t}}
}

func podsMetric(average string) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "qps"}, Target: target("", average)}}
}

func memory(average string) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceMemory, Target: target("", average)}}
}

// pods that have been ready for long; each asks for a core in two containers.
func pods(n int) (out []*corev1.Pod) {
	ask := func(name, cpu string) corev1.Container {
		return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse("1Gi")}}}
	}
	ago := metav1.NewTime(now.Add(-time.Hour))
	for i := range n {
		out = append(out, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("p%d", i), Labels: map[string]string{"app": "web"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{ask("app", "750m"), ask("side", "250m")}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &ago,
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: ago}}}})
	}
	return out
}

// use of each pod, in thousandths.
func use(values ...int64) Reading {
	r := Reading{Pods: map[string]Sample{}}
	for i, v := range values {
		if v >= 0 {
			r.Pods[fmt.Sprintf("p%d", i)] = Sample{At: now, Window: 15 * time.Second, Value: v}
		}
	}
	return r
}

func observed(h *hpa, replicas int, readings ...Reading) Observed {
	return Observed{Autoscaler: h, Target: kinds.Ref{Kind: kinds.Deployment, Namespace: "default", Name: "web"}, Pods: pods(replicas), Readings: readings, Now: now,
		Rivals: []string{"default/web"},
		Scale: &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "d", ResourceVersion: "7"}, Spec: autoscalingv1.ScaleSpec{Replicas: int32(replicas)},
			Status: autoscalingv1.ScaleStatus{Replicas: int32(replicas), Selector: "app=web"}}}
}

func change(o Observed, do func(*Observed)) Observed { do(&o); return o }

// outcome is what a plan says, in short.
func outcome(res plan.Result) (scale int32, st *autoscalingv2.HorizontalPodAutoscalerStatus) {
	scale = -1
	for _, a := range res.Actions {
		switch o := a.Object.(type) {
		case *autoscalingv1.Scale:
			scale = o.Spec.Replicas
		case *hpa:
			st = &o.Status
		}
	}
	return scale, st
}

func conditions(st *autoscalingv2.HorizontalPodAutoscalerStatus) string {
	var out []string
	for _, c := range st.Conditions {
		out = append(out, fmt.Sprintf("%s=%s:%s", c.Type, c.Status, c.Reason))
	}
	return strings.Join(out, " ")
}

const (
	rescaled = "AbleToScale=True:SucceededRescale ScalingActive=True:ValidMetricFound ScalingLimited=False:DesiredWithinRange ScaledToZero=False:NotScaledToZero"
	quiet    = "AbleToScale=True:ReadyForNewScale ScalingActive=True:ValidMetricFound ScalingLimited=False:DesiredWithinRange"
)

func TestPlan(t *testing.T) {
	starting := func(o *Observed) {
		o.Pods[0].Status.StartTime = &metav1.Time{Time: now.Add(-time.Minute)}
		o.Pods[0].Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-10 * time.Second))
	}
	down := func(c autoscalingv2.HPAScalingRules) *autoscalingv2.HPAScalingRules {
		c.StabilizationWindowSeconds = ptr.To[int32](0)
		return &c
	}
	atOnce := func(h *hpa) *hpa { return behave(h, nil, down(autoscalingv2.HPAScalingRules{})) }
	inContainer := autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: "cpu", Container: "app", Target: cpu(50).Resource.Target}}
	for _, c := range []struct {
		name       string
		o          Observed
		scale      int32 // -1: none
		conditions string
		metrics    string // of the status
		event      string
	}{
		{"at its target", observed(autoscaler(1, 9, cpu(50)), 3, use(500, 500, 500)), -1, quiet, "cpu 50% 500m", ""},
		{"within the tolerance", observed(autoscaler(1, 9, cpu(50)), 3, use(540, 540, 540)), -1, quiet, "cpu 54% 540m", ""},
		{"above", observed(autoscaler(1, 9, cpu(50)), 3, use(700, 800, 900)), 5, rescaled, "cpu 80% 800m", "New size: 5; reason: cpu resource utilization (percentage of request) above target"},
		{"above, with another tolerance", observed(behave(autoscaler(1, 9, cpu(50)), &autoscalingv2.HPAScalingRules{Tolerance: ptr.To(resource.MustParse("0.7"))}, nil), 3, use(800, 800, 800)), -1, quiet, "cpu 80% 800m", ""},
		{"below, and the past is not known", observed(autoscaler(1, 9, cpu(50)), 4, use(100, 100, 100, 100)), -1,
			"AbleToScale=True:ScaleDownStabilized ScalingActive=True:ValidMetricFound ScalingLimited=False:DesiredWithinRange", "cpu 10% 100m", ""},
		{"below", observed(atOnce(autoscaler(1, 9, cpu(50))), 4, use(100, 100, 100, 100)), 1, rescaled, "cpu 10% 100m", "New size: 1; reason: All metrics below target"},
		{"below the least", observed(atOnce(autoscaler(2, 9, cpu(50))), 4, use(0, 0, 0, 0)), 2, strings.Replace(rescaled, "False:DesiredWithinRange", "True:TooFewReplicas", 1), "cpu 0% 0", "New size: 2"},
		{"more than allowed", observed(autoscaler(1, 6, cpu(10)), 3, use(900, 900, 900)), 6, strings.Replace(rescaled, "False:DesiredWithinRange", "True:TooManyReplicas", 1), "cpu 90% 900m", "New size: 6"},
		{"faster than allowed", observed(autoscaler(1, 60, cpu(10)), 3, use(900, 900, 900)), 6, strings.Replace(rescaled, "False:DesiredWithinRange", "True:ScaleUpLimit", 1), "cpu 90% 900m", "New size: 6"},
		{"out of bounds", observed(autoscaler(1, 2, cpu(50)), 3), 2, "AbleToScale=True:SucceededRescale ScaledToZero=False:NotScaledToZero", "", "New size: 2; reason: Current number of replicas above Spec.MaxReplicas"},
		{"under the bounds", observed(autoscaler(4, 9, cpu(50)), 3), 4, "AbleToScale=True:SucceededRescale ScaledToZero=False:NotScaledToZero", "", "New size: 4; reason: Current number of replicas below Spec.MinReplicas"},
		{"set to zero by a user", observed(autoscaler(1, 9, cpu(50)), 0), -1, "AbleToScale=True:SucceededGetScale ScalingActive=False:ScalingDisabled", "", ""},
		{"one is missing, going up", observed(autoscaler(1, 9, cpu(50)), 3, use(900, 900, -1)), 4, rescaled, "cpu 90% 900m", "New size: 4"},
		{"one is missing, going down", observed(atOnce(autoscaler(1, 9, cpu(50))), 3, use(100, 100, -1)), -1, quiet, "cpu 10% 100m", ""},
		{"one is pending, going up", change(observed(autoscaler(1, 9, cpu(50)), 3, use(900, 900, -1)), func(o *Observed) { o.Pods[2].Status.Phase = corev1.PodPending }), 4, rescaled, "cpu 90% 900m", "New size: 4"},
		{"one failed", change(observed(autoscaler(1, 9, cpu(50)), 3, use(900, 900, 100)), func(o *Observed) { o.Pods[2].Status.Phase = corev1.PodFailed }), 4, rescaled, "cpu 90% 900m", "New size: 4"},
		{"one is starting", change(observed(autoscaler(1, 9, cpu(50)), 2, use(1000, 400)), starting), -1, strings.Replace(quiet, "ReadyForNewScale", "ScaleDownStabilized", 1), "cpu 40% 400m", ""},
		{"all are starting", change(observed(autoscaler(1, 9, cpu(50)), 1, use(1000)), starting), -1, "AbleToScale=True:SucceededGetScale ScalingActive=False:FailedGetResourceMetric", "-",
			"did not receive metrics for targeted pods (pods might be unready)"},
		{"starting does not matter for memory", change(observed(autoscaler(1, 9, memory("100Mi")), 1, use(300<<20*1000)), starting), 3, rescaled, "memory 300Mi", "New size: 3; reason: memory resource above target"},
		{"never ready", change(observed(autoscaler(1, 9, cpu(50)), 2, use(1000, 400)), func(o *Observed) {
			o.Pods[0].Status.Conditions[0] = corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour + 10*time.Second))}
		}), -1, strings.Replace(quiet, "ReadyForNewScale", "ScaleDownStabilized", 1), "cpu 40% 400m", ""},
		{"unready after it was", change(observed(autoscaler(1, 9, cpu(50)), 2, use(1000, 400)), func(o *Observed) {
			o.Pods[0].Status.Conditions[0] = corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(now.Add(-time.Minute))}
		}), 3, rescaled, "cpu 70% 700m", "New size: 3"},
		{"of one container", observed(autoscaler(1, 9, inContainer), 2, use(750, 750)), 4, rescaled, "cpu/app 100% 750m", "New size: 4; reason: cpu container resource utilization (percentage of request) above target"},
		{"a request is missing", change(observed(autoscaler(1, 9, cpu(50)), 2, use(750, 750)), func(o *Observed) { delete(o.Pods[1].Spec.Containers[1].Resources.Requests, "cpu") }), -1,
			"AbleToScale=True:SucceededGetScale ScalingActive=False:FailedGetResourceMetric", "-", "missing request for cpu in container side of Pod p1"},
		{"pods as wholes", change(observed(autoscaler(1, 9, cpu(50)), 2, use(1000, 1000)), func(o *Observed) {
			for _, p := range o.Pods {
				p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("4")}}
			}
		}), -1, strings.Replace(quiet, "ReadyForNewScale", "ScaleDownStabilized", 1), "cpu 25% 1", ""},
		{"average of a metric of pods", observed(autoscaler(1, 9, podsMetric("10")), 2, use(10000, 20000)), 3, rescaled, "qps 15", "New size: 3; reason: pods metric qps above target"},
		{"an object's value", observed(autoscaler(1, 9, object(target("10", ""))), 2, Reading{Values: []int64{20000}}), 4, rescaled, "hits 20", "New size: 4; reason: Service metric hits above target"},
		{"an object's value, per pod", observed(autoscaler(1, 9, object(target("", "10"))), 2, Reading{Values: []int64{30000}}), 3, rescaled, "hits 15", "New size: 3"},
		{"an external value", observed(autoscaler(1, 9, external(target("10", ""))), 2, Reading{Values: []int64{15000, 5000}}), 4, rescaled, "queue 20", "New size: 4; reason: external metric queue(nil) above target"},
		{"an external value, per pod", observed(autoscaler(1, 9, external(target("", "10"))), 2, Reading{Values: []int64{15000, 15000}}), 3, rescaled, "queue 15", "New size: 3"},
		{"the greatest of two", observed(autoscaler(1, 9, cpu(50), external(target("", "10"))), 2, use(600, 600), Reading{Values: []int64{40000}}), 4, rescaled, "cpu 60% 600m, queue 20", "New size: 4; reason: external metric queue(nil) above target"},
		{"one cannot be told, the other wants more", observed(autoscaler(1, 9, cpu(50), external(target("", "10"))), 2, use(1000, 1000), Reading{Err: errors.New("no such API")}), 4, rescaled, "cpu 100% 1, -",
			"failed to get queue external metric: unable to get external metric default/queue/nil: no such API"},
		{"one cannot be told, the other wants less", observed(atOnce(autoscaler(1, 9, cpu(50), external(target("", "10")))), 2, use(100, 100), Reading{Err: errors.New("no such API")}), -1,
			"AbleToScale=True:SucceededGetScale ScalingActive=False:FailedGetExternalMetric", "cpu 10% 100m, -",
			"invalid metrics (1 invalid out of 2), first error is: failed to get queue external metric value: failed to get queue external metric: unable to get external metric default/queue/nil: no such API"},
		{"nothing can be told", observed(autoscaler(1, 9, cpu(50)), 2, Reading{Err: errors.New("unable to fetch metrics from resource metrics API: down")}), -1,
			"AbleToScale=True:SucceededGetScale ScalingActive=False:FailedGetResourceMetric", "-",
			"invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: down"},
		{"no scale", change(observed(autoscaler(1, 9, cpu(50)), 2), func(o *Observed) { o.Scale, o.ScaleErr = nil, errors.New("gone") }), -1, "AbleToScale=False:FailedGetScale", "", "gone"},
		{"no selector", change(observed(autoscaler(1, 9, cpu(50)), 2), func(o *Observed) { o.Scale.Status.Selector = "" }), -1, "AbleToScale=True:SucceededGetScale ScalingActive=False:InvalidSelector", "", "selector is required"},
		{"no such selector", change(observed(autoscaler(1, 9, cpu(50)), 2), func(o *Observed) { o.Scale.Status.Selector = "a b" }), -1, "AbleToScale=True:SucceededGetScale ScalingActive=False:InvalidSelector", "",
			"couldn't convert selector into a corresponding internal selector object"},
		{"two at the same", change(observed(autoscaler(1, 9, cpu(50)), 2), func(o *Observed) { o.Rivals = []string{"default/other", "default/web"} }), -1, "AbleToScale=True:SucceededGetScale ScalingActive=False:AmbiguousSelector", "",
			"pods by selector app=web are controlled by more than one HPA (e.g. [default/other default/web])"},
		{"to zero", observed(atOnce(autoscaler(0, 9, external(target("", "10")))), 2, Reading{Values: []int64{0}}), 0, strings.Replace(rescaled, "False:NotScaledToZero", "True:ScaledToZero", 1), "queue 0", "New size: 0; reason: All metrics below target"},
		{"from zero", change(observed(autoscaler(0, 9, external(target("", "10"))), 0, Reading{Values: []int64{30000}}), zeroed), 3,
			"ScaledToZero=False:NotScaledToZero AbleToScale=True:SucceededRescale ScalingActive=True:ValidMetricFound ScalingLimited=False:DesiredWithinRange", "queue 30", "New size: 3"},
		{"zero is no longer allowed", change(observed(autoscaler(2, 9, external(target("", "10"))), 0, Reading{Values: []int64{0}}), zeroed), 2,
			"ScaledToZero=False:NotScaledToZero AbleToScale=True:SucceededRescale ScalingActive=True:ValidMetricFound ScalingLimited=True:TooFewReplicas", "queue 0", "New size: 2; reason: Current number of replicas below Spec.MinReplicas"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := c.o.Autoscaler.DeepCopy()
			res, m := Plan(c.o)
			scale, st := outcome(res)
			if scale != c.scale || st == nil || res.After != every {
				t.Fatalf("%d %+v after %s", scale, st, res.After)
			}
			if got := conditions(st); got != c.conditions {
				t.Errorf("conditions\n%s\nwant\n%s", got, c.conditions)
			}
			if got := shown(st.CurrentMetrics); got != c.metrics {
				t.Errorf("metrics %s", got)
			}
			if (st.LastScaleTime != nil) != (scale >= 0) || scale >= 0 && (st.DesiredReplicas != scale || m.Rescale == nil) {
				t.Errorf("%+v", st)
			}
			var events []string
			for _, e := range res.Events {
				events = append(events, e.Message)
			}
			if scale >= 0 {
				events = append(events, res.Actions[0].Event.Message)
				if a := res.Actions[0]; a.Ref.Sub != "scale" || a.Object.(*autoscalingv1.Scale).ResourceVersion != "7" || a.Failed.Message != a.Event.Message+"; error: " {
					t.Errorf("%+v", a)
				}
			}
			if got := strings.Join(events, "|"); !strings.Contains(got, c.event) || (got == "") != (c.event == "") {
				t.Errorf("events %s", got)
			}
			if !equality.Semantic.DeepEqual(before, c.o.Autoscaler) {
				t.Error("the observed autoscaler was changed")
			}
		})
	}
}

func zeroed(o *Observed) {
	o.Autoscaler.Status.Conditions = []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: autoscalingv2.ScaledToZero, Status: corev1.ConditionTrue, Reason: "ScaledToZero"}}
}

// shown are metrics of a status, in short.
func shown(list []autoscalingv2.MetricStatus) string {
	var out []string
	for _, m := range list {
		text, v := "-", autoscalingv2.MetricValueStatus{}
		switch {
		case m.Resource != nil:
			text, v = string(m.Resource.Name), m.Resource.Current
		case m.ContainerResource != nil:
			text, v = string(m.ContainerResource.Name)+"/"+m.ContainerResource.Container, m.ContainerResource.Current
		case m.Pods != nil:
			text, v = m.Pods.Metric.Name, m.Pods.Current
		case m.Object != nil:
			text, v = m.Object.Metric.Name, m.Object.Current
		case m.External != nil:
			text, v = m.External.Metric.Name, m.External.Current
		}
		if v.AverageUtilization != nil {
			text += fmt.Sprintf(" %d%%", *v.AverageUtilization)
		}
		for _, q := range []*resource.Quantity{v.Value, v.AverageValue} {
			if q != nil {
				text += " " + q.String()
			}
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// TestRefusedRescale: a scale that cannot be written is told of, and waits for
// its turn.
func TestRefusedRescale(t *testing.T) {
	o := observed(autoscaler(1, 9, cpu(50)), 2, use(1000, 1000))
	_, o.Memory = Plan(o)
	o.Failure = &reconcile.Failure{Verb: plan.Update, Kind: kinds.Deployment, Message: "quota"}
	if d := o.Memory.Rests(o.Autoscaler, true, now); d != 0 {
		t.Errorf("rests for %s", d)
	}
	o.Readings = nil
	res, m := Plan(o)
	scale, st := outcome(res)
	if scale != -1 || conditions(st) != "AbleToScale=False:FailedUpdateScale" || !strings.HasSuffix(st.Conditions[0].Message, "target scale: quota") || st.CurrentReplicas != 2 || shown(st.CurrentMetrics) != "cpu 100% 1" {
		t.Errorf("%d %+v", scale, st)
	}
	o.Autoscaler.Status = *st
	if d := m.Rests(o.Autoscaler, false, now.Add(time.Second)); d != every-time.Second {
		t.Errorf("rests for %s", d)
	}
}

// drive plans again and again, each time with what the last plan did, and
// returns the replicas.
func drive(o *Observed, step time.Duration, loads ...int64) (out []int32) {
	for _, load := range loads {
		o.Now = o.Now.Add(step)
		n := int(o.Scale.Spec.Replicas)
		o.Pods = pods(n)
		values := make([]int64, n)
		for i := range values {
			values[i] = load / int64(n)
		}
		o.Readings = []Reading{use(values...)}
		var res plan.Result
		res, o.Memory = Plan(*o)
		if scale, st := outcome(res); st != nil {
			o.Autoscaler.Status = *st
			if scale >= 0 {
				o.Scale.Spec.Replicas = scale
			}
		}
		out = append(out, o.Scale.Spec.Replicas)
	}
	return out
}

func TestBehavior(t *testing.T) {
	policy := func(t autoscalingv2.HPAScalingPolicyType, value, period int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: t, Value: value, PeriodSeconds: period}
	}
	rules := func(window int32, choice autoscalingv2.ScalingPolicySelect, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
		return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window, SelectPolicy: &choice, Policies: policies}
	}
	const byPods, percent = autoscalingv2.PodsScalingPolicy, autoscalingv2.PercentScalingPolicy
	const most, least, none = autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.DisabledPolicySelect
	slow := rules(0, most, policy(byPods, 2, 60))
	for name, c := range map[string]struct {
		h     *hpa
		from  int
		step  time.Duration
		loads []int64 // in thousandths; a pod should have 500
		want  string
	}{
		"doubling":                  {autoscaler(1, 50, cpu(50)), 1, 15 * time.Second, []int64{20000, 20000, 20000, 20000}, "[4 8 16 32]"},
		"down after five minutes":   {autoscaler(1, 50, cpu(50)), 8, time.Minute, []int64{500, 500, 500, 500, 500, 500, 500}, "[8 8 8 8 8 8 1]"},
		"load that comes again":     {autoscaler(1, 50, cpu(50)), 8, time.Minute, []int64{500, 500, 500, 3000, 500, 500, 500, 500, 500, 500}, "[8 8 8 8 8 8 6 6 6 1]"},
		"two pods a minute":         {behave(autoscaler(1, 50, cpu(50)), slow, nil), 1, 15 * time.Second, []int64{9000, 9000, 9000, 9000, 9000, 9000}, "[3 3 3 3 5 5]"},
		"the least change":          {behave(autoscaler(1, 50, cpu(50)), rules(0, least, policy(byPods, 10, 15), policy(percent, 50, 15)), nil), 4, 15 * time.Second, []int64{20000, 20000}, "[6 9]"},
		"the greatest change":       {behave(autoscaler(1, 50, cpu(50)), rules(0, most, policy(byPods, 1, 15), policy(percent, 50, 15)), nil), 4, 15 * time.Second, []int64{20000, 20000}, "[6 9]"},
		"never down":                {behave(autoscaler(1, 50, cpu(50)), nil, rules(0, none)), 8, time.Hour, []int64{500, 500}, "[8 8]"},
		"never up":                  {behave(autoscaler(1, 50, cpu(50)), rules(0, none), nil), 2, time.Hour, []int64{5000, 5000}, "[2 2]"},
		"down one by one":           {behave(autoscaler(1, 50, cpu(50)), nil, rules(0, least, policy(byPods, 1, 60), policy(percent, 50, 60))), 8, time.Minute, []int64{500, 500, 500}, "[7 6 5]"},
		"down by half":              {behave(autoscaler(1, 50, cpu(50)), nil, rules(0, most, policy(percent, 50, 60))), 8, time.Minute, []int64{500, 500, 500, 500}, "[4 2 1 1]"},
		"a window for going down":   {behave(autoscaler(1, 50, cpu(50)), nil, rules(30, most, policy(percent, 100, 15))), 5, 15 * time.Second, []int64{500, 500, 500}, "[5 5 1]"},
		"a window for going up":     {behave(autoscaler(1, 50, cpu(50)), rules(30, most, policy(byPods, 50, 15)), nil), 1, 15 * time.Second, []int64{4000, 4000, 4000}, "[1 1 8]"},
		"a peak in that window":     {behave(autoscaler(1, 50, cpu(50)), rules(60, most, policy(byPods, 50, 15)), nil), 1, 15 * time.Second, []int64{4000, 500, 4000, 500, 500}, "[1 1 1 1 1]"},
		"back and forth, one limit": {behave(autoscaler(1, 50, cpu(50)), slow, rules(0, most, policy(byPods, 1, 60))), 3, 15 * time.Second, []int64{9000, 500, 500, 9000, 9000}, "[5 2 2 5 7]"},
	} {
		o := observed(c.h, c.from)
		if got := fmt.Sprint(drive(&o, c.step, c.loads...)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func drawn(t *rapid.T) (Observed, int64) {
	least := rapid.Int32Range(1, 4).Draw(t, "least")
	h := autoscaler(least, least+rapid.Int32Range(0, 8).Draw(t, "more"), cpu(rapid.Int32Range(10, 120).Draw(t, "target")))
	if rapid.Bool().Draw(t, "behaves") {
		behave(h, nil, &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To(rapid.Int32Range(0, 600).Draw(t, "window"))})
	}
	return observed(h, rapid.IntRange(1, 14).Draw(t, "replicas")), rapid.Int64Range(0, 20000).Draw(t, "load")
}

// TestConverges: on a steady load it comes to rest, within the bounds, and then
// writes nothing more.
func TestConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o, load := drawn(t)
		var last []int32
		for range 60 { // a quarter of an hour
			last = drive(&o, every, load)
			if n := last[0]; n < *o.Autoscaler.Spec.MinReplicas || n > o.Autoscaler.Spec.MaxReplicas {
				t.Fatalf("%d replicas", n)
			}
			if len(o.Memory.Recommendations) > 60 || len(o.Memory.Ups)+len(o.Memory.Downs) > 60 {
				t.Fatalf("remembers %+v", o.Memory)
			}
		}
		o.Now = o.Now.Add(every)
		res, _ := Plan(o)
		if len(res.Actions) > 0 {
			t.Fatalf("not at rest at %d: %+v", last[0], res.Actions)
		}
	})
}

// TestMonotone: more load never makes fewer replicas.
func TestMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o, load := drawn(t)
		o.Memory.Recommendations = []Recommendation{{rapid.Int32Range(1, 14).Draw(t, "last"), now.Add(-time.Duration(rapid.IntRange(1, 900).Draw(t, "ago")) * time.Second)}}
		more := o
		more.Scale, more.Autoscaler = o.Scale.DeepCopy(), o.Autoscaler.DeepCopy()
		was := o.Scale.Spec.Replicas
		a, b := drive(&o, every, load), drive(&more, every, load+rapid.Int64Range(0, 20000).Draw(t, "and"))
		if b[0] < a[0] {
			t.Fatalf("from %d: %d, with more load %d", was, a[0], b[0])
		}
	})
}

// TestOrderDoesNotMatter of the pods; and what is written is bounded.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o, load := drawn(t)
		o.Readings = []Reading{use(make([]int64, len(o.Pods))...)}
		for i, p := range o.Pods {
			p.Status.Phase = rapid.SampledFrom([]corev1.PodPhase{corev1.PodRunning, corev1.PodRunning, corev1.PodPending, corev1.PodFailed}).Draw(t, "phase")
			o.Readings[0].Pods[p.Name] = Sample{At: now, Window: time.Second, Value: load / int64(i+1)}
			if rapid.IntRange(0, 3).Draw(t, "known") == 0 {
				delete(o.Readings[0].Pods, p.Name)
			}
		}
		res, m := Plan(o)
		o.Pods = rapid.Permutation(o.Pods).Draw(t, "pods")
		if again, n := Plan(o); !equality.Semantic.DeepEqual(again, res) || !slices.Equal(m.Recommendations, n.Recommendations) {
			t.Fatalf("%+v\n%+v", again, res)
		}
		if len(res.Actions) > 2 || len(res.Events) > 2 {
			t.Fatalf("%d actions, %d events", len(res.Actions), len(res.Events))
		}
		for _, a := range res.Actions {
			if a.Ref.Name != "web" || a.Ref.Namespace != "default" || a.Ref.Sub == "" {
				t.Fatalf("touches %s", a.Ref)
			}
		}
	})
}
