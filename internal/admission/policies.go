package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	celtypes "github.com/google/cel-go/common/types"
	reviewv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	upstream "k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/expression"
)

const (
	maxAuditValue = 10 << 10 // bytes of an audit annotation
	// maxAuditFailures bounds what one request adds to the audit log.
	maxAuditFailures  = 50
	failureAnnotation = "validation.policy.admission.k8s.io/validation_failure"
)

// policy is a ValidatingAdmissionPolicy, ready to judge.
type policy struct {
	*registrationv1.ValidatingAdmissionPolicy
	scope *scope
	rules func() *rules
}

// rules are a policy's expressions, compiled.
type rules struct {
	prelude
	validations, messages, annotations plugincel.ConditionEvaluator
}

// binding puts a policy in force.
type binding struct {
	*registrationv1.ValidatingAdmissionPolicyBinding
	inForce
}

func policyOf(o kinds.Object) (*policy, error) {
	p := o.(*registrationv1.ValidatingAdmissionPolicy)
	s, err := scopeOf(p.Spec.MatchConstraints)
	return &policy{p, s, sync.OnceValue(func() *rules { return rulesOf(p) })}, err
}

func bindingOf(o kinds.Object) (*binding, error) {
	b := o.(*registrationv1.ValidatingAdmissionPolicyBinding)
	f, err := inForceOf(b.Spec.MatchResources, b.Spec.ParamRef)
	return &binding{b, f}, err
}

func rulesOf(p *registrationv1.ValidatingAdmissionPolicy) *rules {
	s := &p.Spec
	out := &rules{prelude: preludeOf(p.Name, s.ParamKind, s.Variables, s.MatchConditions, s.FailurePolicy)}
	var compiler plugincel.ConditionCompiler = plugincel.NewConditionCompiler(expression.Env())
	if out.variables != nil {
		compiler = out.variables
	}
	validations, messages := make([]plugincel.ExpressionAccessor, len(s.Validations)), make([]plugincel.ExpressionAccessor, len(s.Validations))
	for i, v := range s.Validations {
		validations[i] = expression.Bool(v.Expression)
		if v.MessageExpression != "" {
			messages[i] = expression.Text(v.MessageExpression)
		}
	}
	annotations := make([]plugincel.ExpressionAccessor, len(s.AuditAnnotations))
	for i, a := range s.AuditAnnotations {
		annotations[i] = expression.Maybe(a.ValueExpression)
	}
	all, plain := out.declared, out.declared
	plain.HasAuthorizer = false
	out.validations = compiler.CompileCondition(validations, all, environment.StoredExpressions)
	out.messages = compiler.CompileCondition(messages, plain, environment.StoredExpressions)
	out.annotations = compiler.CompileCondition(annotations, all, environment.StoredExpressions)
	return out
}

// refusal is one judgement against a request.
type refusal struct {
	policy, binding string
	index           int // of the validation
	reason          metav1.StatusReason
	message         string
}

func (f *refusal) Error() string {
	if f.binding == "" {
		return fmt.Sprintf("ValidatingAdmissionPolicy '%s' denied request: %s", f.policy, f.message)
	}
	return fmt.Sprintf("ValidatingAdmissionPolicy '%s' with binding '%s' denied request: %s", f.policy, f.binding, f.message)
}

// status is what the client is told.
func (f *refusal) status(r *Request) error {
	out := forbid(r, f)
	if f.reason == "" {
		f.reason = metav1.StatusReasonInvalid
	}
	out.ErrStatus.Reason, out.ErrStatus.Code = f.reason, http.StatusUnprocessableEntity
	switch f.reason {
	case metav1.StatusReasonForbidden:
		out.ErrStatus.Code = http.StatusForbidden
	case metav1.StatusReasonRequestEntityTooLarge:
		out.ErrStatus.Code = http.StatusRequestEntityTooLarge
	}
	out.ErrStatus.Details.Causes = append(out.ErrStatus.Details.Causes, metav1.StatusCause{Message: f.Error()})
	return out
}

// validatingPolicies judges by the policies that users wrote.
type validatingPolicies struct {
	c        *Config
	policies *ready[*policy]
	bindings *ready[*binding]
}

func (validatingPolicies) Name() string { return "ValidatingAdmissionPolicy" }

func (validatingPolicies) Mutate(context.Context, *Request) error { return nil }

func (p validatingPolicies) Validate(ctx context.Context, r *Request) error {
	bindings, err := p.bindings.now()
	if err != nil || len(bindings) == 0 || ownPolicy(r) {
		return err
	}
	policies, err := p.policies.now()
	if err != nil {
		return err
	}
	j := &judge{c: p.c, q: p.c.question(r)}
	for _, one := range policies {
		if err := j.policy(ctx, one, bindings); err != nil {
			return err
		}
	}
	j.annotate()
	if len(j.denied) > 0 {
		return j.denied[0].status(r)
	}
	return nil
}

// judge gathers what the policies say about one request.
type judge struct {
	c       *Config
	q       *question
	denied  []*refusal
	audited []auditFailure
	notes   []note
}

// auditFailure is the form in which a failure stands in the audit log.
type auditFailure struct {
	Message           string                            `json:"message"`
	Policy            string                            `json:"policy"`
	Binding           string                            `json:"binding"`
	ExpressionIndex   int                               `json:"expressionIndex"`
	ValidationActions []registrationv1.ValidationAction `json:"validationActions"`
}

// note is an audit annotation; one key may have several values.
type note struct {
	key    string
	values []string
}

// closed: what the policy cannot judge is refused.
func (p *policy) closed() bool {
	return p.Spec.FailurePolicy == nil || *p.Spec.FailurePolicy == registrationv1.Fail
}

func (j *judge) policy(ctx context.Context, p *policy, bindings []*binding) error {
	broken := func(b *binding, what string, err error) {
		f := &refusal{policy: p.Name, message: fmt.Sprintf("failed to configure %s: %v", what, err)}
		if b != nil {
			f.binding = b.Name
		}
		if p.closed() {
			j.denied = append(j.denied, f)
		}
	}
	k, err := j.q.within(ctx, p.scope)
	if err != nil {
		broken(nil, "policy", err)
		return nil
	}
	if k == nil {
		return nil
	}
	for _, b := range bindings {
		if b.Spec.PolicyName != p.Name {
			continue
		}
		params, err := j.q.bound(ctx, b.inForce, p.Spec.ParamKind, b.Spec.ParamRef)
		if err != nil {
			broken(b, "binding", err)
			continue
		}
		if len(params) == 0 {
			continue
		}
		ns, err := j.q.namespaceObject(ctx)
		if err != nil {
			return err
		}
		for _, param := range params {
			j.evaluate(ctx, p, b, k, param, ns)
		}
	}
	return nil
}

// evaluate judges once: a policy by one binding with one parameter.
func (j *judge) evaluate(ctx context.Context, p *policy, b *binding, k *kinds.Kind, param runtime.Object, ns *corev1.Namespace) {
	x, at := p.rules(), j.q.attributes(k)
	failed := func(err error) {
		if p.closed() {
			j.refuse(b, &refusal{policy: p.Name, binding: b.Name, message: err.Error()})
		}
	}
	if x.conditions != nil {
		if m := x.conditions.Match(ctx, at, param, j.c.Authz); m.Error != nil {
			failed(m.Error)
			return
		} else if !m.Matches {
			return
		}
	}
	request := plugincel.CreateAdmissionRequest(at.Attributes, metav1.GroupVersionResource(k.GroupVersionResource()), metav1.GroupVersionKind(at.VersionedKind))
	bound := plugincel.OptionalVariableBindings{VersionedParams: param, Authorizer: j.c.Authz}
	results, left, err := x.validations.ForInput(ctx, at, request, bound, ns, celconfig.RuntimeCELCostBudget)
	if err != nil {
		failed(err)
		return
	}
	messages, _, merr := x.messages.ForInput(ctx, at, request, plugincel.OptionalVariableBindings{VersionedParams: param}, ns, left)
	for i, r := range results {
		switch v := &p.Spec.Validations[i]; {
		case r.Error != nil:
			failed(r.Error)
		case merr != nil:
			failed(fmt.Errorf("failed messageExpression: %w", merr))
		case r.EvalResult != celtypes.True:
			f := &refusal{policy: p.Name, binding: b.Name, index: i, message: message(v, messages[i])}
			if v.Reason != nil {
				f.reason = *v.Reason
			}
			j.refuse(b, f)
		}
	}
	j.remark(ctx, p, b, x, at, request, bound, ns)
}

// message of a validation that failed: computed, written, or the expression.
func message(v *registrationv1.Validation, computed plugincel.EvaluationResult) string {
	if computed.Error == nil && computed.EvalResult != nil {
		if text, ok := computed.EvalResult.Value().(string); ok {
			text = strings.TrimSpace(text)
			if text != "" && len(text) <= celconfig.MaxEvaluatedMessageExpressionSizeBytes && !strings.Contains(text, "\n") {
				return text
			}
		}
	}
	if text := strings.TrimSpace(v.Message); text != "" {
		return text
	}
	return "failed expression: " + strings.TrimSpace(v.Expression)
}

// refuse does what the binding wants for a failure.
func (j *judge) refuse(b *binding, f *refusal) {
	for _, action := range b.Spec.ValidationActions {
		switch action {
		case registrationv1.Deny:
			j.denied = append(j.denied, f)
		case registrationv1.Warn:
			warnAll(j.q.r, []string{fmt.Sprintf("Validation failed for ValidatingAdmissionPolicy '%s' with binding '%s': %s", f.policy, f.binding, f.message)})
		case registrationv1.Audit:
			if len(j.audited) < maxAuditFailures {
				j.audited = append(j.audited, auditFailure{f.message, f.policy, f.binding, f.index, b.Spec.ValidationActions})
			}
		}
	}
}

// remark gathers the policy's audit annotations.
func (j *judge) remark(ctx context.Context, p *policy, b *binding, x *rules, at *upstream.VersionedAttributes, request *reviewv1.AdmissionRequest,
	bound plugincel.OptionalVariableBindings, ns *corev1.Namespace) {
	results, _, err := x.annotations.ForInput(ctx, at, request, bound, ns, celconfig.RuntimeCELCostBudget)
	deny := func(err error) {
		if p.closed() {
			j.denied = append(j.denied, &refusal{policy: p.Name, binding: b.Name, message: err.Error()})
		}
	}
	if err != nil {
		deny(err)
		return
	}
	for i, r := range results {
		if r.Error != nil {
			deny(r.Error)
			continue
		}
		value, _ := r.EvalResult.Value().(string) // or null
		if value = strings.TrimSpace(value); value == "" {
			continue
		}
		key := p.Name + "/" + p.Spec.AuditAnnotations[i].Key
		value = strings.ToValidUTF8(value[:min(len(value), maxAuditValue)], "")
		n := slices.IndexFunc(j.notes, func(n note) bool { return n.key == key })
		if n < 0 {
			j.notes = append(j.notes, note{key: key})
			n = len(j.notes) - 1
		}
		if !slices.Contains(j.notes[n].values, value) {
			j.notes[n].values = append(j.notes[n].values, value)
		}
	}
}

// annotate tells the audit log.
func (j *judge) annotate() {
	r := j.q.r
	for _, n := range j.notes {
		r.note(r.Annotate, n.key, strings.Join(n.values, ", "))
	}
	if len(j.audited) > 0 {
		if data, err := json.Marshal(j.audited); err == nil {
			r.note(r.Annotate, failureAnnotation, string(data))
		}
	}
}
