package admission

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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
