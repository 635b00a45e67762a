package scheduler

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

// makeClaim from a draft; its name is the API server's to choose.
func (s *Scheduler) makeClaim(ctx context.Context, d *draft) (*resourcev1.ResourceClaim, error) {
	claim := d.claim.DeepCopy()
	claim.UID = ""
	out, err := s.client.Create(ctx, kinds.RefTo(kinds.ResourceClaim, claim), claim)
	if err != nil {
		return d.claim, fmt.Errorf("create claim for extended resources %s: %w", claim.GenerateName, err)
	}
	return out.(*resourcev1.ResourceClaim), nil
}

// tellClaim writes into the pod's status which of its containers gets what of
// the claim that was made for it: the kubelet goes by that.
func (s *Scheduler) tellClaim(ctx context.Context, pod *corev1.Pod, g *grant) error {
	err := s.patch(ctx, pod, map[string]any{"extendedResourceClaimStatus": corev1.PodExtendedResourceClaimStatus{ResourceClaimName: g.claim.Name, RequestMappings: g.draft.mappings}})
	if err != nil {
		return fmt.Errorf("update pod %s ExtendedResourceClaimStatus: %w", keyOf(pod), err)
	}
	return nil
}

// startUnmaking of a claim that is left of an attempt before.
func (s *Scheduler) startUnmaking(pod *corev1.Pod, claim *resourcev1.ResourceClaim, start func(func(context.Context) result)) {
	s.inFlight++
	start(func(ctx context.Context) result {
		return result{pod: pod, released: true, err: s.unmakeClaim(ctx, pod, claim)}
	})
}

// unmakeClaim deletes a claim that was made for a pod, unless the pod has a node
// after all, which views may tell late.
func (s *Scheduler) unmakeClaim(ctx context.Context, pod *corev1.Pod, claim *resourcev1.ResourceClaim) error {
	o, err := s.client.Get(ctx, kinds.RefTo(kinds.Pod, pod))
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return err
	default:
		if now := o.(*corev1.Pod); now.UID == pod.UID && now.Spec.NodeName != "" {
			return nil
		}
	}
	ref := kinds.RefTo(kinds.ResourceClaim, claim)
	for try := 1; ; try++ {
		o, err := s.client.Get(ctx, ref)
		if apierrors.IsNotFound(err) || err == nil && o.(*resourcev1.ResourceClaim).UID != claim.UID {
			return nil
		}
		if err != nil {
			return err
		}
		now := o.(*resourcev1.ResourceClaim)
		if at := slices.Index(now.Finalizers, resourcev1.Finalizer); at >= 0 {
			now = now.DeepCopy()
			now.Finalizers = slices.Delete(now.Finalizers, at, at+1)
			if _, err = s.client.Update(ctx, ref, now); apierrors.IsConflict(err) && try < grantTries {
				continue
			}
			if err != nil {
				return err
			}
		}
		break
	}
	_, err = s.client.Delete(ctx, ref, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &claim.UID}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
