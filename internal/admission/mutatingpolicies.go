package admission

import (
	"context"
	"errors"
	"fmt"
	"sync"

	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/expression"
)

// mutatingPolicy is a MutatingAdmissionPolicy, ready for use.
type mutatingPolicy struct {
	*registrationv1.MutatingAdmissionPolicy
	scope   *scope
	changes func() *changes
}

// changes are a policy's expressions, compiled.
type changes struct {
	prelude
	mutations []mutation
}

type mutation struct {
	plugincel.MutatingEvaluator
	patch registrationv1.PatchType
}

// mutatingBinding puts a policy in force.
type mutatingBinding struct {
	*registrationv1.MutatingAdmissionPolicyBinding
	inForce
}

func mutatingPolicyOf(o kinds.Object) (*mutatingPolicy, error) {
	p := o.(*registrationv1.MutatingAdmissionPolicy)
	s, err := scopeOf(p.Spec.MatchConstraints)
	return &mutatingPolicy{p, s, sync.OnceValue(func() *changes { return changesOf(p) })}, err
}

func mutatingBindingOf(o kinds.Object) (*mutatingBinding, error) {
	b := o.(*registrationv1.MutatingAdmissionPolicyBinding)
	f, err := inForceOf(b.Spec.MatchResources, b.Spec.ParamRef)
	return &mutatingBinding{b, f}, err
}

func changesOf(p *registrationv1.MutatingAdmissionPolicy) *changes {
	s := &p.Spec
	out := &changes{prelude: preludeOf(p.Name, s.ParamKind, s.Variables, s.MatchConditions, s.FailurePolicy)}
	compiler, vars := expression.Compiler(), out.declared
	if out.variables != nil {
		compiler = out.variables
	}
	vars.HasPatchTypes = true
	for _, m := range s.Mutations {
		var x plugincel.ExpressionAccessor
		switch {
		case m.PatchType == registrationv1.PatchTypeJSONPatch && m.JSONPatch != nil:
			x = expression.JSONPatch(m.JSONPatch.Expression)
		case m.PatchType == registrationv1.PatchTypeApplyConfiguration && m.ApplyConfiguration != nil:
			x = expression.ApplyConfiguration(m.ApplyConfiguration.Expression)
		default:
			continue // validation lets no other in
		}
		out.mutations = append(out.mutations, mutation{plugincel.NewMutatingEvaluator(compiler.CompileCELExpression(x, vars, environment.StoredExpressions)), m.PatchType})
	}
	return out
}

// hindrance is why a policy could not do its work.
type hindrance struct {
	policy  *mutatingPolicy
	binding *mutatingBinding // nil: it is not for one alone
	reason  metav1.StatusReason
	err     error
}

func (h *hindrance) Error() string {
	if h.binding == nil {
		return fmt.Sprintf("policy %q denied request: %v", h.policy.Name, h.err)
	}
	return fmt.Sprintf("policy '%s' with binding '%s' denied request: %v", h.policy.Name, h.binding.Name, h.err)
}

// mutatingPolicies completes objects by the policies that users wrote.
type mutatingPolicies struct {
	c        *Config
	policies *ready[*mutatingPolicy]
	bindings *ready[*mutatingBinding]
}

func (mutatingPolicies) Name() string { return "MutatingAdmissionPolicy" }

func (mutatingPolicies) Validate(context.Context, *Request) error { return nil }

func (p mutatingPolicies) Mutate(ctx context.Context, r *Request) error {
	bindings, err := p.bindings.now()
	if err != nil || len(bindings) == 0 || r.Operation == Delete || ownPolicy(r) {
		return err
	}
	policies, err := p.policies.now()
	if err != nil {
		return err
	}
	m := &mutator{c: p.c, q: p.c.question(r)}
	for _, one := range policies {
		m.gather(ctx, one, bindings)
	}
	if len(m.uses) > 0 {
		if err := m.run(ctx); err != nil {
			return err
		}
	}
	return m.outcome()
}

// mutator lets all policies that match work on one request.
type mutator struct {
	c        *Config
	q        *question
	uses     []use
	hindered []*hindrance
}

// use of a policy: by one binding, with one parameter.
type use struct {
	policy  *mutatingPolicy
	binding *mutatingBinding
	kind    *kinds.Kind // as which the policy sees the request
	param   runtime.Object
}

// key tells whether the same use was made before.
func (u *use) key() string {
	key := u.policy.Name + "/" + u.binding.Name
	if o, ok := u.param.(metav1.Object); ok {
		key += "/" + o.GetNamespace() + "/" + o.GetName()
	}
	return key
}

func (m *mutator) hinder(p *mutatingPolicy, b *mutatingBinding, reason metav1.StatusReason, err error) {
	m.hindered = append(m.hindered, &hindrance{p, b, reason, err})
}

// gather finds out how a policy is to be used, before any has changed the object.
func (m *mutator) gather(ctx context.Context, p *mutatingPolicy, bindings []*mutatingBinding) {
	k, err := m.q.within(ctx, p.scope)
	if err != nil {
		m.hinder(p, nil, "", fmt.Errorf("failed to configure policy: %w", err))
		return
	}
	if k == nil {
		return
	}
	for _, b := range bindings {
		if b.Spec.PolicyName != p.Name {
			continue
		}
		params, err := m.q.bound(ctx, b.inForce, p.Spec.ParamKind, b.Spec.ParamRef)
		if err != nil {
			m.hinder(p, b, "", fmt.Errorf("failed to configure binding: %w", err))
			continue
		}
		for _, param := range params {
			m.uses = append(m.uses, use{p, b, k, param})
		}
	}
}

// run makes the changes, each on what the one before it has left.
func (m *mutator) run(ctx context.Context) error {
	r := m.q.r
	ns, err := m.q.namespaceObject(ctx)
	if err != nil {
		return err
	}
	if r.policies == nil {
		r.policies = newRounds()
	}
	s := r.policies
	if r.second && s.last != nil && !equality.Semantic.DeepEqual(s.last, r.Object) {
		s.changed()
	}
	patched := false
	for i := range m.uses {
		u := &m.uses[i]
		if ok, err := m.wanted(ctx, u); err != nil {
			return err
		} else if !ok {
			continue
		}
		changed, err := m.apply(ctx, u, ns)
		if err != nil {
			return err
		}
		if changed {
			patched, r.Patched = true, true
			s.changed()
		}
		if u.policy.Spec.ReinvocationPolicy == registrationv1.IfNeededReinvocationPolicy {
			s.invoked[u.key()] = true
		}
	}
	if patched {
		s.changed() // upstream: those who made the changes are asked again, too
	}
	if len(s.invoked)+len(s.again) > 0 && r.Object != nil {
		s.last = r.Object.DeepCopyObject()
	}
	return nil
}

// wanted: the policy's conditions hold, and it is its turn.
func (m *mutator) wanted(ctx context.Context, u *use) (bool, error) {
	if err := m.q.prepare(ctx, u.kind); err != nil {
		return false, apierrors.NewInternalError(err)
	}
	if c := u.policy.changes().conditions; c != nil {
		switch result := c.Match(ctx, m.q.attributes(u.kind), u.param, m.c.Authz); {
		case result.Error != nil:
			m.hinder(u.policy, u.binding, metav1.StatusReasonInvalid, result.Error)
			return false, nil
		case !result.Matches:
			return false, nil
		}
	}
	// Who was not asked in the first round is not asked in the second.
	return !m.q.r.second || m.q.r.policies.again[u.key()], nil
}

// apply makes the changes of one policy. Errors are for the client; others are
// noted.
func (m *mutator) apply(ctx context.Context, u *use, ns *corev1.Namespace) (changed bool, err error) {
	x := u.policy.changes()
	if x.variables != nil {
		ctx = x.variables.CreateContext(ctx)
	}
	for i := range x.mutations {
		if m.q.r.Object == nil {
			break
		}
		if err := m.q.prepare(ctx, u.kind); err != nil {
			return changed, apierrors.NewInternalError(err)
		}
		one, err := m.change(ctx, u, &x.mutations[i], ns)
		var told *apierrors.StatusError
		switch {
		case errors.As(err, &told):
			return changed, told
		case err != nil:
			m.hinder(u.policy, u.binding, metav1.StatusReasonInvalid, err)
		}
		changed = changed || one
	}
	return changed, nil
}

// change evaluates one expression and does what it says.
func (m *mutator) change(ctx context.Context, u *use, x *mutation, ns *corev1.Namespace) (bool, error) {
	if bad := x.CompilationErrors(); len(bad) > 0 {
		return false, errors.Join(bad...)
	}
	at := m.q.attributes(u.kind)
	request := plugincel.CreateAdmissionRequest(at.Attributes, metav1.GroupVersionResource(u.kind.GroupVersionResource()), metav1.GroupVersionKind(at.VersionedKind))
	result, _, err := x.ForInput(ctx, at, request, plugincel.OptionalVariableBindings{VersionedParams: u.param, Authorizer: m.c.Authz}, ns, celconfig.RuntimeCELCostBudget)
	if err == nil {
		err = result.Error
	}
	if err != nil {
		return false, err
	}
	if x.patch == registrationv1.PatchTypeJSONPatch {
		ops, err := operations(result.EvalResult)
		if err != nil {
			return false, err
		}
		return m.q.patchStrictly(ctx, u.kind, ops)
	}
	config, err := configuration(result.EvalResult)
	if err != nil {
		return false, err
	}
	changed, err := m.q.merge(ctx, u.kind, config)
	if err != nil {
		return false, fmt.Errorf("error applying patch: %w", err)
	}
	return changed, nil
}

// outcome is what the client is told of policies that could not work and must.
func (m *mutator) outcome() error {
	var out *apierrors.StatusError
	for _, h := range m.hindered {
		if p := h.policy.Spec.FailurePolicy; p != nil && *p == registrationv1.Ignore {
			continue
		}
		if out == nil {
			out = forbid(m.q.r, h)
			out.ErrStatus.Message = h.Error()
			out.ErrStatus.Details.Causes = nil
			if h.reason != "" {
				out.ErrStatus.Reason = h.reason
			}
		}
		out.ErrStatus.Details.Causes = append(out.ErrStatus.Details.Causes, metav1.StatusCause{Message: h.Error()})
	}
	if out == nil {
		return nil
	}
	return out
}
