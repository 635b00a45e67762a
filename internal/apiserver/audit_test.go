package apiserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/security/audit"
)

// sink is where a test's events go. The last event of a request may come
// after its answer.
type sink struct {
	events chan auditv1.Event
	full   atomic.Bool // nothing can be written
}

// audited has what a policy orders written to a sink.
func audited(t testing.TB, mode audit.Mode, rules string) (*sink, func(*apiserver.Config)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\n"+rules), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := audit.OpenPolicy(file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{events: make(chan auditv1.Event, 1000)}
	n := 0
	a, err := audit.New(audit.Config{Policy: p, Log: slog.New(slog.DiscardHandler), ID: func() string { n++; return fmt.Sprint("id-", n) },
		Outputs: []audit.Output{{Name: "log", Mode: mode, Send: s.send}}})
	if err != nil {
		t.Fatal(err)
	}
	return s, func(c *apiserver.Config) { c.Audit = a }
}

func (s *sink) send(_ context.Context, lines [][]byte) error {
	if s.full.Load() {
		return errors.New("no space left on device")
	}
	for _, l := range lines {
		var e auditv1.Event
		if err := json.Unmarshal(l, &e); err != nil {
			return err
		}
		s.events <- e
	}
	return nil
}

// next event, which must be of the stage.
func (s *sink) next(t *testing.T, stage auditv1.Stage) *auditv1.Event {
	t.Helper()
	select {
	case e := <-s.events:
		if e.Stage != stage || e.Kind != "Event" || e.APIVersion != "audit.k8s.io/v1" || e.StageTimestamp.Before(&e.RequestReceivedTimestamp) {
			t.Fatalf("want %s, got %+v", stage, e)
		}
		return &e
	case <-time.After(30 * time.Second):
		t.Fatalf("no event %s", stage)
	}
	return nil
}

func (s *sink) none(t *testing.T) {
	t.Helper()
	select {
	case e := <-s.events:
		t.Errorf("%+v", e)
	default:
	}
}

const (
	received = auditv1.StageRequestReceived
	started  = auditv1.StageResponseStarted
	complete = auditv1.StageResponseComplete
	secrets  = "/api/v1/namespaces/default/secrets"
)

// TestAuditMetadata: what is said of a request, and nothing of what it holds.
func TestAuditMetadata(t *testing.T) {
	s, on := audited(t, audit.Blocking, "rules: [{level: Metadata}]")
	w := newWorld(t, on)
	a := w.must(t, 201, "POST", secrets, `{"metadata":{"name":"s"},"stringData":{"k":"hidden"}}`, "User-Agent", strings.Repeat("x", 2000), "X-Forwarded-For", "192.0.2.7")
	if a.header.Get("Audit-ID") != "id-1" {
		t.Errorf("%v", a.header)
	}
	e := s.next(t, received)
	if e.Level != "Metadata" || e.AuditID != "id-1" || e.Verb != "create" || e.RequestURI != secrets || e.User.Username != "admin" || e.User.Groups[0] != "system:masters" ||
		len(e.SourceIPs) != 2 || e.SourceIPs[0] != "192.0.2.7" || e.SourceIPs[1] != "127.0.0.1" || len(e.UserAgent) != 1024+len("...TRUNCATED") ||
		*e.ObjectRef != (auditv1.ObjectReference{Resource: "secrets", Namespace: "default", APIVersion: "v1"}) || e.ResponseStatus != nil || e.Annotations != nil {
		t.Errorf("%+v %+v", e, e.ObjectRef)
	}
	e = s.next(t, complete)
	if e.ObjectRef.Name != "s" || e.ResponseStatus.Code != 201 || e.ResponseStatus.Status != "" || e.Annotations["authorization.k8s.io/decision"] != "allow" || e.RequestObject != nil || e.ResponseObject != nil {
		t.Errorf("%+v", e)
	}
	if got := w.must(t, 409, "POST", secrets, `{"metadata":{"name":"s"}}`, "Audit-ID", "mine"); got.header.Get("Audit-ID") != "mine" {
		t.Errorf("%v", got.header)
	}
	s.next(t, received)
	if e = s.next(t, complete); e.AuditID != "mine" || e.ResponseStatus.Code != 409 || e.ResponseStatus.Reason != "AlreadyExists" || e.ResponseStatus.Status != "Failure" || !strings.Contains(e.ResponseStatus.Message, "already exists") {
		t.Errorf("%+v", e.ResponseStatus)
	}
	w.must(t, 200, "PUT", secrets+"/s", `{"metadata":{"name":"s","resourceVersion":"`+a.at("metadata.resourceVersion").(string)+`"}}`)
	s.next(t, received)
	if e = s.next(t, complete); e.ObjectRef.ResourceVersion == "" || e.RequestObject != nil {
		t.Errorf("%+v", e.ObjectRef)
	}
	w.must(t, 200, "GET", "/version", "")
	if e = s.next(t, received); e.ObjectRef != nil || e.Verb != "get" || e.RequestURI != "/version" {
		t.Errorf("%+v", e)
	}
	s.next(t, complete)
	m := w.must(t, 200, "GET", "/metrics", "").raw
	for _, want := range []string{"apiserver_audit_event_total 9\n", `apiserver_audit_level_total{level="Metadata"} 5`, "apiserver_audit_requests_rejected_total 0\n"} {
		if !strings.Contains(m, want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
}

// TestAuditObjects: what was sent and what was answered, in whatever form.
func TestAuditObjects(t *testing.T) {
	s, on := audited(t, audit.Blocking, `omitStages: [RequestReceived]
rules:
- {level: None, users: [nobody]}
- {level: Metadata, resources: [{group: "", resources: [secrets]}]}
- {level: Request, verbs: [delete, patch]}
- {level: RequestResponse, verbs: [list], omitManagedFields: true}
- {level: RequestResponse}
`)
	w := newWorld(t, on)
	w.must(t, 201, "POST", secrets, `{"metadata":{"name":"s"}}`)
	if e := s.next(t, complete); e.RequestObject != nil || e.ResponseObject != nil {
		t.Errorf("%+v", e)
	}
	object := func(e *auditv1.Event) answer {
		t.Helper()
		var a answer
		if e.ResponseObject == nil {
			t.Fatalf("no object: %+v", e)
		}
		if err := json.Unmarshal(e.ResponseObject.Raw, &a.body); err != nil {
			t.Fatal(err)
		}
		return a
	}
	w.must(t, 201, "POST", cmURL, `{"metadata":{"name":"c"},"data":{"a":"b"},"nope":1}`)
	e := s.next(t, complete)
	if got := string(e.RequestObject.Raw); got != `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c"},"data":{"a":"b"}}` {
		t.Errorf("%s", got)
	}
	if o := object(e); o.at("data.a") != "b" || o.at("metadata.uid") == nil || o.at("metadata.managedFields") == nil {
		t.Errorf("%v", o.body)
	}
	for _, accept := range []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"} {
		w.do(t, "GET", cmURL+"/c", "", "Accept", accept)
		if o := object(s.next(t, complete)); o.at("kind") != "ConfigMap" || o.at("data.a") != "b" {
			t.Errorf("%s: %v", accept, o.body)
		}
	}
	w.do(t, "GET", cmURL, "", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	if o := object(s.next(t, complete)); o.at("kind") != "Table" {
		t.Errorf("%v", o.body)
	}
	w.do(t, "GET", cmURL, "")
	e = s.next(t, complete)
	if o := object(e); o.at("kind") != "ConfigMapList" || strings.Contains(string(e.ResponseObject.Raw), "managedFields") || !strings.Contains(string(e.ResponseObject.Raw), `"a":"b"`) {
		t.Errorf("%s", e.ResponseObject.Raw)
	}
	w.must(t, 200, "PATCH", cmURL+"/c?fieldManager=m", "data: {x: z}\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n", applyType...)
	if e = s.next(t, complete); !strings.Contains(string(e.RequestObject.Raw), `"data":{"x":"z"}`) || e.ResponseObject != nil {
		t.Errorf("%+v", e)
	}
	w.must(t, 200, "DELETE", cmURL+"/c", `{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}`)
	if e = s.next(t, complete); !strings.Contains(string(e.RequestObject.Raw), `"gracePeriodSeconds":0`) || e.ResponseStatus.Status != "Success" || e.ResponseStatus.Details.Name != "c" {
		t.Errorf("%+v", e)
	}
	w.must(t, 404, "GET", cmURL+"/c", "")
	if o := object(s.next(t, complete)); o.at("kind") != "Status" || o.at("code") != 404.0 {
		t.Errorf("%v", o.body)
	}
	c := w.server.Client(admin)
	if _, err := c.Create(t.Context(), refOf("configmaps", ""), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "own"}}); err != nil {
		t.Fatal(err)
	}
	e = s.next(t, complete)
	if o := object(e); o.at("metadata.name") != "own" || e.ResponseStatus.Code != 201 || e.ObjectRef.Name != "own" || e.RequestURI != cmURL || e.SourceIPs[0] != "::1" || !strings.Contains(string(e.RequestObject.Raw), "own") {
		t.Errorf("%+v", e)
	}
	if _, err := w.server.Client(&user.DefaultInfo{Name: "nobody"}).Get(t.Context(), refOf("configmaps", "own")); err != nil {
		t.Fatal(err)
	}
	s.none(t)
}

// TestAuditStages: of watches, of those whom nobody knows, and of those who act
// as others.
func TestAuditStages(t *testing.T) {
	s, on := audited(t, audit.Blocking, "rules: [{level: Metadata}]")
	w := newWorld(t, on, func(c *apiserver.Config) {
		c.Impersonate = func(_ context.Context, _ authorizer.AttributesRecord, h http.Header) (user.Info, string, error) {
			if name := h.Get("Impersonate-User"); name != "" {
				return &user.DefaultInfo{Name: name, Groups: []string{"g"}}, "impersonate:user-info", nil
			}
			return nil, "", nil
		}
	})
	w.must(t, 200, "GET", podURL+"?watch=1&timeoutSeconds=1", "")
	s.next(t, received)
	if e := s.next(t, started); e.ResponseStatus.Code != 200 || e.Verb != "watch" {
		t.Errorf("%+v", e)
	}
	s.next(t, complete)
	w.must(t, 401, "GET", podURL, "", "Authorization", "Bearer bad")
	if e := s.next(t, started); e.User.Username != "" || e.ResponseStatus.Code != 401 || e.ResponseStatus.Reason != "Unauthorized" || e.ObjectRef.Resource != "pods" {
		t.Errorf("%+v", e)
	}
	w.must(t, 200, "GET", podURL, "", "Impersonate-User", "jane")
	s.next(t, received)
	if e := s.next(t, complete); e.User.Username != "admin" || e.ImpersonatedUser.Username != "jane" || e.ImpersonatedUser.Groups[0] != "g" || e.AuthenticationMetadata.ImpersonationConstraint != "impersonate:user-info" {
		t.Errorf("%+v", e)
	}
	s.none(t)
}

// TestAuditForbidden: what the authorizer said.
func TestAuditForbidden(t *testing.T) {
	s, on := audited(t, audit.Blocking, "omitStages: [RequestReceived]\nrules: [{level: Metadata}]")
	w := newWorld(t, on, func(c *apiserver.Config) {
		c.Authz = rights(func(a authorizer.Attributes) bool { return a.GetResource() != "pods" })
	})
	w.must(t, 403, "GET", podURL, "")
	if e := s.next(t, complete); e.Annotations["authorization.k8s.io/decision"] != "forbid" || e.ResponseStatus.Code != 403 {
		t.Errorf("%+v", e)
	}
}

// TestAuthorizerErrors: who cannot be asked has decided nothing, but for what
// was allowed all the same.
func TestAuthorizerErrors(t *testing.T) {
	s, on := audited(t, audit.Blocking, "omitStages: [RequestReceived]\nrules: [{level: Metadata}]")
	w := newWorld(t, on, func(c *apiserver.Config) { c.Authz = unsure{} })
	for path, want := range map[string]string{
		podURL + "?limit=5": `Internal Server Error: "/api/v1/namespaces/default/pods?limit=5": &lt;nobody&gt; answers`,
		"/nope":             `Internal Server Error: "/nope": &lt;nobody&gt; answers`,
	} {
		if a := w.must(t, 500, "GET", path, ""); a.at("message") != want || a.at("reason") != "InternalError" {
			t.Errorf("%s: %s", path, a.raw)
		}
		if e := s.next(t, complete); e.Annotations["authorization.k8s.io/decision"] != "" || e.Annotations["authorization.k8s.io/reason"] != "internal error" || e.ResponseStatus.Code != 500 {
			t.Errorf("%+v", e)
		}
	}
	w.must(t, 200, "GET", cmURL, "")
	s.next(t, complete)
	_, err := w.server.Client(admin).Get(t.Context(), refOf("pods", "a"))
	if !apierrors.IsInternalError(err) || err.Error() != "Internal error occurred: <nobody> answers" {
		t.Errorf("in process: %v", err)
	}
	s.next(t, complete)
}

// unsure cannot find out about pods and about what is no resource.
type unsure struct{}

func (unsure) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	err := errors.New("<nobody> answers")
	if a.GetResource() == "configmaps" {
		return authorizer.DecisionAllow, "", err
	}
	return authorizer.DecisionNoOpinion, "no", err
}

// TestAuditFails: a full disk stops nobody but those who want to be stopped.
func TestAuditFails(t *testing.T) {
	for _, tc := range []struct {
		mode    audit.Mode
		code    int
		metrics []string
	}{
		{audit.Blocking, 201, []string{"apiserver_audit_requests_rejected_total 0\n", `apiserver_audit_error_total{plugin="log"}`}},
		{audit.BlockingStrict, 500, []string{"apiserver_audit_requests_rejected_total 1\n", `apiserver_audit_error_total{plugin="log"} 1`}},
	} {
		s, on := audited(t, tc.mode, "rules: [{level: None, nonResourceURLs: [/metrics]}, {level: Metadata}]")
		w := newWorld(t, on)
		s.full.Store(true)
		a := w.must(t, tc.code, "POST", cmURL, `{"metadata":{"name":"c"}}`)
		if tc.code == 500 && !strings.Contains(a.raw, "failed to store audit event") {
			t.Errorf("%s", a.raw)
		}
		m := w.must(t, 200, "GET", "/metrics", "").raw
		for _, want := range tc.metrics {
			if !strings.Contains(m, want) {
				t.Errorf("%s: no %q", tc.mode, want)
			}
		}
		s.full.Store(false)
		w.must(t, 201, "POST", cmURL, `{"metadata":{"name":"d"}}`)
	}
}

// TestAuditOfAdmission: plugins' notes reach the record.
func TestAuditOfAdmission(t *testing.T) {
	s, on := audited(t, audit.Blocking, "omitStages: [RequestReceived]\nrules: [{level: Metadata, verbs: [create], resources: [{group: '', resources: [configmaps]}]}]")
	h := newHooked(t, on)
	h.policy(t, "p", `"auditAnnotations":[{"key":"size","valueExpression":"string(size(object.data))"}]`, `"validationActions":["Audit"]`)
	h.must(t, 201, "POST", cmURL, `{"metadata":{"name":"c"},"data":{"a":"b"}}`)
	for {
		e := s.next(t, complete)
		if e.ObjectRef.Name != "c" {
			continue
		}
		if e.Annotations["p/size"] != "1" {
			t.Errorf("%+v", e.Annotations)
		}
		return
	}
}
