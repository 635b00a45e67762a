// Package podrefs lists the API objects that a pod's specification names. The
// node authorizer lets a node read what its pods name, and NodeRestriction lets
// a node create only pods that name nothing: both must see the same list, or a
// node could widen its own rights (CVE-2023-2727, CVE-2023-2728,
// CVE-2024-3177, CVE-2025-4563).
package podrefs

import (
	"iter"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
)

// All yields the kinds and names of the Secrets, ConfigMaps,
// PersistentVolumeClaims and ServiceAccounts in the pod's own namespace that
// the pod names, in no particular order and maybe more than once. Ephemeral
// volumes count by the claim that is made for them.
func All(pod *corev1.Pod) iter.Seq2[*kinds.Kind, string] {
	return func(yield func(*kinds.Kind, string) bool) {
		w := &walk{yield: yield, pod: pod}
		if pod.Spec.ServiceAccountName != "" {
			w.add(kinds.ServiceAccount, pod.Spec.ServiceAccountName)
		}
		for i := range pod.Spec.ImagePullSecrets {
			w.add(kinds.Secret, pod.Spec.ImagePullSecrets[i].Name)
		}
		for i := range pod.Spec.InitContainers {
			w.env(pod.Spec.InitContainers[i].EnvFrom, pod.Spec.InitContainers[i].Env)
		}
		for i := range pod.Spec.Containers {
			w.env(pod.Spec.Containers[i].EnvFrom, pod.Spec.Containers[i].Env)
		}
		for i := range pod.Spec.EphemeralContainers {
			w.env(pod.Spec.EphemeralContainers[i].EnvFrom, pod.Spec.EphemeralContainers[i].Env)
		}
		for i := range pod.Spec.Volumes {
			w.volume(&pod.Spec.Volumes[i])
		}
	}
}

// Has reports whether the pod names that object.
func Has(pod *corev1.Pod, k *kinds.Kind, name string) bool {
	for kind, n := range All(pod) {
		if kind == k && n == name {
			return true
		}
	}
	return false
}

// ResourceClaims yields the names of the claims of devices that the pod has, in
// its own namespace: those that it names, and those that were made for it.
func ResourceClaims(pod *corev1.Pod) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range pod.Spec.ResourceClaims {
			if n := pod.Spec.ResourceClaims[i].ResourceClaimName; n != nil && *n != "" && !yield(*n) {
				return
			}
		}
		for i := range pod.Status.ResourceClaimStatuses {
			if n := pod.Status.ResourceClaimStatuses[i].ResourceClaimName; n != nil && *n != "" && !yield(*n) {
				return
			}
		}
		if e := pod.Status.ExtendedResourceClaimStatus; e != nil && e.ResourceClaimName != "" {
			yield(e.ResourceClaimName)
		}
	}
}

// VolumeSecrets yields the secrets that a persistent volume names, for pods of
// the namespace of the claim.
func VolumeSecrets(pv *corev1.PersistentVolume) iter.Seq2[string, string] {
	return func(yield func(namespace, name string) bool) {
		claim := pv.Spec.ClaimRef
		if claim == nil {
			return
		}
		src := &pv.Spec.PersistentVolumeSource
		var refs []*corev1.SecretReference
		switch {
		case src.AzureFile != nil:
			r := &corev1.SecretReference{Name: src.AzureFile.SecretName, Namespace: claim.Namespace}
			if src.AzureFile.SecretNamespace != nil && *src.AzureFile.SecretNamespace != "" {
				r.Namespace = *src.AzureFile.SecretNamespace
			}
			refs = append(refs, r)
		case src.CephFS != nil:
			refs = append(refs, src.CephFS.SecretRef)
		case src.Cinder != nil:
			refs = append(refs, src.Cinder.SecretRef)
		case src.FlexVolume != nil:
			refs = append(refs, src.FlexVolume.SecretRef)
		case src.RBD != nil:
			refs = append(refs, src.RBD.SecretRef)
		case src.ScaleIO != nil:
			refs = append(refs, src.ScaleIO.SecretRef)
		case src.ISCSI != nil:
			refs = append(refs, src.ISCSI.SecretRef)
		case src.StorageOS != nil && src.StorageOS.SecretRef != nil:
			refs = append(refs, &corev1.SecretReference{Name: src.StorageOS.SecretRef.Name, Namespace: src.StorageOS.SecretRef.Namespace})
		case src.CSI != nil:
			// The controller's secrets are not for nodes.
			refs = append(refs, src.CSI.NodePublishSecretRef, src.CSI.NodeStageSecretRef, src.CSI.NodeExpandSecretRef)
		}
		for _, r := range refs {
			if r == nil || r.Name == "" {
				continue
			}
			ns := r.Namespace
			if ns == "" {
				ns = claim.Namespace
			}
			if !yield(ns, r.Name) {
				return
			}
		}
	}
}

type walk struct {
	yield func(*kinds.Kind, string) bool
	pod   *corev1.Pod
	done  bool
}

func (w *walk) add(k *kinds.Kind, name string) {
	if !w.done && name != "" {
		w.done = !w.yield(k, name)
	}
}

func (w *walk) secret(r *corev1.LocalObjectReference) {
	if r != nil {
		w.add(kinds.Secret, r.Name)
	}
}

func (w *walk) env(from []corev1.EnvFromSource, env []corev1.EnvVar) {
	for i := range from {
		if s := from[i].SecretRef; s != nil {
			w.add(kinds.Secret, s.Name)
		}
		if c := from[i].ConfigMapRef; c != nil {
			w.add(kinds.ConfigMap, c.Name)
		}
	}
	for i := range env {
		v := env[i].ValueFrom
		if v == nil {
			continue
		}
		if v.SecretKeyRef != nil {
			w.add(kinds.Secret, v.SecretKeyRef.Name)
		}
		if v.ConfigMapKeyRef != nil {
			w.add(kinds.ConfigMap, v.ConfigMapKeyRef.Name)
		}
	}
}

func (w *walk) volume(v *corev1.Volume) {
	switch {
	case v.Secret != nil:
		w.add(kinds.Secret, v.Secret.SecretName)
	case v.ConfigMap != nil:
		w.add(kinds.ConfigMap, v.ConfigMap.Name)
	case v.PersistentVolumeClaim != nil:
		w.add(kinds.PersistentVolumeClaim, v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		w.add(kinds.PersistentVolumeClaim, w.pod.Name+"-"+v.Name)
	case v.Projected != nil:
		for i := range v.Projected.Sources {
			w.projection(&v.Projected.Sources[i])
		}
	case v.AzureFile != nil:
		w.add(kinds.Secret, v.AzureFile.SecretName)
	case v.CephFS != nil:
		w.secret(v.CephFS.SecretRef)
	case v.Cinder != nil:
		w.secret(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		w.secret(v.FlexVolume.SecretRef)
	case v.RBD != nil:
		w.secret(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		w.secret(v.ScaleIO.SecretRef)
	case v.ISCSI != nil:
		w.secret(v.ISCSI.SecretRef)
	case v.StorageOS != nil:
		w.secret(v.StorageOS.SecretRef)
	case v.CSI != nil:
		w.secret(v.CSI.NodePublishSecretRef)
	}
}

// projection: a token projection names no object, but stands for the service
// account.
func (w *walk) projection(p *corev1.VolumeProjection) {
	switch {
	case p.Secret != nil:
		w.add(kinds.Secret, p.Secret.Name)
	case p.ConfigMap != nil:
		w.add(kinds.ConfigMap, p.ConfigMap.Name)
	}
}
