package validate

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of a job's policies, as upstream's.
const (
	maxPolicyRules      = 20
	maxPodConditions    = 20
	maxSucceededIndexes = 64 * 1024 // characters
)

// needed is in with the values told where there is none, as jobs do.
func needed[T ~string](e *errors, p *field.Path, value T, values ...T) {
	if list := sets.List(sets.New(values...)); value == "" {
		e.add(field.Required(p, fmt.Sprintf("valid values: %q", list)))
	} else {
		oneOf(e, p, value, values...)
	}
}

func (e *errors) podFailurePolicy(p *field.Path, s *batchv1.JobSpec) {
	rules, at := s.PodFailurePolicy.Rules, p.Child("rules")
	if len(rules) > maxPolicyRules {
		e.add(field.TooMany(at, len(rules), maxPolicyRules))
	}
	names := map[string]bool{}
	for _, list := range [][]corev1.Container{s.Template.Spec.Containers, s.Template.Spec.InitContainers} {
		for i := range list {
			names[list[i].Name] = true
		}
	}
	for i := range rules {
		r, at := &rules[i], at.Index(i)
		if action := at.Child("action"); r.Action != batchv1.PodFailurePolicyActionFailIndex {
			needed(e, action, r.Action, batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)
		} else if s.BackoffLimitPerIndex == nil {
			e.invalid(action, r.Action, "requires the backoffLimitPerIndex to be set")
		}
		if r.OnExitCodes != nil {
			e.onExitCodes(at.Child("onExitCodes"), r.OnExitCodes, names)
		}
		e.onPodConditions(at.Child("onPodConditions"), r.OnPodConditions)
		switch codes, conditions := r.OnExitCodes != nil, len(r.OnPodConditions) > 0; {
		case codes && conditions:
			e.invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported")
		case !codes && !conditions:
			e.invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required")
		}
	}
}

func (e *errors) onPodConditions(p *field.Path, list []batchv1.PodFailurePolicyOnPodConditionsPattern) {
	if len(list) > maxPodConditions {
		e.add(field.TooMany(p, len(list), maxPodConditions))
	}
	for i, c := range list {
		e.qualifiedName(p.Index(i).Child("type"), string(c.Type))
		needed(e, p.Index(i).Child("status"), c.Status, corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)
	}
}

func (e *errors) onExitCodes(p *field.Path, r *batchv1.PodFailurePolicyOnExitCodesRequirement, names map[string]bool) {
	const in, notIn = batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn
	needed(e, p.Child("operator"), r.Operator, in, notIn)
	if r.ContainerName != nil && !names[*r.ContainerName] {
		e.invalid(p.Child("containerName"), *r.ContainerName, "must be one of the container or initContainer names in the pod template")
	}
	at := p.Child("values")
	switch n := len(r.Values); {
	case n == 0:
		e.invalid(at, r.Values, "at least one value is required")
	case n > maxExitCodes:
		e.add(field.TooMany(at, n, maxExitCodes))
	}
	seen := map[int32]bool{}
	for i, code := range r.Values {
		if r.Operator == in && code == 0 {
			e.invalid(at.Index(i), code, "must not be 0 for the In operator")
		}
		unique(e, seen, at.Index(i), code, code)
	}
	if !slices.IsSorted(r.Values) {
		e.invalid(at, r.Values, "must be ordered")
	}
}

func (e *errors) successPolicy(p *field.Path, s *batchv1.JobSpec) {
	rules, at := s.SuccessPolicy.Rules, p.Child("rules")
	if len(rules) == 0 {
		e.add(field.Required(at, "at least one rules must be specified when the successPolicy is specified"))
	}
	if len(rules) > maxPolicyRules {
		e.add(field.TooMany(at, len(rules), maxPolicyRules))
	}
	if s.Completions == nil {
		return // which is told already
	}
	for i := range rules {
		e.successRule(at.Index(i), &rules[i], *s.Completions)
	}
}

func (e *errors) successRule(p *field.Path, r *batchv1.SuccessPolicyRule, completions int32) {
	if r.SucceededCount == nil && r.SucceededIndexes == nil {
		e.add(field.Required(p, "at least one of succeededCount or succeededIndexes must be specified"))
	}
	var total int32
	if list := r.SucceededIndexes; list != nil {
		at := p.Child("succeededIndexes")
		if len(*list) > maxSucceededIndexes {
			e.add(field.TooLong(at, "", maxSucceededIndexes))
		}
		var err error
		if total, err = indexes(*list, completions); err != nil {
			e.invalid(at, *list, "error parsing succeededIndexes: "+err.Error())
		}
	}
	n, at := r.SucceededCount, p.Child("succeededCount")
	if n == nil {
		return
	}
	e.notNegative(at, int64(*n))
	if *n > completions {
		e.invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions))
	}
	if r.SucceededIndexes != nil && *n > total {
		e.invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total))
	}
}
