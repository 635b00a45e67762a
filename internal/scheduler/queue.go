package scheduler

import (
	"container/heap"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// place of a pod in the queue.
type place int

const (
	nowhere  place = iota
	active         // to be decided as soon as possible
	backing        // to be decided at its time
	waiting        // for an event that may help
	inFlight       // assumed on a node, being bound
)

// queued is a pod that has no node yet.
type queued struct {
	pod      *pod
	place    place
	arrival  uint64
	since    time.Time // when it was first seen
	attempts int
	refused  uint32    // by which filters, while waiting
	due      time.Time // the end of its back-off
	heap     int
	told     *written // the last write of its status; nil: none
}

// written is a write of a pod's status. err may be read once done is closed.
type written struct {
	done chan struct{}
	err  error
}

// queue orders pods: those of higher priority first, then those that came
// first. A pod that did not fit waits until something happens that may help,
// and at least for its back-off.
type queue struct {
	min, max time.Duration
	all      map[types.UID]*queued
	active   activeHeap
	backing  dueHeap
	// waiting by the set of filters that refused: an event that none of them
	// minds costs nothing, however many pods wait.
	waiting  map[uint32]map[*queued]bool
	arrivals uint64
	came     func(queue, event string) // is told of every pod that comes
}

func newQueue(min, max time.Duration, came func(queue, event string)) *queue {
	return &queue{min: min, max: max, came: came, all: map[types.UID]*queued{}, waiting: map[uint32]map[*queued]bool{}}
}

// add takes in a pod, or a new state of one, which may fit now.
func (q *queue) add(p *pod, now time.Time) {
	w := q.all[p.obj.UID]
	if w == nil {
		q.arrivals++
		w = &queued{pod: p, arrival: q.arrivals, since: now, heap: -1}
		q.all[p.obj.UID] = w
		q.move(w, active)
		q.came("active", podAdd)
		return
	}
	if w.place == inFlight {
		w.pod = p
		return
	}
	q.move(w, nowhere)
	w.pod = p
	q.ready(w, now, podUpdate)
}

func (q *queue) remove(uid types.UID) {
	if w := q.all[uid]; w != nil {
		q.move(w, nowhere)
		delete(q.all, uid)
	}
}

// pop takes the next pod out, or returns nil. The pod is in flight until
// failed, retry or remove says what became of it.
func (q *queue) pop(now time.Time) *queued {
	for len(q.backing) > 0 && !q.backing[0].due.After(now) {
		q.move(q.backing[0], active)
		q.came("active", backoffComplete)
	}
	if len(q.active) == 0 {
		return nil
	}
	w := q.active[0]
	q.move(w, inFlight)
	w.attempts++
	return w
}

// failed files a pod that fits nowhere until an event helps.
func (q *queue) failed(w *queued, refused uint32, now time.Time) {
	w.refused = refused
	w.due = now.Add(q.backoff(w.attempts))
	q.move(w, waiting)
	q.came("unschedulable", attemptFailed)
}

// held files a pod of which it was clear without an attempt that it has to wait
// for an event: nothing has to be backed off from.
func (q *queue) held(w *queued, refused uint32) {
	w.attempts--
	w.refused, w.due = refused, time.Time{}
	q.move(w, waiting)
	q.came("unschedulable", attemptFailed)
}

// retry files a pod that fitted, but could not be bound.
func (q *queue) retry(w *queued, now time.Time) {
	w.due = now.Add(q.backoff(w.attempts))
	q.move(w, nowhere)
	q.ready(w, now, attemptFailed)
}

// ready makes a pod active, now or at the end of its back-off.
func (q *queue) ready(w *queued, now time.Time, event string) {
	if w.due.After(now) {
		q.move(w, backing)
		q.came("backoff", event)
	} else {
		q.move(w, active)
		q.came("active", event)
	}
}

// happened wakes the waiting pods that helped says yes to.
func (q *queue) happened(now time.Time, event string, helped func(*pod, uint32) bool) {
	for refused, set := range q.waiting {
		for w := range set {
			if helped(w.pod, refused) {
				q.move(w, nowhere)
				q.ready(w, now, event)
			}
		}
	}
}

// wake makes a pod that waits ready, whatever refused it.
func (q *queue) wake(uid types.UID, now time.Time, event string) {
	if w := q.all[uid]; w != nil && w.place == waiting {
		q.move(w, nowhere)
		q.ready(w, now, event)
	}
}

// hasten ends a pod's back-off, without waking it if it waits for an event.
func (q *queue) hasten(uid types.UID, now time.Time) {
	w := q.all[uid]
	if w == nil {
		return
	}
	if w.place == backing {
		q.move(w, active)
		q.came("active", backoffComplete)
	}
	w.due = now
}

func (q *queue) backoff(attempts int) time.Duration {
	d := q.min
	for i := 1; i < attempts && d < q.max; i++ {
		d *= 2
	}
	return min(d, q.max)
}

// next is when the next pod's back-off ends; zero: none is in back-off.
func (q *queue) next() time.Time {
	if len(q.backing) == 0 {
		return time.Time{}
	}
	return q.backing[0].due
}

func (q *queue) move(w *queued, to place) {
	switch w.place {
	case active:
		heap.Remove(&q.active, w.heap)
	case backing:
		heap.Remove(&q.backing, w.heap)
	case waiting:
		set := q.waiting[w.refused]
		if delete(set, w); len(set) == 0 {
			delete(q.waiting, w.refused)
		}
	}
	w.place = to
	switch to {
	case active:
		heap.Push(&q.active, w)
	case backing:
		heap.Push(&q.backing, w)
	case waiting:
		if q.waiting[w.refused] == nil {
			q.waiting[w.refused] = map[*queued]bool{}
		}
		q.waiting[w.refused][w] = true
	}
}

// activeHeap implements heap.Interface.
type activeHeap []*queued

func (h activeHeap) Len() int { return len(h) }
func (h activeHeap) Less(i, j int) bool {
	if a, b := h[i].pod.priority(), h[j].pod.priority(); a != b {
		return a > b
	}
	return h[i].arrival < h[j].arrival
}
func (h activeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heap, h[j].heap = i, j
}
func (h *activeHeap) Push(x any) {
	w := x.(*queued)
	w.heap = len(*h)
	*h = append(*h, w)
}
func (h *activeHeap) Pop() any { return popLast((*[]*queued)(h)) }

// dueHeap implements heap.Interface.
type dueHeap []*queued

func (h dueHeap) Len() int { return len(h) }
func (h dueHeap) Less(i, j int) bool {
	if !h[i].due.Equal(h[j].due) {
		return h[i].due.Before(h[j].due)
	}
	return h[i].arrival < h[j].arrival
}
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heap, h[j].heap = i, j
}
func (h *dueHeap) Push(x any) {
	w := x.(*queued)
	w.heap = len(*h)
	*h = append(*h, w)
}
func (h *dueHeap) Pop() any { return popLast((*[]*queued)(h)) }

func popLast(h *[]*queued) *queued {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	w.heap = -1
	return w
}
