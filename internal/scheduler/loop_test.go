package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/view"
)

// events collects what the scheduler tells.
type events struct {
	mu  sync.Mutex
	all []string
}

func (e *events) Emit(ev plan.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, fmt.Sprintf("%s %s %s: %s", ev.Regarding.Name, ev.Type, ev.Reason, ev.Message))
}

func (e *events) String() string { return strings.Join(e.all, "\n") }

type loop struct {
	*api
	s      *Scheduler
	events *events
	log    *strings.Builder
}

func newLoop(t *testing.T, objects ...any) *loop {
	t.Helper()
	l := &loop{api: newAPI(), events: &events{}, log: &strings.Builder{}}
	l.put(objects...)
	s, err := New(Config{View: l.View, Client: l.api, Events: l.events, Now: func() time.Time { return l.Now },
		Rand: rand.New(rand.NewPCG(1, 1)), Log: slog.New(slog.NewTextHandler(l.log, nil)), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	l.s = s
	return l
}

func (a *api) put(objects ...any) {
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Pod:
			a.Put(kinds.Pod, o)
		case *corev1.Node:
			a.Put(kinds.Node, o)
		case *corev1.Namespace:
			a.Put(kinds.Namespace, o)
		case *policyv1.PodDisruptionBudget:
			a.Put(kinds.PodDisruptionBudget, o)
		case *corev1.PersistentVolumeClaim:
			a.Put(kinds.PersistentVolumeClaim, o)
		case *corev1.PersistentVolume:
			a.Put(kinds.PersistentVolume, o)
		case *storagev1.StorageClass:
			a.Put(kinds.StorageClass, o)
		case *storagev1.CSIDriver:
			a.Put(kinds.CSIDriver, o)
		case *storagev1.CSINode:
			a.Put(kinds.CSINode, o)
		case *storagev1.CSIStorageCapacity:
			a.Put(kinds.CSIStorageCapacity, o)
		case *storagev1.VolumeAttachment:
			a.Put(kinds.VolumeAttachment, o)
		case *resourcev1.ResourceClaim:
			a.Put(kinds.ResourceClaim, o)
		case *resourcev1.ResourceSlice:
			a.Put(kinds.ResourceSlice, o)
		case *resourcev1.DeviceClass:
			a.Put(kinds.DeviceClass, o)
		case *resourcev1.DeviceTaintRule:
			a.Put(kinds.DeviceTaintRule, o)
		default:
			panic(fmt.Sprintf("%T", o))
		}
	}
}

func (l *loop) steps() int {
	n := 0
	for l.s.Step(context.Background()) {
		n++
	}
	return n
}

func (l *loop) pod(name string) *corev1.Pod {
	return l.Object(kinds.Pod, "default", name).(*corev1.Pod)
}

func TestBindsAndTells(t *testing.T) {
	l := newLoop(t, aNode("n"), aPod("p"), aPod("other", func(p *corev1.Pod) { p.Spec.SchedulerName = "x" }),
		aPod("gated", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }),
		aPod("ending", func(p *corev1.Pod) { set(&p.DeletionTimestamp, metav1.Now()); p.Finalizers = []string{"x/y"} }),
		aPod("big", requests("cpu", "5")))
	l.steps()
	for name, want := range map[string]string{"p": "n", "other": "", "gated": "", "ending": "", "big": ""} {
		if got := l.pod(name).Spec.NodeName; got != want {
			t.Errorf("%s is on %q, want %q", name, got, want)
		}
	}
	const why = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling. It would fit on n with 1 less cpu requested."
	want := "big Warning FailedScheduling: " + why + "\np Normal Scheduled: Successfully assigned default/p to n"
	if l.events.String() != want {
		t.Errorf("events:\n%s\nwant:\n%s", l.events, want)
	}
	c := condition(l.pod("big"), corev1.PodScheduled)
	if c == nil || c.Status != corev1.ConditionFalse || c.Reason != "Unschedulable" || c.Message != why || c.LastTransitionTime.IsZero() {
		t.Errorf("condition %+v", c)
	}
	if condition(l.pod("p"), corev1.PodScheduled) != nil || condition(l.pod("gated"), corev1.PodScheduled) != nil {
		t.Error("a condition that is the API server's to write was written")
	}
	gated := l.pod("gated").DeepCopy()
	gated.Spec.SchedulingGates = nil
	gated.Generation++
	l.put(gated)
	l.steps()
	if l.pod("gated").Spec.NodeName != "n" {
		t.Error("the pod did not start when its gates were lifted")
	}
}

// The condition is written once, however often the same answer comes.
func TestConditionIsWrittenOnce(t *testing.T) {
	l := newLoop(t, aNode("n"), aPod("p", near(hostname, selecting("app", "a"))))
	l.steps()
	first := l.pod("p").Status.Conditions[0].LastTransitionTime
	decisions := 0
	for i := range 3 {
		l.Now = l.Now.Add(time.Minute)
		l.put(aNode("n", labelled("x", fmt.Sprint(i))))
		decisions += l.steps()
	}
	if len(l.Writes) != 1 || decisions != 3 {
		t.Errorf("%d decisions and writes %v, want 3 and one", decisions, l.Writes)
	}
	l.Now = l.Now.Add(time.Minute)
	l.put(aNode("n", tainted("k", corev1.TaintEffectNoSchedule)))
	l.steps()
	c := l.pod("p").Status.Conditions[0]
	if !strings.HasPrefix(c.Message, "0/1 nodes are available: 1 node(s) had untolerated taint(s). ") || !c.LastTransitionTime.Equal(&first) {
		t.Errorf("condition %+v, want the new reason and the old time of transition", c)
	}
}

func TestHigherPriorityFirstThenFirstCome(t *testing.T) {
	l := newLoop(t, aNode("n"))
	l.steps()
	l.put(aPod("z"), aPod("a"), aPod("low", priority(-5)), aPod("high", priority(100)))
	l.steps()
	var order []string
	for _, e := range l.events.all {
		order = append(order, strings.Fields(e)[0])
	}
	if got := strings.Join(order, " "); got != "high z a low" {
		t.Errorf("order %s, want high z a low", got)
	}
}

func TestRestartTakesTheOldestFirst(t *testing.T) {
	l := newLoop(t, aNode("n"))
	for i, name := range []string{"c", "b", "a"} {
		l.put(aPod(name, func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(l.Now.Add(time.Duration(i) * time.Second)) }))
	}
	l.steps()
	if !strings.HasPrefix(l.events.String(), "c ") {
		t.Errorf("events:\n%s\nwant c first", l.events)
	}
}

func TestBackoffGrowsToItsLimit(t *testing.T) {
	l := newLoop(t, aNode("n"), aPod("p"))
	l.fail = func(string) error { return apierrors.NewInternalError(errors.New("down")) }
	for i, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		if n := l.steps(); n != 1 {
			t.Fatalf("attempt %d: %d decisions, want 1", i, n)
		}
		if got := l.s.NextDue().Sub(l.Now); got != want*time.Second {
			t.Fatalf("attempt %d: back-off %v, want %ds", i, got, want)
		}
		if n := l.s.cluster.byName["n"]; len(n.pods) != 0 || len(l.s.assumed) != 0 {
			t.Fatal("the pod still counts on the node after its binding failed")
		}
		l.Now = l.s.NextDue()
	}
	if !strings.Contains(l.log.String(), "down") || !strings.Contains(l.events.String(), "FailedScheduling: cannot bind to n") {
		t.Errorf("the failure is not told: log %s, events %s", l.log, l.events)
	}
	l.fail = nil
	if l.steps(); l.pod("p").Spec.NodeName != "n" {
		t.Error("the pod was not bound in the end")
	}
}

// A failed binding makes room for those that were refused meanwhile.
func TestFailedBindingWakesOthers(t *testing.T) {
	l := newLoop(t, aNode("n", has("pods", "1")), aPod("a"), aPod("b"))
	l.Lag = true // the failure is known before the view shows anything
	var held func(context.Context) result
	l.s.start()
	l.s.absorb()
	l.s.schedule(l.s.queue.pop(l.Now), func(do func(context.Context) result) { held = do })
	l.steps() // b finds no room
	l.fail = func(string) error { return apierrors.NewNotFound(kinds.Pod.GroupResource(), "a") }
	l.s.report(held(context.Background()))
	l.fail = nil
	l.s.absorb()
	if l.s.NextDue().IsZero() {
		t.Fatal("nobody is to be tried again")
	}
	l.Remove(kinds.Pod, "default", "a")
	l.Lag = false
	l.Deliver(nil)
	l.Now = l.Now.Add(10 * time.Second)
	if l.steps(); l.pod("b").Spec.NodeName != "n" {
		t.Error("the other pod was not woken")
	}
}

// While the view does not show a binding yet, older states of the pod that
// still come in must not lead to a second one.
func TestAssumedPodIsNotScheduledTwice(t *testing.T) {
	l := newLoop(t, aNode("n"), aPod("p", requests("cpu", "3")))
	l.steps()
	l.s.Stop()

	l = newLoop(t, aNode("n"), aPod("p", requests("cpu", "3")))
	l.Lag = true
	l.steps()
	stale := aPod("p", requests("cpu", "3"), with("late", "yes"))
	stale.UID = l.pod("p").UID
	l.s.observe(view.Change{Kind: kinds.Pod, New: stale})
	if n := l.steps(); n != 0 {
		t.Errorf("%d further decisions about an assumed pod", n)
	}
	if used := l.s.cluster.byName["n"].used.cpu; used != 3000 {
		t.Errorf("%d thousandths of a core used, want 3000", used)
	}
	l.Deliver(nil)
	l.Lag = false
	l.steps()
	if used := l.s.cluster.byName["n"].used.cpu; used != 3000 || len(l.s.assumed) != 0 {
		t.Errorf("%d used and %d assumed after the view has shown it", used, len(l.s.assumed))
	}
}

// A pod that changes while it is being bound is not decided about again.
func TestChangeWhileBinding(t *testing.T) {
	l := newLoop(t, aNode("n"), aPod("p"))
	var held func(context.Context) result
	l.s.start()
	l.s.schedule(l.s.queue.pop(l.Now), func(do func(context.Context) result) { held = do })
	l.put(aPod("p", with("new", "label")))
	if n := l.steps(); n != 0 {
		t.Errorf("%d decisions about a pod in flight", n)
	}
	l.s.report(held(context.Background()))
	l.steps()
	if l.pod("p").Spec.NodeName != "n" || len(l.s.queue.all) != 0 {
		t.Errorf("the pod is on %q, %d queued", l.pod("p").Spec.NodeName, len(l.s.queue.all))
	}
}

// What waiting pods are woken by, and what not. The pod fits at the end in all
// cases that wake, and it is woken by the change alone.
func TestWhatWakesWaitingPods(t *testing.T) {
	app := selecting("app", "a")
	full := requests("cpu", "4")
	gone := func(name string) func(*loop) { return func(l *loop) { l.Remove(kinds.Pod, "default", name) } }
	put := func(objects ...any) func(*loop) { return func(l *loop) { l.put(objects...) } }
	for _, tt := range []struct {
		name    string
		objects []any
		pod     *corev1.Pod
		change  func(*loop)
		wakes   bool
	}{
		{"cpu: a pod went", []any{aNode("n"), aPod("x", on("n"), full)}, aPod("p", full), gone("x"), true},
		{"cpu: a pod ended", []any{aNode("n"), aPod("x", on("n"), full)}, aPod("p", full), put(aPod("x", on("n"), full, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })), true},
		{"cpu: a pod that is too small went", []any{aNode("n"), aPod("x", on("n"), requests("cpu", "1")), aPod("y", on("n"), requests("cpu", "3"))}, aPod("p", full), gone("x"), false},
		{"cpu: a pod was resized", []any{aNode("n"), aPod("x", on("n"), full)}, aPod("p", requests("cpu", "2")), put(aPod("x", on("n"), requests("cpu", "2"), func(p *corev1.Pod) { p.Generation = 2 })), true},
		{"cpu: a new node", []any{aNode("n", has("cpu", "1"))}, aPod("p", full), put(aNode("m")), true},
		{"cpu: a new node that is too small", []any{aNode("n", has("cpu", "1"))}, aPod("p", full), put(aNode("m", has("cpu", "2"))), false},
		{"cpu: a node grew", []any{aNode("n", has("cpu", "1"))}, aPod("p", full), put(aNode("n")), true},
		{"cpu: a heartbeat", []any{aNode("n", has("cpu", "1"))}, aPod("p", full), put(aNode("n", has("cpu", "1"), func(n *corev1.Node) {
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, LastHeartbeatTime: metav1.Now()}}
		})), false},
		{"cpu: a pod came", []any{aNode("n", has("cpu", "1"))}, aPod("p", full), put(aPod("x", on("n"))), false},
		{"port: a pod went", []any{aNode("n"), aPod("x", on("n"), hostPorts("/TCP/80"))}, aPod("p", hostPorts("/TCP/80")), gone("x"), true},
		{"no nodes: one came", nil, aPod("p"), put(aNode("n")), true},
		{"taint: lifted", []any{aNode("n", tainted("k", corev1.TaintEffectNoSchedule))}, aPod("p"), put(aNode("n")), true},
		{"taint: a pod went", []any{aNode("n", tainted("k", corev1.TaintEffectNoSchedule)), aPod("x", on("n"))}, aPod("p"), gone("x"), false},
		{"cordon: lifted", []any{aNode("n", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, aPod("p"), put(aNode("n")), true},
		{"node affinity: labelled", []any{aNode("n")}, aPod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b"} }), put(aNode("n", labelled("a", "b"))), true},
		{"near: one came", []any{aNode("n")}, aPod("p", near(hostname, app)), put(aPod("x", on("n"), with("app", "a"))), true},
		{"near: another came", []any{aNode("n")}, aPod("p", near(hostname, app)), put(aPod("x", on("n"), with("app", "b"))), false},
		{"near: relabelled", []any{aNode("n"), aPod("x", on("n"), with("app", "b"))}, aPod("p", near(hostname, app)), put(aPod("x", on("n"), with("app", "a"))), true},
		{"near: namespace labelled", []any{aNode("n"), aPod("x", on("n"), with("app", "a"), func(p *corev1.Pod) { p.Namespace = "other" })},
			aPod("p", near(hostname, app), func(p *corev1.Pod) {
				p.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].NamespaceSelector = selecting("team", "new")
			}), func(l *loop) {
				ns := l.Object(kinds.Namespace, "", "other").DeepCopyObject().(*corev1.Namespace)
				ns.Labels["team"] = "new"
				l.put(ns)
			}, true},
		{"apart: it went", []any{aNode("n"), aPod("x", on("n"), with("app", "a"))}, aPod("p", apart(hostname, app)), gone("x"), true},
		{"apart: another went", []any{aNode("n"), aPod("x", on("n"), with("app", "a")), aPod("y", on("n"))}, aPod("p", apart(hostname, app)), gone("y"), false},
		{"apart: relabelled", []any{aNode("n"), aPod("x", on("n"), with("app", "a"))}, aPod("p", apart(hostname, app)), put(aPod("x", on("n"), with("app", "b"))), true},
		{"kept away: it went", []any{aNode("n"), aPod("x", on("n"), apart(hostname, app))}, aPod("p", with("app", "a")), gone("x"), true},
		{"kept away: the node's zone changed", []any{aNode("n", zone("a")), aNode("m", zone("a"), func(n *corev1.Node) { n.Spec.Unschedulable = true }), aPod("x", on("m"), apart(corev1.LabelTopologyZone, app))},
			aPod("p", with("app", "a")), put(aNode("n", zone("b"))), true},
		{"spread: one came elsewhere", []any{aNode("n"), aNode("m", func(n *corev1.Node) { n.Spec.Unschedulable = true }), aPod("x", on("n"), with("app", "a"))},
			aPod("p", with("app", "a"), spreads(hostname, 1, corev1.DoNotSchedule, app)), put(aPod("y", on("m"), with("app", "a"))), true},
		{"spread: one is ending", []any{aNode("n"), aNode("m", func(n *corev1.Node) { n.Spec.Unschedulable = true }), aPod("x", on("n"), with("app", "a"), func(p *corev1.Pod) { p.Finalizers = []string{"a/b"} })},
			aPod("p", with("app", "a"), spreads(hostname, 1, corev1.DoNotSchedule, app)), func(l *loop) {
				if _, err := l.Delete(context.Background(), kinds.Ref{Kind: kinds.Pod, Namespace: "default", Name: "x"}, metav1.DeleteOptions{}); err != nil {
					panic(err)
				}
			}, true},
		{"spread: the empty domain went", []any{aNode("n"), aNode("m", func(n *corev1.Node) { n.Spec.Unschedulable = true }), aPod("x", on("n"), with("app", "a"))},
			aPod("p", with("app", "a"), spreads(hostname, 1, corev1.DoNotSchedule, app)), func(l *loop) { l.Remove(kinds.Node, "", "m") }, true},
		{"claim: it came", []any{aNode("n"), volumeOn("pv-c", "")}, aPod("p", mounts("c")), put(claim("c")), true},
		{"claim: another came", []any{aNode("n"), volumeOn("pv-c", "")}, aPod("p", mounts("c")), put(claim("d")), false},
		{"volume: it came", []any{aNode("n"), claim("c")}, aPod("p", mounts("c")), put(volumeOn("pv-c", "")), true},
		{"claim of one pod: that went", []any{aNode("n"), volumeOn("pv-c", ""), aPod("x", on("n"), mounts("c")), claim("c", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
		})}, aPod("p", mounts("c")), gone("x"), true},
		{"itself: tolerates now", []any{aNode("n", tainted("k", corev1.TaintEffectNoSchedule))}, aPod("p"), put(aPod("p", tolerating("k"), func(p *corev1.Pod) { p.Generation = 2 })), true},
		{"itself: a status", []any{aNode("n", tainted("k", corev1.TaintEffectNoSchedule))}, aPod("p"), put(aPod("p", func(p *corev1.Pod) { p.Status.Message = "x" })), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLoop(t, append(tt.objects, tt.pod)...)
			l.steps()
			if l.pod("p").Spec.NodeName != "" {
				t.Fatal("the pod fits to begin with")
			}
			l.Now = l.Now.Add(time.Hour)
			tt.change(l)
			if woken := l.steps() > 0; woken != tt.wakes {
				t.Fatalf("woken: %v", woken)
			}
			if placed := l.pod("p").Spec.NodeName != ""; placed != tt.wakes {
				t.Errorf("placed: %v; %s", placed, l.events)
			}
		})
	}
}

func TestPanicIsContainedToThePod(t *testing.T) {
	l := newLoop(t, aNode("n"), aPod("bad"), aPod("good"))
	l.s.start()
	l.s.profiles[corev1.DefaultSchedulerName].decider.filters = append([]filter{panicking{}}, l.s.profiles[corev1.DefaultSchedulerName].decider.filters...)
	l.steps()
	if l.pod("good").Spec.NodeName != "n" || l.pod("bad").Spec.NodeName != "" || l.s.NextDue().IsZero() {
		t.Errorf("good is on %q, bad on %q", l.pod("good").Spec.NodeName, l.pod("bad").Spec.NodeName)
	}
	if !strings.Contains(l.log.String(), "boom") {
		t.Error("the panic is not in the log")
	}
}

type panicking struct{ nodeName }

func (panicking) Fits(c *cycle, _ *node) bool {
	if c.pod.obj.Name == "bad" {
		panic("boom")
	}
	return true
}

// Another pod of the same name must not inherit the first one's place.
func TestReplacedPod(t *testing.T) {
	l := newLoop(t, aNode("n"), aPod("p", on("n"), requests("cpu", "4")))
	l.steps()
	next := aPod("p", requests("cpu", "4"))
	next.UID, next.Generation = "another", 1
	l.put(next) // the view shows one change, from the one to the other
	l.steps()
	if l.pod("p").Spec.NodeName != "n" || len(l.s.cluster.pods) != 1 {
		t.Errorf("the new pod is on %q, %d pods count", l.pod("p").Spec.NodeName, len(l.s.cluster.pods))
	}
}

// slow answers every write after a millisecond of the bubble's time and
// counts those that are under way.
type slow struct {
	*api
	now, most atomic.Int32
}

func (s *slow) Create(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	s.most.Store(max(s.most.Load(), s.now.Add(1)))
	defer s.now.Add(-1)
	<-time.After(time.Millisecond)
	return s.api.Create(ctx, ref, obj)
}

func TestRunBindsInParallelWithinItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &slow{api: newAPI()}
		for i := range 20 {
			a.put(aNode(fmt.Sprint("n", i), has("pods", "20")))
		}
		s, err := New(Config{View: a.View, Client: a, Parallel: 8})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		begin := time.Now()
		for i := range 200 {
			a.put(aPod(fmt.Sprint("p", i)))
		}
		for waiting := 1; waiting > 0; {
			<-time.After(time.Millisecond)
			waiting = 0
			for _, o := range a.Objects(kinds.Pod) {
				if o.(*corev1.Pod).Spec.NodeName == "" {
					waiting++
				}
			}
		}
		if took := time.Since(begin); took > 40*time.Millisecond {
			t.Errorf("200 bindings of 1 ms, 8 at once, took %v", took)
		}
		if most := a.most.Load(); most != 8 {
			t.Errorf("%d bindings at once, want the bound of 8", most)
		}
		if name := a.naive().overfull(); name != "" {
			t.Errorf("%s holds more than it has", name)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A condition that is slow to be written must not come after the binding.
func TestSlowConditionComesBeforeBinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		a.put(aPod("p"))
		s, err := New(Config{View: a.View, Client: &slowPatch{a}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		<-time.After(2 * time.Second)
		a.put(aNode("n")) // the back-off is over, the condition not yet written
		<-time.After(2 * time.Second)
		if p := a.Object(kinds.Pod, "default", "p").(*corev1.Pod); p.Spec.NodeName != "" {
			t.Error("bound while the condition was still on its way")
		}
		<-time.After(time.Minute)
		if p := a.Object(kinds.Pod, "default", "p").(*corev1.Pod); p.Spec.NodeName != "n" {
			t.Error("not bound after the condition was written")
		}
		cancel()
		<-done
	})
}

// slowPatch takes ten seconds to write a condition.
type slowPatch struct{ *api }

func (s *slowPatch) Patch(ctx context.Context, ref kinds.Ref, t types.PatchType, data []byte) (runtime.Object, error) {
	<-time.After(10 * time.Second)
	return s.api.Patch(ctx, ref, t, data)
}

// A day without changes: the waiting pod costs nothing, no timer runs.
func TestIdleRunDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		a.put(aNode("n"), aPod("p"), aPod("big", requests("cpu", "5")))
		decisions := 0
		s, err := New(Config{View: a.View, Client: a, Events: emitter(func(plan.Event) { decisions++ })})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		<-time.After(24 * time.Hour)
		synctest.Wait()
		if decisions != 2 {
			t.Errorf("%d decisions, want one for each pod", decisions)
		}
		if due := s.NextDue(); !due.IsZero() {
			t.Errorf("an idle scheduler is due at %v", due)
		}
		a.put(aNode("m", has("cpu", "8")))
		synctest.Wait()
		if p := a.Object(kinds.Pod, "default", "big").(*corev1.Pod); p.Spec.NodeName != "m" {
			t.Errorf("the big pod is on %q", p.Spec.NodeName)
		}
		cancel()
		<-done
	})
}

type emitter func(plan.Event)

func (f emitter) Emit(e plan.Event) { f(e) }

// One seed, one history.
func TestStepReplays(t *testing.T) {
	run := func() string {
		l := newLoop(t)
		for i := range 6 {
			l.put(aNode(fmt.Sprint("n", i)))
		}
		for i := range 30 {
			l.put(aPod(fmt.Sprint("p", i), requests("cpu", "500m")))
		}
		l.steps()
		return l.events.String()
	}
	if a, b := run(), run(); a != b {
		t.Errorf("two runs of one seed differ:\n%s\n\n%s", a, b)
	}
}

func TestNewRefusesWhatIsMissing(t *testing.T) {
	if _, err := New(Config{}); !errors.Is(err, errNoView) {
		t.Error(err)
	}
	if _, err := New(Config{View: newAPI().View}); !errors.Is(err, errNoClient) {
		t.Error(err)
	}
}
