package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/view"
)

var (
	errNoView   = errors.New("reconcile: a view is needed")
	errNoClient = errors.New("reconcile: a client is needed")
)

// Emitter takes the events that plans return; it must not block.
type Emitter interface {
	Emit(plan.Event)
}

// Config of a runtime. Everything that is not marked optional is needed.
type Config struct {
	Controllers []Controller
	View        *view.View
	// Client returns the client with the identity of a controller.
	Client func(controller string) client.Client
	// Events returns where the events of a reporter go. Optional: they are dropped.
	Events func(controller string) Emitter
	Log    *slog.Logger     // optional
	Now    func() time.Time // optional: time.Now
	// Rand gives back-off its jitter and names their suffixes. Optional.
	Rand *rand.Rand
	// Workers bounds the keys planned at once over all controllers. 0: 16.
	Workers int
	// Parallel bounds the writes at once within one key's parallel actions.
	// 0: 64, twice what one group commit of the store takes.
	Parallel int
	// MinBackoff and MaxBackoff bound the wait after a failed pass, which
	// doubles each time. 0: 5 ms and 5 min.
	MinBackoff, MaxBackoff time.Duration
	// HoldLimit is how long a key waits for the view to show its own last
	// write before it is planned anyway, with a warning. 0: 5 min.
	HoldLimit time.Duration
	// Metrics is where the counters are registered. Optional.
	Metrics prometheus.Registerer
}

// Runtime drives controllers.
type Runtime struct {
	view    *view.View
	log     *slog.Logger
	now     func() time.Time
	ctls    []*controller
	execute *executor
	metrics *metrics
	workers int
	timing  timing

	wakeup chan struct{} // capacity 1: the dispatcher has something to look at

	pendingMu sync.Mutex
	pending   []view.Change

	mu      sync.Mutex
	cond    *sync.Cond // a key became ready, or closed
	queue   queue
	closed  bool
	started bool
	cancel  func() // ends the subscription

	randMu sync.Mutex
	rand   *rand.Rand
}

type timing struct {
	minBackoff, maxBackoff, holdLimit time.Duration
}

// controller is a declared one with what the runtime keeps for it.
type controller struct {
	Controller
	client  client.Client
	events  Emitter
	told    queued
	items   map[Key]*item
	ready   []*item
	running int
}

// New checks the configuration; it starts nothing.
func New(c Config) (*Runtime, error) {
	if c.View == nil {
		return nil, errNoView
	}
	if c.Client == nil {
		return nil, errNoClient
	}
	if err := Check(c.Controllers); err != nil {
		return nil, err
	}
	r := &Runtime{
		view: c.View, log: c.Log, now: c.Now, rand: c.Rand, workers: c.Workers,
		timing: timing{c.MinBackoff, c.MaxBackoff, c.HoldLimit},
		wakeup: make(chan struct{}, 1),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.rand == nil {
		r.rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if r.workers == 0 {
		r.workers = 16
	}
	r.timing.fill()
	r.cond = sync.NewCond(&r.mu)
	r.metrics = newMetrics(r)
	if c.Metrics != nil {
		if err := r.metrics.register(c.Metrics); err != nil {
			return nil, err
		}
	}
	parallel := c.Parallel
	if parallel == 0 {
		parallel = 64
	}
	r.execute = &executor{log: r.log, metrics: r.metrics, parallel: parallel}
	for _, d := range c.Controllers {
		for _, m := range d.Metrics {
			if c.Metrics != nil {
				if err := c.Metrics.Register(m); err != nil {
					return nil, fmt.Errorf("cannot register the metrics of %s: %w", d.Name, err)
				}
			}
		}
		ctl := &controller{Controller: d, client: c.Client(d.Name), told: r.metrics.of(d.Name), items: map[Key]*item{}, events: discard{}}
		if ctl.Workers == 0 {
			ctl.Workers = 1
		}
		if c.Events != nil {
			ctl.events = c.Events(cmp.Or(d.Reporter, d.Name))
		}
		r.ctls = append(r.ctls, ctl)
	}
	return r, nil
}

func (t *timing) fill() {
	if t.minBackoff == 0 {
		t.minBackoff = 5 * time.Millisecond
	}
	if t.maxBackoff == 0 {
		t.maxBackoff = 5 * time.Minute
	}
	if t.holdLimit == 0 {
		t.holdLimit = 5 * time.Minute
	}
}

type discard struct{}

func (discard) Emit(plan.Event) {}

// Run waits for the view's first content and then drives the controllers until
// ctx ends; it returns once no plan and no write is under way any more.
func (r *Runtime) Run(ctx context.Context) error {
	if err := r.view.WaitSynced(ctx); err != nil {
		return nil // only ctx ends the wait
	}
	r.start()
	defer r.stop()
	var wg sync.WaitGroup
	for range r.workers {
		wg.Go(func() { r.work(ctx) })
	}
	r.dispatch(ctx)
	r.mu.Lock()
	r.closed = true
	r.cond.Broadcast()
	r.mu.Unlock()
	wg.Wait()
	return nil
}

// start subscribes and wakes every key that exists.
func (r *Runtime) start() {
	cancel := r.view.Subscribe(r.collect)
	s := r.view.Snapshot()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancel, r.closed, r.started = cancel, false, true
	for _, ctl := range r.ctls {
		r.seed(ctl, s)
	}
}

func (r *Runtime) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancel()
	r.started = false
	r.queue = queue{}
	for _, ctl := range r.ctls {
		ctl.items, ctl.ready = map[Key]*item{}, nil
	}
}

// collect is called by the view, under its lock.
func (r *Runtime) collect(c view.Change) {
	r.pendingMu.Lock()
	r.pending = append(r.pending, c)
	r.pendingMu.Unlock()
	r.kick()
}

func (r *Runtime) kick() {
	select {
	case r.wakeup <- struct{}{}:
	default:
	}
}

// dispatch turns changes, progress of the view and time into ready keys.
func (r *Runtime) dispatch(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		moved := r.view.Moved()
		next, held := r.turn()
		// Only keys that wait for the view care that it moved without a
		// change, and only a due key needs the timer: otherwise nothing ticks.
		if !held {
			moved = nil
		}
		var tick <-chan time.Time
		if !next.IsZero() {
			timer.Reset(max(0, next.Sub(r.now())))
			tick = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wakeup:
		case <-moved:
		case <-tick:
		}
	}
}

// turn takes in what happened; it returns when the next key is due, and
// whether keys wait for the view.
func (r *Runtime) turn() (next time.Time, held bool) {
	r.pendingMu.Lock()
	changes := r.pending
	r.pending = nil
	r.pendingMu.Unlock()
	s := r.view.Snapshot()
	woken := r.keysOf(s, changes)
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range woken {
		r.wake(w.ctl, w.key)
	}
	r.release(s)
	r.fire(now)
	return r.queue.next(), len(r.queue.held) > 0
}

// work plans keys until the runtime is closed.
func (r *Runtime) work(ctx context.Context) {
	for {
		r.mu.Lock()
		it := r.take()
		for it == nil && !r.closed {
			r.cond.Wait()
			it = r.take()
		}
		closed := r.closed
		r.mu.Unlock()
		if closed {
			return
		}
		r.pass(ctx, it)
	}
}

// Step drives the runtime without goroutines: it takes in what happened and
// plans one key, picked by rng among the ready ones. It reports whether there
// was one. The view must have been filled before the first call.
func (r *Runtime) Step(ctx context.Context, rng *rand.Rand) bool {
	if !r.started {
		r.start()
	}
	r.turn()
	r.mu.Lock()
	it := r.pick(rng)
	r.mu.Unlock()
	if it == nil {
		return false
	}
	r.execute.parallel = 1
	r.pass(ctx, it)
	return true
}

// NextDue is when the next key wants to be planned although nothing changes;
// zero: never. It is for Step's driver, which owns the time.
func (r *Runtime) NextDue() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queue.next()
}

// Stop ends a runtime that was driven by Step.
func (r *Runtime) Stop() {
	if r.started {
		r.stop()
	}
}
