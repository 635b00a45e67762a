package defaults

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
)

// Namespace gives every namespace the label that selectors can rely on.
func Namespace(ns *corev1.Namespace) {
	or(&ns.Status.Phase, corev1.NamespaceActive)
	if ns.Name != "" && ns.Labels[corev1.LabelMetadataName] != ns.Name {
		if ns.Labels == nil {
			ns.Labels = map[string]string{}
		}
		ns.Labels[corev1.LabelMetadataName] = ns.Name
	}
}

// Node offers its whole capacity unless it says otherwise, and names its pods'
// network both in the list and in the older field.
func Node(node *corev1.Node) {
	spec := &node.Spec
	if spec.PodCIDR != "" && (len(spec.PodCIDRs) == 0 || spec.PodCIDRs[0] != spec.PodCIDR) {
		spec.PodCIDRs = []string{spec.PodCIDR}
	} else if len(spec.PodCIDRs) > 0 {
		spec.PodCIDR = spec.PodCIDRs[0]
	}
	resourceList(node.Status.Capacity, node.Status.Allocatable)
	if node.Status.Allocatable == nil && node.Status.Capacity != nil {
		node.Status.Allocatable = node.Status.Capacity.DeepCopy()
	}
}

// Secret without a type is opaque. stringData is only a way to write data.
func Secret(s *corev1.Secret) {
	or(&s.Type, corev1.SecretTypeOpaque)
	if len(s.StringData) > 0 {
		if s.Data == nil {
			s.Data = make(map[string][]byte, len(s.StringData))
		}
		for k, v := range s.StringData {
			s.Data[k] = []byte(v)
		}
	}
	s.StringData = nil
}

// Endpoints use TCP unless they say otherwise.
func Endpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			or(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
		}
	}
}

// ReplicationController takes selector and labels from its template.
func ReplicationController(rc *corev1.ReplicationController) {
	set(&rc.Spec.Replicas, 1)
	t := rc.Spec.Template
	if t == nil {
		return
	}
	PodSpec(&t.Spec)
	if t.Labels != nil {
		if len(rc.Spec.Selector) == 0 {
			rc.Spec.Selector = maps.Clone(t.Labels)
		}
		if len(rc.Labels) == 0 {
			rc.Labels = maps.Clone(t.Labels)
		}
	}
}

// LimitRange derives a container's default limit from the maximum, and its
// default request from the default limit or the minimum.
func LimitRange(lr *corev1.LimitRange) {
	for i := range lr.Spec.Limits {
		it := &lr.Spec.Limits[i]
		resourceList(it.Max, it.Min, it.Default, it.DefaultRequest, it.MaxLimitRequestRatio)
		if it.Type != corev1.LimitTypeContainer {
			continue
		}
		if it.Default == nil {
			it.Default = corev1.ResourceList{}
		}
		if it.DefaultRequest == nil {
			it.DefaultRequest = corev1.ResourceList{}
		}
		fill(it.Default, it.Max)
		fill(it.DefaultRequest, it.Default)
		fill(it.DefaultRequest, it.Min)
	}
}

// ResourceQuota only has its quantities rounded.
func ResourceQuota(q *corev1.ResourceQuota) {
	resourceList(q.Spec.Hard, q.Status.Hard, q.Status.Used)
}

// PersistentVolume is kept when released, and a file system, by default.
func PersistentVolume(pv *corev1.PersistentVolume) {
	or(&pv.Status.Phase, corev1.VolumePending)
	or(&pv.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	set(&pv.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	volumeSource(&pv.Spec)
}

func volumeSource(spec *corev1.PersistentVolumeSpec) {
	resourceList(spec.Capacity)
	s := &spec.PersistentVolumeSource
	if s.HostPath != nil {
		set(&s.HostPath.Type, corev1.HostPathUnset)
	}
	if s.ISCSI != nil {
		or(&s.ISCSI.ISCSIInterface, "default")
	}
	if s.RBD != nil {
		or(&s.RBD.RBDPool, "rbd")
		or(&s.RBD.RadosUser, "admin")
		or(&s.RBD.Keyring, "/etc/ceph/keyring")
	}
	if s.AzureDisk != nil {
		set(&s.AzureDisk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		set(&s.AzureDisk.Kind, corev1.AzureSharedBlobDisk)
		set(&s.AzureDisk.FSType, "ext4")
		set(&s.AzureDisk.ReadOnly, false)
	}
	if s.ScaleIO != nil {
		or(&s.ScaleIO.StorageMode, "ThinProvisioned")
		or(&s.ScaleIO.FSType, "xfs")
	}
}

// PersistentVolumeClaim asks for a file system by default.
func PersistentVolumeClaim(pvc *corev1.PersistentVolumeClaim) {
	or(&pvc.Status.Phase, corev1.ClaimPending)
	claimSpec(&pvc.Spec)
	resourceList(pvc.Status.Capacity, pvc.Status.AllocatedResources)
}

func claimSpec(spec *corev1.PersistentVolumeClaimSpec) {
	set(&spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	resourceList(spec.Resources.Limits, spec.Resources.Requests)
}
