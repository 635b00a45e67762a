package kubelet

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// claimFinalizer keeps a claim until no pod uses it.
const claimFinalizer = "kubernetes.io/pvc-protection"

var (
	errClaimGoes    = errors.New("PVC is being deleted")
	errClaimUnbound = errors.New("PVC is not bound")
	errClaimEmpty   = errors.New("PVC has empty pvc.Spec.VolumeName")
	errElsewhere    = errors.New("no matching NodeSelectorTerms")
)

// PersistentVolume implements volume.Source. Claims and volumes are read anew
// each time: nodes may not watch them.
func (s *source) PersistentVolume(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (*corev1.PersistentVolume, error) {
	pv, err := s.claimed(ctx, pod, v)
	if err != nil {
		return nil, fmt.Errorf("Unable to attach or mount volumes: unmounted volumes=[%s], unattached volumes=[], failed to process volumes=[%s]: %w", v.Name, v.Name, err) //nolint:staticcheck // upstream's words
	}
	if a := pv.Spec.NodeAffinity; a != nil && a.Required != nil {
		if err := s.here(a.Required); err != nil {
			return nil, fmt.Errorf("MountVolume.NodeAffinity check failed for volume %q : %w", pv.Name, err)
		}
	}
	return pv, nil
}

// claimed is the volume that the claim has, if volume and claim agree.
func (s *source) claimed(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (*corev1.PersistentVolume, error) {
	name := view.ClaimOf(pod, v)
	claim, err := s.boundClaim(ctx, pod.Namespace, name)
	if err != nil {
		return nil, fmt.Errorf("error processing PVC %s/%s: %w", pod.Namespace, name, err)
	}
	if v.Ephemeral != nil && !metav1.IsControlledBy(claim, pod) {
		return nil, fmt.Errorf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", pod.Namespace, name, pod.Namespace, pod.Name)
	}
	pv, err := s.volumeFor(ctx, claim)
	if err != nil {
		return nil, fmt.Errorf("error processing PVC %s/%s: %w", pod.Namespace, name, err)
	}
	if m := pv.Spec.VolumeMode; m != nil && *m != corev1.PersistentVolumeFilesystem && mounts(pod, v.Name) {
		return nil, fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeMounts", v.Name, *m)
	}
	return pv, nil
}

func (s *source) boundClaim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	o, err := s.cfg.Objects.Get(ctx, kinds.PersistentVolumeClaim, namespace, name)
	if err != nil {
		return nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	}
	claim := o.(*corev1.PersistentVolumeClaim)
	switch {
	case claim.DeletionTimestamp != nil && !slices.Contains(claim.Finalizers, claimFinalizer):
		return nil, errClaimGoes
	case claim.Status.Phase != corev1.ClaimBound:
		return nil, errClaimUnbound
	case claim.Spec.VolumeName == "":
		return nil, errClaimEmpty
	}
	return claim, nil
}

func (s *source) volumeFor(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*corev1.PersistentVolume, error) {
	name := claim.Spec.VolumeName
	o, err := s.cfg.Objects.Get(ctx, kinds.PersistentVolume, "", name)
	if err != nil {
		return nil, fmt.Errorf("failed to fetch PV %s from API server: %w", name, err)
	}
	pv := o.(*corev1.PersistentVolume)
	switch ref := pv.Spec.ClaimRef; {
	case ref == nil:
		return nil, fmt.Errorf("found PV object %s but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", name)
	case ref.UID != claim.UID:
		return nil, fmt.Errorf("found PV object %s but its pv.Spec.ClaimRef.UID %s does not point to claim.UID %s", name, ref.UID, claim.UID)
	}
	return pv, nil
}

// here reports an error if the volume cannot be reached from this node.
func (s *source) here(required *corev1.NodeSelector) error {
	node := view.Now[*corev1.Node](s.cfg.View, kinds.Node, "", s.cfg.NodeName)
	if node == nil {
		return fmt.Errorf("node %q not found", s.cfg.NodeName)
	}
	ok, err := nodeaffinity.NewLazyErrorNodeSelector(required).Match(node)
	if err == nil && !ok {
		err = errElsewhere
	}
	return err
}

// mounts reports whether a container of the pod mounts the volume.
func mounts(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), func(c corev1.Container) bool {
		return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == name })
	})
}
