// Package trustbundle publishes the authority by which the API servers'
// certificates are checked, as a ClusterTrustBundle.
package trustbundle

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Signer of the API servers' certificates.
const Signer = "kubernetes.io/kube-apiserver-serving"

// Name of the object for a bundle: another bundle is another object, so that
// nobody reads half of a change. Upstream's form.
func Name(bundle string) string {
	sum := sha256.Sum256([]byte(bundle))
	return strings.ReplaceAll(Signer, "/", ":") + ":" + hex.EncodeToString(sum[:12])
}

// Plan keeps one object for the signer. An empty bundle changes nothing: an
// old one is better than none.
func Plan(bundle string, have []*certificatesv1.ClusterTrustBundle) plan.Result {
	if strings.TrimSpace(bundle) == "" {
		return plan.Result{}
	}
	want := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: Name(bundle)},
		Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: Signer, TrustBundle: bundle}}
	var res plan.Result
	i := slices.IndexFunc(have, func(b *certificatesv1.ClusterTrustBundle) bool { return b.Name == want.Name })
	switch {
	case i < 0:
		res.Actions = append(res.Actions, plan.Action{Verb: plan.Create, Ref: kinds.RefTo(kinds.ClusterTrustBundle, want), Object: want})
	case have[i].Spec.TrustBundle != bundle && have[i].DeletionTimestamp == nil:
		b := have[i].DeepCopy()
		b.Spec.TrustBundle = bundle
		res.Actions = append(res.Actions, plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.ClusterTrustBundle, b), Object: b})
	}
	have = slices.SortedFunc(slices.Values(have), func(a, b *certificatesv1.ClusterTrustBundle) int { return cmp.Compare(a.Name, b.Name) })
	for _, b := range have {
		if b.Name != want.Name && b.Spec.SignerName == Signer && b.DeletionTimestamp == nil {
			res.Actions = append(res.Actions, plan.Action{Verb: plan.Delete, Ref: kinds.RefTo(kinds.ClusterTrustBundle, b), UID: b.UID,
				Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound}})
		}
	}
	return res
}
