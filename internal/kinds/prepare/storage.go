package prepare

import (
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// statusOnly keeps all metadata that belongs to the main resource.
func statusOnly(o, old metav1.Object) {
	Keep(o, old)
	metav1.ResetObjectMetaForStatus(o, old)
}

// VolumeAttachmentCreate clears the status.
func VolumeAttachmentCreate(va *storagev1.VolumeAttachment) {
	fresh(va, false)
	va.Status = storagev1.VolumeAttachmentStatus{}
}

// VolumeAttachmentUpdate keeps the status.
func VolumeAttachmentUpdate(va, old *storagev1.VolumeAttachment) {
	Keep(va, old)
	va.Status = old.Status
}

// VolumeAttachmentStatusUpdate keeps everything else.
func VolumeAttachmentStatusUpdate(va, old *storagev1.VolumeAttachment) {
	statusOnly(va, old)
	va.Spec = old.Spec
}

// CSIDriverUpdate counts changes.
func CSIDriverUpdate(d, old *storagev1.CSIDriver) {
	Keep(d, old)
	bump(d, old, differ(d.Spec, old.Spec))
}

// CSINodeCreate clears the status.
func CSINodeCreate(n *storagev1.CSINode) {
	fresh(n, false)
	n.Status = storagev1.CSINodeStatus{}
}

// CSINodeUpdate keeps the status.
func CSINodeUpdate(n, old *storagev1.CSINode) {
	Keep(n, old)
	n.Status = old.Status
}

// CSINodeStatusUpdate keeps everything else. Reports of health are behind an
// alpha gate upstream.
func CSINodeStatusUpdate(n, old *storagev1.CSINode) {
	statusOnly(n, old)
	n.Spec = old.Spec
	if len(old.Status.StorageHealth) == 0 {
		n.Status.StorageHealth = nil
	}
}
