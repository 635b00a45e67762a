package validate

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of a signer's name: a domain, and a path that has room for a
// namespace and a name.
const (
	maxSignerDomain = 253
	maxSigner       = maxSignerDomain + 1 + 63 + 1 + 253
	// legacySigner is one that only older versions of the API knew.
	legacySigner = "kubernetes.io/legacy-unknown"
	// shortestCertificate in seconds.
	shortestCertificate = 600
)

var keyUsages = []certificatesv1.KeyUsage{
	certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature, certificatesv1.UsageContentCommitment,
	certificatesv1.UsageKeyEncipherment, certificatesv1.UsageKeyAgreement, certificatesv1.UsageDataEncipherment,
	certificatesv1.UsageCertSign, certificatesv1.UsageCRLSign, certificatesv1.UsageEncipherOnly, certificatesv1.UsageDecipherOnly,
	certificatesv1.UsageAny, certificatesv1.UsageServerAuth, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning,
	certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel,
	certificatesv1.UsageIPsecUser, certificatesv1.UsageTimestamping, certificatesv1.UsageOCSPSigning, certificatesv1.UsageMicrosoftSGC,
	certificatesv1.UsageNetscapeSGC,
}

func anyName(string, bool) []string { return nil }

// CertificateSigningRequest judges a new request.
func CertificateSigningRequest(csr *certificatesv1.CertificateSigningRequest) field.ErrorList {
	e := meta(&csr.ObjectMeta, false, anyName)
	e.csr(csr)
	return e.list
}

// CertificateSigningRequestUpdate judges changed metadata.
func CertificateSigningRequestUpdate(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	e := metaUpdate(&csr.ObjectMeta, &old.ObjectMeta)
	e.csrChange(csr, old, false, false)
	return e.list
}

// CertificateSigningRequestStatusUpdate judges what a signer writes: the
// certificate, once, or that it failed.
func CertificateSigningRequestStatusUpdate(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	e := metaUpdate(&csr.ObjectMeta, &old.ObjectMeta)
	e.csr(csr)
	e.csrChange(csr, old, false, true)
	return e.list
}

// CertificateSigningRequestApprovalUpdate judges what an approver writes.
func CertificateSigningRequestApprovalUpdate(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	e := metaUpdate(&csr.ObjectMeta, &old.ObjectMeta)
	e.csr(csr)
	e.csrChange(csr, old, true, false)
	return e.list
}

func (e *errors) csr(csr *certificatesv1.CertificateSigningRequest) {
	if err := parseRequest(csr.Spec.Request); err != nil {
		e.invalid(specPath.Child("request"), "<certificate request>", err.Error())
	}
	p := specPath.Child("usages")
	if len(csr.Spec.Usages) == 0 {
		e.required(p)
	}
	seen := map[certificatesv1.KeyUsage]bool{}
	for i, u := range csr.Spec.Usages {
		oneOf(e, p.Index(i), u, keyUsages...)
		unique(e, seen, p.Index(i), u, u)
	}
	if p := specPath.Child("signerName"); csr.Spec.SignerName == legacySigner {
		e.invalid(p, csr.Spec.SignerName, "the legacy signerName is not allowed via this API version")
	} else {
		e.signerName(p, csr.Spec.SignerName)
	}
	if s := csr.Spec.ExpirationSeconds; s != nil && *s < shortestCertificate {
		e.invalid(specPath.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)")
	}
	e.csrConditions(statusPath.Child("conditions"), csr.Status.Conditions)
	if len(csr.Status.Certificate) > 0 {
		if err := checkCertificates(csr.Status.Certificate); err != nil {
			e.invalid(statusPath.Child("certificate"), "<certificate data>", err.Error())
		}
	}
}

func parseRequest(data []byte) error {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return fmt.Errorf("PEM block type must be CERTIFICATE REQUEST")
	}
	_, err := x509.ParseCertificateRequest(block.Bytes)
	return err
}

func checkCertificates(data []byte) error {
	n := 0
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		n++
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) > 0 {
			return fmt.Errorf("no PEM block headers are permitted")
		}
		if _, err := x509.ParseCertificates(block.Bytes); err != nil {
			return err
		}
	}
	if n == 0 {
		return fmt.Errorf("must contain one or more PEM blocks")
	}
	return nil
}

func (e *errors) signerName(p *field.Path, name string) {
	if name == "" {
		e.required(p)
		return
	}
	domain, rest, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(rest, "/") {
		e.invalid(p, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
		return
	}
	if len(domain) > maxSignerDomain {
		e.add(field.TooLong(p, "", maxSignerDomain))
	}
	labels := strings.Split(domain, ".")
	e.firstBad(p, domain, labels, validation.IsDNS1123Label)
	if len(labels) < 2 {
		e.invalid(p, domain, "should be a domain with at least two segments separated by dots")
	}
	e.firstBad(p, rest, strings.Split(rest, "."), validation.IsDNS1123Subdomain)
	if len(name) > maxSigner {
		e.add(field.TooLong(p, "", maxSigner))
	}
}

// firstBad tells about the first part that is wrong: the others would read
// alike.
func (e *errors) firstBad(p *field.Path, whole string, parts []string, rule func(string) []string) {
	for _, part := range parts {
		if bad := rule(part); len(bad) > 0 {
			for _, m := range bad {
				e.invalid(p, whole, fmt.Sprintf("validating label %q: %s", part, m))
			}
			return
		}
	}
}

func (e *errors) csrConditions(p *field.Path, list []certificatesv1.CertificateSigningRequestCondition) {
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, c := range list {
		at := p.Index(i)
		if c.Type == "" {
			e.required(at.Child("type"))
		}
		status := at.Child("status")
		switch c.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			in(e, status, c.Status, corev1.ConditionTrue)
		default:
			in(e, status, c.Status, corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown)
		}
		unique(e, seen, at.Child("type"), c.Type, c.Type)
		if c.Type == certificatesv1.CertificateApproved && seen[certificatesv1.CertificateDenied] ||
			c.Type == certificatesv1.CertificateDenied && seen[certificatesv1.CertificateApproved] {
			e.invalid(p, c.Type, "Approved and Denied conditions are mutually exclusive")
		}
	}
}

// csrChange: a decision is made once, by an approver, and a certificate is set
// once, by a signer.
func (e *errors) csrChange(csr, old *certificatesv1.CertificateSigningRequest, approver, signer bool) {
	p := statusPath.Child("conditions")
	of := func(c *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) []certificatesv1.CertificateSigningRequestCondition {
		var found []certificatesv1.CertificateSigningRequestCondition
		for _, cond := range c.Status.Conditions {
			if cond.Type == t {
				found = append(found, cond)
			}
		}
		return found
	}
	for _, t := range [...]certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		is, was := of(csr, t), of(old, t)
		switch {
		case len(is) < len(was):
			e.forbid(p, fmt.Sprintf("updates may not remove a condition of type %q", t))
		case approver || t == certificatesv1.CertificateFailed:
		case len(is) > len(was):
			e.forbid(p, fmt.Sprintf("updates may not add a condition of type %q", t))
		case !same(is, was):
			e.forbid(p, fmt.Sprintf("updates may not modify a condition of type %q", t))
		}
	}
	if !bytes.Equal(csr.Status.Certificate, old.Status.Certificate) {
		at := statusPath.Child("certificate")
		switch {
		case !signer:
			e.forbid(at, "updates may not set certificate content")
		case len(old.Status.Certificate) > 0:
			e.forbid(at, "updates may not modify existing certificate content")
		}
	}
}
