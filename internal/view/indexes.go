package view

import (
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"knarr.dev/knarr/internal/kinds"
)

// ByController files objects of k under the UID of their controlling owner.
func ByController(k *kinds.Kind) *Index {
	return &Index{Kind: k, Keys: func(o kinds.Object) []string {
		if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
			return []string{string(ref.UID)}
		}
		return nil
	}}
}

// Orphans files objects of k that no controller owns under their namespace, so
// that a controller finds what it may adopt without reading everything.
func Orphans(k *kinds.Kind) *Index {
	return &Index{Kind: k, Keys: func(o kinds.Object) []string {
		if metav1.GetControllerOfNoCopy(o) == nil {
			return []string{o.GetNamespace()}
		}
		return nil
	}}
}

// The indexes that components share. A process that runs several components
// builds its view with all of Shared.
var (
	PodsByOwner        = ByController(kinds.Pod)
	ReplicaSetsByOwner = ByController(kinds.ReplicaSet)
	JobsByOwner        = ByController(kinds.Job)
	PodOrphans         = Orphans(kinds.Pod)
	ReplicaSetOrphans  = Orphans(kinds.ReplicaSet)
	RevisionsByOwner   = ByController(kinds.ControllerRevision)
	RevisionOrphans    = Orphans(kinds.ControllerRevision)
	// PodsByNode files pods under spec.nodeName; unbound ones under "".
	PodsByNode = &Index{Kind: kinds.Pod, Keys: func(o kinds.Object) []string {
		return []string{o.(*corev1.Pod).Spec.NodeName}
	}}
	// FinishedPods files the pods that have ended under "".
	FinishedPods = &Index{Kind: kinds.Pod, Keys: func(o kinds.Object) []string {
		if p := o.(*corev1.Pod).Status.Phase; p == corev1.PodSucceeded || p == corev1.PodFailed {
			return []string{""}
		}
		return nil
	}}
	// PodsByClaim files pods under namespace/name of the volume claims that they
	// use.
	PodsByClaim = &Index{Kind: kinds.Pod, Keys: func(o kinds.Object) []string {
		var keys []string
		pod := o.(*corev1.Pod)
		for i := range pod.Spec.Volumes {
			if name := ClaimOf(pod, &pod.Spec.Volumes[i]); name != "" && !slices.Contains(keys, pod.Namespace+"/"+name) {
				keys = append(keys, pod.Namespace+"/"+name)
			}
		}
		return keys
	}}
	// PodsByDeviceClaim files pods under namespace/name of the claims to devices
	// that they have.
	PodsByDeviceClaim = &Index{Kind: kinds.Pod, Keys: func(o kinds.Object) []string {
		pod := o.(*corev1.Pod)
		if len(pod.Spec.ResourceClaims) == 0 && pod.Status.ExtendedResourceClaimStatus == nil {
			return nil
		}
		var keys []string
		for name := range resourceclaim.PodClaims(pod) {
			if key := pod.Namespace + "/" + name; !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
		return keys
	}}
	// PodsByClaimTemplate files pods under namespace/name of the templates of such
	// claims.
	PodsByClaimTemplate = &Index{Kind: kinds.Pod, Keys: func(o kinds.Object) []string {
		var keys []string
		pod := o.(*corev1.Pod)
		for i := range pod.Spec.ResourceClaims {
			if name := pod.Spec.ResourceClaims[i].ResourceClaimTemplateName; name != nil && !slices.Contains(keys, pod.Namespace+"/"+*name) {
				keys = append(keys, pod.Namespace+"/"+*name)
			}
		}
		return keys
	}}
	// DevicesByPool files slices of devices under driver/pool.
	DevicesByPool = &Index{Kind: kinds.ResourceSlice, Keys: func(o kinds.Object) []string {
		s := &o.(*resourcev1.ResourceSlice).Spec
		return []string{s.Driver + "/" + s.Pool.Name}
	}}
	// UnboundClaims files claims that have no volume yet under the class that
	// they ask for; "" of none.
	UnboundClaims = &Index{Kind: kinds.PersistentVolumeClaim, Keys: func(o kinds.Object) []string {
		c := o.(*corev1.PersistentVolumeClaim)
		if c.Spec.VolumeName != "" {
			return nil
		}
		class, _ := kinds.ClaimClass(c)
		return []string{class}
	}}
	// ClaimsByVolume files claims under the volume that they name.
	ClaimsByVolume = &Index{Kind: kinds.PersistentVolumeClaim, Keys: func(o kinds.Object) []string {
		if name := o.(*corev1.PersistentVolumeClaim).Spec.VolumeName; name != "" {
			return []string{name}
		}
		return nil
	}}
	// VolumesByClaim files volumes under namespace/name of the claim that they
	// name.
	VolumesByClaim = &Index{Kind: kinds.PersistentVolume, Keys: func(o kinds.Object) []string {
		if ref := o.(*corev1.PersistentVolume).Spec.ClaimRef; ref != nil {
			return []string{ref.Namespace + "/" + ref.Name}
		}
		return nil
	}}
	// FreeVolumes files volumes that anybody may claim under their class.
	FreeVolumes = &Index{Kind: kinds.PersistentVolume, Keys: func(o kinds.Object) []string {
		v := o.(*corev1.PersistentVolume)
		if v.Spec.ClaimRef != nil || v.Status.Phase != corev1.VolumeAvailable {
			return nil
		}
		return []string{kinds.VolumeClass(v)}
	}}
	// TrackedPods files pods that no job has counted yet under namespace/job.
	TrackedPods = &Index{Kind: kinds.Pod, Keys: func(o kinds.Object) []string {
		var keys []string
		for _, name := range JobsOfTracked(o) {
			keys = append(keys, o.GetNamespace()+"/"+name)
		}
		return keys
	}}
	// SlicesByService files endpoint slices under namespace/service.
	SlicesByService = &Index{Kind: kinds.EndpointSlice, Keys: func(o kinds.Object) []string {
		if svc := o.GetLabels()[discoveryv1.LabelServiceName]; svc != "" {
			return []string{o.GetNamespace() + "/" + svc}
		}
		return nil
	}}
	// ServicesByAddress files services under each of their cluster addresses.
	ServicesByAddress = &Index{Kind: kinds.Service, Keys: func(o kinds.Object) []string {
		ips := o.(*corev1.Service).Spec.ClusterIPs
		if len(ips) == 0 || ips[0] == corev1.ClusterIPNone {
			return nil
		}
		return ips
	}}
	// EndingServiceCIDRs files those that are being deleted under "".
	EndingServiceCIDRs = &Index{Kind: kinds.ServiceCIDR, Keys: func(o kinds.Object) []string {
		if o.GetDeletionTimestamp() == nil {
			return nil
		}
		return []string{""}
	}}
)

// Owned files the objects of every kind under the UIDs of their owners.
var Owned = &Index{Keys: func(o kinds.Object) []string {
	var uids []string
	for _, r := range o.GetOwnerReferences() {
		if !slices.Contains(uids, string(r.UID)) {
			uids = append(uids, string(r.UID))
		}
	}
	return uids
}}

// JobsOfTracked is the name of the job that is to count a pod, empty if it has
// lost it; none if the pod is not tracked, or another controller's.
func JobsOfTracked(pod kinds.Object) []string {
	if !slices.Contains(pod.GetFinalizers(), batchv1.JobTrackingFinalizer) {
		return nil
	}
	switch ref := metav1.GetControllerOfNoCopy(pod); {
	case ref == nil:
		return []string{""}
	case ref.Kind == kinds.Job.GVK.Kind && ref.APIVersion == batchv1.SchemeGroupVersion.String():
		return []string{ref.Name}
	}
	return nil
}

// ClaimOf is the claim that a pod's volume is of, also of one that is made for
// the pod; empty: of none.
func ClaimOf(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	}
	return ""
}

// SharedOf are those of the above that a view of these kinds can have.
func SharedOf(ks []*kinds.Kind) []*Index {
	return slices.DeleteFunc(Shared(), func(ix *Index) bool { return ix.Kind != nil && !slices.Contains(ks, ix.Kind) })
}

// Shared are all of the above.
func Shared() []*Index {
	return []*Index{Owned, PodsByOwner, ReplicaSetsByOwner, JobsByOwner, PodOrphans, ReplicaSetOrphans, RevisionsByOwner, RevisionOrphans, PodsByNode, FinishedPods, PodsByClaim, PodsByDeviceClaim, PodsByClaimTemplate, DevicesByPool, UnboundClaims, ClaimsByVolume, VolumesByClaim, FreeVolumes, TrackedPods, SlicesByService,
		ServicesByAddress, EndingServiceCIDRs}
}
