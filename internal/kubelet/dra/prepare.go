package dra

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
)

// Prepare the claims of a pod. What another pod of the node uses already is
// prepared once. It blocks until all drivers have answered; after an error it
// may be called again.
func (c *Claims) Prepare(ctx context.Context, pod *corev1.Pod) error {
	if err := c.preparePod(ctx, pod); err != nil {
		return fmt.Errorf("prepare dynamic resources: %w", err)
	}
	return nil
}

func (c *Claims) preparePod(ctx context.Context, pod *corev1.Pod) error {
	keys, _, err := named(pod)
	if err != nil || len(keys) == 0 {
		return err
	}
	unlock, err := c.lock(ctx, keys)
	if err != nil {
		return err
	}
	defer unlock()
	found, err := Check(ctx, c.cfg.Claim, pod)
	if err != nil {
		return err
	}
	// A driver that is away is no reason to keep a pod from being deleted:
	// nothing is noted before all are there.
	for _, rc := range found {
		for _, driver := range driversOf(rc.Status.Allocation) {
			if _, err := c.driver(driver); err != nil {
				return err
			}
		}
	}
	todo, err := c.note(pod.UID, found)
	if err != nil || len(todo) == 0 {
		return err
	}
	for _, driver := range drivers(todo) {
		if err := c.prepareBy(ctx, driver, todo); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range todo {
		cl.prepared = true
	}
	return c.save()
}

// note that a pod uses claims, before drivers hear of it. It returns those that
// are not prepared.
func (c *Claims) note(pod types.UID, found []*resourcev1.ResourceClaim) (todo []*claim, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rc := range found {
		if old := c.claims[types.NamespacedName{Namespace: rc.Namespace, Name: rc.Name}]; old != nil && old.UID != rc.UID {
			return nil, fmt.Errorf("old ResourceClaim with same name %s and different UID %s still exists (previous pod force-deleted?!)", rc.Name, old.UID)
		}
	}
	for _, rc := range found {
		key := types.NamespacedName{Namespace: rc.Namespace, Name: rc.Name}
		cl := c.claims[key]
		if cl == nil {
			cl = &claim{Namespace: rc.Namespace, Name: rc.Name, UID: rc.UID, Drivers: map[string][]device{}}
			for _, driver := range driversOf(rc.Status.Allocation) {
				cl.Drivers[driver] = nil
			}
			c.claims[key] = cl
		}
		if !slices.Contains(cl.Pods, pod) {
			cl.Pods = append(cl.Pods, pod)
		}
		if !cl.prepared {
			todo = append(todo, cl)
		}
	}
	return todo, c.save()
}

// drivers of claims, in order.
func drivers(list []*claim) []string {
	names := map[string]bool{}
	for _, cl := range list {
		for name := range cl.Drivers {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// batch of what a driver is asked about.
func batch(driver string, list []*claim) (claims []*claim, wire []*drav1.Claim) {
	for _, cl := range list {
		if _, its := cl.Drivers[driver]; its {
			claims = append(claims, cl)
			wire = append(wire, &drav1.Claim{Namespace: cl.Namespace, Name: cl.Name, Uid: string(cl.UID)})
		}
	}
	return claims, wire
}

func (c *Claims) prepareBy(ctx context.Context, driver string, todo []*claim) error {
	claims, wire := batch(driver, todo)
	p, err := c.driver(driver)
	if err != nil {
		return err
	}
	asked, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	got, err := p.prepare(asked, wire)
	if err != nil {
		return fmt.Errorf("NodePrepareResources: %w", err)
	}
	if err := answered("NodePrepareResources", claims, got); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range claims {
		var list []device
		for _, d := range got[string(cl.UID)].GetDevices() {
			list = append(list, device{Pool: d.PoolName, Device: d.DeviceName, Share: d.ShareId, Requests: d.RequestNames, IDs: d.CdiDeviceIds})
		}
		cl.Drivers[driver] = list
	}
	return nil
}

// answered reports what a driver's answer says of claims that failed, or what
// is wrong with the answer.
func answered[A interface{ GetError() string }](call string, claims []*claim, got map[string]A) error {
	asked := map[string]bool{}
	missing := 0
	for _, cl := range claims {
		asked[string(cl.UID)] = true
		a, ok := got[string(cl.UID)]
		if !ok {
			missing++
		} else if why := a.GetError(); why != "" {
			return fmt.Errorf("%s failed for ResourceClaim %s: %s", call, cl.Name, why)
		}
	}
	for uid := range got {
		if !asked[uid] {
			return fmt.Errorf("%s returned result for unknown claim UID %s", call, uid)
		}
	}
	if missing > 0 {
		return fmt.Errorf("%s skipped %d ResourceClaims", call, missing)
	}
	return nil
}

// Unprepare the claims of a pod that has ended: a claim that another pod uses
// stays as it is. After an error it may be called again.
func (c *Claims) Unprepare(ctx context.Context, pod types.UID) error {
	c.mu.Lock()
	keys := c.of(pod)
	c.mu.Unlock()
	if len(keys) == 0 {
		return nil
	}
	unlock, err := c.lock(ctx, keys)
	if err != nil {
		return fmt.Errorf("unprepare dynamic resources: %w", err)
	}
	defer unlock()
	var last []*claim
	c.mu.Lock()
	for _, key := range keys {
		switch cl := c.claims[key]; {
		case cl == nil:
		case len(cl.Pods) == 1 && cl.Pods[0] == pod:
			last = append(last, cl)
		default:
			cl.Pods = slices.DeleteFunc(cl.Pods, func(uid types.UID) bool { return uid == pod })
		}
	}
	c.mu.Unlock()
	var errs []error
	failed := map[*claim]bool{}
	for _, driver := range drivers(last) {
		claims, wire := batch(driver, last)
		if err := c.unprepareBy(ctx, driver, claims, wire); err != nil {
			errs = append(errs, err)
			for _, cl := range claims {
				failed[cl] = true
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range last {
		// What one driver took back is prepared again for whoever comes next.
		cl.prepared = false
		if !failed[cl] {
			delete(c.claims, cl.key())
		}
	}
	if err := errors.Join(append(errs, c.save())...); err != nil {
		return fmt.Errorf("unprepare dynamic resources: %w", err)
	}
	return nil
}

func (c *Claims) unprepareBy(ctx context.Context, driver string, claims []*claim, wire []*drav1.Claim) error {
	p, err := c.driver(driver)
	if err != nil {
		return err
	}
	asked, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	got, err := p.unprepare(asked, wire)
	if err != nil {
		return fmt.Errorf("NodeUnprepareResources: %w", err)
	}
	return answered("NodeUnprepareResources", claims, got)
}
