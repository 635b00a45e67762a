// Package authn finds out who sent a request: a front proxy's word, client
// certificates, service account tokens, bootstrap tokens, and what others who
// are asked about tokens say. Credentials that do not hold are refused; only a
// request without any is anonymous, and only where that is allowed.
package authn

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
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

	credentialID = user.CredentialIDKey

	// tokenProtocol is how a browser, which can set no header, sends its token
	// when it opens a WebSocket.
	tokenProtocol = "base64url.bearer.authorization.k8s.io."
	protocols     = "Sec-Websocket-Protocol"
)

var (
	errConfig      = errors.New("authn: roots, view and tokens are needed")
	errCredentials = errors.New("invalid bearer token")
	errNobody      = errors.New("no credentials, and anonymous requests are not allowed here")
)

// Config of an Authenticator.
type Config struct {
	// Roots that client certificates are checked against; nil pool: none is
	// accepted.
	Roots CertPool
	// Front is a proxy that says for whom it asks; nil: there is none.
	Front *Front
	// View holds secrets, service accounts, pods and nodes.
	View   *view.View
	Tokens *Tokens
	// Others know of tokens that are none of ours, in this order: OIDC issuers,
	// webhooks. They find the audiences in the context.
	Others []authenticator.Token
	// Anonymous says where requests need no credentials; nil: at the health
	// checks.
	Anonymous func(path string) bool
	Now       func() time.Time // nil: time.Now
}

// Authenticator implements authenticator.Request.
type Authenticator struct {
	cfg Config
	// certificates that have been verified, by their hash: a connection sends
	// many requests, and checking a signature costs more than answering most.
	certificates *remembered[certificate]
}

var _ authenticator.Request = (*Authenticator)(nil)

// New checks the configuration.
func New(cfg Config) (*Authenticator, error) {
	if cfg.Roots == nil || cfg.View == nil || cfg.Tokens == nil {
		return nil, errConfig
	}
	if cfg.Anonymous == nil {
		cfg.Anonymous = Health
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Authenticator{cfg: cfg, certificates: newRemembered[certificate]()}, nil
}

// Health are the paths that load balancers and probes ask without credentials.
func Health(path string) bool {
	return path == "/livez" || path == "/readyz" || path == "/healthz"
}

// AuthenticateRequest implements authenticator.Request. It says false never:
// bad credentials, or none where some are needed, are an error. What was used
// of the request is taken out of it.
func (a *Authenticator) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	u, err := a.identify(r)
	if err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: u}, true, nil
}

// identify takes the first credentials that hold.
func (a *Authenticator) identify(r *http.Request) (user.Info, error) {
	var errs []error
	for _, try := range []func(*http.Request) (user.Info, error){a.front, a.certificate, a.bearer, a.webSocket} {
		u, err := try(r)
		switch {
		case err != nil:
			errs = append(errs, err)
		case u != nil:
			return u, nil
		}
	}
	if len(errs) > 0 {
		return nil, utilerrors.NewAggregate(errs)
	}
	if !a.cfg.Anonymous(r.URL.Path) {
		return nil, errNobody
	}
	return &user.DefaultInfo{Name: Anonymous, Groups: []string{unauthenticated}}, nil
}

// known adds the group that every authenticated user is in.
func known(u user.Info) user.Info {
	if slices.Contains(u.GetGroups(), authenticated) || slices.Contains(u.GetGroups(), unauthenticated) {
		return u
	}
	return &user.DefaultInfo{Name: u.GetName(), UID: u.GetUID(), Groups: append(slices.Clone(u.GetGroups()), authenticated), Extra: u.GetExtra()}
}

// bearer reads the Authorization header. Anything else in it is refused.
func (a *Authenticator) bearer(r *http.Request) (user.Info, error) {
	header := strings.TrimSpace(r.Header.Get("Authorization"))
	if header == "" {
		return nil, nil
	}
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil, errCredentials
	}
	u, err := a.user(r.Context(), strings.TrimSpace(token))
	if err == nil {
		r.Header.Del("Authorization")
	}
	return u, err
}

// webSocket reads the token that stands among the protocols of a WebSocket.
func (a *Authenticator) webSocket(r *http.Request) (user.Info, error) {
	if len(r.Header[protocols]) == 0 || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return nil, nil
	}
	var tokens, rest []string
	for p := range strings.SplitSeq(strings.Join(r.Header[protocols], ","), ",") {
		p = strings.TrimSpace(p)
		if token, ok := strings.CutPrefix(p, tokenProtocol); ok {
			tokens = append(tokens, token)
		} else if p != "" {
			rest = append(rest, p)
		}
	}
	if len(tokens) == 0 {
		return nil, nil
	}
	token, err := base64.RawURLEncoding.DecodeString(tokens[0])
	switch {
	case len(tokens) > 1:
		return nil, errors.New("multiple base64.bearer.authorization tokens specified")
	case err != nil || !utf8.Valid(token):
		return nil, errors.New("invalid base64.bearer.authorization token encoding")
	case len(rest) == 0:
		return nil, errors.New("missing additional subprotocol") // one has to be answered with
	}
	u, err := a.user(r.Context(), string(token))
	if err == nil {
		r.Header.Set(protocols, strings.Join(rest, ","))
	}
	return u, err
}

func (a *Authenticator) user(ctx context.Context, token string) (user.Info, error) {
	resp, err := a.token(ctx, token, nil)
	if err != nil {
		return nil, err
	}
	return resp.User, nil
}

// token asks everybody who may know the token whose it is; audiences nil means
// the API's own.
func (a *Authenticator) token(ctx context.Context, token string, audiences []string) (*authenticator.Response, error) {
	if token == "" || len(token) > maxToken {
		return nil, errCredentials
	}
	own := a.cfg.Tokens.Audiences()
	if len(audiences) == 0 {
		audiences = own
	}
	if id, secret, ok := bootstrapToken(token); ok {
		// It is for the API and for nobody else.
		if audiences = intersect(own, audiences); len(audiences) == 0 {
			return nil, errCredentials
		}
		u, err := a.bootstrap(id, secret)
		if err == nil {
			return &authenticator.Response{User: known(u), Audiences: audiences}, nil
		}
	}
	var errs []error
	u, matching, err := a.cfg.Tokens.verify(ctx, token, audiences)
	if err == nil {
		return &authenticator.Response{User: known(u), Audiences: matching}, nil
	}
	if !errors.Is(err, errForeign) {
		errs = append(errs, err)
	}
	ctx = authenticator.WithAudiences(ctx, audiences)
	for _, o := range a.cfg.Others {
		resp, ok, err := o.AuthenticateToken(ctx, token)
		switch {
		case err != nil:
			errs = append(errs, err)
		case ok:
			return &authenticator.Response{User: known(resp.User), Audiences: resp.Audiences}, nil
		}
	}
	if len(errs) == 0 {
		return nil, errCredentials
	}
	return nil, utilerrors.NewAggregate(errs)
}

// ForAPI wraps who knows nothing of audiences: its tokens are for the API, whose
// own audiences are given.
func ForAPI(t authenticator.Token, own []string) authenticator.Token {
	return authenticator.TokenFunc(func(ctx context.Context, token string) (*authenticator.Response, bool, error) {
		wanted, _ := authenticator.AudiencesFrom(ctx)
		matching := intersect(own, wanted)
		if len(matching) == 0 {
			return nil, false, nil
		}
		resp, ok, err := t.AuthenticateToken(ctx, token)
		if ok {
			resp = &authenticator.Response{User: resp.User, Audiences: matching}
		}
		return resp, ok, err
	})
}

func intersect(a, b []string) []string {
	var out []string
	for _, x := range a {
		if slices.Contains(b, x) {
			out = append(out, x)
		}
	}
	return out
}
