package warnings

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const oldClass = "deprecated since v1.8; use \"storageClassName\" attribute instead"

// PersistentVolume warns of what is on its way out.
func PersistentVolume(pv, _ *corev1.PersistentVolume) []string {
	var l list
	if _, ok := pv.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		l.addf("metadata.annotations[%s]: %s", corev1.BetaStorageClassAnnotation, oldClass)
	}
	if _, ok := pv.Annotations[corev1.MountOptionAnnotation]; ok {
		l.addf("metadata.annotations[%s]: deprecated since v1.31; use \"mountOptions\" attribute instead", corev1.MountOptionAnnotation)
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		l.addf("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if a := pv.Spec.NodeAffinity; a != nil && a.Required != nil {
		for i, t := range a.Required.NodeSelectorTerms {
			at := field.NewPath("spec", "nodeAffinity", "required", "nodeSelectorTerms").Index(i)
			for j, r := range t.MatchExpressions {
				l.oldLabel(at.Child("matchExpressions").Index(j), r.Key)
			}
		}
	}
	s := &pv.Spec.PersistentVolumeSource
	for _, gone := range []struct {
		used      bool
		name      string
		old, dead string
	}{
		{s.CephFS != nil, "cephfs", "1.28", "1.31"}, {s.PhotonPersistentDisk != nil, "photonPersistentDisk", "1.11", "1.16"},
		{s.ScaleIO != nil, "scaleIO", "1.16", "1.22"}, {s.StorageOS != nil, "storageOS", "1.22", "1.25"},
		{s.Glusterfs != nil, "glusterfs", "1.25", "1.26"}, {s.RBD != nil, "rbd", "1.28", "1.31"},
	} {
		if gone.used {
			l.addf("spec.%s: deprecated in v%s, non-functional in v%s+", gone.name, gone.old, gone.dead)
		}
	}
	return l
}

func (l *list) oldLabel(p *field.Path, key string) {
	if why, ok := oldNodeLabels[key]; ok {
		l.addf("%s: %s is %s", p.Child("key"), key, why)
	}
}

// PersistentVolumeClaim may not be for half a byte.
func PersistentVolumeClaim(pvc, _ *corev1.PersistentVolumeClaim) []string {
	var l list
	if _, ok := pvc.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		l.addf("metadata.annotations[%s]: %s", corev1.BetaStorageClassAnnotation, oldClass)
	}
	l.claim(field.NewPath("spec"), &pvc.Spec)
	return l
}

// claim, or what one is made of: nobody can have half a byte.
func (l *list) claim(p *field.Path, spec *corev1.PersistentVolumeClaimSpec) {
	l.whole(corev1.ResourceStorage, spec.Resources.Requests, p, "resources", "requests")
	l.whole(corev1.ResourceStorage, spec.Resources.Limits, p, "resources", "limits")
}

// StorageClass may name places as they were called once.
func StorageClass(sc, _ *storagev1.StorageClass) []string {
	var l list
	for i, t := range sc.AllowedTopologies {
		for j, r := range t.MatchLabelExpressions {
			if why, ok := oldNodeLabels[r.Key]; ok {
				l.addf("%s: %s", field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key"), why)
			}
		}
	}
	return l
}

// VolumeAttachment is not acted on yet.
func VolumeAttachment(_, old *storagev1.VolumeAttachment) []string {
	return inert("VolumeAttachment", old == nil)
}

// CSIDriver is not called yet. Tokens belong among the secrets of a call.
func CSIDriver(d, old *storagev1.CSIDriver) []string {
	l := list(inert("CSIDriver", old == nil))
	tokens := d.Spec.TokenRequests
	if old != nil && equality.Semantic.DeepEqual(tokens, old.Spec.TokenRequests) {
		return l
	}
	if len(tokens) > 0 && d.Spec.ServiceAccountTokenInSecrets == nil {
		l.addf("spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes")
	}
	return l
}

// CSINode is not read yet.
func CSINode(_, old *storagev1.CSINode) []string { return inert("CSINode", old == nil) }

// CSIStorageCapacity is not read yet.
func CSIStorageCapacity(c, old *storagev1.CSIStorageCapacity) []string {
	l := list(inert("CSIStorageCapacity", old == nil))
	if t := c.NodeTopology; t != nil {
		at := field.NewPath("nodeTopology")
		for i, r := range t.MatchExpressions {
			l.oldLabel(at.Child("matchExpressions").Index(i), r.Key)
		}
		for key := range t.MatchLabels {
			if why, ok := oldNodeLabels[key]; ok {
				l.addf("%s: %s", at.Child("matchLabels", key), why)
			}
		}
	}
	return l
}

// VolumeAttributesClass is not read yet.
func VolumeAttributesClass(_, old *storagev1.VolumeAttributesClass) []string {
	return inert("VolumeAttributesClass", old == nil)
}
