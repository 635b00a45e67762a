package horizontalpodautoscaler

import (
	"errors"
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

const (
	// tolerance is how far from its target a metric may be: upstream's default.
	tolerance = 0.1
	// cpuInitialization is how long after a pod's start its use of CPU counts only
	// if it was measured while the pod was ready.
	cpuInitialization = 5 * time.Minute
	// initialReadiness is how long after its start a pod may become unready and
	// still count as one that has never been ready.
	initialReadiness = 30 * time.Second
)

var (
	errNoPods     = errors.New("no pods returned by selector while calculating replica count")
	errNoMetrics  = errors.New("did not receive metrics for targeted pods (pods might be unready)")
	errNoMatch    = errors.New("no metrics returned matched known pods")
	errNoTarget   = errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	errNoObject   = errors.New("invalid object metric source: neither a value target nor an average value target was set")
	errNoExternal = errors.New("invalid external metric source: neither a value target nor an average value target was set")
)

// computed is what a metric asks for.
type computed struct {
	replicas int32
	name     string
	status   autoscalingv2.MetricStatus
}

// metric decides for one of them; reason is that of the condition if it cannot.
func (p *pass) metric(m *autoscalingv2.MetricSpec, r *Reading) (computed, string, error) {
	switch m.Type {
	case autoscalingv2.ObjectMetricSourceType:
		c, err := p.object(m.Object, r)
		return c, "FailedGetObjectMetric", err
	case autoscalingv2.PodsMetricSourceType:
		c, err := p.podsMetric(m.Pods, r)
		return c, "FailedGetPodsMetric", err
	case autoscalingv2.ResourceMetricSourceType:
		n, name, value, err := p.resource(m.Resource.Name, "", &m.Resource.Target, r)
		return computed{n, name, autoscalingv2.MetricStatus{Type: m.Type, Resource: &autoscalingv2.ResourceMetricStatus{Name: m.Resource.Name, Current: value}}}, "FailedGetResourceMetric", err
	case autoscalingv2.ContainerResourceMetricSourceType:
		s := m.ContainerResource
		n, name, value, err := p.resource(s.Name, s.Container, &s.Target, r)
		return computed{n, name, autoscalingv2.MetricStatus{Type: m.Type, ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{Name: s.Name, Container: s.Container, Current: value}}},
			"FailedGetContainerResourceMetric", err
	default: // validation lets no other in
		c, err := p.external(m.External, r)
		return c, "FailedGetExternalMetric", err
	}
}

func (p *pass) resource(name corev1.ResourceName, container string, target *autoscalingv2.MetricTarget, r *Reading) (n int32, metric string, value autoscalingv2.MetricValueStatus, err error) {
	amount := func(v int64) *resource.Quantity {
		if name == corev1.ResourceMemory {
			return resource.NewMilliQuantity(v, resource.BinarySI)
		}
		return resource.NewMilliQuantity(v, resource.DecimalSI)
	}
	unread := func() error { return fmt.Errorf("unable to get metrics for resource %s: %w", name, r.Err) }
	switch {
	case target.AverageValue != nil:
		if r.Err != nil {
			return 0, "", value, fmt.Errorf("failed to get %s usage: %w", name, unread())
		}
		n, usage, err := p.average(r.Pods, target.AverageValue.MilliValue(), name)
		if err != nil {
			return 0, "", value, fmt.Errorf("failed to get %s usage: %w", name, err)
		}
		return n, string(name) + " resource", autoscalingv2.MetricValueStatus{AverageValue: amount(usage)}, nil
	case target.AverageUtilization == nil:
		return 0, "", value, errNoTarget
	case r.Err != nil:
		return 0, "", value, fmt.Errorf("failed to get %s utilization: %w", name, unread())
	}
	var share int32
	var raw int64
	var requests map[string]int64
	first := true
	rate := func(values map[string]int64) (ratio float64, err error) {
		if first {
			if requests, err = requested(p.Pods, container, name); err != nil {
				return 0, err
			}
		}
		now, average, err := utilization(values, requests)
		if err != nil {
			return 0, err
		}
		if first {
			share, raw, first = now, average, false
		}
		return float64(now) / float64(*target.AverageUtilization), nil
	}
	// Who scales down must not forget those of which nothing is known.
	full := int64(max(100, *target.AverageUtilization))
	n, err = p.perPod(r.Pods, name, rate, func(pod string) int64 { return requests[pod] * full / 100 })
	if err != nil {
		return 0, "", value, fmt.Errorf("failed to get %s utilization: %w", name, err)
	}
	metric = fmt.Sprintf("%s resource utilization (percentage of request)", name)
	if container != "" {
		metric = fmt.Sprintf("%s container resource utilization (percentage of request)", name)
	}
	return n, metric, autoscalingv2.MetricValueStatus{AverageUtilization: &share, AverageValue: amount(raw)}, nil
}

// utilization of what is requested, in percent, and what is used on average.
func utilization(values, requests map[string]int64) (share int32, average int64, err error) {
	var used, asked, n int64
	for pod, v := range values {
		if request, ok := requests[pod]; ok {
			used, asked, n = used+v, asked+request, n+1
		}
	}
	if asked == 0 {
		return 0, 0, errNoMatch
	}
	return int32(min(used*100/asked, math.MaxInt32)), used / n, nil
}

// average of plain values against a target.
func (p *pass) average(samples map[string]Sample, target int64, name corev1.ResourceName) (n int32, usage int64, err error) {
	first := true
	rate := func(values map[string]int64) (float64, error) {
		sum := int64(0)
		for _, v := range values {
			sum += v
		}
		now := sum / int64(len(values))
		if first {
			usage, first = now, false
		}
		return float64(now) / float64(target), nil
	}
	n, err = p.perPod(samples, name, rate, func(string) int64 { return target })
	return n, usage, err
}

// perPod decides by what pods use. rate is the ratio of use to target; missing is
// what is taken for the use of a pod of which nothing is known, when there are to
// be fewer.
func (p *pass) perPod(samples map[string]Sample, name corev1.ResourceName, rate func(map[string]int64) (float64, error), missing func(string) int64) (int32, error) {
	if len(p.Pods) == 0 {
		return 0, errNoPods
	}
	values := make(map[string]int64, len(samples))
	for pod, s := range samples {
		values[pod] = s.Value
	}
	g := p.group(samples, name)
	for _, pod := range append(g.ignored, g.unready...) {
		delete(values, pod)
	}
	if len(values) == 0 {
		return 0, errNoMetrics
	}
	ratio, err := rate(values)
	if err != nil {
		return 0, err
	}
	up := ratio > 1 && len(g.unready) > 0
	if !up && len(g.missing) == 0 {
		if p.within(ratio) {
			return p.replicas, nil
		}
		return ceil(ratio * float64(g.ready)), nil
	}
	for _, pod := range g.missing {
		if ratio < 1 {
			values[pod] = missing(pod)
		} else if ratio > 1 {
			values[pod] = 0
		}
	}
	if up {
		for _, pod := range g.unready {
			values[pod] = 0
		}
	}
	again, err := rate(values)
	if err != nil {
		return 0, err
	}
	n := ceil(again * float64(len(values)))
	if p.within(again) || ratio < 1 && again > 1 || ratio > 1 && again < 1 || again < 1 && n > p.replicas || again > 1 && n < p.replicas {
		return p.replicas, nil // too little, or the other way around
	}
	return n, nil
}

// groups of pods by how they count.
type groups struct {
	ready                     int
	unready, missing, ignored []string
}

func (p *pass) group(samples map[string]Sample, name corev1.ResourceName) groups {
	var g groups
	for _, pod := range p.Pods {
		s, known := samples[pod.Name]
		switch {
		case pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed:
			g.ignored = append(g.ignored, pod.Name)
		case pod.Status.Phase == corev1.PodPending:
			g.unready = append(g.unready, pod.Name)
		case !known:
			g.missing = append(g.missing, pod.Name)
		case name == corev1.ResourceCPU && p.starting(pod, s):
			g.unready = append(g.unready, pod.Name)
		default:
			g.ready++
		}
	}
	return g
}

// starting: what the pod uses may be for its start alone.
func (p *pass) starting(pod *corev1.Pod, s Sample) bool {
	c := ready(pod)
	if c == nil || pod.Status.StartTime == nil {
		return true
	}
	began := pod.Status.StartTime
	if began.Add(cpuInitialization).After(p.Now) {
		return c.Status == corev1.ConditionFalse || s.At.Before(c.LastTransitionTime.Add(s.Window))
	}
	return c.Status == corev1.ConditionFalse && began.Add(initialReadiness).After(c.LastTransitionTime.Time)
}

func ready(pod *corev1.Pod) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodReady {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// within: so close to its target that nothing is changed for it.
func (p *pass) within(ratio float64) bool {
	down, up := tolerance, tolerance
	if b := p.Autoscaler.Spec.Behavior; b != nil {
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			up = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
	}
	return 1-down <= ratio && ratio <= 1+up
}

func ceil(f float64) int32 { return int32(min(math.Ceil(f), math.MaxInt32)) }

// requested is what each pod asks for of a resource, in thousandths; of one
// container if that is named.
func requested(pods []*corev1.Pod, container string, name corev1.ResourceName) (map[string]int64, error) {
	out := make(map[string]int64, len(pods))
	for _, pod := range pods {
		if container == "" && resourcehelper.IsPodLevelRequestsSet(pod) {
			q, ok := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})[name]
			if !ok {
				return nil, fmt.Errorf("missing pod-level request for %s in Pod %s", name, pod.Name)
			}
			out[pod.Name] = q.MilliValue()
			continue
		}
		sum, found := int64(0), container == ""
		count := func(c *corev1.Container) error {
			if container != "" && c.Name != container {
				return nil
			}
			found = true
			q, ok := c.Resources.Requests[name]
			if !ok {
				return fmt.Errorf("missing request for %s in container %s of Pod %s", name, c.Name, pod.Name)
			}
			sum += q.MilliValue()
			return nil
		}
		for i := range pod.Spec.Containers {
			if err := count(&pod.Spec.Containers[i]); err != nil {
				return nil, err
			}
		}
		for i := range pod.Spec.InitContainers { // sidecars
			if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
				if err := count(c); err != nil {
					return nil, err
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("container %s not found in Pod %s", container, pod.Name)
		}
		out[pod.Name] = sum
	}
	return out, nil
}
