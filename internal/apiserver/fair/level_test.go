package fair

import (
	"container/heap"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apiserver/pkg/util/shufflesharding"
	"pgregory.net/rapid"
)

var start = time.Unix(1_000_000, 0)

func newLevel(t interface{ Fatal(...any) }, seats, queues, hand, length int) *level {
	l := &level{name: "test", now: time.Now, limit: seats, widest: seats, length: length, queues: map[int]*queue{}}
	if queues > 0 {
		d, err := shufflesharding.NewDealer(queues, hand)
		if err != nil {
			t.Fatal(err)
		}
		l.dealer = d
	}
	return l
}

// flow is a client that keeps so many requests going.
type flow struct {
	hash    uint64
	clients int
	seats   int
	lasts   time.Duration

	used   time.Duration // seats times time
	waited time.Duration // the longest
	served int
}

// simulate runs flows against a level in a time of its own.
type simulation struct {
	l     *level
	now   time.Time
	ends  endings
	waits []*pending
	steps int
}

type pending struct {
	flow *flow
	w    *waiter
	came time.Time
}

type ending struct {
	at   time.Time
	flow *flow
	q    *queue
}

type endings []ending

func (e endings) Len() int           { return len(e) }
func (e endings) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e endings) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *endings) Push(x any)        { *e = append(*e, x.(ending)) }
func (e *endings) Pop() any          { x := (*e)[len(*e)-1]; *e = (*e)[:len(*e)-1]; return x }

func (s *simulation) arrive(t interface{ Fatalf(string, ...any) }, f *flow) {
	q, w, how := s.l.arrive(s.now, f.hash, f.seats)
	switch {
	case how != entered:
		t.Fatalf("sent away: %s", reasons[how])
	case w == nil:
		heap.Push(&s.ends, ending{s.now.Add(f.lasts), f, q})
	default:
		s.waits = append(s.waits, &pending{f, w, s.now})
	}
	s.settle()
}

// settle starts those whom the level has let in.
func (s *simulation) settle() {
	kept := s.waits[:0]
	for _, p := range s.waits {
		if !p.w.granted {
			kept = append(kept, p)
			continue
		}
		p.flow.waited = max(p.flow.waited, s.now.Sub(p.came))
		heap.Push(&s.ends, ending{s.now.Add(p.flow.lasts), p.flow, p.w.queue})
	}
	s.waits = kept
}

func (s *simulation) run(t interface{ Fatalf(string, ...any) }, flows []*flow, lasts time.Duration) {
	for _, f := range flows {
		for range f.clients {
			s.arrive(t, f)
		}
	}
	for end := s.now.Add(lasts); len(s.ends) > 0 && s.ends[0].at.Before(end); {
		e := heap.Pop(&s.ends).(ending)
		s.now = e.at
		e.flow.used += e.flow.lasts * time.Duration(e.flow.seats)
		e.flow.served++
		s.l.end(s.now, e.q, e.flow.seats, e.flow.lasts)
		s.settle()
		s.arrive(t, e.flow)
		s.check(t)
	}
}

// check what must hold at any time.
func (s *simulation) check(t interface{ Fatalf(string, ...any) }) {
	if s.steps++; s.steps%16 != 0 { // not every time: it is slow
		return
	}
	l := s.l
	seats, waiting, running := 0, 0, 0
	for _, e := range s.ends {
		seats += e.flow.seats
	}
	for _, q := range l.queues {
		n := 0
		for w := q.first; w != nil; w = w.next {
			n++
		}
		if n != q.length || (n > 0) != (q.place >= 0) {
			t.Fatalf("queue %+v holds %d", q, n)
		}
		waiting += n
		running += q.running
	}
	if seats != l.seats || waiting != l.waiting || running != l.running || running != len(s.ends) || waiting != len(s.waits) {
		t.Fatalf("%d seats, %d waiting, %d running: %d, %d, %d", l.seats, l.waiting, l.running, seats, waiting, running)
	}
	if l.seats > l.limit && l.running > 1 {
		t.Fatalf("%d of %d seats", l.seats, l.limit)
	}
	for i, q := range l.ready {
		if q.place != i || i > 0 && q.next < l.ready[(i-1)/2].next {
			t.Fatalf("the heap is broken at %d", i)
		}
	}
	// Nobody waits for nothing.
	if l.waiting > 0 && l.seats < l.limit && l.fits(l.ready[0].first.seats) {
		t.Fatalf("%d wait beside %d of %d seats", l.waiting, l.seats, l.limit)
	}
}

// distinct flows are dealt queues that nobody else is dealt.
func distinct(l *level, flows []*flow) {
	seen := map[int]bool{}
	var hash uint64
	for _, f := range flows {
		for ; ; hash++ {
			var room [15]int
			if card := l.dealer.DealIntoHand(hash, room[:])[0]; !seen[card] {
				seen[card], f.hash = true, hash
				break
			}
		}
	}
}

// Whoever always has something waiting gets as many seat-seconds as anybody
// else, however many requests he sends, how long or wide they are.
func TestShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLevel(t, rapid.IntRange(8, 40).Draw(t, "seats"), 64, 1, 1<<20)
		flows := make([]*flow, rapid.IntRange(2, 6).Draw(t, "flows"))
		for i := range flows {
			f := &flow{seats: rapid.IntRange(1, 4).Draw(t, "width"), lasts: time.Duration(rapid.IntRange(1, 50).Draw(t, "ms")) * time.Millisecond}
			f.clients = (l.limit/f.seats + 2) * rapid.IntRange(1, 8).Draw(t, "clients")
			flows[i] = f
		}
		distinct(l, flows)
		s := &simulation{l: l, now: start}
		s.run(t, flows, 10*time.Second)
		var least, most time.Duration
		for i, f := range flows {
			if i == 0 || f.used < least {
				least = f.used
			}
			most = max(most, f.used)
		}
		// What is running at any moment is not settled yet: so much they may differ.
		if slack := time.Duration(l.limit)*150*time.Millisecond + most/20; most-least > slack {
			for _, f := range flows {
				t.Logf("%+v", *f)
			}
			t.Fatalf("from %s to %s with %d seats", least, most, l.limit)
		}
	})
}

// A client with one request at a time does not wait for those of a client with
// hundreds.
func TestMouse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLevel(t, rapid.IntRange(1, 40).Draw(t, "seats"), 64, 1, 1<<20)
		elephant := &flow{clients: 300, seats: 1, lasts: time.Duration(rapid.IntRange(1, 100).Draw(t, "ms")) * time.Millisecond}
		mouse := &flow{clients: 1, seats: 1, lasts: time.Duration(rapid.IntRange(1, 100).Draw(t, "mouse")) * time.Millisecond}
		distinct(l, []*flow{elephant, mouse})
		s := &simulation{l: l, now: start}
		s.run(t, []*flow{elephant, mouse}, 5*time.Second)
		// With one seat, its next turn comes when the elephant has had as much
		// as itself.
		if limit := 2*elephant.lasts + mouse.lasts + 20*time.Millisecond; mouse.waited > limit {
			t.Fatalf("the mouse has waited for %s, the elephant's requests last %s", mouse.waited, elephant.lasts)
		}
		if mouse.served == 0 {
			t.Fatalf("it was never served")
		}
	})
}

// A wide request gets its seats although narrow ones keep coming.
func TestWideIsNotStarved(t *testing.T) {
	l := newLevel(t, 10, 64, 1, 1<<20)
	narrow, wide := &flow{clients: 100, seats: 1, lasts: 7 * time.Millisecond}, &flow{clients: 1, seats: 10, lasts: 5 * time.Millisecond}
	alone := &flow{clients: 1, seats: 25, lasts: 5 * time.Millisecond} // wider than the level
	flows := []*flow{narrow, wide, alone}
	distinct(l, flows)
	s := &simulation{l: l, now: start}
	s.run(t, flows, 10*time.Second)
	for _, f := range flows {
		if f.served < 100 {
			t.Errorf("%+v", *f)
		}
	}
}

// The hands of many flows overlap, but an elephant fills only its own.
func TestHandsIsolate(t *testing.T) {
	l := newLevel(t, 4, 64, 6, 1<<20)
	elephant := &flow{hash: 12345, clients: 600, seats: 1, lasts: 10 * time.Millisecond}
	flows := []*flow{elephant}
	for i := range 20 {
		flows = append(flows, &flow{hash: uint64(i)*0x9e3779b97f4a7c15 + 7, clients: 1, seats: 1, lasts: time.Millisecond})
	}
	s := &simulation{l: l, now: start}
	s.run(t, flows, 10*time.Second)
	for _, f := range flows[1:] {
		if f.waited > time.Second {
			t.Errorf("a mouse has waited for %s", f.waited)
		}
	}
}

func TestSentAway(t *testing.T) {
	ctx := context.Background()
	never := func(int) { t.Error("waits") }
	t.Run("no queues", func(t *testing.T) {
		l := newLevel(t, 2, 0, 0, 0)
		for i, want := range []outcome{entered, entered, noQueue} {
			if _, how := l.enter(ctx, start, 1, 1, time.Hour, never); how != want {
				t.Errorf("%d: %d", i, how)
			}
		}
		l.end(start, nil, 1, 0)
		if _, how := l.enter(ctx, start, 1, 1, time.Hour, never); how != entered {
			t.Error(how)
		}
	})
	t.Run("exempt", func(t *testing.T) {
		l := newLevel(t, 0, 0, 0, 0)
		l.exempt = true
		for range 1000 {
			if _, how := l.enter(ctx, start, 1, 1, time.Hour, never); how != entered {
				t.Fatal(how)
			}
		}
	})
	t.Run("queues", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLevel(t, 1, 1, 1, 2)
			q, how := l.enter(ctx, time.Now(), 1, 1, time.Hour, never)
			if how != entered {
				t.Fatal(how)
			}
			gone, cancel := context.WithCancel(ctx)
			results := make(chan outcome, 3)
			for _, c := range []context.Context{ctx, gone} {
				go func() {
					_, how := l.enter(c, time.Now(), 1, 1, time.Minute, func(int) {})
					results <- how
				}()
				synctest.Wait()
			}
			if _, how := l.enter(ctx, time.Now(), 1, 1, time.Hour, never); how != full {
				t.Error("no room, and yet", how)
			}
			cancel()
			if how := <-results; how != expired {
				t.Error("cancelled:", how)
			}
			l.end(time.Now(), q, 1, time.Second)
			if how := <-results; how != entered {
				t.Error("its turn:", how)
			}
			began := time.Now()
			if _, how := l.enter(ctx, began, 1, 1, time.Minute, func(int) {}); how != expired || time.Since(began) != time.Minute {
				t.Error("patience:", how, time.Since(began))
			}
			l.end(time.Now(), q, 1, 0)
			if l.running != 0 || l.seats != 0 || l.waiting != 0 || len(l.ready) != 0 {
				t.Errorf("left behind: %+v", l)
			}
		})
	})
}

// Races of coming, going and giving up leave nothing behind.
func TestConcurrent(t *testing.T) {
	l := newLevel(t, 3, 8, 2, 10)
	done := make(chan struct{})
	for i := range 32 {
		go func() {
			defer func() { done <- struct{}{} }()
			for j := range 300 {
				ctx, cancel := context.WithCancel(context.Background())
				if (i+j)%3 == 0 {
					cancel()
				}
				if q, how := l.enter(ctx, time.Now(), uint64(i%7), 1+i%4, time.Second, func(int) {}); how == entered {
					l.end(time.Now(), q, 1+i%4, time.Microsecond)
				}
				cancel()
			}
		}()
	}
	for range 32 {
		<-done
	}
	if l.running != 0 || l.seats != 0 || l.waiting != 0 || l.seatsWaiting != 0 || len(l.ready) != 0 {
		t.Errorf("left behind: %+v", l)
	}
}

func TestRetry(t *testing.T) {
	var r retry
	now := int64(1_000_000)
	var got []int
	for second := range 40 {
		n := 0
		for range 200 {
			n = r.drop(now + int64(second))
		}
		got = append(got, n)
	}
	if s := fmt.Sprint(got[0], got[1], got[2], got[3], got[39]); s != "1 2 2 4 32" {
		t.Error("under load:", s, got)
	}
	now += 40
	for second := range 100 {
		got = append(got, r.drop(now+int64(second)*10))
	}
	if last := got[len(got)-1]; last > 2 {
		t.Error("afterwards:", got)
	}
}
