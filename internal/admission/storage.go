package admission

import (
	"cmp"
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// defaultStorageClass gives claims that name no class the cluster's default.
type defaultStorageClass struct{ c *Config }

func (defaultStorageClass) Name() string { return "DefaultStorageClass" }

// defaultClassMarks are the annotations that make a class the default; the
// second is an old one.
var defaultClassMarks = []string{"storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"}

func (p defaultStorageClass) Mutate(_ context.Context, r *Request) error {
	claim, ok := created[*corev1.PersistentVolumeClaim](r, kinds.PersistentVolumeClaim)
	if !ok {
		return nil
	}
	if _, has := kinds.ClaimClass(claim); has {
		return nil
	}
	if class := defaultClass[*storagev1.StorageClass](p.c.View, kinds.StorageClass, defaultClassMarks...); class != nil {
		claim.Spec.StorageClassName = &class.Name
	}
	return nil
}

func (defaultStorageClass) Validate(context.Context, *Request) error { return nil }

// defaultIngressClass does the same for ingresses.
type defaultIngressClass struct{ c *Config }

// oldIngressClass is the annotation that named a class before there was a field.
const oldIngressClass = "kubernetes.io/ingress.class"

func (defaultIngressClass) Name() string { return "DefaultIngressClass" }

func (p defaultIngressClass) Mutate(_ context.Context, r *Request) error {
	ingress, ok := created[*networkingv1.Ingress](r, kinds.Ingress)
	if !ok || ingress.Spec.IngressClassName != nil {
		return nil
	}
	if _, ok := ingress.Annotations[oldIngressClass]; ok {
		return nil
	}
	if class := defaultClass[*networkingv1.IngressClass](p.c.View, kinds.IngressClass, networkingv1.AnnotationIsDefaultIngressClass); class != nil {
		ingress.Spec.IngressClassName = &class.Name
	}
	return nil
}

func (defaultIngressClass) Validate(context.Context, *Request) error { return nil }

// defaultClass is the one that a mark makes the default: of several the
// youngest, then the first by name; nil if there is none.
func defaultClass[T interface {
	kinds.Object
	comparable
}](v *view.View, k *kinds.Kind, marks ...string) T {
	var best T
	if !v.Has(k) {
		return best
	}
	var none T
	for _, c := range view.NowList[T](v, k, "") {
		if !slices.ContainsFunc(marks, func(m string) bool { return c.GetAnnotations()[m] == "true" }) {
			continue
		}
		if best == none || cmp.Or(c.GetCreationTimestamp().Compare(best.GetCreationTimestamp().Time), cmp.Compare(best.GetName(), c.GetName())) > 0 {
			best = c
		}
	}
	return best
}

// storageInUse keeps claims, volumes and classes of volume attributes from
// vanishing while they are used; controllers take the finalizers away.
type storageInUse struct{}

func (storageInUse) Name() string { return "StorageObjectInUseProtection" }

func (storageInUse) Mutate(_ context.Context, r *Request) error {
	obj, ok := r.Object.(kinds.Object)
	if r.Operation != Create || r.Ref.Sub != "" || !ok {
		return nil
	}
	var finalizer string
	switch r.Ref.Kind {
	case kinds.PersistentVolumeClaim:
		finalizer = "kubernetes.io/pvc-protection"
	case kinds.PersistentVolume:
		finalizer = "kubernetes.io/pv-protection"
	case kinds.VolumeAttributesClass:
		finalizer = "kubernetes.io/vac-protection"
	default:
		return nil
	}
	if !slices.Contains(obj.GetFinalizers(), finalizer) {
		obj.SetFinalizers(append(obj.GetFinalizers(), finalizer))
	}
	return nil
}

func (storageInUse) Validate(context.Context, *Request) error { return nil }

var (
	errResizeUnbound = errors.New("Only bound persistent volume claims can be expanded") //nolint:staticcheck // upstream's words
	errResizeClass   = errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
)

// claimResize lets claims grow only where their class says that volumes can.
type claimResize struct{ c *Config }

func (claimResize) Name() string { return "PersistentVolumeClaimResize" }

func (claimResize) Mutate(context.Context, *Request) error { return nil }

func (p claimResize) Validate(ctx context.Context, r *Request) error {
	claim, ok := r.Object.(*corev1.PersistentVolumeClaim)
	old, was := r.Old.(*corev1.PersistentVolumeClaim)
	if !ok || !was || r.Operation != Update || r.Ref.Kind != kinds.PersistentVolumeClaim || r.Ref.Sub != "" {
		return nil
	}
	if claim.Spec.Resources.Requests.Storage().Cmp(*old.Spec.Resources.Requests.Storage()) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return forbid(r, errResizeUnbound)
	}
	name, _ := kinds.ClaimClass(claim)
	if before, _ := kinds.ClaimClass(old); name == "" || name != before || !p.c.View.Has(kinds.StorageClass) {
		return forbid(r, errResizeClass)
	}
	class, err := find[*storagev1.StorageClass](ctx, p.c, kinds.StorageClass, "", name)
	if err != nil {
		return err
	}
	if class == nil || class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
		return forbid(r, errResizeClass)
	}
	return nil
}
