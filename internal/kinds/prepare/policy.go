package prepare

import (
	"slices"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// betaSelector is a key by which upstream's policy/v1beta1 told an absent
// selector from an empty one. It means nothing in a selector of anything else.
const betaSelector = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match"

// PodDisruptionBudgetCreate clears the status.
func PodDisruptionBudgetCreate(b *policyv1.PodDisruptionBudget) {
	fresh(b, true)
	b.Status = policyv1.PodDisruptionBudgetStatus{}
	dropBetaSelector(b.Spec.Selector)
}

// PodDisruptionBudgetUpdate keeps the status and counts changes.
func PodDisruptionBudgetUpdate(b, old *policyv1.PodDisruptionBudget) {
	Keep(b, old)
	b.Status = old.Status
	if differ(b.Spec.Selector, old.Spec.Selector) {
		dropBetaSelector(b.Spec.Selector)
	}
	bump(b, old, differ(b.Spec, old.Spec))
}

// PodDisruptionBudgetStatusUpdate keeps the spec.
func PodDisruptionBudgetStatusUpdate(b, old *policyv1.PodDisruptionBudget) {
	Keep(b, old)
	b.Spec = old.Spec
}

func dropBetaSelector(s *metav1.LabelSelector) {
	if s == nil || len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 1 && s.MatchExpressions[0].Operator == metav1.LabelSelectorOpExists {
		return // that alone selects nothing, and stays
	}
	s.MatchExpressions = slices.DeleteFunc(s.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool { return r.Key == betaSelector })
}
