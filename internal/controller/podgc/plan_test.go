package podgc

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func pod(name, node string, opts ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	for _, o := range opts {
		o(p)
	}
	return p
}

func ending(p *corev1.Pod) {
	t := metav1.NewTime(noon)
	p.DeletionTimestamp, p.Finalizers = &t, []string{"x/y"}
}
func done(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }

func node(name string, ready bool, taints ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
	for _, t := range taints {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: t, Effect: corev1.TaintEffectNoExecute})
	}
	return n
}

func describe(t *testing.T, res plan.Result) string {
	t.Helper()
	var out []string
	for _, a := range res.Actions {
		if a.UID == "" || a.Verb == plan.Delete && (a.GraceSeconds == nil || *a.GraceSeconds != 0) {
			t.Errorf("%+v has no UID or waits for a kubelet", a)
		}
		s := string(a.Verb) + " " + a.Ref.Name
		for range a.Live {
			s += "?"
		}
		out = append(out, s)
	}
	if res.After > 0 {
		out = append(out, "after "+res.After.String())
	}
	return strings.Join(out, ", ")
}

func TestPlanNode(t *testing.T) {
	pods := []*corev1.Pod{pod("a", "n"), pod("b", "n", done), pod("c", "n", ending)}
	for _, tt := range []struct {
		name string
		o    Node
		want string
	}{
		{"there", Node{Node: node("n", true), Pods: pods}, ""},
		{"not ready", Node{Node: node("n", false), Pods: pods}, ""},
		{"out of service", Node{Node: node("n", false, corev1.TaintNodeOutOfService), Pods: pods}, "patch c, delete c"},
		{"out of service but ready", Node{Node: node("n", true, corev1.TaintNodeOutOfService), Pods: pods}, ""},
		{"just gone", Node{Gone: noon, Now: noon.Add(10 * time.Second), Grace: 40 * time.Second, Pods: pods}, "after 30s"},
		{"gone", Node{Gone: noon, Now: noon.Add(40 * time.Second), Grace: 40 * time.Second, Pods: pods}, "patch a?, delete a?, delete b?, patch c?, delete c?"},
		{"gone without pods", Node{Gone: noon, Now: noon}, ""},
	} {
		if got := describe(t, PlanNode(tt.o)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestPlanLeftover(t *testing.T) {
	var finished []*corev1.Pod
	for i := range 5 {
		finished = append(finished, pod(fmt.Sprint("f", i), "n", done, func(p *corev1.Pod) {
			p.CreationTimestamp = metav1.NewTime(noon.Add(time.Duration((i*3)%5) * time.Hour))
		}))
	}
	for _, tt := range []struct {
		name string
		o    Leftover
		want string
	}{
		{"unbound", Leftover{Unbound: []*corev1.Pod{pod("a", ""), pod("b", "", ending)}}, "patch b, delete b"},
		{"unbound, and nobody waits for its end", Leftover{Unbound: []*corev1.Pod{pod("b", "", ending, func(p *corev1.Pod) { p.Finalizers = nil })}}, "delete b"},
		{"few", Leftover{Finished: finished, Threshold: 5}, ""},
		{"the oldest go", Leftover{Finished: finished, Threshold: 3}, "delete f0, delete f2"},
		{"all are kept", Leftover{Finished: finished, Threshold: -1}, ""},
	} {
		if got := describe(t, PlanLeftover(tt.o)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	var many []*corev1.Pod
	for i := range 2000 {
		many = append(many, pod(fmt.Sprint(i), "n", done))
	}
	if n := len(PlanLeftover(Leftover{Finished: many, Threshold: 1}).Actions); n != maxPerPass {
		t.Errorf("%d deletions in one pass, want %d", n, maxPerPass)
	}
}

func world() *reconciletest.World {
	return reconciletest.New([]*kinds.Kind{kinds.Node, kinds.Pod}, view.PodsByNode, view.FinishedPods)
}

func names(w *reconciletest.World) string {
	var out []string
	for _, o := range w.Objects(kinds.Pod) {
		out = append(out, o.GetName())
	}
	return strings.Join(out, " ")
}

func TestThroughTheRuntime(t *testing.T) {
	w := world()
	w.Put(kinds.Node, node("n", true))
	w.Put(kinds.Pod, pod("a", "n"))
	w.Put(kinds.Pod, pod("b", "gone")) // of a node that went while nobody watched
	w.Put(kinds.Pod, pod("c", "m"))
	w.Put(kinds.Node, node("m", true))
	for i := range 5 {
		w.Put(kinds.Pod, pod(fmt.Sprint("f", i), "n", done))
	}
	c := Controller(Config{FinishedThreshold: 2})
	if _, err := w.Drive(1, 200, time.Minute, c); err != nil {
		t.Fatal(err)
	}
	if got := names(w); got != "a c f3 f4" {
		t.Fatalf("left are %s", got)
	}
	w.Remove(kinds.Node, "", "m")
	if _, err := w.Drive(1, 200, 30*time.Second, c); err != nil {
		t.Fatal(err)
	}
	if got := names(w); got != "a c f3 f4" {
		t.Fatalf("left before the quarantine is over are %s", got)
	}
	if _, err := w.Drive(1, 200, time.Minute, c); err != nil {
		t.Fatal(err)
	}
	if got := names(w); got != "a f3 f4" {
		t.Errorf("left are %s", got)
	}
}

// A node that the view has lost but the server has keeps its pods; one that
// comes back in time too.
func TestNodeIsAskedForBeforeDeleting(t *testing.T) {
	w := world()
	w.Put(kinds.Pod, pod("a", "n"))
	w.Lag = true
	w.Put(kinds.Node, node("n", true))
	if _, err := w.Drive(1, 50, time.Minute, Controller(Config{})); err != nil {
		t.Fatal(err)
	}
	if got := names(w); got != "a" {
		t.Errorf("left are %q", got)
	}
	w.Deliver(nil)
	w.Lag = false
	w.Hook = func(verb plan.Verb, ref kinds.Ref, _ runtime.Object) error {
		t.Errorf("%s %s", verb, ref)
		return nil
	}
	if _, err := w.Drive(1, 50, time.Hour, Controller(Config{})); err != nil {
		t.Fatal(err)
	}
}
