package kinds

import (
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/internal/kinds/prepare"
	"knarr.dev/knarr/internal/kinds/validate"
)

// PodDisruptionBudget says how many of some pods may be evicted at once.
var PodDisruptionBudget = &Kind{
	GVK: policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"), Resource: "poddisruptionbudgets", Singular: "poddisruptionbudget", ShortNames: []string{"pdb"},
	Namespaced: true, Prefix: "poddisruptionbudgets",
	New: func() Object { return &policyv1.PodDisruptionBudget{} }, NewList: func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} },
	PrepareCreate: do(prepare.PodDisruptionBudgetCreate), PrepareUpdate: doBoth(prepare.PodDisruptionBudgetUpdate),
	Validate: check(validate.PodDisruptionBudget), ValidateUpdate: checkBoth(validate.PodDisruptionBudgetUpdate),
	Subresources: map[string]Subresource{"status": status(prepare.PodDisruptionBudgetStatusUpdate, validate.PodDisruptionBudgetStatusUpdate)},
	Columns: []Column{
		nameColumn,
		cell("Min Available", "string", "How many pods must be available.", func(b *policyv1.PodDisruptionBudget) any { return orNA(b.Spec.MinAvailable) }),
		cell("Max Unavailable", "string", "How many pods may be unavailable.", func(b *policyv1.PodDisruptionBudget) any { return orNA(b.Spec.MaxUnavailable) }),
		cell("Allowed Disruptions", "integer", "How many pods may be evicted now.", func(b *policyv1.PodDisruptionBudget) any { return int64(b.Status.DisruptionsAllowed) }),
		ageColumn,
	},
	RequireVersion: true,
}

func orNA(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}

var policyKinds = []*Kind{PodDisruptionBudget}
