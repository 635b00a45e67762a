package validate

import (
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of a scaling behaviour in seconds: nothing is remembered for longer.
const (
	maxScalingPeriod = 1800
	maxStabilization = 3600
)

// HorizontalPodAutoscaler judges a new autoscaler.
func HorizontalPodAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	e := meta(&h.ObjectMeta, true, subdomain)
	e.autoscaler(&h.Spec, nil)
	return e.list
}

// HorizontalPodAutoscalerUpdate judges a changed one.
func HorizontalPodAutoscalerUpdate(h, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	e := metaUpdate(&h.ObjectMeta, &old.ObjectMeta)
	e.autoscaler(&h.Spec, &old.Spec)
	return e.list
}

// HorizontalPodAutoscalerStatusUpdate judges the counts.
func HorizontalPodAutoscalerStatusUpdate(h, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	e := metaUpdate(&h.ObjectMeta, &old.ObjectMeta)
	for i, c := range h.Status.Conditions {
		if c.ObservedGeneration != nil {
			e.notNegative(statusPath.Child("conditions").Index(i).Child("observedGeneration"), *c.ObservedGeneration)
		}
	}
	e.notNegative(statusPath.Child("currentReplicas"), int64(h.Status.CurrentReplicas))
	e.notNegative(statusPath.Child("desiredReplicas"), int64(h.Status.DesiredReplicas))
	return e.list
}

func (e *errors) autoscaler(s, was *autoscalingv2.HorizontalPodAutoscalerSpec) {
	if n := s.MinReplicas; n != nil && *n < 0 {
		e.invalid(specPath.Child("minReplicas"), *n, "must be greater than or equal to 0")
	}
	most := specPath.Child("maxReplicas")
	if s.MaxReplicas == 0 {
		e.add(field.Required(most, "must be set and greater than 0"))
	} else if s.MaxReplicas < 0 {
		e.invalid(most, s.MaxReplicas, "must be greater than or equal to 1")
	}
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		e.invalid(most, s.MaxReplicas, "must be greater than or equal to `minReplicas`")
	}
	rule := versionRule{}
	if t := &s.ScaleTargetRef; was != nil && was.ScaleTargetRef.APIVersion == t.APIVersion && was.ScaleTargetRef.Kind == t.Kind {
		rule.any = true // it was let in by an older server
	} else if t.Kind == "ReplicationController" {
		rule.noGroup = true // the one kind of the core group that has a scale
	}
	e.scaledObject(specPath.Child("scaleTargetRef"), &s.ScaleTargetRef, rule)
	e.metrics(specPath.Child("metrics"), s, was)
	if b := s.Behavior; b != nil {
		e.scalingRules(specPath.Child("behavior", "scaleUp"), b.ScaleUp)
		e.scalingRules(specPath.Child("behavior", "scaleDown"), b.ScaleDown)
	}
}

// versionRule says which versions a reference may have.
type versionRule struct{ noGroup, any bool }

func (r versionRule) check(version string) error {
	if r.any {
		return nil
	}
	gv, err := schema.ParseGroupVersion(version)
	if err == nil && gv.Group == "" && !r.noGroup {
		err = fmt.Errorf("apiVersion must specify API group")
	}
	return err
}

func (e *errors) scaledObject(p *field.Path, ref *autoscalingv2.CrossVersionObjectReference, rule versionRule) {
	e.segment(p.Child("kind"), ref.Kind, "")
	e.segment(p.Child("name"), ref.Name, "")
	if err := rule.check(ref.APIVersion); err != nil {
		e.invalid(p.Child("apiVersion"), ref.APIVersion, err.Error())
	}
}

// segment is a part of a URL; missing is what is said where there is none.
func (e *errors) segment(p *field.Path, value, missing string) {
	if value == "" {
		e.add(field.Required(p, missing))
		return
	}
	e.msgs(p, value, content.IsPathSegmentName(value))
}

func (e *errors) metrics(p *field.Path, s, was *autoscalingv2.HorizontalPodAutoscalerSpec) {
	rule := versionRule{noGroup: true}
	if was != nil {
		for _, m := range was.Metrics {
			if m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil && rule.check(m.Object.DescribedObject.APIVersion) != nil {
				rule.any = true
			}
		}
	}
	outside := false // some metric says something while there are no pods
	for i := range s.Metrics {
		e.metric(p.Index(i), &s.Metrics[i], rule)
		t := s.Metrics[i].Type
		outside = outside || t == autoscalingv2.ObjectMetricSourceType || t == autoscalingv2.ExternalMetricSourceType
	}
	if s.MinReplicas != nil && *s.MinReplicas == 0 && !outside {
		e.forbid(p, "must specify at least one Object or External metric to support scaling to zero replicas")
	}
}

func (e *errors) metric(p *field.Path, m *autoscalingv2.MetricSpec, rule versionRule) {
	sources := []struct {
		t     autoscalingv2.MetricSourceType
		name  string
		there bool
		judge func(*field.Path)
	}{
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil, func(p *field.Path) { e.objectMetric(p, m.Object, rule) }},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil, func(p *field.Path) { e.externalMetric(p, m.External) }},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil, func(p *field.Path) { e.podsMetric(p, m.Pods) }},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil, func(p *field.Path) { e.resourceMetric(p, m.Resource) }},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil, func(p *field.Path) { e.containerResourceMetric(p, m.ContainerResource) }},
	}
	if m.Type == "" {
		e.add(field.Required(p.Child("type"), "must specify a metric source type"))
	}
	var all []autoscalingv2.MetricSourceType
	known, present := false, 0
	for _, s := range sources {
		all, known = append(all, s.t), known || s.t == m.Type
		if s.there {
			if present++; present == 1 {
				s.judge(p.Child(s.name))
			}
		}
	}
	if !known { // told twice, as upstream does
		oneOf(e, p.Child("type"), m.Type, all...)
		oneOf(e, p.Child("type"), m.Type, all...)
	}
	for _, s := range sources {
		if s.t == m.Type && !s.there {
			e.add(field.Required(p.Child(s.name), "must populate information for the given metric source"))
		} else if s.t != m.Type && s.there && present != 1 {
			e.forbid(p.Child(s.name), "must populate the given metric source only")
		}
	}
}

func (e *errors) objectMetric(p *field.Path, m *autoscalingv2.ObjectMetricSource, rule versionRule) {
	e.scaledObject(p.Child("describedObject"), &m.DescribedObject, rule)
	e.segment(p.Child("metric", "name"), m.Metric.Name, "must specify a metric name")
	e.metricTarget(p.Child("target"), &m.Target)
	if m.Target.Value == nil && m.Target.AverageValue == nil {
		e.add(field.Required(p.Child("target", "averageValue"), "must set either a target value or averageValue"))
	}
}

func (e *errors) externalMetric(p *field.Path, m *autoscalingv2.ExternalMetricSource) {
	e.segment(p.Child("metric", "name"), m.Metric.Name, "must specify a metric name")
	e.metricTarget(p.Child("target"), &m.Target)
	switch value, average := m.Target.Value != nil, m.Target.AverageValue != nil; {
	case !value && !average:
		e.add(field.Required(p.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
	case value && average:
		e.forbid(p.Child("target", "value"), "may not set both a target value for metric and a per-pod target")
	}
}

func (e *errors) podsMetric(p *field.Path, m *autoscalingv2.PodsMetricSource) {
	e.segment(p.Child("metric", "name"), m.Metric.Name, "must specify a metric name")
	e.metricTarget(p.Child("target"), &m.Target)
	if m.Target.AverageValue == nil {
		e.add(field.Required(p.Child("target", "averageValue"), "must specify a positive target averageValue"))
	}
}

func (e *errors) resourceMetric(p *field.Path, m *autoscalingv2.ResourceMetricSource) {
	if m.Name == "" {
		e.add(field.Required(p.Child("name"), "must specify a resource name"))
	}
	e.resourceTarget(p.Child("target"), &m.Target)
}

func (e *errors) containerResourceMetric(p *field.Path, m *autoscalingv2.ContainerResourceMetricSource) {
	if m.Name == "" {
		e.add(field.Required(p.Child("name"), "must specify a resource name"))
	} else {
		e.containerResource(p.Child("name"), m.Name)
	}
	if m.Container == "" {
		e.add(field.Required(p.Child("container"), "must specify a container"))
	} else {
		e.dnsLabel(p.Child("container"), m.Container)
	}
	e.resourceTarget(p.Child("target"), &m.Target)
}

func (e *errors) resourceTarget(p *field.Path, t *autoscalingv2.MetricTarget) {
	e.metricTarget(p, t)
	switch share, value := t.AverageUtilization != nil, t.AverageValue != nil; {
	case !share && !value:
		e.add(field.Required(p.Child("averageUtilization"), "must set either a target raw value or a target utilization"))
	case share && value:
		e.forbid(p.Child("averageValue"), "may not set both a target raw value and a target utilization")
	}
}

func (e *errors) metricTarget(p *field.Path, t *autoscalingv2.MetricTarget) {
	if t.Type == "" {
		e.add(field.Required(p.Child("type"), "must specify a metric target type"))
	}
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		e.invalid(p.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue")
	}
	if t.Value != nil && t.Value.Sign() != 1 {
		e.invalid(p.Child("value"), t.Value, "must be positive")
	}
	if t.AverageValue != nil && t.AverageValue.Sign() != 1 {
		e.invalid(p.Child("averageValue"), t.AverageValue, "must be positive")
	}
	if n := t.AverageUtilization; n != nil && *n < 1 {
		e.invalid(p.Child("averageUtilization"), *n, "must be greater than 0")
	}
}

func (e *errors) scalingRules(p *field.Path, r *autoscalingv2.HPAScalingRules) {
	if r == nil {
		return
	}
	if n, at := r.StabilizationWindowSeconds, p.Child("stabilizationWindowSeconds"); n != nil && *n < 0 {
		e.invalid(at, *n, "must be greater than or equal to zero")
	} else if n != nil && *n > maxStabilization {
		e.invalid(at, *n, fmt.Sprintf("must be less than or equal to %v", maxStabilization))
	}
	inPtr(e, p.Child("selectPolicy"), r.SelectPolicy, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.DisabledPolicySelect)
	policies := p.Child("policies")
	if len(r.Policies) == 0 {
		e.add(field.Required(policies, "must specify at least one Policy"))
	}
	for i, s := range r.Policies {
		at := policies.Index(i)
		oneOf(e, at.Child("type"), s.Type, autoscalingv2.PodsScalingPolicy, autoscalingv2.PercentScalingPolicy)
		if s.Value <= 0 {
			e.invalid(at.Child("value"), s.Value, notPositive)
		}
		if s.PeriodSeconds <= 0 {
			e.invalid(at.Child("periodSeconds"), s.PeriodSeconds, notPositive)
		} else if s.PeriodSeconds > maxScalingPeriod {
			e.invalid(at.Child("periodSeconds"), s.PeriodSeconds, fmt.Sprintf("must be less than or equal to %v", maxScalingPeriod))
		}
	}
	if t := r.Tolerance; t != nil && negative(*t) {
		e.invalid(p.Child("tolerance"), t.String(), "must be greater than or equal to 0")
	}
}
