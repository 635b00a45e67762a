package horizontalpodautoscaler

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/metricstest"
)

func TestMetrics(t *testing.T) {
	w, api := newWorld(t, autoscaler(1, 9, external(target("", "10"))))
	c := Controller(kinds.Builtin(), api)
	expect := func(want map[string]float64) {
		t.Helper()
		got := metricstest.Values(t, c.Metrics...)
		for name, n := range want {
			if got["horizontal_pod_autoscaler_controller_"+name] != n {
				t.Errorf("%s is %v, want %v: %v", name, got["horizontal_pod_autoscaler_controller_"+name], n, got)
			}
		}
	}
	api.paths[queuePath] = `{"items":[{"value":"40"}]}`
	if _, err := w.Drive(1, 100, 50*time.Second, c); err != nil {
		t.Fatal(err)
	}
	expect(map[string]float64{"reconciliations_total scale_up none": 1, "reconciliations_total none none": 3, "reconciliation_duration_seconds scale_up none": 1,
		"metric_computation_total scale_up none External": 1, "metric_computation_total none none External": 3, "metric_computation_duration_seconds none none External": 3})
	delete(api.paths, queuePath)
	if _, err := w.Drive(2, 100, 0, c); err != nil {
		t.Fatal(err)
	}
	w.Now = w.Now.Add(every)
	if _, err := w.Drive(3, 100, 0, c); err != nil {
		t.Fatal(err)
	}
	expect(map[string]float64{"reconciliations_total none internal": 1, "metric_computation_total none internal External": 1})
	w.Remove(kinds.Deployment, "default", "web")
	w.Now = w.Now.Add(every)
	if _, err := w.Drive(4, 100, 0, c); err != nil {
		t.Fatal(err)
	}
	expect(map[string]float64{"reconciliations_total none internal": 2, "metric_computation_total none internal External": 1})
}

// TestBoundsOfTwo: of two autoscalers with bounds that have nothing in common the
// second finds out that it is not alone, and they do not take turns.
func TestBoundsOfTwo(t *testing.T) {
	w, api := newWorld(t, autoscaler(1, 2, external(target("", "10"))))
	other := autoscaler(2, 9, external(target("", "10")))
	other.Name, other.UID = "rival", ""
	w.Put(kinds.HorizontalPodAutoscaler, other)
	w.Put(kinds.Pod, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{"app": "web"}}})
	api.paths[queuePath] = `{"items":[{"value":"70"}]}`
	c := Controller(kinds.Builtin(), api)
	if _, err := w.Drive(1, 500, 10*time.Minute, c); err != nil {
		t.Fatal(err)
	}
	n := len(w.Writes)
	if _, err := w.Drive(2, 500, 10*time.Minute, c); err != nil || len(w.Writes) > n {
		t.Errorf("they take turns: %v (%v)", w.Writes[n:], err)
	}
}
