package hollow

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// tracker follows pods through the view: when each was made, bound and running.
type tracker struct {
	now func() time.Time

	mu      sync.Mutex
	pods    map[types.UID]*times
	changes int // of everything in the view
	bound   []time.Duration
	running []time.Duration // since the pod was bound
	total   []time.Duration // since it was made
	runs    int             // at the moment
	moved   chan struct{}   // closed at the next change of a pod
}

type times struct {
	made, bound time.Time
	running     bool
}

func newTracker(now func() time.Time) *tracker {
	return &tracker{now: now, pods: map[types.UID]*times{}, moved: make(chan struct{})}
}

// changed is called under the view's lock.
func (t *tracker) changed(c view.Change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changes++
	if c.Kind != kinds.Pod {
		return
	}
	p := c.Object().(*corev1.Pod)
	now := t.now()
	at := t.pods[p.UID]
	if at == nil {
		at = &times{made: now}
		t.pods[p.UID] = at
	}
	if at.bound.IsZero() && p.Spec.NodeName != "" {
		at.bound = now
		t.bound = append(t.bound, now.Sub(at.made))
	}
	runs := c.New != nil && p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil
	if runs != at.running {
		at.running = runs
		if runs {
			t.runs++
			t.running, t.total = append(t.running, now.Sub(at.bound)), append(t.total, now.Sub(at.made))
		} else {
			t.runs--
		}
	}
	if c.New == nil {
		delete(t.pods, p.UID)
	}
	close(t.moved)
	t.moved = make(chan struct{})
}

// count of what there is.
type count struct {
	pods, bound, running, changes int
}

func (t *tracker) count() (count, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return count{pods: len(t.pods), bound: len(t.bound), running: t.runs, changes: t.changes}, t.moved
}

// await a condition on what there is. It is asked again after a change, but not
// more often than every few milliseconds.
func (t *tracker) await(ctx context.Context, done func(count) bool) error {
	for {
		c, moved := t.count()
		if done(c) {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reset forgets the times that were taken so far.
func (t *tracker) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bound, t.running, t.total = nil, nil, nil
}

// taken are the times, sorted.
func (t *tracker) taken() (bound, running, total []time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sorted := func(d []time.Duration) []time.Duration {
		d = slices.Clone(d)
		slices.Sort(d)
		return d
	}
	return sorted(t.bound), sorted(t.running), sorted(t.total)
}

// quantile of sorted times; 0 of none.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	return d[min(len(d)-1, int(q*float64(len(d))))]
}
