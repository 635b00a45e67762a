package apiserver_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	reviewv1 "k8s.io/api/admission/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/apiserver/ownership"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
	"knarr.dev/knarr/internal/webhook"
)

// allRules lets everybody do everything, as the plugins ask.
type allRules struct{ allowAll }

func (allRules) Rules(user.Info, string) []rbacv1.PolicyRule { return nil }
func (allRules) RoleRules(rbacv1.RoleRef, string) ([]rbacv1.PolicyRule, bool) {
	return nil, true
}

// hooks is a server of webhooks, one for each path.
type hooks struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string]func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse
	asked   map[string][]*reviewv1.AdmissionRequest
}

func newHooks(t *testing.T) *hooks {
	h := &hooks{answers: map[string]func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse{}, asked: map[string][]*reviewv1.AdmissionRequest{}}
	h.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review reviewv1.AdmissionReview
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &review)
		}
		if err != nil || review.Request == nil || review.APIVersion != "admission.k8s.io/v1" || review.Kind != "AdmissionReview" {
			t.Errorf("asked %s: %v", body, err)
			return
		}
		h.mu.Lock()
		h.asked[r.URL.Path] = append(h.asked[r.URL.Path], review.Request)
		answer := h.answers[r.URL.Path]
		h.mu.Unlock()
		if answer == nil {
			<-r.Context().Done() // says nothing
			return
		}
		response := answer(review.Request)
		if response == nil {
			http.Error(w, "broken", 500)
			return
		}
		response.UID = review.Request.UID
		_ = json.NewEncoder(w).Encode(reviewv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: response})
	}))
	h.Config.ErrorLog = log.New(io.Discard, "", 0) // of connections that the end cuts
	h.StartTLS()
	t.Cleanup(h.Close)
	return h
}

// took returns what a path was asked since the last time.
func (h *hooks) took(path string) []*reviewv1.AdmissionRequest {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.asked[path]
	delete(h.asked, path)
	return out
}

func (h *hooks) says(path string, answer func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers[path] = answer
}

func allows(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
	return &reviewv1.AdmissionResponse{Allowed: true}
}

func patches(text string) func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
	return func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
		kind := reviewv1.PatchTypeJSONPatch
		return &reviewv1.AdmissionResponse{Allowed: true, Patch: []byte(text), PatchType: &kind}
	}
}

func refuses(s *metav1.Status) func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
	return func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
		return &reviewv1.AdmissionResponse{Result: s, Warnings: []string{"mind the hook"}}
	}
}

// hooked is a world whose writes webhooks see.
type hooked struct {
	*world
	*hooks
	view    *view.View
	plugins []admission.Plugin
	caller  *webhook.Caller
	cfg     apiserver.Config
}

func newHooked(t *testing.T, edit ...func(*apiserver.Config)) *hooked {
	h := &hooked{hooks: newHooks(t)}
	h.world = newWorld(t, append(edit, func(c *apiserver.Config) {
		h.view = view.New(slices.DeleteFunc(slices.Clone(c.Kinds.All()), func(k *kinds.Kind) bool { return !k.Stored() }), view.Shared()...)
		c.Cache.Feed(h.view)
		h.caller = webhook.New(func(namespace, name string, port int32) (string, error) {
			return view.ServiceAddress(h.view.Snapshot(), namespace, name, port)
		})
		c.Fields, c.Metrics = ownership.New(c.Kinds.All(), c.Kinds.ByGVK), prometheus.NewRegistry()
		plugins, err := admission.Default(admission.Config{View: h.view, Authz: allRules{}, Webhooks: h.caller, Table: c.Kinds, Types: c.Fields.TypeConverter(), AccountPatience: -1, Metrics: c.Metrics})
		if err != nil {
			t.Fatal(err)
		}
		h.plugins = slices.DeleteFunc(plugins, func(p admission.Plugin) bool { return p.Name() == "ServiceAccount" })
		c.Admission = h.plugins
		h.cfg = *c
	})...)
	h.put(t, "/api/v1/namespaces", `{"metadata":{"name":"default","labels":{"team":"a"}}}`, kinds.Namespace)
	return h
}

// put creates an object and waits until the view has it.
func (h *hooked) put(t *testing.T, url, body string, k *kinds.Kind) {
	t.Helper()
	a := h.must(t, 201, "POST", url, body)
	h.knows(t, a, k)
}

func (h *hooked) knows(t *testing.T, a answer, k *kinds.Kind) {
	t.Helper()
	rev, err := strconv.ParseInt(a.at("metadata.resourceVersion").(string), 10, 64)
	if err == nil {
		err = h.view.WaitRev(t.Context(), k, rev)
	}
	if err != nil {
		t.Fatal(err)
	}
}

const (
	registration = "/apis/admissionregistration.k8s.io/v1/"
	pods         = `{"operations":["*"],"apiGroups":[""],"apiVersions":["v1"],"resources":["pods"]}`
	configMaps   = `{"operations":["*"],"apiGroups":[""],"apiVersions":["v1"],"resources":["configmaps"]}`
)

// add registers one webhook; fields is the rest of it in JSON.
func (h *hooked) add(t *testing.T, kind *kinds.Kind, name, path, fields string) {
	t.Helper()
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.hooks.Certificate().Raw}))
	h.put(t, registration+kind.Resource, fmt.Sprintf(`{"metadata":{"name":%q},"webhooks":[{"name":"%s.example.com","clientConfig":{"url":%q,"caBundle":%q},
		"sideEffects":"None","admissionReviewVersions":["v1"],%s}]}`, name, name, h.hooks.URL+path, ca, fields), kind)
}

func (h *hooked) remove(t *testing.T, kind *kinds.Kind, name string) {
	t.Helper()
	h.must(t, 200, "DELETE", registration+kind.Resource+"/"+name, "")
	rev, err := h.store.Revision(t.Context())
	if err == nil {
		err = h.view.WaitRev(t.Context(), kind, rev)
	}
	if err != nil {
		t.Fatal(err)
	}
}

var mutating, validating = kinds.MutatingWebhookConfiguration, kinds.ValidatingWebhookConfiguration

// TestMutatingWebhooks: in the order of their names, with defaults after each,
// and again for who asks for it.
func TestMutatingWebhooks(t *testing.T) {
	h := newHooked(t)
	h.says("/first", patches(`[{"op":"add","path":"/metadata/annotations","value":{"first":"1"}}]`))
	h.says("/second", patches(`[{"op":"add","path":"/spec/initContainers","value":[{"name":"i","image":"x"}]},
		{"op":"replace","path":"/metadata/uid","value":"mine"},{"op":"add","path":"/status/phase","value":"Failed"},{"op":"add","path":"/spec/nope","value":1}]`))
	h.add(t, mutating, "b", "/second", `"rules":[`+pods+`]`)
	h.add(t, mutating, "a", "/first", `"rules":[`+pods+`],"reinvocationPolicy":"IfNeeded"`)
	a := h.must(t, 201, "POST", podURL+"?fieldManager=me", podBody)
	if a.at("metadata.annotations.first") != "1" || !strings.Contains(a.raw, `"name":"i","image":"x","resources":{},"terminationMessagePath":"/dev/termination-log"`) {
		t.Errorf("not changed, or without defaults: %s", a.raw)
	}
	if a.at("metadata.uid") == "mine" || a.at("status.phase") != "Pending" {
		t.Errorf("what is the server's was changed: %s", a.raw)
	}
	first, second := h.took("/first"), h.took("/second")
	if len(first) != 2 || len(second) != 1 {
		t.Fatalf("asked %d and %d times", len(first), len(second))
	}
	if !strings.Contains(string(first[1].Object.Raw), `"name":"i"`) || strings.Contains(string(first[0].Object.Raw), `"name":"i"`) {
		t.Errorf("asked again with %s", first[1].Object.Raw)
	}
	if want := `"fieldManager":"me"`; !strings.Contains(string(first[0].Options.Raw), want) {
		t.Errorf("options %s", first[0].Options.Raw)
	}
	if first[0].UID == "" || first[0].UID == first[1].UID {
		t.Errorf("uids %q, %q", first[0].UID, first[1].UID)
	}
	// An update that no webhook changes asks each once.
	h.says("/first", allows)
	h.says("/second", allows)
	h.must(t, 200, "PATCH", podURL+"/a", `{"metadata":{"labels":{"x":"y"}}}`, "Content-Type", mergeType)
	if first, second = h.took("/first"), h.took("/second"); len(first) != 1 || len(second) != 1 {
		t.Errorf("asked %d and %d times", len(first), len(second))
	}
	// What a webhook makes of it is judged.
	h.says("/first", patches(`[{"op":"add","path":"/spec/restartPolicy","value":"Sometimes"}]`))
	a = h.must(t, 422, "POST", podURL, strings.Replace(podBody, `"a"`, `"b"`, 1))
	if !strings.Contains(a.raw, "spec.restartPolicy") {
		t.Errorf("%s", a.raw)
	}
	for text, want := range map[string]string{
		`[{"op":"replace","path":"/nope/x","value":1}]`: "replace operation does not apply",
		`{"op":"add"}`: "received undecodable patch in webhook response",
		`[{"op":"replace","path":"/spec/containers","value":"five"}]`: "cannot unmarshal string",
	} {
		h.says("/first", patches(text))
		a = h.must(t, 500, "POST", podURL, strings.Replace(podBody, `"a"`, `"b"`, 1))
		if !strings.Contains(a.at("message").(string), want) {
			t.Errorf("%s: %s", text, a.raw)
		}
	}
	h.says("/first", patches(`[{"op":"add","path":"/x","value":1}]`))
	a = h.must(t, 500, "DELETE", podURL+"/a?gracePeriodSeconds=0", "")
	if want := `Internal error occurred: admission webhook "a.example.com" attempted to modify the object, which is not supported for this operation`; a.at("message") != want {
		t.Errorf("%s", a.raw)
	}
}

// TestReview: what a webhook is told.
func TestReview(t *testing.T) {
	h := newHooked(t)
	h.says("/v", allows)
	h.add(t, validating, "v", "/v", `"rules":[{"operations":["*"],"apiGroups":["*"],"apiVersions":["*"],"resources":["*/*"]}]`)
	one := func(op, body string, do func()) *reviewv1.AdmissionRequest {
		t.Helper()
		h.took("/v")
		h.must(t, 200, "GET", podURL, "") // once the cache is as new as the store: who plans on old news asks again
		do()
		asked := h.took("/v")
		if len(asked) != 1 {
			t.Fatalf("%s %s: asked %d times", op, body, len(asked))
		}
		r := asked[0]
		if string(r.Operation) != op || r.UserInfo.Username != "admin" || *r.RequestKind != r.Kind || *r.RequestResource != r.Resource || r.RequestSubResource != r.SubResource {
			t.Errorf("%+v", r)
		}
		if got := fmt.Sprintf("%s.%s %s/%s %s/%s dry=%v %s", r.Kind.Kind, r.Kind.Group, r.Resource.Resource, r.SubResource, r.Namespace, r.Name, *r.DryRun, r.Options.Raw); got != body {
			t.Errorf("got  %s\nwant %s", got, body)
		}
		return r
	}
	has := func(raw []byte, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(string(raw), p) {
				t.Errorf("no %s in %s", p, raw)
			}
		}
	}
	r := one("CREATE", `Pod. pods/ default/a dry=false {"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1"}`, func() { h.must(t, 201, "POST", podURL, podBody) })
	has(r.Object.Raw, `"kind":"Pod","apiVersion":"v1"`, `"terminationMessagePath"`)
	if r.OldObject.Raw != nil {
		t.Errorf("old object %s", r.OldObject.Raw)
	}
	r = one("UPDATE", `Pod. pods/ default/a dry=true {"kind":"UpdateOptions","apiVersion":"meta.k8s.io/v1","dryRun":["All"]}`, func() {
		h.must(t, 200, "PATCH", podURL+"/a?dryRun=All", `{"metadata":{"labels":{"x":"y"}}}`, "Content-Type", mergeType)
	})
	has(r.Object.Raw, `"x":"y"`)
	has(r.OldObject.Raw, `"kind":"Pod","apiVersion":"v1"`, `"name":"a"`)
	one("UPDATE", `Pod. pods/status default/a dry=false {"kind":"UpdateOptions","apiVersion":"meta.k8s.io/v1"}`, func() {
		h.must(t, 200, "PATCH", podURL+"/a/status", `{"status":{"message":"m"}}`, "Content-Type", mergeType)
	})
	r = one("CREATE", `Binding. pods/binding default/a dry=false {"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1"}`, func() {
		h.must(t, 201, "POST", podURL+"/a/binding", `{"target":{"kind":"Node","name":"n"}}`)
	})
	has(r.Object.Raw, `"kind":"Binding","apiVersion":"v1"`)
	r = one("DELETE", `Pod. pods/ default/a dry=false {"kind":"DeleteOptions","apiVersion":"meta.k8s.io/v1","gracePeriodSeconds":0}`, func() {
		h.must(t, 200, "DELETE", podURL+"/a?gracePeriodSeconds=0", "")
	})
	has(r.OldObject.Raw, `"name":"a"`)
	if r.Object.Raw != nil {
		t.Errorf("object of a deletion: %s", r.Object.Raw)
	}
	r = one("CREATE", `Namespace. namespaces/ new/new dry=false {"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1"}`, func() { h.must(t, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"new"}}`) })
	has(r.Object.Raw, `"kind":"Namespace"`)
	one("CREATE", `Deployment.apps deployments/ default/d dry=false {"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1"}`, func() {
		h.must(t, 201, "POST", "/apis/apps/v1/namespaces/default/deployments", `{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`)
	})
	r = one("UPDATE", `Scale.autoscaling deployments/scale default/d dry=false {"kind":"UpdateOptions","apiVersion":"meta.k8s.io/v1"}`, func() {
		h.must(t, 200, "PATCH", "/apis/apps/v1/namespaces/default/deployments/d/scale", `{"spec":{"replicas":3}}`, "Content-Type", mergeType)
	})
	has(r.Object.Raw, `"kind":"Scale","apiVersion":"autoscaling/v1"`, `"replicas":3`)
	has(r.OldObject.Raw, `"replicas":1`)
	// Whoever judges webhooks is not judged by them, nor is a question.
	h.took("/v")
	h.must(t, 200, "PATCH", registration+"validatingwebhookconfigurations/v", `{"metadata":{"labels":{"x":"y"}}}`, "Content-Type", mergeType)
	h.must(t, 201, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", `{"spec":{"nonResourceAttributes":{"path":"/","verb":"get"}}}`)
	if asked := h.took("/v"); len(asked) != 0 {
		t.Errorf("asked about %+v", asked[0])
	}
	// The scale can be changed, and is.
	h.says("/m", patches(`[{"op":"replace","path":"/spec/replicas","value":7}]`))
	h.add(t, mutating, "m", "/m", `"rules":[{"operations":["UPDATE"],"apiGroups":["apps"],"apiVersions":["v1"],"resources":["deployments/scale"]}]`)
	if a := h.must(t, 200, "PATCH", "/apis/apps/v1/namespaces/default/deployments/d/scale", `{"spec":{"replicas":4}}`, "Content-Type", mergeType); a.at("spec.replicas") != 7.0 {
		t.Errorf("%s", a.raw)
	}
}

// TestRefusingWebhooks: the words, the codes, and what a failure means.
func TestRefusingWebhooks(t *testing.T) {
	h := newHooked(t)
	h.must(t, 201, "POST", cmURL, `{"metadata":{"name":"there"}}`)
	h.add(t, validating, "v", "/v", `"rules":[`+configMaps+`]`)
	create := func(code int) answer {
		t.Helper()
		return h.must(t, code, "POST", cmURL, `{"metadata":{"name":"c"}}`)
	}
	for _, tc := range []struct {
		status  *metav1.Status
		code    int
		reason  any
		message string
	}{
		{&metav1.Status{Message: "because", Reason: "Because", Code: 418}, 418, "Because", "denied the request: because"},
		{&metav1.Status{Reason: "Because"}, 400, "Because", "denied the request: Because"},
		{&metav1.Status{Code: 200, Status: "Success"}, 400, nil, "denied the request without explanation"},
		{nil, 400, nil, "denied the request without explanation"},
	} {
		h.says("/v", refuses(tc.status))
		a := create(tc.code)
		if a.at("reason") != tc.reason || a.at("message") != `admission webhook "v.example.com" `+tc.message || a.at("status") != "Failure" {
			t.Errorf("%s", a.raw)
		}
		if !strings.Contains(a.header.Get("Warning"), "mind the hook") {
			t.Errorf("warnings: %v", a.header)
		}
	}
	// An object that the cache knows is no reason to ask twice.
	h.took("/v")
	h.must(t, 400, "DELETE", cmURL+"/there", "")
	h.must(t, 400, "PATCH", cmURL+"/there", `{"data":{"a":"b"}}`, "Content-Type", mergeType)
	if n := len(h.took("/v")); n != 2 {
		t.Errorf("asked %d times", n)
	}
	h.must(t, 400, "DELETE", cmURL, "") // the collection
	h.must(t, 200, "GET", cmURL+"/there", "")
	h.says("/v", func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse { return nil })
	a := create(500)
	if want := `Internal error occurred: failed calling webhook "v.example.com": failed to call webhook: `; !strings.HasPrefix(a.at("message").(string), want) || a.at("reason") != "InternalError" || strings.Contains(a.raw, "broken") {
		t.Errorf("%s", a.raw)
	}
	h.says("/slow", nil)
	h.remove(t, validating, "v")
	h.add(t, validating, "v", "/slow", `"rules":[`+configMaps+`],"timeoutSeconds":1`)
	if a = create(500); !strings.Contains(a.at("message").(string), "context deadline exceeded") || !strings.Contains(a.raw, "?timeout=1s") {
		t.Errorf("%s", a.raw)
	}
	h.remove(t, validating, "v")
	h.add(t, validating, "v", "/v", `"rules":[`+configMaps+`]`)
	h.says("/v", patches(`[]`))
	if a = create(500); !strings.Contains(a.raw, "received invalid webhook response: validating webhook may not return response.patch") {
		t.Errorf("%s", a.raw)
	}
	h.remove(t, validating, "v")
	create(201)
	h.says("/v", func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse { return nil })
	h.add(t, validating, "v", "/v", `"rules":[`+configMaps+`],"failurePolicy":"Ignore"`)
	h.add(t, mutating, "m", "/v", `"rules":[`+configMaps+`],"failurePolicy":"Ignore"`)
	h.took("/v")
	h.must(t, 200, "DELETE", cmURL+"/c", "")
	if n := len(h.took("/v")); n != 2 {
		t.Errorf("asked %d times", n)
	}
	// A refusal is none of the failures that may be passed over.
	h.says("/v", refuses(nil))
	create(400)
	h.remove(t, validating, "v")
	h.remove(t, mutating, "m")
	h.put(t, registration+validating.Resource, `{"metadata":{"name":"s"},"webhooks":[{"name":"s.example.com","clientConfig":{"service":{"namespace":"default","name":"gone","path":"/p"}},
		"sideEffects":"None","admissionReviewVersions":["v1"],"rules":[`+configMaps+`]}]}`, validating)
	a = create(500)
	if want := `Internal error occurred: failed calling webhook "s.example.com": failed to call webhook: Post "https://gone.default.svc:443/p?timeout=10s": service "gone" not found`; a.at("message") != want {
		t.Errorf("%s", a.raw)
	}
}

// TestWhoIsAsked: rules, selectors and conditions.
func TestWhoIsAsked(t *testing.T) {
	rule := func(ops, groups, versions, resources, scope string) string {
		return fmt.Sprintf(`"rules":[{"operations":[%s],"apiGroups":[%s],"apiVersions":[%s],"resources":[%s],"scope":%q}]`, ops, groups, versions, resources, scope)
	}
	condition := func(text string) string {
		return `"rules":[` + configMaps + `],"matchConditions":[{"name":"c","expression":` + strconv.Quote(text) + `}]`
	}
	cases := map[string]struct {
		fields string
		asked  bool
	}{
		"rule":                        {rule(`"CREATE"`, `""`, `"v1"`, `"configmaps"`, "*"), true},
		"other-operation":             {rule(`"UPDATE","DELETE"`, `""`, `"v1"`, `"configmaps"`, "*"), false},
		"other-group":                 {rule(`"*"`, `"apps"`, `"*"`, `"*"`, "*"), false},
		"other-version":               {rule(`"*"`, `"*"`, `"v2"`, `"*"`, "*"), false},
		"subresources":                {rule(`"*"`, `"*"`, `"*"`, `"*/status"`, "*"), false},
		"all":                         {rule(`"*"`, `"*"`, `"*"`, `"*/*"`, "Namespaced"), true},
		"other-resource":              {rule(`"*"`, `"*"`, `"*"`, `"pods","secrets/*"`, "*"), false},
		"cluster":                     {rule(`"*"`, `"*"`, `"*"`, `"*"`, "Cluster"), false},
		"namespace-selector":          {`"rules":[` + configMaps + `],"namespaceSelector":{"matchLabels":{"team":"a"}}`, true},
		"other-namespace-selector":    {`"rules":[` + configMaps + `],"namespaceSelector":{"matchLabels":{"team":"b"}}`, false},
		"object-selector":             {`"rules":[` + configMaps + `],"objectSelector":{"matchLabels":{"l":"1"}}`, true},
		"other-object-selector":       {`"rules":[` + configMaps + `],"objectSelector":{"matchExpressions":[{"key":"l","operator":"DoesNotExist"}]}`, false},
		"condition":                   {condition("object.metadata.name == 'c' && request.userInfo.username == 'admin' && request.resource.resource == 'configmaps' && object.kind == 'ConfigMap'"), true},
		"condition-false":             {condition("object.data['a'] != 'b'"), false},
		"condition-of-the-authorizer": {condition("authorizer.group('').resource('pods').check('get').allowed()"), true},
		"no-old-object":               {condition("oldObject == null"), true},
	}
	h := newHooked(t)
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		h.says("/"+name, allows)
		h.add(t, validating, name, "/"+name, cases[name].fields)
	}
	h.must(t, 201, "POST", cmURL, `{"metadata":{"name":"c","labels":{"l":"1"}},"data":{"a":"b"}}`)
	for name, tc := range cases {
		if asked := len(h.took("/"+name)) == 1; asked != tc.asked {
			t.Errorf("%s: asked %v", name, asked)
		}
	}
	h.add(t, validating, "failing", "/failing", condition("object.nope == 1"))
	a := h.must(t, 403, "POST", cmURL, `{"metadata":{"name":"d"},"data":{"a":"b"}}`)
	if !strings.Contains(a.at("message").(string), `configmaps "d" is forbidden: expression 'object.nope == 1' resulted in error: no such key: nope`) {
		t.Errorf("%s", a.raw)
	}
	h.remove(t, validating, "failing")
	h.add(t, validating, "failing", "/failing", condition("object.nope == 1")+`,"failurePolicy":"Ignore"`)
	h.must(t, 201, "POST", cmURL, `{"metadata":{"name":"d"},"data":{"a":"b"}}`)
}

// TestEquivalentKinds: who asked for one form of an object is shown that form.
func TestEquivalentKinds(t *testing.T) {
	h := newHooked(t)
	rule := `"rules":[{"operations":["CREATE"],"apiGroups":["events.k8s.io"],"apiVersions":["v1"],"resources":["events"]}]`
	h.says("/m", patches(`[{"op":"replace","path":"/note","value":"changed"}]`))
	h.add(t, mutating, "m", "/m", rule)
	h.says("/exact", allows)
	h.add(t, validating, "exact", "/exact", rule+`,"matchPolicy":"Exact"`)
	a := h.must(t, 201, "POST", "/api/v1/namespaces/default/events", `{"metadata":{"name":"e"},"involvedObject":{"namespace":"default","kind":"Pod","name":"p"},"message":"hi"}`)
	if a.at("message") != "changed" || a.at("apiVersion") != "v1" {
		t.Errorf("%s", a.raw)
	}
	r := h.took("/m")[0]
	if r.Kind.Group != "events.k8s.io" || r.Resource.Group != "events.k8s.io" || r.RequestKind.Group != "" || r.RequestResource.Group != "" || !strings.Contains(string(r.Object.Raw), `"note":"hi"`) {
		t.Errorf("%+v", r)
	}
	if len(h.took("/exact")) != 0 {
		t.Error("asked about another form")
	}
}

// TestWebhooksOfConnections: the options are the object.
func TestWebhooksOfConnections(t *testing.T) {
	h := newHooked(t, func(c *apiserver.Config) { c.KubeletTLS = &tls.Config{RootCAs: x509.NewCertPool()} })
	h.says("/v", refuses(&metav1.Status{Message: "attaching to pod 'to-be-attached-pod' is not allowed"}))
	h.must(t, 201, "POST", podURL, podBody)
	h.add(t, validating, "v", "/v", `"rules":[{"operations":["CONNECT"],"apiGroups":[""],"apiVersions":["v1"],"resources":["pods/*"]}]`)
	a := h.must(t, 400, "POST", podURL+"/a/exec?command=ls&command=-l&stdin=true&container=c", "")
	if a.at("message") != `admission webhook "v.example.com" denied the request: attaching to pod 'to-be-attached-pod' is not allowed` {
		t.Errorf("%s", a.raw)
	}
	r := h.took("/v")[0]
	if r.Kind.Kind != "PodExecOptions" || r.SubResource != "exec" || r.Name != "a" || r.Namespace != "default" || r.Operation != "CONNECT" ||
		string(r.Object.Raw) != `{"kind":"PodExecOptions","apiVersion":"v1","stdin":true,"container":"c","command":["ls","-l"]}` {
		t.Errorf("%+v %s", r, r.Object.Raw)
	}
}

// TestCustomAdmission: custom resources are changed, pruned, defaulted and
// judged like others, and can be the parameters of policies.
func TestCustomAdmission(t *testing.T) {
	h := newHooked(t)
	h.ships(t, h.cfg, h.view, `{"strategy":"None"}`)
	h.says("/m", patches(`[{"op":"add","path":"/spec/crew","value":7},{"op":"add","path":"/spec/nope","value":1},{"op":"remove","path":"/spec/flag"}]`))
	h.add(t, mutating, "m", "/m", `"rules":[{"operations":["CREATE"],"apiGroups":["harbour.example"],"apiVersions":["v1"],"resources":["ships"]}]`)
	a := h.must(t, 201, "POST", shipURL, ship("a", `{"berths":2}`))
	if a.at("spec.crew") != 7.0 || a.at("spec.nope") != nil || a.at("spec.flag") != "none" {
		t.Errorf("%s", a.raw)
	}
	if r := h.took("/m"); len(r) != 1 || r[0].Kind.Kind != "Ship" || !strings.Contains(string(r[0].Object.Raw), `"apiVersion":"harbour.example/v1"`) {
		t.Errorf("asked %+v", r)
	}
	a = h.must(t, 201, "POST", strings.Replace(shipURL, "v1", "v1alpha1", 1), strings.Replace(ship("b", `{"berths":2}`), "/v1", "/v1alpha1", 1))
	if r := h.took("/m"); len(r) != 1 || r[0].Resource.Version != "v1" || r[0].RequestResource.Version != "v1alpha1" || !strings.Contains(string(r[0].Object.Raw), `"apiVersion":"harbour.example/v1"`) {
		t.Errorf("another version: asked %+v", r)
	}
	if a.at("apiVersion") != "harbour.example/v1alpha1" || a.at("spec.crew") != 7.0 || a.at("metadata.name") != "b" {
		t.Errorf("another version: %s", a.raw)
	}
	h.says("/v", refuses(nil))
	h.add(t, validating, "v", "/v", `"rules":[{"operations":["UPDATE","DELETE"],"apiGroups":["*"],"apiVersions":["*"],"resources":["ships"]}]`)
	h.must(t, 400, "PATCH", shipURL+"/a", `{"spec":{"crew":1}}`, "Content-Type", mergeType)
	h.must(t, 400, "DELETE", shipURL+"/a", "")
	h.policy(t, "p", `"paramKind":{"apiVersion":"harbour.example/v1","kind":"Ship"},"validations":[{"expression":"object.metadata.name != params.spec.flag","messageExpression":"params.kind + string(params.spec.crew)"}]`,
		`"validationActions":["Deny"],"paramRef":{"name":"a","parameterNotFoundAction":"Deny"}`)
	h.must(t, 201, "POST", cmURL, `{"metadata":{"name":"some"}}`)
	if a := h.must(t, 422, "POST", cmURL, `{"metadata":{"name":"none"}}`); !strings.HasSuffix(a.at("message").(string), "denied request: Ship7") {
		t.Errorf("%s", a.raw)
	}
}
