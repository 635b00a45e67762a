package daemonset

import (
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

func world() *reconciletest.World {
	return reconciletest.New([]*kinds.Kind{kinds.DaemonSet, kinds.ControllerRevision, kinds.Node, kinds.Pod},
		view.PodsByOwner, view.PodOrphans, view.RevisionsByOwner, view.RevisionOrphans)
}

type fatal interface{ Fatalf(string, ...any) }

func drive(t fatal, w *reconciletest.World, c reconcile.Controller) *reconciletest.Events {
	ev, err := w.Drive(1, 500, 0, c)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return ev
}

func current(w *reconciletest.World) *appsv1.DaemonSet {
	return w.Object(kinds.DaemonSet, "default", "agent").(*appsv1.DaemonSet)
}

// change the set as a user does.
func change(w *reconciletest.World, opts ...setOption) {
	s := current(w).DeepCopy()
	for _, o := range opts {
		o(s)
	}
	s.Generation++
	s.Annotations[appsv1.DeprecatedTemplateGeneration] = fmt.Sprint(8 + s.Generation) // as in set, and never one that has been
	w.Put(kinds.DaemonSet, s)
}

func pods(w *reconciletest.World) (out []*corev1.Pod) {
	for _, o := range w.Objects(kinds.Pod) {
		out = append(out, o.(*corev1.Pod))
	}
	return out
}

// held pods stay until the kubelet of the test lets them go.
func held(s *appsv1.DaemonSet) { s.Spec.Template.Finalizers = []string{"test/kubelet"} }

// step brings a pod further: bound and started, ready, or gone.
func step(w *reconciletest.World, p *corev1.Pod) {
	c := p.DeepCopy()
	switch {
	case p.DeletionTimestamp != nil || w.Object(kinds.Node, "", target(p)) == nil: // podgc does the latter
		w.Remove(kinds.Pod, p.Namespace, p.Name)
		return
	case p.Spec.NodeName == "":
		c.Spec.NodeName, c.Status.Phase = target(p), corev1.PodRunning
	default:
		c.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(w.Now)}}
	}
	w.Put(kinds.Pod, c)
}

func settle(t fatal, w *reconciletest.World, c reconcile.Controller) {
	for range 300 {
		drive(t, w, c)
		moved := false
		for _, p := range pods(w) {
			if !ended(p) && (p.DeletionTimestamp != nil || !ready(p)) || w.Object(kinds.Node, "", target(p)) == nil || ended(p) && p.DeletionTimestamp != nil {
				step(w, p)
				moved = true
			}
		}
		if !moved {
			return
		}
	}
	t.Fatalf("no end: %v", w.Writes[max(0, len(w.Writes)-20):])
}

// promises of a set, checked at each of its writes.
func promises(t fatal, w *reconciletest.World) {
	w.Hook = func(verb plan.Verb, ref kinds.Ref, obj runtime.Object) error {
		if ref.Kind != kinds.Pod || verb != plan.Create && verb != plan.Delete {
			return nil
		}
		s := current(w)
		p := &pass{Observed: Observed{Now: w.Now}, set: s, where: whereOf(s)}
		for _, n := range w.Objects(kinds.Node) {
			p.Nodes = append(p.Nodes, n.(*corev1.Node))
		}
		p.pods = pods(w)
		p.findPlaces()
		at := func(name string) *place {
			return p.places[slices.IndexFunc(p.places, func(pl *place) bool { return pl.name == name })]
		}
		if verb == plan.Create {
			name := target(obj.(*corev1.Pod))
			pl, there := at(name), 0
			for _, pod := range pl.pods {
				if pod.DeletionTimestamp == nil && !ended(pod) || !p.surges() {
					there++
				}
			}
			if !pl.run || there > 1 || there > 0 && !p.surges() {
				t.Fatalf("a pod is made on %s, where %d are", name, there)
			}
			return nil
		}
		pod := w.Object(kinds.Pod, ref.Namespace, ref.Name).(*corev1.Pod)
		pl := at(target(pod))
		going := slices.DeleteFunc(slices.Clone(pl.pods), func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil || ended(p) })
		if ended(pod) || !pl.run || len(going) > 1 || !p.available(pod) {
			return nil
		}
		if p.surges() {
			t.Fatalf("%s is available, alone on %s, and goes, though there may be two", ref.Name, pl.name)
		}
		away, desired := 0, 0
		for _, pl := range p.places {
			if pl.run {
				desired++
				if !slices.ContainsFunc(pl.pods, func(o *corev1.Pod) bool { return o.DeletionTimestamp == nil && p.available(o) }) {
					away++
				}
			}
		}
		if away >= p.scaled(p.maxUnavailable(), desired) {
			t.Fatalf("%s goes while %d of %d nodes are without", ref.Name, away, desired)
		}
		return nil
	}
}

// TestPromises changes a set and nodes at random, lets pods start, fail and end
// at random, and checks in every state what a daemon set promises.
func TestPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, c := world(), Controller()
		opts := []setOption{unavailable(intstr.FromInt32(rapid.Int32Range(1, 2).Draw(t, "unavailable")))}
		if rapid.Bool().Draw(t, "surge") {
			opts = []setOption{surge(intstr.FromInt32(rapid.Int32Range(1, 2).Draw(t, "by")))}
		}
		if rapid.Bool().Draw(t, "held") {
			opts = append(opts, held)
		}
		names := []string{"n1", "n2", "n3", "n4"}
		for _, n := range names {
			w.Put(kinds.Node, node(n))
		}
		w.Put(kinds.DaemonSet, set(append(opts, picky)...))
		promises(t, w)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			n := rapid.SampledFrom(names).Draw(t, "node")
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1:
				change(w, image(rapid.SampledFrom([]string{"v1", "v2", "v3"}).Draw(t, "image")))
			case 2:
				w.Put(kinds.Node, node(n, rapid.SampledFrom([]nodeOption{bad, tainted("x", "NoSchedule"), tainted("y", "NoExecute"), tainted(corev1.TaintNodeUnreachable, "NoExecute")}).Draw(t, "state")))
			case 3:
				w.Put(kinds.Node, node(n))
			case 4:
				w.Remove(kinds.Node, "", n)
			case 5:
				if all := pods(w); len(all) > 0 {
					c := rapid.SampledFrom(all).Draw(t, "fails").DeepCopy()
					c.Status = corev1.PodStatus{Phase: corev1.PodFailed}
					w.Put(kinds.Pod, c)
				}
			default:
				if all := pods(w); len(all) > 0 {
					step(w, rapid.SampledFrom(all).Draw(t, "goes on"))
				}
			}
			drive(t, w, c)
		}
		for range 10 { // failed pods wait for their turn
			settle(t, w, c)
			if _, err := w.Drive(1, 500, longestWait, c); err != nil {
				t.Fatalf("%v", err)
			}
		}
		check(t, w)
		before := len(w.Writes)
		drive(t, w, c)
		if len(w.Writes) != before {
			t.Fatalf("at rest, but writes %v", w.Writes[before:])
		}
	})
}

// check that each node has what it ought to have, and that the status says so.
func check(t *rapid.T, w *reconciletest.World) {
	s := current(w)
	p := &pass{Observed: Observed{Now: w.Now}, set: s, where: whereOf(s), pods: pods(w)}
	for _, n := range w.Objects(kinds.Node) {
		p.Nodes = append(p.Nodes, n.(*corev1.Node))
	}
	p.findPlaces()
	desired := int32(0)
	for _, pl := range p.places {
		if pl.run {
			desired++
		}
		if pl.run && len(pl.pods) != 1 || !pl.stay && len(pl.pods) > 0 {
			t.Fatalf("%s (run %v, stay %v) has %d pods", pl.name, pl.run, pl.stay, len(pl.pods))
		}
		for _, pod := range pl.pods {
			if got, want := pod.Spec.Containers[0].Image, s.Spec.Template.Spec.Containers[0].Image; pl.run && got != want {
				t.Fatalf("%s runs %s, want %s", pod.Name, got, want)
			}
		}
	}
	if st := s.Status; st.DesiredNumberScheduled != desired || st.NumberAvailable != desired || st.UpdatedNumberScheduled != desired || st.NumberUnavailable != 0 || st.ObservedGeneration != s.Generation {
		t.Fatalf("status %+v, want %d", st, desired)
	}
}

// kubectl rollout undo gives the set an old template: pods that are still of it
// are not touched.
func TestRollback(t *testing.T) {
	w, c := world(), Controller()
	for _, n := range []string{"n1", "n2", "n3"} {
		w.Put(kinds.Node, node(n))
	}
	w.Put(kinds.DaemonSet, set())
	settle(t, w, c)
	change(w, image("broken"))
	drive(t, w, c)
	old := map[types.UID]bool{}
	for _, p := range pods(w) {
		if p.Spec.Containers[0].Image == "v1" {
			old[p.UID] = true
		}
	}
	if len(old) != 2 {
		t.Fatalf("%d pods are old amid the update", len(old))
	}
	change(w, image("v1"))
	settle(t, w, c)
	kept := 0
	for _, p := range pods(w) {
		if p.Spec.Containers[0].Image != "v1" {
			t.Errorf("%s is of %s", p.Name, p.Spec.Containers[0].Image)
		}
		if old[p.UID] {
			kept++
		}
	}
	if kept != 2 {
		t.Errorf("%d of 2 old pods were kept", kept)
	}
	var numbers []int64
	for _, o := range w.Objects(kinds.ControllerRevision) {
		numbers = append(numbers, o.(*appsv1.ControllerRevision).Revision)
	}
	slices.Sort(numbers)
	if !slices.Equal(numbers, []int64{2, 3}) {
		t.Errorf("revisions %v", numbers)
	}
}

// A pod that fails again and again is made anew at ever longer intervals.
func TestFailingPods(t *testing.T) {
	w, c := world(), Controller()
	w.Put(kinds.Node, node("n1"))
	w.Put(kinds.DaemonSet, set())
	begin := w.Now
	var at []time.Duration
	seen := map[types.UID]bool{}
	for len(at) < 6 {
		if _, err := w.Drive(1, 100, time.Minute, c); err != nil {
			t.Fatal(err)
		}
		for _, p := range pods(w) {
			if !seen[p.UID] {
				seen[p.UID] = true
				at = append(at, w.Now.Sub(begin).Round(time.Second))
				f := p.DeepCopy()
				f.Status.Phase = corev1.PodFailed
				w.Put(kinds.Pod, f)
			}
		}
	}
	if want := []time.Duration{0, 0, time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second}; !slices.Equal(at, want) {
		t.Errorf("pods were made after %v, want %v", at, want)
	}
	change(w, image("v2"))
	now := w.Now
	if _, err := w.Drive(1, 100, time.Hour, c); err != nil {
		t.Fatal(err)
	}
	if all := pods(w); len(all) != 1 || all[0].Status.Phase == corev1.PodFailed || w.Now.Sub(now) > time.Second {
		t.Errorf("another template has to wait, too: %v", w.Now.Sub(now))
	}
}

func TestMemoryIsBounded(t *testing.T) {
	m := &memory{sets: map[reconcile.Key]*failures{}}
	at := now
	for i := range 100 {
		at = at.Add(longestWait)
		m.waits(set(), []*corev1.Pod{pod(fmt.Sprint("p", i), fmt.Sprint("n", i), failed)}, at)
	}
	if n := len(m.sets[reconcile.Key{Namespace: "default", Name: "agent"}].nodes); n > 3 {
		t.Errorf("%d nodes are remembered", n)
	}
	m.forget(reconcile.Key{Namespace: "default", Name: "agent"})
	if len(m.sets) != 0 {
		t.Error("a set is remembered that is gone")
	}
}

// What wakes a set: nodes that are another thing to it than before, and the end
// of its revisions, not their beginning.
func TestWakes(t *testing.T) {
	w := world()
	s := w.Put(kinds.DaemonSet, set(picky)).(*appsv1.DaemonSet)
	elsewhere := set(only("n9"))
	elsewhere.Name, elsewhere.UID = "elsewhere", "other"
	w.Put(kinds.DaemonSet, elsewhere)
	r := revision("v1", 1)
	r.OwnerReferences[0].UID = s.UID
	busy := node("n1")
	busy.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady}}
	for _, tt := range []struct {
		name string
		kind *kinds.Kind
		c    view.Change
		want int
	}{
		{"a new node", kinds.Node, view.Change{New: node("n1")}, 1},
		{"a new node that is not fit", kinds.Node, view.Change{New: node("n1", bad)}, 0},
		{"a node that is gone", kinds.Node, view.Change{Old: node("n1")}, 1},
		{"a node's status", kinds.Node, view.Change{Old: node("n1"), New: busy}, 0},
		{"a label that matters", kinds.Node, view.Change{Old: node("n1"), New: node("n1", bad)}, 1},
		{"a taint that is tolerated", kinds.Node, view.Change{Old: node("n1"), New: node("n1", tainted(corev1.TaintNodeUnreachable, "NoExecute"))}, 0},
		{"a taint that is not", kinds.Node, view.Change{Old: node("n1"), New: node("n1", tainted("x", "NoSchedule"))}, 1},
		{"the other set's node", kinds.Node, view.Change{New: node("n9", bad)}, 1},
		{"a new revision", kinds.ControllerRevision, view.Change{New: r}, 0},
		{"a changed one", kinds.ControllerRevision, view.Change{Old: r, New: r}, 1},
		{"a deleted one", kinds.ControllerRevision, view.Change{Old: r}, 1},
	} {
		n := 0
		tt.c.Kind = tt.kind
		for _, watch := range Controller().Watches {
			if watch.Kind == tt.kind {
				n += len(watch.Keys(w.View.Snapshot(), tt.c))
			}
		}
		if n != tt.want {
			t.Errorf("%s wakes %d sets, want %d", tt.name, n, tt.want)
		}
	}
}
