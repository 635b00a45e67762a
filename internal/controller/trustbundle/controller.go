package trustbundle

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Controller's name, which the right to attest for the signer is bound to.
const ControllerName = "kube-apiserver-serving-clustertrustbundle-publisher"

// resync bounds how long a rotated authority goes unpublished, which no object
// tells.
const resync = 10 * time.Minute

// Controller publishes what bundle returns, which must be quick.
func Controller(bundle func() []byte) reconcile.Controller {
	return reconcile.Controller{
		Name: ControllerName, Resync: resync,
		Watches: []reconcile.Watch{{Kind: kinds.ClusterTrustBundle, Keys: func(_ *view.Snapshot, c view.Change) []reconcile.Key {
			if b, ok := c.Object().(*certificatesv1.ClusterTrustBundle); !ok || b.Spec.SignerName != Signer {
				return nil
			}
			return []reconcile.Key{{}}
		}}},
		Writes: []reconcile.Write{{Kind: kinds.ClusterTrustBundle, Verbs: []plan.Verb{plan.Create, plan.Update, plan.Delete}}},
		Plan: func(in reconcile.Input) plan.Result {
			var mine []*certificatesv1.ClusterTrustBundle
			for b := range view.List[*certificatesv1.ClusterTrustBundle](in.View, kinds.ClusterTrustBundle, "") {
				if b.Spec.SignerName == Signer {
					mine = append(mine, b)
				}
			}
			return Plan(string(bundle()), mine)
		},
	}
}
