package config

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/auth/authn"
	"knarr.dev/knarr/internal/auth/authz"
	"knarr.dev/knarr/internal/filewatch"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// logged is a log that tests wait for: a line tells that a change was judged.
type logged struct {
	lines chan string
}

func (l *logged) Write(p []byte) (int, error) {
	l.lines <- string(p)
	return len(p), nil
}

func newLog() (*logged, *slog.Logger) {
	l := &logged{lines: make(chan string, 100)}
	return l, slog.New(slog.NewTextHandler(l, nil))
}

func (l *logged) wait(t *testing.T, part string) {
	t.Helper()
	select {
	case line := <-l.lines:
		if !strings.Contains(line, part) {
			t.Errorf("logged %q, want %q", line, part)
		}
	case <-time.After(time.Minute):
		t.Fatalf("nothing is logged, want %q", part)
	}
}

// replace as editors and tools do: whole, under another name first.
func replace(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func follow(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

const authentication = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"

func TestAuthenticationRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	_, log := newLog()
	for name, tt := range map[string]struct{ text, want string }{
		"nonsense":             {"x", "failed to load AuthenticationConfiguration from file"},
		"another kind":         {"apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n", "expected AuthenticationConfiguration, got *apiserver.AuthorizationConfiguration"},
		"unknown field":        {authentication + "jwtt: []\n", `unknown field "jwtt"`},
		"our own issuer":       {authentication + "jwt: [{issuer: {url: https://own, audiences: [a]}, claimMappings: {username: {claim: sub, prefix: ''}}}]\n", "must not overlap with disallowed issuers"},
		"no expression":        {authentication + "jwt: [{issuer: {url: https://x, audiences: [a]}, claimMappings: {username: {expression: 'claims.'}}}]\n", "compilation failed"},
		"egress":               {authentication + "jwt: [{issuer: {url: https://x, audiences: [a], egressSelectorType: cluster}, claimMappings: {username: {claim: sub, prefix: ''}}}]\n", "egress lookup required"},
		"conditions of nobody": {authentication + "anonymous: {enabled: false, conditions: [{path: /x}]}\n", "enabled should be set to true when conditions are defined"},
	} {
		replace(t, file, tt.text)
		if _, err := NewAuthentication(file, []string{"https://own"}, authn.Health, log, nil); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), file) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if _, err := NewAuthentication(file+"none", nil, authn.Health, log, nil); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func TestAnonymous(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	_, log := newLog()
	for _, tt := range []struct {
		text  string
		paths map[string]bool
	}{
		{"", map[string]bool{"/healthz": true, "/version": false}},
		{"anonymous: {enabled: false}\n", map[string]bool{"/healthz": false, "/version": false}},
		{"anonymous: {enabled: true}\n", map[string]bool{"/healthz": true, "/version": true}},
		{"anonymous: {enabled: true, conditions: [{path: /version}]}\n", map[string]bool{"/healthz": false, "/version": true, "/version/": false}},
	} {
		replace(t, file, authentication+tt.text)
		a, err := NewAuthentication(file, nil, authn.Health, log, nil)
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range tt.paths {
			if a.Anonymous(path) != want {
				t.Errorf("%q: %s is %v", tt.text, path, !want)
			}
		}
	}
}

// A changed file holds once its issuers answer; one that cannot work is left
// aside.
func TestAuthenticationFollows(t *testing.T) {
	var srv *httptest.Server
	srv = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": srv.URL, "jwks_uri": srv.URL + "/keys", "keys": []any{}})
	}))
	defer srv.Close()
	ca, _ := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	issuer := fmt.Sprintf("jwt: [{issuer: {url: %q, certificateAuthority: %s, audiences: [a]}, claimMappings: {username: {claim: sub, prefix: ''}}}]\n", srv.URL, ca)
	file := filepath.Join(t.TempDir(), "f")
	replace(t, file, authentication)
	lines, log := newLog()
	a, err := NewAuthentication(file, nil, authn.Health, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	// A token of that issuer, which nobody has signed: only who knows the issuer
	// has an opinion.
	claims, _ := json.Marshal(map[string]string{"iss": srv.URL})
	token := fmt.Sprintf("eyJhbGciOiJSUzI1NiJ9.%s.eA", base64url(claims))
	opinion := func() bool {
		_, _, err := a.AuthenticateToken(t.Context(), token)
		return err != nil
	}
	a.Reloads = filewatch.NewReloads("authentication_config_controller", "here")
	reg := prometheus.NewRegistry()
	reg.MustRegister(a.Reloads)
	follow(t, a.Run)
	if opinion() {
		t.Error("an issuer that is not configured is known")
	}
	replace(t, file, authentication+issuer+"anonymous: {enabled: true, conditions: [{path: /x}]}\n")
	lines.wait(t, "a changed configuration holds")
	if !opinion() || !a.Anonymous("/x") || a.Anonymous("/healthz") {
		t.Error("the change does not hold")
	}
	replace(t, file, authentication+"jwt: [x]\n")
	lines.wait(t, "is not taken")
	if !opinion() {
		t.Error("a broken file took the issuer away")
	}
	replace(t, file, authentication)
	lines.wait(t, "a changed configuration holds")
	if opinion() || !a.Anonymous("/healthz") {
		t.Error("the issuer is still known")
	}
	got := figures(t, reg)
	want := map[string]float64{"automatic_reloads_total success": 2, "automatic_reloads_total failure": 1, "last_config_info " + filewatch.Hash([]byte(authentication)): 1}
	for name, v := range want {
		if got[name] != v {
			t.Errorf("%s is %v, want %v", name, got[name], v)
		}
	}
	for _, status := range []string{"success", "failure"} {
		if at := got["automatic_reload_last_timestamp_seconds "+status]; time.Since(time.Unix(int64(at), 0)) > time.Hour {
			t.Errorf("last %s: %v", status, at)
		}
	}
	if len(got) != 5 {
		t.Errorf("figures: %v", got)
	}
}

// figures of reloads by name and what differs in labels; all are of this
// server.
func figures(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "apiserver_authentication_config_controller_")
			for _, l := range m.GetLabel() {
				switch {
				case l.GetName() != "apiserver_id_hash":
					name += " " + l.GetValue()
				case l.GetValue() != filewatch.Hash([]byte("here")):
					t.Errorf("%s is of %s", name, l.GetValue())
				}
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

const authorization = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n"

func TestAuthorizationRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	_, log := newLog()
	for name, tt := range map[string]struct{ text, want string }{
		"nonsense":     {"x", "failed to load AuthorizationConfiguration from file"},
		"nobody":       {authorization, "at least one authorization mode must be defined"},
		"ABAC":         {authorization + "- {type: ABAC, name: abac}\n", `Unsupported value: "ABAC"`},
		"twice":        {authorization + "- {type: RBAC, name: rbac}\n- {type: RBAC, name: rbac2}\n", "Duplicate value"},
		"another name": {authorization + "- {type: RBAC, name: roles}\n", "expected name rbac for authorizer RBAC instead of roles"},
		"no webhook":   {authorization + "- {type: Webhook, name: w}\n", "required when type=Webhook"},
		"ourselves": {authorization + "- {type: Webhook, name: w, webhook: {timeout: 1s, subjectAccessReviewVersion: v1, failurePolicy: Deny, connectionInfo: {type: InClusterConfig}}}\n",
			"InClusterConfig cannot be used here"},
		"a condition that is none": {authorization + "- {type: Webhook, name: w, webhook: {timeout: 1s, subjectAccessReviewVersion: v1, matchConditionSubjectAccessReviewVersion: v1, failurePolicy: Deny, connectionInfo: {type: InClusterConfig}, matchConditions: [{expression: 'request.'}]}}\n",
			"compilation failed"},
	} {
		replace(t, file, tt.text)
		if _, err := NewAuthorization(file, newAuthz(), log); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// newAuthz allows joe to get pods by RBAC.
func newAuthz() *authz.Authorizer {
	held := []*kinds.Kind{kinds.ClusterRole, kinds.ClusterRoleBinding, kinds.Role, kinds.RoleBinding, kinds.Pod, kinds.ReplicaSet, kinds.EndpointSlice}
	v := view.New(held, view.SharedOf(held)...)
	v.Apply(view.Change{Kind: kinds.ClusterRole, Rev: 1, New: &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "r"},
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}}})
	v.Apply(view.Change{Kind: kinds.ClusterRoleBinding, Rev: 2, New: &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "r"}, Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "joe"}}}})
	return authz.New(v)
}

// Who is asked, in which order, follows the file.
func TestAuthorizationFollows(t *testing.T) {
	answer := `{"status":{"denied":true,"reason":"not on Sundays"}}`
	asked := 0
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		fmt.Fprint(w, answer)
	}))
	defer srv.Close()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	kubeconfig, file := filepath.Join(dir, "hook"), filepath.Join(dir, "f")
	replace(t, kubeconfig, fmt.Sprintf("current-context: c\nclusters: [{name: h, cluster: {server: %q, certificate-authority: ca.crt}}]\ncontexts: [{name: c, context: {cluster: h}}]\n", srv.URL))
	hook := fmt.Sprintf("- {type: Webhook, name: hook, webhook: {timeout: 30s, subjectAccessReviewVersion: v1, matchConditionSubjectAccessReviewVersion: v1, failurePolicy: Deny, cacheAuthorizedRequests: false, connectionInfo: {type: KubeConfigFile, kubeConfigFile: %q}, matchConditions: [{expression: 'request.user == \"joe\"'}]}}\n", kubeconfig)
	const rbac = "- {type: RBAC, name: rbac}\n"
	replace(t, file, authorization+rbac)
	lines, log := newLog()
	az := newAuthz()
	a, err := NewAuthorization(file, az, log)
	if err != nil {
		t.Fatal(err)
	}
	decide := func(name, resource string, groups ...string) string {
		d, reason, err := az.Authorize(t.Context(), authorizer.AttributesRecord{User: &user.DefaultInfo{Name: name, Groups: groups}, Verb: "get", Resource: resource, Namespace: "a", Name: "x", ResourceRequest: true})
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(map[authorizer.Decision]string{authorizer.DecisionAllow: "yes ", authorizer.DecisionDeny: "no ", authorizer.DecisionNoOpinion: "- "}[d] + reason)
	}
	expect := func(when, joe, secrets, ann string) {
		t.Helper()
		if got := [3]string{decide("joe", "pods"), decide("joe", "secrets"), decide("ann", "pods")}; got != [3]string{joe, secrets, ann} {
			t.Errorf("%s: %q", when, got)
		}
		if got := decide("x", "secrets", "system:masters"); got != "yes" {
			t.Errorf("%s: masters: %s", when, got)
		}
	}
	const byRole = `yes RBAC: allowed by ClusterRoleBinding "b" of ClusterRole "r" to User "joe"`
	follow(t, a.Run)
	expect("RBAC", byRole, "-", "-")
	replace(t, file, authorization+hook+rbac)
	lines.wait(t, "a changed configuration holds")
	expect("webhook first", "no not on Sundays", "no not on Sundays", "-")
	replace(t, file, authorization+rbac+hook)
	lines.wait(t, "a changed configuration holds")
	expect("webhook last", byRole, "no not on Sundays", "-")
	replace(t, file, authorization+hook)
	lines.wait(t, "missing required types: [RBAC]")
	expect("RBAC may not go", byRole, "no not on Sundays", "-")
	replace(t, file, authorization+rbac+"- {type: AlwaysAllow, name: alwaysallow}\n")
	lines.wait(t, "a changed configuration holds")
	expect("everybody", byRole, "yes", "yes")
	replace(t, file, authorization+rbac+"- {type: AlwaysDeny, name: alwaysdeny}\n")
	lines.wait(t, "a changed configuration holds")
	expect("nobody else", byRole, "- Everything is forbidden.", "- Everything is forbidden.")
	if asked == 0 {
		t.Error("the webhook was not asked")
	}
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
