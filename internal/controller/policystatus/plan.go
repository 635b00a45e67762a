// Package policystatus notes in the status of a ValidatingAdmissionPolicy what
// a check of its expressions against the types of the objects has found.
package policystatus

import (
	registrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/expression"
	"knarr.dev/knarr/internal/plan"
)

// Observed is a policy and the types that are known.
type Observed struct {
	Policy *registrationv1.ValidatingAdmissionPolicy
	Types  expression.Types
}

// Plan checks each generation of a policy once, as upstream: types that change
// later change nothing.
func Plan(o Observed) plan.Result {
	p := o.Policy
	if p.DeletionTimestamp != nil || p.Generation <= p.Status.ObservedGeneration {
		return plan.Result{}
	}
	p = p.DeepCopy()
	p.Status.ObservedGeneration = p.Generation
	p.Status.TypeChecking = &registrationv1.TypeChecking{ExpressionWarnings: expression.TypeCheck(p, o.Types)}
	return plan.Result{Actions: []plan.Action{{
		Verb: plan.Update, Ref: kinds.RefTo(kinds.ValidatingAdmissionPolicy, p).WithSub("status"), Object: p,
		Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
	}}}
}
