package webhook

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// hook is a webhook that notes what it is asked.
type hook struct {
	*httptest.Server
	asked  []string // bodies
	header []http.Header
	codes  []int // of the first answers; then 200
	answer string
}

func newHook(t *testing.T) *hook {
	h := &hook{}
	h.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		h.asked, h.header = append(h.asked, string(body)), append(h.header, r.Header)
		if len(h.codes) > 0 {
			code := h.codes[0]
			h.codes = h.codes[1:]
			if code == http.StatusFound {
				w.Header().Set("Location", h.URL+"/secret")
			}
			w.WriteHeader(code)
			return
		}
		fmt.Fprint(w, h.answer)
	}))
	t.Cleanup(h.Close)
	return h
}

// file is a kubeconfig that leads to the hook.
func (h *hook) file(t *testing.T, user string) string {
	t.Helper()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
	file := filepath.Join(t.TempDir(), "hook.yaml")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: c
clusters: [{name: hook, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: us, user: {%s}}]
contexts: [{name: c, context: {cluster: hook, user: us}}]
`, h.URL+"/ask", base64.StdEncoding.EncodeToString(ca), user)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (h *hook) open(t *testing.T, user string) *Client {
	t.Helper()
	c, err := Open(h.file(t, user), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	c.pause = time.Nanosecond
	return c
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct{ text, want string }{
		"not YAML":         {"{", "yaml"},
		"no context":       {"clusters: []", "names no cluster"},
		"no cluster":       {"current-context: c\ncontexts: [{name: c, context: {cluster: x}}]", `there is no cluster "x"`},
		"no user":          {"current-context: c\ncontexts: [{name: c, context: {cluster: x, user: usr}}]\nclusters: [{name: x, cluster: {server: https://x}}]", `there is no user "usr"`},
		"no URL":           {"current-context: c\ncontexts: [{name: c, context: {cluster: x}}]\nclusters: [{name: x, cluster: {server: x}}]", "is not a URL"},
		"no authority":     {"current-context: c\ncontexts: [{name: c, context: {cluster: x}}]\nclusters: [{name: x, cluster: {server: https://x, certificate-authority: none.crt}}]", "no such file"},
		"a plugin":         {"current-context: c\nusers: [{name: x, user: {exec: {command: x}}}]", `unknown field`},
		"key without cert": {"current-context: c\ncontexts: [{name: c, context: {cluster: x, user: usr}}]\nusers: [{name: usr, user: {client-key-data: eA==}}]\nclusters: [{name: x, cluster: {server: https://x}}]", "client-certificate"},
	} {
		file := filepath.Join(dir, "f")
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(file, 0); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), file) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if _, err := Open(filepath.Join(dir, "none"), 0); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestCall(t *testing.T) {
	for _, tt := range []struct {
		name  string
		codes []int
		times int
		want  string
	}{
		{"good", nil, 1, ""},
		{"busy at first", []int{429, 500}, 3, ""},
		{"busy for ever", []int{500, 500, 500, 500, 500, 500}, 5, "status code 500"},
		{"refused", []int{403}, 1, "status code 403"},
		{"redirected", []int{302}, 1, "redirect"}, // CVE-2020-8561
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHook(t)
			h.codes, h.answer = tt.codes, `{}`
			var out map[string]any
			err := h.open(t, "token: secret").call(t.Context(), map[string]string{"a": "b"}, &out)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) || len(h.asked) != tt.times {
				t.Errorf("%v after %d calls", err, len(h.asked))
			}
			if h.header[0].Get("Authorization") != "Bearer secret" || h.asked[0] != `{"a":"b"}` {
				t.Errorf("%v %s", h.header[0], h.asked[0])
			}
		})
	}
	h := newHook(t)
	h.answer = "secret text"
	if err := h.open(t, "username: u, password: p").call(t.Context(), 1, &struct{}{}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
	if u, p, ok := (&http.Request{Header: h.header[0]}).BasicAuth(); !ok || u != "u" || p != "p" {
		t.Error("no basic authentication")
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := h.open(t, "tokenFile: "+file)
	h.answer = "{}"
	for _, want := range []string{"one", "two"} {
		if err := os.WriteFile(file, []byte(want+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.call(t.Context(), 1, &struct{}{}); err != nil || h.header[len(h.header)-1].Get("Authorization") != "Bearer "+want {
			t.Errorf("%v %v", err, h.header[len(h.header)-1])
		}
	}
	h.answer = strings.Repeat(" ", maxAnswer+1)
	if err := c.call(t.Context(), 1, &struct{}{}); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("%v", err)
	}
}

func TestToken(t *testing.T) {
	h := newHook(t)
	tok, err := NewToken(h.open(t, "token: x"), "v1beta1", []string{"api"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, answer string
		wanted       []string
		want         string // "name uid [groups] extra for [audiences]", "-", or the error
	}{
		{"somebody", `{"status":{"authenticated":true,"user":{"username":"joe","uid":"7","groups":["g"],"extra":{"k":["v"]}}}}`, []string{"api"}, "joe 7 [g] map[k:[v]] for [api]"},
		{"for another", `{"status":{"authenticated":true,"user":{"username":"joe"}}}`, []string{"vault"}, "-"},
		{"for another, which the webhook knows", `{"status":{"authenticated":true,"user":{"username":"joe"},"audiences":["vault","x"]}}`, []string{"vault"}, "joe  [] map[] for [vault]"},
		{"nobody", `{"status":{"authenticated":false}}`, []string{"api"}, "-"},
		{"nobody, and why", `{"status":{"error":"revoked"}}`, []string{"api"}, "revoked"},
		{"nonsense", `[`, []string{"api"}, "webhook: the webhook's answer is not of the form that was asked for"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h.answer = tt.answer
			resp, ok, err := tok.AuthenticateToken(authenticator.WithAudiences(t.Context(), tt.wanted), "secret")
			got := "-"
			if err != nil {
				got = err.Error()
			} else if ok {
				u := resp.User
				got = fmt.Sprint(u.GetName(), " ", u.GetUID(), " ", u.GetGroups(), " ", u.GetExtra(), " for ", []string(resp.Audiences))
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
	if want := `"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1beta1"`; !strings.Contains(h.asked[0], want) || !strings.Contains(h.asked[0], `"spec":{"token":"secret","audiences":["api"]}`) {
		t.Errorf("asked %s", h.asked[0])
	}
	if _, err := NewToken(nil, "v2", nil); err == nil {
		t.Error("v2")
	}
}

func TestAuthorizer(t *testing.T) {
	h := newHook(t)
	now := time.Unix(0, 0)
	seconds := func(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Second} }
	open := func(change func(*apiserver.WebhookConfiguration)) *Authorizer {
		t.Helper()
		cfg := &apiserver.WebhookConfiguration{SubjectAccessReviewVersion: "v1", AuthorizedTTL: seconds(60), UnauthorizedTTL: seconds(10), CacheAuthorizedRequests: true, CacheUnauthorizedRequests: true, FailurePolicy: "NoOpinion"}
		if change != nil {
			change(cfg)
		}
		a, err := NewAuthorizer(h.open(t, "token: x"), Compiler(), cfg, func() time.Time { return now })
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	at := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "joe", UID: "7", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}},
		Verb: "list", Namespace: "a", APIGroup: "apps", APIVersion: "v1", Resource: "deployments", ResourceRequest: true,
		FieldSelectorRequirements: fields.Requirements{{Field: "metadata.name", Operator: "=", Value: "x"}}}
	sel, err := labels.ParseToRequirements("app in (a,b),!c")
	if err != nil {
		t.Fatal(err)
	}
	at.LabelSelectorRequirements = sel
	decide := func(a *Authorizer) string {
		d, reason, err := a.Authorize(t.Context(), at)
		return fmt.Sprint(d, " ", reason, " ", err)
	}
	const (
		yes    = `{"status":{"allowed":true,"reason":"because"}}`
		no     = `{"status":{"allowed":false,"denied":true,"reason":"never"}}`
		unsure = `{"status":{"allowed":false,"reason":"hm"}}`
	)
	allow, deny := fmt.Sprint(authorizer.DecisionAllow), fmt.Sprint(authorizer.DecisionDeny)
	noOpinion := fmt.Sprint(authorizer.DecisionNoOpinion)
	for answer, want := range map[string]string{yes: allow + " because <nil>", no: deny + " never <nil>", unsure: noOpinion + " hm <nil>",
		`{"status":{"allowed":true,"denied":true}}`: deny + "  " + errBoth.Error()} {
		h.answer = answer
		if got := decide(open(nil)); got != want {
			t.Errorf("%s: %q, want %q", answer, got, want)
		}
	}
	var ask map[string]any
	if err := json.Unmarshal([]byte(h.asked[0]), &ask); err != nil {
		t.Fatal(err)
	}
	spec, _ := json.Marshal(ask["spec"])
	if want := `{"extra":{"k":["v"]},"groups":["g"],"resourceAttributes":{"fieldSelector":{"requirements":[{"key":"metadata.name","operator":"In","values":["x"]}]},"group":"apps","labelSelector":{"requirements":[{"key":"app","operator":"In","values":["a","b"]},{"key":"c","operator":"DoesNotExist"}]},"namespace":"a","resource":"deployments","verb":"list","version":"v1"},"uid":"7","user":"joe"}`; string(spec) != want && !strings.Contains(string(spec), `["b","a"]`) {
		t.Errorf("asked %s", spec)
	}

	a := open(nil)
	count := func(answer string, after int) int {
		h.answer, h.asked = answer, nil
		decide(a)
		now = now.Add(time.Duration(after) * time.Second)
		decide(a)
		now = now.Add(time.Hour)
		return len(h.asked)
	}
	if got := []int{count(yes, 59), count(yes, 60), count(no, 9), count(no, 10)}; !slices.Equal(got, []int{1, 2, 1, 2}) {
		t.Errorf("asked %v times", got)
	}
	a = open(func(c *apiserver.WebhookConfiguration) { c.CacheAuthorizedRequests = false })
	if got := []int{count(yes, 0), count(no, 0)}; !slices.Equal(got, []int{2, 1}) {
		t.Errorf("asked %v times", got)
	}

	h.codes = []int{403}
	if got := decide(open(nil)); !strings.HasPrefix(got, noOpinion+"  webhook: ") {
		t.Errorf("failure: %q", got)
	}
	h.codes = []int{403}
	if got := decide(open(func(c *apiserver.WebhookConfiguration) { c.FailurePolicy = "Deny" })); !strings.HasPrefix(got, deny+"  webhook: ") {
		t.Errorf("failure: %q", got)
	}

	h.answer, h.asked = yes, nil
	conditions := func(list ...string) *Authorizer {
		return open(func(c *apiserver.WebhookConfiguration) {
			for _, e := range list {
				c.MatchConditions = append(c.MatchConditions, apiserver.WebhookMatchCondition{Expression: e})
			}
			c.FailurePolicy = "Deny"
		})
	}
	if got := decide(conditions(`has(request.resourceAttributes) && request.resourceAttributes.namespace == "b"`)); got != noOpinion+"  <nil>" || len(h.asked) > 0 {
		t.Errorf("a condition that is false: %q, asked %d", got, len(h.asked))
	}
	if got := decide(conditions(`request.user == "joe"`, `"g" in request.groups`)); got != allow+" because <nil>" {
		t.Errorf("conditions that hold: %q", got)
	}
	if got := decide(conditions(`request.nonResourceAttributes.path == "/x"`)); !strings.HasPrefix(got, deny+"  cel evaluation error") {
		t.Errorf("a condition that fails: %q", got)
	}

	h.asked = nil
	decide(open(func(c *apiserver.WebhookConfiguration) { c.SubjectAccessReviewVersion = "v1beta1" }))
	if !strings.Contains(h.asked[0], `"apiVersion":"authorization.k8s.io/v1beta1"`) || !strings.Contains(h.asked[0], `"group":["g"]`) || strings.Contains(h.asked[0], `"groups"`) {
		t.Errorf("v1beta1: %s", h.asked[0])
	}
	if _, _, incomplete, err := a.RulesFor(context.Background(), nil, ""); !incomplete || err == nil {
		t.Error("a webhook lists rules")
	}
}

// What is remembered is bounded, however many questions there are.
func TestRemembersLittle(t *testing.T) {
	h := newHook(t)
	h.answer = `{"status":{"allowed":true}}`
	a, err := NewAuthorizer(h.open(t, "token: x"), Compiler(), &apiserver.WebhookConfiguration{SubjectAccessReviewVersion: "v1", AuthorizedTTL: metav1.Duration{Duration: time.Hour}, CacheAuthorizedRequests: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxAnswers {
		a.remember(fmt.Sprint(i), a.answers[""].status)
		s := a.answers[""].status
		s.Allowed = true
		a.remember(fmt.Sprint("y", i), s)
	}
	if len(a.answers) > maxAnswers {
		t.Errorf("%d answers", len(a.answers))
	}
	long := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "joe"}, Path: "/" + strings.Repeat("x", maxAsked), Verb: "get"}
	for range 2 {
		if _, _, err := a.Authorize(t.Context(), long); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.asked) != 2 {
		t.Error("a huge question is remembered")
	}
}
