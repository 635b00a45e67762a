package policystatus

import (
	registrationv1 "k8s.io/api/admissionregistration/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/expression"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Controller checks the policies. types must be quick and free of side effects.
func Controller(types expression.Types) reconcile.Controller {
	return reconcile.Controller{
		Name: "validatingadmissionpolicy-status-controller", For: kinds.ValidatingAdmissionPolicy,
		Writes: []reconcile.Write{{Kind: kinds.ValidatingAdmissionPolicy, Sub: "status", Verbs: []plan.Verb{plan.Update}}},
		Plan: reconcile.Pair(func(in reconcile.Input) (Observed, bool) {
			p := view.Get[*registrationv1.ValidatingAdmissionPolicy](in.View, kinds.ValidatingAdmissionPolicy, "", in.Key.Name)
			return Observed{p, types}, p != nil
		}, Plan),
	}
}
