package admission

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/auth/podrefs"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// pod: status of its own pods, their deletion and eviction, mirror pods.
func (p nodeRestriction) pod(ctx context.Context, r *Request, node string) (string, error) {
	switch {
	case r.Operation == Create && r.Ref.Sub == "":
		return p.createPod(r, node), nil
	case r.Operation == Create && r.Ref.Sub == "eviction":
		return p.evict(ctx, r, node)
	case r.Operation == Delete && r.Ref.Sub == "":
		if pod, ok := r.Old.(*corev1.Pod); !ok || pod.Spec.NodeName != node {
			return fmt.Sprintf("node %q can only delete pods with spec.nodeName set to itself", node), nil
		}
		return "", nil
	case r.Operation == Update && r.Ref.Sub == "status":
		return podStatus(r, node), nil
	case r.Ref.Sub != "":
		return fmt.Sprintf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", r.Ref.Sub), nil
	}
	return fmt.Sprintf("unexpected operation %q, node %q can only create and delete mirror pods", r.Operation, node), nil
}

func podStatus(r *Request, node string) string {
	old, ok := r.Old.(*corev1.Pod)
	obj, ok2 := r.Object.(*corev1.Pod)
	switch {
	case !ok || !ok2:
		return fmt.Sprintf("unexpected type %T", r.Object)
	case old.Spec.NodeName != node:
		return fmt.Sprintf("node %q can only update pod status for pods with spec.nodeName set to itself", node)
	case !maps.Equal(old.Labels, obj.Labels):
		return fmt.Sprintf("node %q cannot update labels through pod status", node)
	case !equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, obj.Status.ResourceClaimStatuses):
		return fmt.Sprintf("node %q cannot update resource claim statuses", node)
	case !equality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, obj.Status.ExtendedResourceClaimStatus):
		return fmt.Sprintf("node %q cannot update extended resource claim status", node)
	case !equality.Semantic.DeepEqual(old.Status.NodeAllocatableResourceClaimStatuses, obj.Status.NodeAllocatableResourceClaimStatuses):
		return fmt.Sprintf("node %q cannot update node allocatable resource claim statuses", node)
	}
	return ""
}

func (p nodeRestriction) evict(ctx context.Context, r *Request, node string) (string, error) {
	e, ok := r.Object.(*policyv1.Eviction)
	if !ok {
		return fmt.Sprintf("unexpected type %T", r.Object), nil
	}
	name := r.Ref.Name
	if name == "" {
		name = e.Name
	}
	if name == "" {
		return "could not determine pod from request data", nil
	}
	pod, err := find[*corev1.Pod](ctx, p.c, kinds.Pod, r.Ref.Namespace, name)
	if err != nil {
		return "", err
	}
	if pod == nil {
		return "", apierrors.NewNotFound(kinds.Pod.GroupResource(), name)
	}
	if pod.Spec.NodeName != node {
		return fmt.Sprintf("node %s can only evict pods with spec.nodeName set to itself", node), nil
	}
	return "", nil
}

// createPod: a node creates mirror pods only, which show what it runs from
// files. One that named anything in the API would give the node rights on it.
func (p nodeRestriction) createPod(r *Request, node string) string {
	pod, ok := r.Object.(*corev1.Pod)
	if !ok {
		return fmt.Sprintf("unexpected type %T", r.Object)
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
		return fmt.Sprintf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	}
	if pod.Spec.NodeName != node {
		return fmt.Sprintf("node %q can only create pods with spec.nodeName set to itself", node)
	}
	if why := p.owner(pod, node); why != "" {
		return why
	}
	for k := range podrefs.All(pod) {
		what := k.Resource
		if k == kinds.ServiceAccount {
			what = "a service account"
		}
		return fmt.Sprintf("node %q can not create pods that reference %s", node, what)
	}
	if len(pod.Spec.ResourceClaims) > 0 { // CVE-2025-4563
		return fmt.Sprintf("node %q can not create pods that reference resourceclaims", node)
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			switch {
			case s.ClusterTrustBundle != nil:
				return fmt.Sprintf("node %q can not create pods that reference clustertrustbundles", node)
			case s.ServiceAccountToken != nil:
				return fmt.Sprintf("node %q can not create pods that reference a service account", node)
			case s.PodCertificate != nil:
				return fmt.Sprintf("node %q can not create pods that reference podcertificates", node)
			}
		}
	}
	return ""
}

// owner of a mirror pod is its node and nothing else, so that the pod goes with
// the node and nobody is kept from deleting the node.
func (p nodeRestriction) owner(pod *corev1.Pod, node string) string {
	if len(pod.OwnerReferences) == 0 {
		return fmt.Sprintf("node %q can only create pods with an owner reference set to itself", node)
	}
	if len(pod.OwnerReferences) > 1 {
		return fmt.Sprintf("node %q can only create pods with a single owner reference set to itself", node)
	}
	o := pod.OwnerReferences[0]
	switch {
	case o.APIVersion != "v1" || o.Kind != "Node" || o.Name != node:
		return fmt.Sprintf("node %q can only create pods with an owner reference set to itself", node)
	case o.Controller == nil || !*o.Controller:
		return fmt.Sprintf("node %q can only create pods with a controller reference set to itself", node)
	case o.BlockOwnerDeletion != nil && *o.BlockOwnerDeletion:
		return fmt.Sprintf("node %q must not set blockOwnerDeletion on an owner reference", node)
	}
	if n := view.Now[*corev1.Node](p.c.View, kinds.Node, "", node); n == nil || n.UID != o.UID {
		var uid types.UID
		if n != nil {
			uid = n.UID
		}
		return fmt.Sprintf("node %s UID mismatch: expected %s got %s", node, uid, o.UID)
	}
	return ""
}
