package validate

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PersistentVolumeClaim judges a new claim.
func PersistentVolumeClaim(pvc *corev1.PersistentVolumeClaim) field.ErrorList {
	e := meta(&pvc.ObjectMeta, true, subdomain)
	e.claim(specPath, &pvc.Spec)
	return e.list
}

// PersistentVolumeClaimUpdate judges a changed claim: it can be bound, once,
// get its class later, and grow.
func PersistentVolumeClaimUpdate(pvc, old *corev1.PersistentVolumeClaim) field.ErrorList {
	e := metaUpdate(&pvc.ObjectMeta, &old.ObjectMeta)
	e.claim(specPath, &pvc.Spec)
	is, was := pvc.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" {
		was.VolumeName = is.VolumeName
	}
	e.laterClass(pvc, old, is)
	if pvc.Status.Phase == corev1.ClaimBound {
		if is.Resources.Requests != nil {
			is.Resources.Requests[corev1.ResourceStorage] = was.Resources.Requests[corev1.ResourceStorage]
		}
		is.VolumeAttributesClassName = was.VolumeAttributesClassName
	}
	if !same(is, was) {
		e.forbid(specPath, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"+difference("spec", *is, *was))
	}
	size, before, held := pvc.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage], old.Status.Capacity[corev1.ResourceStorage]
	if size.Cmp(before) < 0 && size.Cmp(held) <= 0 {
		e.forbid(specPath.Child("resources", "requests", "storage"), "field can not be less than status.capacity")
	}
	e.immutable(field.NewPath("volumeMode"), pvc.Spec.VolumeMode, old.Spec.VolumeMode)
	if class := pvc.Spec.VolumeAttributesClassName; old.Status.CurrentVolumeAttributesClassName != nil && !same(class, old.Spec.VolumeAttributesClassName) {
		at := specPath.Child("volumeAttributesClassName")
		switch {
		case class == nil:
			e.forbid(at, "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil")
		case *class == "":
			e.forbid(at, "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil")
		}
	}
	return e.list
}

// laterClass lets a claim without a storage class get one, which an annotation
// of old may already name. What is allowed is taken back from is.
func (e *errors) laterClass(pvc, old *corev1.PersistentVolumeClaim, is *corev1.PersistentVolumeClaimSpec) {
	class, was := pvc.Spec.StorageClassName, old.Spec.StorageClassName
	before, had := old.Annotations[corev1.BetaStorageClassAnnotation]
	now, has := pvc.Annotations[corev1.BetaStorageClassAnnotation]
	given := was == nil && class != nil && (!had || *class == before)
	if given {
		is.StorageClassName = nil
	}
	if moved := given && had && !has; !moved {
		e.immutable(metaPath.Child("annotations", corev1.BetaStorageClassAnnotation), now, before)
	}
}

// PersistentVolumeClaimStatusUpdate judges what the claim got.
func PersistentVolumeClaimStatusUpdate(pvc, old *corev1.PersistentVolumeClaim) field.ErrorList {
	e := metaUpdate(&pvc.ObjectMeta, &old.ObjectMeta)
	for k, q := range pvc.Status.Capacity {
		if negative(q) {
			e.invalid(statusPath.Child("capacity").Key(string(k)), q.Value(), notQuantity)
		}
	}
	if h := pvc.Status.HealthStatus; h != nil {
		for i, c := range h.HealthConditions {
			if c.Reason != "" {
				e.msgs(statusPath.Child("healthStatus", "healthConditions").Index(i).Child("reason"), c.Reason, metavalidation.IsValidConditionReason(c.Reason))
			}
		}
	}
	at := statusPath.Child("allocatedResourceStatuses")
	for k, v := range pvc.Status.AllocatedResourceStatuses {
		e.claimResource(at, k)
		switch v {
		case corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
			corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible:
		default:
			e.add(field.NotSupported(at, k, []corev1.ClaimResourceStatus{
				corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
				corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible,
			}))
		}
	}
	at = statusPath.Child("allocatedResources")
	for k, q := range pvc.Status.AllocatedResources {
		if e.claimResource(at, k) && negative(q) {
			e.invalid(at.Key(string(k)), q.Value(), notQuantity)
		}
	}
	return e.list
}

// claimResource wants storage or a name of somebody else's.
func (e *errors) claimResource(p *field.Path, name corev1.ResourceName) bool {
	if bad := validation.IsQualifiedName(string(name)); len(bad) > 0 {
		e.msgs(p, string(name), bad)
		return false
	}
	if NativeResource(name) && name != corev1.ResourceStorage {
		e.add(field.NotSupported(p, string(name), []corev1.ResourceName{corev1.ResourceStorage}))
		return false
	}
	return true
}

func (e *errors) claim(p *field.Path, spec *corev1.PersistentVolumeClaimSpec) {
	if len(spec.AccessModes) == 0 {
		e.add(field.Required(p.Child("accessModes"), "at least 1 access mode is required"))
	}
	e.accessModes(p.Child("accessModes"), spec.AccessModes)
	if spec.Selector != nil {
		e.selector(p.Child("selector"), spec.Selector)
	}
	at := p.Child("resources").Key(string(corev1.ResourceStorage))
	if q, ok := spec.Resources.Requests[corev1.ResourceStorage]; !ok {
		e.required(at)
	} else if q.Sign() <= 0 {
		e.invalid(at, q.String(), notPositive)
	}
	if n := spec.StorageClassName; n != nil && *n != "" {
		e.msgs(p.Child("storageClassName"), *n, subdomain(*n, false))
	}
	if n := spec.VolumeAttributesClassName; n != nil && *n != "" {
		e.msgs(p.Child("volumeAttributesClassName"), *n, subdomain(*n, false))
	}
	inPtr(e, p.Child("volumeMode"), spec.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	e.dataSource(p, spec)
}

func (e *errors) dataSource(p *field.Path, spec *corev1.PersistentVolumeClaimSpec) {
	check := func(p *field.Path, group *string, kind, name string) {
		e.need(p, "name", name, "kind", kind)
		switch {
		case group != nil && *group != "":
			e.dnsSubdomain(p.Child("apiGroup"), *group)
		case kind != "PersistentVolumeClaim":
			e.invalid(p, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
		}
	}
	src, ref := spec.DataSource, spec.DataSourceRef
	if src != nil {
		check(p.Child("dataSource"), src.APIGroup, src.Kind, src.Name)
	}
	if ref == nil {
		return
	}
	at := p.Child("dataSourceRef")
	check(at, ref.APIGroup, ref.Kind, ref.Name)
	elsewhere := ref.Namespace != nil && *ref.Namespace != ""
	if elsewhere {
		e.msgs(at.Child("namespace"), *ref.Namespace, label(*ref.Namespace, false))
		e.forbid(at.Child("namespace"), "volumes from other namespaces are "+notYet)
	}
	switch {
	case src == nil:
	case elsewhere:
		e.invalid(p, p.Child("dataSource").String(), "may not be specified when dataSourceRef.namespace is specified")
	case !same(src.APIGroup, ref.APIGroup) || src.Kind != ref.Kind || src.Name != ref.Name:
		e.invalid(p, p.Child("dataSource").String(), "must match dataSourceRef")
	}
}

// claimTemplate is what the claim of an ephemeral volume is made of. Of its
// metadata only labels and annotations are used.
func (e *errors) claimTemplate(p *field.Path, t *corev1.PersistentVolumeClaimTemplate) {
	if t == nil {
		e.required(p)
		return
	}
	m, at := &t.ObjectMeta, p.Child("metadata")
	e.annotations(at.Child("annotations"), m.Annotations)
	e.labels(at.Child("labels"), m.Labels)
	for _, f := range []struct {
		name string // as upstream spells it
		set  bool
	}{
		{"name", m.Name != ""}, {"generateName", m.GenerateName != ""}, {"namespace", m.Namespace != ""}, {"selfLink", m.SelfLink != ""},
		{"uID", m.UID != ""}, {"resourceVersion", m.ResourceVersion != ""}, {"generation", m.Generation != 0},
		{"creationTimestamp", !m.CreationTimestamp.IsZero()}, {"deletionTimestamp", m.DeletionTimestamp != nil},
		{"deletionGracePeriodSeconds", m.DeletionGracePeriodSeconds != nil}, {"ownerReferences", m.OwnerReferences != nil},
		{"finalizers", m.Finalizers != nil}, {"managedFields", m.ManagedFields != nil},
	} {
		if f.set {
			e.forbid(at.Child(f.name), "cannot be set")
		}
	}
	e.claim(p.Child("spec"), &t.Spec)
}

// madeClaim: the claim that is made for an ephemeral volume gets its name from
// pod and volume.
func (s *podScope) madeClaim(p *field.Path, volume string) {
	if s.podName == "" || volume == "" {
		return
	}
	name := s.podName + "-" + volume
	for _, msg := range subdomain(name, false) {
		s.invalid(p, volume, fmt.Sprintf("PVC name %q: %v", name, msg))
	}
}

// makes reports whether a claim of the name is made for one of the pod's volumes.
func (s *podScope) makes(claim string) bool {
	return s.podName != "" && slices.ContainsFunc(s.spec.Volumes, func(v corev1.Volume) bool { return v.Ephemeral != nil && s.podName+"-"+v.Name == claim })
}
