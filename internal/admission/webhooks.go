package admission

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/expression"
	"knarr.dev/knarr/internal/kinds/validate"
	"knarr.dev/knarr/internal/view"
	"knarr.dev/knarr/internal/webhook"
)

// hook is one webhook of a configuration, ready to be asked.
type hook struct {
	registrationv1.MutatingWebhook // a validating one looks the same but for a field
	config, id                     string
	namespaces, objects            labels.Selector
	conditions                     func() matchconditions.Matcher // nil: none
}

// ready is all objects of a kind in the form in which they are used, by name,
// made anew only for what has changed.
type ready[T any] struct {
	read func() []kinds.Object
	make func(kinds.Object) (T, error)

	mu      sync.Mutex
	objects []kinds.Object
	made    []T
}

func (s *ready[T]) now() ([]T, error) {
	objects := s.read()
	if len(objects) == 0 {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(objects, s.objects) {
		made := make([]T, len(objects))
		for i, o := range objects {
			if j := slices.Index(s.objects, o); j >= 0 {
				made[i] = s.made[j]
				continue
			}
			var err error
			if made[i], err = s.make(o); err != nil {
				return nil, apierrors.NewInternalError(err)
			}
		}
		s.objects, s.made = objects, made
	}
	return s.made, nil
}

// reading returns the objects of one kind as they stand.
func reading[T kinds.Object](v *view.View, k *kinds.Kind) func() []kinds.Object {
	return func() []kinds.Object {
		list := view.NowList[T](v, k, "")
		if len(list) == 0 {
			return nil
		}
		out := make([]kinds.Object, len(list))
		for i, o := range list {
			out[i] = o
		}
		return out
	}
}

func hooksOf(config kinds.Object) ([]*hook, error) {
	var list []registrationv1.MutatingWebhook
	switch c := config.(type) {
	case *registrationv1.MutatingWebhookConfiguration:
		list = c.Webhooks
	case *registrationv1.ValidatingWebhookConfiguration:
		for i := range c.Webhooks {
			list = append(list, validate.Mutating(&c.Webhooks[i]))
		}
	}
	out := make([]*hook, len(list))
	for i, w := range list {
		h := &hook{MutatingWebhook: w, config: config.GetName(), id: config.GetName() + "/" + w.Name + "/" + strconv.Itoa(i)}
		var err error
		if h.namespaces, err = metav1.LabelSelectorAsSelector(w.NamespaceSelector); err != nil {
			return nil, err
		}
		if h.objects, err = metav1.LabelSelectorAsSelector(w.ObjectSelector); err != nil {
			return nil, err
		}
		if len(w.MatchConditions) > 0 {
			h.conditions = sync.OnceValue(func() matchconditions.Matcher {
				return matcher(w.MatchConditions, false, w.FailurePolicy, "webhook", w.Name)
			})
		}
		out[i] = h
	}
	return out, nil
}

func matcher(list []registrationv1.MatchCondition, params bool, failure *registrationv1.FailurePolicyType, of, name string) matchconditions.Matcher {
	var all []plugincel.ExpressionAccessor
	for i := range list {
		all = append(all, (*matchconditions.MatchCondition)(&list[i]))
	}
	vars := plugincel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}
	compiled := plugincel.NewConditionCompiler(expression.Env()).CompileCondition(all, vars, environment.StoredExpressions)
	return matchconditions.NewMatcher(compiled, failure, of, "admit", name)
}

// exempt requests are shown to no webhook: by the configurations of webhooks
// and policies the cluster is freed from a bad one.
func exempt(r *Request) bool {
	return r.Ref.Kind.GVK.Group == registrationv1.GroupName || review(r)
}

// review: the request asks who somebody is or what they may; who judged that
// could lock everybody out.
func review(r *Request) bool {
	switch r.Ref.Kind.GVK.Group {
	case "authentication.k8s.io", "authorization.k8s.io":
		return !r.Ref.Kind.Stored()
	}
	return false
}

// match says as which kind a webhook is to see the request, or nil: not at all.
func (c *Config) match(ctx context.Context, h *hook, q *question) (*kinds.Kind, error) {
	if !q.objectsMatch(h.objects) {
		return nil, nil
	}
	k := q.kindFor(h.MatchPolicy, len(h.Rules), func(i int, k *kinds.Kind) bool { return q.ruleMatches(&h.Rules[i], k) })
	if k == nil {
		return nil, nil
	}
	if ok, err := q.namespaceMatches(ctx, h.namespaces); !ok || err != nil {
		return nil, err
	}
	if err := q.prepare(ctx, k); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if h.conditions == nil {
		return k, nil
	}
	switch m := h.conditions().Match(ctx, q.attributes(k), nil, c.Authz); {
	case m.Error != nil:
		return nil, forbid(q.r, m.Error)
	case !m.Matches:
		return nil, nil
	}
	return k, nil
}

// callError: a webhook was not reached, or said nothing that can be understood.
type callError struct {
	name string
	err  error
}

func (e *callError) Error() string {
	return fmt.Sprintf("failed calling webhook %q: %v", e.name, e.err)
}
func (e *callError) Unwrap() error { return e.err }

// ask calls one webhook. Errors are *callError, or what the client is told.
func (c *Config) ask(ctx context.Context, h *hook, q *question, k *kinds.Kind, mutating bool) (*reply, error) {
	began := time.Now()
	out, err := c.call(ctx, h, q, k, mutating)
	c.calls.told(h, q.r, mutating, out, err, time.Since(began))
	return out, err
}

func (c *Config) call(ctx context.Context, h *hook, q *question, k *kinds.Kind, mutating bool) (*reply, error) {
	if s := h.SideEffects; q.r.DryRun && (s == nil || *s != registrationv1.SideEffectClassNone && *s != registrationv1.SideEffectClassNoneOnDryRun) {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("admission webhook %q does not support dry run", h.Name))
	}
	failed := func(format string, err error) (*reply, error) {
		return nil, &callError{h.Name, fmt.Errorf(format, err)}
	}
	body, uid, version, err := q.review(k, h.AdmissionReviewVersions)
	if err != nil {
		return failed("could not create admission objects: %w", err)
	}
	to := webhook.Hook{CABundle: h.ClientConfig.CABundle, Longest: maxReview}
	if h.ClientConfig.URL != nil {
		to.URL = *h.ClientConfig.URL
	}
	if s := h.ClientConfig.Service; s != nil {
		to.Service = &webhook.Service{Namespace: s.Namespace, Name: s.Name}
		if s.Path != nil {
			to.Service.Path = *s.Path
		}
		if s.Port != nil {
			to.Service.Port = *s.Port
		}
	}
	timeout := defaultTimeout
	if h.TimeoutSeconds != nil {
		timeout = time.Duration(*h.TimeoutSeconds) * time.Second
	}
	ctx, end := c.span(ctx, h, q, mutating)
	answer, err := c.Webhooks.Call(ctx, to, timeout, body)
	end()
	if err != nil {
		return failed("failed to call webhook: %w", err)
	}
	out, err := readReply(answer, uid, version, mutating)
	if err != nil {
		return failed("received invalid webhook response: %w", err)
	}
	return out, nil
}

// span of a call, within that of the request, if this has one.
func (c *Config) span(ctx context.Context, h *hook, q *question, mutating bool) (context.Context, func()) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, func() {}
	}
	name := "Call validating webhook"
	if mutating {
		name = "Call mutating webhook"
	}
	ref := q.r.Ref
	ctx, span := parent.TracerProvider().Tracer("k8s.io/component-base/tracing").Start(ctx, name, trace.WithAttributes(attribute.String("webhook", h.Name),
		attribute.String("resource", ref.Kind.GroupVersionResource().String()), attribute.String("subresource", ref.Sub), attribute.String("operation", string(q.r.Operation))))
	return ctx, func() { span.End() }
}

// maxReview bounds a webhook's answer, in bytes: twice what a patch takes, in
// base64, that writes the largest object anew.
const maxReview = 8 << 20

// defaultTimeout is what defaulting gives to a webhook that names none.
const defaultTimeout = 10 * time.Second

// settle decides what the failure of a call means; nil: go on without it, which
// stands in the audit log under key.
func (c *Config) settle(ctx context.Context, h *hook, r *Request, key string, err error) error {
	var call *callError
	if !errors.As(err, &call) {
		return err
	}
	if h.FailurePolicy == nil || *h.FailurePolicy != registrationv1.Ignore {
		return apierrors.NewInternalError(call)
	}
	c.Log.Warn("a webhook failed and is passed over", "webhook", h.Name, "error", call.err)
	if !errors.Is(call.err, context.Canceled) {
		r.note(r.Annotate, failedOpen+key, h.Name)
	}
	if ctx.Err() != nil {
		return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
	}
	return nil
}

// denied is what the client is told when a webhook says no.
func denied(name string, s *metav1.Status) error {
	out := metav1.Status{}
	if s != nil {
		out = *s
	}
	if out.Code < http.StatusBadRequest {
		out.Code = http.StatusBadRequest
	}
	if out.Status == "" || out.Status == metav1.StatusSuccess {
		out.Status = metav1.StatusFailure
	}
	by := fmt.Sprintf("admission webhook %q denied the request", name)
	switch {
	case out.Message != "":
		out.Message = by + ": " + out.Message
	case out.Reason != "":
		out.Message = by + ": " + string(out.Reason)
	default:
		out.Message = by + " without explanation"
	}
	return &apierrors.StatusError{ErrStatus: out}
}

// mutatingWebhooks lets users' servers complete objects, one after the other.
type mutatingWebhooks struct {
	c     *Config
	hooks *ready[[]*hook] // of each configuration
}

func (mutatingWebhooks) Name() string { return "MutatingAdmissionWebhook" }

func (mutatingWebhooks) Validate(context.Context, *Request) error { return nil }

func (p mutatingWebhooks) Mutate(ctx context.Context, r *Request) error {
	sets, err := p.hooks.now()
	if err != nil || len(sets) == 0 || exempt(r) {
		return err
	}
	if r.rounds == nil {
		r.rounds = newRounds()
	}
	s := r.rounds
	if r.second && s.last != nil && !equality.Semantic.DeepEqual(s.last, r.Object) {
		s.changed()
	}
	q := p.c.question(r)
	for i, h := range slices.Concat(sets...) {
		if r.second && !s.again[h.id] {
			continue // who was not asked is not asked now
		}
		k, err := p.c.match(ctx, h, q)
		if err != nil {
			return err
		}
		if k == nil {
			continue
		}
		changed, err := p.apply(ctx, h, q, k, i)
		r.noteMutation(h, i, changed)
		if err = p.c.settle(ctx, h, r, mutationNote+r.round(i), err); err != nil {
			return err
		}
		if changed {
			s.changed()
			r.Patched = true
		}
		if h.ReinvocationPolicy != nil && *h.ReinvocationPolicy == registrationv1.IfNeededReinvocationPolicy {
			s.invoked[h.id] = true
		}
	}
	if r.Patched && r.Object != nil {
		s.last = r.Object.DeepCopyObject()
	}
	return nil
}

// apply asks one webhook, the i-th, and does what it says.
func (p mutatingWebhooks) apply(ctx context.Context, h *hook, q *question, k *kinds.Kind, i int) (changed bool, err error) {
	defer q.r.waiting()()
	a, err := p.c.ask(ctx, h, q, k, true)
	if err != nil {
		return false, err
	}
	a.tell(h, q.r)
	if !a.allowed {
		return false, denied(h.Name, a.result)
	}
	if len(a.patch) == 0 {
		return false, nil
	}
	ops, err := codec.DecodePatch(a.patch)
	if err != nil {
		return false, &callError{h.Name, fmt.Errorf("received undecodable patch in webhook response: %w", err)}
	}
	switch {
	case len(ops) == 0:
		return false, nil
	case q.r.Object == nil:
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", h.Name))
	case a.patchType != "JSONPatch":
		return false, &callError{h.Name, fmt.Errorf("unsupported patch type %q", a.patchType)}
	}
	if changed, err = q.patch(ctx, k, ops); err != nil {
		return false, apierrors.NewInternalError(err)
	}
	q.r.notePatch(h, i, ops)
	return changed, nil
}

// validatingWebhooks lets users' servers judge objects, all at once.
type validatingWebhooks struct {
	c     *Config
	hooks *ready[[]*hook] // of each configuration
}

func (validatingWebhooks) Name() string { return "ValidatingAdmissionWebhook" }

func (validatingWebhooks) Mutate(context.Context, *Request) error { return nil }

func (p validatingWebhooks) Validate(ctx context.Context, r *Request) error {
	sets, err := p.hooks.now()
	if err != nil || len(sets) == 0 || exempt(r) {
		return err
	}
	q := p.c.question(r)
	type asked struct {
		h     *hook
		k     *kinds.Kind
		reply *reply
		err   error
	}
	var all []*asked
	for _, h := range slices.Concat(sets...) {
		k, err := p.c.match(ctx, h, q)
		if err != nil {
			return err
		}
		if k != nil {
			q.shown(k) // while nobody else looks
			all = append(all, &asked{h: h, k: k})
		}
	}
	if len(all) > 0 && ctx.Err() != nil { // nobody waits for the answers
		return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
	}
	waited := r.waiting()
	var wg sync.WaitGroup
	for _, a := range all {
		wg.Go(func() { a.reply, a.err = p.c.ask(ctx, a.h, q, a.k, false) })
	}
	wg.Wait()
	waited()
	for _, a := range all {
		if a.reply != nil {
			a.reply.tell(a.h, r)
		}
	}
	for i, a := range all {
		switch {
		case a.err != nil:
			if err := p.c.settle(ctx, a.h, r, validatingNote+fmt.Sprintf("round_0_index_%d", i), a.err); err != nil {
				return err
			}
		case !a.reply.allowed:
			return denied(a.h.Name, a.reply.result)
		}
	}
	return nil
}
