package dra

import (
	"context"
	"fmt"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"knarr.dev/knarr/internal/kinds"
)

const (
	// wipeAfter is how long a driver may be away before its slices go (upstream's
	// figure): long enough to be restarted, and short, because pods are still sent
	// here meanwhile.
	wipeAfter = 30 * time.Second
	// Upstream's back-off of an attempt that failed.
	wipeRetry    = time.Second
	wipeRetryMax = 5 * time.Minute
	// idle is for how long there is nothing to wipe that nobody told of.
	idle = time.Hour

	everyDriver = ""
)

// wipe is due at a time.
type wipe struct {
	at       time.Time
	failures int
}

// settle whether slices of a driver have to go; the caller holds the lock.
func (c *Claims) settle(driver string) {
	for _, p := range c.drivers[driver] {
		if p.connected {
			delete(c.wipes, driver)
			return
		}
	}
	if _, due := c.wipes[driver]; due {
		return // what it is due at holds: the driver is away since then
	}
	c.wipes[driver] = wipe{at: time.Now().Add(wipeAfter)}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// wipeDue wipes what is due, and returns how long there is nothing to do.
func (c *Claims) wipeDue(ctx context.Context) time.Duration {
	c.mu.Lock()
	var due []string
	for driver, w := range c.wipes {
		if !time.Now().Before(w.at) {
			due = append(due, driver)
		}
	}
	c.mu.Unlock()
	for _, driver := range due {
		c.wiped(driver, c.wipe(ctx, driver))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := idle
	for _, w := range c.wipes {
		next = min(next, time.Until(w.at))
	}
	return max(next, 0)
}

// wiped notes what came of it.
func (c *Claims) wiped(driver string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, still := c.wipes[driver]
	switch {
	case !still: // the driver is back
	case err == nil:
		delete(c.wipes, driver)
	default:
		w.failures++
		w.at = time.Now().Add(min(wipeRetry<<min(w.failures-1, 16), wipeRetryMax))
		c.wipes[driver] = w
		c.cfg.Log.Warn("cannot delete the resource slices of a driver that is away; trying again", "driver", driver, "error", err)
	}
}

// wipe the slices of a driver, or of all of them, on this node.
func (c *Claims) wipe(ctx context.Context, driver string) error {
	selector := fields.Set{resourcev1.ResourceSliceSelectorNodeName: c.cfg.Node}
	if driver != everyDriver {
		selector[resourcev1.ResourceSliceSelectorDriver] = driver
	}
	out, err := c.cfg.Client.List(ctx, kinds.ResourceSlice, "", metav1.ListOptions{FieldSelector: selector.String()})
	if err != nil {
		return err
	}
	list, ok := out.(*resourcev1.ResourceSliceList)
	if !ok {
		return fmt.Errorf("the answer is a %T", out)
	}
	for i := range list.Items {
		s := &list.Items[i]
		_, err := c.cfg.Client.Delete(ctx, kinds.RefTo(kinds.ResourceSlice, s), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	return nil
}
