package policystatus

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	registrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/expression"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

// types knows cron tabs and limits of a group, and nothing else.
func types(t *testing.T) expression.Types {
	text := map[string]string{
		"CronTab": `{"type":"object","properties":{"spec":{"type":"object","properties":{"replicas":{"type":"integer"},"image":{"type":"string"}}}}}`,
		"Limit":   `{"type":"object","properties":{"max":{"type":"integer"}}}`,
	}
	return expression.Types{
		Kind: func(gvr schema.GroupVersionResource) (schema.GroupVersionKind, bool) {
			known := map[string]string{"crontabs": "CronTab", "limits": "Limit"}[gvr.Resource]
			return gvr.GroupVersion().WithKind(known), known != "" && gvr.Group == "x.example"
		},
		Schema: func(gvk schema.GroupVersionKind) *spec.Schema {
			s := &spec.Schema{}
			if text[gvk.Kind] == "" {
				return nil
			}
			if err := json.Unmarshal([]byte(text[gvk.Kind]), s); err != nil {
				t.Fatal(err)
			}
			return s
		},
	}
}

func policy(resources string, validations ...registrationv1.Validation) *registrationv1.ValidatingAdmissionPolicy {
	rule := registrationv1.NamedRuleWithOperations{RuleWithOperations: registrationv1.RuleWithOperations{Rule: registrationv1.Rule{
		APIGroups: []string{"x.example"}, APIVersions: []string{"v1"}, Resources: strings.Split(resources, ",")}}}
	p := &registrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p", Generation: 1}}
	p.Spec.MatchConstraints = &registrationv1.MatchResources{ResourceRules: []registrationv1.NamedRuleWithOperations{rule}}
	p.Spec.Validations = validations
	return p
}

func TestPlan(t *testing.T) {
	says := func(text string) registrationv1.Validation { return registrationv1.Validation{Expression: text} }
	variable := policy("crontabs", says("variables.n > '1'"))
	variable.Spec.Variables = []registrationv1.Variable{{Name: "n", Expression: "object.spec.replicas"}}
	params := policy("crontabs", says("object.spec.replicas < params.max"), says("params.maxi == 1"))
	params.Spec.ParamKind = &registrationv1.ParamKind{APIVersion: "x.example/v1", Kind: "Limit"}
	unknown := policy("crontabs", says("params.whatever"))
	unknown.Spec.ParamKind = &registrationv1.ParamKind{APIVersion: "x.example/v1", Kind: "Nope"}
	wild := policy("crontabs", says("object.nope"))
	wild.Spec.MatchConstraints.ResourceRules[0].APIVersions = []string{"*"}
	for name, tc := range map[string]struct {
		policy *registrationv1.ValidatingAdmissionPolicy
		want   []string // field: part of the warning
	}{
		"right":             {policy("crontabs", says("object.spec.replicas > 1 && object.metadata.name != '' && request.operation == 'CREATE' && authorizer.path('/x').check('get').allowed()")), nil},
		"confused":          {policy("crontabs", says("object.spec.replicas > '1'")), []string{"spec.validations[0].expression: x.example/v1, Kind=CronTab: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'"}},
		"no such field":     {policy("crontabs", says("true"), says("oldObject.spec.maxRetries < 10")), []string{"spec.validations[1].expression: x.example/v1, Kind=CronTab: ERROR: <input>:1:15: undefined field 'maxRetries'"}},
		"message":           {policy("crontabs", registrationv1.Validation{Expression: "true", MessageExpression: "object.spec.image + 1"}), []string{"spec.validations[0].messageExpression: x.example/v1, Kind=CronTab: ERROR: <input>:1:19: found no matching overload for '_+_' applied to '(string, int)'"}},
		"variable":          {variable, []string{"spec.validations[0].expression: x.example/v1, Kind=CronTab: ERROR: <input>:1:13: found no matching overload for '_>_' applied to '(int, string)'"}},
		"parameters":        {params, []string{"spec.validations[1].expression: x.example/v1, Kind=CronTab: ERROR: <input>:1:7: undefined field 'maxi'"}},
		"unknown parameter": {unknown, nil},
		"several kinds":     {policy("limits,crontabs", says("object.max == 1")), []string{"spec.validations[0].expression: x.example/v1, Kind=CronTab: ERROR: <input>:1:7: undefined field 'max'"}},
		"all versions":      {wild, nil},
		"subresources":      {policy("crontabs/status,*", says("object.nope")), nil},
		"unknown kind":      {policy("pods", says("object.nope")), nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := Plan(Observed{tc.policy, types(t)})
			if len(r.Actions) != 1 {
				t.Fatalf("%+v", r)
			}
			got := r.Actions[0].Object.(*registrationv1.ValidatingAdmissionPolicy)
			if got.Status.ObservedGeneration != 1 || got.Status.TypeChecking == nil || len(got.Status.TypeChecking.ExpressionWarnings) != len(tc.want) {
				t.Fatalf("%+v", got.Status)
			}
			for i, w := range got.Status.TypeChecking.ExpressionWarnings {
				if text := fmt.Sprintf("%s: %s", w.FieldRef, w.Warning); !strings.HasPrefix(text, tc.want[i]) {
					t.Errorf("got  %s\nwant %s", text, tc.want[i])
				}
			}
			if tc.policy.Status.TypeChecking != nil {
				t.Error("the observed policy was changed")
			}
			if again := Plan(Observed{got, types(t)}); len(again.Actions) != 0 {
				t.Errorf("planned again after applying: %+v", again)
			}
		})
	}
	gone := policy("crontabs")
	gone.DeletionTimestamp = &metav1.Time{}
	if r := Plan(Observed{gone, types(t)}); len(r.Actions) != 0 {
		t.Errorf("a policy that goes: %+v", r)
	}
}

// TestOrder: the order of names in a rule changes nothing.
func TestOrder(t *testing.T) {
	wrong := registrationv1.Validation{Expression: "object.nope"}
	a, b := Plan(Observed{policy("limits,crontabs", wrong), types(t)}), Plan(Observed{policy("crontabs,limits", wrong), types(t)})
	first, second := a.Actions[0].Object.(*registrationv1.ValidatingAdmissionPolicy), b.Actions[0].Object.(*registrationv1.ValidatingAdmissionPolicy)
	if got := first.Status.TypeChecking.ExpressionWarnings[0]; got != second.Status.TypeChecking.ExpressionWarnings[0] || strings.Count(got.Warning, "Kind=") != 2 {
		t.Errorf("%+v", got)
	}
}

// TestSettles: the controller comes to rest, and begins again with a change.
func TestSettles(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.ValidatingAdmissionPolicy})
	c := Controller(types(t))
	p := policy("crontabs", registrationv1.Validation{Expression: "object.nope"})
	w.Put(kinds.ValidatingAdmissionPolicy, p)
	for range 2 {
		if _, err := w.Drive(1, 50, 0, c); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.Writes) != 1 {
		t.Errorf("writes: %v", w.Writes)
	}
}
