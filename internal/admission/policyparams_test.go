package admission

import (
	"testing"

	registrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
	"knarr.dev/knarr/internal/webhook"
)

func TestPolicyParams(t *testing.T) {
	w := newWorldWith(t, Config{AccountPatience: -1, Table: kinds.Builtin(), Webhooks: webhook.New(func(string, string, int32) (string, error) { return "", nil })},
		clusterRole("one", rule("get", "", "configmaps", "limits")), bind("one", "one", "one"),
		clusterRole("reader", rule("get,list", "", "configmaps")), bind("reader", "reader", "reader"),
		&registrationv1.ValidatingAdmissionPolicy{ObjectMeta: meta("", "known"), Spec: registrationv1.ValidatingAdmissionPolicySpec{ParamKind: &registrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}}})
	policy := func(apiVersion, kind string) *registrationv1.ValidatingAdmissionPolicy {
		return &registrationv1.ValidatingAdmissionPolicy{ObjectMeta: meta("", "p"), Spec: registrationv1.ValidatingAdmissionPolicySpec{ParamKind: &registrationv1.ParamKind{APIVersion: apiVersion, Kind: kind}}}
	}
	binding := func(policy string, ref *registrationv1.ParamRef) *registrationv1.ValidatingAdmissionPolicyBinding {
		return &registrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: meta("", "b"), Spec: registrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: policy, ParamRef: ref}}
	}
	limits, all := &registrationv1.ParamRef{Name: "limits"}, &registrationv1.ParamRef{Selector: &metav1.LabelSelector{}}
	const mayNot = "must have \"get\" permission on all objects of the referenced paramKind"
	for name, tc := range map[string]struct {
		who    string
		object kinds.Object
		old    kinds.Object
		want   string
	}{
		"no parameters":         {"nobody", &registrationv1.ValidatingAdmissionPolicy{}, nil, ""},
		"kind":                  {"reader", policy("v1", "ConfigMap"), nil, ""},
		"kind of which one":     {"one", policy("v1", "ConfigMap"), nil, mayNot + " (kind=ConfigMap, apiVersion=v1)"},
		"other kind":            {"reader", policy("v1", "Secret"), nil, mayNot},
		"kind of nobody":        {"reader", policy("x.example/v1", "ConfigMap"), nil, mayNot},
		"kind that stands":      {"nobody", policy("v1", "Secret"), policy("v1", "Secret"), ""},
		"changed kind":          {"nobody", policy("v1", "Secret"), policy("v1", "ConfigMap"), mayNot},
		"object":                {"one", binding("known", limits), nil, ""},
		"object of others":      {"nobody", binding("known", limits), nil, `does not have "get" permission on the object referenced by paramRef`},
		"all by who may one":    {"one", binding("known", all), nil, `does not have "list" permission`},
		"all":                   {"reader", binding("known", all), nil, ""},
		"policy of nobody":      {"reader", binding("nope", limits), nil, "unable to get policy nope to determine minimum required permissions"},
		"binding that stands":   {"nobody", binding("known", limits), binding("known", limits), ""},
		"no parameters, a bond": {"nobody", binding("known", nil), nil, ""},
		"master":                {"", binding("nope", limits), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			k := kinds.ValidatingAdmissionPolicy
			if _, ok := tc.object.(*registrationv1.ValidatingAdmissionPolicyBinding); ok {
				k = kinds.ValidatingAdmissionPolicyBinding
			}
			r := create(k, tc.object)
			r.User = person(tc.who)
			if tc.who == "" {
				r.User = person("root", user.SystemPrivilegedGroup)
			}
			if tc.old != nil {
				r.Operation, r.Old = Update, tc.old
			}
			var code int32
			if tc.want != "" {
				code = 422
			}
			want(t, w.admit(r), code, tc.want)
		})
	}
}

// BenchmarkNoWebhooks: without configurations nobody pays for them.
func BenchmarkNoWebhooks(b *testing.B) {
	v := view.New([]*kinds.Kind{kinds.MutatingWebhookConfiguration})
	p := mutatingWebhooks{&Config{View: v}, &ready[[]*hook]{make: hooksOf, read: reading[*registrationv1.MutatingWebhookConfiguration](v, kinds.MutatingWebhookConfiguration)}}
	r := create(kinds.Pod, simplePod("default", "p"))
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Mutate(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

// TestMutatingPolicyParams: the same holds for policies that change objects.
func TestMutatingPolicyParams(t *testing.T) {
	kind := func(name string) *registrationv1.ParamKind {
		return &registrationv1.ParamKind{APIVersion: "v1", Kind: name}
	}
	w := newWorldWith(t, Config{AccountPatience: -1, Table: kinds.Builtin(), Webhooks: webhook.New(func(string, string, int32) (string, error) { return "", nil })},
		clusterRole("reader", rule("get,list", "", "configmaps")), bind("reader", "reader", "reader"),
		&registrationv1.MutatingAdmissionPolicy{ObjectMeta: meta("", "known"), Spec: registrationv1.MutatingAdmissionPolicySpec{ParamKind: kind("ConfigMap")}})
	policy := &registrationv1.MutatingAdmissionPolicy{ObjectMeta: meta("", "p"), Spec: registrationv1.MutatingAdmissionPolicySpec{ParamKind: kind("ConfigMap")}}
	binding := &registrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: meta("", "b"), Spec: registrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "known", ParamRef: &registrationv1.ParamRef{Name: "limits"}}}
	for _, tc := range []struct {
		who    string
		kind   *kinds.Kind
		object kinds.Object
		want   string
	}{
		{"reader", kinds.MutatingAdmissionPolicy, policy, ""},
		{"nobody", kinds.MutatingAdmissionPolicy, policy, `must have "get" permission on all objects of the referenced paramKind (kind=ConfigMap, apiVersion=v1)`},
		{"reader", kinds.MutatingAdmissionPolicyBinding, binding, ""},
		{"nobody", kinds.MutatingAdmissionPolicyBinding, binding, `does not have "get" permission on the object referenced by paramRef`},
	} {
		r := create(tc.kind, tc.object)
		r.User = person(tc.who)
		var code int32
		if tc.want != "" {
			code = 422
		}
		want(t, w.admit(r), code, tc.want)
	}
}
