package horizontalpodautoscaler

import (
	"fmt"
	"math"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func milli(v int64) *resource.Quantity { return resource.NewMilliQuantity(v, resource.DecimalSI) }

func (p *pass) podsMetric(m *autoscalingv2.PodsMetricSource, r *Reading) (computed, error) {
	if r.Err != nil {
		return computed{}, fmt.Errorf("unable to get metric %s: %w", m.Metric.Name, r.Err)
	}
	n, usage, err := p.average(r.Pods, m.Target.AverageValue.MilliValue(), "")
	if err != nil {
		return computed{}, err
	}
	return computed{n, "pods metric " + m.Metric.Name, autoscalingv2.MetricStatus{Type: autoscalingv2.PodsMetricSourceType,
		Pods: &autoscalingv2.PodsMetricStatus{Metric: m.Metric, Current: autoscalingv2.MetricValueStatus{AverageValue: milli(usage)}}}}, nil
}

func (p *pass) object(m *autoscalingv2.ObjectMetricSource, r *Reading) (c computed, err error) {
	byValue := m.Target.Type == autoscalingv2.ValueMetricType && m.Target.Value != nil
	byAverage := m.Target.Type == autoscalingv2.AverageValueMetricType && m.Target.AverageValue != nil
	if r.Err != nil {
		err = fmt.Errorf("unable to get metric %s on %s %s/%s: %w", m.Metric.Name, m.DescribedObject.Kind, p.Autoscaler.Namespace, m.DescribedObject.Name, r.Err)
		if byAverage {
			err = fmt.Errorf("failed to get %s object metric: %w", m.Metric.Name, err)
		}
	}
	st := &autoscalingv2.ObjectMetricStatus{Metric: m.Metric, DescribedObject: m.DescribedObject}
	c.status = autoscalingv2.MetricStatus{Type: autoscalingv2.ObjectMetricSourceType, Object: st}
	switch {
	case !byValue && !byAverage:
		return c, errNoObject
	case err != nil:
		return c, err
	case byValue:
		usage := sum(r.Values)
		c.name, st.Current.Value = fmt.Sprintf("%s metric %s", m.DescribedObject.Kind, m.Metric.Name), milli(usage)
		c.replicas, err = p.byRatio(float64(usage) / float64(m.Target.Value.MilliValue()))
		return c, err
	}
	n, average := p.shared(sum(r.Values), m.Target.AverageValue.MilliValue())
	c.replicas, c.name, st.Current.AverageValue = n, fmt.Sprintf("external metric %s(%+v)", m.Metric.Name, m.Metric.Selector), milli(average)
	return c, nil
}

func (p *pass) external(m *autoscalingv2.ExternalMetricSource, r *Reading) (c computed, err error) {
	if r.Err != nil {
		err = fmt.Errorf("unable to get external metric %s/%s/%+v: %w", p.Autoscaler.Namespace, m.Metric.Name, m.Metric.Selector, r.Err)
	}
	st := &autoscalingv2.ExternalMetricStatus{Metric: m.Metric}
	c.name = fmt.Sprintf("external metric %s(%+v)", m.Metric.Name, m.Metric.Selector)
	c.status = autoscalingv2.MetricStatus{Type: autoscalingv2.ExternalMetricSourceType, External: st}
	switch {
	case m.Target.AverageValue != nil:
		if err != nil {
			return c, fmt.Errorf("failed to get %s external metric: %w", m.Metric.Name, err)
		}
		n, average := p.shared(sum(r.Values), m.Target.AverageValue.MilliValue())
		c.replicas, st.Current.AverageValue = n, milli(average)
		return c, nil
	case m.Target.Value != nil:
		if err == nil {
			usage := sum(r.Values)
			st.Current.Value = milli(usage)
			c.replicas, err = p.byRatio(float64(usage) / float64(m.Target.Value.MilliValue()))
		}
		if err != nil {
			return c, fmt.Errorf("failed to get external metric %s: %w", m.Metric.Name, err)
		}
		return c, nil
	}
	return c, errNoExternal
}

// sum stops at the greatest number.
func sum(values []int64) (total int64) {
	for _, v := range values {
		if v > 0 && total > math.MaxInt64-v {
			return math.MaxInt64
		}
		total += v
	}
	return total
}

// byRatio multiplies the pods that are ready; none at all count as one.
func (p *pass) byRatio(ratio float64) (int32, error) {
	switch {
	case p.replicas == 0:
		return ceil(ratio), nil
	case p.within(ratio):
		return p.replicas, nil
	case len(p.Pods) == 0:
		return 0, fmt.Errorf("unable to calculate ready pods: %w", errNoPods)
	}
	n := 0
	for _, pod := range p.Pods {
		if c := ready(pod); pod.Status.Phase == corev1.PodRunning && c != nil && c.Status == corev1.ConditionTrue {
			n++
		}
	}
	return ceil(ratio * float64(n)), nil
}

// shared divides a value by what each replica should have of it, and tells how
// much each has.
func (p *pass) shared(usage, target int64) (n int32, average int64) {
	have := p.Scale.Status.Replicas
	if have <= 0 {
		return ceil(float64(usage) / float64(target)), usage
	}
	n = have
	if !p.within(float64(usage) / (float64(target) * float64(have))) {
		n = ceil(float64(usage) / float64(target))
	}
	if usage == math.MaxInt64 {
		return n, usage
	}
	return n, int64(math.Ceil(float64(usage) / float64(have)))
}
