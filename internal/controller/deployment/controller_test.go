package deployment

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

func world() *reconciletest.World {
	return reconciletest.New([]*kinds.Kind{kinds.Deployment, kinds.ReplicaSet, kinds.Pod}, view.PodsByOwner, view.ReplicaSetsByOwner, view.ReplicaSetOrphans)
}

type fatal interface{ Fatalf(string, ...any) }

func drive(t fatal, w *reconciletest.World) *reconciletest.Events {
	ev, err := w.Drive(1, 100, 0, Controller())
	if err != nil {
		t.Fatalf("%v", err)
	}
	return ev
}

func current(w *reconciletest.World) *appsv1.Deployment {
	return w.Object(kinds.Deployment, "default", "web").(*appsv1.Deployment)
}

func sets(w *reconciletest.World) (out []*appsv1.ReplicaSet) {
	for _, o := range w.Objects(kinds.ReplicaSet) {
		out = append(out, o.(*appsv1.ReplicaSet))
	}
	return out
}

// follow brings sets' pods a step nearer to what is wanted: created and
// deleted at once, available by and by, as drawn.
func follow(t *rapid.T, w *reconciletest.World) (moved bool) {
	for _, s := range sets(w) {
		c := s.DeepCopy()
		c.Status.ObservedGeneration, c.Status.Replicas = s.Generation, *s.Spec.Replicas
		c.Status.AvailableReplicas = min(s.Status.AvailableReplicas, *s.Spec.Replicas)
		if missing := *s.Spec.Replicas - c.Status.AvailableReplicas; missing > 0 {
			c.Status.AvailableReplicas += rapid.Int32Range(0, missing).Draw(t, "became available")
			moved = true
		}
		c.Status.ReadyReplicas = c.Status.AvailableReplicas
		w.Put(kinds.ReplicaSet, c)
	}
	return moved
}

// TestRollout changes a Deployment at random, lets pods become available at
// random, and checks the promises of a rolling update in every state.
func TestRollout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world()
		replicas := rapid.Int32Range(1, 10).Draw(t, "replicas")
		surge, unavailable := intstr.FromInt32(rapid.Int32Range(0, 4).Draw(t, "surge")), intstr.FromInt32(rapid.Int32Range(0, 4).Draw(t, "unavailable"))
		w.Put(kinds.Deployment, deployment(replicas, bounds(surge, unavailable)))
		settle(t, w, func() {})
		for version := 2; version <= 4; version++ {
			d := current(w).DeepCopy()
			image(fmt.Sprint("v", version))(d)
			d.Generation++
			w.Put(kinds.Deployment, d)
			maxSurge, maxUnavailable := limits(d)
			settle(t, w, func() {
				if n := sum(sets(w), wanted); n > replicas+maxSurge {
					t.Fatalf("%d pods wanted, at most %d allowed", n, replicas+maxSurge)
				}
				ok := sum(sets(w), func(s *appsv1.ReplicaSet) int32 { return min(available(s), wanted(s)) })
				if ok < replicas-maxUnavailable {
					t.Fatalf("%d pods stay available, at least %d promised", ok, replicas-maxUnavailable)
				}
			})
			if got := current(w).Annotations[revisionAnnotation]; got != fmt.Sprint(version) {
				t.Fatalf("revision %s, want %d", got, version)
			}
		}
		n := len(w.Writes)
		drive(t, w)
		if len(w.Writes) != n {
			t.Fatalf("at rest, but writes %v", w.Writes[n:])
		}
	})
}

// settle runs the controller and its pods until the rollout is complete.
func settle(t *rapid.T, w *reconciletest.World, check func()) {
	for range 200 {
		drive(t, w)
		check()
		moved := follow(t, w)
		check()
		if c := find(current(w).Status.Conditions, appsv1.DeploymentProgressing); !moved && c != nil && c.Reason == reasonAvailable && current(w).Status.ObservedGeneration == current(w).Generation {
			return
		}
	}
	t.Fatalf("no end of the rollout: %+v", current(w).Status)
}

func TestRolloutEvents(t *testing.T) {
	w := world()
	w.Put(kinds.Deployment, deployment(2))
	ev := drive(t, w)
	name := sets(w)[0].Name
	if len(ev.All) != 1 || ev.All[0].Message != "Scaled up replica set "+name+" from 0 to 2" {
		t.Errorf("events %+v", ev.All)
	}
	d := current(w).DeepCopy()
	*d.Spec.Replicas = 0
	w.Put(kinds.Deployment, d)
	ev = drive(t, w)
	if len(ev.All) != 1 || ev.All[0].Message != "Scaled down replica set "+name+" from 2 to 0" {
		t.Errorf("events %+v", ev.All)
	}
}

// kubectl rollout undo only patches the template back: the old set must be
// found again, whatever its name, and get the newest revision.
func TestUndo(t *testing.T) {
	w := world()
	for i, v := range []string{"v1", "v2", "v1"} {
		d := deployment(1, image(v))
		if i > 0 {
			d = current(w).DeepCopy()
			image(v)(d)
			d.Generation++
		}
		w.Put(kinds.Deployment, d)
		for range 10 {
			drive(t, w)
			for _, s := range sets(w) {
				c := s.DeepCopy()
				c.Status = appsv1.ReplicaSetStatus{ObservedGeneration: s.Generation, Replicas: wanted(s), ReadyReplicas: wanted(s), AvailableReplicas: wanted(s)}
				w.Put(kinds.ReplicaSet, c)
			}
		}
	}
	all := sets(w)
	if len(all) != 2 {
		t.Fatalf("%d sets, want 2", len(all))
	}
	for _, s := range all {
		v := s.Spec.Template.Spec.Containers[0].Image
		if v == "v1" && (wanted(s) != 1 || s.Annotations[revisionAnnotation] != "3" || s.Annotations[historyAnnotation] != "1") || v == "v2" && wanted(s) != 0 {
			t.Errorf("%s: %d pods, annotations %v", v, wanted(s), s.Annotations)
		}
	}
	if current(w).Annotations[revisionAnnotation] != "3" {
		t.Errorf("the Deployment's revision: %v", current(w).Annotations)
	}
}

func TestProgressDeadline(t *testing.T) {
	w := world()
	w.Put(kinds.Deployment, deployment(1))
	if _, err := w.Drive(1, 100, time.Hour, Controller()); err != nil {
		t.Fatal(err)
	}
	if got := condition(current(w).Status, appsv1.DeploymentProgressing); got != "False ProgressDeadlineExceeded" {
		t.Errorf("after ten minutes without a pod: %q", got)
	}
}

func TestNameTaken(t *testing.T) {
	w := world()
	d := w.Put(kinds.Deployment, deployment(1)).(*appsv1.Deployment)
	name, _ := Name(d)
	w.Put(kinds.ReplicaSet, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": "foreign"}},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32)}})
	drive(t, w)
	if n := len(sets(w)); n != 2 {
		t.Fatalf("%d sets, want the foreign one and one under another name", n)
	}
	if c := current(w).Status.CollisionCount; c == nil || *c != 1 {
		t.Errorf("collision count %v", c)
	}
}

func TestRecreateWakesOnPodEnd(t *testing.T) {
	w := world()
	d := w.Put(kinds.Deployment, deployment(1, recreate)).(*appsv1.Deployment)
	s := w.Put(kinds.ReplicaSet, rs(d, "v0", 1, 0, 0, 1)).(*appsv1.ReplicaSet)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s, kinds.ReplicaSet.GVK)}}}
	w.Put(kinds.Pod, p)
	drive(t, w)
	if n := len(sets(w)); n != 1 {
		t.Fatalf("%d sets while an old pod runs", n)
	}
	keys := Controller().Watches[1].Keys
	if got := keys(w.View.Snapshot(), view.Change{Old: p, New: p}); len(got) != 0 {
		t.Error("a running pod wakes the Deployment")
	}
	if got := keys(w.View.Snapshot(), view.Change{Old: p}); len(got) != 1 {
		t.Error("the end of a pod does not wake the Deployment")
	}
	w.Remove(kinds.Pod, "default", "p")
	drive(t, w)
	if n := len(sets(w)); n != 2 {
		t.Errorf("%d sets after the last old pod ended", n)
	}
}
