package scheduler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

func held(p *corev1.Pod) { p.Finalizers = []string{"x/held"} }

func (l *loop) release(name string) {
	p := l.pod(name).DeepCopy()
	p.Finalizers = nil
	l.put(p)
}

// From the plan to the place: the nomination, the victim's condition, its
// deletion, and the pod on its node as soon as that is gone.
func TestPreemptionInTheLoop(t *testing.T) {
	full := requests("cpu", "4")
	l := newLoop(t, aNode("n"), aPod("x", on("n"), full, held), aPod("p", full, priority(5)))
	l.steps()
	p, x := l.pod("p"), l.pod("x")
	if p.Status.NominatedNodeName != "n" || x.DeletionTimestamp == nil {
		t.Fatalf("p is nominated to %q, x ends at %v", p.Status.NominatedNodeName, x.DeletionTimestamp)
	}
	if c := condition(x, corev1.DisruptionTarget); c == nil || c.Status != corev1.ConditionTrue || c.Reason != "PreemptionByScheduler" ||
		c.Message != "default-scheduler: preempting to accommodate a higher priority pod" || c.LastTransitionTime.IsZero() {
		t.Errorf("condition %+v", c)
	}
	const why = "0/1 nodes are available: 1 Insufficient cpu. preemption: found a potential placement for pod on node n, preempting 1 victims"
	if c := condition(p, corev1.PodScheduled); c == nil || c.Reason != "Unschedulable" || c.Message != why {
		t.Errorf("condition %+v", c)
	}
	want := "p Warning FailedScheduling: " + why + "\nx Normal Preempted: Preempted by pod " + string(p.UID) + " on node n"
	if l.events.String() != want {
		t.Errorf("events:\n%s\nwant:\n%s", l.events, want)
	}
	// Somebody of less priority comes meanwhile, then the node is relabelled.
	l.put(aPod("q", full, priority(4)), aNode("n", labelled("a", "b")))
	l.Now = l.Now.Add(time.Minute)
	l.steps()
	if l.pod("q").Status.NominatedNodeName != "" || strings.Count(l.events.String(), "Normal Preempted") != 1 {
		t.Errorf("q is nominated to %q; events:\n%s", l.pod("q").Status.NominatedNodeName, l.events)
	}
	l.release("x")
	if l.steps(); l.pod("p").Spec.NodeName != "n" {
		t.Error("p was not bound at once when its victim was gone")
	}
	if len(l.s.cluster.nominees) != 0 || len(l.s.cluster.doomed) != 0 {
		t.Errorf("still nominated %v, doomed %v", l.s.cluster.nominees, l.s.cluster.doomed)
	}
}

// While the view does not show that the victims end, nothing else is preempted
// for the same pod, whatever happens.
func TestNoPreemptionTwiceBeforeTheViewShowsIt(t *testing.T) {
	full := requests("cpu", "4")
	l := newLoop(t, aNode("n"), aNode("m"), aPod("x", on("n"), full, held), aPod("y", on("m"), full, held), aPod("p", full, priority(5)))
	l.s.start()
	l.Lag = true
	l.steps()
	for i := range 3 {
		l.Now = l.Now.Add(time.Minute)
		l.Lag = false
		l.put(aNode("k", has("cpu", "1"), labelled("i", fmt.Sprint(i))))
		l.Lag = true
		l.s.queue.wake("p-uid", l.Now, podUpdate)
		l.steps()
	}
	if n := strings.Count(l.events.String(), "Normal Preempted"); n != 1 {
		t.Errorf("%d pods were preempted, want one; events:\n%s", n, l.events)
	}
}

// A pod of more priority takes the room that another waits for; the other is
// told and looks elsewhere.
func TestYields(t *testing.T) {
	full := requests("cpu", "4")
	l := newLoop(t, aNode("n"), aPod("x", on("n"), full, held), aPod("p", full, priority(5)))
	l.steps()
	l.put(aPod("q", full, priority(6)))
	l.steps()
	if p, q := l.pod("p").Status.NominatedNodeName, l.pod("q").Status.NominatedNodeName; p != "" || q != "n" {
		t.Fatalf("p is nominated to %q, q to %q; want none and n", p, q)
	}
	l.Now = l.Now.Add(time.Minute)
	l.put(aNode("m"))
	l.steps()
	l.release("x")
	l.steps()
	if l.pod("p").Spec.NodeName+l.pod("q").Spec.NodeName != "mn" && l.pod("q").Spec.NodeName == "" {
		t.Errorf("p is on %q, q on %q", l.pod("p").Spec.NodeName, l.pod("q").Spec.NodeName)
	}
}

func TestNominationEnds(t *testing.T) {
	full := requests("cpu", "4")
	for _, tt := range []struct {
		name   string
		change func(*loop)
		node   string // nominated to at the end
	}{
		{"the node goes", func(l *loop) { l.Remove(kinds.Node, "", "n") }, ""},
		{"the node is tainted", func(l *loop) { l.put(aNode("n", tainted("k", corev1.TaintEffectNoSchedule))) }, ""},
		{"the pod goes", func(l *loop) { l.Remove(kinds.Pod, "default", "p") }, ""},
		{"the pod is gated", func(l *loop) {
			p := l.pod("p").DeepCopy()
			p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
			p.Generation++
			l.put(p)
		}, ""},
		{"somebody clears it, and it is decided anew", func(l *loop) {
			p := l.pod("p").DeepCopy()
			p.Status.NominatedNodeName = ""
			l.put(p)
		}, "n"},
		{"nothing happens", func(*loop) {}, "n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLoop(t, aNode("n"), aNode("k", has("cpu", "1")), aPod("x", on("n"), full, held), aPod("p", full, priority(5)))
			l.steps()
			l.Now = l.Now.Add(time.Minute)
			tt.change(l)
			l.steps()
			n := l.s.cluster.nominees["p-uid"]
			if got := ""; n != nil {
				if got = n.name; got != tt.node {
					t.Errorf("still nominated to %q", got)
				}
			} else if tt.node != "" {
				t.Errorf("not nominated to %s any more", tt.node)
			}
			if o, ok := l.Object(kinds.Pod, "default", "p").(*corev1.Pod); ok && len(o.Spec.SchedulingGates) == 0 && o.Status.NominatedNodeName != tt.node {
				t.Errorf("the status says %q", o.Status.NominatedNodeName)
			}
		})
	}
}

// A nomination in a pod's status holds after a restart, and one that others
// have written too.
func TestNominationIsReadFromStatus(t *testing.T) {
	half := requests("cpu", "2")
	l := newLoop(t, aNode("n"), aPod("x", on("n"), half, held, ending("PreemptionByScheduler")), aPod("w", requests("cpu", "3"), priority(5), nominated("n")), aPod("p", half, priority(4)))
	l.steps()
	if l.pod("p").Spec.NodeName != "" || l.pod("w").Status.NominatedNodeName != "n" || strings.Contains(l.events.String(), "Normal") {
		t.Errorf("p was given the room that is kept for w, or w made more; events:\n%s", l.events)
	}
	l.release("x")
	if l.steps(); l.pod("w").Spec.NodeName != "n" || l.pod("p").Spec.NodeName != "" {
		t.Error("w did not get the room")
	}
}

// What cannot be deleted is tried again.
func TestVictimThatCannotBeDeleted(t *testing.T) {
	full := requests("cpu", "4")
	l := newLoop(t, aNode("n"), aPod("x", on("n"), full), aPod("p", full, priority(5)))
	l.Hook = func(verb plan.Verb, ref kinds.Ref, _ runtime.Object) error {
		if verb == plan.Delete {
			return apierrors.NewInternalError(errors.New("down"))
		}
		return nil
	}
	l.steps()
	if l.pod("x").DeletionTimestamp != nil || strings.Contains(l.events.String(), "Preempted") || !strings.Contains(l.log.String(), "cannot preempt pod") {
		t.Errorf("events %s, log %s", l.events, l.log)
	}
	l.Hook = nil
	l.Now = l.s.NextDue()
	if l.steps(); l.pod("p").Spec.NodeName != "n" || l.Object(kinds.Pod, "default", "x") != nil {
		t.Error("it was not tried again")
	}
}

// A victim is deleted as what it was: another of its name is spared.
func TestVictimThatWasReplaced(t *testing.T) {
	full := requests("cpu", "4")
	l := newLoop(t, aNode("n"), aPod("x", on("n"), full), aPod("p", full, priority(5)))
	l.s.start()
	l.Lag = true
	next := aPod("x", on("n"), full)
	next.UID = "another"
	l.put(next)
	l.steps()
	if o := l.Object(kinds.Pod, "default", "x"); o == nil || o.GetDeletionTimestamp() != nil || o.GetUID() != "another" {
		t.Errorf("the pod that took the victim's name was deleted: %v", o)
	}
}

// What would make preemption possible wakes those that wait for it.
func TestWhatMakesPreemptionPossible(t *testing.T) {
	half, app := requests("cpu", "2"), selecting("app", "a")
	for _, tt := range []struct {
		name    string
		objects []any
		pod     *corev1.Pod
		change  func(*loop)
		wakes   bool
	}{
		{"one of more priority goes, one of less stays", []any{aNode("n"), aPod("x", on("n"), half, priority(9)), aPod("y", on("n"), half)}, aPod("p", requests("cpu", "4"), priority(5)),
			func(l *loop) { l.Remove(kinds.Pod, "default", "x") }, true},
		{"one of more priority goes, one of equal stays", []any{aNode("n"), aPod("x", on("n"), half, priority(9)), aPod("y", on("n"), half, priority(5))}, aPod("p", requests("cpu", "4"), priority(5)),
			func(l *loop) { l.Remove(kinds.Pod, "default", "x") }, false},
		{"a node grows, and is full", []any{aNode("n", has("cpu", "2")), aPod("x", on("n"), half)}, aPod("p", requests("cpu", "4"), priority(5)), func(l *loop) { l.put(aNode("n")) }, true},
		{"a spread that kept it from preempting", []any{aNode("n"), aNode("m", func(n *corev1.Node) { n.Spec.Unschedulable = true }), aPod("x", on("n"), with("app", "a"), priority(9)), aPod("y", on("n"), requests("cpu", "4"))},
			aPod("p", with("app", "a"), requests("cpu", "4"), priority(5), spreads(hostname, 1, corev1.DoNotSchedule, app)), func(l *loop) { l.put(aPod("z", on("m"), with("app", "a"))) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLoop(t, append(tt.objects, tt.pod)...)
			l.steps()
			if strings.Contains(l.events.String(), "Preempted") {
				t.Fatal("it preempts to begin with")
			}
			l.Now = l.Now.Add(time.Hour)
			tt.change(l)
			l.steps()
			if did := strings.Contains(l.events.String(), "Preempted"); did != tt.wakes {
				t.Errorf("preempted: %v; %s", did, l.events)
			}
		})
	}
}

// preempting follows a loop and says when it deletes what it may not.
func (a *api) preempting() func() error {
	var bad error
	a.Hook = func(verb plan.Verb, ref kinds.Ref, _ runtime.Object) error {
		if verb != plan.Delete {
			return nil
		}
		victim, ok := a.Object(kinds.Pod, ref.Namespace, ref.Name).(*corev1.Pod)
		if !ok {
			return nil
		}
		for _, o := range a.Objects(kinds.Pod) {
			if p := o.(*corev1.Pod); p.Status.NominatedNodeName != "" && p.Spec.NodeName == "" && prio(p) > prio(victim) &&
				(victim.Spec.NodeName == "" || p.Status.NominatedNodeName == victim.Spec.NodeName) {
				return nil
			}
		}
		bad = fmt.Errorf("%s was preempted for nobody of more priority", ref)
		return nil
	}
	return func() error { return bad }
}

// Nobody goes for a pod that is deleted before its nomination is written.
func TestNobodyGoesForAPodThatIsGone(t *testing.T) {
	for _, stays := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			a := newAPI()
			full := requests("cpu", "4")
			a.put(aNode("n"), aPod("x", on("n"), full), aPod("p", full, priority(5)))
			s, err := New(Config{View: a.View, Client: &slowPatch{a}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- s.Run(ctx) }()
			<-time.After(time.Second)
			if a.Object(kinds.Pod, "default", "x") == nil {
				t.Error("the victim went before the nomination was written")
			}
			if !stays {
				a.Remove(kinds.Pod, "default", "p")
			}
			<-time.After(time.Minute)
			if lives := a.Object(kinds.Pod, "default", "x") != nil; lives == stays {
				t.Errorf("the victim lives: %v; the pod stays: %v", lives, stays)
			}
			cancel()
			<-done
		})
	}
}
