package validate

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PersistentVolume judges a new volume.
func PersistentVolume(pv *corev1.PersistentVolume) field.ErrorList {
	e := meta(&pv.ObjectMeta, false, subdomain)
	e.persistentVolume(pv)
	return e.list
}

// PersistentVolumeUpdate judges a changed one; where the data lies stays.
func PersistentVolumeUpdate(pv, old *corev1.PersistentVolume) field.ErrorList {
	e := metaUpdate(&pv.ObjectMeta, &old.ObjectMeta)
	e.persistentVolume(pv)
	is, was := &pv.Spec.PersistentVolumeSource, &old.Spec.PersistentVolumeSource
	if is.CSI != nil && was.CSI != nil && was.CSI.ControllerExpandSecretRef == nil && is.CSI.ControllerExpandSecretRef != nil {
		is = is.DeepCopy() // a secret for expansion may be added
		is.CSI.ControllerExpandSecretRef = nil
	}
	if !same(is, was) {
		e.forbid(specPath.Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation\n"+difference("spec", *is, *was))
	}
	e.immutable(field.NewPath("volumeMode"), pv.Spec.VolumeMode, old.Spec.VolumeMode)
	if a := old.Spec.NodeAffinity; a != nil && !same(pv.Spec.NodeAffinity, relabelled(a, pv.Spec.NodeAffinity)) {
		e.invalid(field.NewPath("nodeAffinity"), pv.Spec.NodeAffinity, "field is immutable, except for updating from beta label to GA")
	}
	if old.Spec.VolumeAttributesClassName != nil && pv.Spec.VolumeAttributesClassName == nil {
		e.forbid(specPath.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden")
	}
	return e.list
}

// PersistentVolumeStatusUpdate judges the metadata.
func PersistentVolumeStatusUpdate(pv, old *corev1.PersistentVolume) field.ErrorList {
	return metaUpdate(&pv.ObjectMeta, &old.ObjectMeta).list
}

// newLabels are the names that labels of nodes have got instead.
var newLabels = map[string]string{
	corev1.LabelFailureDomainBetaZone:   corev1.LabelTopologyZone,
	corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
	corev1.LabelInstanceType:            corev1.LabelInstanceTypeStable,
	"beta.kubernetes.io/os":             corev1.LabelOSStable,
	"beta.kubernetes.io/arch":           corev1.LabelArchStable,
}

// relabelled is old with the new names of labels where a has those.
func relabelled(old, a *corev1.VolumeNodeAffinity) *corev1.VolumeNodeAffinity {
	if a == nil || a.Required == nil || old.Required == nil || len(a.Required.NodeSelectorTerms) != len(old.Required.NodeSelectorTerms) {
		return old
	}
	old = old.DeepCopy()
	for i := range old.Required.NodeSelectorTerms {
		list, now := old.Required.NodeSelectorTerms[i].MatchExpressions, a.Required.NodeSelectorTerms[i].MatchExpressions
		for j := range list {
			if key := newLabels[list[j].Key]; j < len(now) && key != "" && now[j].Key == key {
				list[j].Key = key
			}
		}
	}
	return old
}

func (e *errors) accessModes(p *field.Path, modes []corev1.PersistentVolumeAccessMode) {
	alone, others := false, false
	for _, m := range modes {
		oneOf(e, p, m, corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod)
		switch m {
		case corev1.ReadWriteOncePod:
			alone = true
		case corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany:
			others = true
		}
	}
	if alone && others {
		e.forbid(p, "may not use ReadWriteOncePod with other access modes")
	}
}

func (e *errors) persistentVolume(pv *corev1.PersistentVolume) {
	spec := &pv.Spec
	if len(spec.AccessModes) == 0 {
		e.required(specPath.Child("accessModes"))
	}
	e.accessModes(specPath.Child("accessModes"), spec.AccessModes)
	capacity := specPath.Child("capacity")
	if len(spec.Capacity) == 0 {
		e.required(capacity)
	}
	if _, ok := spec.Capacity[corev1.ResourceStorage]; !ok || len(spec.Capacity) > 1 {
		e.add(field.NotSupported(capacity, spec.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for k, q := range spec.Capacity {
		if negative(q) {
			e.invalid(capacity.Key(string(k)), q.Value(), notQuantity)
		}
		if q.Sign() <= 0 {
			e.invalid(capacity.Key(string(k)), q.String(), notPositive)
		}
	}
	if spec.PersistentVolumeReclaimPolicy != "" {
		oneOf(e, specPath.Child("persistentVolumeReclaimPolicy"), spec.PersistentVolumeReclaimPolicy,
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)
	}
	if a := spec.NodeAffinity; a != nil {
		if a.Required == nil {
			e.add(field.Required(specPath.Child("nodeAffinity", "required"), "must specify required node constraints"))
		} else {
			e.nodeSelector(specPath.Child("nodeAffinity", "required"), a.Required)
		}
	}
	e.pvSource(specPath, spec, pv.Name)
	if h := spec.HostPath; h != nil && path.Clean(h.Path) == "/" && spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		e.forbid(specPath.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'")
	}
	if n := spec.StorageClassName; n != "" {
		e.msgs(specPath.Child("storageClassName"), n, subdomain(n, false))
	}
	inPtr(e, specPath.Child("volumeMode"), spec.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	e.attributesClass(specPath, spec)
	if _, ok := pv.Annotations[corev1.MountOptionAnnotation]; ok && !mountOptions(&spec.PersistentVolumeSource) {
		e.forbid(metaPath.Child("annotations", corev1.MountOptionAnnotation), "may not specify mount options for this volume type")
	}
}

func (e *errors) attributesClass(p *field.Path, spec *corev1.PersistentVolumeSpec) {
	n, at := spec.VolumeAttributesClassName, p.Child("volumeAttributesClassName")
	if n == nil {
		return
	}
	if *n == "" {
		e.add(field.Required(at, "an empty string is disallowed"))
	} else {
		e.msgs(at, *n, subdomain(*n, false))
	}
	if spec.CSI == nil {
		e.add(field.Required(p.Child("csi"), "has to be specified when using volumeAttributesClassName"))
	}
}

// inlineVolume judges a volume that is attached without an object of its own.
func (e *errors) inlineVolume(p *field.Path, spec *corev1.PersistentVolumeSpec) {
	const inline = "may not be specified in the context of inline volumes"
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"claimRef", spec.ClaimRef != nil}, {"capacity", len(spec.Capacity) > 0},
		{"nodeAffinity", spec.NodeAffinity != nil}, {"storageClassName", spec.StorageClassName != ""},
	} {
		if f.set {
			e.forbid(p.Child(f.name), inline)
		}
	}
	if spec.CSI == nil {
		e.add(field.Required(p.Child("csi"), "has to be specified in the context of inline volumes"))
	}
	if len(spec.AccessModes) == 0 {
		e.required(p.Child("accessModes"))
	}
	e.accessModes(p.Child("accessModes"), spec.AccessModes)
	if r := spec.PersistentVolumeReclaimPolicy; r != "" && r != corev1.PersistentVolumeReclaimRetain {
		e.forbid(p.Child("persistentVolumeReclaimPolicy"), "may only be Retain in the context of inline volumes")
	}
	e.pvSource(p, spec, "")
	if m := spec.VolumeMode; m != nil && *m != corev1.PersistentVolumeFilesystem {
		e.forbid(p.Child("volumeMode"), "may not specify volumeMode other than Filesystem in the context of inline volumes")
	}
}
