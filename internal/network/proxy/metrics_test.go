package proxy

import (
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/network/nft"
)

// TestMetrics: what changes counts, and what the kernel took of it.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	reg := prometheus.NewRegistry()
	w.metrics = reg
	w.apply(kinds.Node, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/24"}}})
	w.apply(kinds.Service, svc("web", "10.96.0.80"))
	began := float64(time.Now().Unix())
	w.run(t)
	first := figures(t, reg)
	if first["sync_full_proxy_rules_duration_seconds"] < 1 || first["sync_proxy_rules_service_changes_total"] != 0 || first["network_programming_duration_seconds"] != 0 {
		t.Errorf("after the first pass: %v", first)
	}
	s := slice("web", podA)
	s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().Add(-time.Minute).Format(time.RFC3339Nano)}
	w.apply(kinds.EndpointSlice, s) // of before this proxy
	s = s.DeepCopy()
	s.Annotations[corev1.EndpointsLastChangeTriggerTime] = time.Now().Format(time.RFC3339Nano)
	w.apply(kinds.EndpointSlice, s)
	w.apply(kinds.Service, svc("other", "10.96.0.81"))
	now := awaitFigures(t, reg, func(f map[string]float64) bool {
		return f["network_programming_duration_seconds"] == 1 && f["sync_proxy_rules_service_changes_pending"] == 0
	})
	for name, want := range map[string]float64{"sync_proxy_rules_endpoint_changes_total": 2, "sync_proxy_rules_service_changes_total": 1,
		"sync_proxy_rules_endpoint_changes_pending": 0, "sync_proxy_rules_nftables_sync_failures_total": 0,
		"sync_proxy_rules_duration_seconds": now["sync_full_proxy_rules_duration_seconds"] + now["sync_partial_proxy_rules_duration_seconds"]} {
		if now[name] != want {
			t.Errorf("%s is %v, want %v", name, now[name], want)
		}
	}
	if now["sync_partial_proxy_rules_duration_seconds"] < 1 || now["sync_proxy_rules_last_timestamp_seconds"] < began || now["sync_proxy_rules_last_queued_timestamp_seconds"] < began {
		t.Errorf("figures: %v", now)
	}
	// Somebody takes the table away: the pass that finds that writes all anew.
	w.node.Do(t, func() error { return nft.Delete(nftables.TableFamilyIPv4, TableName) })
	w.apply(kinds.Service, svc("third", "10.96.0.82"))
	awaitFigures(t, reg, func(f map[string]float64) bool {
		return f["sync_full_proxy_rules_duration_seconds"] == now["sync_full_proxy_rules_duration_seconds"]+1
	})
}

func awaitFigures(t *testing.T, reg *prometheus.Registry, ok func(map[string]float64) bool) map[string]float64 {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(time.Millisecond) {
		f := figures(t, reg)
		if ok(f) {
			return f
		}
		if time.Now().After(deadline) {
			t.Fatalf("figures: %v", f)
		}
	}
}

// figures by name; of histograms, the number.
func figures(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() != "ip_family" || l.GetValue() != "IPv4" {
					t.Errorf("%s has label %s", f.GetName(), l)
				}
			}
			out[f.GetName()[len("kubeproxy_"):]] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

func TestTriggered(t *testing.T) {
	began := time.Now().Add(-time.Hour)
	at := func(d time.Duration) map[string]string {
		return map[string]string{corev1.EndpointsLastChangeTriggerTime: began.Add(d).Format(time.RFC3339Nano)}
	}
	for _, tt := range []struct {
		name     string
		old, now map[string]string
		want     bool
	}{
		{"new", nil, at(time.Minute), true}, {"another", at(time.Second), at(time.Minute), true}, {"the same", at(time.Minute), at(time.Minute), false},
		{"before this proxy", nil, at(-time.Minute), false}, {"to come", nil, at(2 * time.Hour), false}, {"none", at(time.Minute), nil, false},
		{"no time", nil, map[string]string{corev1.EndpointsLastChangeTriggerTime: "x"}, false},
	} {
		if _, got := triggered(tt.old, tt.now, began); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
