package validate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/mail"
	"strconv"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Upstream's bounds, in bytes and seconds.
const (
	maxKey              = 10 << 10
	maxChain            = 100 << 10
	maxUID              = 128
	shortestPodLife     = 60 * 60
	longestPodLife      = 91 * 24 * 60 * 60
	longestOfKubernetes = 24 * 60 * 60
	refreshMargin       = 10 * time.Minute
)

// PodCertificateRequest judges a new one.
func PodCertificateRequest(r *certificatesv1.PodCertificateRequest) field.ErrorList {
	e := meta(&r.ObjectMeta, true, subdomain)
	e.signerName(specPath.Child("signerName"), r.Spec.SignerName)
	e.userAnnotations(specPath.Child("unverifiedUserAnnotations"), r.Spec.UnverifiedUserAnnotations)
	for _, x := range []struct{ name, value, uid string }{
		{"pod", r.Spec.PodName, string(r.Spec.PodUID)}, {"serviceAccount", r.Spec.ServiceAccountName, string(r.Spec.ServiceAccountUID)},
		{"node", string(r.Spec.NodeName), string(r.Spec.NodeUID)},
	} {
		e.msgs(specPath.Child(x.name+"Name"), x.value, subdomain(x.value, false))
		p := specPath.Child(x.name + "UID")
		if x.uid == "" {
			e.invalid(p, x.uid, "must not be empty")
		}
		if len(x.uid) > maxUID {
			e.add(field.TooLong(p, x.uid, maxUID))
		}
	}
	p := specPath.Child("maxExpirationSeconds")
	if r.Spec.MaxExpirationSeconds == nil {
		e.add(field.Required(p, "must be set"))
		return e.list
	}
	if s, most := *r.Spec.MaxExpirationSeconds, longestLife(r.Spec.SignerName); s < shortestPodLife || s > most {
		e.invalid(p, s, fmt.Sprintf("must be in the range [%d, %d]", shortestPodLife, most))
	}
	e.certifiedKey(r)
	return e.list
}

func longestLife(signer string) int32 {
	if kubernetesSigner(signer) {
		return longestOfKubernetes
	}
	return longestPodLife
}

// userAnnotations are meant for a signer, so each belongs to a domain.
func (e *errors) userAnnotations(p *field.Path, m map[string]string) {
	if m == nil {
		return
	}
	size := 0
	for k, v := range m {
		e.all(validation.IsDomainPrefixedKey(p, strings.ToLower(k)))
		size += len(k) + len(v)
	}
	if size > maxAnnotations {
		e.add(field.TooLong(p, "", maxAnnotations))
	}
}

// maxAnnotations is the limit of all annotations of an object together.
const maxAnnotations = 256 << 10

// certifiedKey: the requester shows that it has the key, by an empty request
// that the key has signed. Upstream's words name the older form of v1beta1 too.
func (e *errors) certifiedKey(r *certificatesv1.PodCertificateRequest) {
	if len(r.Spec.StubPKCS10Request) == 0 {
		e.invalid(specPath, field.OmitValueType{}, "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set")
		return
	}
	e.stubRequest(specPath.Child("stubPKCS10Request"), r.Spec.StubPKCS10Request)
}

func (e *errors) stubRequest(p *field.Path, der []byte) {
	if len(der) > maxKey {
		e.add(field.TooLong(p, der, maxKey))
		return
	}
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		e.invalid(p, field.OmitValueType{}, "must be a valid PKCS#10 CSR")
		return
	}
	if value, why := weakKey(req.PublicKey); why != "" {
		e.invalid(p, value, why)
		return
	}
	if req.CheckSignature() != nil {
		e.invalid(p, field.OmitValueType{}, "invalid signature")
	}
}

// weakKey says what is wrong with a public key, and which value shows it.
func weakKey(key any) (value any, why string) {
	switch k := key.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return "curve " + k.Curve.Params().Name, "elliptic public keys must use curve P256, P384, or P521"
		}
	case *rsa.PublicKey:
		if bits := k.Size() * 8; bits != 3072 && bits != 4096 {
			return fmt.Sprintf("%d-bit modulus", bits), "RSA keys must have modulus size 3072 or 4096"
		}
	default:
		return field.OmitValueType{}, "unknown public key type; supported types are Ed25519, ECDSA, and RSA"
	}
	return nil, ""
}

// PodCertificateRequestUpdate judges changed metadata; the rest stays.
func PodCertificateRequestUpdate(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
	e := metaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	e.immutable(specPath, r.Spec, old.Spec)
	return e.list
}

// PodCertificateRequestStatusUpdate judges what a signer writes, once. That the
// certificate begins about now is for who has a clock: the apiserver's
// admission.
func PodCertificateRequestStatusUpdate(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
	e := metaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	if len(e.list) > 0 {
		return e.list
	}
	if e.certificateConditions(r.Status.Conditions); len(e.list) > 0 {
		return e.list
	}
	unlike := func(want certificatesv1.PodCertificateRequestStatus, why string) {
		if !same(r.Status, want) {
			e.invalid(statusPath, field.OmitValueType{}, why)
		}
	}
	switch {
	case decision(old) != "":
		unlike(old.Status, "immutable after PodCertificateRequest is issued, denied, or failed")
	case decision(r) == certificatesv1.PodCertificateRequestConditionTypeIssued:
		e.issued(r)
	case decision(r) != "":
		unlike(certificatesv1.PodCertificateRequestStatus{Conditions: r.Status.Conditions}, "non-condition status fields must be empty when denying or failing the PodCertificateRequest")
	default:
		unlike(old.Status, `status is immutable unless transitioning to "Issued", "Denied", or "Failed"`)
	}
	return e.list
}

var decisions = []string{certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed}

// decision is the condition by which the request has ended, or "".
func decision(r *certificatesv1.PodCertificateRequest) string {
	for _, t := range decisions {
		for _, c := range r.Status.Conditions {
			if c.Type == t && c.Status == metav1.ConditionTrue {
				return t
			}
		}
	}
	return ""
}

// certificateConditions: at most one, and it holds. Upstream's paths have the
// index as a child.
func (e *errors) certificateConditions(list []metav1.Condition) {
	n := 0
	for i, c := range list {
		at := statusPath.Child("conditions", "["+strconv.Itoa(i)+"]")
		switch c.Type {
		case decisions[0], decisions[1], decisions[2]:
			if n++; n > 1 {
				e.invalid(at.Child("type"), c.Type, `There may be at most one condition with type "Issued", "Denied", or "Failed"`)
			}
			if c.Status != metav1.ConditionTrue {
				e.add(field.NotSupported(at.Child("status"), c.Status, []metav1.ConditionStatus{metav1.ConditionTrue}))
			}
		default:
			e.add(field.NotSupported(at.Child("type"), c.Type, decisions))
		}
	}
	e.all(metavalidation.ValidateConditions(list, statusPath.Child("conditions")))
}

// issued: the chain is for the key that was asked for, and the times say what
// it says.
func (e *errors) issued(r *certificatesv1.PodCertificateRequest) {
	p, chain := statusPath.Child("certificateChain"), r.Status.CertificateChain
	if len(chain) > maxChain {
		e.add(field.TooLong(p, chain, maxChain))
		return
	}
	leaf, rest, why := leafOf(chain)
	if why != "" {
		e.invalid(p, chain, why)
		return
	}
	e.leafNames(p, leaf)
	req, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
	if err != nil {
		e.invalid(specPath.Child("stubPKCS10Request"), field.OmitValueType{}, "must be a valid PKCS#10 CSR")
		return
	}
	if k, ok := req.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(leaf.PublicKey) {
		e.invalid(p, chain, "leaf certificate was not issued to the requested public key")
		return
	}
	if !e.certificateTimes(p, r, leaf) {
		return
	}
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return
		}
		if b.Type != "CERTIFICATE" {
			e.invalid(p, chain, "issued certificate chain must consist entirely of CERTFICATE PEM blocks")
			return
		}
		if _, err := x509.ParseCertificate(b.Bytes); err != nil {
			e.invalid(p, chain, "intermediate certificate does not parse as valid X.509")
			return
		}
	}
}

func leafOf(chain string) (leaf *x509.Certificate, rest []byte, why string) {
	b, rest := pem.Decode([]byte(chain))
	if b == nil {
		return nil, nil, "issued certificate chain must contain at least one certificate"
	}
	if b.Type != "CERTIFICATE" {
		return nil, nil, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks"
	}
	leaf, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil, nil, "leaf certificate does not parse as valid X.509"
	}
	return leaf, rest, ""
}

func (e *errors) leafNames(p *field.Path, leaf *x509.Certificate) {
	for _, n := range leaf.DNSNames {
		if n == "" {
			e.invalid(p, n, "leaf certificate should not contain empty DNSName")
		}
		if strings.Contains(n, "..") {
			e.invalid(p, n, "leaf certificate's DNSName should not contain '..'")
		}
		if strings.HasPrefix(n, ".") || strings.HasSuffix(n, ".") {
			e.invalid(p, n, "leaf certificate's DNSName should not start or end with '.'")
		}
	}
	for _, a := range leaf.EmailAddresses {
		if _, err := mail.ParseAddress(a); err != nil {
			e.invalid(p, a, "leaf certificate should not contain invalid EmailAddress")
		}
	}
}

func (e *errors) certificateTimes(chain *field.Path, r *certificatesv1.PodCertificateRequest, leaf *x509.Certificate) bool {
	n := len(e.list)
	from, to, refresh := statusPath.Child("notBefore"), statusPath.Child("notAfter"), statusPath.Child("beginRefreshAt")
	s := &r.Status
	if s.NotBefore == nil {
		e.add(field.Required(from, "must be present and consistent with the issued certificate"))
	}
	if s.NotAfter == nil {
		e.add(field.Required(to, "must be present and consistent with the issued certificate"))
	}
	if s.BeginRefreshAt == nil {
		e.add(field.Required(refresh, "must be present and in the range [notbefore+10min, notafter-10min]"))
	}
	if len(e.list) > n {
		return false
	}
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	switch {
	case !s.NotBefore.Time.Equal(leaf.NotBefore):
		e.invalid(from, s.NotBefore.Time, "must be set to the NotBefore time encoded in the leaf certificate")
	case !s.NotAfter.Time.Equal(leaf.NotAfter):
		e.invalid(to, s.NotAfter.Time, "must be set to the NotAfter time encoded in the leaf certificate")
	case life < time.Hour:
		e.invalid(chain, life, "leaf certificate lifetime must be >= 1 hour")
	case r.Spec.MaxExpirationSeconds != nil && life > time.Duration(*r.Spec.MaxExpirationSeconds)*time.Second:
		e.invalid(chain, life, fmt.Sprintf("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%v)", *r.Spec.MaxExpirationSeconds))
	case s.BeginRefreshAt.Time.Before(s.NotBefore.Add(refreshMargin)):
		e.invalid(refresh, s.BeginRefreshAt.Time, "must be at least 10 minutes after status.notBefore")
	case s.BeginRefreshAt.Time.After(s.NotAfter.Add(-refreshMargin)):
		e.invalid(refresh, s.BeginRefreshAt.Time, "must be at least 10 minutes before status.notAfter")
	}
	return len(e.list) == n
}
