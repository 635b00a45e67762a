package apiserver_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/kinds"
)

// policy writes a policy over config maps and a binding of it; spec is the rest
// of the policy's, bound that of the binding's.
func (h *hooked) policy(t *testing.T, name, spec, bound string) {
	t.Helper()
	h.put(t, registration+"validatingadmissionpolicies", fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"matchConstraints":{"resourceRules":[%s]},%s}}`, name, configMaps, spec), kinds.ValidatingAdmissionPolicy)
	h.put(t, registration+"validatingadmissionpolicybindings", fmt.Sprintf(`{"metadata":{"name":"%s-binding"},"spec":{"policyName":%q,%s}}`, name, name, bound), kinds.ValidatingAdmissionPolicyBinding)
}

func TestPolicies(t *testing.T) {
	const deny = `"validationActions":["Deny"]`
	bad := `{"metadata":{"name":"c","labels":{"l":"1"}},"data":{"replicas":"5"}}`
	for _, tc := range []struct {
		name, spec, bound string
		code              int
		message           string
	}{
		{"admits", `"validations":[{"expression":"int(object.data.replicas) <= 5"}]`, deny, 201, ""},
		{"denies", `"validations":[{"expression":"int(object.data.replicas) < 5"}]`, deny, 422, "failed expression: int(object.data.replicas) < 5"},
		{"says why", `"validations":[{"expression":"false","message":" too many ","reason":"Forbidden"}]`, deny, 403, "too many"},
		{"computes why", `"validations":[{"expression":"false","message":"no","messageExpression":"'at most ' + object.data.replicas"}]`, deny, 422, "at most 5"},
		{"cannot compute why", `"validations":[{"expression":"false","message":"no","messageExpression":"string(object.data.nope)"}]`, deny, 422, "no"},
		{"too large", `"validations":[{"expression":"false","reason":"RequestEntityTooLarge"}]`, deny, 413, "failed expression: false"},
		{"variables", `"variables":[{"name":"n","expression":"int(object.data.replicas)"},{"name":"m","expression":"variables.n * 2"}],"validations":[{"expression":"variables.m == 9","messageExpression":"string(variables.m)"}]`, deny, 422, "10"},
		{"namespace", `"validations":[{"expression":"namespaceObject.metadata.labels.team == 'b'","messageExpression":"namespaceObject.metadata.name"}]`, deny, 422, "default"},
		{"authorizer", `"validations":[{"expression":"authorizer.group('').resource('pods').check('get').allowed()"}]`, deny, 201, ""},
		{"request", `"validations":[{"expression":"request.operation == 'CREATE' && oldObject == null && object.kind == 'ConfigMap'"}]`, deny, 201, ""},
		{"fails closed", `"validations":[{"expression":"object.nope == 1"}]`, deny, 422, "expression 'object.nope == 1' resulted in error: no such key: nope"},
		{"fails open", `"failurePolicy":"Ignore","validations":[{"expression":"object.nope == 1"}]`, deny, 201, ""},
		{"condition", `"matchConditions":[{"name":"a","expression":"object.metadata.name != 'c'"}],"validations":[{"expression":"false"}]`, deny, 201, ""},
		{"warns", `"validations":[{"expression":"false"}]`, `"validationActions":["Warn","Audit"]`, 201, ""},
		{"bound elsewhere", `"validations":[{"expression":"false"}]`, deny + `,"matchResources":{"namespaceSelector":{"matchLabels":{"team":"b"}}}`, 201, ""},
		{"bound to others", `"validations":[{"expression":"false"}]`, deny + `,"matchResources":{"objectSelector":{"matchLabels":{"l":"2"}}}`, 201, ""},
		{"bound here", `"validations":[{"expression":"false"}]`, deny + `,"matchResources":{"namespaceSelector":{"matchLabels":{"team":"a"}},"objectSelector":{"matchLabels":{"l":"1"}}}`, 422, "failed expression: false"},
		{"excluded", `"validations":[{"expression":"false"}]`, deny + `,"matchResources":{"excludeResourceRules":[` + strings.Replace(configMaps, "{", `{"resourceNames":["c"],`, 1) + `]}`, 201, ""},
		{"parameter", `"paramKind":{"apiVersion":"v1","kind":"ConfigMap"},"validations":[{"expression":"int(object.data.replicas) < int(params.data.max)","messageExpression":"params.kind + ' ' + params.metadata.name"}]`,
			deny + `,"paramRef":{"name":"limits","parameterNotFoundAction":"Deny"}`, 422, "ConfigMap limits"},
		{"parameters by label", `"paramKind":{"apiVersion":"v1","kind":"ConfigMap"},"validations":[{"expression":"int(object.data.replicas) < int(params.data.max)"}]`,
			deny + `,"paramRef":{"selector":{"matchLabels":{"limits":"1"}},"parameterNotFoundAction":"Deny"}`, 422, "failed expression: int(object.data.replicas) < int(params.data.max)"},
		{"no parameter", `"paramKind":{"apiVersion":"v1","kind":"ConfigMap"},"validations":[{"expression":"params.data.max == '1'"}]`,
			deny + `,"paramRef":{"name":"nope","parameterNotFoundAction":"Deny"}`, 422, "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"},
		{"no parameter, allowed", `"paramKind":{"apiVersion":"v1","kind":"ConfigMap"},"validations":[{"expression":"params.data.max == '1'"}]`,
			deny + `,"paramRef":{"name":"nope","parameterNotFoundAction":"Allow"}`, 201, ""},
		{"unknown parameters", `"paramKind":{"apiVersion":"x.example/v1","kind":"Limit"},"validations":[{"expression":"true"}]`,
			deny + `,"paramRef":{"name":"nope","parameterNotFoundAction":"Allow"}`, 422, "failed to configure binding: paramKind kind `&ParamKind{APIVersion:x.example/v1,Kind:Limit,}` not known"},
		{"unbound parameters", `"paramKind":{"apiVersion":"v1","kind":"ConfigMap"},"validations":[{"expression":"params == null"}]`, deny, 201, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHooked(t)
			h.put(t, cmURL, `{"metadata":{"name":"limits","labels":{"limits":"1"}},"data":{"max":"5"}}`, kinds.ConfigMap)
			h.policy(t, "p", tc.spec, tc.bound)
			a := h.must(t, tc.code, "POST", cmURL, bad)
			if tc.code == 201 {
				if want := `Validation failed for ValidatingAdmissionPolicy 'p' with binding 'p-binding': failed expression: false`; (tc.name == "warns") != strings.Contains(a.header.Get("Warning"), want) {
					t.Errorf("warnings %v", a.header)
				}
				return
			}
			if want := `configmaps "c" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p-binding' denied request: ` + tc.message; a.at("message") != want {
				t.Errorf("got  %v\nwant %s", a.at("message"), want)
			}
			h.must(t, 201, "POST", "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"s"}}`) // is none of its business
		})
	}
}

// TestPolicyNotes: what policies say for the audit log.
func TestPolicyNotes(t *testing.T) {
	var notes []string
	h := newHooked(t)
	h.policy(t, "p", `"auditAnnotations":[{"key":"size","valueExpression":"string(size(object.data))"},{"key":"none","valueExpression":"null"}],"validations":[{"expression":"false","message":"no"}]`, `"validationActions":["Audit"]`)
	r := &admission.Request{User: admin, Operation: admission.Create, Ref: kinds.Ref{Kind: kinds.ConfigMap, Namespace: "default", Name: "c"}, Object: &corev1.ConfigMap{Data: map[string]string{"a": "b"}},
		Annotate: func(key, value string) { notes = append(notes, key+"="+value) }}
	for _, p := range h.plugins {
		if err := p.Validate(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"p/size=1", `validation.policy.admission.k8s.io/validation_failure=[{"message":"no","policy":"p","binding":"p-binding","expressionIndex":0,"validationActions":["Audit"]}]`}
	if !slices.Equal(notes, want) {
		t.Errorf("%q", notes)
	}
}
