package statefulset

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

func world() *reconciletest.World {
	return reconciletest.New([]*kinds.Kind{kinds.StatefulSet, kinds.ControllerRevision, kinds.PersistentVolumeClaim, kinds.Pod},
		view.PodsByOwner, view.PodOrphans, view.RevisionsByOwner, view.RevisionOrphans)
}

type fatal interface{ Fatalf(string, ...any) }

func drive(t fatal, w *reconciletest.World) *reconciletest.Events {
	ev, err := w.Drive(1, 300, 0, Controller())
	if err != nil {
		t.Fatalf("%v", err)
	}
	return ev
}

func current(w *reconciletest.World) *appsv1.StatefulSet {
	return w.Object(kinds.StatefulSet, "default", "web").(*appsv1.StatefulSet)
}

// change the set as a user does.
func change(w *reconciletest.World, opts ...setOption) {
	s := current(w).DeepCopy()
	for _, o := range opts {
		o(s)
	}
	s.Generation++
	w.Put(kinds.StatefulSet, s)
}

func pods(w *reconciletest.World) (out []*corev1.Pod) {
	for _, o := range w.Objects(kinds.Pod) {
		out = append(out, o.(*corev1.Pod))
	}
	return out
}

// held pods stay until the kubelet of the test lets them go.
func held(s *appsv1.StatefulSet) { s.Spec.Template.Finalizers = []string{"test/kubelet"} }

// step brings a pod further: started, ready, or gone.
func step(w *reconciletest.World, p *corev1.Pod) {
	c := p.DeepCopy()
	switch {
	case p.DeletionTimestamp != nil:
		w.Remove(kinds.Pod, p.Namespace, p.Name)
		return
	case p.Status.Phase == "" || p.Status.Phase == corev1.PodPending:
		c.Status.Phase = corev1.PodRunning
		c.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
	default:
		c.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(w.Now)}}
	}
	w.Put(kinds.Pod, c)
}

func settled(p *corev1.Pod) bool { return runningAndReady(p) && p.DeletionTimestamp == nil }

// settle lets all pods come to where they go.
func settle(t fatal, w *reconciletest.World) {
	for range 500 {
		drive(t, w)
		moved := false
		for _, p := range pods(w) {
			if !settled(p) && p.Status.Phase != corev1.PodFailed {
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
		if ref.Kind != kinds.Pod {
			return nil
		}
		s := current(w)
		p := &pass{Observed: Observed{Now: w.Now}, set: s, pods: map[int]*corev1.Pod{}}
		for _, pod := range pods(w) {
			if n, ok := p.ordinal(pod.Name); ok {
				p.add(n, pod)
			}
		}
		n, _ := p.ordinal(ref.Name)
		ordered := s.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
		switch verb {
		case plan.Create:
			if p.pods[n] != nil || !p.wants(n) {
				t.Fatalf("%s is made, but there, or not wanted", ref.Name)
			}
			for i := p.start(); ordered && i < n; i++ {
				if p.pods[i] == nil || !p.available(p.pods[i]) {
					t.Fatalf("%s is made before %d is available", ref.Name, i)
				}
			}
			if got := revisionOf(obj.(*corev1.Pod)); n < p.partition() && got != s.Status.CurrentRevision && s.Status.CurrentRevision != "" {
				t.Fatalf("%s is of %s, below the partition all stay at %s", ref.Name, got, s.Status.CurrentRevision)
			}
		case plan.Delete:
			pod := p.pods[n]
			if ended(pod) {
				return nil
			}
			if !p.wants(n) {
				for _, c := range p.condemned {
					if ordered && p.at(c) > n {
						t.Fatalf("%s goes before %s", ref.Name, c.Name)
					}
				}
				return nil
			}
			if revisionOf(pod) == s.Status.UpdateRevision || n < p.partition() {
				t.Fatalf("%s is updated, or below the partition, and goes", ref.Name)
			}
			away := p.missing()
			for _, o := range p.standing() {
				if !p.available(o) {
					away++
				}
			}
			if p.available(pod) && away >= p.maxUnavailable() {
				t.Fatalf("%s goes while %d are away", ref.Name, away)
			}
		}
		return nil
	}
}

// TestPromises changes a set at random, lets its pods start, fail and end at
// random, and checks in every state what a stateful set promises.
func TestPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world()
		var opts []setOption
		if rapid.Bool().Draw(t, "parallel") {
			opts = append(opts, parallel)
		}
		if rapid.Bool().Draw(t, "held") {
			opts = append(opts, held)
		}
		w.Put(kinds.StatefulSet, set(3, opts...))
		promises(t, w)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				n := rapid.Int32Range(0, 5).Draw(t, "replicas")
				change(w, func(s *appsv1.StatefulSet) { s.Spec.Replicas = &n })
			case 1:
				change(w, image(rapid.SampledFrom([]string{"v1", "v2", "v3"}).Draw(t, "image")))
			case 2:
				change(w, partitioned(rapid.Int32Range(0, 5).Draw(t, "partition")))
			case 3:
				change(w, unavailable(intstr.FromInt32(rapid.Int32Range(1, 3).Draw(t, "unavailable"))))
			case 4:
				if all := pods(w); len(all) > 0 {
					c := rapid.SampledFrom(all).Draw(t, "fails").DeepCopy()
					fail(c)
					w.Put(kinds.Pod, c)
				}
			default:
				if all := pods(w); len(all) > 0 {
					step(w, rapid.SampledFrom(all).Draw(t, "goes on"))
				}
			}
			drive(t, w)
		}
		for _, p := range pods(w) { // a broken update must be mended by hand
			if !settled(p) {
				w.Remove(kinds.Pod, "default", p.Name)
			}
		}
		change(w, partitioned(0))
		settle(t, w)
		s := current(w)
		if got := len(pods(w)); got != int(*s.Spec.Replicas) {
			t.Fatalf("%d pods, want %d", got, *s.Spec.Replicas)
		}
		for _, p := range pods(w) {
			if p.Spec.Containers[0].Image != s.Spec.Template.Spec.Containers[0].Image {
				t.Fatalf("%s is of %s", p.Name, p.Spec.Containers[0].Image)
			}
		}
		if st, n := s.Status, *s.Spec.Replicas; st.CurrentRevision != st.UpdateRevision || st.Replicas != n || st.CurrentReplicas != n || st.UpdatedReplicas != n || st.AvailableReplicas != n || st.ObservedGeneration != s.Generation {
			t.Fatalf("status %+v", st)
		}
		before := len(w.Writes)
		drive(t, w)
		if len(w.Writes) != before {
			t.Fatalf("at rest, but writes %v", w.Writes[before:])
		}
	})
}

func fail(p *corev1.Pod) {
	p.Status.Phase = corev1.PodFailed
	p.Status.Conditions = nil
}

// kubectl rollout undo gives the set an old template: its revision gets the
// next number, and no new one is made.
func TestRollback(t *testing.T) {
	w := world()
	w.Put(kinds.StatefulSet, set(2))
	settle(t, w)
	first := current(w).Status.CurrentRevision
	change(w, image("v2"))
	settle(t, w)
	if s := current(w).Status; s.CurrentRevision == first || s.CurrentRevision != s.UpdateRevision {
		t.Fatalf("after the update %+v", s)
	}
	change(w, image("v1"))
	settle(t, w)
	if s := current(w).Status; s.CurrentRevision != first || s.UpdateRevision != first {
		t.Fatalf("after the rollback %+v, want %s", s, first)
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

// A broken update is not undone by a rollback alone: whoever made it deletes
// its pod, as upstream documents.
func TestForcedRollback(t *testing.T) {
	w := world()
	w.Put(kinds.StatefulSet, set(2))
	settle(t, w)
	change(w, image("broken"))
	drive(t, w) // web-1 is away, and comes back broken
	change(w, image("v1"))
	drive(t, w)
	if got := w.Object(kinds.Pod, "default", "web-1").(*corev1.Pod); got.Spec.Containers[0].Image != "broken" {
		t.Fatalf("web-1 is of %s", got.Spec.Containers[0].Image)
	}
	w.Remove(kinds.Pod, "default", "web-1")
	settle(t, w)
	if got := w.Object(kinds.Pod, "default", "web-1").(*corev1.Pod); got.Spec.Containers[0].Image != "v1" {
		t.Errorf("web-1 is of %s", got.Spec.Containers[0].Image)
	}
}

func TestRevisionNameTaken(t *testing.T) {
	w := world()
	foreign := revision("v1", 1)
	foreign.OwnerReferences, foreign.Labels = nil, nil
	w.Put(kinds.ControllerRevision, foreign)
	w.Put(kinds.StatefulSet, set(1))
	settle(t, w)
	s := current(w).Status
	if s.CollisionCount == nil || *s.CollisionCount != 1 || s.CurrentRevision == foreign.Name || s.Replicas != 1 {
		t.Errorf("status %+v", s)
	}
	settle(t, w)
	if n := len(w.Objects(kinds.ControllerRevision)); n != 2 {
		t.Errorf("%d revisions", n)
	}
}

func TestAdoptsRevisions(t *testing.T) {
	w := world()
	r := revision("v1", 7)
	r.OwnerReferences = nil
	w.Put(kinds.ControllerRevision, r)
	w.Put(kinds.StatefulSet, set(1))
	settle(t, w)
	all := w.Objects(kinds.ControllerRevision)
	if len(all) != 1 || !metav1.IsControlledBy(all[0], current(w)) || current(w).Status.CurrentRevision != r.Name {
		t.Errorf("%d revisions, %+v", len(all), current(w).Status)
	}
}

// Refused pods do not keep the status back, and are not asked for without end.
func TestRefusedPods(t *testing.T) {
	w := world()
	w.Put(kinds.StatefulSet, set(2))
	refuse := true
	w.Hook = func(v plan.Verb, ref kinds.Ref, _ runtime.Object) error {
		if refuse && v == plan.Create && ref.Kind == kinds.Pod {
			return apierrors.NewForbidden(kinds.Pod.GroupResource(), ref.Name, errors.New("exceeded quota"))
		}
		return nil
	}
	ev, err := w.Drive(1, 200, 10*time.Second, Controller())
	if err != nil {
		t.Fatal(err)
	}
	if s := current(w).Status; s.ObservedGeneration != 1 || s.UpdateRevision == "" {
		t.Errorf("status %+v", s)
	}
	if len(ev.All) == 0 || ev.All[0].Reason != "FailedCreate" || !strings.Contains(ev.All[0].Message, "web-0 in StatefulSet web failed error: ") || !strings.Contains(ev.All[0].Message, "exceeded quota") {
		t.Errorf("events %+v", ev.All)
	}
	if len(w.Writes) > 30 {
		t.Errorf("%d writes in ten seconds of refusals", len(w.Writes))
	}
	refuse = false
	settle(t, w)
	if n := len(pods(w)); n != 2 {
		t.Errorf("%d pods once they are let in", n)
	}
}

func TestAvailableByTime(t *testing.T) {
	w := world()
	w.Put(kinds.StatefulSet, set(2, slow(30)))
	for range 2 {
		drive(t, w)
		for _, p := range pods(w) {
			if !settled(p) {
				step(w, p)
			}
		}
	}
	drive(t, w)
	if s := current(w).Status; s.ReadyReplicas != 1 || s.AvailableReplicas != 0 || s.Replicas != 1 {
		t.Fatalf("status %+v", s)
	}
	if _, err := w.Drive(1, 100, 30*time.Second, Controller()); err != nil {
		t.Fatal(err)
	}
	if s := current(w).Status; s.AvailableReplicas != 1 || s.Replicas != 2 {
		t.Errorf("half a minute later %+v", s)
	}
}

func TestClaimsFollowTheSet(t *testing.T) {
	w := world()
	w.Put(kinds.StatefulSet, set(3, keeping(remove, remove)))
	settle(t, w)
	of := func() (out []string) {
		for _, o := range w.Objects(kinds.PersistentVolumeClaim) {
			out = append(out, fmt.Sprint(o.GetName(), " ", owners(o.GetOwnerReferences())))
		}
		return out
	}
	if got := of(); !slices.Equal(got, []string{"data-web-0 StatefulSet:web", "data-web-1 StatefulSet:web", "data-web-2 StatefulSet:web"}) {
		t.Fatalf("claims %q", got)
	}
	n := int32(2)
	change(w, func(s *appsv1.StatefulSet) { s.Spec.Replicas = &n })
	settle(t, w)
	if got := of(); !slices.Equal(got, []string{"data-web-0 StatefulSet:web", "data-web-1 StatefulSet:web", "data-web-2 Pod:web-2"}) {
		t.Fatalf("claims %q once scaled down", got)
	}
	n = 3
	change(w, func(s *appsv1.StatefulSet) { s.Spec.Replicas = &n })
	settle(t, w)
	if n := len(pods(w)); n != 2 {
		t.Fatalf("%d pods, while the claim of the third goes with an earlier one", n)
	}
	w.Remove(kinds.PersistentVolumeClaim, "default", "data-web-2") // the garbage collector
	settle(t, w)
	if n := len(pods(w)); n != 3 {
		t.Errorf("%d pods once the claim is gone", n)
	}
}

// What wakes a set: the end of its revisions, not their beginning; and claims
// that go or change owners.
func TestWakes(t *testing.T) {
	w := world()
	s := w.Put(kinds.StatefulSet, set(1, claiming)).(*appsv1.StatefulSet)
	r := revision("v1", 1)
	r.OwnerReferences[0].UID = s.UID
	c, owned := claim("data-web-0"), claim("data-web-0", r.OwnerReferences[0])
	wakes := func(k *kinds.Kind, c view.Change) (n int) {
		c.Kind = k
		for _, watch := range Controller().Watches {
			if watch.Kind == k {
				n += len(watch.Keys(w.View.Snapshot(), c))
			}
		}
		return n
	}
	orphaned := revision("v1", 1)
	orphaned.OwnerReferences = nil
	for _, tt := range []struct {
		name string
		kind *kinds.Kind
		c    view.Change
		want int
	}{
		{"a new revision", kinds.ControllerRevision, view.Change{New: r}, 0},
		{"a changed one", kinds.ControllerRevision, view.Change{Old: r, New: r}, 1},
		{"a deleted one", kinds.ControllerRevision, view.Change{Old: r}, 1},
		{"an orphan", kinds.ControllerRevision, view.Change{New: orphaned}, 1},
		{"a new claim", kinds.PersistentVolumeClaim, view.Change{New: c}, 0},
		{"a claim that is bound", kinds.PersistentVolumeClaim, view.Change{Old: c, New: c}, 0},
		{"a claim with another owner", kinds.PersistentVolumeClaim, view.Change{Old: c, New: owned}, 1},
		{"a claim that is gone", kinds.PersistentVolumeClaim, view.Change{Old: c}, 1},
		{"another claim", kinds.PersistentVolumeClaim, view.Change{Old: claim("logs-web-0")}, 0},
		{"an orphaned pod", kinds.Pod, view.Change{New: pod(0, orphan)}, 1},
	} {
		if got := wakes(tt.kind, tt.c); got != tt.want {
			t.Errorf("%s wakes %d sets, want %d", tt.name, got, tt.want)
		}
	}
	if err := reconcile.Check([]reconcile.Controller{Controller()}); err != nil {
		t.Error(err)
	}
}
