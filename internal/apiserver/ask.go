package apiserver

import (
	"fmt"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

func gvkOf(obj runtime.Object) (schema.GroupVersionKind, error) {
	gvks, _, err := codec.Scheme().ObjectKinds(obj)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	return gvks[0], nil
}

// ask answers a create whose body is a question or an order instead of an
// object: reviews, bindings, evictions, tokens. obj is the callee's to change.
func (s *Server) ask(c *call, obj runtime.Object) (runtime.Object, error) {
	switch o := obj.(type) {
	case *corev1.Binding:
		return s.bind(c, o)
	case *policyv1.Eviction:
		return s.evict(c, o)
	case *authenticationv1.TokenRequest:
		return s.issueToken(c, o)
	case *authenticationv1.TokenReview:
		if s.cfg.ReviewToken == nil {
			return nil, pathNotFound()
		}
		return o, s.cfg.ReviewToken(c.ctx, o)
	case *authenticationv1.SelfSubjectReview:
		o.Status.UserInfo = userInfo(c.user)
		return o, nil
	case *authorizationv1.SubjectAccessReview:
		return o, s.reviewAccess(c, &o.Spec, &o.Status)
	case *authorizationv1.LocalSubjectAccessReview:
		if o.Spec.ResourceAttributes == nil || o.Spec.ResourceAttributes.Namespace != c.ref.Namespace {
			return nil, invalid(c.ref.Kind, "", field.ErrorList{field.Invalid(field.NewPath("spec", "resourceAttributes", "namespace"), "", "must match metadata.namespace")})
		}
		return o, s.reviewAccess(c, &o.Spec, &o.Status)
	case *authorizationv1.SelfSubjectAccessReview:
		if err := checkReview(c.ref.Kind, o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes); err != nil {
			return nil, err
		}
		s.decide(c, reviewed(c.user, o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes), &o.Status)
		return o, nil
	case *authorizationv1.SelfSubjectRulesReview:
		return s.rules(c, o)
	}
	return nil, pathNotFound()
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if out.Extra == nil {
			out.Extra = map[string]authenticationv1.ExtraValue{}
		}
		out.Extra[k] = v
	}
	return out
}

func checkReview(k *kinds.Kind, r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) error {
	path := field.NewPath("spec", "resourceAttributes")
	if r != nil && n != nil {
		return invalid(k, "", field.ErrorList{field.Invalid(field.NewPath("spec", "nonResourceAttributes"), "", "cannot be specified in combination with resourceAttributes")})
	}
	if r == nil && n == nil {
		return invalid(k, "", field.ErrorList{field.Invalid(path, "", "exactly one of nonResourceAttributes or resourceAttributes must be specified")})
	}
	return nil
}

func (s *Server) reviewAccess(c *call, spec *authorizationv1.SubjectAccessReviewSpec, status *authorizationv1.SubjectAccessReviewStatus) error {
	if err := checkReview(c.ref.Kind, spec.ResourceAttributes, spec.NonResourceAttributes); err != nil {
		return err
	}
	if spec.User == "" && len(spec.Groups) == 0 {
		return invalid(c.ref.Kind, "", field.ErrorList{field.Invalid(field.NewPath("spec", "user"), "", "at least one of user or group must be specified")})
	}
	u := &user.DefaultInfo{Name: spec.User, UID: spec.UID, Groups: spec.Groups, Extra: map[string][]string{}}
	for k, v := range spec.Extra {
		u.Extra[k] = v
	}
	s.decide(c, reviewed(u, spec.ResourceAttributes, spec.NonResourceAttributes), status)
	return nil
}

func reviewed(u user.Info, r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) authorizer.AttributesRecord {
	if n != nil {
		return authorizer.AttributesRecord{User: u, Verb: n.Verb, Path: n.Path}
	}
	return authorizer.AttributesRecord{User: u, Verb: r.Verb, Namespace: r.Namespace, APIGroup: r.Group, APIVersion: r.Version,
		Resource: r.Resource, Subresource: r.Subresource, Name: r.Name, ResourceRequest: true}
}

func (s *Server) decide(c *call, a authorizer.AttributesRecord, status *authorizationv1.SubjectAccessReviewStatus) {
	decision, reason, err := s.cfg.Authz.Authorize(c.ctx, a)
	status.Allowed, status.Denied, status.Reason = decision == authorizer.DecisionAllow, decision == authorizer.DecisionDeny, reason
	if err != nil {
		status.EvaluationError = err.Error()
	}
}

func (s *Server) rules(c *call, o *authorizationv1.SelfSubjectRulesReview) (runtime.Object, error) {
	if s.cfg.Rules == nil {
		return nil, pathNotFound()
	}
	if o.Spec.Namespace == "" {
		return nil, badRequest("no namespace on request")
	}
	resources, others, incomplete, err := s.cfg.Rules.RulesFor(c.ctx, c.user, o.Spec.Namespace)
	o.Status = authorizationv1.SubjectRulesReviewStatus{Incomplete: incomplete, ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}}
	for _, r := range resources {
		o.Status.ResourceRules = append(o.Status.ResourceRules, authorizationv1.ResourceRule{Verbs: r.GetVerbs(), APIGroups: r.GetAPIGroups(), Resources: r.GetResources(), ResourceNames: r.GetResourceNames()})
	}
	for _, r := range others {
		o.Status.NonResourceRules = append(o.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: r.GetVerbs(), NonResourceURLs: r.GetNonResourceURLs()})
	}
	if err != nil {
		o.Status.EvaluationError = err.Error()
	}
	return o, nil
}

// admitAsked runs admission over the body of an order.
func (s *Server) admitAsked(c *call, obj runtime.Object) error {
	req := &admission.Request{User: c.user, Operation: admission.Create, Ref: c.ref, Object: obj, DryRun: c.dryRun, Warn: c.warn}
	if err := s.mutate(c.ctx, req); err != nil {
		return err
	}
	return s.validate(c.ctx, req)
}

func success() *metav1.Status {
	return &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: http.StatusCreated}
}

// bind gives a pod its node, once.
func (s *Server) bind(c *call, b *corev1.Binding) (runtime.Object, error) {
	if c.ref.Sub == "" { // the old collection /bindings
		c.ref = kinds.Ref{Kind: kinds.Pod, Namespace: c.ref.Namespace, Name: b.Name, Sub: "binding"}
	}
	if b.Name != "" && b.Name != c.ref.Name {
		return nil, badRequest("name in URL does not match name in Binding object")
	}
	var errs field.ErrorList
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Binding").GroupKind(), c.ref.Name, errs)
	}
	if err := s.admitAsked(c, b); err != nil {
		return nil, err
	}
	_, _, err := s.modify(c, func(old kinds.Object) (change, error) {
		pod := old.DeepCopyObject().(*corev1.Pod)
		conflict := func(format string, args ...any) (change, error) {
			return change{}, apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, pod.Name, fmt.Errorf(format, args...))
		}
		switch {
		case b.UID != "" && b.UID != pod.UID:
			return conflict("Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, pod.UID)
		case pod.DeletionTimestamp != nil:
			return conflict("pod %s is being deleted, cannot be assigned to a host", pod.Name)
		case pod.Spec.NodeName != "":
			return conflict("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
		case len(pod.Spec.SchedulingGates) > 0:
			return conflict("pod %v has non-empty .spec.schedulingGates", pod.Name)
		}
		pod.Spec.NodeName = b.Target.Name
		for k, v := range b.Annotations {
			metav1.SetMetaDataAnnotation(&pod.ObjectMeta, k, v)
		}
		setScheduled(pod, metav1.NewTime(s.now()))
		return change{obj: pod}, nil
	})
	if err != nil {
		return nil, err
	}
	return success(), nil
}

func setScheduled(pod *corev1.Pod, now metav1.Time) {
	want := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: now}
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodScheduled {
			pod.Status.Conditions[i] = want
			return
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, want)
}

// evict deletes a pod on behalf of a drain. There are no disruption budgets
// yet that could forbid it.
func (s *Server) evict(c *call, e *policyv1.Eviction) (runtime.Object, error) {
	if e.Name != "" && e.Name != c.ref.Name {
		return nil, badRequest("name in URL does not match name in Eviction object")
	}
	if err := s.admitAsked(c, e); err != nil {
		return nil, err
	}
	opts := e.DeleteOptions
	if opts == nil {
		opts = &metav1.DeleteOptions{}
	}
	one := *c
	one.ref.Sub = ""
	one.dryRun = c.dryRun || len(opts.DryRun) > 0
	if _, _, err := s.delete(&one, opts); err != nil {
		return nil, err
	}
	return success(), nil
}

func (s *Server) issueToken(c *call, r *authenticationv1.TokenRequest) (runtime.Object, error) {
	if s.cfg.IssueToken == nil {
		return nil, pathNotFound()
	}
	if _, err := s.lookup(c.ctx, c.ref, false); err != nil {
		return nil, err
	}
	if err := s.admitAsked(c, r); err != nil {
		return nil, err
	}
	r.Name, r.Namespace, r.CreationTimestamp = c.ref.Name, c.ref.Namespace, metav1.NewTime(s.now())
	if c.dryRun {
		return r, nil
	}
	return r, s.cfg.IssueToken(c.ctx, c.ref.Namespace, c.ref.Name, r)
}

// scaleOf shows an object's replicas.
func scaleOf(sc *kinds.Scale, o kinds.Object) *autoscalingv1.Scale {
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: o.GetName(), Namespace: o.GetNamespace(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(), CreationTimestamp: o.GetCreationTimestamp()},
		Spec:       autoscalingv1.ScaleSpec{Replicas: sc.Spec(o)},
		Status:     autoscalingv1.ScaleStatus{Replicas: sc.Status(o), Selector: sc.Selector(o)},
	}
}

// updateScale writes the replicas of what next makes of the present Scale, as
// an update of the object itself.
func (s *Server) updateScale(c *call, sc *kinds.Scale, next func(old runtime.Object) (runtime.Object, error)) (runtime.Object, error) {
	whole := *c
	whole.ref.Sub = ""
	whole.verb = "patch"
	obj, err := s.update(&whole, func(old kinds.Object) (kinds.Object, error) {
		o, err := next(scaleOf(sc, old))
		if err != nil {
			return nil, err
		}
		want, ok := o.(*autoscalingv1.Scale)
		if !ok {
			return nil, badRequest("wrong object passed to Scale update: %T", o)
		}
		if want.Name != "" && want.Name != c.ref.Name {
			return nil, badRequest("the name of the object (%s) does not match the name on the URL (%s)", want.Name, c.ref.Name)
		}
		if want.ResourceVersion != "" && want.ResourceVersion != old.GetResourceVersion() {
			return nil, modified(c.ref)
		}
		if want.Spec.Replicas < 0 {
			return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), c.ref.Name,
				field.ErrorList{field.Invalid(field.NewPath("spec", "replicas"), want.Spec.Replicas, "must be greater than or equal to 0")})
		}
		obj := old.DeepCopyObject().(kinds.Object)
		sc.Set(obj, want.Spec.Replicas)
		return obj, nil
	})
	if err != nil {
		return nil, err
	}
	return scaleOf(sc, obj), nil
}
