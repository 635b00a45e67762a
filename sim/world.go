package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/cache"
	"knarr.dev/knarr/internal/store/mem"
	"knarr.dev/knarr/internal/view"
)

// config of one run. The same config gives the same run, write by write.
type config struct {
	seed  uint64
	steps int
	plant string
	log   *slog.Logger
	trace func(format string, args ...any) // optional: what happens, line by line
}

// settleEvery steps the chaos pauses, and the cluster has to come to the state
// that was asked for.
const settleEvery = 1000

// calm is how much virtual time it gets for that: longer than an eviction
// (5 min) and the longest back-off (5 min) together.
const calm = 30 * time.Minute

// longestBackoff of the controllers' runtime, with its jitter.
const longestBackoff = 6 * time.Minute

// world is the whole cluster: one store, one server, and processes that see it
// through links which delay.
type world struct {
	config
	ctx   context.Context
	rng   *rand.Rand
	now   time.Time
	table *kinds.Table
	kinds []*kinds.Kind // stored ones

	store   *mem.Store
	pumped  int64 // revision up to which the cache has been fed
	cache   *cache.Cache
	tap     *view.View // the server's view; its changes are what links deliver
	changes map[*kinds.Kind][]view.Change
	server  server
	admin   client.Client

	processes []*process
	audit     *audit
	checker   *checker
	users     *users
	loads     *loads
	quiet     bool     // no faults
	hung      bool     // some process hangs before a write
	acting    *process // whose turn it is; nil: a user's
	step      int
	writes    map[string]int // by kind, for the check that an idle cluster is idle
}

// start of the virtual time.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// errUnknownPlant: the run was asked to plant a bug that does not exist.
var errUnknownPlant = errors.New("no such plant")

func newWorld(c config) (*world, error) {
	if c.plant != "" && !slices.Contains(plants(), c.plant) {
		return nil, fmt.Errorf("%w: %q; there are %s", errUnknownPlant, c.plant, strings.Join(plants(), ", "))
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	w := &world{
		config: c, ctx: context.Background(), rng: rand.New(rand.NewPCG(c.seed, 0)),
		now: start, table: kinds.Builtin(), store: mem.New(),
		changes: map[*kinds.Kind][]view.Change{}, writes: map[string]int{},
	}
	for _, k := range w.table.All() {
		if k.Stored() && k.StoredAs == nil {
			w.kinds = append(w.kinds, k)
		}
	}
	w.audit, w.loads = newAudit(w), &loads{w, map[string]int64{}}
	var err error
	if w.cache, err = cache.New(cache.Config{Store: w.store, Kinds: w.kinds, Decoded: w.kinds, Log: c.log, Now: w.clock}); err != nil {
		return nil, err
	}
	if err := w.cache.FillFrom(w.ctx); err != nil {
		return nil, err
	}
	w.pumped = w.cache.Rev()
	w.tap = view.New(w.kinds, view.Shared()...)
	w.tap.Subscribe(func(ch view.Change) { w.changes[ch.Kind] = append(w.changes[ch.Kind], ch) })
	w.cache.Feed(w.tap)
	if w.server, err = newServer(w); err != nil {
		return nil, err
	}
	w.admin = w.server.client("admin", "system:masters")
	if w.checker, err = newChecker(w); err != nil {
		return nil, err
	}
	w.users = &users{world: w}
	if err := w.bootstrap(); err != nil {
		return nil, err
	}
	w.processes = processes(w)
	for _, p := range w.processes {
		p.start()
	}
	return w, nil
}

func (w *world) clock() time.Time { return w.now }

// run takes the steps, and settles in between and at the end.
func (w *world) run() error {
	for w.step = 1; w.step <= w.steps; w.step++ {
		w.chaos()
		if err := w.audit.err; err != nil {
			return w.failed(err)
		}
		if w.step%settleEvery == 0 || w.step == w.steps {
			if err := w.settle(); err != nil {
				return w.failed(err)
			}
		}
	}
	return nil
}

func (w *world) failed(err error) error {
	replay := fmt.Sprintf("make sim SEED=%d STEPS=%d", w.seed, w.steps)
	if w.plant != "" {
		replay = fmt.Sprintf("go run ./sim -seed %d -steps %d -plant %s", w.seed, w.steps, w.plant)
	}
	return fmt.Errorf("step %d, %s: %w\nreplay: %s", w.step, w.now.Format("15:04:05"), err, replay)
}

// tell writes a line of the trace.
func (w *world) tell(format string, args ...any) {
	if w.trace != nil {
		w.trace("%6d %s "+format, append([]any{w.step, w.now.Format("15:04:05.000")}, args...)...)
	}
}

// chaos is one step: one of all that can happen.
func (w *world) chaos() {
	switch n := w.rng.IntN(1000); {
	case n < 500:
		w.work()
	case n < 790:
		w.deliver()
	case n < 910:
		w.users.act()
	case n < 970:
		w.pass()
	case n < 980:
		w.handOver()
	case n < 992:
		p := w.processes[w.rng.IntN(len(w.processes))]
		w.tell("%s crashes", p)
		p.start()
	default:
		w.switchNode()
	}
}

// work lets one process do one thing, any that has something to do.
func (w *world) work() bool {
	if w.favoured() {
		return true
	}
	for _, i := range w.rng.Perm(len(w.processes)) {
		if w.processes[i].work() {
			return true
		}
	}
	return false
}

// deliver brings some changes of one kind to one process.
func (w *world) deliver() {
	for _, i := range w.rng.Perm(len(w.processes)) {
		if w.processes[i].link.deliverSome(w.rng) {
			return
		}
	}
}

// pass lets time pass: mostly to when somebody has work, else a little.
func (w *world) pass() {
	next := w.due((*process).due)
	if next.IsZero() || w.rng.IntN(4) == 0 {
		next = w.now.Add(time.Duration(w.rng.IntN(2000)) * time.Millisecond)
	}
	if limit := w.now.Add(time.Minute); next.After(limit) {
		next = limit // so that there is something to be seen on the way
	}
	w.elections(next)
	w.now = later(w.now, next)
}

// due is when the next process wants to go on although nothing happens, for one
// of the reasons.
func (w *world) due(reasons ...func(*process) time.Time) time.Time {
	var first time.Time
	for _, p := range w.processes {
		for _, reason := range reasons {
			if at := reason(p); !at.IsZero() && (first.IsZero() || at.Before(first)) {
				first = at
			}
		}
	}
	return first
}

// switchNode takes a node away or brings it back.
func (w *world) switchNode() {
	var nodes []*process
	for _, p := range w.processes {
		if p.node {
			nodes = append(nodes, p)
		}
	}
	p := nodes[w.rng.IntN(len(nodes))]
	p.lost = !p.lost
	w.tell("%s lost: %v", p.name, p.lost)
}

// rest lets everything happen that can without time passing.
func (w *world) rest() error {
	const most = 200000 // far above any real settling: a livelock otherwise
	for range most {
		busy := false
		for _, p := range w.processes {
			busy = p.link.deliverAll() || busy
		}
		if !w.work() && !busy {
			return nil
		}
		if w.audit.err != nil {
			return w.audit.err
		}
	}
	return errors.New("the cluster never comes to rest")
}

// settle ends the faults and gives the cluster time to become what was asked
// for; then it must be, and must stay so without further writes.
func (w *world) settle() error {
	w.tell("settle")
	w.quiet = true
	defer func() { w.quiet = false }()
	for _, p := range w.processes {
		p.lost = false
	}
	defer w.leaveOne()()
	w.users.stopSchedules()
	w.users.stopRivals()
	if w.rng.IntN(2) == 0 {
		w.users.unlimit()
	}
	if w.rng.IntN(2) == 0 {
		w.users.note("untaint", w.users.untaint())
	}
	w.users.relieveVolumes()
	w.users.relieveDevices()
	if w.rng.IntN(3) > 0 {
		w.users.relieve()
	}
	end := w.now.Add(calm)
	for {
		if err := w.rest(); err != nil {
			return err
		}
		err := w.converged()
		if err == nil {
			return w.idle()
		}
		next := w.due((*process).due, (*process).electionDue)
		if next.IsZero() || next.After(end) {
			return fmt.Errorf("not converged after %v of calm: %w", calm-end.Sub(w.now), err)
		}
		w.now = next
	}
}

// idle watches a converged cluster: once the last back-off is over, nothing
// but heartbeats and events may be written for two minutes.
func (w *world) idle() error {
	if err := w.wait(longestBackoff); err != nil {
		return err
	}
	before := maps.Clone(w.writes)
	if err := w.wait(2 * time.Minute); err != nil {
		return err
	}
	for k, n := range w.writes {
		quiet := k == kinds.Lease.String() || k == kinds.Event.String() || k == kinds.Node.String()
		if n != before[k] && !quiet && !w.waiting() && !w.limited("") { // else something may still time out
			return fmt.Errorf("%d writes of %s in two idle minutes", n-before[k], k)
		}
	}
	return w.converged()
}

// wait lets time pass and everything happen that is due.
func (w *world) wait(d time.Duration) error {
	for end := w.now.Add(d); ; {
		next := w.due((*process).due, (*process).electionDue)
		if next.IsZero() || next.After(end) {
			return nil
		}
		w.now = next
		if err := w.rest(); err != nil {
			return err
		}
	}
}

// pump feeds what the store has committed to the auditor and the cache.
func (w *world) pump() {
	b, err := w.store.Since(kinds.Root, w.pumped)
	if err != nil {
		w.audit.fail("the store's history: %v", err)
		return
	}
	w.pumped = b.Rev
	for _, e := range b.Events {
		w.record(e)
	}
	w.plantInWatch(&b)
	w.cache.Apply(b)
	w.tap.ProgressAll(b.Rev)
	if w.checker != nil {
		if err := w.checker.follow(w.kinds); err != nil {
			w.audit.fail("%w", err)
		}
	}
}

// record shows a commit to the auditor.
func (w *world) record(e store.Event) {
	k, obj, prev, err := w.decode(e)
	if err != nil {
		w.audit.fail("undecodable %s: %v", e.Key, err)
		return
	}
	if k == nil {
		return
	}
	w.writes[k.String()]++
	if w.trace != nil && k != kinds.Lease {
		verb := "put"
		if e.Delete {
			verb = "delete"
		}
		w.tell("rev %d: %s %s by %s", e.Rev, verb, strings.TrimPrefix(e.Key, kinds.Root), w.acting)
	}
	by := "a user"
	if w.acting != nil {
		by = w.acting.name
	}
	w.audit.lead(k, obj, w.acting)
	w.audit.observe(k, prev, obj, by)
	if err := w.audit.scales.observe(k, prev, obj, w.acting); err != nil {
		w.audit.fail("%w", err)
	}
}

// revision in a resourceVersion.
func revision(o kinds.Object) int64 {
	n, err := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
