package leader

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/plan"
)

var (
	leaseName = types.NamespacedName{Namespace: "kube-system", Name: "kube-scheduler"}
	begin     = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

// race is an election in virtual time: candidates whose clocks differ, whose
// writes take their time or get lost, who see late, hang and are killed.
type race struct {
	t      testing.TB
	rng    *rand.Rand
	now    time.Duration
	events events
	order  int

	lease *coordinationv1.Lease
	gone  bool
	rev   int64
	uids  int

	runners []*runner
	stalled time.Duration // the store answers nobody until then
	calm    bool
	terms   int
	// between is the least time between two leaders' acting, of those where the
	// former one did not release.
	between time.Duration
}

// runner is one candidate's machine.
type runner struct {
	race   *race
	name   string
	offset time.Duration
	rate   float64
	life   int           // counts its processes
	dead   bool          // there is no process
	hung   time.Duration // it does nothing until then
	busy   bool          // a write is under way, for it
	shown  int64         // its view
	self   candidacy
	acted  time.Duration // until when it acted at last, in true time
	ceded  bool          // it gave the lease up itself
}

func (r *runner) clock() time.Time {
	return begin.Add(r.offset + time.Duration(float64(r.race.now)*r.rate))
}

type happening struct {
	at    time.Duration
	order int
	do    func()
}

type events []happening

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(happening)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

func (r *race) in(d time.Duration, do func()) {
	r.order++
	heap.Push(&r.events, happening{r.now + d, r.order, do})
}

func (r *race) upTo(d time.Duration) time.Duration { return time.Duration(r.rng.Int64N(int64(d))) }

// for a process, later if it hangs, and never if it has been killed by then.
func (r *runner) in(d time.Duration, do func()) {
	life := r.life
	var run func()
	run = func() {
		switch {
		case r.dead || r.life != life:
		case r.hung > r.race.now:
			r.race.in(r.hung-r.race.now, run)
		default:
			do()
		}
	}
	r.race.in(d, run)
}

func newRace(t testing.TB, seed uint64, n int) *race {
	r := &race{t: t, rng: rand.New(rand.NewPCG(seed, 0)), between: time.Hour}
	for i := range n {
		m := &runner{race: r, name: fmt.Sprint("s", i), dead: true, offset: r.upTo(time.Hour) - 30*time.Minute, rate: 0.985 + 0.03*r.rng.Float64(), ceded: true}
		r.runners = append(r.runners, m)
		r.in(r.upTo(5*time.Second), m.start)
	}
	return r
}

func (r *race) until(end time.Duration) {
	for len(r.events) > 0 && r.events[0].at <= end {
		e := heap.Pop(&r.events).(happening)
		r.now = e.at
		e.do()
	}
	r.now = end
}

// start a process.
func (r *runner) start() {
	if !r.dead {
		return
	}
	// Who comes anew and finds no lease takes it: that one has been deleted and
	// is held all the same only those know who have seen it.
	for _, o := range r.race.runners {
		if r.race.gone && o.acted+time.Second > r.race.now {
			r.race.in(50*time.Millisecond, r.start)
			return
		}
	}
	r.life++
	r.dead, r.busy, r.hung, r.shown = false, false, 0, 0
	r.self = candidacy{ref: leaseName, identity: r.name, timing: Default()}
	r.see()
	r.turn()
}

func (r *runner) kill() {
	r.dead = true
	r.acted = min(r.acted, r.race.now)
}

// note until when it acts, as things are.
func (r *runner) note() {
	r.acted = r.race.now
	if r.self.leads(r.clock()) {
		r.acted += time.Duration(float64(r.self.until.Sub(r.clock())) / r.rate)
	}
}

// see what the store has.
func (r *runner) see() {
	if r.race.rev < r.shown {
		return
	}
	r.shown = r.race.rev
	if r.race.lease == nil || r.race.gone {
		r.self.see(nil, max(1, r.race.rev), r.clock())
	} else {
		r.self.see(r.race.lease, max(1, r.race.rev), r.clock())
	}
}

// turn is what the elector does.
func (r *runner) turn() {
	if r.busy {
		return
	}
	w, due := r.self.decide(r.clock())
	if w == nil {
		life, wait := r.life, time.Duration(float64(due.Sub(r.clock()))/r.rate)+time.Microsecond
		r.in(max(0, wait), func() {
			if r.life == life {
				r.turn()
			}
		})
		return
	}
	leads := r.self.leads(r.clock())
	r.self.send(w, r.clock())
	if leads {
		r.note()
	}
	r.busy = true
	answered := false
	race := r.race
	answer := func(do func()) {
		r.in(0, func() {
			if !answered {
				answered, r.busy = true, false
				do()
				r.turn()
			}
		})
	}
	fate := race.rng.IntN(100)
	if race.calm {
		fate = 99
	}
	r.in(time.Second, func() { answer(func() { r.self.fail(r.clock()) }) })
	if fate < 4 {
		return // lost on its way
	}
	// Whatever becomes of the process: what was sent arrives.
	var arrive func()
	arrive = func() {
		if race.stalled > race.now {
			race.in(race.stalled-race.now, arrive)
			return
		}
		l := race.commit(w)
		if fate < 8 {
			return // the answer is lost
		}
		race.in(race.upTo(10*time.Millisecond), func() {
			answer(func() {
				if l != nil {
					r.self.done(w, l, r.clock())
					r.acts(w)
				} else if race.lease == nil || race.gone {
					r.self.see(nil, 0, r.clock())
				} else {
					r.self.see(race.lease, 0, r.clock())
				}
			})
		})
	}
	race.in(race.upTo(10*time.Millisecond), arrive)
}

// acts after a write: nobody else may.
func (r *runner) acts(w *write) {
	if !r.self.leads(r.clock()) {
		return
	}
	first := r.ceded || r.acted < r.race.now
	for _, o := range r.race.runners {
		if o == r {
			continue
		}
		if !o.dead && o.self.leads(o.clock()) {
			r.race.t.Fatalf("at %v %s leads, and so does %s", r.race.now, r.name, o.name)
		}
		if first && !o.ceded && o.acted > 0 {
			r.race.between = min(r.race.between, r.race.now-o.acted)
		}
	}
	if first {
		r.race.terms++
		for _, o := range r.race.runners {
			o.ceded = o.ceded || o != r // it is looked at once
		}
	}
	r.ceded = false
	r.note()
}

// commit a write, as the API server does; nil if the lease is not as it says.
func (r *race) commit(w *write) *coordinationv1.Lease {
	l := w.lease.DeepCopy()
	there := r.lease != nil && !r.gone
	switch {
	case w.verb == plan.Create && there, w.verb == plan.Update && (!there || l.ResourceVersion != r.lease.ResourceVersion):
		return nil
	case w.verb == plan.Create:
		r.uids++
		l.UID = types.UID(fmt.Sprint("u", r.uids))
	}
	r.rev++
	l.ResourceVersion = strconv.FormatInt(r.rev, 10)
	r.lease, r.gone = l, false
	r.publish()
	return l
}

func (r *race) publish() {
	for _, m := range r.runners {
		lag := r.upTo(20 * time.Millisecond)
		if !r.calm && r.rng.IntN(50) == 0 {
			lag = r.upTo(3 * time.Second)
		}
		m.in(lag, func() { m.see(); m.turn() })
	}
}

// trouble is what happens to servers.
func (r *race) trouble() {
	m := r.runners[r.rng.IntN(len(r.runners))]
	switch n := r.rng.IntN(10); {
	case n < 2:
		m.kill()
		r.in(r.upTo(5*time.Second), m.start)
	case n < 5:
		m.hung = r.now + r.upTo(4*time.Second)
	case n < 6:
		r.stalled = r.now + r.upTo(3*time.Second)
	case n < 7 && r.lease != nil && !r.gone:
		r.rev++
		r.gone = true // somebody deletes it
		r.publish()
	case n < 8 && !m.dead && !m.busy && m.hung <= r.now: // it is stopped
		if w := m.self.release(m.clock()); w != nil {
			m.ceded = true
			r.commit(w)
		}
		m.kill()
		r.in(r.upTo(5*time.Second), m.start)
	}
	r.in(r.upTo(3*time.Second), r.trouble)
}

// Whatever happens, no two act at once, and a new leader begins well after the
// former one has ended; when the trouble is over, one leads.
func TestNeverTwo(t *testing.T) {
	t.Parallel()
	terms := 0
	for seed := range uint64(60) {
		r := newRace(t, seed, 2+int(seed%3))
		r.in(6*time.Second, r.trouble)
		r.until(5 * time.Minute)
		terms += r.terms
		if least := Default().Grace / 2; r.between < least {
			t.Errorf("seed %d: a leader began %v after the former one ended, want %v at least", seed, r.between, least)
		}
		r.events = nil
		r.calm, r.stalled = true, 0
		for _, m := range r.runners {
			m.hung, m.busy = 0, false
			m.start()
			m.see()
			m.turn()
		}
		r.until(r.now + 17*time.Second)
		leads := 0
		for _, m := range r.runners {
			if m.self.leads(m.clock()) {
				leads++
			}
		}
		if leads != 1 {
			t.Errorf("seed %d: %d lead in the end", seed, leads)
		}
	}
	if terms < 1000 {
		t.Errorf("only %d terms: there was too little trouble", terms)
	}
}

// Of three candidates the one that leads is killed, stops, or hangs.
func TestHandOver(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		r := newRace(t, seed, 3)
		r.calm = true
		r.until(20 * time.Second)
		leader := r.leader()
		if leader == nil || r.terms != 1 {
			t.Fatalf("seed %d: %v leads after %d terms", seed, leader, r.terms)
		}
		limit := 1700 * time.Millisecond
		switch seed % 3 {
		case 0:
			leader.kill()
		case 1:
			leader.hung = time.Hour
		case 2:
			r.commit(leader.self.release(leader.clock()))
			leader.ceded = true
			leader.kill()
			limit = 50 * time.Millisecond
		}
		r.until(r.now + limit)
		next := r.leader()
		if next == nil || next == leader {
			t.Fatalf("seed %d: nobody leads %v after the leader went", seed, limit)
		}
		if got := *r.lease.Spec.LeaseTransitions; got != 1 {
			t.Errorf("seed %d: %d transitions", seed, got)
		}
		r.until(r.now + 10*time.Second)
		if r.terms != 2 || r.leader() != next {
			t.Errorf("seed %d: %d terms, the new leader did not last", seed, r.terms)
		}
	}
}

func (r *race) leader() *runner {
	for _, m := range r.runners {
		if !m.dead && m.hung <= r.now && m.self.leads(m.clock()) {
			return m
		}
	}
	return nil
}

// Alone, a leader writes six times a minute; when nobody waits any more, again.
func TestAloneRarely(t *testing.T) {
	t.Parallel()
	r := newRace(t, 1, 2)
	r.calm = true
	other := r.runners[1]
	other.life++ // it does not start yet
	r.events = nil
	r.in(0, r.runners[0].start)
	writes := func(d time.Duration) int64 {
		before := r.rev
		r.until(r.now + d)
		return r.rev - before
	}
	writes(time.Second)
	if n := writes(time.Minute); n < 5 || n > 7 {
		t.Errorf("%d writes in a minute alone", n)
	}
	if s := *r.lease.Spec.LeaseDurationSeconds; s != 15 {
		t.Errorf("alone the lease lasts %d s", s)
	}
	other.start()
	writes(100 * time.Millisecond)
	if s := *r.lease.Spec.LeaseDurationSeconds; s != 1 || r.lease.Annotations[Candidate] == "" {
		t.Errorf("100 ms after somebody waits the lease lasts %d s, annotations %v", s, r.lease.Annotations)
	}
	if n := writes(time.Minute); n < 190 || n > 215 {
		t.Errorf("%d writes in a minute while somebody waits", n)
	}
	other.kill()
	writes(2 * time.Minute)
	if n := writes(time.Minute); n < 5 || n > 7 {
		t.Errorf("%d writes in a minute, nobody waits any more", n)
	}
	if len(r.lease.Annotations) > 0 {
		t.Errorf("nobody waits, annotations %v", r.lease.Annotations)
	}
	// It comes back under the same identity: at once, and the same holder.
	r.runners[0].kill()
	acquired := r.lease.Spec.AcquireTime.DeepCopy()
	r.runners[0].start()
	r.until(r.now + 30*time.Millisecond)
	if r.leader() != r.runners[0] || *r.lease.Spec.LeaseTransitions != 0 || !r.lease.Spec.AcquireTime.Equal(acquired) {
		t.Errorf("after a restart: %+v", r.lease.Spec)
	}
}

// A holder that is none of ours does not answer, and lasts as long as it says.
func TestForeignHolder(t *testing.T) {
	t.Parallel()
	r := newRace(t, 1, 1)
	r.calm, r.events = true, nil
	who, seconds, now := "upstream", int32(15), metav1.NewMicroTime(begin)
	r.commit(&write{verb: plan.Create, lease: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: leaseName.Namespace, Name: leaseName.Name},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &who, LeaseDurationSeconds: &seconds, RenewTime: &now, AcquireTime: &now}}})
	r.runners[0].start()
	r.until(15 * time.Second)
	if r.leader() != nil {
		t.Fatal("the lease was taken while it lasts")
	}
	if r.rev > 3 {
		t.Errorf("%d writes while a candidate waits", r.rev)
	}
	r.until(16 * time.Second)
	if r.leader() == nil || *r.lease.Spec.LeaseTransitions != 1 {
		t.Fatalf("the lease was not taken: %+v", r.lease.Spec)
	}
	// Somebody takes it away: whoever led stops as soon as he sees it.
	l := r.lease.DeepCopy()
	l.Spec.HolderIdentity = &who
	r.commit(&write{verb: plan.Update, lease: l})
	r.until(r.now + 100*time.Millisecond)
	if r.leader() != nil {
		t.Error("it leads under somebody else's lease")
	}
}
