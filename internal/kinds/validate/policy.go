package validate

import (
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PodDisruptionBudget judges a new budget.
func PodDisruptionBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	e := meta(&b.ObjectMeta, true, path.ValidatePathSegmentName)
	e.budget(&b.Spec)
	return e.list
}

// PodDisruptionBudgetUpdate judges a changed one.
func PodDisruptionBudgetUpdate(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
	e := metaUpdate(&b.ObjectMeta, &old.ObjectMeta)
	e.budget(&b.Spec)
	return e.list
}

func (e *errors) budget(s *policyv1.PodDisruptionBudgetSpec) {
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		e.invalid(specPath, *s, "minAvailable and maxUnavailable cannot be both set")
	}
	amount := func(name string, v *intstr.IntOrString) {
		if v != nil {
			e.portion(specPath.Child(name), v)
			e.atMostAll(specPath.Child(name), v)
		}
	}
	amount("minAvailable", s.MinAvailable)
	amount("maxUnavailable", s.MaxUnavailable)
	e.selector(specPath.Child("selector"), s.Selector)
	inPtr(e, specPath.Child("unhealthyPodEvictionPolicy"), s.UnhealthyPodEvictionPolicy, policyv1.AlwaysAllow, policyv1.IfHealthyBudget)
}

// PodDisruptionBudgetStatusUpdate judges the counts.
func PodDisruptionBudgetStatusUpdate(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
	e := metaUpdate(&b.ObjectMeta, &old.ObjectMeta)
	e.all(metavalidation.ValidateConditions(b.Status.Conditions, statusPath.Child("conditions")))
	for _, c := range []count{
		{"disruptionsAllowed", b.Status.DisruptionsAllowed}, {"currentHealthy", b.Status.CurrentHealthy},
		{"desiredHealthy", b.Status.DesiredHealthy}, {"expectedPods", b.Status.ExpectedPods},
	} {
		e.notNegative(statusPath.Child(c.name), int64(c.n))
	}
	return e.list
}
