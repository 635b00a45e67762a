// Package scheduler finds a node for each pod that has none. A decision is a
// pure function of the cluster's state (filters, then scores) and a source of
// chance for ties; the state follows the view change by change; one loop, in
// Run or Step, decides pod after pod, assumes the answer at once and binds in
// the background. A pod that fits nowhere may make others of less priority go;
// otherwise it waits until an event makes room.
package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/view"
)

var (
	errNoView   = errors.New("scheduler: a view is needed")
	errNoClient = errors.New("scheduler: a client is needed")
	errPanic    = errors.New("scheduler: panic while deciding")
)

// Emitter takes events; it must not block.
type Emitter interface {
	Emit(plan.Event)
}

// Config of a scheduler. The view must hold Kinds.
type Config struct {
	View   *view.View
	Client client.Client
	Events Emitter          // optional: they are dropped
	Now    func() time.Time // optional: time.Now
	// Rand decides between nodes that are equally good. Optional.
	Rand *rand.Rand
	Log  *slog.Logger // optional
	// Profiles: pods that name none of them are not scheduled. None: the
	// default one.
	Profiles []Profile
	// Extenders that have a say, in this order.
	Extenders []Extender
	// EventsOf a profile, if they differ from Events; optional.
	EventsOf func(profile string) Emitter
	// Parallel bounds the writes under way. 0: 64, twice what one group commit
	// of the store takes.
	Parallel int
	// MinBackoff and MaxBackoff bound how long a pod that could not be
	// scheduled waits at least. 0: 1 s and 10 s, as upstream.
	MinBackoff, MaxBackoff time.Duration
	Metrics                prometheus.Registerer // optional
}

// Kinds that the scheduler reads.
func Kinds() []*kinds.Kind {
	return []*kinds.Kind{
		kinds.Namespace, kinds.Node, kinds.Pod, kinds.Service, kinds.ReplicationController, kinds.ReplicaSet, kinds.StatefulSet,
		kinds.PersistentVolumeClaim, kinds.PersistentVolume, kinds.PodDisruptionBudget,
		kinds.StorageClass, kinds.CSIDriver, kinds.CSINode, kinds.CSIStorageCapacity, kinds.VolumeAttachment,
		kinds.ResourceClaim, kinds.ResourceSlice, kinds.DeviceClass, kinds.DeviceTaintRule,
	}
}

// Scheduler assigns pods to nodes.
type Scheduler struct {
	view     *view.View
	client   client.Client
	events   Emitter
	now      func() time.Time
	rand     *rand.Rand
	log      *slog.Logger
	profiles map[string]*profile
	outside  *outside
	parallel int
	min, max time.Duration
	metrics  *metrics

	// What follows belongs to the loop.
	cluster  *cluster
	queue    *queue
	assumed  map[types.UID]*pod // placed by us, not yet seen so in the view
	inFlight int
	reserved map[types.UID]*reservation // of pods that are to get volumes first
	waits    []*reservation             // for claims to be bound, by deadline
	settled  []*reservation             // to be bound, or to be tried again
	cancel   func()                     // ends the subscription; nil: not started

	wakeup  chan struct{} // capacity 1
	mu      sync.Mutex    // guards what other goroutines hand to the loop
	changes []view.Change
	results []result
}

// profile is one that pods are scheduled by.
type profile struct {
	*rules
	events  Emitter
	decider *decider // nil: not started
}

// New checks the configuration; it starts nothing.
func New(c Config) (*Scheduler, error) {
	if c.View == nil {
		return nil, errNoView
	}
	if c.Client == nil {
		return nil, errNoClient
	}
	s := &Scheduler{
		view: c.View, client: c.Client, events: c.Events, now: c.Now, rand: c.Rand, log: c.Log,
		profiles: map[string]*profile{}, parallel: c.Parallel, min: c.MinBackoff, max: c.MaxBackoff,
		wakeup: make(chan struct{}, 1),
	}
	if s.events == nil {
		s.events = discard{}
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.rand == nil {
		s.rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.metrics, s.outside = newMetrics(), newOutside(c.Extenders, s.log)
	if err := s.take(&c); err != nil {
		return nil, err
	}
	if s.parallel == 0 {
		s.parallel = 64
	}
	if s.min == 0 {
		s.min = time.Second
	}
	if s.max == 0 {
		s.max = 10 * time.Second
	}
	if c.Metrics != nil {
		if err := s.metrics.register(c.Metrics); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// take in the profiles.
func (s *Scheduler) take(c *Config) error {
	list := c.Profiles
	if len(list) == 0 {
		list = []Profile{DefaultProfile()}
	}
	for i := range list {
		r, err := newRules(&list[i])
		if err != nil {
			return err
		}
		p := &profile{rules: r, events: s.events}
		if c.EventsOf != nil {
			p.events = c.EventsOf(list[i].Name)
		}
		s.profiles[list[i].Name] = p
	}
	return nil
}

// of is the profile of a pod; nil: the pod is not ours.
func (s *Scheduler) of(p *corev1.Pod) *profile { return s.profiles[p.Spec.SchedulerName] }

type discard struct{}

func (discard) Emit(plan.Event) {}

// Run schedules until ctx ends; it returns once no write is under way.
func (s *Scheduler) Run(ctx context.Context) error {
	if err := s.view.WaitSynced(ctx); err != nil {
		return nil // only ctx ends the wait
	}
	s.outside.within(ctx)
	s.start()
	defer s.Stop()
	var writes sync.WaitGroup
	defer writes.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	start := func(do func(context.Context) result) { writes.Go(func() { s.report(do(ctx)) }) }
	for {
		s.absorb()
		if ctx.Err() != nil {
			return nil
		}
		if s.inFlight < s.parallel && s.next(start) {
			continue
		}
		s.metrics.show(s.queue)
		// Without a pod in back-off nothing ticks.
		var tick <-chan time.Time
		if due := s.due(); !due.IsZero() && s.inFlight < s.parallel {
			timer.Reset(max(0, due.Sub(s.now())))
			tick = timer.C
		}
		select {
		case <-ctx.Done():
		case <-s.wakeup:
		case <-tick:
		}
	}
}

// Step takes in what happened and decides and binds one pod, without
// goroutines, for the simulation. It reports whether there was one. The view
// must have been filled before the first call.
func (s *Scheduler) Step(ctx context.Context) bool {
	s.outside.within(ctx)
	if s.cancel == nil {
		s.start()
	}
	s.absorb()
	if !s.next(func(do func(context.Context) result) { s.report(do(ctx)) }) {
		return false
	}
	s.absorb()
	return true
}

// next goes on with one pod; it reports whether there was one.
func (s *Scheduler) next(start func(func(context.Context) result)) bool {
	if s.goOn(start) {
		return true
	}
	w := s.queue.pop(s.now())
	if w != nil {
		s.schedule(w, start)
	}
	return w != nil
}

// NextDue is when the next pod's back-off ends, or its wait for volumes; zero:
// never. It is for Step's driver, which owns the time.
func (s *Scheduler) NextDue() time.Time {
	if s.queue == nil {
		return time.Time{}
	}
	return s.due()
}

func (s *Scheduler) due() time.Time {
	due := s.queue.next()
	if len(s.waits) > 0 && (due.IsZero() || s.waits[0].deadline.Before(due)) {
		due = s.waits[0].deadline
	}
	return due
}

// Stop ends a scheduler that was driven by Step, and forgets all it knew.
func (s *Scheduler) Stop() {
	if s.cancel != nil {
		s.cancel()
		s.cancel = nil
	}
	s.cluster, s.assumed, s.reserved, s.waits, s.settled = nil, nil, nil, nil, nil
	s.mu.Lock()
	s.changes, s.results = nil, nil
	s.mu.Unlock()
}

// start reads the view as it is and listens from then on. A change that comes
// in between is taken in twice, which is harmless.
func (s *Scheduler) start() {
	s.cluster, s.queue, s.assumed, s.inFlight = newCluster(), newQueue(s.min, s.max, s.metrics.came), map[types.UID]*pod{}, 0
	s.reserved, s.waits, s.settled = map[types.UID]*reservation{}, nil, nil
	for name, p := range s.profiles {
		p.decider = deciderBy(p.rules, s.outside, s.rand)
		p.decider.told = func(part, status string, took time.Duration) { s.metrics.point(name, part, status, took) }
	}
	wanted := map[*kinds.Kind]bool{}
	for _, k := range Kinds() {
		wanted[k] = true
	}
	s.cancel = s.view.Subscribe(func(c view.Change) {
		if wanted[c.Kind] {
			s.mu.Lock()
			s.changes = append(s.changes, c)
			s.mu.Unlock()
			s.kick()
		}
	})
	s.fill(s.view.Snapshot())
}

func (s *Scheduler) kick() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

// report hands the outcome of a write to the loop.
func (s *Scheduler) report(r result) {
	s.mu.Lock()
	s.results = append(s.results, r)
	s.mu.Unlock()
	s.kick()
}

// absorb takes in changes and outcomes, in the order in which they came. The
// outcomes come second: a bound pod that the view shows is then known already.
func (s *Scheduler) absorb() {
	s.mu.Lock()
	changes, results := s.changes, s.results
	s.changes, s.results = nil, nil
	s.mu.Unlock()
	for _, c := range changes {
		s.observe(c)
	}
	for _, r := range results {
		s.settle(r)
	}
	s.expire()
}
