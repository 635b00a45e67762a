package podcertificate

import (
	certificatesv1 "k8s.io/api/certificates/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Controller cleans up.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "podcertificaterequestcleaner", For: kinds.PodCertificateRequest,
		Writes: []reconcile.Write{{Kind: kinds.PodCertificateRequest, Verbs: []plan.Verb{plan.Delete}}},
		Plan: func(in reconcile.Input) plan.Result {
			return Plan(view.Get[*certificatesv1.PodCertificateRequest](in.View, kinds.PodCertificateRequest, in.Key.Namespace, in.Key.Name), in.Now)
		},
	}
}
