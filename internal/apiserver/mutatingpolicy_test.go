package apiserver_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	reviewv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/kinds"
)

const (
	deployments   = `{"operations":["CREATE","UPDATE"],"apiGroups":["apps"],"apiVersions":["v1"],"resources":["deployments"]}`
	deploymentURL = "/apis/apps/v1/namespaces/default/deployments"
	written       = `{"operations":["CREATE","UPDATE"],"apiGroups":[""],"apiVersions":["v1"],"resources":["configmaps"]}`
)

// mutates writes a mutating policy and a binding of it; spec is the rest of the
// policy's, bound that of the binding's, which begins with a comma or is empty.
func (h *hooked) mutates(t *testing.T, name, rule, spec, bound string) {
	t.Helper()
	if !strings.Contains(spec, "reinvocationPolicy") {
		spec += `,"reinvocationPolicy":"Never"`
	}
	h.put(t, registration+"mutatingadmissionpolicies", fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"matchConstraints":{"resourceRules":[%s]},%s}}`, name, rule, spec), kinds.MutatingAdmissionPolicy)
	h.put(t, registration+"mutatingadmissionpolicybindings", fmt.Sprintf(`{"metadata":{"name":"%s-binding"},"spec":{"policyName":%q%s}}`, name, name, bound), kinds.MutatingAdmissionPolicyBinding)
}

func (h *hooked) rest(t *testing.T, name string) {
	t.Helper()
	h.remove(t, kinds.MutatingAdmissionPolicyBinding, name+"-binding")
	h.remove(t, kinds.MutatingAdmissionPolicy, name)
}

// applies is a mutation by an object, patched one by the operations of a patch.
func applies(text string) string {
	return `{"patchType":"ApplyConfiguration","applyConfiguration":{"expression":` + strconv.Quote(text) + `}}`
}

func patched(text string) string {
	return `{"patchType":"JSONPatch","jsonPatch":{"expression":` + strconv.Quote(text) + `}}`
}

func mutations(list ...string) string { return `"mutations":[` + strings.Join(list, ",") + `]` }

func TestMutatingPolicies(t *testing.T) {
	h := newHooked(t)
	h.put(t, cmURL, `{"metadata":{"name":"limits","labels":{"limits":"1"}},"data":{"max":"5"}}`, kinds.ConfigMap)
	const (
		cm     = `{"metadata":{"name":"NAME","labels":{"l":"1"}},"data":{"a":"b"}}`
		dep    = `{"metadata":{"name":"NAME"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`
		params = `"paramKind":{"apiVersion":"v1","kind":"ConfigMap"},`
		denied = `policy 'p' with binding 'p-binding' denied request: `
	)
	container := "Object.spec.template.spec.containers"
	label := func(value string) string { return `Object{metadata: Object.metadata{labels: {"x": ` + value + `}}}` }
	ref := func(text, missing string) string {
		return `,"paramRef":{` + text + `,"parameterNotFoundAction":"` + missing + `"}`
	}
	for _, tc := range []struct {
		name, rule, spec, bound string
		code                    int
		want                    string // part of the object; or the whole message
	}{
		{"fields", deployments, mutations(applies(`Object{metadata: Object.metadata{annotations: {"by": "p"}}, spec: Object.spec{replicas: 1337}}`)), "", 201, `"replicas":1337`},
		{"lists by their keys, with defaults", deployments, mutations(applies(`Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: [` +
			container + `{name: "c", image: "j"}, ` + container + `{name: "side", image: "s"}]}}}}`)), "", 201,
			`"containers":[{"name":"c","image":"j","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"Always"},{"name":"side","image":"s","resources":{},"terminationMessagePath"`},
		{"what was there", deployments, mutations(applies(`Object{spec: Object.spec{template: Object.spec.template{metadata: Object.spec.template.metadata{annotations: object.spec.selector.matchLabels}}}}`)), "", 201, `"annotations":{"a":"b"}`},
		{"operations", written, mutations(patched(`[JSONPatch{op: "test", path: "/data/a", value: "b"}, JSONPatch{op: "add", path: "/data/" + jsonpatch.escapeKey("a.b"), value: "z"}, JSONPatch{op: "move", from: "/data/a", path: "/data/m"}, JSONPatch{op: "replace", path: "/metadata/labels", value: {"l": "2"}}]`)),
			"", 201, `"data":{"a.b":"z","m":"b"}`},
		{"a typed value", deployments, mutations(patched(`[JSONPatch{op: "add", path: "/spec/template/spec/containers/-", value: ` + container + `{name: "t", image: "i"}}, JSONPatch{op: "replace", path: "/spec/replicas", value: 3}]`)), "", 201, `"name":"t"`},
		{"a test fails", written, mutations(patched(`[JSONPatch{op: "test", path: "/data/a", value: "c"}, JSONPatch{op: "remove", path: "/data/a"}]`)), "", 201, `"data":{"a":"b"}`},
		{"one after the other", written, mutations(patched(`[JSONPatch{op: "add", path: "/data/n", value: "1"}]`), patched(`[JSONPatch{op: "add", path: "/data/n", value: object.data.n + "2"}]`)), "", 201, `"n":"12"`},
		{"variables", written, `"variables":[{"name":"n","expression":"object.data.a"},{"name":"m","expression":"variables.n + 'c'"}],` + mutations(applies(label("variables.m"))), "", 201, `"x":"bc"`},
		{"parameter", written, params + mutations(applies(label("params.kind + params.data.max"))), ref(`"name":"limits"`, "Deny"), 201, `"x":"ConfigMap5"`},
		{"parameters by label", written, params + mutations(applies(label("params.data.max"))), ref(`"selector":{"matchLabels":{"limits":"1"}}`, "Deny"), 201, `"x":"5"`},
		{"no parameter", written, params + mutations(applies(label("params.data.max"))), ref(`"name":"nope"`, "Deny"), 403, denied + "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"},
		{"no parameter, allowed", written, params + mutations(applies(label("params.data.max"))), ref(`"name":"nope"`, "Allow"), 201, `"labels":{"l":"1"}`},
		{"request, namespace and authorizer", written, mutations(applies(label("request.operation + namespaceObject.metadata.labels.team + (authorizer.group('').resource('pods').check('get').allowed() ? '1' : '0')"))), "", 201, `"x":"CREATEa1"`},
		{"condition", written, `"matchConditions":[{"name":"c","expression":"object.data.a == 'z'"}],` + mutations(applies(label("'1'"))), "", 201, `"labels":{"l":"1"}`},
		{"condition that fails", written, `"matchConditions":[{"name":"c","expression":"object.nope == 'z'"}],` + mutations(applies(label("'1'"))), "", 403, denied + "expression 'object.nope == 'z'' resulted in error: no such key: nope"},
		{"bound elsewhere", written, mutations(applies(label("'1'"))), `,"matchResources":{"namespaceSelector":{"matchLabels":{"team":"b"}}}`, 201, `"labels":{"l":"1"}`},
		{"an atomic field", deployments, mutations(applies(`Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {"a": "c"}}}}`)), "", 403, denied + "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector"},
		{"no such field", deployments, mutations(applies(`Object{spec: Object.spec{nope: 1}}`)), "", 403, denied + "error applying patch: failed to convert patch object to typed object: .spec.nope: field not declared in schema"},
		{"a name at the wrong place", deployments, mutations(applies(`Object{spec: Object.wrong{replicas: 1}}`)), "", 403, denied + `type mismatch: unexpected type name "Object.wrong", expected "Object.spec", which matches field name path from root Object type`},
		{"fails closed", written, mutations(applies(label("object.nope"))), "", 403, denied + `expression 'Object{metadata: Object.metadata{labels: {"x": object.nope}}}' resulted in error: no such key: nope`},
		{"fails open", written, `"failurePolicy":"Ignore",` + mutations(applies(label("object.nope")), applies(label("'2'"))), "", 201, `"x":"2"`},
		{"an operation fails", written, mutations(patched(`[JSONPatch{op: "remove", path: "/data/nope"}]`)), "", 403, denied + "JSON Patch: error in remove for path: '/data/nope': Unable to remove nonexistent key: nope: missing value"},
		{"an unknown field", written, mutations(patched(`[JSONPatch{op: "add", path: "/nope", value: 1}]`)), "", 500, `Internal error occurred: strict decoding error: unknown field "nope"`},
		{"invalid", written, mutations(applies(label("'not/ a label'"))), "", 422, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h.mutates(t, "p", tc.rule, tc.spec, tc.bound)
			defer h.rest(t, "p")
			url, body := cmURL, cm
			if tc.rule == deployments {
				url, body = deploymentURL, dep
			}
			name := strings.NewReplacer(" ", "-", ",", "").Replace(tc.name)
			a := h.must(t, tc.code, "POST", url, strings.ReplaceAll(body, "NAME", name))
			if tc.code == 201 {
				if !strings.Contains(a.raw, tc.want) {
					t.Errorf("got  %s\nwant %s", a.raw, tc.want)
				}
				return
			}
			if tc.want != "" && a.at("message") != tc.want {
				t.Errorf("got  %v\nwant %s", a.at("message"), tc.want)
			}
			if reason := a.at("reason"); tc.code == 403 && (reason != "Invalid") != strings.Contains(tc.want, "failed to configure") {
				t.Errorf("reason %v", reason)
			}
		})
	}
}

// TestMutatingPolicyTurns: policies work before webhooks, not on deletions, nor
// on policies, and again if somebody has changed the object and they ask for it.
func TestMutatingPolicyTurns(t *testing.T) {
	h := newHooked(t)
	count := func(key string) string {
		return mutations(patched(`[JSONPatch{op: "add", path: "/data/` + key + `", value: (has(object.data.` + key + `) ? object.data.` + key + ` : "") + "1"}]`))
	}
	h.mutates(t, "a", written, count("a")+`,"reinvocationPolicy":"IfNeeded"`, "")
	h.mutates(t, "b", written, count("b"), "")
	h.says("/m", patches(`[{"op":"add","path":"/data/hook","value":"1"}]`))
	h.add(t, mutating, "m", "/m", `"rules":[`+configMaps+`]`)
	a := h.must(t, 201, "POST", cmURL, `{"metadata":{"name":"c"},"data":{"x":"y"}}`)
	if a.at("data.a") != "11" || a.at("data.b") != "1" || a.at("data.hook") != "1" {
		t.Errorf("%s", a.raw)
	}
	if asked := h.took("/m"); len(asked) != 1 || !strings.Contains(string(asked[0].Object.Raw), `"b":"1"`) {
		t.Errorf("the webhook was asked %+v", asked)
	}
	h.remove(t, mutating, "m")
	h.must(t, 200, "DELETE", cmURL+"/c", "")
	h.mutates(t, "all", `{"operations":["*"],"apiGroups":["*"],"apiVersions":["*"],"resources":["*"]}`, mutations(applies(`Object{metadata: Object.metadata{labels: {"x": "y"}}}`)), "")
	a = h.must(t, 201, "POST", registration+"validatingwebhookconfigurations", `{"metadata":{"name":"w"}}`)
	if a.at("metadata.labels.x") != "y" { // upstream's policies see them
		t.Errorf("%s", a.raw)
	}
	if a = h.must(t, 200, "PATCH", registration+"mutatingadmissionpolicies/all", `{"metadata":{"annotations":{"a":"b"}}}`, "Content-Type", mergeType); a.at("metadata.labels") != nil {
		t.Errorf("%s", a.raw)
	}
}

// TestMutatingOtherForms: custom resources by their schema, in the version that
// the policy names, and the scale of a deployment.
func TestMutatingOtherForms(t *testing.T) {
	h := newHooked(t)
	h.ships(t, h.cfg, h.view, `{"strategy":"None"}`)
	h.mutates(t, "p", `{"operations":["CREATE"],"apiGroups":["harbour.example"],"apiVersions":["v1"],"resources":["ships"]}`,
		mutations(applies(`Object{spec: Object.spec{crew: 7}}`), patched(`[JSONPatch{op: "add", path: "/metadata/labels", value: {"v": object.apiVersion.split("/")[1]}}]`)), "")
	a := h.must(t, 201, "POST", shipURL, ship("a", `{"berths":2}`))
	if a.at("spec.crew") != 7.0 || a.at("spec.berths") != 2.0 || a.at("spec.flag") != "none" || a.at("metadata.labels.v") != "v1" {
		t.Errorf("%s", a.raw)
	}
	a = h.must(t, 201, "POST", strings.Replace(shipURL, "v1", "v1alpha1", 1), strings.Replace(ship("b", `{"berths":2}`), "/v1", "/v1alpha1", 1))
	if a.at("spec.crew") != 7.0 || a.at("apiVersion") != "harbour.example/v1alpha1" || a.at("metadata.labels.v") != "v1" {
		t.Errorf("another version: %s", a.raw)
	}
	h.must(t, 201, "POST", deploymentURL, `{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`)
	h.mutates(t, "s", `{"operations":["UPDATE"],"apiGroups":["apps"],"apiVersions":["v1"],"resources":["deployments/scale"]}`, mutations(applies(`Object{spec: Object.spec{replicas: object.spec.replicas + 1}}`)), "")
	if a = h.must(t, 200, "PATCH", deploymentURL+"/d/scale", `{"spec":{"replicas":4}}`, "Content-Type", mergeType); a.at("spec.replicas") != 5.0 {
		t.Errorf("%s", a.raw)
	}
}

func nothing(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse { return nil }

func noting(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
	return &reviewv1.AdmissionResponse{Allowed: true, AuditAnnotations: map[string]string{"size": "1", "no key": "2"}}
}

// TestWebhookNotes: what webhooks leave in the audit log.
func TestWebhookNotes(t *testing.T) {
	h := newHooked(t)
	h.says("/m", patches(`[{"op":"add","path":"/data/x","value":"y"}]`))
	h.says("/v", nothing)
	h.add(t, mutating, "a", "/m", `"rules":[`+configMaps+`],"reinvocationPolicy":"IfNeeded"`)
	h.add(t, mutating, "b", "/v", `"rules":[`+configMaps+`],"failurePolicy":"Ignore"`)
	h.add(t, validating, "v", "/v", `"rules":[`+configMaps+`],"failurePolicy":"Ignore"`)
	h.add(t, validating, "w", "/w", `"rules":[`+configMaps+`]`)
	h.says("/w", noting)
	var notes, contents []string
	r := &admission.Request{User: admin, Operation: admission.Create, Ref: kinds.Ref{Kind: kinds.ConfigMap, Namespace: "default", Name: "c"}, Object: &corev1.ConfigMap{Data: map[string]string{"a": "b"}},
		Annotate:        func(key, value string) { notes = append(notes, key+"="+value) },
		AnnotateContent: func(key, value string) { contents = append(contents, key+"="+value) }}
	if err := admission.Mutate(t.Context(), h.plugins, r); err != nil {
		t.Fatal(err)
	}
	for _, p := range h.plugins {
		if err := p.Validate(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		`mutation.webhook.admission.k8s.io/round_0_index_0={"configuration":"a","webhook":"a.example.com","mutated":true}`,
		`mutation.webhook.admission.k8s.io/round_0_index_1={"configuration":"b","webhook":"b.example.com","mutated":false}`,
		`failed-open.mutation.webhook.admission.k8s.io/round_0_index_1=b.example.com`,
		`w.example.com/size=1`,
		`failed-open.validating.webhook.admission.k8s.io/round_0_index_0=v.example.com`,
	}
	if !slices.Equal(notes, want) {
		t.Errorf("%q", notes)
	}
	if want := []string{`patch.webhook.admission.k8s.io/round_0_index_0={"configuration":"a","webhook":"a.example.com","patch":[{"op":"add","path":"/data/x","value":"y"}],"patchType":"JSONPatch"}`}; !slices.Equal(contents, want) {
		t.Errorf("%q", contents)
	}
}
