package endpointslice

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

func world() *reconciletest.World {
	held := []*kinds.Kind{kinds.Service, kinds.Pod, kinds.Node, kinds.EndpointSlice, kinds.ReplicaSet}
	return reconciletest.New(held, view.SharedOf(held)...)
}

func sliceText(w *reconciletest.World) string {
	var list []*discoveryv1.EndpointSlice
	for _, o := range w.Objects(kinds.EndpointSlice) {
		list = append(list, o.(*discoveryv1.EndpointSlice))
	}
	return show(list)
}

// Through the runtime: each change of what was declared wakes the service, and
// what does not matter costs nothing.
func TestChangesReachSlices(t *testing.T) {
	w := world()
	rest := func() string {
		t.Helper()
		if _, err := w.Drive(1, 100, 0, Controller()); err != nil {
			t.Fatal(err)
		}
		return sliceText(w)
	}
	w.Put(kinds.Service, service(func(s *corev1.Service) { s.UID = "" }))
	w.Put(kinds.Node, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	w.Put(kinds.Pod, pod("a", "10.0.0.1"))
	for i, step := range []struct {
		change func()
		want   string
	}{
		{func() {}, "IPv4 http:8080/TCP | a=10.0.0.1 ready serving on n1"},
		{func() { w.Put(kinds.Pod, pod("a", "10.0.0.1", unready)) }, "IPv4 http:8080/TCP | a=10.0.0.1 on n1"},
		{func() {
			w.Put(kinds.Node, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "uid-2", Labels: map[string]string{corev1.LabelTopologyZone: "z1"}}})
		}, "IPv4 http:8080/TCP | a=10.0.0.1 on n1 in z1"},
		{func() { w.Put(kinds.Pod, pod("b", "10.0.0.2")) }, "IPv4 http:8080/TCP | a=10.0.0.1 on n1 in z1; b=10.0.0.2 ready serving on n1 in z1"},
		{func() { w.Put(kinds.Pod, pod("a", "10.0.0.1", func(p *corev1.Pod) { p.Labels = nil })) }, "IPv4 http:8080/TCP | b=10.0.0.2 ready serving on n1 in z1"},
		{func() { w.Remove(kinds.EndpointSlice, "default", w.Objects(kinds.EndpointSlice)[0].GetName()) }, "IPv4 http:8080/TCP | b=10.0.0.2 ready serving on n1 in z1"},
		{func() { w.Remove(kinds.Pod, "default", "b") }, "IPv4  | "},
	} {
		step.change()
		if got := rest(); got != step.want {
			t.Fatalf("step %d: got\n%s\nwant\n%s", i, got, step.want)
		}
	}
}

func TestWhatWakes(t *testing.T) {
	w := world()
	w.Put(kinds.Service, service())
	w.Put(kinds.Service, service(func(s *corev1.Service) { s.Name, s.Spec.Selector = "other", map[string]string{"app": "other"} }))
	before := pod("a", "10.0.0.1")
	for name, tt := range map[string]struct {
		after *corev1.Pod
		want  string
	}{
		"readiness":         {pod("a", "10.0.0.1", unready), "default/web"},
		"address":           {pod("a", "10.0.0.9"), "default/web"},
		"ends":              {pod("a", "10.0.0.1", ending), "default/web"},
		"goes over":         {pod("a", "10.0.0.1", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "other"} }), "default/other default/web"},
		"a message only":    {pod("a", "10.0.0.1", func(p *corev1.Pod) { p.Status.Message = "x" }), ""},
		"loses its address": {pod("a", ""), "default/web"},
	} {
		var got []string
		for _, k := range podKeys(w.View.Snapshot(), view.Change{Kind: kinds.Pod, Old: before, New: tt.after}) {
			got = append(got, k.String())
		}
		slices.Sort(got)
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s wakes %v, want %q", name, got, tt.want)
		}
	}
	if keys := podKeys(w.View.Snapshot(), view.Change{Kind: kinds.Pod, New: pod("new", "")}); len(keys) > 0 {
		t.Errorf("a pod without an address wakes %v", keys)
	}
}

// A thousand pods that become ready one after the other, planned now and then:
// all are there in the end, in few more slices than hold them.
func TestManyPods(t *testing.T) {
	w := world()
	w.Put(kinds.Service, service())
	for i := range 1000 {
		w.Put(kinds.Pod, pod(fmt.Sprintf("p%04d", i), fmt.Sprintf("10.1.%d.%d", i/250, i%250+1)))
		if i%170 == 0 {
			if _, err := w.Drive(uint64(i), 1000, time.Second, Controller()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := w.Drive(1, 1000, time.Second, Controller()); err != nil {
		t.Fatal(err)
	}
	if n := len(w.Objects(kinds.EndpointSlice)); n < 10 || n > 15 {
		t.Errorf("%d slices for 1000 pods, want 10 to 15", n)
	}
}
