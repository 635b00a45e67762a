package validate

import (
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds/defaults"
)

func goodRule() admissionv1.RuleWithOperations {
	return admissionv1.RuleWithOperations{Operations: []admissionv1.OperationType{"CREATE"},
		Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}
}

func goodWebhook() *admissionv1.MutatingWebhookConfiguration {
	return &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Webhooks: []admissionv1.MutatingWebhook{{
		Name: "a.example.com", Rules: []admissionv1.RuleWithOperations{goodRule()}, SideEffects: ptr(admissionv1.SideEffectClassNone),
		ClientConfig:            admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: "n", Name: "s"}},
		AdmissionReviewVersions: []string{"v1"},
	}}}
}

func TestWebhookConfiguration(t *testing.T) {
	type C = *admissionv1.MutatingWebhookConfiguration
	resources := func(list ...string) func(C) {
		return func(c C) { c.Webhooks[0].Rules[0].Resources = list }
	}
	url := func(u string) func(C) {
		return func(c C) { c.Webhooks[0].ClientConfig = admissionv1.WebhookClientConfig{URL: &u} }
	}
	path := func(p string) func(C) { return func(c C) { c.Webhooks[0].ClientConfig.Service.Path = &p } }
	condition := func(names []string, text string) func(C) {
		return func(c C) {
			for _, n := range names {
				c.Webhooks[0].MatchConditions = append(c.Webhooks[0].MatchConditions, admissionv1.MatchCondition{Name: n, Expression: text})
			}
		}
	}
	creates(t, goodWebhook, defaults.MutatingWebhookConfiguration, MutatingWebhookConfiguration, []change[C]{
		{"good", nil, nil},
		{"reserved name", func(c C) { c.Name = "x.static.k8s.io" }, []string{"metadata.name Invalid: are reserved for static"}},
		{"short name", func(c C) { c.Webhooks[0].Name = "a.b" }, []string{"webhooks[0].name Invalid: at least three segments"}},
		{"same name", func(c C) { c.Webhooks = append(c.Webhooks, c.Webhooks[0]) }, []string{"webhooks[1].name Duplicate"}},
		{"no side effects told", func(c C) { c.Webhooks[0].SideEffects = nil }, []string{"webhooks[0].sideEffects Required: must specify one of None, NoneOnDryRun"}},
		{"side effects", func(c C) { c.Webhooks[0].SideEffects = ptr(admissionv1.SideEffectClassSome) }, []string{"webhooks[0].sideEffects NotSupported"}},
		{"long timeout", func(c C) { c.Webhooks[0].TimeoutSeconds = ptr[int32](31) }, []string{"webhooks[0].timeoutSeconds Invalid: between 1 and 30"}},
		{"policies", func(c C) {
			w := &c.Webhooks[0]
			w.FailurePolicy, w.MatchPolicy, w.ReinvocationPolicy = ptr[admissionv1.FailurePolicyType]("x"), ptr[admissionv1.MatchPolicyType]("x"), ptr[admissionv1.ReinvocationPolicyType]("x")
		}, []string{"webhooks[0].failurePolicy NotSupported", "webhooks[0].matchPolicy NotSupported", "webhooks[0].reinvocationPolicy NotSupported"}},
		{"no client", func(c C) { c.Webhooks[0].ClientConfig.Service = nil }, []string{"webhooks[0].clientConfig Required: exactly one of"}},
		{"http", url("http://x/y"), []string{"webhooks[0].clientConfig.url Invalid: 'https' is the only"}},
		{"url", url("https://x/y"), nil},
		{"url with all", url("https://u@x/y?a=b#c"), []string{"webhooks[0].clientConfig.url Invalid: user", "webhooks[0].clientConfig.url Invalid: query", "webhooks[0].clientConfig.url Invalid: fragments"}},
		{"empty service", func(c C) {
			c.Webhooks[0].ClientConfig.Service = &admissionv1.ServiceReference{Port: ptr[int32](0)}
		}, []string{"webhooks[0].clientConfig.service.name Required", "webhooks[0].clientConfig.service.namespace Required", "webhooks[0].clientConfig.service.port Invalid"}},
		{"path", path("/a/b/"), nil},
		{"odd path", path("a//B"), []string{"webhooks[0].clientConfig.service.path Invalid: must start", "webhooks[0].clientConfig.service.path Invalid: segment[0] may not", "webhooks[0].clientConfig.service.path Invalid: segment[1] may not", "webhooks[0].clientConfig.service.path Invalid: segment[2]"}},
		{"no versions", func(c C) { c.Webhooks[0].AdmissionReviewVersions = nil }, []string{"webhooks[0].admissionReviewVersions Required: must specify one of v1, v1beta1"}},
		{"unknown version", func(c C) { c.Webhooks[0].AdmissionReviewVersions = []string{"v2", "v2"} },
			[]string{"webhooks[0].admissionReviewVersions[1] Invalid: duplicate", "webhooks[0].admissionReviewVersions Invalid: at least one"}},
		{"operations", func(c C) { c.Webhooks[0].Rules[0].Operations = []admissionv1.OperationType{"*", "X"} },
			[]string{"webhooks[0].rules[0].operations Invalid", "webhooks[0].rules[0].operations[1] NotSupported"}},
		{"empty rule", func(c C) { c.Webhooks[0].Rules[0] = admissionv1.RuleWithOperations{} }, []string{"webhooks[0].rules[0].operations Required",
			"webhooks[0].rules[0].apiGroups Required", "webhooks[0].rules[0].apiVersions Required", "webhooks[0].rules[0].resources Required"}},
		{"all and more", resources("*/*", "pods"), []string{"webhooks[0].rules[0].resources Invalid: if '*/*'"}},
		{"star and pods", resources("*", "pods"), []string{"webhooks[0].rules[0].resources Invalid: if '*' is"}},
		{"star and a subresource", resources("*", "pods/exec"), nil},
		{"subresource twice", resources("pods/*", "pods/exec"), []string{"webhooks[0].rules[0].resources[1] Invalid: if 'pods/*'"}},
		{"condition", condition([]string{"a"}, "object.metadata.name != 'x' && request.userInfo.username != 'y'"), nil},
		{"no bool", condition([]string{"a"}, "1"), []string{"webhooks[0].matchConditions[0].expression Invalid: must evaluate to bool"}},
		{"unknown variable", condition([]string{"a"}, "params.x"), []string{"webhooks[0].matchConditions[0].expression Invalid: undeclared reference"}},
		{"same condition", condition([]string{"a", "a", ""}, "true"), []string{"webhooks[0].matchConditions[1].name Duplicate", "webhooks[0].matchConditions[2].name Required"}},
		{"empty condition", condition([]string{"a"}, " "), []string{"webhooks[0].matchConditions[0].expression Required"}},
		{"too many conditions", condition(make([]string, 65), "true"), []string{"webhooks[0].matchConditions TooMany"}},
	})
	// What could be stored once stays: expressions are not compiled again.
	old := goodWebhook()
	defaults.MutatingWebhookConfiguration(old)
	old.ResourceVersion = "1"
	condition([]string{"a"}, "no longer an expression")(old)
	compare(t, MutatingWebhookConfigurationUpdate(old.DeepCopy(), old), nil)
	changed := old.DeepCopy()
	changed.Webhooks[0].MatchConditions[0].Expression += " at all"
	compare(t, MutatingWebhookConfigurationUpdate(changed, old), []string{"webhooks[0].matchConditions[0].expression Invalid"})
}

func goodPolicy() *admissionv1.ValidatingAdmissionPolicy {
	return &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: goodRule()}}},
		Validations:      []admissionv1.Validation{{Expression: "object.spec.replicas < 3", Message: "too many"}},
	}}
}

func TestValidatingAdmissionPolicy(t *testing.T) {
	type P = *admissionv1.ValidatingAdmissionPolicy
	creates(t, goodPolicy, defaults.ValidatingAdmissionPolicy, ValidatingAdmissionPolicy, []change[P]{
		{"good", nil, nil},
		{"nothing to say", func(p P) { p.Spec.Validations = nil }, []string{"spec.validations Required", "spec.auditAnnotations Required"}},
		{"no constraints", func(p P) { p.Spec.MatchConstraints = nil }, []string{"spec.matchConstraints Required"}},
		{"no rules", func(p P) { p.Spec.MatchConstraints.ResourceRules = nil }, []string{"spec.matchConstraints.resourceRules Required"}},
		{"variables", func(p P) {
			p.Spec.Variables = []admissionv1.Variable{{Name: "a", Expression: "object.spec.replicas"}, {Name: "b", Expression: "variables.a + 1"}}
			p.Spec.Validations[0].Expression = "variables.b < 3"
		}, nil},
		{"unknown variable", func(p P) {
			p.Spec.Variables = []admissionv1.Variable{{Name: "in", Expression: "1"}}
			p.Spec.Validations[0].Expression = "variables.b < 3"
		}, []string{"spec.variables[0].name Invalid: CEL identifier", "spec.validations[0].expression Invalid: undefined field 'b'"}},
		{"params", func(p P) { p.Spec.Validations[0].Expression = "params.x == 1" }, []string{"spec.validations[0].expression Invalid: undeclared"}},
		{"with params", func(p P) {
			p.Spec.ParamKind, p.Spec.Validations[0].Expression = &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}, "params.x == 1"
		}, nil},
		{"param kind", func(p P) { p.Spec.ParamKind = &admissionv1.ParamKind{APIVersion: "a/b/c"} }, []string{"spec.paramKind.apiVersion Invalid", "spec.paramKind.kind Required"}},
		{"message", func(p P) {
			v := &p.Spec.Validations[0]
			v.Message, v.MessageExpression, v.Reason = "a\nb", "1", ptr(metav1.StatusReason("x"))
		}, []string{"spec.validations[0].message Invalid: line breaks", "spec.validations[0].messageExpression Invalid: must evaluate to string", "spec.validations[0].reason NotSupported"}},
		{"annotation", func(p P) {
			p.Spec.AuditAnnotations = []admissionv1.AuditAnnotation{{Key: "k", ValueExpression: "'x'"}, {Key: "k", ValueExpression: "1"}}
		}, []string{"spec.auditAnnotations[1].key Duplicate", "spec.auditAnnotations[1].valueExpression Invalid"}},
	})
}

func TestPolicyBindings(t *testing.T) {
	type B = *admissionv1.ValidatingAdmissionPolicyBinding
	good := func() B {
		return &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"},
			Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: "p", ValidationActions: []admissionv1.ValidationAction{"Deny"}}}
	}
	creates(t, good, defaults.ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBinding, []change[B]{
		{"good", nil, nil},
		{"no policy", func(b B) { b.Spec.PolicyName = "" }, []string{"spec.policyName Required"}},
		{"no action", func(b B) { b.Spec.ValidationActions = nil }, []string{"spec.validationActions Required"}},
		{"actions", func(b B) { b.Spec.ValidationActions = []admissionv1.ValidationAction{"Deny", "Warn", "Warn", "X"} },
			[]string{"spec.validationActions Invalid: both Deny and Warn", "spec.validationActions[2] Duplicate", "spec.validationActions[3] NotSupported"}},
		{"empty ref", func(b B) { b.Spec.ParamRef = &admissionv1.ParamRef{} }, []string{"spec.paramRef Required", "spec.paramRef.parameterNotFoundAction Required"}},
		{"two refs", func(b B) {
			b.Spec.ParamRef = &admissionv1.ParamRef{Name: "a", Selector: &metav1.LabelSelector{}, ParameterNotFoundAction: ptr(admissionv1.DenyAction)}
		}, []string{"spec.paramRef.name Forbidden", "spec.paramRef.selector Forbidden"}},
		{"resource name", func(b B) {
			r := admissionv1.NamedRuleWithOperations{ResourceNames: []string{"a", "a", "b/c"}, RuleWithOperations: goodRule()}
			b.Spec.MatchResources = &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{r}}
			defaults.ValidatingAdmissionPolicyBinding(b)
		}, []string{"spec.matchResources.resourceRules[0].resourceNames[1] Duplicate", "spec.matchResources.resourceRules[0].resourceNames[2] Invalid"}},
	})
}

func TestMutatingAdmissionPolicy(t *testing.T) {
	type P = *admissionv1.MutatingAdmissionPolicy
	good := func() P {
		return &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionv1.MutatingAdmissionPolicySpec{
			MatchConstraints: goodPolicy().Spec.MatchConstraints, ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
			Mutations: []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeApplyConfiguration,
				ApplyConfiguration: &admissionv1.ApplyConfiguration{Expression: "Object{metadata: Object.metadata{labels: {'a':'b'}}}"}}},
		}}
	}
	creates(t, good, defaults.MutatingAdmissionPolicy, MutatingAdmissionPolicy, []change[P]{
		{"good", nil, nil},
		{"json patch", func(p P) {
			p.Spec.Mutations[0] = admissionv1.Mutation{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{Expression: "[JSONPatch{op: 'add', path: '/a', value: 'b'}]"}}
		}, nil},
		{"wrong type", func(p P) { p.Spec.Mutations[0].ApplyConfiguration.Expression = "'x'" }, []string{"spec.mutations[0].applyConfiguration.expression Invalid: must evaluate to"}},
		{"both", func(p P) { p.Spec.Mutations[0].JSONPatch = &admissionv1.JSONPatch{} }, []string{"spec.mutations[0].jsonPatch Invalid"}},
		{"no mutations", func(p P) { p.Spec.Mutations, p.Spec.ReinvocationPolicy = nil, "" }, []string{"spec.mutations Required", "spec.reinvocationPolicy Required"}},
		{"delete", func(p P) { p.Spec.MatchConstraints.ResourceRules[0].Operations[0] = "DELETE" }, []string{"spec.matchConstraints.resourceRules.operations NotSupported"}},
	})
}
