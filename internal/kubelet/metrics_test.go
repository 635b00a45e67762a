package kubelet_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet"
)

// meter is a kubelet on a runtime of paper, and what it shows of itself.
type meter struct {
	*api
	t       *testing.T
	runtime *paperRuntime
	ask     func(cert *tls.Certificate, token, path string) (int, string)
	server  *tls.Certificate
	ca      *tls.Certificate
}

func newMeter(t *testing.T) *meter {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes cgroups")
	}
	m := &meter{api: newAPI(), t: t}
	root := fmt.Sprintf("knarr-metrics-test-%d", os.Getpid())
	var endpoint string
	m.runtime, endpoint = newPaperRuntime(t)
	dir := t.TempDir()
	cfg := kubelet.Config{NodeName: "node", NodeIP: "127.0.0.1", Client: m.api, View: m.view, Objects: objects{m.api}, Events: m.api,
		RuntimeEndpoint: endpoint, RootDir: filepath.Join(dir, "kubelet"), PodLogDir: filepath.Join(dir, "logs"), CgroupRoot: root}
	m.ask, m.ca = secure(t, &cfg)
	m.server = issue(t, "kube-apiserver-kubelet-client", x509.ExtKeyUsageClientAuth, m.ca)
	k, err := kubelet.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, kubelet.Clean(cfg.RootDir, root)); err != nil {
			t.Error(err)
		}
	})
	return m
}

// scrape is values by name and labels, without those that are empty.
func (m *meter) scrape(path string) map[string]float64 {
	m.t.Helper()
	code, text := m.ask(m.server, "", path)
	if code != 200 {
		m.t.Fatalf("%s: %d %s", path, code, text)
	}
	return figures(m.t, text)
}

func figures(t *testing.T, text string) map[string]float64 {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	out := map[string]float64{}
	for name, f := range families {
		for _, one := range f.GetMetric() {
			var labels []string
			for _, l := range one.GetLabel() {
				if l.GetValue() != "" {
					labels = append(labels, l.GetName()+"="+l.GetValue())
				}
			}
			sort.Strings(labels)
			key := name
			if len(labels) > 0 {
				key += "{" + strings.Join(labels, ",") + "}"
			}
			out[key] = one.GetCounter().GetValue() + one.GetGauge().GetValue() + float64(one.GetHistogram().GetSampleCount())
		}
	}
	return out
}

// await what /metrics shows; "+1" and so on are compared with before.
func (m *meter) await(what string, want map[string]float64) {
	m.t.Helper()
	var wrong []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
		got := m.scrape("/metrics")
		wrong = wrong[:0]
		for key, v := range want {
			if got[key] != v {
				wrong = append(wrong, fmt.Sprintf("%s is %v, want %v", key, got[key], v))
			}
		}
		if len(wrong) == 0 {
			return
		}
	}
	m.t.Fatalf("%s: %s", what, strings.Join(wrong, "; "))
}

func paperPod(name string) *corev1.Pod {
	grace := int64(1)
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, CreationTimestamp: metav1.Now()}, Spec: corev1.PodSpec{NodeName: "node", TerminationGracePeriodSeconds: &grace,
		RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c-" + name, Image: "registry.example/app:1", ImagePullPolicy: corev1.PullIfNotPresent}}}}
}

// TestMetrics follows the figures of a node through the lives of its pods.
func TestMetrics(t *testing.T) {
	m := newMeter(t)
	m.await("nothing yet", map[string]float64{"kubelet_node_name{node=node}": 1, "kubelet_running_pods": 0, "kubelet_desired_pods": 0, "kubelet_started_pods_total": 0,
		"kubelet_running_containers{container_state=running}": 0, "kubelet_pod_start_duration_seconds": 0})
	a := paperPod("a")
	a.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	m.add(kinds.Pod, a)
	m.await("a runs", map[string]float64{
		"kubelet_running_pods": 1, "kubelet_desired_pods": 1, "kubelet_active_pods": 1, "kubelet_working_pods{config=desired,lifecycle=sync}": 1,
		"kubelet_running_containers{container_state=running}": 1, "kubelet_started_pods_total": 1, "kubelet_started_pods_errors_total": 0,
		"kubelet_started_containers_total{container_type=container}": 1, "kubelet_pod_start_duration_seconds": 1,
		"kubelet_pod_start_sli_duration_seconds": 1, "kubelet_pod_start_total_duration_seconds": 1, "kubelet_containers_per_pod_count": 1, "kubelet_pod_worker_start_duration_seconds": 1,
		"kubelet_pod_worker_duration_seconds{operation_type=create}":                                    1,
		"kubelet_runtime_operations_total{operation_type=run_podsandbox}":                               1,
		"kubelet_runtime_operations_total{operation_type=pull_image}":                                   1,
		"kubelet_image_pull_duration_seconds{image_size_in_bytes=10MB-100MB}":                           1,
		"volume_manager_total_volumes{plugin_name=kubernetes.io/empty-dir,state=actual_state_of_world}": 1,
	})
	m.runtime.end("c-a", 3, "Error")
	m.await("a has ended", map[string]float64{"kubelet_terminated_containers_total{container_type=container,exit_code=3,reason=Error}": 1,
		"kubelet_running_containers{container_state=exited}": 1, "kubelet_working_pods{config=desired,lifecycle=terminated}": 1, "kubelet_active_pods": 0})

	m.runtime.mu.Lock()
	m.runtime.refuse["StartContainer"] = errors.New("no")
	m.runtime.mu.Unlock()
	m.add(kinds.Pod, paperPod("b"))
	m.await("b cannot start", map[string]float64{"kubelet_started_containers_errors_total{code=RunContainerError,container_type=container}": 1, "kubelet_pod_start_duration_seconds": 1,
		"kubelet_runtime_operations_errors_total{operation_type=start_container}": 1, "kubelet_terminated_containers_total{container_type=container,exit_code=128,reason=StartError}": 1})

	m.runtime.mu.Lock()
	m.runtime.refuse["RunPodSandbox"] = errors.New("no")
	m.runtime.mu.Unlock()
	m.add(kinds.Pod, paperPod("c"))
	for deadline := time.Now().Add(time.Minute); m.scrape("/metrics")["kubelet_started_pods_errors_total"] == 0; <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a sandbox that cannot be made is not counted")
		}
	}
	tooBig := paperPod("d")
	tooBig.Spec.NodeSelector = map[string]string{"no": "such"}
	m.add(kinds.Pod, tooBig)
	m.await("d is not taken", map[string]float64{"kubelet_admission_rejections_total{reason=NodeAffinity}": 1})

	got := m.scrape("/metrics")
	for _, key := range []string{"kubelet_pod_status_sync_duration_seconds", "kubelet_pleg_relist_duration_seconds", "kubelet_pleg_relist_interval_seconds", "kubelet_pleg_last_seen_seconds",
		"kubelet_cgroup_manager_duration_seconds{operation_type=create}", "kubelet_certificate_manager_server_ttl_seconds", "kubelet_cgroup_version",
		"kubelet_http_requests_total{long_running=false,method=GET,path=metrics,server_type=readwrite}", "kubelet_http_inflight_requests{long_running=false,method=GET,path=metrics,server_type=readwrite}",
		"process_start_time_seconds", "go_goroutines"} {
		if got[key] == 0 {
			t.Errorf("%s is not there", key)
		}
	}
	// What this kubelet does not do is not told.
	for key := range got {
		for _, no := range []string{"kubelet_preemptions", "kubelet_device_plugin", "kubelet_volume_stats", "kubelet_cpu_manager", "storage_operation"} {
			if strings.HasPrefix(key, no) {
				t.Error(key)
			}
		}
	}
}

// TestResourceMetricsOfForeignCgroups: a runtime that keeps cgroups elsewhere is
// asked.
func TestResourceMetricsOfForeignCgroups(t *testing.T) {
	m := newMeter(t)
	m.add(kinds.Pod, paperPod("a"))
	m.await("a runs", map[string]float64{"kubelet_running_containers{container_state=running}": 1})
	got := m.scrape("/metrics/resource")
	for key, want := range map[string]float64{"container_cpu_usage_seconds_total{container=c-a,namespace=default,pod=a}": 2, "container_memory_working_set_bytes{container=c-a,namespace=default,pod=a}": 1 << 20,
		"resource_scrape_error": 0} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%s is %v, want %v: %v", key, v, want, got)
		}
	}
	if got["node_cpu_usage_seconds_total"] == 0 || got["node_memory_working_set_bytes"] == 0 {
		t.Errorf("the node: %v", got)
	}
}

// TestScrapeAccess: whoever has nodes/metrics reads all of them, and nobody else
// does.
func TestScrapeAccess(t *testing.T) {
	ask, ca := serving(t)
	server := issue(t, "kube-apiserver-kubelet-client", x509.ExtKeyUsageClientAuth, ca)
	somebody := issue(t, "somebody", x509.ExtKeyUsageClientAuth, ca)
	scraper := issue(t, "scraper", x509.ExtKeyUsageClientAuth, ca) // has nodes/metrics alone
	for _, path := range []string{"/metrics", "/metrics/resource", "/metrics/cadvisor", "/metrics/probes"} {
		for _, tt := range []struct {
			name string
			cert *tls.Certificate
			want int
		}{{"server", server, 200}, {"scraper", scraper, 200}, {"somebody", somebody, 403}, {"nobody", nil, 401}} {
			code, body := ask(tt.cert, "", path)
			if code != tt.want {
				t.Errorf("%s by %s: %d %.200s, want %d", path, tt.name, code, body, tt.want)
			}
			if code == 403 && body != "Forbidden (user=somebody, verb=get, resource=nodes, subresource(s)=[metrics])\n" {
				t.Errorf("%s: %q", path, body)
			}
		}
	}
	for path, want := range map[string]int{"/metrics/none": 403, "/pods": 403, "/stats/summary": 403, "/containerLogs/a/b/c": 403, "/healthz": 403} {
		if code, body := ask(scraper, "", path); code != want {
			t.Errorf("%s by scraper: %d %.200s, want %d", path, code, body, want)
		}
	}
}
