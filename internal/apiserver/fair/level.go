package fair

import (
	"context"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/util/shufflesharding"
)

// guess is how long a request is taken to last before it has ended; what it
// was wrong by is settled then. Upstream's figure.
const guess = 3 * time.Millisecond

// work is what queues are compared by: seats times nanoseconds.
type work int64

// level is one priority level: seats, and queues of those who wait for one.
// Queues share the seats by start-time fair queueing: each carries where its
// next request begins on a scale of work, and the one that is behind the most
// goes next. Who comes back begins no earlier than where the others are, so
// that nobody is served ahead for having been away, and no earlier than where
// he has left off.
type level struct {
	name string
	now  func() time.Time

	mu     sync.Mutex
	exempt bool
	limit  int                     // seats at once, for now
	dealer *shufflesharding.Dealer // nil: there are no queues, and who does not fit is sent away
	length int                     // most that wait in one queue
	widest int                     // most seats of one request

	seats, running           int // of requests that run
	seatsWaiting, waiting    int
	virtual, horizon         work           // where the last request began, and the furthest one has got
	dealt                    int            // turns the hand, so that its queues are used alike
	queues                   map[int]*queue // those that were ever used
	ready                    []*queue       // heap of those with somebody waiting, by next
	demand                   demand
	nominal, lowest, highest int // what the configuration gives, what it keeps, what it may borrow
	stats                    stats
	retry                    retry
}

type queue struct {
	next          work // where its next request begins
	first, last   *waiter
	length, seats int // that wait
	running       int
	place         int // in ready; -1: not there
}

type waiter struct {
	queue      *queue
	prev, next *waiter
	seats      int
	depth      int  // of the queue when it came, itself included
	arrived    work // where everybody was then
	granted    bool // under the level's lock
	wake       chan struct{}
}

// outcome of an attempt to enter.
type outcome int

const (
	entered outcome = iota
	full            // no seat, and no place to wait
	noQueue         // no seat, and no queues
	expired         // waited in vain
)

var reasons = [...]string{full: "queue-full", noQueue: "concurrency-limit", expired: "time-out"}

// enter takes seats, at once or when it is the flow's turn. waits is told how
// long the queue is that the request has joined.
func (l *level) enter(ctx context.Context, now time.Time, hash uint64, seats int, patience time.Duration, waits func(length int)) (*queue, outcome) {
	q, w, how := l.arrive(now, hash, seats)
	if w == nil {
		return q, how
	}
	waits(w.depth)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.wake:
		return q, entered
	case <-timer.C:
	case <-ctx.Done():
	}
	return q, l.giveUp(w)
}

// arrive lets the request in, sends it away or has it wait.
func (l *level) arrive(now time.Time, hash uint64, seats int) (*queue, *waiter, outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dealer == nil {
		if !l.exempt && !l.fits(seats) {
			return nil, nil, noQueue
		}
		l.begin(now, nil, seats)
		return nil, nil, entered
	}
	q := l.pick(hash)
	if l.waiting == 0 && l.seats < l.limit && l.fits(seats) {
		l.begin(now, q, seats)
		return q, nil, entered
	}
	if q.length >= l.length {
		return nil, nil, full
	}
	w := l.push(now, q, seats)
	l.dispatch(now)
	return q, w, entered
}

// giveUp waiting, unless the turn has come in the same moment.
func (l *level) giveUp(w *waiter) outcome {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.granted {
		return entered
	}
	l.remove(now, w)
	l.dispatch(now) // it may have been what did not fit
	l.rest()
	return expired
}

// fits: what is wider than the level runs alone.
func (l *level) fits(seats int) bool {
	return l.seats+seats <= l.limit || seats > l.limit && l.running == 0
}

// pick deals the flow its hand of queues and takes the emptiest.
func (l *level) pick(hash uint64) *queue {
	var room [15]int // the largest hand that fits the hash
	hand := l.dealer.DealIntoHand(hash, room[:])
	l.dealt++
	best, least := hand[l.dealt%len(hand)], int(^uint(0)>>1)
	if l.waiting > 0 {
		for i := range hand {
			card := hand[(l.dealt+i)%len(hand)]
			seats := 0
			if q := l.queues[card]; q != nil {
				seats = q.seats
			}
			if seats < least {
				best, least = card, seats
			}
		}
	}
	q := l.queues[best]
	if q == nil {
		q = &queue{place: -1}
		l.queues[best] = q
	}
	if q.running == 0 && q.length == 0 {
		q.next = max(q.next, l.virtual)
	}
	return q
}

// rest forgets who has had how much once nobody is there to be compared with.
func (l *level) rest() {
	if l.running == 0 && l.waiting == 0 {
		l.virtual = l.horizon
	}
}

// begin runs a request of q, or of no queue.
func (l *level) begin(now time.Time, q *queue, seats int) {
	l.seats += seats
	l.running++
	l.demand.set(now, l.seats+l.seatsWaiting)
	if q != nil {
		l.virtual = max(l.virtual, q.next)
		q.next += work(guess) * work(seats)
		l.horizon = max(l.horizon, q.next)
		q.running++
	}
}

// end gives seats back and lets others run.
func (l *level) end(now time.Time, q *queue, seats int, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seats -= seats
	l.running--
	l.demand.set(now, l.seats+l.seatsWaiting)
	if q != nil {
		q.running--
		q.next += work(took-guess) * work(seats)
		l.horizon = max(l.horizon, q.next)
		l.settle(q)
	}
	l.dispatch(now)
	l.rest()
}

// settle finds a queue's place after its next has changed: not before the time
// that its first request came, or what it did not use would add up.
func (l *level) settle(q *queue) {
	if q.first == nil {
		return
	}
	q.next = max(q.next, q.first.arrived)
	l.fix(q.place)
}

// dispatch runs who is behind the most, while there are seats.
func (l *level) dispatch(now time.Time) {
	for l.waiting > 0 && l.seats < l.limit {
		q := l.ready[0]
		w := q.first
		if !l.fits(w.seats) {
			return // it keeps its turn: narrow ones must not starve it
		}
		l.remove(now, w)
		l.begin(now, q, w.seats)
		l.settle(q)
		w.granted = true
		close(w.wake)
	}
}

func (l *level) push(now time.Time, q *queue, seats int) *waiter {
	w := &waiter{queue: q, seats: seats, arrived: l.virtual, wake: make(chan struct{}), prev: q.last}
	if q.last == nil {
		q.first = w
	} else {
		q.last.next = w
	}
	q.last = w
	q.length++
	w.depth = q.length
	q.seats += seats
	l.waiting++
	l.seatsWaiting += seats
	l.demand.set(now, l.seats+l.seatsWaiting)
	if q.place < 0 {
		q.place = len(l.ready)
		l.ready = append(l.ready, q)
	}
	l.settle(q)
	return w
}

// remove takes w out of its queue. The caller begins it, or gives it up.
func (l *level) remove(now time.Time, w *waiter) {
	q := w.queue
	if w.prev == nil {
		q.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		q.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	q.length--
	q.seats -= w.seats
	l.waiting--
	l.seatsWaiting -= w.seats
	l.demand.set(now, l.seats+l.seatsWaiting)
	if q.length > 0 {
		l.settle(q)
		return
	}
	end, at := len(l.ready)-1, q.place
	l.swap(at, end)
	l.ready[end] = nil
	l.ready = l.ready[:end]
	q.place = -1
	if at < end {
		l.fix(at)
	}
}

// fix restores the heap around place i.
func (l *level) fix(i int) {
	for i > 0 && l.ready[i].next < l.ready[(i-1)/2].next {
		l.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(l.ready); c++ {
			if l.ready[c].next < l.ready[least].next {
				least = c
			}
		}
		if least == i {
			return
		}
		l.swap(i, least)
		i = least
	}
}

func (l *level) swap(i, j int) {
	l.ready[i], l.ready[j] = l.ready[j], l.ready[i]
	l.ready[i].place, l.ready[j].place = i, j
}
