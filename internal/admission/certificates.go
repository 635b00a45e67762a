package admission

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/kinds"
)

var errNotRequest = errors.New("PEM block type must be CERTIFICATE REQUEST")

// certificateSubject writes down who asks for a certificate, whatever the
// client wrote there, and lets nobody ask for group system:masters: that would
// be a right that cannot be taken back before the certificate ends.
type certificateSubject struct{}

func (certificateSubject) Name() string { return "CertificateSubjectRestriction" }

func (certificateSubject) Mutate(_ context.Context, r *Request) error {
	csr, ok := created[*certificatesv1.CertificateSigningRequest](r, kinds.CertificateSigningRequest)
	if !ok {
		return nil
	}
	csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups, csr.Spec.Extra = r.User.GetName(), r.User.GetUID(), slices.Clone(r.User.GetGroups()), nil
	for k, v := range r.User.GetExtra() {
		if csr.Spec.Extra == nil {
			csr.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		csr.Spec.Extra[k] = slices.Clone(v)
	}
	return nil
}

func (certificateSubject) Validate(_ context.Context, r *Request) error {
	csr, ok := created[*certificatesv1.CertificateSigningRequest](r, kinds.CertificateSigningRequest)
	if !ok || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	req, err := parseRequest(csr.Spec.Request)
	if err != nil {
		return forbid(r, fmt.Errorf("failed to parse CSR: %w", err))
	}
	if slices.Contains(req.Subject.Organization, user.SystemPrivilegedGroup) {
		return forbid(r, fmt.Errorf("use of %s signer with %s group is not allowed", csr.Spec.SignerName, user.SystemPrivilegedGroup))
	}
	return nil
}

// certificateApproval: who approves or denies a request needs the permission
// for its signer.
type certificateApproval struct{ authz Authorizer }

func (certificateApproval) Name() string { return "CertificateApproval" }

func (certificateApproval) Mutate(context.Context, *Request) error { return nil }

func (p certificateApproval) Validate(ctx context.Context, r *Request) error {
	if r.Ref.Kind != kinds.CertificateSigningRequest || r.Ref.Sub != "approval" {
		return nil
	}
	old, ok := r.Old.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return nil
	}
	if !maySigner(ctx, p.authz, r, "approve", old.Spec.SignerName) {
		return forbid(r, fmt.Errorf("user not permitted to approve requests with signerName %q", old.Spec.SignerName))
	}
	return nil
}

// certificateSigning: who writes a certificate, or that there will be none,
// needs the permission for the signer.
type certificateSigning struct{ authz Authorizer }

func (certificateSigning) Name() string { return "CertificateSigning" }

func (certificateSigning) Mutate(context.Context, *Request) error { return nil }

func (p certificateSigning) Validate(ctx context.Context, r *Request) error {
	if r.Ref.Kind != kinds.CertificateSigningRequest || r.Ref.Sub != "status" {
		return nil
	}
	old, ok := r.Old.(*certificatesv1.CertificateSigningRequest)
	csr, ok2 := r.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || !ok2 || bytes.Equal(old.Status.Certificate, csr.Status.Certificate) && equality.Semantic.DeepEqual(old.Status.Conditions, csr.Status.Conditions) {
		return nil
	}
	if !maySigner(ctx, p.authz, r, "sign", old.Spec.SignerName) {
		return forbid(r, fmt.Errorf("user not permitted to sign requests with signerName %q", old.Spec.SignerName))
	}
	return nil
}

// maySigner asks for the verb on the signer, or on all of its domain.
func maySigner(ctx context.Context, a Authorizer, r *Request, verb, name string) bool {
	domain, _, _ := strings.Cut(name, "/")
	for _, n := range [...]string{name, domain + "/*"} {
		if may(ctx, a, r.User, request{verb: verb, group: certificatesv1.GroupName, resource: "signers", name: n}) {
			return true
		}
	}
	return false
}

// trustAttest: who says whom a signer's certificates are to be checked against
// needs the permission for the signer.
type trustAttest struct{ authz Authorizer }

func (trustAttest) Name() string { return "ClusterTrustBundleAttest" }

func (trustAttest) Mutate(context.Context, *Request) error { return nil }

func (p trustAttest) Validate(ctx context.Context, r *Request) error {
	if r.Ref.Kind != kinds.ClusterTrustBundle || r.Operation != Create && r.Operation != Update {
		return nil
	}
	b, ok := r.Object.(*certificatesv1.ClusterTrustBundle)
	if !ok || b.Spec.SignerName == "" {
		return nil
	}
	// The signer's name never changes: the new object's will do.
	if old, ok := r.Old.(*certificatesv1.ClusterTrustBundle); ok && r.Operation == Update && onlyCollected(b, old) {
		return nil
	}
	if !maySigner(ctx, p.authz, r, "attest", b.Spec.SignerName) {
		return forbid(r, fmt.Errorf("user not permitted to attest for signerName %q", b.Spec.SignerName))
	}
	return nil
}

// onlyCollected: nothing changes but what garbage collection and storage
// migration write.
func onlyCollected(obj, old kinds.Object) bool {
	c := obj.DeepCopyObject().(kinds.Object)
	c.SetOwnerReferences(old.GetOwnerReferences())
	c.SetFinalizers(old.GetFinalizers())
	c.SetSelfLink(old.GetSelfLink())
	c.SetManagedFields(old.GetManagedFields())
	return equality.Semantic.DeepEqual(c, old)
}

// podCertificateSigning: who decides about a pod's certificate needs the
// permission for its signer, and the certificate begins about now. Both are
// rules of upstream's validation, and answered as such.
type podCertificateSigning struct{ c *Config }

// startSlack is how far the clocks of a signer and of this server may differ.
const startSlack = 5 * time.Minute

func (podCertificateSigning) Name() string { return "PodCertificateRequestSigning" }

func (podCertificateSigning) Mutate(context.Context, *Request) error { return nil }

func (p podCertificateSigning) Validate(ctx context.Context, r *Request) error {
	if r.Ref.Kind != kinds.PodCertificateRequest || r.Ref.Sub != "status" {
		return nil
	}
	old, ok := r.Old.(*certificatesv1.PodCertificateRequest)
	req, ok2 := r.Object.(*certificatesv1.PodCertificateRequest)
	if !ok || !ok2 || equality.Semantic.DeepEqual(old.Status, req.Status) {
		return nil
	}
	refuse := func(err *field.Error) error {
		return apierrors.NewInvalid(kinds.PodCertificateRequest.GVK.GroupKind(), req.Name, field.ErrorList{err})
	}
	if from := req.Status.NotBefore; from != nil {
		if d := p.c.Now().Sub(from.Time); d >= startSlack || d <= -startSlack {
			return refuse(field.Invalid(field.NewPath("status", "notBefore"), from.Time, "must be set to within 5 minutes of kube-apiserver's current time"))
		}
	}
	if !maySigner(ctx, p.c.Authz, r, "sign", old.Spec.SignerName) {
		return refuse(field.Forbidden(field.NewPath("spec", "signerName"), fmt.Sprintf("User %q is not permitted to \"sign\" for signer %q", r.User.GetName(), old.Spec.SignerName)))
	}
	return nil
}
