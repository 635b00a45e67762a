// Package leader elects, over a Lease, the one of several servers whose
// controllers or scheduler act (docs/adr/0004). A leader acts for as long as its
// lease lasts after its last renewal was sent, by its own clock; others take the
// lease when they have seen it unchanged for longer than that, by theirs. A leader
// that cannot renew stops acting and stands for election again: its process goes
// on. Alone, a leader renews rarely; it does so quickly as long as somebody says
// that he waits.
package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/view"
)

var (
	errNoView     = errors.New("leader: a view is needed")
	errNoClient   = errors.New("leader: a client is needed")
	errNoRevision = errors.New("leader: the store's revision is needed")
	errNoIdentity = errors.New("leader: an identity is needed")
	// errOver is what writes are refused with once a term is over.
	errOver = fmt.Errorf("leader: the term is over: %w", context.Canceled)
)

// Timing of an election. Durations of leases are whole seconds.
type Timing struct {
	// Alone is how long a lease lasts while nobody is known to wait for it, and
	// RenewAlone how often it is renewed then.
	Alone, RenewAlone time.Duration
	// Watched and RenewWatched hold while somebody waits.
	Watched, RenewWatched time.Duration
	// Grace is what candidates wait longer than a lease lasts: for requests of
	// the former holder that are under way, and for clocks that do not go at
	// the same pace.
	Grace time.Duration
	// Retry is the pause after a write that failed.
	Retry time.Duration
	// Heed is how long a holder believes that somebody waits, Speak how often
	// that is said.
	Heed, Speak time.Duration
}

// Default is a hand-over within 1.6 s of the holder's last renewal: 1 s that its
// lease lasts, half a second of grace, and the time of a few writes. Alone the
// figures are upstream's, whose candidates wait for 15 s.
func Default() Timing {
	return Timing{
		Alone: 15 * time.Second, RenewAlone: 10 * time.Second,
		Watched: time.Second, RenewWatched: 300 * time.Millisecond,
		Grace: 500 * time.Millisecond, Retry: 100 * time.Millisecond,
		Heed: time.Minute, Speak: 20 * time.Second,
	}
}

// Emitter takes events; it must not block.
type Emitter interface {
	Emit(plan.Event)
}

// Config of an elector. Everything that is not marked optional is needed.
type Config struct {
	// Lease that is fought for.
	Lease types.NamespacedName
	// Identity of this candidate. No two that run may have the same; one that
	// comes back under the same takes its lease at once.
	Identity string
	View     *view.View // must hold leases, and all that whoever leads looks at
	Client   client.Client
	// Revision is the store's present one. A leader begins when the view has
	// reached the one that was present after it was elected: before, it might
	// do again what the former one has done.
	Revision func(context.Context) (int64, error)
	// Reach helps the view to get to a revision; it blocks until it is there.
	// Optional.
	Reach func(ctx context.Context, rev int64) error

	Timing  *Timing               // optional: Default
	Events  Emitter               // optional: they are dropped
	Now     func() time.Time      // optional: time.Now
	Log     *slog.Logger          // optional
	Metrics prometheus.Registerer // optional
}

// Elector takes part in one election.
type Elector struct {
	cfg      Config
	ref      kinds.Ref
	slowpath prometheus.Counter
	wakeup   chan struct{} // capacity 1

	mu      sync.Mutex
	self    candidacy
	told    int   // the term whose begin was told
	present int64 // the store's revision after the present term began; 0: not known yet
}

// New checks the configuration; it starts nothing.
func New(c Config) (*Elector, error) {
	switch {
	case c.View == nil:
		return nil, errNoView
	case c.Client == nil:
		return nil, errNoClient
	case c.Revision == nil:
		return nil, errNoRevision
	case c.Identity == "":
		return nil, errNoIdentity
	}
	if c.Timing == nil {
		t := Default()
		c.Timing = &t
	}
	if c.Events == nil {
		c.Events = discard{}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	e := &Elector{cfg: c, wakeup: make(chan struct{}, 1),
		ref:  kinds.Ref{Kind: kinds.Lease, Namespace: c.Lease.Namespace, Name: c.Lease.Name},
		self: candidacy{ref: c.Lease, identity: c.Identity, timing: *c.Timing}}
	return e, e.register()
}

type discard struct{}

func (discard) Emit(plan.Event) {}

// Leads tells whether this candidate may act now.
func (e *Elector) Leads() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.self.leads(e.cfg.Now())
}

// look takes in what the view shows; the caller holds the lock.
func (e *Elector) look() {
	s := e.cfg.View.Snapshot()
	e.self.see(view.Get[*coordinationv1.Lease](s, kinds.Lease, e.ref.Namespace, e.ref.Name), max(1, s.Rev(kinds.Lease)), e.cfg.Now())
}

// turn does what is due: at most one write. It returns when to come back although
// nothing changes.
func (e *Elector) turn(ctx context.Context) (due time.Time, wrote bool) {
	e.mu.Lock()
	e.look()
	now := e.cfg.Now()
	w, due := e.self.decide(now)
	if w == nil {
		e.mu.Unlock()
		return due, false
	}
	leads := e.self.leads(now)
	e.self.send(w, now)
	// A second try must find some of the time that is left.
	limit := e.cfg.Timing.Watched
	if leads {
		limit = max(e.self.until.Sub(now)/2, time.Millisecond)
	}
	e.mu.Unlock()
	e.put(ctx, w, limit, leads)
	return now, true
}

// put sends a write and takes in what came of it.
func (e *Elector) put(ctx context.Context, w *write, limit time.Duration, leads bool) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer, err := e.send(ctx, w)
	outrun := apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
	if outrun {
		if leads {
			e.slowpath.Inc()
		}
		answer, err = e.cfg.Client.Get(ctx, e.ref)
		if apierrors.IsNotFound(err) {
			answer, err = nil, nil
		}
	}
	l, ok := answer.(*coordinationv1.Lease)
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.cfg.Now()
	switch {
	case err == nil && outrun:
		e.self.see(l, 0, now) // nil: there is none
	case err == nil && ok:
		e.self.done(w, l, now)
	default:
		e.self.fail(now)
		e.cfg.Log.Debug("cannot write a lease", "lease", e.ref.String(), "error", err)
	}
}

func (e *Elector) send(ctx context.Context, w *write) (runtime.Object, error) {
	if w.verb == plan.Create {
		ref := e.ref
		ref.Name = ""
		return e.cfg.Client.Create(ctx, ref, w.lease)
	}
	return e.cfg.Client.Update(ctx, e.ref, w.lease)
}

// current is the present term, 0 for none; what begins or ends is told.
func (e *Elector) current() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	term := 0
	if e.self.leads(e.cfg.Now()) {
		term = e.self.term
	}
	if term == e.told {
		return term
	}
	e.present = 0
	if e.told != 0 {
		e.tell("stopped leading")
	}
	if term != 0 {
		e.tell("became leader")
	}
	e.told = term
	return term
}

// tell in an event and in the log.
func (e *Elector) tell(what string) {
	e.cfg.Log.Info("leader election", "lease", e.ref.String(), "identity", e.cfg.Identity, "what", what)
	ev := plan.Event{Regarding: e.ref, Type: corev1.EventTypeNormal, Reason: "LeaderElection", Message: e.cfg.Identity + " " + what}
	if e.self.lease != nil {
		ev.UID = e.self.lease.UID
	}
	e.cfg.Events.Emit(ev)
}

// Step is Run without goroutines, for the simulation: it does what is due, and
// tells the present term, once its leader may begin; 0: none.
func (e *Elector) Step(ctx context.Context) (term int, wrote bool) {
	_, wrote = e.turn(ctx)
	term = e.current()
	if term == 0 {
		return 0, wrote
	}
	if e.present == 0 {
		rev, err := e.cfg.Revision(ctx)
		if err != nil {
			return 0, wrote
		}
		e.present = rev
	}
	if !e.cfg.View.Reached(e.present) {
		return 0, wrote
	}
	return term, wrote
}

// NextDue is when Step has something to do although nothing changes.
func (e *Elector) NextDue() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.look()
	_, due := e.self.decide(e.cfg.Now())
	return due
}

// Release gives the lease up at once, if it is held: whoever led must have
// stopped to act.
func (e *Elector) Release(ctx context.Context) {
	for range 3 { // a write that was given up may have come through all the same
		e.mu.Lock()
		w := e.self.release(e.cfg.Now())
		e.mu.Unlock()
		if w == nil || ctx.Err() != nil {
			return
		}
		e.put(ctx, w, e.cfg.Timing.Watched, true)
	}
}
