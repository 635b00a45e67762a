package authn

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/warning"

	"knarr.dev/knarr/internal/kinds"
)

func TestCertificateUID(t *testing.T) {
	w := newWorld(t, nil)
	root := newCA(t, nil)
	w.roots = root.pool()
	attribute := func(v any) pkix.AttributeTypeAndValue {
		return pkix.AttributeTypeAndValue{Type: uidAttribute, Value: v}
	}
	for _, tt := range []struct {
		name  string
		extra []pkix.AttributeTypeAndValue
		uid   string
		ok    bool
	}{
		{"none", nil, "", true},
		{"one", []pkix.AttributeTypeAndValue{attribute("123-abc")}, "123-abc", true},
		{"two", []pkix.AttributeTypeAndValue{attribute("1"), attribute("2")}, "", false},
		{"empty", []pkix.AttributeTypeAndValue{attribute("")}, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cert := root.subject(t, pkix.Name{CommonName: "jane", ExtraNames: tt.extra})
			resp, _, err := w.authn.AuthenticateRequest(request("", cert))
			if (err == nil) != tt.ok || err == nil && (resp.User.GetUID() != tt.uid || resp.User.GetName() != "jane") {
				t.Errorf("%v %+v", err, resp)
			}
		})
	}
}

func TestFrontProxy(t *testing.T) {
	w := newWorld(t, nil)
	clients, fronts := newCA(t, nil), newCA(t, nil)
	w.roots = clients.pool()
	w.authn.cfg.Front = &Front{Roots: fronts.pool, Names: []string{"front"}, Users: []string{"X-Remote-User", "X-User"}, UIDs: []string{"X-Remote-Uid"},
		Groups: []string{"X-Remote-Group"}, ExtraPrefixes: []string{"X-Remote-Extra-"}}
	client := x509.ExtKeyUsageClientAuth
	good, other := fronts.leaf(t, "front", nil, client, time.Hour), fronts.leaf(t, "other", nil, client, time.Hour)
	jane := clients.leaf(t, "jane", nil, client, time.Hour)
	joe := []string{"X-Remote-User", "joe", "X-Remote-Group", "a", "X-Remote-Group", "b", "X-Remote-Group", ""}
	for _, tt := range []struct {
		name    string
		cert    *x509.Certificate
		headers []string
		want    string
	}{
		{"for joe", good, joe, "joe [a b system:authenticated]"},
		{"the second header", good, []string{"X-User", "joe"}, "joe [system:authenticated]"},
		{"for nobody", good, []string{"X-Remote-Group", "a"}, ""}, // nor is it a client's certificate
		{"not the proxy's name", other, joe, ""},
		{"a client's certificate", jane, joe, "jane [system:authenticated]"},
		{"as a master, by a client", jane, []string{"X-Remote-User", "x", "X-Remote-Group", "system:masters"}, "jane [system:authenticated]"},
		{"for the anonymous", good, []string{"X-Remote-User", "system:anonymous", "X-Remote-Group", "system:unauthenticated"}, "system:anonymous [system:unauthenticated]"},
		{"no certificate", nil, joe, "system:anonymous [system:unauthenticated]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := request("")
			if tt.cert != nil {
				r = request("", tt.cert)
			}
			for i := 0; i < len(tt.headers); i += 2 {
				r.Header.Add(tt.headers[i], tt.headers[i+1])
			}
			if got := w.as(r); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	r := request("", good)
	for k, v := range map[string]string{"X-Remote-User": "joe", "X-Remote-Uid": "7", "X-Remote-Extra-Acme.com%2fproject": "p", "X-Remote-Group": "a", "Accept": "x"} {
		r.Header.Set(k, v)
	}
	resp, _, err := w.authn.AuthenticateRequest(r)
	if err != nil || resp.User.GetUID() != "7" || !reflect.DeepEqual(resp.User.GetExtra(), map[string][]string{"acme.com/project": {"p"}}) {
		t.Errorf("%v %+v", err, resp)
	}
	if left := slices.Collect(maps.Keys(r.Header)); !slices.Equal(left, []string{"Accept"}) {
		t.Errorf("the headers travel on: %v", left)
	}
}

func TestAnonymous(t *testing.T) {
	w := newWorld(t, nil)
	w.authn.cfg.Anonymous = Health
	for path, want := range map[string]bool{"/healthz": true, "/livez": true, "/readyz": true, "/readyz/etcd": false, "/version": false, "/api": false, "/": false, "/healthz/": false} {
		r := request("")
		r.URL.Path = path
		if got := w.as(r) != ""; got != want {
			t.Errorf("%s: %v", path, got)
		}
		r.Header.Set("Authorization", "Bearer nonsense")
		if w.as(r) != "" {
			t.Errorf("%s: a bad token is nobody's", path)
		}
	}
}

func TestWebSocketToken(t *testing.T) {
	w := newWorld(t, nil)
	w.authn.cfg.Anonymous = Health
	enc := tokenProtocol + base64.RawURLEncoding.EncodeToString([]byte(w.token(nil, "a", "robot")))
	for _, tt := range []struct {
		name      string
		protocols []string
		upgrade   string
		left      string // empty: refused
	}{
		{"first", []string{enc + ", v5.channel.k8s.io"}, "websocket", "v5.channel.k8s.io"},
		{"last, in a header of its own", []string{"a, b", enc}, "WebSocket", "a,b"},
		{"alone", []string{enc}, "websocket", ""},
		{"twice", []string{enc, enc + ", a"}, "websocket", ""},
		{"broken", []string{tokenProtocol + "!!, a"}, "websocket", ""},
		{"no token", []string{tokenProtocol + ", a"}, "websocket", ""},
		{"bad token", []string{tokenProtocol + base64.RawURLEncoding.EncodeToString([]byte("x")) + ", a"}, "websocket", ""},
		{"no websocket", []string{enc + ", a"}, "", ""},
		{"no token among them", []string{"a"}, "websocket", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := request("")
			r.Header["Sec-Websocket-Protocol"] = tt.protocols
			r.Header.Set("Upgrade", tt.upgrade)
			_, _, err := w.authn.AuthenticateRequest(r)
			if (err == nil) != (tt.left != "") || err == nil && r.Header.Get("Sec-WebSocket-Protocol") != tt.left {
				t.Errorf("%v %v", err, r.Header)
			}
		})
	}
}

// recorder of warnings.
type recorder struct{ texts []string }

func (r *recorder) AddWarning(_, text string) { r.texts = append(r.texts, text) }

func TestSecretTokens(t *testing.T) {
	var w *world
	var used []string
	w = newWorld(t, func(c *TokensConfig) {
		c.Used = func(_ context.Context, s *corev1.Secret, day string) {
			used = append(used, s.Name+" "+day)
			s = s.DeepCopy()
			metav1.SetMetaDataLabel(&s.ObjectMeta, LastUsed, day)
			w.set(kinds.Secret, s)
		}
	})
	fresh := func(change func(*corev1.ServiceAccount, *corev1.Secret)) string {
		sa := w.account("a", "robot")
		token, err := w.tokens.Legacy(sa, "s")
		if err != nil {
			t.Fatal(err)
		}
		s := testSecret()
		s.Type, s.Data = corev1.SecretTypeServiceAccountToken, map[string][]byte{"token": []byte(token)}
		if change != nil {
			change(sa, s)
		}
		w.set(kinds.ServiceAccount, sa)
		w.set(kinds.Secret, s)
		used = nil
		return token
	}
	token := fresh(nil)
	if c := payload(t, token); !reflect.DeepEqual(c, map[string]any{"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:a:robot", "kubernetes.io/serviceaccount/namespace": "a",
		"kubernetes.io/serviceaccount/service-account.name": "robot", "kubernetes.io/serviceaccount/service-account.uid": "sa-a-robot", "kubernetes.io/serviceaccount/secret.name": "s"}) {
		t.Errorf("claims %v", c)
	}
	robot := "system:serviceaccount:a:robot [system:serviceaccounts system:serviceaccounts:a system:authenticated]"
	for range 2 {
		if got := w.as(request("Bearer " + token)); got != robot {
			t.Errorf("got %q", got)
		}
	}
	if !slices.Equal(used, []string{"s 2026-06-01"}) {
		t.Errorf("noted %v, want once a day", used)
	}
	w.now = start.Add(100 * 365 * 24 * time.Hour)
	if got := w.as(request("Bearer " + token)); got != robot {
		t.Errorf("it expires: %q", got)
	}
	w.now = start
	for _, tt := range []struct {
		name   string
		change func(*corev1.ServiceAccount, *corev1.Secret)
		want   string
	}{
		{"secret going", func(_ *corev1.ServiceAccount, s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{Time: start} }, "Token has been invalidated"},
		{"secret holds another", func(_ *corev1.ServiceAccount, s *corev1.Secret) { s.Data["token"] = []byte("x") }, "Token does not match server's copy"},
		{"account made anew", func(sa *corev1.ServiceAccount, _ *corev1.Secret) { sa.UID = "x" }, "service account UID (x) does not match claim (sa-a-robot)"},
		{"account going", func(sa *corev1.ServiceAccount, _ *corev1.Secret) { sa.DeletionTimestamp = &metav1.Time{Time: start} }, "service account a/robot has been deleted"},
		{"marked", func(_ *corev1.ServiceAccount, s *corev1.Secret) {
			s.Labels = map[string]string{InvalidSince: "2026-05-01"}
		}, "the token in secret a/s for service account a/robot has been marked invalid."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			token := fresh(tt.change)
			r := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
			if err := w.authn.Review(t.Context(), r); err != nil || r.Status.Authenticated || !strings.HasPrefix(r.Status.Error, tt.want) {
				t.Errorf("%v %+v, want %q", err, r.Status, tt.want)
			}
		})
	}
	warned := &recorder{}
	token = fresh(func(sa *corev1.ServiceAccount, _ *corev1.Secret) { sa.Secrets = []corev1.ObjectReference{{Name: "s"}} })
	r := request("Bearer " + token)
	if w.as(r.WithContext(warning.WithWarningRecorder(t.Context(), warned))) == "" {
		t.Error("an old one is refused")
	}
	w.authn.AuthenticateRequest(r.WithContext(warning.WithWarningRecorder(t.Context(), warned)))
	if len(warned.texts) != 1 || !strings.HasPrefix(warned.texts[0], "Use tokens from the TokenRequest API") {
		t.Errorf("warnings %q", warned.texts)
	}
	w.remove(kinds.Secret, testSecret())
	if w.as(request("Bearer "+token)) != "" {
		t.Error("it works without its secret")
	}
}

// Why a token is refused stands in a TokenReview in upstream's words.
func TestReasons(t *testing.T) {
	w := newWorld(t, nil)
	w.set(kinds.Pod, testPod("robot", "n1"))
	w.set(kinds.Node, testNode())
	for _, tt := range []struct {
		name   string
		bind   func(*authenticationv1.TokenRequestSpec)
		change func()
		want   string
	}{
		{"expired", nil, func() { w.now = start.Add(2 * time.Hour) }, "service account token has expired"},
		{"not yet", nil, func() { w.now = start.Add(-2 * time.Minute) }, "service account token is not valid yet"},
		{"other audience", func(s *authenticationv1.TokenRequestSpec) { s.Audiences = []string{"vault"} }, func() {},
			`token audiences ["vault"] is invalid for the target audiences ["` + issuer + `"]`},
		{"pod gone", bindTo("Pod", "web", ""), func() { w.remove(kinds.Pod, testPod("", "")) }, "service account token has been invalidated"},
		{"node anew", bindTo("Node", "n1", ""), func() {
			n := testNode()
			n.UID = "x"
			w.set(kinds.Node, n)
		}, "node UID (x) does not match service account node ref claim (node-1)"},
		{"keys gone", nil, func() { w.tokens.Rotate(keysOf(t, newKey(t))) }, "invalid signature, no keys found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: w.token(tt.bind, "a", "robot")}}
			tt.change()
			defer func() { w.now = start }()
			if err := w.authn.Review(t.Context(), r); err != nil || r.Status.Error != tt.want || r.Status.Authenticated {
				t.Errorf("%v %+v", err, r.Status)
			}
		})
	}
}

// Others are asked about tokens that are none of ours, and told for whom.
func TestOthers(t *testing.T) {
	w := newWorld(t, nil)
	var asked []string
	w.authn.cfg.Others = []authenticator.Token{
		authenticator.TokenFunc(func(ctx context.Context, token string) (*authenticator.Response, bool, error) {
			if token == "bad" {
				return nil, false, errors.New("the first is sure that it is bad")
			}
			return nil, false, nil
		}),
		authenticator.TokenFunc(func(ctx context.Context, token string) (*authenticator.Response, bool, error) {
			auds, _ := authenticator.AudiencesFrom(ctx)
			asked = append(asked, fmt.Sprint(token, auds))
			if token != "theirs" {
				return nil, false, nil
			}
			return &authenticator.Response{User: &user.DefaultInfo{Name: "ann"}, Audiences: auds}, true, nil
		}),
	}
	if got := w.as(request("Bearer theirs")); got != "ann [system:authenticated]" {
		t.Errorf("got %q", got)
	}
	r := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "theirs", Audiences: []string{"vault"}}}
	if err := w.authn.Review(t.Context(), r); err != nil || !r.Status.Authenticated || !slices.Equal(r.Status.Audiences, []string{"vault"}) {
		t.Errorf("%v %+v", err, r.Status)
	}
	if !slices.Equal(asked, []string{"theirs[" + issuer + "]", "theirs[vault]"}) {
		t.Errorf("asked %q", asked)
	}
	r = &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "bad"}}
	if err := w.authn.Review(t.Context(), r); err != nil || r.Status.Error != "the first is sure that it is bad" {
		t.Errorf("%v %+v", err, r.Status)
	}
	asked = nil
	if w.as(request("Bearer "+w.token(nil, "a", "robot"))) == "" || len(asked) > 0 {
		t.Errorf("our own tokens are told to others: %q", asked)
	}
}
