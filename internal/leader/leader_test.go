package leader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/metricstest"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

// door is a server's way to the store, which can be shut: then requests hang.
type door struct {
	client.Client
	mu   sync.Mutex
	shut bool
}

func (d *door) set(shut bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = shut
}

func (d *door) pass(ctx context.Context) error {
	d.mu.Lock()
	shut := d.shut
	d.mu.Unlock()
	if !shut {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (d *door) Get(ctx context.Context, ref kinds.Ref) (runtime.Object, error) {
	if err := d.pass(ctx); err != nil {
		return nil, err
	}
	return d.Client.Get(ctx, ref)
}

func (d *door) Create(ctx context.Context, ref kinds.Ref, o runtime.Object) (runtime.Object, error) {
	if err := d.pass(ctx); err != nil {
		return nil, err
	}
	return d.Client.Create(ctx, ref, o)
}

func (d *door) Update(ctx context.Context, ref kinds.Ref, o runtime.Object) (runtime.Object, error) {
	if err := d.pass(ctx); err != nil {
		return nil, err
	}
	return d.Client.Update(ctx, ref, o)
}

// stage is where two servers stand for election.
type stage struct {
	t     *testing.T
	world *reconciletest.World
	began time.Time
	mu    sync.Mutex
	acts  []string // "A begins", "A ends", with times
	at    []time.Time
}

func newStage(t *testing.T) *stage {
	return &stage{t: t, world: reconciletest.New([]*kinds.Kind{kinds.Lease, kinds.Pod}), began: time.Now()}
}

func (s *stage) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acts, s.at = append(s.acts, what), append(s.at, time.Now())
}

func (s *stage) expect(want ...string) {
	s.t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.acts, want) {
		s.t.Fatalf("%v after %v, want %v", s.acts, time.Since(s.began), want)
	}
}

func pass(d time.Duration) { <-time.After(d) }

// server stands for election until stop is called, which waits for its end.
type server struct {
	*Elector
	door  *door
	term  *Term
	stop  func() error
	count *prometheus.Registry
}

func (s *stage) server(name string) *server {
	m := &server{door: &door{Client: s.world}, count: prometheus.NewRegistry()}
	var err error
	m.Elector, err = New(Config{Lease: leaseName, Identity: name, View: s.world.View, Client: m.door, Metrics: m.count,
		Revision: func(context.Context) (int64, error) { return s.revision(), nil },
		Reach: func(_ context.Context, rev int64) error {
			if !s.world.Lag {
				s.world.View.ProgressAll(rev) // as a watch tells of what it has no events of
			}
			return nil
		}})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() {
		done <- m.Run(ctx, func(ctx context.Context, t *Term) error {
			m.term = t
			s.note(name + " begins")
			<-ctx.Done()
			s.note(name + " ends")
			return nil
		})
	}()
	m.stop = func() error { cancel(); return <-done }
	return m
}

// revision of what was written last.
func (s *stage) revision() (rev int64) {
	for _, k := range []*kinds.Kind{kinds.Lease, kinds.Pod} {
		for _, o := range s.world.Objects(k) {
			n, err := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			rev = max(rev, n)
		}
	}
	return rev
}

func (s *stage) lease() *coordinationv1.Lease {
	l, ok := s.world.Object(kinds.Lease, leaseName.Namespace, leaseName.Name).(*coordinationv1.Lease)
	if !ok {
		s.t.Fatal("there is no lease")
	}
	return l
}

func TestStalledLeaderStopsAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		a := s.server("a")
		s.expect("a begins") // no time has passed
		b := s.server("b")
		pass(5 * time.Second)
		s.expect("a begins")
		if *s.lease().Spec.HolderIdentity != "a" || *s.lease().Spec.LeaseDurationSeconds != 1 {
			t.Fatalf("lease %+v", s.lease().Spec)
		}
		gate := a.term.Client(s.world)
		if _, err := gate.Create(t.Context(), kinds.Ref{Kind: kinds.Pod, Namespace: "default"}, pod("x")); err != nil {
			t.Fatal(err)
		}
		a.door.set(true)
		shut := time.Now()
		pass(1900 * time.Millisecond)
		s.expect("a begins", "a ends", "b begins")
		if gap := s.at[2].Sub(s.at[1]); gap < Default().Grace-100*time.Millisecond {
			t.Errorf("b begins %v after a has ended", gap)
		}
		t.Logf("b began %v after a's requests hung", s.at[2].Sub(shut))
		if _, err := gate.Create(t.Context(), kinds.Ref{Kind: kinds.Pod, Namespace: "default"}, pod("y")); !errors.Is(err, errOver) {
			t.Errorf("a write after the term: %v", err)
		}
		a.door.set(false)
		pass(time.Minute)
		s.expect("a begins", "a ends", "b begins") // a waits, its process goes on
		stopped := time.Now()
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
		s.expect("a begins", "a ends", "b begins", "b ends", "a begins")
		if took := time.Since(stopped); took > 10*time.Millisecond {
			t.Errorf("the lease was handed over after %v", took)
		}
		if n := *s.lease().Spec.LeaseTransitions; n != 2 {
			t.Errorf("%d transitions", n)
		}
		for _, tc := range []struct {
			of   *server
			want float64
		}{{a, 1}, {b, 0}} {
			m := metricstest.Gathered(t, tc.of.count)
			if got := m["leader_election_master_status kube-scheduler"]; got != tc.want {
				t.Errorf("status %v, want %v", got, tc.want)
			}
		}
		if err := a.stop(); err != nil {
			t.Fatal(err)
		}
		if *s.lease().Spec.HolderIdentity != "" {
			t.Error("the lease was not released")
		}
	})
}

// A server that was killed comes back under its identity: at once, though
// another waits.
func TestSameIdentityAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		a := s.server("a")
		s.expect("a begins")
		a.door.set(true) // nothing of its end reaches the store
		if err := a.stop(); err != nil {
			t.Fatal(err)
		}
		b := s.server("b")
		again := s.server("a")
		s.expect("a begins", "a ends", "a begins")
		pass(10 * time.Second)
		s.expect("a begins", "a ends", "a begins")
		for _, m := range []*server{b, again} {
			if err := m.stop(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A new leader does not begin before the view shows what was written before.
func TestBeginsWithTheStoresState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		a := s.server("a")
		s.expect("a begins")
		b := s.server("b")
		pass(time.Second)
		s.world.Lag = true
		s.world.Put(kinds.Pod, pod("late"))
		if err := a.stop(); err != nil {
			t.Fatal(err)
		}
		s.world.Deliver(kinds.Lease)
		pass(500 * time.Millisecond)
		s.expect("a begins", "a ends") // b is elected, but does not see the pod
		if *s.lease().Spec.HolderIdentity != "b" {
			t.Fatalf("lease %+v", s.lease().Spec)
		}
		s.world.Lag = false
		s.world.Deliver(nil)
		s.world.View.ProgressAll(s.revision())
		s.expect("a begins", "a ends", "b begins")
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestErrorEndsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		e, err := New(Config{Lease: leaseName, Identity: "a", View: s.world.View, Client: s.world, Revision: func(context.Context) (int64, error) { return 0, nil }})
		if err != nil {
			t.Fatal(err)
		}
		broken := errors.New("broken")
		if err := e.Run(t.Context(), func(context.Context, *Term) error { return broken }); !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
		if *s.lease().Spec.HolderIdentity != "" {
			t.Error("the lease was not released")
		}
	})
}

// Others change the lease: it is read again, and kept.
func TestConflicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		a := s.server("a")
		s.expect("a begins")
		s.world.Lag = true // the leader does not see that it is changed
		for i := range 3 {
			pass(12 * time.Second)
			l := s.lease().DeepCopy()
			l.Labels = map[string]string{"n": fmt.Sprint(i)}
			s.world.Put(kinds.Lease, l)
		}
		pass(12 * time.Second)
		s.expect("a begins")
		if s.lease().Labels["n"] != "2" {
			t.Errorf("labels %v: what others wrote is lost", s.lease().Labels)
		}
		if n := metricstest.Gathered(t, a.count)["leader_election_slowpath_total kube-scheduler"]; n != 3 {
			t.Errorf("%v slow renewals", n)
		}
		if err := a.stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		told := &reconciletest.Events{}
		e, err := New(Config{Lease: leaseName, Identity: "a", View: s.world.View, Client: s.world, Events: told,
			Revision: func(context.Context) (int64, error) { return 0, nil }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := e.Run(ctx, func(ctx context.Context, _ *Term) error { cancel(); <-ctx.Done(); return nil }); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, ev := range told.All {
			got = append(got, ev.Reason+": "+ev.Message)
		}
		if want := []string{"LeaderElection: a became leader", "LeaderElection: a stopped leading"}; !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
	})
}

func TestGate(t *testing.T) {
	open := false
	w := reconciletest.New([]*kinds.Kind{kinds.Pod})
	g := gated{w, func() bool { return open }}
	ref := kinds.Ref{Kind: kinds.Pod, Namespace: "default", Name: "x"}
	for _, o := range []bool{false, true} {
		open = o
		_, c := g.Create(t.Context(), kinds.Ref{Kind: kinds.Pod, Namespace: "default"}, pod("x"))
		_, p := g.Patch(t.Context(), ref, "application/merge-patch+json", []byte(`{}`))
		now, err := w.Get(t.Context(), ref)
		if err == nil {
			_, err = g.Update(t.Context(), ref, now)
		} else {
			_, err = g.Update(t.Context(), ref, pod("x"))
		}
		_, d := g.Delete(t.Context(), ref, metav1.DeleteOptions{})
		for verb, e := range map[plan.Verb]error{plan.Create: c, plan.Patch: p, plan.Update: err, plan.Delete: d} {
			if open && e != nil || !open && !errors.Is(e, context.Canceled) {
				t.Errorf("open %v: %s: %v", open, verb, e)
			}
		}
	}
}

func TestConfig(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.Lease})
	whole := Config{Lease: leaseName, Identity: "a", View: w.View, Client: w, Revision: func(context.Context) (int64, error) { return 0, nil }}
	for want, miss := range map[error]func(*Config){
		errNoView: func(c *Config) { c.View = nil }, errNoClient: func(c *Config) { c.Client = nil },
		errNoRevision: func(c *Config) { c.Revision = nil }, errNoIdentity: func(c *Config) { c.Identity = "" },
	} {
		c := whole
		miss(&c)
		if _, err := New(c); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
}
