// Package authn finds out who sent a request: client certificates, service
// account tokens, bootstrap tokens. Credentials that do not hold are refused;
// only a request without any is anonymous, and may then do next to nothing.
package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/view"
)

const (
	// Anonymous is who sends a request without credentials.
	Anonymous       = user.Anonymous
	unauthenticated = user.AllUnauthenticated
	authenticated   = user.AllAuthenticated

	maxToken = 16 << 10 // a header's worth

	credentialID = "authentication.kubernetes.io/credential-id"
)

var (
	errConfig      = errors.New("authn: roots, view and tokens are needed")
	errCredentials = errors.New("invalid bearer token")
	errCertificate = errors.New("the client certificate has no common name")
)

// Config of an Authenticator.
type Config struct {
	// Roots that client certificates are checked against, now: another pool
	// takes effect at once. The TLS layer only asks for a certificate, it does
	// not verify it.
	Roots func() *x509.CertPool
	// View holds secrets, service accounts, pods and nodes.
	View   *view.View
	Tokens *Tokens
	Now    func() time.Time // nil: time.Now
}

// Authenticator implements authenticator.Request.
type Authenticator struct {
	cfg Config
	// certificates that have been verified, by their hash: a connection sends
	// many requests, and checking a signature costs more than answering most.
	certificates *remembered[certificate]
}

var _ authenticator.Request = (*Authenticator)(nil)

// certificate is a verified one.
type certificate struct {
	user        user.Info
	roots       *x509.CertPool // that it was verified against
	from, until time.Time
}

// New checks the configuration.
func New(cfg Config) (*Authenticator, error) {
	if cfg.Roots == nil || cfg.View == nil || cfg.Tokens == nil {
		return nil, errConfig
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Authenticator{cfg: cfg, certificates: newRemembered[certificate]()}, nil
}

// AuthenticateRequest implements authenticator.Request. It says false never:
// who shows nothing is Anonymous, and bad credentials are an error.
func (a *Authenticator) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	u, err := a.identify(r)
	if err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: u}, true, nil
}

// identify takes the certificate if it holds, else the token.
func (a *Authenticator) identify(r *http.Request) (user.Info, error) {
	token, hasToken, tokenErr := bearer(r)
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		u, err := a.certificate(r.TLS.PeerCertificates)
		if err == nil || !hasToken {
			return u, err
		}
	}
	switch {
	case tokenErr != nil:
		return nil, tokenErr
	case hasToken:
		return a.token(token)
	}
	return &user.DefaultInfo{Name: Anonymous, Groups: []string{unauthenticated}}, nil
}

// certificate is the identity of x509: the common name and the organizations.
func (a *Authenticator) certificate(chain []*x509.Certificate) (user.Info, error) {
	leaf, now, roots := chain[0], a.cfg.Now(), a.cfg.Roots()
	key := sha256.Sum256(leaf.Raw)
	if c, ok := a.certificates.get(key); ok && c.roots.Equal(roots) && !now.Before(c.from) && !now.After(c.until) {
		return c.user, nil
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	verified, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, err
	}
	if leaf.Subject.CommonName == "" {
		return nil, errCertificate
	}
	c := certificate{roots: roots, from: leaf.NotBefore, until: leaf.NotAfter, user: known(&user.DefaultInfo{
		Name: leaf.Subject.CommonName, Groups: leaf.Subject.Organization,
		Extra: map[string][]string{credentialID: {"X509SHA256=" + hex.EncodeToString(key[:])}},
	})}
	for _, link := range verified[0] {
		if link.NotAfter.Before(c.until) {
			c.until = link.NotAfter
		}
		if link.NotBefore.After(c.from) {
			c.from = link.NotBefore
		}
	}
	a.certificates.put(key, c)
	return c.user, nil
}

// known adds the group that every authenticated user is in.
func known(u *user.DefaultInfo) user.Info {
	if !slices.Contains(u.Groups, authenticated) {
		u.Groups = append(slices.Clone(u.Groups), authenticated)
	}
	return u
}

// bearer reads the Authorization header. Anything else in it is refused.
func bearer(r *http.Request) (string, bool, error) {
	header := strings.TrimSpace(r.Header.Get("Authorization"))
	if header == "" {
		return "", false, nil
	}
	scheme, token, _ := strings.Cut(header, " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxToken {
		return "", false, errCredentials
	}
	return token, true, nil
}

// token tells the two sorts apart by their form.
func (a *Authenticator) token(token string) (user.Info, error) {
	if id, secret, ok := bootstrapToken(token); ok {
		return a.bootstrap(id, secret)
	}
	u, _, err := a.cfg.Tokens.verify(token, nil)
	if err != nil {
		return nil, err
	}
	return known(u), nil
}
