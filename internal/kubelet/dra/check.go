package dra

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
)

var (
	errNotAllocated = errors.New("not allocated")
	errSkips        = errors.New("DRAOptionalNodeOperations feature gate is disabled on kubelet")
)

func compare(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// named are the claims of a pod, in order, and whether each must be the pod's
// own.
func named(pod *corev1.Pod) ([]types.NamespacedName, map[types.NamespacedName]bool, error) {
	own := map[types.NamespacedName]bool{}
	for i := range pod.Spec.ResourceClaims {
		name, mustOwn, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, nil, err
		}
		if name != nil { // else it needs none
			key := types.NamespacedName{Namespace: pod.Namespace, Name: *name}
			own[key] = own[key] || mustOwn
		}
	}
	if e := pod.Status.ExtendedResourceClaimStatus; e != nil && e.ResourceClaimName != "" {
		own[types.NamespacedName{Namespace: pod.Namespace, Name: e.ResourceClaimName}] = true
	}
	return slices.SortedFunc(maps.Keys(own), compare), own, nil
}

// Check that a pod may use the claims that it names, and that they have their
// devices.
func Check(ctx context.Context, get Getter, pod *corev1.Pod) ([]*resourcev1.ResourceClaim, error) {
	keys, own, err := named(pod)
	if err != nil {
		return nil, err
	}
	var out []*resourcev1.ResourceClaim
	for _, key := range keys {
		rc, err := get(ctx, key.Namespace, key.Name)
		if err != nil {
			return nil, fmt.Errorf("fetch ResourceClaim %s: %w", key.Name, err)
		}
		if own[key] {
			if err := resourceclaim.IsForPod(pod, rc, false); err != nil {
				return nil, err
			}
		}
		if !resourceclaim.IsReservedForPod(pod, rc, false) {
			return nil, fmt.Errorf("pod %s (%s) is not allowed to use ResourceClaim %s (%s)", pod.Name, pod.UID, rc.Name, rc.UID)
		}
		if rc.Status.Allocation == nil {
			return nil, fmt.Errorf("ResourceClaim %s: %w", rc.Name, errNotAllocated)
		}
		if skips(rc.Status.Allocation) {
			return nil, fmt.Errorf("ResourceClaim %s: %w", rc.Name, errSkips)
		}
		out = append(out, rc)
	}
	return out, nil
}

// skips reports whether a driver wants to be left out, which is an alpha feature.
func skips(a *resourcev1.AllocationResult) bool {
	return slices.ContainsFunc(a.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool { return len(r.SkipNodeOperations) > 0 })
}

// driversOf an allocation, in order.
func driversOf(a *resourcev1.AllocationResult) []string {
	names := map[string]bool{}
	for i := range a.Devices.Results {
		names[a.Devices.Results[i].Driver] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// use of a claim by a container.
type use struct {
	ref     corev1.ResourceClaim // as the container has it; empty: by an extended resource
	claim   types.NamespacedName
	request string // empty: all of them
}

// uses of claims by a container, in its order.
func uses(pod *corev1.Pod, c *corev1.Container) ([]use, error) {
	var out []use
	for _, ref := range c.Resources.Claims {
		i := slices.IndexFunc(pod.Spec.ResourceClaims, func(p corev1.PodResourceClaim) bool { return p.Name == ref.Name })
		if i < 0 {
			return nil, fmt.Errorf("the pod has no resource claim %q", ref.Name)
		}
		name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err
		}
		if name != nil {
			out = append(out, use{ref, types.NamespacedName{Namespace: pod.Namespace, Name: *name}, ref.Request})
		}
	}
	e := pod.Status.ExtendedResourceClaimStatus
	if e == nil {
		return out, nil
	}
	for _, m := range e.RequestMappings {
		if q, asked := c.Resources.Requests[corev1.ResourceName(m.ResourceName)]; m.ContainerName == c.Name && asked && !q.IsZero() {
			out = append(out, use{claim: types.NamespacedName{Namespace: pod.Namespace, Name: e.ResourceClaimName}, request: m.RequestName})
		}
	}
	return out, nil
}

// IDs of the devices that the runtime must give to a container (CDI).
func (c *Claims) IDs(pod *corev1.Pod, ct *corev1.Container) ([]string, error) {
	list, err := uses(pod, ct)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for _, u := range list {
		cl := c.claims[u.claim]
		if cl == nil || !slices.Contains(cl.Pods, pod.UID) {
			return nil, fmt.Errorf("unable to get information for ResourceClaim %s", u.claim.Name)
		}
		for d := range cl.devices(u.request) {
			for _, id := range d.IDs {
				if !slices.Contains(ids, id) {
					ids = append(ids, id)
				}
			}
		}
	}
	return ids, nil
}

// devices of a request, or of all, with their drivers, in order.
func (c *claim) devices(request string) func(func(*device, string) bool) {
	return func(yield func(*device, string) bool) {
		for _, driver := range slices.Sorted(maps.Keys(c.Drivers)) {
			for i := range c.Drivers[driver] {
				d := &c.Drivers[driver][i]
				if (request == "" || len(d.Requests) == 0 || slices.Contains(d.Requests, request)) && !yield(d, driver) {
					return
				}
			}
		}
	}
}
