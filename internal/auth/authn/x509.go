package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
)

// CertPool returns the roots that certificates are checked against, now:
// another pool takes effect at once. The TLS layer only asks for a certificate,
// it does not verify it.
type CertPool func() *x509.CertPool

var (
	errCertificate = errors.New("the client certificate has no common name")
	errUID         = errors.New("UID cannot be an empty string")

	// uidAttribute of a subject holds the user's UID.
	uidAttribute = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57683, 2}
)

// certificate is a verified one.
type certificate struct {
	user        user.Info
	roots       *x509.CertPool // that it was verified against
	from, until time.Time
}

// certificate is the identity of x509: the common name, the organizations and
// the UID.
func (a *Authenticator) certificate(r *http.Request) (user.Info, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, nil
	}
	leaf, now, roots := r.TLS.PeerCertificates[0], a.cfg.Now(), a.cfg.Roots()
	key := sha256.Sum256(leaf.Raw)
	if c, ok := a.certificates.get(key); ok && c.roots.Equal(roots) && !now.Before(c.from) && !now.After(c.until) {
		return c.user, nil
	}
	c := certificate{roots: roots}
	var err error
	if c.from, c.until, err = verifyChain(r.TLS.PeerCertificates, roots, now); err != nil {
		return nil, err
	}
	if leaf.Subject.CommonName == "" {
		return nil, errCertificate
	}
	uid, err := certificateUID(leaf)
	if err != nil {
		return nil, err
	}
	c.user = known(&user.DefaultInfo{Name: leaf.Subject.CommonName, UID: uid, Groups: leaf.Subject.Organization,
		Extra: map[string][]string{credentialID: {"X509SHA256=" + hex.EncodeToString(key[:])}}})
	a.certificates.put(key, c)
	return c.user, nil
}

// verifyChain also tells when the chain holds.
func verifyChain(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) (from, until time.Time, err error) {
	leaf := chain[0]
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	if roots == nil {
		roots = x509.NewCertPool() // not the system's
	}
	verified, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return from, until, err
	}
	from, until = leaf.NotBefore, leaf.NotAfter
	for _, link := range verified[0] {
		if link.NotAfter.Before(until) {
			until = link.NotAfter
		}
		if link.NotBefore.After(from) {
			from = link.NotBefore
		}
	}
	return from, until, nil
}

func certificateUID(leaf *x509.Certificate) (string, error) {
	var uids []string
	for _, name := range leaf.Subject.Names {
		if !name.Type.Equal(uidAttribute) {
			continue
		}
		uid, ok := name.Value.(string)
		if !ok {
			return "", errors.New("unable to parse UID into a string")
		}
		uids = append(uids, uid)
	}
	switch {
	case len(uids) == 0:
		return "", nil
	case len(uids) > 1:
		return "", fmt.Errorf("expected 1 UID, but found multiple: %v", uids)
	case uids[0] == "":
		return "", errUID
	}
	return uids[0], nil
}
