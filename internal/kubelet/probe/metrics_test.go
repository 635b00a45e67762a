package probe

import (
	"context"
	"log/slog"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/metricstest"
)

// TestMetrics: probes count by what they find, over the restarts of their
// container, and are gone with their pod.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ok := true
		p := New(Config{Log: slog.New(slog.DiscardHandler), Exec: func(context.Context, string, []string, time.Duration) (string, bool, error) {
			<-time.After(100 * time.Millisecond)
			return "", ok, nil
		}})
		reg := prometheus.NewRegistry()
		reg.MustRegister(p)
		target := func(id string) []Target {
			return []Target{{Probing: plan.Probing{Kind: plan.Liveness, Container: "c", ID: id}, Spec: &corev1.Container{Name: "c"}, Since: time.Now(), Changed: func() {},
				Pod:   &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"}},
				Probe: &corev1.Probe{PeriodSeconds: 10, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}}}
		}
		pass := func(d time.Duration) { <-time.After(d); synctest.Wait() }
		p.Want("u", target("1"))
		pass(21 * time.Second) // at 0, 10 and 20
		ok = false
		p.Want("u", target("2"))
		pass(time.Second)
		want := map[string]float64{"prober_probe_total c n p u Liveness successful": 3, "prober_probe_total c n p u Liveness failed": 1, "prober_probe_duration_seconds c n p Liveness": 3}
		if got := metricstest.Gathered(t, reg); !maps.Equal(got, want) {
			t.Errorf("counted %v, want %v", got, want)
		}
		pass(9100 * time.Millisecond) // the next one has begun
		p.Remove("u")
		pass(time.Minute)
		if got := metricstest.Gathered(t, reg); len(got) != 0 {
			t.Errorf("left: %v", got)
		}
		p.Stop()
	})
}
