package kinds

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/kinds/prepare"
	"knarr.dev/knarr/internal/kinds/validate"
)

// What pods prove themselves by and whom they trust.
var (
	ClusterTrustBundle = &Kind{
		GVK: certificatesv1.SchemeGroupVersion.WithKind("ClusterTrustBundle"), Resource: "clustertrustbundles", Singular: "clustertrustbundle",
		Prefix: "clustertrustbundles",
		New:    func() Object { return &certificatesv1.ClusterTrustBundle{} }, NewList: func() runtime.Object { return &certificatesv1.ClusterTrustBundleList{} },
		PrepareCreate: do(prepare.Create[*certificatesv1.ClusterTrustBundle]), PrepareUpdate: doBoth(prepare.Keep[*certificatesv1.ClusterTrustBundle]),
		Validate: check(validate.ClusterTrustBundle), ValidateUpdate: checkBoth(validate.ClusterTrustBundleUpdate),
		Columns: []Column{
			nameColumn,
			cell("SignerName", "string", "Whose certificates it is to check; none: anybody's.", func(b *certificatesv1.ClusterTrustBundle) any { return orNone(b.Spec.SignerName) }),
		},
		Fields:         selectable{"spec.signerName": text(func(b *certificatesv1.ClusterTrustBundle) string { return b.Spec.SignerName })},
		RequireVersion: true,
	}
	PodCertificateRequest = &Kind{
		GVK: certificatesv1.SchemeGroupVersion.WithKind("PodCertificateRequest"), Resource: "podcertificaterequests", Singular: "podcertificaterequest",
		Namespaced: true, Prefix: "podcertificaterequests",
		New: func() Object { return &certificatesv1.PodCertificateRequest{} }, NewList: func() runtime.Object { return &certificatesv1.PodCertificateRequestList{} },
		Default:       do(defaults.PodCertificateRequest),
		PrepareCreate: do(prepare.PodCertificateRequestCreate), PrepareUpdate: doBoth(prepare.PodCertificateRequestUpdate),
		Validate: check(validate.PodCertificateRequest), ValidateUpdate: checkBoth(validate.PodCertificateRequestUpdate),
		Subresources: map[string]Subresource{"status": status(prepare.PodCertificateRequestStatusUpdate, validate.PodCertificateRequestStatusUpdate)},
		Columns: []Column{
			nameColumn,
			cell("PodName", "string", "Pod that is to have the certificate.", func(r *certificatesv1.PodCertificateRequest) any { return r.Spec.PodName }),
			cell("ServiceAccountName", "string", "Its service account.", func(r *certificatesv1.PodCertificateRequest) any { return r.Spec.ServiceAccountName }),
			cell("NodeName", "string", "Its node.", func(r *certificatesv1.PodCertificateRequest) any { return string(r.Spec.NodeName) }),
			cell("SignerName", "string", "Who is to sign.", func(r *certificatesv1.PodCertificateRequest) any { return r.Spec.SignerName }),
			cell("State", "string", "Is the request Pending, Issued, Denied, or Failed?", func(r *certificatesv1.PodCertificateRequest) any { return certificateState(r) }),
			wide(cell("UnverifiedUserAnnotations", "string", "What the pod's author wants the signer to know; nobody has checked it.", func(r *certificatesv1.PodCertificateRequest) any {
				return labels.FormatLabels(r.Spec.UnverifiedUserAnnotations)
			})),
		},
		Fields: selectable{
			"spec.signerName": text(func(r *certificatesv1.PodCertificateRequest) string { return r.Spec.SignerName }),
			"spec.podName":    text(func(r *certificatesv1.PodCertificateRequest) string { return r.Spec.PodName }),
			"spec.nodeName":   text(func(r *certificatesv1.PodCertificateRequest) string { return string(r.Spec.NodeName) }),
		},
		RequireVersion: true,
	}
)

var podCertificates = []*Kind{ClusterTrustBundle, PodCertificateRequest}

func certificateState(r *certificatesv1.PodCertificateRequest) string {
	state := "Pending"
	for _, c := range r.Status.Conditions {
		switch c.Type {
		case certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
			state = c.Type
		}
	}
	return state
}
