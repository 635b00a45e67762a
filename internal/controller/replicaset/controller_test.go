package replicaset

import (
	"errors"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

func world() *reconciletest.World {
	return reconciletest.New([]*kinds.Kind{kinds.ReplicaSet, kinds.ReplicationController, kinds.Pod, kinds.Namespace}, view.PodsByOwner, view.PodOrphans, view.ReplicaSetsByOwner)
}

func drive(t interface{ Fatalf(string, ...any) }, w *reconciletest.World, c reconcile.Controller) *reconciletest.Events {
	ev, err := w.Drive(1, 200, time.Hour, c)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return ev
}

func TestConvergesAndRests(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world()
		s := w.Put(kinds.ReplicaSet, set(rapid.Int32Range(0, 10).Draw(t, "replicas"))).(*appsv1.ReplicaSet)
		for _, p := range anyPods(t) {
			w.Put(kinds.Pod, p)
		}
		drive(t, w, Controller())
		own := 0
		for _, o := range w.Objects(kinds.Pod) {
			if p := o.(*corev1.Pod); isActive(p) && metav1.IsControlledBy(p, s) {
				own++
			} else if p.Labels["app"] == "web" && metav1.GetControllerOf(p) == nil && isActive(p) {
				t.Fatalf("%s is left an orphan", p.Name)
			}
		}
		if own != int(*s.Spec.Replicas) {
			t.Fatalf("%d pods, want %d", own, *s.Spec.Replicas)
		}
		n := len(w.Writes)
		drive(t, w, Controller())
		if len(w.Writes) != n {
			t.Fatalf("at rest, but writes %v", w.Writes[n:])
		}
	})
}

func TestLargeSetInBursts(t *testing.T) {
	w := world()
	w.Put(kinds.ReplicaSet, set(1200))
	ev := drive(t, w, Controller())
	if n := len(w.Objects(kinds.Pod)); n != 1200 {
		t.Fatalf("%d pods", n)
	}
	if len(ev.All) != 1200 {
		t.Errorf("%d events, want one per pod", len(ev.All))
	}
	if s := w.Object(kinds.ReplicaSet, "default", "web").(*appsv1.ReplicaSet).Status; s.Replicas != 1200 || s.FullyLabeledReplicas != 1200 || s.ObservedGeneration != 1 {
		t.Errorf("status %+v", s)
	}
}

func TestFailingCreatesShowInStatus(t *testing.T) {
	w := world()
	w.Put(kinds.ReplicaSet, set(3))
	refuse := true
	w.Hook = func(v plan.Verb, ref kinds.Ref, _ runtime.Object) error {
		if refuse && v == plan.Create {
			return apierrors.NewForbidden(kinds.Pod.GroupResource(), ref.Name, errors.New("exceeded quota"))
		}
		return nil
	}
	if _, err := w.Drive(1, 200, 10*time.Second, Controller()); err != nil {
		t.Fatal(err)
	}
	st := w.Object(kinds.ReplicaSet, "default", "web").(*appsv1.ReplicaSet).Status
	if len(st.Conditions) != 1 || st.Conditions[0].Reason != "FailedCreate" {
		t.Fatalf("conditions %+v", st.Conditions)
	}
	if len(w.Writes) > 60 {
		t.Errorf("%d writes in ten seconds of refusals", len(w.Writes))
	}
	refuse = false
	drive(t, w, Controller())
	st = w.Object(kinds.ReplicaSet, "default", "web").(*appsv1.ReplicaSet).Status
	if len(st.Conditions) != 0 || st.Replicas != 3 {
		t.Errorf("status %+v once creates succeed", st)
	}
}

func TestDoesNotAdoptForADyingSet(t *testing.T) {
	w := world()
	s := w.Put(kinds.ReplicaSet, set(1)).(*appsv1.ReplicaSet)
	w.Lag = true // the view does not show that the set is being deleted
	dying := s.DeepCopy()
	dying.DeletionTimestamp = &metav1.Time{Time: w.Now}
	dying.Finalizers = []string{"orphan"}
	w.Put(kinds.ReplicaSet, dying)
	w.Lag = false
	w.Put(kinds.Pod, pod("a", orphan))
	if _, err := w.Drive(1, 200, time.Second, Controller()); err != nil {
		t.Fatal(err)
	}
	if metav1.GetControllerOf(w.Object(kinds.Pod, "default", "a")) != nil {
		t.Error("the orphan was adopted by a set that is being deleted")
	}
}

func TestReplicationController(t *testing.T) {
	w := world()
	n, l := int32(2), map[string]string{"app": "web"}
	w.Put(kinds.ReplicationController, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "rc"},
		Spec: corev1.ReplicationControllerSpec{Replicas: &n, Selector: l, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}}}})
	drive(t, w, ReplicationController())
	pods := w.Objects(kinds.Pod)
	if len(pods) != 2 {
		t.Fatalf("%d pods, want 2", len(pods))
	}
	if ref := metav1.GetControllerOf(pods[0]); ref.Kind != "ReplicationController" || ref.APIVersion != "v1" {
		t.Errorf("owner %+v", ref)
	}
	if st := w.Object(kinds.ReplicationController, "default", "rc").(*corev1.ReplicationController).Status; st.Replicas != 2 || st.ObservedGeneration != 1 {
		t.Errorf("status %+v", st)
	}
}

func TestWakesAdopters(t *testing.T) {
	w := world()
	w.Put(kinds.ReplicaSet, set(1))
	s := w.View.Snapshot()
	keys := Controller().Watches[0].Keys
	for _, tt := range []struct {
		name string
		c    view.Change
		want int
	}{
		{"a new orphan", view.Change{New: pod("a", orphan)}, 1},
		{"a new pod with an owner", view.Change{New: pod("a")}, 0},
		{"an orphan of others", view.Change{New: pod("a", orphan, other)}, 0},
		{"released", view.Change{Old: pod("a"), New: pod("a", orphan)}, 1},
		{"new labels", view.Change{Old: pod("a", orphan, other), New: pod("a", orphan)}, 1},
		{"only its status changed", view.Change{Old: pod("a", orphan), New: pod("a", orphan, unready)}, 0},
		{"deleted", view.Change{Old: pod("a", orphan)}, 0},
	} {
		if got := keys(s, tt.c); len(got) != tt.want {
			t.Errorf("%s wakes %v, want %d keys", tt.name, got, tt.want)
		}
	}
}

func BenchmarkPlanThousand(b *testing.B) {
	var pods []*corev1.Pod
	for i := range 1000 {
		pods = append(pods, pod(fmt.Sprint("p", i)))
	}
	in := observed(set(1000), pods...)
	for b.Loop() {
		Plan(in)
	}
}
