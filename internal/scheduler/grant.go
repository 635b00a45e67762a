package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"knarr.dev/knarr/internal/kinds"
)

// grantTries is how often a claim is written that others change at the same time.
const grantTries = 5

// promiseGrants makes the next decisions see what the pod is going to have.
func (s *Scheduler) promiseGrants(r *reservation) {
	for _, g := range r.grants {
		if g.allocation != nil {
			s.cluster.promiseDevices(g.promised(), g.allocation)
		}
	}
	r.promised = true
}

// endGrants: what was promised is written by now, or is not going to be.
func (s *Scheduler) endGrants(r *reservation) {
	if !r.promised {
		return
	}
	r.promised = false
	for _, g := range r.grants {
		if g.allocation == nil {
			continue
		}
		s.cluster.withdrawDevices(g.promised())
		if s.cluster.held[g.claim.UID] == nil {
			s.happened(&event{what: deviceClaimChanged, name: keyOf(g.claim), freed: true})
		}
	}
}

// writeGrants gives the pod its claims, one after the other. A draft in the list
// becomes the claim that is made from it, which the loop looks at only later.
func (s *Scheduler) writeGrants(ctx context.Context, pod *corev1.Pod, list []grant) (done []kinds.Object, err error) {
	for i := range list {
		g := &list[i]
		if g.draft != nil {
			if g.claim, err = s.makeClaim(ctx, g.draft); err != nil {
				return done, err
			}
		}
		out, err := s.writeGrant(ctx, pod, *g)
		if err != nil {
			return done, err
		}
		done = append(done, out)
		if g.draft != nil {
			if err := s.tellClaim(ctx, pod, g); err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

func (s *Scheduler) writeGrant(ctx context.Context, pod *corev1.Pod, g grant) (*resourcev1.ResourceClaim, error) {
	claim, ref := g.claim, kinds.RefTo(kinds.ResourceClaim, g.claim)
	for try := 1; ; try++ {
		if err := g.allowed(claim); err != nil {
			return nil, err
		}
		out, err := s.updateGrant(ctx, pod, claim, g.allocation)
		if err == nil || !apierrors.IsConflict(err) || try == grantTries {
			return out, err
		}
		now, err := s.client.Get(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("get updated claim %s after conflict: %w", keyOf(g.claim), err)
		}
		claim = now.(*resourcev1.ResourceClaim)
	}
}

// allowed: the claim may still be given to the pod, as it is now.
func (g *grant) allowed(now *resourcev1.ResourceClaim) error {
	outrun := func(what string) error {
		return apierrors.NewConflict(resourcev1.Resource("resourceclaims"), now.Name, errors.New("claim "+keyOf(now)+" got "+what+" in the meantime"))
	}
	switch {
	case now.UID != g.claim.UID || now.DeletionTimestamp != nil:
		return outrun("deleted")
	case g.allocation != nil && now.Status.Allocation != nil:
		return outrun("allocated elsewhere")
	case g.allocation == nil && now.Status.Allocation == nil:
		return outrun("deallocated")
	}
	return nil
}

// updateGrant writes what is given and to whom in one update, once the claim
// cannot go away any more.
func (s *Scheduler) updateGrant(ctx context.Context, pod *corev1.Pod, claim *resourcev1.ResourceClaim, a *resourcev1.AllocationResult) (*resourcev1.ResourceClaim, error) {
	if a == nil && resourceclaim.IsReservedForPod(pod, claim, false) {
		return claim, nil // it only has to become ready
	}
	claim = claim.DeepCopy()
	if a != nil {
		if !slices.Contains(claim.Finalizers, resourcev1.Finalizer) {
			claim.Finalizers = append(claim.Finalizers, resourcev1.Finalizer)
			out, err := s.client.Update(ctx, kinds.RefTo(kinds.ResourceClaim, claim), claim)
			if err != nil {
				return nil, fmt.Errorf("add finalizer to claim %s: %w", keyOf(claim), err)
			}
			claim = out.(*resourcev1.ResourceClaim).DeepCopy()
		}
		claim.Status.Allocation = a.DeepCopy()
		now := metav1.NewTime(s.now())
		claim.Status.Allocation.AllocationTimestamp = &now
	}
	claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
	out, err := s.client.Update(ctx, kinds.RefTo(kinds.ResourceClaim, claim).WithSub("status"), claim)
	if err != nil {
		what := "reservation"
		if a != nil {
			what = "allocation and reservation"
		}
		return nil, fmt.Errorf("add %s to claim %s: %w", what, keyOf(claim), err)
	}
	return out.(*resourcev1.ResourceClaim), nil
}

// ready reports whether all devices of a reservation can be used, or why they
// are not going to be.
func (c *cluster) ready(r *reservation) (bool, error) {
	done := true
	for _, g := range r.grants {
		key := keyOf(g.claim)
		claim := c.deviceClaims[key]
		switch {
		case claim == nil || claim.UID != g.claim.UID:
			return false, fmt.Errorf("claim %s got deleted in the meantime", key)
		case claim.Status.Allocation == nil:
			return false, fmt.Errorf("claim %s got deallocated in the meantime", key)
		}
		for i := range claim.Status.Allocation.Devices.Results {
			d := &claim.Status.Allocation.Devices.Results[i]
			if failed := conditionOf(claim, d, d.BindingFailureConditions, true); failed != "" {
				return false, fmt.Errorf("claim %s: device %s/%s/%s failed with %s", key, d.Driver, d.Pool, d.Device, failed)
			}
			done = done && conditionOf(claim, d, d.BindingConditions, false) == ""
		}
	}
	return done, nil
}

// conditionOf is the first of the conditions of a device that is true, or that
// is not.
func conditionOf(claim *resourcev1.ResourceClaim, d *resourcev1.DeviceRequestAllocationResult, names []string, whether bool) string {
	for _, name := range names {
		isTrue := slices.ContainsFunc(claim.Status.Devices, func(s resourcev1.AllocatedDeviceStatus) bool {
			return s.Driver == d.Driver && s.Pool == d.Pool && s.Device == d.Device && sameShare(s.ShareID, d.ShareID) &&
				slices.ContainsFunc(s.Conditions, func(c metav1.Condition) bool { return c.Type == name && c.Status == metav1.ConditionTrue })
		})
		if isTrue == whether {
			return name
		}
	}
	return ""
}

func sameShare(a *string, b *types.UID) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return *a == string(*b)
}

// startRelease gives back what the pod has of the claims.
func (s *Scheduler) startRelease(pod *corev1.Pod, list []grant, start func(func(context.Context) result)) {
	if len(list) == 0 {
		return
	}
	s.inFlight++
	start(func(ctx context.Context) result {
		return result{pod: pod, released: true, written: s.ungrant(ctx, pod, list)}
	})
}

// ungrant takes the pod out of the claims. Where that fails, whoever looks after
// claims does it once the pod has ended.
func (s *Scheduler) ungrant(ctx context.Context, pod *corev1.Pod, list []grant) (done []kinds.Object) {
	for _, g := range list {
		out, err := s.release(ctx, pod, g)
		switch {
		case err == nil && out != nil:
			done = append(done, out)
		case err != nil && !inCourse(err):
			s.log.Warn("cannot release the pod's claim", "pod", keyOf(pod), "claim", keyOf(g.claim), "error", err)
		}
	}
	return done
}

// release one claim. Devices that were allocated for the pod alone, or that were
// not made ready, are given back: it may get others the next time, or be gone.
// nil without an error: the pod does not have the claim.
func (s *Scheduler) release(ctx context.Context, pod *corev1.Pod, g grant) (kinds.Object, error) {
	if g.draft != nil {
		if g.claim == g.draft.claim {
			return nil, nil // it was not made
		}
		return nil, s.unmakeClaim(ctx, pod, g.claim)
	}
	o, err := s.client.Get(ctx, kinds.RefTo(kinds.ResourceClaim, g.claim))
	if err != nil {
		return nil, err
	}
	now := o.(*resourcev1.ResourceClaim)
	if now.UID != g.claim.UID || !resourceclaim.IsReservedForPod(pod, now, false) {
		return nil, nil
	}
	if a := now.Status.Allocation; a != nil && len(now.Status.ReservedFor) == 1 && (g.allocation != nil || conditional(a)) {
		if out, err := s.deallocate(ctx, now); !apierrors.IsConflict(err) {
			return out, err
		}
	}
	return s.unreserve(ctx, pod, now)
}

// startDeallocation of a claim that nobody uses.
func (s *Scheduler) startDeallocation(pod *corev1.Pod, claim *resourcev1.ResourceClaim, start func(func(context.Context) result)) {
	s.inFlight++
	start(func(ctx context.Context) result {
		r := result{pod: pod, released: true}
		out, err := s.deallocate(ctx, claim)
		if r.err = err; err == nil {
			r.written = []kinds.Object{out}
		}
		return r
	})
}

func (s *Scheduler) deallocate(ctx context.Context, claim *resourcev1.ResourceClaim) (kinds.Object, error) {
	claim = claim.DeepCopy()
	claim.Status = resourcev1.ResourceClaimStatus{}
	return objectOf(s.client.Update(ctx, kinds.RefTo(kinds.ResourceClaim, claim).WithSub("status"), claim))
}

// unreserve takes the pod out of those that may use a claim, whoever else was
// added since.
func (s *Scheduler) unreserve(ctx context.Context, pod *corev1.Pod, claim *resourcev1.ResourceClaim) (kinds.Object, error) {
	data := fmt.Sprintf(`{"metadata":{"uid":%q},"status":{"reservedFor":[{"$patch":"delete","uid":%q}]}}`, claim.UID, pod.UID)
	return objectOf(s.client.Patch(ctx, kinds.RefTo(kinds.ResourceClaim, claim).WithSub("status"), types.StrategicMergePatchType, []byte(data)))
}

func objectOf(o runtime.Object, err error) (kinds.Object, error) {
	if err != nil {
		return nil, err
	}
	return o.(kinds.Object), nil
}
