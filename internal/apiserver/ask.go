package apiserver

import (
	"fmt"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

func gvkOf(obj runtime.Object) (schema.GroupVersionKind, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return u.GroupVersionKind(), nil
	}
	gvks, _, err := codec.Scheme().ObjectKinds(obj)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	return gvks[0], nil
}

// ask answers a create whose body is a question or an order instead of an
// object: reviews, bindings, evictions, tokens. obj is the callee's to change.
func (s *Server) ask(c *call, obj runtime.Object) (runtime.Object, error) {
	if err := s.admitAsked(c, obj); err != nil {
		return nil, err
	}
	switch o := obj.(type) {
	case *corev1.Binding:
		return s.bind(c, o)
	case *policyv1.Eviction:
		return s.evict(c, o)
	case *authenticationv1.TokenRequest:
		return s.issueToken(c, o)
	}
	return s.review(c, obj)
}

// admitAsked defaults and judges the body of a question or an order, and runs
// admission over it.
func (s *Server) admitAsked(c *call, obj runtime.Object) error {
	k, gvk := c.ref.Kind, c.ref.Kind.GVK
	sub := k.Subresources[c.ref.Sub]
	if c.ref.Sub != "" {
		gvk = sub.GVK
	}
	if m, ok := obj.(metav1.Object); ok {
		if m.GetNamespace() != "" && m.GetNamespace() != c.ref.Namespace {
			return errNamespace()
		}
		m.SetNamespace(c.ref.Namespace)
		m.SetManagedFields(nil)
		if c.ref.Sub != "" && m.GetName() != "" && m.GetName() != c.ref.Name {
			if gvk.Kind == "TokenRequest" {
				return apierrors.NewInvalid(gvk.GroupKind(), c.ref.Name, field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), m.GetName(), "must match the service account name if specified")})
			}
			return badRequest("name in URL does not match name in %s object", gvk.Kind)
		}
	}
	if sub.DefaultBody != nil {
		sub.DefaultBody(obj)
	}
	req := c.request(admission.Create, obj, nil)
	if err := s.mutate(c.ctx, req); err != nil {
		return err
	}
	var errs field.ErrorList
	if c.ref.Sub != "" && sub.ValidateBody != nil {
		errs = sub.ValidateBody(obj)
	} else if o, ok := obj.(kinds.Object); ok && c.ref.Sub == "" && k.Validate != nil {
		errs = k.Validate(o)
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(gvk.GroupKind(), c.ref.Name, errs)
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
	_, _, err := s.modify(c, func(old kinds.Object) (change, error) {
		pod := old.DeepCopyObject().(*corev1.Pod)
		conflict := func(format string, args ...any) (change, error) {
			return change{}, apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, pod.Name, fmt.Errorf(format, args...))
		}
		switch {
		case b.UID != "" && b.UID != pod.UID:
			return conflict("Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, pod.UID)
		case b.ResourceVersion != "" && b.ResourceVersion != pod.ResourceVersion:
			return conflict("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", b.ResourceVersion, pod.ResourceVersion)
		case pod.DeletionTimestamp != nil:
			return conflict("pod %s is being deleted, cannot be assigned to a host", pod.Name)
		case pod.Spec.NodeName != "":
			return conflict("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
		case len(pod.Spec.SchedulingGates) > 0:
			return conflict("pod %v has non-empty .spec.schedulingGates", pod.Name)
		}
		pod.Spec.NodeName = b.Target.Name
		pod.Status.NominatedNodeName = "" // it has its node
		for k, v := range b.Annotations {
			metav1.SetMetaDataAnnotation(&pod.ObjectMeta, k, v)
		}
		for k, v := range b.Labels {
			metav1.SetMetaDataLabel(&pod.ObjectMeta, k, v)
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

func (s *Server) issueToken(c *call, r *authenticationv1.TokenRequest) (runtime.Object, error) {
	if s.cfg.IssueToken == nil {
		return nil, statusError(http.StatusNotImplemented, metav1.StatusReasonInternalError, "this server issues no tokens")
	}
	if _, err := s.lookup(c.ctx, c.ref, false); err != nil {
		return nil, err
	}
	r.Status = authenticationv1.TokenRequestStatus{}
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
	whole.verb, whole.scale, whole.owned = "patch", sc, true
	obj, err := s.update(&whole, func(old kinds.Object) (kinds.Object, error) {
		present := scaleOf(sc, old)
		managed := s.fields.OfScale(c.ref.Kind, old)
		present.ManagedFields = managed.Entries()
		o, err := next(present)
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
		if want.Namespace != "" && want.Namespace != c.ref.Namespace {
			return nil, errNamespace()
		}
		if want.ResourceVersion != "" && want.ResourceVersion != old.GetResourceVersion() {
			return nil, modified(c.ref)
		}
		if want.UID != "" && want.UID != old.GetUID() {
			return nil, wrongUID(c.ref, want.UID, old.GetUID())
		}
		if sub := c.ref.Kind.Subresources[c.ref.Sub]; sub.ValidateBody != nil {
			if errs := sub.ValidateBody(want); len(errs) > 0 {
				return nil, apierrors.NewInvalid(sub.GVK.GroupKind(), c.ref.Name, errs)
			}
		}
		s.own(c, present, want)
		obj := old.DeepCopyObject().(kinds.Object)
		sc.Set(obj, want.Spec.Replicas)
		return obj, managed.Join(obj, want)
	})
	if err != nil {
		return nil, err
	}
	return scaleOf(sc, obj), nil
}
