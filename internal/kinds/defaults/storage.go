package defaults

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// StorageClass deletes volumes with their claims, and makes them at once.
func StorageClass(sc *storagev1.StorageClass) {
	set(&sc.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
	set(&sc.VolumeBindingMode, storagev1.VolumeBindingImmediate)
}

// VolumeAttachment of a volume without an object of its own.
func VolumeAttachment(va *storagev1.VolumeAttachment) {
	if spec := va.Spec.Source.InlineVolumeSpec; spec != nil {
		volumeSource(spec)
	}
}

// CSIDriver attaches, and knows nothing of pods.
func CSIDriver(d *storagev1.CSIDriver) {
	spec := &d.Spec
	set(&spec.AttachRequired, true)
	set(&spec.PodInfoOnMount, false)
	set(&spec.StorageCapacity, false)
	set(&spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	if len(spec.VolumeLifecycleModes) == 0 {
		spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
	set(&spec.RequiresRepublish, false)
	set(&spec.SELinuxMount, false)
	set(&spec.PreventPodSchedulingIfMissing, false)
}
