package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
)

// what happened in the cluster, as far as a waiting pod may care.
type what int

const (
	nodeChanged        what = iota // came, went or changed
	podCame                        // a pod counts on a node from now on
	podLeft                        // a pod no longer counts on a node
	podChanged                     // labels of a pod on a node, or it is being deleted
	claimChanged                   // name is namespace/name
	volumeChanged                  // name
	namespaceChanged               // labels of a namespace
	classChanged                   // name of a storage class
	driverChanged                  // name of a CSI driver
	csiNodeChanged                 // what drivers can do on a node
	capacityChanged                // there is more room for volumes of a class: name
	attachmentGone                 // a volume was detached from a node
	deviceClaimChanged             // name is namespace/name
	deviceClassChanged             // name
	sliceChanged                   // there are other devices, or other taints on them
)

// eventNames are upstream's, for metrics.
var eventNames = [...]string{
	nodeChanged: "NodeUpdate", podCame: "AssignedPodAdd", podLeft: "AssignedPodDelete", podChanged: "AssignedPodUpdate",
	claimChanged: "PersistentVolumeClaimUpdate", volumeChanged: "PersistentVolumeUpdate", namespaceChanged: "NamespaceUpdate",
	classChanged: "StorageClassUpdate", driverChanged: "CSIDriverUpdate", csiNodeChanged: "CSINodeUpdate",
	capacityChanged: "CSIStorageCapacityUpdate", attachmentGone: "VolumeAttachmentDelete",
	deviceClaimChanged: "ResourceClaimUpdate", deviceClassChanged: "DeviceClassUpdate", sliceChanged: "ResourceSliceUpdate",
}

// event is something after which waiting pods may fit.
type event struct {
	what what
	node *node
	pod  *pod        // as it is now, or was last
	old  *corev1.Pod // before a change
	name string
	// A volume as it is now and was before; nil: it was not there.
	volume, oldVolume *corev1.PersistentVolume
	freed             bool // a claim of devices has given them back

	least   int32 // see lowest
	counted bool
}

// lowest priority of the pods on the event's node, counted once however many
// pods wait.
func (e *event) lowest() int32 {
	if !e.counted {
		e.least, e.counted = math.MaxInt32, true
		for _, p := range e.node.pods {
			e.least = min(e.least, p.priority())
		}
	}
	return e.least
}

// touches reports whether fn is true of the pod, before or after.
func (e *event) touches(fn func(*corev1.Pod) bool) bool {
	return fn(e.pod.obj) || e.old != nil && fn(e.old)
}

// keptAway reports whether the event's pod had a term that keeps the waiting
// one away.
func (e *event) keptAway(c *cycle) bool {
	for _, a := range e.pod.carried {
		if a.kind == keepsAway && a.selector.finds(c.cluster, c.pod.obj) {
			return true
		}
	}
	return false
}
