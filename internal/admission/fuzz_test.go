package admission

import (
	"context"
	"strings"
	"testing"
	"time"

	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/auth/authz"
	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

// soon is how long one input may take, however slow the machine is.
const soon = 30 * time.Second

// FuzzExpressions: a policy that validation takes, with whatever expressions,
// judges a request without falling over, within its budget, and twice alike.
func FuzzExpressions(f *testing.F) {
	for _, e := range []string{
		`object.metadata.name == 'p'`, `object.spec.containers.all(c, c.image.startsWith('i'))`, `authorizer.group('').resource('pods').check('get').allowed()`,
		`[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, true))))`, `"a".matches("(a+)+$")`, `1/0 == 1`,
		`object.metadata.labels.exists(k, k == 'a')`, `quantity('1Gi').isGreaterThan(quantity('1Mi'))`, `ip('::1').isLoopback()`, `url('https://a/b').getHost() == 'a'`, `variables.v == 1`,
		`object.spec.containers[99].name == ''`, `has(object.spec.nodeName) ? object.spec.nodeName : 'x'`, `namespaceObject.metadata.name`, `string(object.spec)`, `duration('1h') > timestamp('x')`,
		`size('a'.split('')) == 1`, `oldObject == null`, `request.userInfo.username`, `params.a.b`, `'%s'.format([object])`, `sets.contains([1],[1])`, `object.metadata.name.replace('p', 'pppppppppppppppp').replace('p', 'pppppppppppppppp')`,
	} {
		f.Add(e, `'m: ' + object.metadata.name`, `1`)
		f.Add(`variables.v == 2`, `string(variables.v)`, e)
		f.Add(`false`, e, `variables.v`)
	}
	w := newWorld(f, namespace("d"))
	c := &Config{View: w.View, Authz: authz.New(w.View), Table: kinds.Builtin()}
	f.Fuzz(func(t *testing.T, rule, message, variable string) {
		began := time.Now()
		fail := registrationv1.Fail
		p := &registrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: registrationv1.ValidatingAdmissionPolicySpec{
			FailurePolicy:    &fail,
			Variables:        []registrationv1.Variable{{Name: "v", Expression: variable}},
			Validations:      []registrationv1.Validation{{Expression: rule, MessageExpression: message}},
			AuditAnnotations: []registrationv1.AuditAnnotation{{Key: "k", ValueExpression: message}},
			MatchConditions:  []registrationv1.MatchCondition{{Name: "m", Expression: rule}},
			MatchConstraints: &registrationv1.MatchResources{ResourceRules: []registrationv1.NamedRuleWithOperations{{RuleWithOperations: registrationv1.RuleWithOperations{
				Operations: []registrationv1.OperationType{"*"}, Rule: registrationv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*"}}}}}},
		}}
		kinds.ValidatingAdmissionPolicy.Default(p)
		// One expression may be wrong where the other is not: each is judged on
		// its own, as a stored policy's are after an upgrade.
		kinds.ValidatingAdmissionPolicy.Validate(p)
		ready, err := policyOf(p)
		if err != nil {
			t.Fatal(err)
		}
		b := &binding{ValidatingAdmissionPolicyBinding: &registrationv1.ValidatingAdmissionPolicyBinding{Spec: registrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "p", ValidationActions: []registrationv1.ValidationAction{registrationv1.Deny, registrationv1.Audit}}}}
		judged := func() string {
			r := create(kinds.Pod, simplePod("d", "p"))
			r.User, r.Ref.Namespace, r.Ref.Name = &user.DefaultInfo{Name: "jane"}, "d", "p"
			j := &judge{c: c, q: c.question(r)}
			if err := j.policy(context.Background(), ready, []*binding{b}); err != nil {
				t.Fatal(err)
			}
			j.annotate()
			var out []string
			for _, d := range j.denied {
				out = append(out, d.Error())
			}
			return strings.Join(out, "\n")
		}
		// What an expression makes of the clock or of a map's order is its own.
		if one, two := judged(), judged(); (one == "") != (two == "") {
			t.Fatalf("first %q, then %q", one, two)
		}
		if took := time.Since(began); took > soon {
			t.Fatalf("it took %v", took)
		}
	})
}

// FuzzReview: whatever a webhook answers, the object stays one of its kind, or
// as it was.
func FuzzReview(f *testing.F) {
	for _, a := range []string{
		`{"uid":"u","allowed":true}`, `{"uid":"u","allowed":false,"status":{"message":"no","code":200}}`, `{"uid":"u","allowed":true,"patchType":"JSONPatch","patch":"W10="}`, `null`,
		`{"uid":"u","allowed":true,"warnings":["a\nb"],"auditAnnotations":{"k":"v"}}`, `{"uid":"u","status":null,"patch":""}`,
	} {
		f.Add([]byte(`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","response":`+a+`}`), []byte(`[{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]`), true)
		f.Add([]byte(a), []byte(`[{"op":"replace","path":"/spec/containers","value":[{"name":"x"},{"name":"x"}]}]`), false)
	}
	for _, p := range []string{`[{"op":"copy","from":"","path":"/metadata/annotations"}]`, `[{"op":"replace","path":"","value":{"kind":"Service"}}]`, `[{"op":"remove","path":"/metadata"}]`, `[{"op":"replace","path":""}]`, `[null]`, `{}`,
		`[{"op":"add","path":"/spec/containers/-","value":{"name":1}}]`, `[{"op":"test","path":"/kind","value":"Pod"},{"op":"move","from":"/spec","path":"/metadata/spec"}]`} {
		f.Add([]byte(`{}`), []byte(p), true)
	}
	c := &Config{Table: kinds.Builtin()}
	f.Fuzz(func(t *testing.T, data, patch []byte, mutating bool) {
		began := time.Now()
		for _, version := range []string{"v1", "v1beta1"} {
			a, err := readReply(data, "u", version, mutating)
			if err != nil {
				continue
			}
			if !mutating && len(a.patch) > 0 {
				t.Fatal("a validating webhook's patch has passed")
			}
			if err := denied("w", a.result); err == nil || !strings.HasPrefix(err.Error(), `admission webhook "w" denied the request`) {
				t.Fatal(err)
			}
		}
		ops, err := codec.DecodePatch(patch)
		if err != nil {
			return
		}
		r := create(kinds.Pod, simplePod("d", "p"))
		r.User = &user.DefaultInfo{Name: "jane"}
		before := r.Object.DeepCopyObject().(*corev1.Pod)
		q := c.question(r)
		changed, err := q.patch(context.Background(), kinds.Pod, ops)
		after, ok := r.Object.(*corev1.Pod)
		if !ok {
			t.Fatalf("the pod is a %T", r.Object)
		}
		if (err != nil || !changed) && after.String() != before.String() {
			t.Fatalf("changed %v, %v: %v was %v", changed, err, after, before)
		}
		if took := time.Since(began); took > soon {
			t.Fatalf("it took %v", took)
		}
	})
}
