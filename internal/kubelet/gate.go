package kubelet

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"

	"knarr.dev/knarr/internal/kinds"
)

const (
	// answersFor is how long an answer of the API server is believed.
	answersFor = time.Minute
	// maxAnswers bounds what strangers can make us remember.
	maxAnswers = 4096
	maxToken   = 16 << 10
)

var errUnknown = errors.New("nobody that this node knows")

// gate lets in who the API server says may come in.
type gate struct {
	cfg Config

	mu      sync.Mutex
	users   map[[sha256.Size]byte]userAnswer
	allowed map[string]accessAnswer
}

type userAnswer struct {
	user  authenticationv1.UserInfo
	ok    bool
	until time.Time
}

type accessAnswer struct {
	ok    bool
	until time.Time
}

func newGate(c Config) *gate {
	return &gate{cfg: c, users: map[[sha256.Size]byte]userAnswer{}, allowed: map[string]accessAnswer{}}
}

// guard a handler: the user must have the verb of the method on one of those
// subresources of this node. Which ones a path has is upstream's choice: /pods
// pods or proxy, /healthz healthz or proxy, /stats stats, /metrics metrics, all that runs in pods or is
// said by them proxy.
func (g *gate) guard(next http.HandlerFunc, subresources ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := g.user(r)
		if err != nil {
			if !errors.Is(err, errUnknown) {
				g.cfg.Log.Warn("cannot authenticate a request", "error", err)
			}
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		verb := verbOf(r.Method)
		for _, sub := range subresources {
			ok, err := g.may(r.Context(), user, verb, sub)
			if err != nil {
				g.cfg.Log.Warn("cannot authorize a request", "user", user.Username, "error", err)
				http.Error(w, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource=%s)", user.Username, verb, sub), http.StatusInternalServerError)
				return
			}
			if ok {
				next(w, r)
				return
			}
		}
		http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", user.Username, verb, subresources), http.StatusForbidden)
	})
}

func verbOf(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	}
	return "get"
}

// user of a request: by certificate, else by token.
func (g *gate) user(r *http.Request) (authenticationv1.UserInfo, error) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return g.certificate(r.TLS.PeerCertificates)
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token = strings.TrimSpace(token); !ok || token == "" || len(token) > maxToken {
		return authenticationv1.UserInfo{}, errUnknown
	}
	return g.token(r.Context(), token)
}

func (g *gate) certificate(chain []*x509.Certificate) (authenticationv1.UserInfo, error) {
	if g.cfg.TLS.ClientCAs == nil {
		return authenticationv1.UserInfo{}, errUnknown
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: g.cfg.TLS.ClientCAs, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: g.cfg.Now(),
	})
	if err != nil || chain[0].Subject.CommonName == "" {
		return authenticationv1.UserInfo{}, errUnknown
	}
	return authenticationv1.UserInfo{Username: chain[0].Subject.CommonName, Groups: append(chain[0].Subject.Organization, "system:authenticated")}, nil
}

func (g *gate) token(ctx context.Context, token string) (authenticationv1.UserInfo, error) {
	key, now := sha256.Sum256([]byte(token)), g.cfg.Now()
	g.mu.Lock()
	known, ok := g.users[key]
	g.mu.Unlock()
	if !ok || now.After(known.until) {
		out, err := g.cfg.Client.Create(ctx, kinds.Ref{Kind: kinds.TokenReview}, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}})
		if err != nil {
			return authenticationv1.UserInfo{}, err
		}
		review, is := out.(*authenticationv1.TokenReview)
		if !is {
			return authenticationv1.UserInfo{}, errors.New("the answer is not a TokenReview")
		}
		known = userAnswer{review.Status.User, review.Status.Authenticated, now.Add(answersFor)}
		g.mu.Lock()
		if len(g.users) >= maxAnswers {
			clear(g.users)
		}
		g.users[key] = known
		g.mu.Unlock()
	}
	if !known.ok {
		return authenticationv1.UserInfo{}, errUnknown
	}
	return known.user, nil
}

// may asks whether the user may do that on this node.
func (g *gate) may(ctx context.Context, user authenticationv1.UserInfo, verb, subresource string) (bool, error) {
	key := strings.Join([]string{user.Username, user.UID, strings.Join(user.Groups, "\x01"), verb, subresource}, "\x00")
	now := g.cfg.Now()
	g.mu.Lock()
	known, ok := g.allowed[key]
	g.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.ok, nil
	}
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range user.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	out, err := g.cfg.Client.Create(ctx, kinds.Ref{Kind: kinds.SubjectAccessReview}, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: g.cfg.NodeName},
	}})
	if err != nil {
		return false, err
	}
	review, is := out.(*authorizationv1.SubjectAccessReview)
	if !is {
		return false, errors.New("the answer is not a SubjectAccessReview")
	}
	g.mu.Lock()
	if len(g.allowed) >= maxAnswers {
		clear(g.allowed)
	}
	g.allowed[key] = accessAnswer{review.Status.Allowed, now.Add(answersFor)}
	g.mu.Unlock()
	return review.Status.Allowed, nil
}
