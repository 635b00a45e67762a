package pki

import (
	"crypto/x509"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// RequestSigner certifies requests that somebody else has approved and checked.
type RequestSigner struct {
	Authority *Authority
	Now       func() time.Time
}

// Sign takes the subject, the names and the key from the request, and nothing
// else: extensions that it asks for are left out.
func (s RequestSigner) Sign(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage, ttl time.Duration) ([]byte, error) {
	return s.Authority.Sign(Leaf{
		CommonName: r.Subject.CommonName, Groups: r.Subject.Organization, DNSNames: r.DNSNames, IPs: r.IPAddresses,
		Server: slices.Contains(usages, certificatesv1.UsageServerAuth), Life: ttl,
	}, r.PublicKey, s.Now())
}
