package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/kinds"
)

// token issues one for an account, which is made if it is missing.
func (w *world) token(change func(*authenticationv1.TokenRequestSpec), ns, name string) string {
	w.t.Helper()
	w.set(kinds.ServiceAccount, w.account(ns, name))
	r := &authenticationv1.TokenRequest{}
	if change != nil {
		change(&r.Spec)
	}
	if err := w.tokens.Issue(context.Background(), ns, name, r); err != nil {
		w.t.Fatal(err)
	}
	return r.Status.Token
}

func newRSAKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func bindTo(kind, name, uid string) func(*authenticationv1.TokenRequestSpec) {
	return func(s *authenticationv1.TokenRequestSpec) {
		s.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name, UID: types.UID(uid)}
	}
}

func testPod(account, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", UID: "pod-1"}, Spec: corev1.PodSpec{ServiceAccountName: account, NodeName: node}}
}

func testSecret() *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s", UID: "secret-1"}}
}

func testNode() *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-1"}}
}

// payload decodes the claims without checking anything.
func payload(t *testing.T, token string) map[string]any {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestIssue(t *testing.T) {
	w := newWorld(t, nil)
	w.set(kinds.ServiceAccount, w.account("a", "robot"))
	w.set(kinds.Pod, testPod("robot", "n1"))
	w.set(kinds.Secret, testSecret())
	w.set(kinds.Node, testNode())
	seconds := func(n int64) func(*authenticationv1.TokenRequestSpec) {
		return func(s *authenticationv1.TokenRequestSpec) { s.ExpirationSeconds = ptr.To(n) }
	}
	tests := []struct {
		name   string
		change func(*authenticationv1.TokenRequestSpec)
		code   int32
		part   string
		life   time.Duration // of the status
	}{
		{"plain", nil, 0, "", time.Hour},
		{"ten minutes", seconds(600), 0, "", 10 * time.Minute},
		{"68 years", seconds(1 << 31), 0, "", 1 << 31 * time.Second},
		{"pod", bindTo("Pod", "web", "pod-1"), 0, "", time.Hour},
		{"pod without uid", bindTo("Pod", "web", ""), 0, "", time.Hour},
		{"pod, other uid", bindTo("Pod", "web", "pod-0"), 409, "does not match the UID in record", 0},
		{"no such pod", bindTo("Pod", "nope", ""), 404, `pods "nope" not found`, 0},
		{"secret", bindTo("Secret", "s", "secret-1"), 0, "", time.Hour},
		{"no such secret", bindTo("Secret", "nope", ""), 404, "", 0},
		{"node", bindTo("Node", "n1", "node-1"), 0, "", time.Hour},
		{"no such node", bindTo("Node", "nope", ""), 404, "", 0},
		{"config map", bindTo("ConfigMap", "c", ""), 400, "cannot bind token to object of type /v1, Kind=ConfigMap", 0},
		{"another group's pod", func(s *authenticationv1.TokenRequestSpec) {
			s.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "x/v1", Kind: "Pod", Name: "web"}
		}, 400, "cannot bind token to object of type x/v1, Kind=Pod", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &authenticationv1.TokenRequest{}
			if tt.change != nil {
				tt.change(&r.Spec)
			}
			err := w.tokens.Issue(context.Background(), "a", "robot", r)
			if tt.code == 0 {
				if err != nil || !r.Status.ExpirationTimestamp.Time.Equal(start.Add(tt.life)) || r.Status.Token == "" || r.UID != "sa-a-robot" {
					t.Errorf("%v %+v", err, r.Status.ExpirationTimestamp)
				}
				return
			}
			st, ok := err.(apierrors.APIStatus)
			if !ok || st.Status().Code != tt.code || !strings.Contains(err.Error(), tt.part) || r.Status.Token != "" {
				t.Errorf("got %v, want %d %q", err, tt.code, tt.part)
			}
		})
	}
	other := &authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{UID: "x"}}
	if err := w.tokens.Issue(context.Background(), "a", "robot", other); !apierrors.IsConflict(err) ||
		err.Error() != `Operation cannot be fulfilled on TokenRequest.authentication.k8s.io "robot": the UID in the token request (x) does not match the UID of the service account (sa-a-robot)` {
		t.Errorf("another life's account: %v", err)
	}
	if err := w.tokens.Issue(context.Background(), "a", "nobody", &authenticationv1.TokenRequest{}); !apierrors.IsNotFound(err) {
		t.Errorf("a token of nobody: %v", err)
	}
	r := &authenticationv1.TokenRequest{}
	bindTo("Pod", "web", "")(&r.Spec)
	w.set(kinds.ServiceAccount, w.account("a", "other"))
	if err := w.tokens.Issue(context.Background(), "a", "other", r); !apierrors.IsBadRequest(err) {
		t.Errorf("a token of another account's pod: %v", err)
	}
}

func TestClaims(t *testing.T) {
	w := newWorld(t, nil)
	w.set(kinds.Pod, testPod("robot", "n1"))
	w.set(kinds.Node, testNode())
	c := payload(t, w.token(func(s *authenticationv1.TokenRequestSpec) {
		bindTo("Pod", "web", "pod-1")(s)
		s.ExpirationSeconds = ptr.To[int64](3607)
	}, "a", "robot"))
	k8s, _ := json.Marshal(c["kubernetes.io"])
	want := `{"namespace":"a","node":{"name":"n1","uid":"node-1"},"pod":{"name":"web","uid":"pod-1"},"serviceaccount":{"name":"robot","uid":"sa-a-robot"},"warnafter":1780318807}`
	if string(k8s) != want {
		t.Errorf("claims %s, want %s", k8s, want)
	}
	if c["iss"] != issuer || c["sub"] != "system:serviceaccount:a:robot" || c["jti"] == "" || c["exp"].(float64) != float64(start.Add(extendedTokenLife).Unix()) {
		t.Errorf("claims %v", c)
	}
	if aud := c["aud"].([]any); len(aud) != 1 || aud[0] != issuer {
		t.Errorf("audience %v", aud)
	}
	// Life is only extended for what every pod gets.
	for name, change := range map[string]func(*authenticationv1.TokenRequestSpec){
		"not bound": func(s *authenticationv1.TokenRequestSpec) { s.ExpirationSeconds = ptr.To[int64](3607) },
		"other audience": func(s *authenticationv1.TokenRequestSpec) {
			bindTo("Pod", "web", "")(s)
			s.ExpirationSeconds = ptr.To[int64](3607)
			s.Audiences = []string{"vault"}
		},
		"other life": func(s *authenticationv1.TokenRequestSpec) {
			bindTo("Pod", "web", "")(s)
			s.ExpirationSeconds = ptr.To[int64](3600)
		},
	} {
		c := payload(t, w.token(change, "a", "robot"))
		if c["exp"].(float64) > float64(start.Add(2*time.Hour).Unix()) || c["kubernetes.io"].(map[string]any)["warnafter"] != nil {
			t.Errorf("%s: extended", name)
		}
	}
	strict := newWorld(t, func(c *TokensConfig) { c.Strict = true })
	strict.set(kinds.Pod, testPod("robot", "n1"))
	c = payload(t, strict.token(func(s *authenticationv1.TokenRequestSpec) {
		bindTo("Pod", "web", "pod-1")(s)
		s.ExpirationSeconds = ptr.To[int64](3607)
	}, "a", "robot"))
	if c["exp"].(float64) != float64(start.Add(mountedTokenLife).Unix()) {
		t.Error("extended although strict")
	}
}

func TestBoundObjects(t *testing.T) {
	going := &metav1.Time{Time: start.Add(time.Second)}
	tests := []struct {
		name   string
		bind   func(*authenticationv1.TokenRequestSpec)
		change func(w *world)
		after  time.Duration
		good   bool
	}{
		{"nothing happens", bindTo("Pod", "web", ""), func(*world) {}, 0, true},
		{"pod gone", bindTo("Pod", "web", ""), func(w *world) { w.remove(kinds.Pod, testPod("", "")) }, 0, false},
		{"pod made anew", bindTo("Pod", "web", ""), func(w *world) {
			p := testPod("robot", "n1")
			p.UID = "pod-2"
			w.set(kinds.Pod, p)
		}, 0, false},
		{"pod going", bindTo("Pod", "web", ""), func(w *world) {
			p := testPod("robot", "n1")
			p.DeletionTimestamp = going
			w.set(kinds.Pod, p)
		}, 30 * time.Second, true},
		{"pod long going", bindTo("Pod", "web", ""), func(w *world) {
			p := testPod("robot", "n1")
			p.DeletionTimestamp = going
			w.set(kinds.Pod, p)
		}, 62 * time.Second, false},
		{"pod's node gone", bindTo("Pod", "web", ""), func(w *world) { w.remove(kinds.Node, testNode()) }, 0, true},
		{"account gone", nil, func(w *world) { w.remove(kinds.ServiceAccount, w.account("a", "robot")) }, 0, false},
		{"account made anew", nil, func(w *world) {
			sa := w.account("a", "robot")
			sa.UID = "sa-2"
			w.set(kinds.ServiceAccount, sa)
		}, 0, false},
		{"account going", nil, func(w *world) {
			sa := w.account("a", "robot")
			sa.DeletionTimestamp = going
			w.set(kinds.ServiceAccount, sa)
		}, 62 * time.Second, false},
		{"secret gone", bindTo("Secret", "s", ""), func(w *world) { w.remove(kinds.Secret, testSecret()) }, 0, false},
		{"node gone", bindTo("Node", "n1", ""), func(w *world) { w.remove(kinds.Node, testNode()) }, 0, false},
		{"an unrelated pod gone", bindTo("Secret", "s", ""), func(w *world) { w.remove(kinds.Pod, testPod("", "")) }, 0, true},
		{"expired", nil, func(*world) {}, time.Hour + tokenLeeway + time.Second, false},
		{"not yet", nil, func(*world) {}, -61 * time.Second, false},
	}
	for _, tt := range tests {
		for _, seen := range []bool{false, true} {
			name := tt.name
			if seen {
				name += ", after it was used"
			}
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, nil)
				w.set(kinds.Pod, testPod("robot", "n1"))
				w.set(kinds.Secret, testSecret())
				w.set(kinds.Node, testNode())
				r := request("Bearer " + w.token(tt.bind, "a", "robot"))
				if seen && w.as(r) == "" {
					t.Fatal("refused at first")
				}
				tt.change(w)
				w.now = start.Add(tt.after)
				if got := w.as(r) != ""; got != tt.good {
					t.Errorf("accepted: %v", got)
				}
			})
		}
	}
}

func TestUserOfToken(t *testing.T) {
	w := newWorld(t, nil)
	w.set(kinds.Pod, testPod("robot", "n1"))
	w.set(kinds.Node, testNode())
	resp, _, err := w.authn.AuthenticateRequest(request("Bearer " + w.token(bindTo("Pod", "web", ""), "a", "robot")))
	if err != nil {
		t.Fatal(err)
	}
	x := resp.User.GetExtra()
	if resp.User.GetUID() != "sa-a-robot" || x["authentication.kubernetes.io/pod-name"][0] != "web" || x["authentication.kubernetes.io/pod-uid"][0] != "pod-1" ||
		x["authentication.kubernetes.io/node-name"][0] != "n1" || x["authentication.kubernetes.io/node-uid"][0] != "node-1" || !strings.HasPrefix(x[credentialID][0], "JTI=") {
		t.Errorf("user %+v", resp.User)
	}
}

// Tokens that somebody else made, or that were made for something else.
func TestForgedTokens(t *testing.T) {
	w := newWorld(t, nil)
	w.set(kinds.ServiceAccount, w.account("a", "robot"))
	good := func() *claims {
		return &claims{RegisteredClaims: jwt.RegisteredClaims{Issuer: issuer, Subject: "system:serviceaccount:a:robot", Audience: []string{issuer},
			IssuedAt: jwt.NewNumericDate(start), ExpiresAt: jwt.NewNumericDate(start.Add(time.Hour)), ID: "x"},
			Kubernetes: &bound{Namespace: "a", ServiceAccount: reference{"robot", "sa-a-robot"}}}
	}
	other := newKey(t)
	tests := []struct {
		name   string
		change func(*claims, *jwt.Token) any // returns the key
		good   bool
	}{
		{"ours", func(*claims, *jwt.Token) any { return w.key }, true},
		{"another key", func(*claims, *jwt.Token) any { return other }, false},
		{"no key id", func(_ *claims, j *jwt.Token) any { delete(j.Header, "kid"); return w.key }, true}, // of before there were any
		{"another key without an id", func(_ *claims, j *jwt.Token) any { delete(j.Header, "kid"); return other }, false},
		{"unknown key id", func(_ *claims, j *jwt.Token) any { j.Header["kid"] = "x"; return w.key }, false},
		{"key id of another sort", func(_ *claims, j *jwt.Token) any { j.Header["kid"] = 7; return w.key }, false},
		{"unsigned", func(_ *claims, j *jwt.Token) any {
			j.Method, j.Header["alg"] = jwt.SigningMethodNone, "none"
			return jwt.UnsafeAllowNoneSignatureType
		}, false},
		{"signed with the public key", func(_ *claims, j *jwt.Token) any {
			j.Method, j.Header["alg"] = jwt.SigningMethodHS256, "HS256"
			pub, _ := w.key.PublicKey.Bytes()
			return pub
		}, false},
		{"another issuer", func(c *claims, _ *jwt.Token) any { c.Issuer = "https://evil"; return w.key }, false},
		{"another audience", func(c *claims, _ *jwt.Token) any { c.Audience = []string{"vault"}; return w.key }, false},
		{"no audience", func(c *claims, _ *jwt.Token) any { c.Audience = nil; return w.key }, false},
		{"no end", func(c *claims, _ *jwt.Token) any { c.ExpiresAt = nil; return w.key }, false},
		{"another subject", func(c *claims, _ *jwt.Token) any { c.Subject = "system:serviceaccount:a:boss"; return w.key }, false},
		{"another user", func(c *claims, _ *jwt.Token) any { c.Subject = "root"; return w.key }, false},
		{"legacy, no claims of ours", func(c *claims, _ *jwt.Token) any { c.Kubernetes = nil; return w.key }, false},
		{"empty names", func(c *claims, _ *jwt.Token) any {
			c.Kubernetes = &bound{}
			c.Subject = "system:serviceaccount::"
			return w.key
		}, false},
		{"account's uid", func(c *claims, _ *jwt.Token) any { c.Kubernetes.ServiceAccount.UID = ""; return w.key }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := good()
			j := jwt.NewWithClaims(jwt.SigningMethodES256, c)
			j.Header["kid"] = w.tokens.keys.Load().keys.order[0]
			s, err := j.SignedString(tt.change(c, j))
			if err != nil {
				t.Fatal(err)
			}
			if got := w.as(request("Bearer "+s)) != ""; got != tt.good {
				t.Errorf("accepted: %v", got)
			}
		})
	}
}

// What keys are there decides at once, also over tokens that were seen before.
func TestKeyRotation(t *testing.T) {
	old, next := newKey(t), newRSAKey(t)
	w := newWorld(t, func(c *TokensConfig) { c.Keys = keysOf(t, old) })
	before := w.token(nil, "a", "robot")
	check := func(when, token string, want bool) {
		t.Helper()
		if got := w.as(request("Bearer "+token)) != ""; got != want {
			t.Errorf("%s: accepted %v", when, got)
		}
	}
	check("at first", before, true)
	w.tokens.Rotate(keysOf(t, old, &next.PublicKey)) // the new one is published before it signs
	check("announced", before, true)
	w.tokens.Rotate(keysOf(t, next, &old.PublicKey))
	check("rotated", before, true)
	after := w.token(nil, "a", "robot")
	check("of the new key", after, true)
	rec := httptest.NewRecorder()
	w.tokens.Discovery()[KeysPath].ServeHTTP(rec, &http.Request{})
	var published struct{ Keys []map[string]string }
	if err := json.Unmarshal(rec.Body.Bytes(), &published); err != nil || len(published.Keys) != 2 || published.Keys[0]["kty"] != "RSA" || published.Keys[0]["alg"] != "RS256" || published.Keys[1]["kty"] != "EC" {
		t.Errorf("published: %v %s", err, rec.Body)
	}
	w.tokens.Rotate(keysOf(t, next))
	check("the old one is gone", before, false)
	check("the new one stays", after, true)
}

// A cluster whose issuer has another name now accepts what it issued before.
func TestIssuers(t *testing.T) {
	w := newWorld(t, nil)
	token := w.token(nil, "a", "robot")
	const second = "https://tokens.example"
	now := newWorld(t, func(c *TokensConfig) {
		c.Keys, c.Issuers = keysOf(t, w.key), []string{second, issuer}
	})
	mine := payload(t, now.token(nil, "a", "robot"))
	if mine["iss"] != second || len(mine["aud"].([]any)) != 2 {
		t.Errorf("%v", mine)
	}
	if now.as(request("Bearer "+token)) == "" {
		t.Error("a token of the former issuer is refused")
	}
	if w.as(request("Bearer "+now.token(nil, "a", "robot"))) != "" {
		t.Error("a token of an unknown issuer is accepted")
	}
}

func TestFreshAccount(t *testing.T) {
	var w *world
	w = newWorld(t, func(c *TokensConfig) {
		c.Fresh = func(context.Context, *kinds.Kind) error {
			w.set(kinds.ServiceAccount, w.account("a", "new"))
			return nil
		}
	})
	if err := w.tokens.Issue(context.Background(), "a", "new", &authenticationv1.TokenRequest{}); err != nil {
		t.Error(err)
	}
	if err := w.tokens.Issue(context.Background(), "a", "nope", &authenticationv1.TokenRequest{}); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
}

func TestReview(t *testing.T) {
	w := newWorld(t, nil)
	w.set(kinds.Secret, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abc123"}, Type: bootstrapType,
		Data: map[string][]byte{"token-id": []byte("abc123"), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true")}})
	api := w.token(nil, "a", "robot")
	vault := w.token(func(s *authenticationv1.TokenRequestSpec) { s.Audiences = []string{"vault", "bank"} }, "a", "robot")
	tests := []struct {
		name, token string
		audiences   []string
		user        string
		matching    string
	}{
		{"for the API", api, nil, "system:serviceaccount:a:robot", issuer},
		{"for the API, said so", api, []string{issuer, "x"}, "system:serviceaccount:a:robot", issuer},
		{"for the API, asked by another", api, []string{"vault"}, "", ""},
		{"for another", vault, nil, "", ""},
		{"for another, asked by it", vault, []string{"vault"}, "system:serviceaccount:a:robot", "vault"},
		{"bootstrap", "abc123.0123456789abcdef", nil, "system:bootstrap:abc123", issuer},
		{"bootstrap, asked by another", "abc123.0123456789abcdef", []string{"vault"}, "", ""},
		{"nonsense", "xyz", nil, "", ""},
		{"huge", strings.Repeat("x", maxToken+1), nil, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: tt.token, Audiences: tt.audiences}}
			if err := w.authn.Review(context.Background(), r); err != nil {
				t.Fatal(err)
			}
			if r.Status.Authenticated != (tt.user != "") || r.Status.User.Username != tt.user || strings.Join(r.Status.Audiences, ",") != tt.matching || (r.Status.Error != "") != (tt.user == "") {
				t.Errorf("%+v", r.Status)
			}
			if r.Spec.Token != "" {
				t.Error("the token travels back")
			}
		})
	}
	if err := w.authn.Review(context.Background(), &authenticationv1.TokenReview{}); !apierrors.IsBadRequest(err) {
		t.Error(err)
	}
}

// Somebody else can check our tokens with what the documents say.
func TestDiscovery(t *testing.T) {
	w := newWorld(t, nil)
	docs := w.tokens.Discovery()
	get := func(path, contentType string, into any) {
		rec := httptest.NewRecorder()
		docs[path].ServeHTTP(rec, &http.Request{})
		if rec.Header().Get("Content-Type") != contentType {
			t.Errorf("%s is %s", path, rec.Header().Get("Content-Type"))
		}
		if err := json.Unmarshal(rec.Body.Bytes(), into); err != nil {
			t.Fatal(err)
		}
	}
	var config struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	get("/.well-known/openid-configuration", "application/json", &config)
	if config.Issuer != issuer || config.Keys != "https://192.0.2.1:6443/openid/v1/jwks" {
		t.Errorf("%+v", config)
	}
	var keys struct{ Keys []map[string]string }
	get("/openid/v1/jwks", "application/jwk-set+json", &keys)
	k := keys.Keys[0]
	number := func(s string) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil || len(b) != 32 {
			t.Fatalf("coordinate of %d bytes: %v", len(b), err)
		}
		return new(big.Int).SetBytes(b)
	}
	pub := &ecdsa.PublicKey{Curve: w.key.Curve, X: number(k["x"]), Y: number(k["y"])}
	_, err := jwt.Parse(w.token(nil, "a", "robot"), func(j *jwt.Token) (any, error) {
		if j.Header["kid"] != k["kid"] {
			t.Errorf("key id %v, want %s", j.Header["kid"], k["kid"])
		}
		return pub, nil
	}, jwt.WithTimeFunc(func() time.Time { return start }))
	if err != nil {
		t.Error(err)
	}
}
