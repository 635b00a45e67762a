// Package authn finds out who sent a request: client certificates, service
// account tokens, bootstrap tokens. Credentials that do not hold are refused;
// only a request without any is anonymous, and may then do next to nothing.
package authn

import (
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/view"
)

// Names that upstream gives to what everybody is.
const (
	Anonymous       = user.Anonymous
	unauthenticated = user.AllUnauthenticated
	authenticated   = user.AllAuthenticated
	maxToken        = 16 << 10 // a header's worth
)

var (
	errCredentials = errors.New("invalid bearer token")
	errCertificate = errors.New("the client certificate has no common name")
)

// Config of an Authenticator.
type Config struct {
	// Roots that client certificates are checked against, now; the TLS layer
	// only asks for a certificate, it does not verify it.
	Roots func() *x509.CertPool
	// View holds secrets, service accounts, pods and nodes.
	View   *view.View
	Tokens *Tokens
	Now    func() time.Time
}

// Authenticator implements authenticator.Request.
type Authenticator struct {
	cfg Config
}

// New checks the configuration.
func New(cfg Config) (*Authenticator, error) {
	if cfg.Roots == nil || cfg.View == nil || cfg.Tokens == nil {
		return nil, errors.New("authn: roots, view and tokens are needed")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Authenticator{cfg: cfg}, nil
}

// AuthenticateRequest implements authenticator.Request.
func (a *Authenticator) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	u, err := a.identify(r)
	if err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: u}, true, nil
}

func (a *Authenticator) identify(r *http.Request) (user.Info, error) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return a.certificate(r.TLS.PeerCertificates)
	}
	token, ok, err := bearer(r)
	if err != nil {
		return nil, err
	}
	if !ok {
		return &user.DefaultInfo{Name: Anonymous, Groups: []string{unauthenticated}}, nil
	}
	return a.token(token)
}

// certificate is the identity of x509: the common name and the organizations.
func (a *Authenticator) certificate(chain []*x509.Certificate) (user.Info, error) {
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: a.cfg.Roots(), Intermediates: intermediates, CurrentTime: a.cfg.Now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, err
	}
	subject := chain[0].Subject
	if subject.CommonName == "" {
		return nil, errCertificate
	}
	return known(&user.DefaultInfo{Name: subject.CommonName, Groups: subject.Organization}), nil
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
