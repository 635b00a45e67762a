package reconcile

import (
	"container/heap"
	"math/rand/v2"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// item is one key of one controller that is ready, running, held or due.
// Others are forgotten, so that the memory follows the work, not the cluster.
type item struct {
	ctl *controller
	key Key

	state    state
	dirty    bool // woken while it ran or was held
	holds    []hold
	failures int // since the last pass that came to its end
	stale    int // passes since then that only looked at an old state
	failure  *Failure

	since time.Time // when it became ready, or began to run
	due   time.Time // zero: never; while held: when the hold ends anyway
	after time.Time // while held: when the key is due afterwards
	heap  int       // position in queue.due; -1: not there
}

type state int

const (
	waiting state = iota // held or due, or about to be forgotten
	ready
	running
)

// hold is what the view must show before the key is planned again.
type hold struct {
	kind *kinds.Kind
	rev  int64 // the kind's revision, or, if 0:
	gone kinds.Ref
	uid  string // the object with this UID is gone or being deleted
}

func (h hold) satisfied(s *view.Snapshot) bool {
	if !s.Has(h.kind) {
		return true // a custom kind that is gone
	}
	if h.rev > 0 {
		return s.Rev(h.kind) >= h.rev
	}
	o := view.Get[kinds.Object](s, h.kind, h.gone.Namespace, h.gone.Name)
	return o == nil || string(o.GetUID()) != h.uid || o.GetDeletionTimestamp() != nil
}

type queue struct {
	due  dueHeap
	held []*item
	turn int // the controller whose turn it is
}

func (q *queue) next() time.Time {
	if len(q.due) == 0 {
		return time.Time{}
	}
	return q.due[0].due
}

type woken struct {
	ctl *controller
	key Key
}

// seed wakes everything that exists; the caller holds the lock.
func (r *Runtime) seed(ctl *controller, s *view.Snapshot) {
	if ctl.For == nil {
		r.wake(ctl, Key{})
	} else {
		for o := range view.List[kinds.Object](s, ctl.For, "") {
			r.wake(ctl, KeyOf(o))
		}
	}
	for _, w := range ctl.Watches {
		for _, kind := range s.Kinds() {
			if !kind.Is(w.Kind) {
				continue
			}
			for o := range view.List[kinds.Object](s, kind, "") {
				for _, k := range r.watchKeys(ctl, w, s, view.Change{Kind: kind, New: o}) {
					r.wake(ctl, k)
				}
			}
		}
	}
}

// keysOf maps changes to keys, through the declarations of all controllers.
func (r *Runtime) keysOf(s *view.Snapshot, changes []view.Change) []woken {
	var out []woken
	for _, c := range changes {
		for _, ctl := range r.ctls {
			if ctl.For == c.Kind {
				out = append(out, woken{ctl, KeyOf(c.Object())})
			}
			for _, k := range ctl.Owns {
				if k == c.Kind {
					out = ctl.owners(out, c)
				}
			}
			for _, w := range ctl.Watches {
				if !c.Kind.Is(w.Kind) {
					continue
				}
				for _, k := range r.watchKeys(ctl, w, s, c) {
					out = append(out, woken{ctl, k})
				}
			}
		}
	}
	return out
}

// owners appends the For objects that control, or controlled, what changed.
func (ctl *controller) owners(out []woken, c view.Change) []woken {
	if ctl.For == nil {
		return append(out, woken{ctl, Key{}})
	}
	for _, key := range controllersOf(ctl.For, c) {
		out = append(out, woken{ctl, key})
	}
	return out
}

// controllersOf are the objects of k that control, or controlled, what changed.
func controllersOf(k *kinds.Kind, c view.Change) (keys []Key) {
	var last string
	for _, o := range []kinds.Object{c.New, c.Old} {
		if o == nil {
			continue
		}
		ref := metav1.GetControllerOfNoCopy(o)
		if ref == nil || ref.Kind != k.GVK.Kind || string(ref.UID) == last {
			continue
		}
		if group(ref.APIVersion) != k.GVK.Group {
			continue
		}
		last = string(ref.UID)
		key := Key{Name: ref.Name}
		if k.Namespaced {
			key.Namespace = o.GetNamespace()
		}
		keys = append(keys, key)
	}
	return keys
}

func group(apiVersion string) string {
	for i := range apiVersion {
		if apiVersion[i] == '/' {
			return apiVersion[:i]
		}
	}
	return ""
}

// watchKeys calls a controller's mapping; one that panics loses that wake-up
// only, the resync makes up for it.
func (r *Runtime) watchKeys(ctl *controller, w Watch, s *view.Snapshot, c view.Change) (keys []Key) {
	defer func() {
		if p := recover(); p != nil {
			r.panicked(ctl, KeyOf(c.Object()), p)
		}
	}()
	return w.Keys(s, c)
}

// wake makes a key ready, now or as soon as it may run. The caller holds the
// lock, as for everything below.
func (r *Runtime) wake(ctl *controller, key Key) {
	it := ctl.items[key]
	if it == nil {
		it = &item{ctl: ctl, key: key, heap: -1}
		ctl.items[key] = it
	}
	r.wakeItem(it)
}

func (r *Runtime) wakeItem(it *item) {
	switch {
	case it.state == ready:
	case it.state == running || len(it.holds) > 0:
		it.dirty = true
	default:
		it.state, it.since = ready, r.now()
		it.ctl.told.adds.Inc()
		it.ctl.ready = append(it.ctl.ready, it)
		r.cond.Signal()
	}
}

// take gives the next ready key, controllers by turns, or nil.
func (r *Runtime) take() *item {
	for range r.ctls {
		ctl := r.ctls[r.queue.turn]
		r.queue.turn = (r.queue.turn + 1) % len(r.ctls)
		if len(ctl.ready) > 0 && ctl.running < ctl.Workers {
			it := ctl.ready[0]
			ctl.ready[0] = nil
			ctl.ready = ctl.ready[1:]
			r.begin(it)
			return it
		}
	}
	return nil
}

// pick gives any ready key, by rng.
func (r *Runtime) pick(rng *rand.Rand) *item {
	n := 0
	for _, ctl := range r.ctls {
		n += len(ctl.ready)
	}
	if n == 0 {
		return nil
	}
	n = rng.IntN(n)
	for _, ctl := range r.ctls {
		if n >= len(ctl.ready) {
			n -= len(ctl.ready)
			continue
		}
		it := ctl.ready[n]
		ctl.ready = append(ctl.ready[:n:n], ctl.ready[n+1:]...)
		r.begin(it)
		return it
	}
	return nil
}

func (r *Runtime) begin(it *item) {
	now := r.now()
	it.ctl.told.waited.Observe(now.Sub(it.since).Seconds())
	it.state, it.dirty, it.since = running, false, now
	it.ctl.running++
	r.setDue(it, time.Time{})
}

// finish files a key after its pass.
func (r *Runtime) finish(it *item, o outcome) {
	it.state = waiting
	it.ctl.running--
	it.failure = o.failure
	if r.closed || !r.started {
		return
	}
	first, now := r.queue.next(), r.now()
	switch {
	case o.again:
		if o.stale && it.stale < promptTries {
			it.stale++
		} else {
			it.failures++
		}
		it.ctl.told.retries.Inc()
		r.setDue(it, now.Add(r.backoff(it.failures)))
	default:
		it.failures, it.stale = 0, 0
		if o.after > 0 {
			r.setDue(it, now.Add(o.after))
		} else if it.ctl.Resync > 0 && o.exists {
			r.setDue(it, now.Add(it.ctl.Resync))
		}
	}
	if len(o.holds) > 0 {
		it.holds, it.after = o.holds, it.due
		r.setDue(it, now.Add(r.timing.holdLimit))
		r.queue.held = append(r.queue.held, it)
		r.kick() // the view may show the write already
	} else {
		r.settle(it)
	}
	if len(it.ctl.ready) > 0 {
		r.cond.Signal() // this controller has a place for another worker
	}
	if !r.queue.next().Equal(first) {
		r.kick()
	}
}

// settle moves a key without holds on: it is ready, or due, or forgotten.
func (r *Runtime) settle(it *item) {
	if it.dirty {
		it.dirty = false
		r.wakeItem(it)
	} else if it.due.IsZero() {
		delete(it.ctl.items, it.key)
	}
}

// release lets go of the keys whose writes the view shows by now.
func (r *Runtime) release(s *view.Snapshot) {
	still := r.queue.held[:0]
	for _, it := range r.queue.held {
		for len(it.holds) > 0 && it.holds[0].satisfied(s) {
			it.holds = it.holds[1:]
		}
		if len(it.holds) > 0 {
			still = append(still, it)
			continue
		}
		it.holds = nil
		r.setDue(it, it.after)
		r.settle(it)
	}
	clear(r.queue.held[len(still):])
	r.queue.held = still
}

// fire wakes the keys that are due.
func (r *Runtime) fire(now time.Time) {
	for len(r.queue.due) > 0 && !r.queue.due[0].due.After(now) {
		it := r.queue.due[0]
		r.setDue(it, time.Time{})
		if len(it.holds) > 0 {
			r.log.Warn("view does not show a write, planning anyway", "controller", it.ctl.Name, "key", it.key.String())
			it.holds = nil
			r.queue.held = slices.DeleteFunc(r.queue.held, func(x *item) bool { return x == it })
		}
		r.wakeItem(it)
	}
}

func (r *Runtime) setDue(it *item, at time.Time) {
	it.due = at
	switch {
	case at.IsZero() && it.heap >= 0:
		heap.Remove(&r.queue.due, it.heap)
	case at.IsZero():
	case it.heap >= 0:
		heap.Fix(&r.queue.due, it.heap)
	default:
		heap.Push(&r.queue.due, it)
	}
}

// promptTries is how often a key is planned again without a longer wait because
// somebody else was faster: that is the course of things, not a failure. Who is
// never the faster one waits like others.
const promptTries = 10

// backoff doubles from the minimum, with a fifth of jitter so that keys that
// failed together do not come back together.
func (r *Runtime) backoff(failures int) time.Duration {
	d := r.timing.minBackoff
	for i := 1; i < failures && d < r.timing.maxBackoff; i++ {
		d *= 2
	}
	d = min(d, r.timing.maxBackoff)
	r.randMu.Lock()
	defer r.randMu.Unlock()
	return d + time.Duration(r.rand.Int64N(int64(d)/5+1))
}

// dueHeap orders items by due time; it implements heap.Interface.
type dueHeap []*item

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heap, h[j].heap = i, j
}
func (h *dueHeap) Push(x any) {
	it := x.(*item)
	it.heap = len(*h)
	*h = append(*h, it)
}
func (h *dueHeap) Pop() any {
	old := *h
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	it.heap = -1
	return it
}
