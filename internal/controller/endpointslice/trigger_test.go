package endpointslice

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestTriggers: a slice says since when what is new in it is so.
func TestTriggers(t *testing.T) {
	at := func(seconds int64) metav1.Time { return metav1.NewTime(time.Unix(seconds, 0)) }
	since := func(seconds int64) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = at(seconds) }
	}
	created := func(s *corev1.Service) { s.CreationTimestamp = at(100) }
	a, b := pod("a", "10.0.0.1", since(50)), pod("b", "10.0.0.2", since(200))
	for _, tt := range []struct {
		name          string
		before, after []*corev1.Pod
		want          int64 // 0: nothing
	}{
		{"a new service", nil, []*corev1.Pod{a, b}, 100},
		{"a new service without pods", nil, nil, 100},
		{"another pod", []*corev1.Pod{a}, []*corev1.Pod{a, b}, 200},
		{"the first of two", []*corev1.Pod{a}, []*corev1.Pod{a, b, pod("c", "10.0.0.3", since(190))}, 190},
		{"a pod of before the service", []*corev1.Pod{b}, []*corev1.Pod{a, b}, 100},
		{"no longer ready", []*corev1.Pod{a, b}, []*corev1.Pod{a, pod("b", "10.0.0.2", unready, since(300))}, 300},
		{"gone", []*corev1.Pod{a, b}, []*corev1.Pod{a}, 0},
		{"ending, and still ready", []*corev1.Pod{a, b}, []*corev1.Pod{a, pod("b", "10.0.0.2", since(200), ending)}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Observed{Service: service(created), Suffix: suffixes()}
			if tt.before != nil {
				o.Pods = tt.before
				o.Slices = apply(nil, Plan(o).Actions)
			}
			o.Pods = tt.after
			result := Plan(o)
			if len(result.Actions) != 1 {
				t.Fatalf("%d actions", len(result.Actions))
			}
			s := result.Actions[0].Object.(*discoveryv1.EndpointSlice)
			got, ok := s.Annotations[corev1.EndpointsLastChangeTriggerTime]
			if tt.want == 0 {
				if ok {
					t.Errorf("triggered at %s", got)
				}
				return
			}
			if want := time.Unix(tt.want, 0).UTC().Format(time.RFC3339Nano); got != want {
				t.Errorf("triggered at %s, want %s", got, want)
			}
			o.Slices = apply(o.Slices, result.Actions)
			slices.Reverse(o.Pods)
			if again := Plan(o).Actions; len(again) != 0 {
				t.Errorf("again: %v", again)
			}
		})
	}
}

// TestTriggersOfManySlices: an endpoint that only moves to another slice is no
// news.
func TestTriggersOfManySlices(t *testing.T) {
	o := Observed{Service: service(func(s *corev1.Service) { s.CreationTimestamp = metav1.NewTime(time.Unix(100, 0)) }), Suffix: suffixes()}
	o.Pods = []*corev1.Pod{pod("a", "10.0.0.1", func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(time.Unix(500, 0)) })}
	o.Slices = apply(nil, Plan(o).Actions)
	o.Service = o.Service.DeepCopy()
	o.Service.Spec.Ports[0].Port = 81
	o.Service.Labels = map[string]string{"x": "y"} // the slice is written, its endpoints are the same
	actions := Plan(o).Actions
	if len(actions) == 0 {
		t.Fatal("nothing is written")
	}
	for _, act := range actions {
		s, ok := act.Object.(*discoveryv1.EndpointSlice)
		if ok && s.Annotations[corev1.EndpointsLastChangeTriggerTime] != "" {
			t.Errorf("triggered at %s", s.Annotations[corev1.EndpointsLastChangeTriggerTime])
		}
	}
}
