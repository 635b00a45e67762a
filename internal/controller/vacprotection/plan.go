// Package vacprotection keeps classes of volume attributes as long as volumes
// or claims name them.
package vacprotection

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Finalizer of a class that may be in use; admission adds it.
const Finalizer = "kubernetes.io/vac-protection"

// Observed is what a plan depends on.
type Observed struct {
	Class *storagev1.VolumeAttributesClass
	Used  bool
}

// Plan lets go of a class that nobody uses, and protects one that is not
// protected.
func Plan(o Observed) plan.Result {
	return plan.Guard(kinds.VolumeAttributesClass, o.Class, Finalizer, func() bool { return o.Used })
}

// classesOf a claim or a volume: those that it has, wants or is on its way to.
func classesOf(obj kinds.Object) []string {
	var out []string
	add := func(name *string) {
		if name != nil && *name != "" && !slices.Contains(out, *name) {
			out = append(out, *name)
		}
	}
	switch o := obj.(type) {
	case *corev1.PersistentVolumeClaim:
		add(o.Spec.VolumeAttributesClassName)
		add(o.Status.CurrentVolumeAttributesClassName)
		if m := o.Status.ModifyVolumeStatus; m != nil {
			add(&m.TargetVolumeAttributesClassName)
		}
	case *corev1.PersistentVolume:
		add(o.Spec.VolumeAttributesClassName)
	}
	return out
}
