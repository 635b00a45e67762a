package validate

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	klabels "k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	selectorMismatch = "`selector` does not match template `labels`"
	aboveReplicas    = "cannot be greater than status.replicas"
)

// Deployment judges a new deployment.
func Deployment(d *appsv1.Deployment) field.ErrorList {
	e := meta(&d.ObjectMeta, true, subdomain)
	e.deployment(&d.Spec)
	return e.list
}

// DeploymentUpdate judges a changed one; what it selects stays.
func DeploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	e := metaUpdate(&d.ObjectMeta, &old.ObjectMeta)
	e.deployment(&d.Spec)
	e.immutable(specPath.Child("selector"), d.Spec.Selector, old.Spec.Selector)
	return e.list
}

func (e *errors) deployment(spec *appsv1.DeploymentSpec) {
	e.replicas(spec.Replicas)
	e.selected(spec.Selector, &spec.Template, "deployment")
	e.template(specPath.Child("template"), &spec.Template)
	e.longRunningTemplate(specPath.Child("template"), &spec.Template, "ReplicaSet")
	e.deploymentStrategy(specPath.Child("strategy"), &spec.Strategy)
	e.notNegative(specPath.Child("minReadySeconds"), int64(spec.MinReadySeconds))
	if n := spec.RevisionHistoryLimit; n != nil {
		e.notNegative(specPath.Child("revisionHistoryLimit"), int64(*n))
	}
	if n := spec.ProgressDeadlineSeconds; n != nil {
		e.notNegative(specPath.Child("progressDeadlineSeconds"), int64(*n))
		if *n <= spec.MinReadySeconds {
			e.invalid(specPath.Child("progressDeadlineSeconds"), *n, "must be greater than minReadySeconds")
		}
	}
}

func (e *errors) deploymentStrategy(p *field.Path, s *appsv1.DeploymentStrategy) {
	at := p.Child("rollingUpdate")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			e.forbid(at, "may not be specified when strategy `type` is 'Recreate'")
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		r := s.RollingUpdate
		if r == nil {
			e.add(field.Required(at, "this should be defaulted and never be nil"))
			return
		}
		e.portion(at.Child("maxUnavailable"), r.MaxUnavailable)
		e.portion(at.Child("maxSurge"), r.MaxSurge)
		if zero(r.MaxUnavailable) && zero(r.MaxSurge) {
			e.invalid(at.Child("maxUnavailable"), words(r.MaxUnavailable), "may not be 0 when `maxSurge` is 0")
		}
		e.atMostAll(at.Child("maxUnavailable"), r.MaxUnavailable)
	default:
		oneOf(e, p.Child("type"), s.Type, appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType)
	}
}

// DeploymentStatusUpdate judges the counts.
func DeploymentStatusUpdate(d, old *appsv1.Deployment) field.ErrorList {
	e := metaUpdate(&d.ObjectMeta, &old.ObjectMeta)
	st := &d.Status
	e.notNegative(statusPath.Child("observedGeneration"), st.ObservedGeneration)
	e.notNegative(statusPath.Child("unavailableReplicas"), int64(st.UnavailableReplicas))
	e.terminating(st.TerminatingReplicas)
	e.counts(st.Replicas, st.ReadyReplicas, st.AvailableReplicas, count{"updatedReplicas", st.UpdatedReplicas})
	e.collisions(st.CollisionCount, old.Status.CollisionCount)
	return e.list
}

// ReplicaSet judges a new replica set.
func ReplicaSet(rs *appsv1.ReplicaSet) field.ErrorList {
	e := meta(&rs.ObjectMeta, true, subdomain)
	e.replicaSet(&rs.Spec)
	return e.list
}

// ReplicaSetUpdate judges a changed one; what it selects stays.
func ReplicaSetUpdate(rs, old *appsv1.ReplicaSet) field.ErrorList {
	e := metaUpdate(&rs.ObjectMeta, &old.ObjectMeta)
	e.replicaSet(&rs.Spec)
	e.immutable(specPath.Child("selector"), rs.Spec.Selector, old.Spec.Selector)
	return e.list
}

func (e *errors) replicaSet(spec *appsv1.ReplicaSetSpec) {
	e.replicas(spec.Replicas)
	e.notNegative(specPath.Child("minReadySeconds"), int64(spec.MinReadySeconds))
	e.selected(spec.Selector, &spec.Template, "deployment")
	e.template(specPath.Child("template"), &spec.Template)
	e.longRunningTemplate(specPath.Child("template"), &spec.Template, "ReplicaSet")
}

// ReplicaSetStatusUpdate judges the counts.
func ReplicaSetStatusUpdate(rs, old *appsv1.ReplicaSet) field.ErrorList {
	e := metaUpdate(&rs.ObjectMeta, &old.ObjectMeta)
	st := &rs.Status
	e.notNegative(statusPath.Child("observedGeneration"), st.ObservedGeneration)
	e.terminating(st.TerminatingReplicas)
	e.counts(st.Replicas, st.ReadyReplicas, st.AvailableReplicas, count{"fullyLabeledReplicas", st.FullyLabeledReplicas})
	return e.list
}

// DaemonSet judges a new daemon set.
func DaemonSet(ds *appsv1.DaemonSet) field.ErrorList {
	e := meta(&ds.ObjectMeta, true, subdomain)
	e.daemonSet(&ds.Spec)
	return e.list
}

// DaemonSetUpdate judges a changed one; what it selects stays.
func DaemonSetUpdate(ds, old *appsv1.DaemonSet) field.ErrorList {
	e := metaUpdate(&ds.ObjectMeta, &old.ObjectMeta)
	e.daemonSet(&ds.Spec)
	e.immutable(specPath.Child("selector"), ds.Spec.Selector, old.Spec.Selector)
	return e.list
}

func (e *errors) daemonSet(spec *appsv1.DaemonSetSpec) {
	e.selected(spec.Selector, &spec.Template, "daemonset")
	e.template(specPath.Child("template"), &spec.Template)
	e.longRunningTemplate(specPath.Child("template"), &spec.Template, "DaemonSet")
	e.notNegative(specPath.Child("minReadySeconds"), int64(spec.MinReadySeconds))
	if n := spec.RevisionHistoryLimit; n != nil {
		e.notNegative(specPath.Child("revisionHistoryLimit"), int64(*n))
	}
	p := specPath.Child("updateStrategy")
	switch r := spec.UpdateStrategy.RollingUpdate; spec.UpdateStrategy.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
	case appsv1.RollingUpdateDaemonSetStrategyType:
		at := p.Child("rollingUpdate")
		if r == nil {
			e.required(at)
			return
		}
		e.portion(at.Child("maxUnavailable"), r.MaxUnavailable)
		e.portion(at.Child("maxSurge"), r.MaxSurge)
		e.atMostAll(at.Child("maxUnavailable"), r.MaxUnavailable)
		e.atMostAll(at.Child("maxSurge"), r.MaxSurge)
		switch down, up := !zero(r.MaxUnavailable), !zero(r.MaxSurge); {
		case down && up:
			e.invalid(at.Child("maxSurge"), words(r.MaxSurge), "may not be set when maxUnavailable is non-zero")
		case !down && !up:
			e.invalid(at.Child("maxUnavailable"), words(r.MaxUnavailable), "cannot be 0 when maxSurge is 0")
		}
	default:
		oneOf(e, p, spec.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType)
	}
}

// DaemonSetStatusUpdate judges the counts.
func DaemonSetStatusUpdate(ds, old *appsv1.DaemonSet) field.ErrorList {
	e := metaUpdate(&ds.ObjectMeta, &old.ObjectMeta)
	st := &ds.Status
	e.notNegative(statusPath.Child("observedGeneration"), st.ObservedGeneration)
	for _, c := range []count{
		{"currentNumberScheduled", st.CurrentNumberScheduled}, {"numberMisscheduled", st.NumberMisscheduled},
		{"desiredNumberScheduled", st.DesiredNumberScheduled}, {"numberReady", st.NumberReady},
		{"updatedNumberScheduled", st.UpdatedNumberScheduled}, {"numberAvailable", st.NumberAvailable},
		{"numberUnavailable", st.NumberUnavailable},
	} {
		e.notNegative(statusPath.Child(c.name), int64(c.n))
	}
	e.collisions(st.CollisionCount, old.Status.CollisionCount)
	return e.list
}

// ControllerRevision judges a new revision.
func ControllerRevision(cr *appsv1.ControllerRevision) field.ErrorList {
	e := meta(&cr.ObjectMeta, true, subdomain)
	e.notNegative(field.NewPath("revision"), cr.Revision)
	var v any
	switch p, err := field.NewPath("data"), json.Unmarshal(cr.Data.Raw, &v); {
	case cr.Data.Raw == nil:
		e.add(field.Required(p, "data is mandatory"))
	case err != nil:
		e.invalid(p, "<value omitted>", fmt.Sprintf("error parsing data: %v", err))
	case v == nil:
		e.add(field.Required(p, "data is mandatory"))
	default:
		if _, ok := v.(map[string]any); !ok {
			e.add(field.Required(p, "data must be a valid JSON object"))
		}
	}
	return e.list
}

// ControllerRevisionUpdate judges a changed one; what it holds stays.
func ControllerRevisionUpdate(cr, old *appsv1.ControllerRevision) field.ErrorList {
	e := metaUpdate(&cr.ObjectMeta, &old.ObjectMeta)
	e.notNegative(field.NewPath("revision"), cr.Revision)
	if !same(cr.Data.Raw, old.Data.Raw) {
		e.invalid(field.NewPath("data"), "<data>", "field is immutable")
	}
	return e.list
}

// count is one number of a status that sums over replicas.
type count struct {
	name string
	n    int32
}

func (e *errors) counts(replicas, ready, available int32, more ...count) {
	e.countsAs("readyReplicas", replicas, ready, available, more...)
}

// countsAs calls the number of ready replicas by the name that upstream has for
// it in the kind's messages.
func (e *errors) countsAs(readyName string, replicas, ready, available int32, more ...count) {
	e.notNegative(statusPath.Child("replicas"), int64(replicas))
	for _, c := range append(more, count{"readyReplicas", ready}, count{"availableReplicas", available}) {
		e.notNegative(statusPath.Child(c.name), int64(c.n))
		if c.n > replicas {
			e.invalid(statusPath.Child(c.name), c.n, aboveReplicas)
		}
	}
	if available > ready {
		e.invalid(statusPath.Child("availableReplicas"), available, "cannot be greater than "+readyName)
	}
}

func (e *errors) terminating(n *int32) {
	if n != nil {
		e.notNegative(statusPath.Child("terminatingReplicas"), int64(*n))
	}
}

func (e *errors) collisions(n, old *int32) {
	p := statusPath.Child("collisionCount")
	if n != nil {
		e.notNegative(p, int64(*n))
	}
	if old != nil && (n == nil || *n < *old) {
		e.invalid(p, n, "cannot be decremented")
	}
}

func (e *errors) replicas(n *int32) {
	if n == nil {
		e.required(specPath.Child("replicas"))
		return
	}
	e.notNegative(specPath.Child("replicas"), int64(*n))
}

// selected: a selector must select something, and the template's pods.
func (e *errors) selected(s *metav1.LabelSelector, t *corev1.PodTemplateSpec, what string) {
	p := specPath.Child("selector")
	if s == nil {
		e.required(p)
	} else {
		e.selector(p, s)
		if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
			e.invalid(p, s, "empty selector is invalid for "+what)
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		e.invalid(p, s, "invalid label selector")
		return
	}
	if !selector.Empty() && !selector.Matches(klabels.Set(t.Labels)) {
		e.invalid(specPath.Child("template", "metadata", "labels"), t.Labels, selectorMismatch)
	}
}

// longRunningTemplate makes pods that are replaced when they end.
func (e *errors) longRunningTemplate(p *field.Path, t *corev1.PodTemplateSpec, what string) {
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		e.add(field.NotSupported(p.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		e.forbid(p.Child("spec", "activeDeadlineSeconds"), fmt.Sprintf("activeDeadlineSeconds in %s is not Supported", what))
	}
}

// portion is a number or a percentage.
func (e *errors) portion(p *field.Path, v *intstr.IntOrString) {
	switch {
	case v == nil:
		e.required(p)
	case v.Type == intstr.String:
		e.msgs(p, v.StrVal, validation.IsValidPercent(v.StrVal))
	default:
		e.notNegative(p, int64(v.IntVal))
	}
}

func (e *errors) atMostAll(p *field.Path, v *intstr.IntOrString) {
	if n, ok := percent(v); ok && n > 100 {
		e.invalid(p, words(v), "must not be greater than 100%")
	}
}

func percent(v *intstr.IntOrString) (int, bool) {
	if v == nil || v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	if err != nil { // too many digits
		return 101, true
	}
	return n, true
}

func zero(v *intstr.IntOrString) bool {
	if v == nil {
		return true
	}
	if v.Type == intstr.String {
		n, ok := percent(v)
		return ok && n == 0
	}
	return v.IntVal == 0
}

func words(v *intstr.IntOrString) string {
	if v == nil {
		return ""
	}
	return v.String()
}
