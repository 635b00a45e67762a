package apiserver

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/kinds"
)

// delete removes the object, or marks it for those who finish the deletion:
// the kubelet (grace period) and the owners of finalizers. removed says which.
func (s *Server) delete(c *call, opts *metav1.DeleteOptions) (obj kinds.Object, removed bool, err error) {
	if err := checkDeleteOptions(opts); err != nil {
		return nil, false, err
	}
	if isUnsafe(opts) {
		err := s.deleteUnreadable(c)
		return nil, err == nil, err
	}
	k := c.ref.Kind
	if k.StoredAs != nil {
		k = k.StoredAs
	}
	obj, removed, err = s.modify(c, func(old kinds.Object) (change, error) {
		if err := preconditions(c.ref, old, opts.Preconditions); err != nil {
			return change{}, err
		}
		if c.admitted {
			return s.planDelete(k, old, opts), nil
		}
		req := c.request(admission.Delete, nil, old)
		req.Delete = opts
		if err := s.mutate(c.ctx, req); err != nil {
			return change{}, err
		}
		if err := s.validate(c.ctx, req); err != nil {
			return change{}, err
		}
		return s.planDelete(k, old, opts), nil
	})
	if err != nil {
		return nil, false, err
	}
	return s.shown(c.ref.Kind, obj), removed, nil
}

func checkDeleteOptions(o *metav1.DeleteOptions) error {
	if errs := metavalidation.ValidateDeleteOptions(o); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", errs)
	}
	return nil
}

// preconditions of a deletion; upstream names the kind where others name the
// resource.
func preconditions(ref kinds.Ref, obj kinds.Object, p *metav1.Preconditions) error {
	conflict := func(format string, args ...any) error {
		return apierrors.NewConflict(schema.GroupResource{Group: ref.Kind.GVK.Group, Resource: ref.Kind.GVK.Kind}, ref.Name, fmt.Errorf(format, args...))
	}
	switch {
	case p == nil:
	case p.UID != nil && *p.UID != obj.GetUID():
		return conflict("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, obj.GetUID())
	case p.ResourceVersion != nil && *p.ResourceVersion != obj.GetResourceVersion():
		return conflict("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, obj.GetResourceVersion())
	}
	return nil
}

// planDelete decides between removal and mark.
func (s *Server) planDelete(k *kinds.Kind, old kinds.Object, opts *metav1.DeleteOptions) change {
	var grace int64
	if k.DeleteGrace != nil {
		grace = k.DeleteGrace(old, opts)
	}
	marked := old.GetDeletionTimestamp() != nil
	if marked && old.GetDeletionGracePeriodSeconds() != nil {
		grace = min(grace, *old.GetDeletionGracePeriodSeconds()) // it never grows
	}
	finalizers := deletionFinalizers(k, old, opts)
	if _, ok := old.(*apiextensionsv1.CustomResourceDefinition); ok && !marked && !slices.Contains(finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) {
		finalizers = append(finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) // its objects go first
	}
	if grace == 0 && len(finalizers) == 0 && !heldBySpec(old) {
		return change{remove: true}
	}
	obj := old.DeepCopyObject().(kinds.Object)
	obj.SetFinalizers(finalizers)
	if !marked || grace < *graceOf(old) {
		// The time at which it may be gone, in whole seconds as everything in metadata.
		at := metav1.NewTime(s.now().Add(time.Duration(grace) * time.Second).Truncate(time.Second))
		if marked && at.After(old.GetDeletionTimestamp().Time) {
			at = *old.GetDeletionTimestamp()
		}
		obj.SetDeletionTimestamp(&at)
		obj.SetDeletionGracePeriodSeconds(&grace)
	}
	if !marked && obj.GetGeneration() > 0 {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	switch o := obj.(type) {
	case *corev1.Namespace:
		o.Status.Phase = corev1.NamespaceTerminating
	case *apiextensionsv1.CustomResourceDefinition:
		if !marked {
			terminating(o, metav1.NewTime(s.now()))
		}
	}
	return change{obj: obj}
}

// terminating says on the definition what will happen to its objects.
func terminating(crd *apiextensionsv1.CustomResourceDefinition, now metav1.Time) {
	c := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, LastTransitionTime: now,
		Reason: "InstanceDeletionPending", Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"}
	crd.Status.Conditions = append(slices.DeleteFunc(slices.Clone(crd.Status.Conditions), func(have apiextensionsv1.CustomResourceDefinitionCondition) bool { return have.Type == c.Type }), c)
}

func graceOf(o kinds.Object) *int64 {
	if g := o.GetDeletionGracePeriodSeconds(); g != nil {
		return g
	}
	return new(int64)
}

// heldBySpec: a namespace is gone only once its content is.
func heldBySpec(o kinds.Object) bool {
	ns, ok := o.(*corev1.Namespace)
	return ok && len(ns.Spec.Finalizers) > 0
}

// deletionFinalizers adds what the wanted propagation needs, and takes away
// what another one left.
func deletionFinalizers(k *kinds.Kind, old kinds.Object, opts *metav1.DeleteOptions) []string {
	policy := k.DefaultPropagation
	set := opts.PropagationPolicy != nil
	if set {
		policy = *opts.PropagationPolicy
	}
	if opts.OrphanDependents != nil {
		set, policy = true, metav1.DeletePropagationBackground
		if *opts.OrphanDependents {
			policy = metav1.DeletePropagationOrphan
		}
	}
	have := old.GetFinalizers()
	wantOrphan, wantForeground := policy == metav1.DeletePropagationOrphan, policy == metav1.DeletePropagationForeground
	if !set {
		// Without a word from the client, finalizers that stand decide.
		wantOrphan = wantOrphan || slices.Contains(have, metav1.FinalizerOrphanDependents)
		wantForeground = wantForeground || slices.Contains(have, metav1.FinalizerDeleteDependents)
	}
	var out []string
	for _, f := range have {
		if f != metav1.FinalizerOrphanDependents && f != metav1.FinalizerDeleteDependents {
			out = append(out, f)
		}
	}
	if wantOrphan {
		out = append(out, metav1.FinalizerOrphanDependents)
	}
	if wantForeground {
		out = append(out, metav1.FinalizerDeleteDependents)
	}
	return out
}

// finished: this update takes away the last thing that held a deleted object.
func finished(obj, old kinds.Object) bool {
	if old.GetDeletionTimestamp() == nil || *graceOf(old) != 0 || len(obj.GetFinalizers()) > 0 || heldBySpec(obj) {
		return false
	}
	return len(old.GetFinalizers()) > 0 || heldBySpec(old)
}

// returnsObject: the kinds whose removal answers with the object instead of a
// Status, as upstream's do.
func returnsObject(k *kinds.Kind) bool {
	if k.GVK.Group != "" {
		return false
	}
	switch k.GVK.Kind {
	case "Pod", "Service", "ServiceAccount", "PodTemplate", "ResourceQuota", "PersistentVolume", "PersistentVolumeClaim", "Namespace":
		return k.GVK.Kind != "Namespace"
	}
	return false
}

func deletedStatus(k *kinds.Kind, obj kinds.Object) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess,
		Details: &metav1.StatusDetails{Name: obj.GetName(), Group: k.GVK.Group, Kind: k.Resource, UID: obj.GetUID()},
	}
}
