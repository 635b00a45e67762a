package kubelet

import (
	"log/slog"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kubelet/cgroup"
	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/kubelet/probe"
)

// scrapedNode is a kubelet that looks at a machine of files.
type scrapedNode struct {
	*Kubelet
	t   *testing.T
	dir string
}

var scrapeTime = time.Unix(1_700_000_000, 0)

func newScrapedNode(t *testing.T, files map[string]string) *scrapedNode {
	t.Helper()
	n := &scrapedNode{t: t, dir: t.TempDir()}
	n.write(files)
	tree, err := cgroup.OpenAt(filepath.Join(n.dir, "cgroup"), "pods")
	if err != nil {
		t.Fatal(err)
	}
	n.Kubelet = &Kubelet{
		cfg:  Config{NodeName: "node", RootDir: n.dir, SandboxImage: "pause", Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return scrapeTime }},
		proc: filepath.Join(n.dir, "proc"), sys: filepath.Join(n.dir, "sys"), cgroups: tree, workers: map[types.UID]*worker{}, prober: probe.New(probe.Config{}),
		machine: machine{cpus: 4, memory: 8 << 30, info: corev1.NodeSystemInfo{BootID: "b", MachineID: "m", SystemUUID: "s"}},
	}
	return n
}

func (n *scrapedNode) write(files map[string]string) {
	n.t.Helper()
	for name, text := range files {
		path := filepath.Join(n.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			n.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			n.t.Fatal(err)
		}
	}
}

// pod of two containers, one of which has ended.
func (n *scrapedNode) pod(name string, host bool) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{HostNetwork: host,
		Containers: []corev1.Container{{Name: "c"}, {Name: "d"}}}}
	n.workers[pod.UID] = &worker{pod: pod, sandboxes: []plan.Sandbox{{ID: "box-" + name, Ready: true, Created: scrapeTime.Add(-time.Hour)}}, containers: []plan.Container{
		{ID: "c-" + name, Name: "c", Image: "app:1", State: plan.Running, Started: scrapeTime.Add(-time.Minute)}, {ID: "d-" + name, Name: "d", State: plan.Exited}}}
}

// scrape a path: values by name and labels, as in the text, and the time of
// those that have one.
func (n *scrapedNode) scrape(path string) (values map[string]float64, timed map[string]bool) {
	n.t.Helper()
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(n.scraped()[path], promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
	if rec.Code != 200 {
		n.t.Fatalf("%s: %d %s", path, rec.Code, rec.Body)
	}
	return parsed(n.t, rec.Body.String())
}

func parsed(t *testing.T, text string) (values map[string]float64, timed map[string]bool) {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	values, timed = map[string]float64{}, map[string]bool{}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				if l.GetValue() != "" {
					labels = append(labels, l.GetName()+"="+l.GetValue())
				}
			}
			sort.Strings(labels)
			key := name + "{" + strings.Join(labels, ",") + "}"
			values[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			if m.TimestampMs != nil {
				timed[key] = time.UnixMilli(m.GetTimestampMs()).Equal(scrapeTime)
			}
		}
	}
	return values, timed
}

// unified is version 2 with a pod p that has a limit.
var unified = map[string]string{
	"cgroup/cgroup.controllers": "cpu memory io pids", "cgroup/cpu.stat": "usage_usec 9000000\n",
	"proc/meminfo":                               "MemTotal: 1000 kB\nMemFree: 400 kB\nInactive(file): 100 kB\nSwapTotal: 50 kB\nSwapFree: 20 kB\n",
	"cgroup/pods/cpu.stat":                       "usage_usec 5000000\n",
	"cgroup/pods/besteffort/podp/cpu.stat":       "usage_usec 3000000\n",
	"cgroup/pods/besteffort/podp/memory.current": "5000\n", "cgroup/pods/besteffort/podp/memory.stat": "inactive_file 1000\n",
	"cgroup/pods/besteffort/podp/box-p/cpu.stat": "usage_usec 1000\n", "cgroup/pods/besteffort/podp/box-p/cgroup.procs": "77\n",
	"cgroup/pods/besteffort/podp/c-p/cpu.stat": "usage_usec 2000000\nuser_usec 1500000\nsystem_usec 500000\nnr_periods 8\nnr_throttled 3\nthrottled_usec 250000\n",
	"cgroup/pods/besteffort/podp/c-p/cpu.max":  "50000 100000\n", "cgroup/pods/besteffort/podp/c-p/memory.current": "4000\n",
	"cgroup/pods/besteffort/podp/c-p/memory.stat": "anon 1500\nfile 2500\ninactive_file 1000\npgfault 6\npgmajfault 1\n", "cgroup/pods/besteffort/podp/c-p/memory.max": "65536\n",
	"cgroup/pods/besteffort/podp/c-p/memory.swap.current": "300\n", "cgroup/pods/besteffort/podp/c-p/memory.swap.max": "700\n",
	"cgroup/pods/besteffort/podp/c-p/cgroup.procs": "78\n79\n80\n", "proc/78/fd/0": "", "proc/78/fd/1": "", "proc/79/fd/0": "",
	"cgroup/pods/besteffort/podp/c-p/io.stat":  "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n253:1 rbytes=5 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n",
	"cgroup/pods/besteffort/podp/d-p/cpu.stat": "usage_usec 7000000\n",
	"sys/dev/block/8:0/uevent":                 "MAJOR=8\nMINOR=0\nDEVNAME=sda\n",
	"proc/77/net/dev": "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n" +
		"    lo:     9       9    0    0    0     0          0         0        9       9    0    0    0     0       0          0\n" +
		"  eth0:    100       4    1    2    0     0          0         0      200       5    3    4    0     0       0          0\n",
}

func TestCAdvisor(t *testing.T) {
	n := newScrapedNode(t, unified)
	n.pod("p", false)
	got, timed := n.scrape("/metrics/cadvisor")
	c := "container=c,id=/pods/besteffort/podp/c-p,image=app:1,name=c-p,namespace=default,pod=p}"
	box := "id=/pods/besteffort/podp/box-p,image=pause,interface=eth0,name=box-p,namespace=default,pod=p}"
	for key, want := range map[string]float64{
		"container_cpu_usage_seconds_total{container=c,cpu=total,id=/pods/besteffort/podp/c-p,image=app:1,name=c-p,namespace=default,pod=p}": 2,
		"container_cpu_usage_seconds_total{cpu=total,id=/pods/besteffort/podp,namespace=default,pod=p}":                                      3,
		"container_cpu_usage_seconds_total{cpu=total,id=/pods}":                                                                              5,
		"container_cpu_usage_seconds_total{cpu=total,id=/}":                                                                                  9,
		"container_cpu_user_seconds_total{" + c:                                                                                              1.5, "container_cpu_system_seconds_total{" + c: 0.5,
		"container_cpu_cfs_periods_total{" + c: 8, "container_cpu_cfs_throttled_periods_total{" + c: 3, "container_cpu_cfs_throttled_seconds_total{" + c: 0.25,
		"container_spec_cpu_quota{" + c: 50000, "container_spec_cpu_period{" + c: 100000,
		"container_memory_usage_bytes{" + c: 4000, "container_memory_working_set_bytes{" + c: 3000, "container_memory_rss{" + c: 1500, "container_memory_cache{" + c: 2500,
		"container_memory_swap{" + c: 300, "container_spec_memory_limit_bytes{" + c: 65536, "container_memory_usage_bytes{id=/}": 600 << 10,
		"container_memory_failures_total{container=c,failure_type=pgmajfault,id=/pods/besteffort/podp/c-p,image=app:1,name=c-p,namespace=default,pod=p,scope=hierarchy}": 1,
		"container_start_time_seconds{" + c: float64(scrapeTime.Unix() - 60), "container_last_seen{" + c: float64(scrapeTime.Unix()),
		"container_fs_reads_bytes_total{container=c,device=/dev/sda,id=/pods/besteffort/podp/c-p,image=app:1,name=c-p,namespace=default,pod=p}":                                     10,
		"container_fs_reads_bytes_total{container=c,device=253:1,id=/pods/besteffort/podp/c-p,image=app:1,name=c-p,namespace=default,pod=p}":                                        5,
		"container_blkio_device_usage_total{container=c,device=/dev/sda,id=/pods/besteffort/podp/c-p,image=app:1,major=8,minor=0,name=c-p,namespace=default,operation=Write,pod=p}": 20,
		"container_file_descriptors{" + c: 3, "container_sockets{" + c: 0, "container_spec_memory_swap_limit_bytes{" + c: 700,
		"container_fs_writes_total{container=c,device=/dev/sda,id=/pods/besteffort/podp/c-p,image=app:1,name=c-p,namespace=default,pod=p}": 2,
		"container_network_receive_bytes_total{" + box: 100, "container_network_receive_packets_total{" + box: 4, "container_network_receive_errors_total{" + box: 1,
		"container_network_receive_packets_dropped_total{" + box: 2, "container_network_transmit_bytes_total{" + box: 200, "container_network_transmit_packets_total{" + box: 5,
		"container_network_transmit_errors_total{" + box: 3, "container_network_transmit_packets_dropped_total{" + box: 4,
		"machine_cpu_cores{boot_id=b,machine_id=m,system_uuid=s}": 4, "machine_memory_bytes{boot_id=b,machine_id=m,system_uuid=s}": 8 << 30,
		"machine_swap_bytes{boot_id=b,machine_id=m,system_uuid=s}": 50 << 10, "container_scrape_error{}": 0,
	} {
		v, ok := got[key]
		if !ok || v != want {
			t.Errorf("%s is %v (%v), want %v", key, v, ok, want)
		}
		if at, ok := timed[key]; strings.HasPrefix(key, "container_") && key != "container_scrape_error{}" && (!ok || !at) {
			t.Errorf("%s has no time", key)
		}
	}
	for key := range got {
		if strings.Contains(key, "d-p") || strings.Contains(key, "interface=lo") {
			t.Errorf("%s: of what does not run, or is nobody's traffic", key)
		}
		if strings.HasPrefix(key, "container_spec_cpu_quota") && !strings.Contains(key, "container=c") {
			t.Errorf("%s: there is no limit", key)
		}
		if strings.HasPrefix(key, "container_file_descriptors") && !strings.Contains(key, "name=c-p") {
			t.Errorf("%s: none of its processes could be read", key)
		}
		if strings.HasPrefix(key, "container_fs_usage_bytes") && !strings.Contains(key, "id=/}") {
			t.Errorf("%s: nothing tells that", key)
		}
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(got)), func(k string) bool { return strings.HasPrefix(k, "container_fs_limit_bytes{") }) {
		t.Error("no size of the disk")
	}
	n.write(map[string]string{"cgroup/pods/besteffort/podp/c-p/cpu.stat": "usage_usec 2500000\n"})
	later, _ := n.scrape("/metrics/cadvisor")
	if v := later["container_cpu_usage_seconds_total{container=c,cpu=total,id=/pods/besteffort/podp/c-p,image=app:1,name=c-p,namespace=default,pod=p}"]; v != 2.5 {
		t.Errorf("later: %v", v)
	}
}

// TestCAdvisorHostNetwork: the node's traffic is not a pod's.
func TestCAdvisorHostNetwork(t *testing.T) {
	n := newScrapedNode(t, unified)
	n.pod("p", true)
	got, _ := n.scrape("/metrics/cadvisor")
	for key := range got {
		if strings.Contains(key, "_network_") {
			t.Error(key)
		}
	}
}

// TestScrapeWithoutCgroups: what cannot be read is said.
func TestScrapeWithoutCgroups(t *testing.T) {
	n := newScrapedNode(t, map[string]string{"cgroup/cgroup.controllers": ""})
	for path, key := range map[string]string{"/metrics/cadvisor": "container_scrape_error{}", "/metrics/resource": "resource_scrape_error{}"} {
		if got, _ := n.scrape(path); got[key] != 1 {
			t.Errorf("%s: %v", path, got)
		}
	}
}

func TestResourceMetrics(t *testing.T) {
	n := newScrapedNode(t, unified)
	n.pod("p", false)
	got, timed := n.scrape("/metrics/resource")
	want := map[string]float64{
		"node_cpu_usage_seconds_total{}": 9, "node_memory_working_set_bytes{}": 500 << 10, "node_swap_usage_bytes{}": 30 << 10,
		"pod_cpu_usage_seconds_total{namespace=default,pod=p}": 3, "pod_memory_working_set_bytes{namespace=default,pod=p}": 4000,
		"container_cpu_usage_seconds_total{container=c,namespace=default,pod=p}": 2, "container_memory_working_set_bytes{container=c,namespace=default,pod=p}": 3000,
		"container_swap_usage_bytes{container=c,namespace=default,pod=p}": 300, "container_start_time_seconds{container=c,namespace=default,pod=p}": float64(scrapeTime.Unix() - 60),
		"resource_scrape_error{}": 0,
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for key := range want {
		wantTime := !strings.HasPrefix(key, "container_start") && !strings.HasPrefix(key, "resource_")
		if timed[key] != wantTime {
			t.Errorf("%s: has its time: %v", key, timed[key])
		}
	}
}

func TestStartup(t *testing.T) {
	now := scrapeTime
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now)}, Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "i"}}, Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}}}
	at := func(s int) time.Time { return now.Add(time.Duration(s) * time.Second) }
	running := corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	shown := func(statuses ...corev1.ContainerStatus) *corev1.Pod {
		p := pod.DeepCopy()
		p.Status.ContainerStatuses = statuses
		return p
	}
	s := newStartup(pod, at(1))
	s.pull(true, at(2)) // two that overlap: 2 to 7
	s.pull(true, at(4))
	s.pull(false, at(5))
	s.pull(false, at(7))
	s.pull(true, at(8))
	s.pull(false, at(9))
	ended := plan.Container{ID: "1", Name: "i", State: plan.Exited, Started: at(9), Finished: at(12)}
	for range 2 { // what is seen twice counts once
		if _, ok := s.looked(pod, corev1.PodPending, []plan.Container{ended}, at(12)); ok {
			t.Error("it does not run yet")
		}
	}
	if _, _, ok := s.observed(shown(running), at(13)); ok {
		t.Error("one of two has started")
	}
	if took, ok := s.looked(pod, corev1.PodRunning, nil, at(14)); !ok || took != 13*time.Second {
		t.Errorf("it runs after %v, %v", took, ok)
	}
	if _, ok := s.looked(pod, corev1.PodRunning, nil, at(15)); ok {
		t.Error("it ran before")
	}
	total, net, ok := s.observed(shown(running, running), at(20))
	if !ok || total != 20*time.Second || net != 11*time.Second {
		t.Errorf("started after %v, without waiting %v, %v", total, net, ok)
	}
	if _, _, ok := s.observed(shown(running, running), at(21)); ok {
		t.Error("it started before")
	}
	before := pod.DeepCopy()
	before.Status.Phase = corev1.PodRunning
	s = newStartup(before, now)
	if _, ok := s.looked(before, corev1.PodRunning, nil, at(1)); ok {
		t.Error("it ran before this kubelet")
	}
	if _, _, ok := s.observed(shown(running, running), at(1)); ok {
		t.Error("it had started before this kubelet")
	}
	failed := newStartup(pod, now)
	failed.looked(pod, corev1.PodFailed, nil, at(1))
	if _, _, ok := failed.observed(shown(running, running), at(1)); ok {
		t.Error("it has failed")
	}
}

func TestPathLabel(t *testing.T) {
	for path, want := range map[string]string{"/metrics": "metrics", "/metrics/cadvisor": "metrics/cadvisor", "/metrics/x": "metrics", "/exec/a/b/c": "exec", "/portForward/a/b": "portForward",
		"/a": "other", "/": "other", "": "other", "//exec": "other", "/stats/summary": "stats"} {
		if got := pathLabel(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	for bytes, want := range map[uint64]string{0: "0-10MB", 11 << 20: "10MB-100MB", 2 << 30: "1GB-5GB", 200 << 30: "GT100GB"} {
		if got := sizeName(bytes); got != want {
			t.Errorf("%d: %s, want %s", bytes, got, want)
		}
	}
}

// TestTally: what is so on the node is looked up, whatever the pods are.
func TestTally(t *testing.T) {
	n := newScrapedNode(t, unified)
	n.pod("p", false)
	n.pod("q", false)
	n.pod("r", false)
	high, condition := int32(200_000), func(of corev1.PodConditionType, reason string) []corev1.PodCondition {
		return []corev1.PodCondition{{Type: of, Reason: reason, Status: corev1.ConditionTrue}}
	}
	p, q, r := n.workers["p"], n.workers["q"], n.workers["r"]
	p.placed.Store(true)
	p.pod.Spec.Priority, p.pod.Status.Conditions = &high, condition(corev1.PodResizePending, corev1.PodReasonDeferred)
	p.pod.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}}}
	p.mounted.Store(true)
	q.absent, q.pod.Status.Conditions = true, condition(corev1.PodResizeInProgress, "")
	q.pod.Spec.Volumes = p.pod.Spec.Volumes
	r.absent, r.pod.Spec.Containers, r.pod.Status.Conditions = true, nil, condition(corev1.PodResizePending, "somebody's")
	n.cfg.Metrics = prometheus.NewRegistry()
	n.cfg.Metrics.MustRegister(gauges{n.Kubelet})
	got, _ := n.scrape("/metrics")
	want := map[string]float64{
		"kubelet_node_name{node=node}": 1, "kubelet_running_pods{}": 3, "kubelet_desired_pods{}": 1, "kubelet_active_pods{}": 1, "kubelet_cgroup_version{}": 2,
		"kubelet_running_containers{container_state=created}": 0, "kubelet_running_containers{container_state=running}": 3,
		"kubelet_running_containers{container_state=exited}": 3, "kubelet_running_containers{container_state=unknown}": 0,
		"kubelet_working_pods{config=desired,lifecycle=sync}": 1, "kubelet_working_pods{config=orphan,lifecycle=terminating}": 1,
		"kubelet_working_pods{config=runtime_only,lifecycle=terminating,static=unknown}": 1, "kubelet_managed_ephemeral_containers{}": 0,
		"kubelet_pod_pending_resizes{priority_bucket=high,reason=deferred}": 1, "kubelet_pod_in_progress_resizes{}": 1,
		"volume_manager_total_volumes{plugin_name=kubernetes.io/secret,state=desired_state_of_world}": 2, "volume_manager_total_volumes{plugin_name=kubernetes.io/secret,state=actual_state_of_world}": 1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
