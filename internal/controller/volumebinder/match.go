package volumebinder

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/knarr/internal/kinds"
)

// match is the volume for a claim that names none: one that is reserved for
// it, else the one with the fewest access modes of those that fit, then the
// smallest. If the scheduler picks, only the first kind counts.
func (o *Observed) match() *corev1.PersistentVolume {
	list := slices.DeleteFunc(slices.Clone(o.Reserved), func(v *corev1.PersistentVolume) bool { return !reserved(v, o.Claim) || !suits(v, o.Claim) })
	if len(list) == 0 && !delayed(o.Class) {
		list = slices.DeleteFunc(slices.Clone(o.Free), func(v *corev1.PersistentVolume) bool { return !fits(v, o.Claim) })
	}
	if len(list) == 0 {
		return nil
	}
	return slices.MinFunc(list, func(a, b *corev1.PersistentVolume) int {
		return cmp.Or(cmp.Compare(len(a.Spec.AccessModes), len(b.Spec.AccessModes)), size(a).Cmp(*size(b)), cmp.Compare(a.Name, b.Name))
	})
}

// fits: nobody has the volume, and it is of the kind that the claim asks for.
func fits(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	class, _ := kinds.ClaimClass(c)
	if v.Spec.ClaimRef != nil || v.Status.Phase != corev1.VolumeAvailable || kinds.VolumeClass(v) != class || !suits(v, c) {
		return false
	}
	if c.Spec.Selector == nil {
		return true
	}
	s, err := metav1.LabelSelectorAsSelector(c.Spec.Selector)
	return err == nil && s.Matches(labels.Set(v.Labels))
}

// suits: the volume can hold what the claim is for. That is all that a volume
// must which was reserved.
func suits(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	return v.DeletionTimestamp == nil && size(v).Cmp(*c.Spec.Resources.Requests.Storage()) >= 0 && mode(v.Spec.VolumeMode) == mode(c.Spec.VolumeMode) &&
		deref(v.Spec.VolumeAttributesClassName) == deref(c.Spec.VolumeAttributesClassName) && allows(v, c)
}

// mismatch is why a volume that the claim names cannot be its; empty: it can.
func mismatch(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) string {
	class, _ := kinds.ClaimClass(c)
	switch {
	case v.DeletionTimestamp != nil:
		return fmt.Sprintf("the volume is marked for deletion %q", v.Name)
	case size(v).Cmp(*c.Spec.Resources.Requests.Storage()) < 0:
		return "requested PV is too small"
	case kinds.VolumeClass(v) != class:
		return "storageClassName does not match"
	case deref(v.Spec.VolumeAttributesClassName) != deref(c.Spec.VolumeAttributesClassName):
		return "volumeAttributesClassName does not match"
	case mode(v.Spec.VolumeMode) != mode(c.Spec.VolumeMode):
		return "incompatible volumeMode"
	case !allows(v, c):
		return "incompatible accessMode"
	}
	return ""
}

// reserved: the volume is the claim's, or is meant to be.
func reserved(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	r := v.Spec.ClaimRef
	return r != nil && r.Namespace == c.Namespace && r.Name == c.Name && (r.UID == "" || r.UID == c.UID)
}

func allows(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	return !slices.ContainsFunc(c.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool { return !slices.Contains(v.Spec.AccessModes, m) })
}

func mode(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
	if m == nil {
		return corev1.PersistentVolumeFilesystem
	}
	return *m
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
