// Package pvprotection keeps volumes as long as they are bound to claims.
package pvprotection

import (
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Finalizer of a volume that may be in use; admission adds it.
const Finalizer = "kubernetes.io/pv-protection"

// Plan lets go of a volume that no claim has, and protects one that is not
// protected.
func Plan(pv *corev1.PersistentVolume) plan.Result {
	return plan.Guard(kinds.PersistentVolume, pv, Finalizer, func() bool { return taken(pv) })
}

// taken: bound, or given to a claim and not yet said to be bound.
func taken(pv *corev1.PersistentVolume) bool {
	switch pv.Status.Phase {
	case corev1.VolumeBound:
		return true
	case "", corev1.VolumePending, corev1.VolumeAvailable:
		return pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID != ""
	}
	return false
}
