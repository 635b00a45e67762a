package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

// start of the tests' clock.
var start = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func keysOf(t testing.TB, keys ...any) *Keys {
	t.Helper()
	ks, err := NewKeys(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return ks
}

type world struct {
	*view.View
	t      testing.TB
	rev    int64
	now    time.Time
	roots  *x509.CertPool
	key    *ecdsa.PrivateKey
	tokens *Tokens
	authn  *Authenticator
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newWorld(t testing.TB, change func(*TokensConfig)) *world {
	t.Helper()
	w := &world{t: t, now: start, key: newKey(t), View: view.New([]*kinds.Kind{kinds.Secret, kinds.ServiceAccount, kinds.Pod, kinds.Node})}
	cfg := TokensConfig{Keys: keysOf(t, w.key), Issuers: []string{issuer}, KeysURI: "https://192.0.2.1:6443" + KeysPath, View: w.View, Now: func() time.Time { return w.now }}
	if change != nil {
		change(&cfg)
	}
	var err error
	if w.tokens, err = NewTokens(cfg); err != nil {
		t.Fatal(err)
	}
	w.authn, err = New(Config{View: w.View, Tokens: w.tokens, Roots: func() *x509.CertPool { return w.roots }, Now: cfg.Now,
		Anonymous: func(string) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) set(k *kinds.Kind, o kinds.Object) {
	w.rev++
	w.Apply(view.Change{Kind: k, New: o, Rev: w.rev})
}

func (w *world) remove(k *kinds.Kind, o kinds.Object) {
	w.rev++
	w.Apply(view.Change{Kind: k, Old: o, Rev: w.rev})
}

// ca that tests sign with.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t testing.TB, parent *ca) *ca {
	t.Helper()
	c := &ca{key: newKey(t)}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: fmt.Sprint("ca-", time.Now().UnixNano())}, NotBefore: start.Add(-time.Hour), NotAfter: start.Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	up, signer := tmpl, c.key
	if parent != nil {
		up, signer = parent.cert, parent.key
		tmpl.NotAfter = start.Add(5 * time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, up, c.key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if c.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *ca) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.cert)
	return p
}

func (c *ca) leaf(t testing.TB, cn string, orgs []string, usage x509.ExtKeyUsage, life time.Duration) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: cn, Organization: orgs},
		NotBefore: start.Add(-time.Minute), NotAfter: start.Add(life), ExtKeyUsage: []x509.ExtKeyUsage{usage}}, c.cert, newKey(t).Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// subject signs a certificate for a whole subject.
func (c *ca) subject(t testing.TB, name pkix.Name) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(3), Subject: name, NotBefore: start.Add(-time.Minute), NotAfter: start.Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, c.cert, newKey(t).Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func request(header string, certs ...*x509.Certificate) *http.Request {
	r := &http.Request{Header: http.Header{}, URL: &url.URL{Path: "/api"}, TLS: &tls.ConnectionState{PeerCertificates: certs}}
	if header != "" {
		r.Header.Set("Authorization", header)
	}
	return r
}

// as is who the request is of: "name [groups]", or "" if it is refused.
func (w *world) as(r *http.Request) string {
	w.t.Helper()
	resp, ok, err := w.authn.AuthenticateRequest(r.Clone(w.t.Context())) // which takes away what it used
	if err != nil {
		if ok || resp != nil {
			w.t.Error("an error with an answer")
		}
		return ""
	}
	if !ok {
		w.t.Error("neither yes nor no")
	}
	return resp.User.GetName() + " " + fmt.Sprint(resp.User.GetGroups())
}

func TestCertificates(t *testing.T) {
	w := newWorld(t, nil)
	root, foreign := newCA(t, nil), newCA(t, nil)
	middle := newCA(t, root)
	w.roots = root.pool()
	client := x509.ExtKeyUsageClientAuth
	tests := []struct {
		name  string
		certs []*x509.Certificate
		want  string
	}{
		{"none", nil, "system:anonymous [system:unauthenticated]"},
		{"good", []*x509.Certificate{root.leaf(t, "jane", []string{"devs", "ops"}, client, time.Hour)}, "jane [ops devs system:authenticated]"},
		{"claims to be authenticated", []*x509.Certificate{root.leaf(t, "jane", []string{"system:authenticated"}, client, time.Hour)}, "jane [system:authenticated]"},
		{"expired", []*x509.Certificate{root.leaf(t, "jane", nil, client, -time.Second)}, ""},
		{"foreign", []*x509.Certificate{foreign.leaf(t, "jane", []string{"system:masters"}, client, time.Hour)}, ""},
		{"foreign, with its root", []*x509.Certificate{foreign.leaf(t, "jane", nil, client, time.Hour), foreign.cert}, ""},
		{"server's", []*x509.Certificate{root.leaf(t, "jane", nil, x509.ExtKeyUsageServerAuth, time.Hour)}, ""},
		{"no name", []*x509.Certificate{root.leaf(t, "", []string{"devs"}, client, time.Hour)}, ""},
		{"by an intermediate", []*x509.Certificate{middle.leaf(t, "jane", nil, client, time.Hour), middle.cert}, "jane [system:authenticated]"},
		{"intermediate left out", []*x509.Certificate{middle.leaf(t, "joe", nil, client, time.Hour)}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 { // the second answer is remembered
				if got := w.as(request("", tt.certs...)); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			}
		})
	}
}

// What is remembered of a certificate ends with it, with its chain and with
// the roots.
func TestCertificatesAreNotTrustedForever(t *testing.T) {
	w := newWorld(t, nil)
	root, other := newCA(t, nil), newCA(t, nil)
	middle := newCA(t, root) // five hours
	w.roots = root.pool()
	short := root.leaf(t, "short", nil, x509.ExtKeyUsageClientAuth, time.Hour)
	long := middle.leaf(t, "long", nil, x509.ExtKeyUsageClientAuth, 100*time.Hour)
	check := func(when string, wantShort, wantLong bool) {
		t.Helper()
		if got := w.as(request("", short)) != ""; got != wantShort {
			t.Errorf("%s: short %v", when, got)
		}
		if got := w.as(request("", long, middle.cert)) != ""; got != wantLong {
			t.Errorf("%s: long %v", when, got)
		}
	}
	check("at first", true, true)
	w.now = start.Add(61 * time.Minute)
	check("after an hour", false, true)
	w.now = start.Add(6 * time.Hour)
	check("after the intermediate's end", false, false)
	w.now = start
	check("back again", true, true)
	w.roots = other.pool()
	check("other roots", false, false)
	both := other.pool()
	both.AddCert(root.cert)
	w.roots = both
	check("both roots, while they rotate", true, true)
	w.now = start.Add(-time.Hour)
	check("before its time", false, false)
}

func TestBearer(t *testing.T) {
	w := newWorld(t, nil)
	root := newCA(t, nil)
	w.roots = root.pool()
	good := w.token(nil, "a", "robot")
	jane := root.leaf(t, "jane", nil, x509.ExtKeyUsageClientAuth, time.Hour)
	old := root.leaf(t, "jane", nil, x509.ExtKeyUsageClientAuth, -time.Second)
	robot := "system:serviceaccount:a:robot [system:serviceaccounts system:serviceaccounts:a system:authenticated]"
	tests := []struct {
		name string
		r    *http.Request
		want string
	}{
		{"token", request("Bearer " + good), robot},
		{"scheme in any case", request("bearer  " + good), robot},
		{"basic", request("Basic amFuZTpwdw=="), ""},
		{"empty", request("Bearer "), ""},
		{"blank", request("Bearer"), ""},
		{"too long", request("Bearer " + strings.Repeat("x", maxToken+1)), ""},
		{"nonsense", request("Bearer xyz"), ""},
		{"three parts", request("Bearer a.b.c"), ""},
		{"certificate and token", request("Bearer "+good, jane), "jane [system:authenticated]"},
		{"certificate and bad token", request("Bearer xyz", jane), "jane [system:authenticated]"},
		{"bad certificate and token", request("Bearer "+good, old), robot},
		{"bad certificate and bad token", request("Bearer xyz", old), ""},
		{"bad certificate and broken header", request("Basic x", old), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := w.as(tt.r); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestBootstrapTokens(t *testing.T) {
	w := newWorld(t, nil)
	secret := func(change func(*corev1.Secret)) *corev1.Secret {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abc123"}, Type: "bootstrap.kubernetes.io/token",
			Data: map[string][]byte{"token-id": []byte("abc123"), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true"),
				"expiration": []byte(start.Add(time.Hour).Format(time.RFC3339)), "auth-extra-groups": []byte("system:bootstrappers:knarr:node, system:bootstrappers:x")}}
		if change != nil {
			change(s)
		}
		return s
	}
	who := "system:bootstrap:abc123 [system:bootstrappers system:bootstrappers:knarr:node system:bootstrappers:x system:authenticated]"
	const token = "Bearer abc123.0123456789abcdef"
	set := func(key, value string) func(*corev1.Secret) {
		return func(s *corev1.Secret) { s.Data[key] = []byte(value) }
	}
	tests := []struct {
		name, header string
		change       func(*corev1.Secret)
		want         string
	}{
		{"good", token, nil, who},
		{"for ever", token, set("expiration", ""), who},
		{"no groups", token, set("auth-extra-groups", ""), "system:bootstrap:abc123 [system:bootstrappers system:authenticated]"},
		{"wrong secret", "Bearer abc123.0123456789abcdee", nil, ""},
		{"wrong id", "Bearer abc124.0123456789abcdef", nil, ""},
		{"upper case", "Bearer ABC123.0123456789abcdef", nil, ""},
		{"other id inside", token, set("token-id", "abc124"), ""},
		{"expired", token, set("expiration", start.Format(time.RFC3339)), ""},
		{"strange expiration", token, set("expiration", "tomorrow"), ""},
		{"not for this", token, set("usage-bootstrap-authentication", "false"), ""},
		{"no usage", token, func(s *corev1.Secret) { delete(s.Data, "usage-bootstrap-authentication") }, ""},
		{"empty secret", token, set("token-secret", ""), ""},
		{"masters", token, set("auth-extra-groups", "system:masters"), ""},
		{"one bad group", token, set("auth-extra-groups", "system:bootstrappers:x,nodes"), ""},
		{"other type", token, func(s *corev1.Secret) { s.Type = "Opaque" }, ""},
		{"deleted", token, func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{Time: start} }, ""},
		{"other namespace", token, func(s *corev1.Secret) { s.Namespace = "default" }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := secret(tt.change)
			w.set(kinds.Secret, s)
			defer w.remove(kinds.Secret, s)
			if got := w.as(request(tt.header)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if w.as(request(token)) != "" {
		t.Error("a token whose secret is gone still works")
	}
}

func TestRemembersLittle(t *testing.T) {
	r := newRemembered[int]()
	for i := range 3 * maxRemembered {
		r.put([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}, i)
	}
	if len(r.values) > maxRemembered {
		t.Errorf("remembers %d", len(r.values))
	}
}

func TestErrorsHoldNoToken(t *testing.T) {
	w := newWorld(t, nil)
	good := w.token(nil, "a", "robot")
	for _, token := range []string{good + "x", good[:len(good)-4], "abc123.0123456789abcdef", "supersecret"} {
		_, _, err := w.authn.AuthenticateRequest(request("Bearer " + token))
		if err == nil || strings.Contains(err.Error(), token) || strings.Contains(err.Error(), token[strings.LastIndex(token, ".")+1:]) {
			t.Errorf("error %v", err)
		}
	}
}

func TestNewNeeds(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("an authenticator of nothing")
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for i, keys := range [][]any{{}, {p224}, {&newKey(t).PublicKey}, {newKey(t), &p224.PublicKey}, {newKey(t), "x"}} {
		if _, err := NewKeys(keys...); err == nil {
			t.Errorf("keys %d were accepted", i)
		}
	}
	v, ks := view.New(nil), keysOf(t, newKey(t))
	for i, c := range []TokensConfig{{}, {Keys: ks, View: v}, {Keys: ks, Issuers: []string{issuer, ""}, View: v}, {Keys: ks, Issuers: []string{issuer}}, {Issuers: []string{issuer}, View: v}} {
		if _, err := NewTokens(c); err == nil {
			t.Errorf("config %d was accepted", i)
		}
	}
}

func (w *world) account(ns, name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID("sa-" + ns + "-" + name)}}
}

func BenchmarkCertificate(b *testing.B) {
	w := newWorld(b, nil)
	root := newCA(b, nil)
	w.roots = root.pool()
	r := request("", root.leaf(b, "jane", []string{"devs"}, x509.ExtKeyUsageClientAuth, time.Hour))
	b.ReportAllocs()
	for b.Loop() {
		if w.as(r) == "" {
			b.Fatal("refused")
		}
	}
}

func BenchmarkToken(b *testing.B) {
	w := newWorld(b, nil)
	r := request("Bearer " + w.token(nil, "a", "robot"))
	b.ReportAllocs()
	for b.Loop() {
		if w.as(r) == "" {
			b.Fatal("refused")
		}
	}
}
