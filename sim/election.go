package main

import (
	"context"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/leader"
)

// replicated components run on two servers, and one of the two leads. Each has an
// election of its own here, so that there are more of them; only those that could
// do something twice take part, for a second process takes steps from the others.
var replicated = []string{"replicaset-controller", "daemon-set-controller", "job-controller", "scheduler"}

// seldom: it hangs before one write in so many.
const seldom = 50

// pace of the elections. It is slower than real ones, as time passes in leaps
// here, and idle clusters are watched for minutes.
func pace() leader.Timing {
	return leader.Timing{
		Alone: 2 * time.Minute, RenewAlone: 80 * time.Second, Watched: 30 * time.Second, RenewWatched: 10 * time.Second,
		Grace: 5 * time.Second, Retry: time.Second, Heed: 3 * time.Minute, Speak: 40 * time.Second,
	}
}

// elect makes p stand for election, against a replica, which it returns.
func (p *process) elect() *process {
	p.elected = true
	if !slices.Contains(p.kinds, kinds.Lease) {
		p.kinds = append(slices.Clone(p.kinds), kinds.Lease)
	}
	p.hangs = seldom
	q := *p
	q.replica = 1
	return &q
}

// stand begins to take part, in a new life.
func (p *process) stand() {
	p.elector, p.term = nil, 0
	if !p.elected {
		return
	}
	p.link.apart = kinds.Lease
	revision := p.revision
	if revision == nil {
		revision = p.present
	}
	t := pace()
	e, err := leader.New(leader.Config{
		Lease: types.NamespacedName{Namespace: metav1.NamespaceSystem, Name: p.name}, Identity: p.String(), View: p.view,
		Client:   &unreliable{process: p, inner: p.world.server.client(manager)},
		Revision: revision, Timing: &t, Now: p.world.clock, Log: p.world.log,
	})
	if err != nil {
		panic(err) // the configuration is constant
	}
	p.elector = e
	gate := p.gate
	if gate == nil {
		gate = (*leader.Elector).Gate
	}
	p.client = hanging{gate(e, p.client), p}
}

// present is the store's revision, which the link then has to bring.
func (p *process) present(ctx context.Context) (int64, error) {
	rev, err := p.world.store.Revision(ctx)
	p.link.want = rev
	return rev, err
}

// campaign takes part in the election; whoever ran in a term that is over ends.
func (p *process) campaign() (leads, wrote bool) {
	if p.world.quiet || p.world.rng.IntN(4) > 0 { // else it does not know yet what the others did
		p.link.catchUp(kinds.Lease)
	}
	term, wrote := p.elector.Step(p.world.ctx)
	if term != p.term {
		p.world.tell("%s: term %d", p, term)
		if p.runner != nil {
			p.runner.stop()
			p.runner = nil
		}
		p.term = term
	}
	if term == 0 && !wrote && p.elector.Leads() {
		wrote = p.link.deliverSome(p.world.rng) // it has to see what was done before
	}
	return term != 0, wrote
}

// elections that are due until then take place; they take no steps from others.
func (w *world) elections(until time.Time) {
	for {
		var next *process
		var first time.Time
		for _, p := range w.processes {
			if at := p.electionDue(); !at.IsZero() && !at.After(until) && (next == nil || at.Before(first)) {
				next, first = p, at
			}
		}
		if next == nil {
			return
		}
		w.now = later(w.now, first)
		next.guard(func() bool {
			_, wrote := next.campaign()
			return wrote
		})
	}
}

// electionDue is when the process has something to do for its election; zero:
// never.
func (p *process) electionDue() time.Time {
	if p.elector == nil || p.lost || !p.link.synced() {
		return time.Time{}
	}
	return p.elector.NextDue()
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// handOver makes a server of an elected component hang or stop, if its replica
// does not, or come back.
func (w *world) handOver() {
	var elected []*process
	for _, p := range w.processes {
		if p.elected {
			elected = append(elected, p)
		}
	}
	p := elected[w.rng.IntN(len(elected))]
	for _, q := range elected {
		if q != p && q.name == p.name && q.lost {
			p = q // one at a time
		}
	}
	p.lost = !p.lost
	switch {
	case !p.lost:
		w.tell("%s is back", p)
	case w.rng.IntN(2) == 0:
		w.tell("%s hangs", p)
	default:
		w.tell("%s stops", p)
		p.guard(func() bool {
			if p.runner != nil {
				p.runner.stop()
				p.runner = nil
			}
			p.elector.Release(w.ctx)
			return true
		})
	}
}

// leaveOne of each elected component, for the time of a calm: who leads, if one
// does. The others are back afterwards.
func (w *world) leaveOne() (restore func()) {
	chosen := map[string]*process{}
	for _, p := range w.processes {
		if p.elected && (chosen[p.name] == nil || p.elector.Leads()) {
			chosen[p.name] = p
		}
	}
	away := slices.DeleteFunc(slices.Clone(w.processes), func(p *process) bool { return !p.elected || chosen[p.name] == p })
	for _, p := range away {
		p.lost = true
	}
	return func() {
		for _, p := range away {
			p.lost = false
		}
	}
}

// hanging is the client of a process that is stopped at times right before a
// write, and goes on later as if nothing had happened.
type hanging struct {
	client.Client
	process *process
}

func (h hanging) pause() {
	w := h.process.world
	if w.quiet || w.hung || w.rng.IntN(h.process.hangs) > 0 || slices.ContainsFunc(w.processes, func(q *process) bool { return q.name == h.process.name && q.lost }) {
		return
	}
	w.hung, h.process.lost = true, true
	defer func() { w.hung, h.process.lost = false, false }()
	acting := w.acting
	defer func() { w.acting = acting }()
	w.tell("%s hangs before it writes", h.process)
	for range 200 {
		w.acting = nil
		switch n := w.rng.IntN(12); {
		case n < 6:
			w.work()
		case n < 11:
			w.deliver()
		default:
			w.now = w.now.Add(10 * time.Second)
		}
	}
}

func (h hanging) Create(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	h.pause()
	return h.Client.Create(ctx, ref, obj)
}

func (h hanging) Update(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	h.pause()
	return h.Client.Update(ctx, ref, obj)
}

func (h hanging) Patch(ctx context.Context, ref kinds.Ref, t types.PatchType, data []byte) (runtime.Object, error) {
	h.pause()
	return h.Client.Patch(ctx, ref, t, data)
}

func (h hanging) Delete(ctx context.Context, ref kinds.Ref, o metav1.DeleteOptions) (runtime.Object, error) {
	h.pause()
	return h.Client.Delete(ctx, ref, o)
}

// lead notes who holds which lease, and that nobody else acts.
func (a *audit) lead(k *kinds.Kind, after kinds.Object, by *process) {
	if l, ok := after.(*coordinationv1.Lease); ok {
		if l.Spec.HolderIdentity != nil && l.Namespace == metav1.NamespaceSystem {
			a.holders[l.Name] = *l.Spec.HolderIdentity
		}
		return
	}
	if by == nil || !by.elected || k == kinds.Lease || k == kinds.Event {
		return
	}
	if h := a.holders[by.name]; h != by.String() {
		a.fail("%s writes a %s, and %q holds the lease", by, k, h)
	}
}
