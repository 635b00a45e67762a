package oidc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/utils/ptr"
)

// start of the tests' clock.
var start = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// issuer is an OIDC provider.
type issuer struct {
	t   *testing.T
	srv *httptest.Server

	mu      sync.Mutex
	keys    map[string]crypto.Signer
	asked   map[string]int
	down    bool
	name    string // in its document; empty: the right one
	answers map[string]string
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{t: t, keys: map[string]crypto.Signer{}, asked: map[string]int{}, answers: map[string]string{}}
	i.srv = httptest.NewTLSServer(i)
	t.Cleanup(i.srv.Close)
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	i.keys["rsa"] = k
	e, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i.keys["ec"] = e
	return i
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked[r.URL.Path]++
	if i.down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	b64 := base64.RawURLEncoding.EncodeToString
	switch r.URL.Path {
	case discoveryPath, "/elsewhere":
		name := i.name
		if name == "" {
			name = i.srv.URL
		}
		json.NewEncoder(w).Encode(map[string]string{"issuer": name, "jwks_uri": i.srv.URL + "/keys"})
	case "/keys":
		list := []map[string]string{{"kty": "oct", "kid": "shared", "k": "c2VjcmV0"}, {"kty": "RSA", "kid": "weak", "n": "AQ", "e": "AQAB"}}
		for id, k := range i.keys {
			switch k := k.(type) {
			case *rsa.PrivateKey:
				list = append(list, map[string]string{"kty": "RSA", "use": "sig", "kid": id, "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())})
			case *ecdsa.PrivateKey:
				p, err := k.PublicKey.Bytes()
				if err != nil {
					i.t.Error(err)
				}
				n := (len(p) - 1) / 2
				list = append(list, map[string]string{"kty": "EC", "kid": id, "crv": k.Curve.Params().Name, "x": b64(p[1 : 1+n]), "y": b64(p[1+n:])})
			}
		}
		json.NewEncoder(w).Encode(map[string]any{"keys": list})
	default:
		if a := i.answers[r.URL.Path+" "+r.Header.Get("Authorization")]; a != "" {
			fmt.Fprint(w, a)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}
}

func (i *issuer) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.srv.Certificate().Raw}))
}

// sign makes a token; extra claims overwrite the usual ones, nil removes one.
func (i *issuer) sign(kid string, extra map[string]any) string {
	i.t.Helper()
	c := jwt.MapClaims{"iss": i.srv.URL, "aud": "kube", "sub": "joe", "exp": start.Add(time.Hour).Unix(), "iat": start.Unix(), "jti": "1"}
	for k, v := range extra {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	i.mu.Lock()
	key := i.keys[kid]
	i.mu.Unlock()
	method := jwt.SigningMethod(jwt.SigningMethodRS256)
	if _, ok := key.(*ecdsa.PrivateKey); ok {
		method = jwt.SigningMethodES384
	}
	j := jwt.NewWithClaims(method, c)
	j.Header["kid"] = kid
	s, err := j.SignedString(key)
	if err != nil {
		i.t.Fatal(err)
	}
	return s
}

func (i *issuer) config(change func(*apiserver.JWTAuthenticator)) apiserver.JWTAuthenticator {
	c := apiserver.JWTAuthenticator{
		Issuer:        apiserver.Issuer{URL: i.srv.URL, CertificateAuthority: i.ca(), Audiences: []string{"kube"}},
		ClaimMappings: apiserver.ClaimMappings{Username: apiserver.PrefixedClaimOrExpression{Claim: "sub", Prefix: ptr.To("")}},
	}
	if change != nil {
		change(&c)
	}
	return c
}

// open is an authenticator that has found its issuer.
func open(t *testing.T, c apiserver.JWTAuthenticator, now func() time.Time) *Authenticator {
	t.Helper()
	a, err := New(Compiler(), c, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go a.Run(ctx)
	select {
	case <-a.Ready():
	case <-time.After(time.Minute):
		t.Fatalf("not ready: %v", a.Health())
	}
	return a
}

func fixed() time.Time { return start }

func TestTokens(t *testing.T) {
	i, stranger := newIssuer(t), newIssuer(t)
	a := open(t, i.config(nil), fixed)
	header := func(alg, token string) string {
		_, rest, _ := strings.Cut(token, ".")
		return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"`+alg+`","kid":"rsa"}`)) + "." + rest
	}
	for _, tt := range []struct {
		name, token string
		want        string // the user, "-" for not ours, or a part of the error
	}{
		{"rsa", i.sign("rsa", nil), "joe"},
		{"ec", i.sign("ec", nil), "joe"},
		{"several audiences", i.sign("rsa", map[string]any{"aud": []string{"x", "kube"}}), "joe"},
		{"another audience", i.sign("rsa", map[string]any{"aud": "x"}), `oidc: verify token: oidc: expected audience in ["kube"] got ["x"]`},
		{"no audience", i.sign("rsa", map[string]any{"aud": nil}), "expected audience"},
		{"expired", i.sign("rsa", map[string]any{"exp": start.Add(-time.Second).Unix()}), "token is expired"},
		{"without end", i.sign("rsa", map[string]any{"exp": nil}), "token is expired"},
		{"a clock that is ahead", i.sign("rsa", map[string]any{"nbf": start.Add(30 * time.Second).Unix()}), "joe"},
		{"not yet", i.sign("rsa", map[string]any{"nbf": start.Add(2 * time.Minute).Unix()}), "before the nbf"},
		{"no user", i.sign("rsa", map[string]any{"sub": nil}), `oidc: parse username claims "sub": claim not present`},
		{"another issuer's", stranger.sign("rsa", nil), "-"},
		{"another issuer's, with this name", stranger.sign("rsa", map[string]any{"iss": i.srv.URL}), "failed to verify signature"},
		{"unsigned", header("none", i.sign("rsa", nil)), "failed to verify signature"},
		{"with a shared secret", header("HS256", i.sign("rsa", nil)), "failed to verify signature"},
		{"of another algorithm", header("ES384", i.sign("rsa", nil)), "failed to verify signature"},
		{"no token", "abc", "-"},
		{"no signature", i.sign("rsa", nil)[:60] + ".", "-"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, ok, err := a.AuthenticateToken(t.Context(), tt.token)
			switch {
			case err != nil:
				if ok || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), tt.token[strings.LastIndex(tt.token, ".")+1:]) && !strings.HasSuffix(tt.token, ".") {
					t.Errorf("%v, want %q", err, tt.want)
				}
			case !ok:
				if tt.want != "-" {
					t.Errorf("not ours, want %q", tt.want)
				}
			case resp.User.GetName() != tt.want:
				t.Errorf("%q, want %q", resp.User.GetName(), tt.want)
			}
		})
	}
}

// New keys are found when a token names one, but not asked for all the time.
func TestKeyRotation(t *testing.T) {
	i := newIssuer(t)
	now := start
	a := open(t, i.config(nil), func() time.Time { return now })
	good := func(token string) bool {
		_, ok, _ := a.AuthenticateToken(t.Context(), token)
		return ok
	}
	if !good(i.sign("rsa", nil)) {
		t.Fatal("refused at first")
	}
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	old := i.sign("rsa", nil)
	i.mu.Lock()
	i.keys = map[string]crypto.Signer{"next": k}
	i.mu.Unlock()
	now = now.Add(fetchPause)
	if !good(i.sign("next", nil)) {
		t.Error("a token of a new key is refused")
	}
	if good(old) {
		t.Error("a token of a withdrawn key works")
	}
	i.mu.Lock()
	before := i.asked["/keys"]
	i.mu.Unlock()
	for range 10 {
		if good(old) {
			t.Error("it works again")
		}
	}
	if i.mu.Lock(); i.asked["/keys"] != before {
		t.Errorf("asked %d times more", i.asked["/keys"]-before)
	}
	i.down = true
	i.mu.Unlock()
	now = now.Add(time.Hour / 2)
	if !good(i.sign("next", nil)) {
		t.Error("while the issuer is away its keys are forgotten")
	}
}

// Without its issuer the server starts, and says why it does not know anybody.
func TestNotReady(t *testing.T) {
	i := newIssuer(t)
	i.name = "https://impostor.example"
	a, err := New(Compiler(), i.config(nil), nil, fixed)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := a.AuthenticateToken(t.Context(), i.sign("rsa", nil)); ok || err == nil || err.Error() != "oidc: authenticator not initialized" {
		t.Errorf("%v %v", ok, err)
	}
	if err := a.provider.learn(t.Context()); err == nil || !strings.Contains(a.Health().Error(), "issuer did not match the issuer returned by provider") {
		t.Errorf("%v", a.Health())
	}
	i.mu.Lock()
	i.name = ""
	i.mu.Unlock()
	if err := a.provider.learn(t.Context()); err != nil || a.Health() != nil {
		t.Errorf("%v %v", err, a.Health())
	}
	elsewhere := open(t, i.config(func(c *apiserver.JWTAuthenticator) { c.Issuer.DiscoveryURL = i.srv.URL + "/elsewhere" }), fixed)
	if _, ok, err := elsewhere.AuthenticateToken(t.Context(), i.sign("rsa", nil)); !ok || err != nil {
		t.Errorf("by another URL: %v %v", ok, err)
	}
}

func TestClaims(t *testing.T) {
	i := newIssuer(t)
	claims := map[string]any{"email": "joe@acme.example", "email_verified": true, "roles": []string{"dev", "ops", ""}, "role": "dev", "uid": "77", "level": 3,
		"acme.example/team": "blue", "nested": map[string]any{"a.b": []string{"x"}}, "on": true}
	expression := func(s string) apiserver.PrefixedClaimOrExpression {
		return apiserver.PrefixedClaimOrExpression{Expression: s}
	}
	for _, tt := range []struct {
		name   string
		change func(*apiserver.JWTAuthenticator)
		extra  map[string]any
		want   string // "name uid [groups] extra", or a part of the error
	}{
		{"prefixes", func(c *apiserver.JWTAuthenticator) {
			c.ClaimMappings.Username.Prefix = ptr.To("oidc:")
			c.ClaimMappings.Groups = apiserver.PrefixedClaimOrExpression{Claim: "roles", Prefix: ptr.To("g:")}
			c.ClaimMappings.UID = apiserver.ClaimOrExpression{Claim: "uid"}
		}, nil, "oidc:joe 77 [g:dev g:ops g:] map[authentication.kubernetes.io/credential-id:[JTI=1]]"},
		{"one group as a string", func(c *apiserver.JWTAuthenticator) {
			c.ClaimMappings.Groups = apiserver.PrefixedClaimOrExpression{Claim: "role", Prefix: ptr.To("")}
		}, nil, "joe  [dev] map[authentication.kubernetes.io/credential-id:[JTI=1]]"},
		{"no groups, no id", func(c *apiserver.JWTAuthenticator) {
			c.ClaimMappings.Groups = apiserver.PrefixedClaimOrExpression{Claim: "none", Prefix: ptr.To("")}
		}, map[string]any{"jti": nil}, "joe  [] map[]"},
		{"groups of a wrong type", func(c *apiserver.JWTAuthenticator) {
			c.ClaimMappings.Groups = apiserver.PrefixedClaimOrExpression{Claim: "level", Prefix: ptr.To("")}
		}, nil, `oidc: parse groups claim "level"`},
		{"expressions", func(c *apiserver.JWTAuthenticator) {
			c.ClaimMappings.Username = expression(`claims.email_verified ? claims.email : ""`)
			c.ClaimMappings.Groups = expression(`[claims.role, claims.acme__dot__example__slash__team]`)
			c.ClaimMappings.UID = apiserver.ClaimOrExpression{Expression: `claims.uid + "!"`}
			c.ClaimMappings.Extra = []apiserver.ExtraMapping{{Key: "acme.example/nested", ValueExpression: `claims.nested.a__dot__b`}, {Key: "acme.example/none", ValueExpression: `[]`}}
		}, map[string]any{"jti": nil}, "joe@acme.example 77! [dev blue] map[acme.example/nested:[x]]"},
		{"an empty name", func(c *apiserver.JWTAuthenticator) {
			c.ClaimMappings.Username = expression(`claims.?none.orValue("")`)
		}, nil, "empty username via CEL expression is not allowed"},
		{"a claim that is missing", func(c *apiserver.JWTAuthenticator) { c.ClaimMappings.Username = expression(`claims.none`) }, nil, "oidc: error evaluating username claim expression"},
		{"a name that is no string", func(c *apiserver.JWTAuthenticator) { c.ClaimMappings.Username = expression(`claims.level`) }, nil, "username claim expression must return a string"},
		{"groups that are none", func(c *apiserver.JWTAuthenticator) { c.ClaimMappings.Groups = expression(`[claims.level]`) }, nil, "expression must return a string or a list of strings"},
		{"an unverified address", func(c *apiserver.JWTAuthenticator) { c.ClaimMappings.Username.Claim = "email" }, map[string]any{"email_verified": false}, "oidc: email not verified"},
		{"an address of which nothing is said", func(c *apiserver.JWTAuthenticator) { c.ClaimMappings.Username.Claim = "email" }, map[string]any{"email_verified": nil, "jti": nil}, "joe@acme.example  [] map[]"},
		{"required value", func(c *apiserver.JWTAuthenticator) {
			c.ClaimValidationRules = []apiserver.ClaimValidationRule{{Claim: "role", RequiredValue: "dev"}}
		}, map[string]any{"jti": nil}, "joe  [] map[]"},
		{"another value", func(c *apiserver.JWTAuthenticator) {
			c.ClaimValidationRules = []apiserver.ClaimValidationRule{{Claim: "role", RequiredValue: "boss"}}
		}, nil, "oidc: required claim role value does not match. Got = dev, want = boss"},
		{"no value", func(c *apiserver.JWTAuthenticator) {
			c.ClaimValidationRules = []apiserver.ClaimValidationRule{{Claim: "none", RequiredValue: "x"}}
		}, nil, "oidc: required claim none not present in ID token"},
		{"rule holds", func(c *apiserver.JWTAuthenticator) {
			c.ClaimValidationRules = []apiserver.ClaimValidationRule{{Expression: "claims.level > 2 && claims.on"}}
			c.UserValidationRules = []apiserver.UserValidationRule{{Expression: "!user.username.startsWith('system:') && user.groups.size() == 0"}}
		}, map[string]any{"jti": nil}, "joe  [] map[]"},
		{"rule on claims fails", func(c *apiserver.JWTAuthenticator) {
			c.ClaimValidationRules = []apiserver.ClaimValidationRule{{Expression: "claims.level > 3", Message: "too low"}}
		}, nil, "oidc: error evaluating claim validation expression: validation expression 'claims.level > 3' failed: too low"},
		{"rule on the user fails", func(c *apiserver.JWTAuthenticator) {
			c.UserValidationRules = []apiserver.UserValidationRule{{Expression: "!user.username.startsWith('system:')", Message: "reserved"}}
		}, map[string]any{"sub": "system:admin"}, "validation expression '!user.username.startsWith('system:')' failed: reserved"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := open(t, i.config(tt.change), fixed)
			all := map[string]any{}
			for k, v := range claims {
				all[k] = v
			}
			for k, v := range tt.extra {
				all[k] = v
			}
			resp, _, err := a.AuthenticateToken(t.Context(), i.sign("rsa", all))
			if err != nil {
				if !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
				return
			}
			u := resp.User
			if got := fmt.Sprint(u.GetName(), " ", u.GetUID(), " ", u.GetGroups(), " ", u.GetExtra()); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestDistributedClaims(t *testing.T) {
	i, graph := newIssuer(t), newIssuer(t)
	// One trust for both: the test servers share their certificate.
	a := open(t, i.config(func(c *apiserver.JWTAuthenticator) {
		c.ClaimMappings.Groups = apiserver.PrefixedClaimOrExpression{Claim: "groups", Prefix: ptr.To("")}
	}), fixed)
	graph.answers["/groups Bearer abc"] = graph.sign("rsa", map[string]any{"groups": []string{"many"}})
	graph.answers["/nothing "] = graph.sign("rsa", nil)
	token := func(source map[string]any) string {
		return i.sign("rsa", map[string]any{"_claim_names": map[string]string{"groups": "src"}, "_claim_sources": source})
	}
	// The source's issuer is new: it is asked first.
	p := a.other(graph.srv.URL)
	select {
	case <-p.up:
	case <-time.After(time.Minute):
		t.Fatal("the source is not ready")
	}
	resp, ok, err := a.AuthenticateToken(t.Context(), token(map[string]any{"src": map[string]string{"endpoint": graph.srv.URL + "/groups", "access_token": "abc"}}))
	if !ok || err != nil || !reflect.DeepEqual(resp.User.GetGroups(), []string{"many"}) {
		t.Errorf("%v %v %v", resp, ok, err)
	}
	for want, source := range map[string]map[string]any{
		"missing in _claims_sources":               {"other": map[string]string{}},
		"did not contain claim":                    {"src": map[string]string{"endpoint": graph.srv.URL + "/nothing"}},
		`while getting distributed claim "groups"`: {"src": map[string]string{"endpoint": graph.srv.URL + "/groups", "access_token": "wrong"}},
	} {
		if _, ok, err := a.AuthenticateToken(t.Context(), token(source)); ok || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v %v, want %q", ok, err, want)
		}
	}
	for n := range 2 * maxOthers {
		a.other(fmt.Sprintf("https://%d.invalid", n))
	}
	if len(a.others) > maxOthers {
		t.Errorf("%d sources are asked", len(a.others))
	}
}
