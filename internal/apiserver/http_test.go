package apiserver_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/apiserver"
)

// answer of a raw request; body is nil if it was not JSON.
type answer struct {
	code   int
	header http.Header
	raw    string
	body   map[string]any
}

// at finds a value by a path of fields, for example "status.phase".
func (a answer) at(path string) any {
	var v any = a.body
	for _, f := range strings.Split(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[f]
	}
	return v
}

var applyType = []string{"Content-Type", "application/apply-patch+yaml"}

func (w *world) do(t testing.TB, method, path, body string, header ...string) answer {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, w.http.URL+path, r)
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := w.http.Client().Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{code: resp.StatusCode, header: resp.Header, raw: string(raw)}
	_ = json.Unmarshal(raw, &a.body)
	return a
}

const (
	podURL  = "/api/v1/namespaces/default/pods"
	cmURL   = "/api/v1/namespaces/default/configmaps"
	podBody = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i"}]}}`
)

// TestRefusals: what cannot be answered, with the codes, reasons and words
// that clients match on.
func TestRefusals(t *testing.T) {
	w := newWorld(t)
	if a := w.do(t, "POST", podURL, podBody); a.code != 201 {
		t.Fatal(a.raw)
	}
	if a := w.do(t, "POST", cmURL, `{"metadata":{"name":"c"}}`); a.code != 201 {
		t.Fatal(a.raw)
	}
	for _, tc := range []struct {
		name, method, path, body string
		header                   []string
		code                     int
		reason, message          string
	}{
		{"unknown path", "GET", "/nope", "", nil, 404, "NotFound", "the server could not find the requested resource"},
		{"unknown group", "GET", "/apis/nope.example/v1/things", "", nil, 404, "NotFound", "the server could not find the requested resource (nope.example/v1 is not served by this version of knarr)"},
		{"unknown resource", "GET", "/api/v1/nopes", "", nil, 404, "NotFound", "the server could not find the requested resource"},
		{"unknown object", "GET", podURL + "/zzz", "", nil, 404, "NotFound", `pods "zzz" not found`},
		{"unknown object of a group", "GET", "/apis/apps/v1/namespaces/x/deployments/d", "", nil, 404, "NotFound", `deployments.apps "d" not found`},
		{"unknown subresource", "GET", podURL + "/a/nope", "", nil, 404, "NotFound", "the server could not find"},
		{"path behind a subresource", "GET", podURL + "/a/status/x", "", nil, 404, "NotFound", "the server could not find"},
		{"name with an escaped slash", "GET", "/api/v1/namespaces/default/pods/x%2Fa", "", nil, 404, "NotFound", ""},
		{"namespace with an escaped slash", "GET", "/api/v1/namespaces/default%2Fx/pods", "", nil, 404, "NotFound", ""},
		{"dots for a namespace", "GET", "/api/v1/namespaces/../pods", "", nil, 404, "NotFound", ""},
		{"namespaced name without namespace", "GET", "/api/v1/pods/a", "", nil, 404, "NotFound", ""},
		{"cluster kind in a namespace", "GET", "/api/v1/namespaces/default/nodes", "", nil, 404, "NotFound", ""},
		{"cluster connect in a namespace", "GET", "/api/v1/namespaces/default/nodes/n/proxy/", "", nil, 404, "NotFound", ""},
		{"create without namespace", "POST", "/api/v1/pods", podBody, nil, 405, "MethodNotAllowed", ""},
		{"method not served", "PUT", podURL, podBody, nil, 405, "MethodNotAllowed", "the server does not allow this method on the requested resource"},
		{"verb not served by the kind", "GET", "/apis/authorization.k8s.io/v1/subjectaccessreviews", "", nil, 405, "MethodNotAllowed", ""},
		{"verb not served by the subresource", "DELETE", podURL + "/a/status", "", nil, 405, "MethodNotAllowed", ""},
		{"post to a log", "POST", podURL + "/a/log", "", nil, 405, "MethodNotAllowed", ""},
		{"head", "HEAD", podURL + "/a", "", nil, 405, "", ""},
		{"options", "OPTIONS", podURL, "", nil, 405, "MethodNotAllowed", ""},
		{"odd method", "BREW", podURL, "", nil, 405, "MethodNotAllowed", ""},
		{"exists", "POST", podURL, podBody, nil, 409, "AlreadyExists", `pods "a" already exists`},
		{"empty body", "POST", podURL, "", nil, 400, "BadRequest", "the object provided is unrecognized (must be of type Pod)"},
		{"no JSON", "POST", podURL, "{", nil, 400, "BadRequest", "the object provided is unrecognized (must be of type Pod)"},
		{"broken YAML", "POST", podURL, "a: [b", []string{"Content-Type", "application/yaml"}, 400, "BadRequest", "yaml"},
		{"broken protobuf", "POST", podURL, "k8s\x00\xff\xff", []string{"Content-Type", "application/vnd.kubernetes.protobuf"}, 400, "BadRequest", ""},
		{"summary of a body", "POST", podURL, `{"a":"` + strings.Repeat("x", 40) + `",}`, nil, 400, "BadRequest", `({"a":"xxxxxxxxxxxxxxxxxxxxxxxx ...)`},
		{"summary of another", "POST", podURL, "\x00\x01", nil, 400, "BadRequest", `(0001)`},
		{"wrong type of a field", "POST", podURL, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"b"},"spec":{"containers":"x"}}`, nil, 400, "BadRequest", `Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field PodSpec.spec.containers`},
		{"wrong kind", "POST", podURL, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"b"}}`, nil, 400, "BadRequest", `Deployment in version "v1" cannot be handled as a Pod`},
		{"kind of nobody", "POST", podURL, `{"apiVersion":"v1","kind":"Nope"}`, nil, 400, "BadRequest", `Nope in version "v1" cannot be handled as a Pod: no kind "Nope" is registered for version "v1"`},
		{"version of another group", "POST", "/apis/events.k8s.io/v1/namespaces/default/events", `{"apiVersion":"v1","kind":"Event","metadata":{"name":"b"}}`, nil, 400, "BadRequest", "the API version in the data (v1) does not match the expected API version (events.k8s.io/v1)"},
		{"old version", "POST", "/apis/apps/v1/namespaces/default/deployments", `{"apiVersion":"apps/v1beta1","kind":"Deployment"}`, nil, 400, "BadRequest", `Deployment in version "v1beta1" cannot be handled as a Deployment: no kind "Deployment" is registered for version "apps/v1beta1"`},
		{"no name", "POST", podURL, `{"spec":{"containers":[{"name":"c","image":"i"}]}}`, nil, 422, "Invalid", "name or generateName is required"},
		{"resourceVersion at creation", "POST", podURL, `{"metadata":{"name":"b","resourceVersion":"3"}}`, nil, 400, "BadRequest", "resourceVersion should not be set on objects to be created"},
		{"namespace mismatch", "POST", podURL, `{"metadata":{"name":"b","namespace":"other"}}`, nil, 400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request"},
		{"invalid", "POST", podURL, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"b"},"spec":{"containers":[]}}`, nil, 422, "Invalid", `Pod "b" is invalid: spec.containers: Required value`},
		{"content type", "POST", podURL, podBody, []string{"Content-Type", "text/x-nope"}, 415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{"compressed body", "POST", podURL, podBody, []string{"Content-Encoding", "gzip"}, 415, "UnsupportedMediaType", ""},
		{"accept", "GET", podURL, "", []string{"Accept", "image/png"}, 406, "NotAcceptable", "only the following media types are accepted"},
		{"a question has no table", "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", `{"spec":{"nonResourceAttributes":{"path":"/","verb":"get"}}}`,
			[]string{"Accept", "application/json;as=Table;v=v1;g=meta.k8s.io"}, 406, "NotAcceptable", "only the following media types are accepted"},
		{"strict", "POST", podURL + "?fieldValidation=Strict", `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"b"},"spec":{"nope":1}}`, nil, 400, "BadRequest", `Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.nope"`},
		{"strict, twice", "POST", podURL + "?fieldValidation=Strict", `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"b","name":"c"}}`, nil, 400, "BadRequest", `strict decoding error: duplicate field "metadata.name"`},
		{"field validation of nobody", "POST", podURL + "?fieldValidation=Maybe", podBody, nil, 422, "Invalid", `CreateOptions.meta.k8s.io "" is invalid: fieldValidation: Unsupported value`},
		{"dryRun of nobody", "POST", podURL + "?dryRun=Some", podBody, nil, 422, "Invalid", `CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value`},
		{"update of nothing", "PUT", podURL + "/zzz", strings.Replace(podBody, `"a"`, `"zzz"`, 1), nil, 404, "NotFound", `pods "zzz" not found`},
		{"update by another name", "PUT", podURL + "/b", podBody, nil, 400, "BadRequest", "the name of the object (a) does not match the name on the URL (b)"},
		{"update without a name", "PUT", podURL + "/a", `{"spec":{}}`, nil, 400, "BadRequest", "the name of the object (a based on URL) was undeterminable: name must be provided"},
		{"stale update", "PUT", cmURL + "/c", `{"metadata":{"name":"c","resourceVersion":"1"}}`, nil, 409, "Conflict", `Operation cannot be fulfilled on configmaps "c": the object has been modified; please apply your changes to the latest version and try again`},
		{"update of another life", "PUT", cmURL + "/c", `{"metadata":{"name":"c","uid":"x"}}`, nil, 409, "Conflict", "Precondition failed: UID in precondition: x, UID in object meta:"},
		{"version that is no number", "PUT", cmURL + "/c", `{"metadata":{"name":"c","resourceVersion":"x"}}`, nil, 422, "Invalid", "metadata.resourceVersion"},
		{"patch type", "PATCH", cmURL + "/c", `{}`, []string{"Content-Type", "application/json"}, 415, "UnsupportedMediaType", "application/strategic-merge-patch+json"},
		{"manager that is too long", "POST", podURL + "?fieldManager=" + strings.Repeat("x", 129), podBody, nil, 422, "Invalid", "fieldManager: Too long"},
		{"manager that cannot be printed", "PUT", podURL + "/a?fieldManager=a%01", podBody, nil, 422, "Invalid", "fieldManager: Invalid value"},
		{"force without apply", "PATCH", cmURL + "/c?force=true", `{}`, []string{"Content-Type", "application/merge-patch+json"}, 422, "Invalid", "force: Forbidden: may not be specified for non-apply patch"},
		{"apply by nobody", "PATCH", cmURL + "/c", `{}`, applyType, 422, "Invalid", `PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch`},
		{"apply in CBOR", "PATCH", cmURL + "/c?fieldManager=x", `{}`, []string{"Content-Type", "application/apply-patch+cbor"}, 415, "UnsupportedMediaType", "application/apply-patch+yaml"},
		{"apply of nothing known", "PATCH", cmURL + "/c?fieldManager=x", `{}`, applyType, 400, "BadRequest", "invalid object type: /, Kind="},
		{"apply of a list", "PATCH", cmURL + "/c?fieldManager=x", `[]`, applyType, 400, "BadRequest", "error decoding patch"},
		{"apply of another version", "PATCH", cmURL + "/c?fieldManager=x", `{"apiVersion":"v2","kind":"ConfigMap"}`, applyType, 400, "BadRequest", "invalid object type: /v2, Kind=ConfigMap"},
		{"apply of an unknown field", "PATCH", cmURL + "/c?fieldManager=x", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"nope":1}`, applyType, 500, "", ".nope: field not declared in schema"},
		{"apply of managed fields", "PATCH", cmURL + "/c?fieldManager=x", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","managedFields":[{"manager":"x","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1"}]}}`, applyType, 400, "BadRequest", "metadata.managedFields must be nil"},
		{"apply with a key twice", "PATCH", cmURL + "/c?fieldManager=x&fieldValidation=Strict", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\n  name: c\n", applyType, 400, "BadRequest", "error strict decoding patch: error converting YAML to JSON: yaml: unmarshal errors:"},
		{"apply of JSON with a key twice", "PATCH", cmURL + "/c?fieldManager=x&fieldValidation=Strict", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","name":"c"}}`, applyType, 400, "BadRequest", `line 1: key "name" already set in map`},
		{"apply under another name", "PATCH", cmURL + "/c?fieldManager=x", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"d"}}`, applyType, 400, "BadRequest", "the name of the object (d) does not match the name on the URL (c)"},
		{"apply to another life", "PATCH", cmURL + "/new?fieldManager=x", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new","uid":"u"}}`, applyType, 409, "Conflict", "uid mismatch: the provided object specified uid u, and no existing object was found"},
		{"apply to a subresource of nothing", "PATCH", "/apis/apps/v1/namespaces/default/deployments/zzz/scale?fieldManager=x", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"zzz"}}`, applyType, 404, "NotFound", "zzz"},
		{"no JSON patch", "PATCH", cmURL + "/c", `{}`, []string{"Content-Type", "application/json-patch+json"}, 400, "BadRequest", ""},
		{"nothing in place of the object", "PATCH", cmURL + "/c", `[{"op":"replace","path":""}]`, []string{"Content-Type", "application/json-patch+json"}, 422, "Invalid", "the server rejected our request due to an error in our request"},
		{"no value to test the object by", "PATCH", cmURL + "/c", `[{"op":"test","path":""}]`, []string{"Content-Type", "application/json-patch+json"}, 422, "Invalid", "the server rejected our request due to an error in our request"},
		{"failing test of a JSON patch", "PATCH", cmURL + "/c", `[{"op":"test","path":"/data","value":1}]`, []string{"Content-Type", "application/json-patch+json"}, 422, "Invalid", "the server rejected our request due to an error in our request"},
		{"no merge patch", "PATCH", cmURL + "/c", `[]`, []string{"Content-Type", "application/merge-patch+json"}, 400, "BadRequest", ""},
		{"patch to a wrong type", "PATCH", cmURL + "/c", `{"data":[]}`, []string{"Content-Type", "application/merge-patch+json"}, 422, "Invalid", "patch: Invalid value"},
		{"no JSON at all", "PATCH", cmURL + "/c", `{`, []string{"Content-Type", "application/merge-patch+json"}, 400, "BadRequest", "invalid JSON patch"},
		{"strict JSON patch", "PATCH", cmURL + "/c?fieldValidation=Strict", `[{"op":"add","path":"/data","value":{},"odd":1}]`, []string{"Content-Type", "application/json-patch+json"}, 422, "Invalid", `strict decoding error: json patch unknown field "[0].odd"`},
		{"strict patch", "PATCH", cmURL + "/c?fieldValidation=Strict", `{"nope":1}`, []string{"Content-Type", "application/merge-patch+json"}, 422, "Invalid", `unknown field "nope"`},
		{"patch of the name", "PATCH", cmURL + "/c", `{"metadata":{"name":"d"}}`, []string{"Content-Type", "application/merge-patch+json"}, 400, "BadRequest", "the name of the object"},
		{"patch of nothing", "PATCH", cmURL + "/zzz", `{}`, []string{"Content-Type", "application/merge-patch+json"}, 404, "NotFound", `configmaps "zzz" not found`},
		{"delete of nothing", "DELETE", cmURL + "/zzz", "", nil, 404, "NotFound", `configmaps "zzz" not found`},
		{"delete of another life", "DELETE", cmURL + "/c", `{"preconditions":{"uid":"x"}}`, nil, 409, "Conflict", "the UID in the precondition (x) does not match the UID in record"},
		{"delete of another version", "DELETE", cmURL + "/c", `{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"resourceVersion":"1"}}`, nil, 409, "Conflict", "the ResourceVersion in the precondition (1) does not match the ResourceVersion in record"},
		{"propagation of nobody", "DELETE", cmURL + "/c?propagationPolicy=Some", "", nil, 422, "Invalid", `DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "Some"`},
		{"two propagations", "DELETE", cmURL + "/c", `{"propagationPolicy":"Orphan","orphanDependents":true}`, nil, 422, "Invalid", "orphanDependents and deletionPropagation cannot be both set"},
		{"dryRun of a delete", "DELETE", cmURL + "/c?dryRun=Some", "", nil, 422, "Invalid", `DeleteOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value`},
		{"dryRun of a deletecollection", "DELETE", cmURL + "?dryRun=Some", "", nil, 422, "Invalid", "dryRun: Unsupported value"},
		{"dryRun of a connection", "GET", podURL + "/a/log?dryRun=All", "", nil, 400, "BadRequest", "dryRun is not supported"},
		{"options that are none", "DELETE", cmURL + "/c", `{"kind":"Pod","apiVersion":"v1"}`, nil, 400, "BadRequest", ""},
		{"grace that is no number", "DELETE", cmURL + "/c?gracePeriodSeconds=x", "", nil, 400, "BadRequest", `strconv.ParseInt: parsing "x": invalid syntax`},
		{"label selector", "GET", podURL + "?labelSelector=a%20b", "", nil, 400, "BadRequest", "unable to parse requirement: found 'b', expected"},
		{"field selector of nothing", "GET", podURL + "?fieldSelector=a", "", nil, 400, "BadRequest", "invalid selector: 'a'; can't understand 'a'"},
		{"field of a kind without any", "GET", cmURL + "?fieldSelector=data.a=1", "", nil, 400, "BadRequest", `"data.a" is not a known field selector: only "metadata.name", "metadata.namespace"`},
		{"field selector", "GET", podURL + "?fieldSelector=spec.nope=1", "", nil, 400, "BadRequest", "field label not supported: spec.nope"},
		{"limit", "GET", podURL + "?limit=x", "", nil, 400, "BadRequest", `strconv.ParseInt: parsing "x": invalid syntax`},
		{"continue", "GET", podURL + "?limit=1&continue=x", "", nil, 400, "BadRequest", "invalid continue token: continue key is not valid"},
		{"continue of another form", "GET", podURL + "?continue=eyJ2IjoieCJ9", "", nil, 400, "BadRequest", "server does not recognize this encoded version x"},
		{"continue above", "GET", podURL + "?continue=" + base64.RawURLEncoding.EncodeToString([]byte(`{"v":"meta.k8s.io/v1","rv":1,"start":"a/../../b"}`)), "", nil, 400, "BadRequest", "continue key is not valid"},
		{"continue without a version", "GET", podURL + "?continue=" + base64.RawURLEncoding.EncodeToString([]byte(`{"v":"meta.k8s.io/v1","start":"a"}`)), "", nil, 400, "BadRequest", "incorrect encoded start resourceVersion"},
		{"continue and a match", "GET", podURL + "?continue=x&resourceVersion=1&resourceVersionMatch=Exact", "", nil, 422, "Invalid", "resourceVersionMatch is forbidden when continue is provided"},
		{"exact zero", "GET", podURL + "?resourceVersionMatch=Exact&resourceVersion=0", "", nil, 422, "Invalid", `resourceVersionMatch "exact" is forbidden for resourceVersion "0"`},
		{"match of nobody", "GET", podURL + "?resourceVersionMatch=Some&resourceVersion=1", "", nil, 422, "Invalid", "resourceVersionMatch: Unsupported value"},
		{"initial events of a list", "GET", podURL + "?sendInitialEvents=true", "", nil, 422, "Invalid", "sendInitialEvents is forbidden for list"},
		{"match of a watch", "GET", podURL + "?watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1", "", nil, 422, "Invalid", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"},
		{"exact watch", "GET", podURL + "?watch=1&sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion=1", "", nil, 422, "Invalid", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"},
		{"watch from nowhere", "GET", podURL + "?watch=1&resourceVersion=x", "", nil, 422, "Invalid", `pods "" is invalid: resourceVersion: Invalid value: "x": strconv.ParseUint: parsing "x": invalid syntax`},
		{"get of nowhere", "GET", podURL + "/a?resourceVersion=x", "", nil, 400, "BadRequest", "invalid resource version: resourceVersion: Invalid value"},
		{"timeout of nobody", "GET", podURL + "?timeout=x", "", nil, 400, "BadRequest", "invalid timeout specified in the request URL"},
		{"too large", "POST", cmURL, `{"metadata":{"name":"l"},"data":{"a":"` + strings.Repeat("x", 3<<20) + `"}}`, nil, 413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728"},
		{"namespace of the patch", "PATCH", cmURL + "/c", `{"metadata":{"namespace":"other"}}`, []string{"Content-Type", "application/merge-patch+json"}, 400, "BadRequest", "the namespace of the object (other) does not match the namespace on the request (default)"},
		{"version of the future", "GET", podURL + "?resourceVersion=99999999", "", nil, 504, "Timeout", "Too large resource version: 99999999, current: "},
		{"exact without a version", "GET", podURL + "?resourceVersionMatch=Exact", "", nil, 422, "Invalid", "resourceVersionMatch is forbidden unless resourceVersion is provided"},
		{"version that is none", "GET", podURL + "?resourceVersion=x", "", nil, 400, "BadRequest", `invalid resource version: resourceVersion: Invalid value: "x": strconv.ParseUint: parsing "x": invalid syntax`},
		{"watch with bad options", "GET", podURL + "?watch=1&sendInitialEvents=true", "", nil, 422, "Invalid", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"},
		{"includeObject of nobody", "GET", podURL + "?includeObject=Some", "", []string{"Accept", "application/json;as=Table;v=v1;g=meta.k8s.io"}, 400, "BadRequest", `Unable to convert to Table as requested: includeObject: Invalid value: "Some": must be 'Metadata', 'Object', 'None', or empty`},
		{"resize", "PATCH", podURL + "/a/resize", `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"1"}}}]}}`, []string{"Content-Type", "application/strategic-merge-patch+json"}, 422, "Invalid", "Pod QOS Class may not change as a result of resizing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := w.do(t, tc.method, tc.path, tc.body, tc.header...)
			if reason, _ := a.at("reason").(string); a.code != tc.code || reason != tc.reason || !strings.Contains(a.raw, strings.ReplaceAll(tc.message, `"`, `\"`)) {
				t.Errorf("got %d %s\nwant %d %s %q", a.code, a.raw, tc.code, tc.reason, tc.message)
			}
			if tc.method == "HEAD" {
				return // it has no body
			}
			if a.at("kind") != "Status" || a.at("status") != "Failure" || a.at("code") != float64(tc.code) {
				t.Errorf("no whole Status: %s", a.raw)
			}
		})
	}
}

// named lets in whoever says a name; "nobody" may do nothing.
type named struct{}

func (named) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	name := r.Header.Get("X-Test-User")
	if name == "" {
		return nil, false, nil
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: name}}, true, nil
}

type rights func(a authorizer.Attributes) bool

func (f rights) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if f(a) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func TestWhoMay(t *testing.T) {
	var seen []authorizer.Attributes
	w := newWorld(t, func(c *apiserver.Config) {
		c.Authn = named{}
		c.Authz = rights(func(a authorizer.Attributes) bool { seen = append(seen, a); return a.GetUser().GetName() != "nobody" })
	})
	if a := w.do(t, "GET", podURL, ""); a.code != 401 || a.at("reason") != "Unauthorized" || a.at("message") != "Unauthorized" {
		t.Errorf("anonymous: %d %s", a.code, a.raw)
	}
	for path, want := range map[string]string{
		podURL + "/x":             `pods "x" is forbidden: User "nobody" cannot get resource "pods" in API group "" in the namespace "default"`,
		podURL:                    `pods is forbidden: User "nobody" cannot list resource "pods" in API group "" in the namespace "default"`,
		"/api/v1/pods?watch=true": `pods is forbidden: User "nobody" cannot watch resource "pods" in API group "" at the cluster scope`,
		"/apis/apps/v1/namespaces/d/deployments/x/scale": `deployments.apps "x" is forbidden: User "nobody" cannot get resource "deployments/scale" in API group "apps" in the namespace "d"`,
		"/version": `forbidden: User "nobody" cannot get path "/version"`,
		"/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dx": `secrets "x" is forbidden: User "nobody" cannot list resource "secrets" in API group "" in the namespace "default"`,
	} {
		if a := w.do(t, "GET", path, "", "X-Test-User", "nobody"); a.code != 403 || a.at("reason") != "Forbidden" || a.at("message") != want {
			t.Errorf("%s: %d %s\nwant %s", path, a.code, a.raw, want)
		}
	}
	seen = nil
	w.do(t, "GET", "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dx&labelSelector=a%3Db", "", "X-Test-User", "u")
	if len(seen) != 1 {
		t.Fatalf("%d questions to the authorizer", len(seen))
	}
	f, ferr := seen[0].GetFieldSelector()
	l, lerr := seen[0].GetLabelSelector()
	if seen[0].GetName() != "x" || len(f) != 1 || f[0].Value != "x" || ferr != nil || len(l) != 1 || lerr != nil {
		t.Errorf("the authorizer sees %+v", seen[0])
	}
	seen = nil
	w.do(t, "GET", "/api/v1/namespaces/team", "", "X-Test-User", "u")
	if seen[0].GetNamespace() != "team" || seen[0].GetName() != "team" || seen[0].GetResource() != "namespaces" {
		t.Errorf("a namespace lies in itself: %+v", seen[0])
	}
	seen = nil
	w.do(t, "PUT", "/api/v1/namespaces/team/finalize", "{}", "X-Test-User", "u")
	if seen[0].GetSubresource() != "finalize" || seen[0].GetName() != "team" {
		t.Errorf("finalize: %+v", seen[0])
	}
}
