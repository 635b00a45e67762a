// Package fair decides which request runs now, which waits and which is sent
// away: API priority and fairness. Flow schemas sort requests into priority
// levels; each level has seats, and queues for those who wait; levels lend one
// another what they do not need. Nothing runs in the background: whoever
// enters or leaves does what is due.
package fair

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

const (
	// widest bounds the seats of one request, whatever it asks for.
	widest = 10
	// widestShare of a level's seats that one request may take; upstream's.
	widestShare = 0.15
)

// The headers as net/http writes them.
var (
	headerSchema = http.CanonicalHeaderKey(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID)
	headerLevel  = http.CanonicalHeaderKey(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID)
)

// Config of a Dispatcher.
type Config struct {
	Seats int        // of the whole server
	View  *view.View // optional: without the two kinds there are only the mandatory objects
	Now   func() time.Time
}

// Dispatcher lets requests in.
type Dispatcher struct {
	total   int
	view    *view.View
	now     func() time.Time
	seed    maphash.Seed
	metrics *metrics

	stale    atomic.Bool // the configuration has changed
	adjusted atomic.Int64
	state    atomic.Pointer[state]

	mu sync.Mutex // of whoever loads or adjusts

	running, waiting [2]atomic.Int64 // requests that read, and that write
}

// state is a configuration; it is replaced, never changed.
type state struct {
	schemas  []*schema // in the order in which they are asked
	catchAll *schema
	levels   map[string]*level
}

// schema with everything that a request needs of it.
type schema struct {
	name, levelName string
	rules           []rule
	method          flowcontrolv1.FlowDistinguisherMethodType // empty: all are one flow
	hash            uint64
	level           *level
	usage           *usage
	uid, levelUID   []string // as headers are held
}

// New reads the configuration for the first time.
func New(cfg Config) (*Dispatcher, error) {
	if cfg.Seats <= 0 {
		return nil, errors.New("fair: a server without seats serves nobody")
	}
	d := &Dispatcher{total: cfg.Seats, now: cfg.Now, seed: maphash.MakeSeed(), metrics: newMetrics()}
	if d.now == nil {
		d.now = time.Now
	}
	if v := cfg.View; v != nil && v.Has(kinds.FlowSchema) && v.Has(kinds.PriorityLevelConfiguration) {
		d.view = v
		v.Subscribe(func(c view.Change) {
			if c.Kind == kinds.FlowSchema || c.Kind == kinds.PriorityLevelConfiguration {
				d.stale.Store(true)
			}
		})
	}
	d.stale.Store(true)
	d.current(d.now())
	return d, nil
}

// current is the newest configuration, with seats as they are to be shared now.
func (d *Dispatcher) current(now time.Time) *state {
	due := func() bool { return d.stale.Load() || now.UnixNano()-d.adjusted.Load() >= int64(adjustEvery) }
	if !due() {
		return d.state.Load()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if due() { // nobody else has done it meanwhile
		if d.stale.Swap(false) {
			d.load(now)
		}
		d.adjust(now)
	}
	return d.state.Load()
}

// load compiles the objects. Levels that stay keep their queues; one that goes
// is finished by those who are in it.
func (d *Dispatcher) load(now time.Time) {
	var schemas []*flowcontrolv1.FlowSchema
	var levels []*flowcontrolv1.PriorityLevelConfiguration
	if d.view != nil {
		s := d.view.Snapshot()
		schemas = slices.Collect(view.List[*flowcontrolv1.FlowSchema](s, kinds.FlowSchema, ""))
		levels = slices.Collect(view.List[*flowcontrolv1.PriorityLevelConfiguration](s, kinds.PriorityLevelConfiguration, ""))
	}
	levels = slices.DeleteFunc(levels, func(l *flowcontrolv1.PriorityLevelConfiguration) bool { return !usable(l) })
	levels = withMandatory(levels, bootstrap.MandatoryPriorityLevelConfigurations)
	old, next := d.state.Load(), &state{levels: map[string]*level{}}
	if old == nil {
		old = &state{}
	}
	var sum float64
	for _, l := range levels {
		shares, _, _ := sharesOf(l)
		sum += float64(shares)
	}
	uids := map[string]string{}
	for _, l := range levels {
		lv := old.levels[l.Name]
		if lv == nil {
			lv = &level{name: l.Name, queues: map[int]*queue{}, now: d.now}
			lv.demand.reset(now)
		}
		d.configure(lv, l, sum)
		next.levels[l.Name], uids[l.Name] = lv, string(l.UID)
	}
	schemas = slices.DeleteFunc(schemas, func(f *flowcontrolv1.FlowSchema) bool {
		return next.levels[f.Spec.PriorityLevelConfiguration.Name] == nil
	})
	schemas = withMandatory(schemas, bootstrap.MandatoryFlowSchemas)
	slices.SortFunc(schemas, func(a, b *flowcontrolv1.FlowSchema) int {
		if a.Spec.MatchingPrecedence != b.Spec.MatchingPrecedence {
			return int(a.Spec.MatchingPrecedence - b.Spec.MatchingPrecedence)
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, f := range schemas {
		s := &schema{name: f.Name, levelName: f.Spec.PriorityLevelConfiguration.Name, hash: maphash.String(d.seed, f.Name)}
		s.level, s.uid, s.levelUID = next.levels[s.levelName], []string{string(f.UID)}, []string{uids[s.levelName]}
		if f.Spec.DistinguisherMethod != nil {
			s.method = f.Spec.DistinguisherMethod.Type
		}
		for i := range f.Spec.Rules {
			s.rules = append(s.rules, compile(&f.Spec.Rules[i]))
		}
		s.usage = d.metrics.usageOf(old, s)
		next.schemas = append(next.schemas, s)
		if s.name == flowcontrolv1.FlowSchemaNameCatchAll {
			next.catchAll = s
		}
	}
	d.metrics.forget(old, next)
	d.state.Store(next)
}

// usable: what validation has let through is; what an older version stored may
// not be.
func usable(l *flowcontrolv1.PriorityLevelConfiguration) bool {
	if l.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt {
		return true
	}
	return l.Spec.Limited != nil && (l.Spec.Limited.LimitResponse.Type == flowcontrolv1.LimitResponseTypeReject || l.Spec.Limited.LimitResponse.Queuing != nil)
}

// withMandatory adds what has to be there and is not, because the server is
// new or somebody has just deleted it.
func withMandatory[T kinds.Object](have, mandatory []T) []T {
	for _, m := range mandatory {
		if !slices.ContainsFunc(have, func(h T) bool { return h.GetName() == m.GetName() }) {
			have = append(have, m)
		}
	}
	return have
}

// sharesOf a level, the percentage that it lends and, unless nil, that it borrows.
func sharesOf(l *flowcontrolv1.PriorityLevelConfiguration) (shares, lends int32, borrows *int32) {
	value := func(p *int32) int32 {
		if p == nil {
			return 0
		}
		return *p
	}
	switch {
	case l.Spec.Limited != nil:
		return value(l.Spec.Limited.NominalConcurrencyShares), value(l.Spec.Limited.LendablePercent), l.Spec.Limited.BorrowingLimitPercent
	case l.Spec.Exempt != nil:
		return value(l.Spec.Exempt.NominalConcurrencyShares), value(l.Spec.Exempt.LendablePercent), nil
	}
	return 0, 0, nil
}

// configure sets what the object says; the seats of now are adjust's.
func (d *Dispatcher) configure(lv *level, l *flowcontrolv1.PriorityLevelConfiguration, sum float64) {
	shares, lends, borrows := sharesOf(l)
	lv.mu.Lock()
	defer lv.mu.Unlock()
	lv.nominal = 0
	if sum > 0 {
		lv.nominal = int(math.Ceil(float64(d.total) * float64(shares) / sum))
	}
	part := func(percent int32) int { return int(math.Round(float64(lv.nominal) * float64(percent) / 100)) }
	lv.lowest, lv.highest = lv.nominal-part(lends), lv.nominal+d.total
	if borrows != nil {
		lv.highest = lv.nominal + part(*borrows)
	}
	lv.exempt = l.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt
	lv.dealer, lv.length, lv.widest = nil, 0, widest
	maps.DeleteFunc(lv.queues, func(_ int, q *queue) bool { return q.running == 0 && q.length == 0 }) // there may be fewer now
	if lv.exempt || l.Spec.Limited.LimitResponse.Queuing == nil {
		return
	}
	q := l.Spec.Limited.LimitResponse.Queuing
	if dealer, err := shufflesharding.NewDealer(int(q.Queues), int(q.HandSize)); err == nil { // validated
		lv.dealer, lv.length = dealer, int(q.QueueLengthLimit)
	}
	lv.widest = max(1, min(widest, int(math.Ceil(float64(lv.nominal)*widestShare)), lv.nominal/int(q.HandSize)))
}

// Ticket is the right to run, to be given back with Done. Without one, it
// tells who sent the request away.
type Ticket struct {
	d        *Dispatcher
	schema   *schema
	queue    *queue
	seats    int
	began    time.Time
	mutating int
	watch    bool
}

// ErrRejected: try again later.
type ErrRejected struct {
	Schema, Level string
	Reason        string
	RetryAfter    int // seconds
}

func (e *ErrRejected) Error() string {
	return fmt.Sprintf("sent away by level %s, schema %s: %s", e.Level, e.Schema, e.Reason)
}

// Enter waits no longer than patience for the request's turn. The error is
// ErrRejected; the ticket's headers are good in either case.
func (d *Dispatcher) Enter(ctx context.Context, r *Request, patience time.Duration) (Ticket, error) {
	now := d.now()
	s := d.classify(d.current(now), r)
	t := Ticket{d: d, schema: s, seats: max(1, min(r.Seats, s.level.widest)), watch: r.Watch}
	if r.Mutating {
		t.mutating = 1
	}
	u, lv := s.usage, s.level
	queued := false
	q, how := lv.enter(ctx, now, d.flow(s, r), t.seats, patience, func(length int) {
		queued = true
		d.waiting[t.mutating].Add(1)
		u.queued.Add(1)
		u.queuedSeats.Add(int64(t.seats))
		d.metrics.length.WithLabelValues(s.levelName, s.name).Observe(float64(length))
	})
	began := now
	if queued {
		d.waiting[t.mutating].Add(-1)
		u.queued.Add(-1)
		u.queuedSeats.Add(int64(-t.seats))
		began = d.now()
	}
	u.estimated.Observe(float64(t.seats))
	if how != entered {
		d.metrics.waited.WithLabelValues(s.levelName, s.name, "false").Observe(began.Sub(now).Seconds())
		d.metrics.rejected.WithLabelValues(s.levelName, s.name, reasons[how]).Inc()
		return Ticket{schema: s}, &ErrRejected{Schema: s.name, Level: s.levelName, Reason: reasons[how], RetryAfter: lv.dropped(now)}
	}
	t.queue, t.began = q, began
	u.waited.Observe(began.Sub(now).Seconds())
	u.dispatched.Inc()
	u.running.Add(1)
	u.runningSeats.Add(int64(t.seats))
	d.running[t.mutating].Add(1)
	return t, nil
}

func (d *Dispatcher) classify(st *state, r *Request) *schema {
	for _, s := range st.schemas {
		if s.matches(r) {
			return s
		}
	}
	// Everybody is in one of the two groups of the catch-all; an authenticator
	// that forgets that must not open the door.
	return st.catchAll
}

func (d *Dispatcher) flow(s *schema, r *Request) uint64 {
	switch s.method {
	case flowcontrolv1.FlowDistinguisherMethodByUserType:
		return s.hash ^ maphash.String(d.seed, r.User.GetName())
	case flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
		return s.hash ^ maphash.String(d.seed, r.Namespace)
	}
	return s.hash
}

// Done gives the seats back. Only the first call does, so that a watch can
// leave when it has begun.
func (t *Ticket) Done() {
	if t.d == nil {
		return
	}
	d, u := t.d, t.schema.usage
	t.d = nil
	now := d.now()
	took := now.Sub(t.began)
	t.schema.level.end(now, t.queue, t.seats, took)
	u.running.Add(-1)
	u.runningSeats.Add(int64(-t.seats))
	d.running[t.mutating].Add(-1)
	if t.watch {
		d.metrics.lasted.WithLabelValues(t.schema.levelName, t.schema.name, "watch").Observe(took.Seconds())
	} else {
		u.lasted.Observe(took.Seconds())
	}
	d.current(now)
}

// Headers of an answer: who let the request in. Names would tell more than
// clients need to know. The slices are shared.
func (t *Ticket) Headers(h map[string][]string) {
	if t.schema != nil {
		h[headerSchema], h[headerLevel] = t.schema.uid, t.schema.levelUID
	}
}
