package kubelet

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kubelet/cri"
	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/version"
)

// The buckets are upstream's: dashboards and alerts rest on them.
var (
	startBuckets  = []float64{0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}
	pullBuckets   = []float64{1, 5, 10, 20, 30, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}
	statusBuckets = []float64{0.010, 0.050, 0.100, 0.500, 1, 5, 10, 20, 30, 45, 60}
)

// metrics are what happens on the node, under upstream's names; what is so at
// the moment is looked up when somebody asks (gauges.go). What this kubelet
// does not do has no metric: a zero would say that it went well.
type metrics struct {
	passes                               map[operation]prometheus.Observer
	seenToWorker                         prometheus.Histogram
	started, startedSLI, startedAll      prometheus.Histogram
	containersPerPod                     prometheus.Histogram
	statusWritten                        prometheus.Histogram
	relists, relistPauses                prometheus.Histogram
	relistAt                             prometheus.Gauge
	cgroups                              *prometheus.HistogramVec
	pulls                                *prometheus.HistogramVec
	pods, podErrors                      prometheus.Counter
	userPods, userPodErrors              prometheus.Counter // with user namespaces
	imageVolumes, imageVolumesMounted    prometheus.Counter
	imageVolumeErrors                    prometheus.Counter
	containers, containerErrors          *prometheus.CounterVec
	ended                                *prometheus.CounterVec
	evictions, rejections, imagesRemoved *prometheus.CounterVec
	orphans                              prometheus.Counter
	requests                             *prometheus.CounterVec
	requestSeconds                       *prometheus.HistogramVec
	requestsOpen                         *prometheus.GaugeVec
}

// Counters are the metrics of what happens, of one node or of several.
type Counters struct {
	metrics *metrics
	ops     *cri.Operations
}

// NewCounters registers them.
func NewCounters(r prometheus.Registerer) (*Counters, error) {
	m, err := newMetrics(r)
	if err != nil {
		return nil, err
	}
	ops := cri.NewOperations()
	if err := r.Register(ops); err != nil {
		return nil, fmt.Errorf("kubelet: cannot register metrics: %w", err)
	}
	return &Counters{m, ops}, nil
}

// operation of a worker's pass, in upstream's words.
type operation string

const (
	opCreate operation = "create" // the first one
	opUpdate operation = "update" // the pod has changed
	opSync   operation = "sync"   // something else may have
	opKill   operation = "kill"   // it is to end
)

// newMetrics makes and registers them.
func newMetrics(r prometheus.Registerer) (*metrics, error) {
	var all []prometheus.Collector
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_" + name, Help: help}, labels)
		all = append(all, c)
		return c
	}
	counter := func(name, help string) prometheus.Counter { return counters(name, help).WithLabelValues() }
	histograms := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kubelet_" + name, Help: help, Buckets: buckets}, labels)
		all = append(all, h)
		return h
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return histograms(name, help, buckets).WithLabelValues().(prometheus.Histogram)
	}
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kubelet_" + name, Help: help}, labels)
		all = append(all, g)
		return g
	}
	request := []string{"method", "path", "server_type", "long_running"}
	m := &metrics{
		seenToWorker:        histogram("pod_worker_start_duration_seconds", "Time from a pod's being seen until its worker starts.", prometheus.DefBuckets),
		started:             histogram("pod_start_duration_seconds", "Time from a pod's being seen until it runs.", startBuckets),
		startedSLI:          histogram("pod_start_sli_duration_seconds", "Time from a pod's creation until its containers are seen to have started, without pulls and init containers; pods with state are left out.", startBuckets),
		startedAll:          histogram("pod_start_total_duration_seconds", "The same with everything.", startBuckets),
		containersPerPod:    histogram("containers_per_pod_count", "Containers of a pod.", prometheus.ExponentialBuckets(1, 2, 5)),
		statusWritten:       histogram("pod_status_sync_duration_seconds", "Time from a change of a pod's status until the API server has it.", statusBuckets),
		relists:             histogram("pleg_relist_duration_seconds", "Time that listing what the runtime has took.", prometheus.DefBuckets),
		relistPauses:        histogram("pleg_relist_interval_seconds", "Time between two such lists: a second with pods, ten without.", prometheus.DefBuckets),
		relistAt:            gauges("pleg_last_seen_seconds", "When the runtime was last asked for a list.").WithLabelValues(),
		cgroups:             histograms("cgroup_manager_duration_seconds", "Time that work on the cgroups of pods took.", prometheus.DefBuckets, "operation_type"),
		pulls:               histograms("image_pull_duration_seconds", "Time until an image was there, by its size.", pullBuckets, "image_size_in_bytes"),
		pods:                counter("started_pods_total", "Sandboxes that were to be made."),
		podErrors:           counter("started_pods_errors_total", "Those that could not be."),
		userPods:            counter("started_user_namespaced_pods_total", "Sandboxes with a user namespace that were to be made."),
		userPodErrors:       counter("started_user_namespaced_pods_errors_total", "Those that could not be."),
		imageVolumes:        counter("image_volume_requested_total", "Mounts of image volumes in containers that were to be made."),
		imageVolumeErrors:   counter("image_volume_mounted_errors_total", "Those in containers that could not be made."),
		imageVolumesMounted: counter("image_volume_mounted_succeed_total", "Those in containers that were made."),
		containers:          counters("started_containers_total", "Containers that were to be started.", "container_type"),
		containerErrors:     counters("started_containers_errors_total", "Those that could not be, by reason.", "container_type", "code"),
		ended:               counters("terminated_containers_total", "Containers that ended.", "container_type", "exit_code", "reason"),
		evictions:           counters("evictions", "Pods evicted by the kubelet, by what was short.", "eviction_signal"),
		rejections:          counters("admission_rejections_total", "Pods that the node did not take.", "reason"),
		imagesRemoved:       counters("image_garbage_collected_total", "Images that were removed to make room.", "reason"),
		orphans:             counter("orphaned_runtime_pods_total", "Pods that only the runtime knew of."),
		requests:            counters("http_requests_total", "Requests to this server.", request...),
		requestSeconds:      histograms("http_requests_duration_seconds", "Time until they were answered.", prometheus.DefBuckets, request...),
		requestsOpen:        gauges("http_inflight_requests", "Requests that are being answered.", request...),
	}
	passes := histograms("pod_worker_duration_seconds", "Time of one look at a pod and what it led to.", prometheus.DefBuckets, "operation_type")
	m.passes = map[operation]prometheus.Observer{}
	for _, op := range []operation{opCreate, opUpdate, opSync, opKill} {
		m.passes[op] = passes.WithLabelValues(string(op))
	}
	all = append(all, buildInfo(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, c := range all {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("kubelet: cannot register metrics: %w", err)
		}
	}
	return m, nil
}

func buildInfo() prometheus.Collector {
	v := version.Info()
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kubernetes_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"major": v.Major, "minor": v.Minor, "git_version": v.GitVersion, "git_commit": v.GitCommit, "git_tree_state": v.GitTreeState,
			"build_date": v.BuildDate, "go_version": v.GoVersion, "compiler": v.Compiler, "platform": v.Platform}}, func() float64 { return 1 })
}

func since(began time.Time) float64 { return time.Since(began).Seconds() }

// containerType in upstream's words.
func containerType(pod *corev1.Pod, name string) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return "init_container"
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return "ephemeral_container"
		}
	}
	return "container"
}

// end counts a container that has ended.
func (m *metrics) end(pod *corev1.Pod, c *plan.Container) {
	code := "unknown"
	if c.ExitCode >= 0 && c.ExitCode <= 255 { // else a runtime's invention
		code = strconv.Itoa(int(c.ExitCode))
	}
	m.ended.WithLabelValues(containerType(pod, c.Name), code, c.Reason).Inc()
}

// sizes of images as upstream tells them apart; each from its bytes on.
var sizes = []struct {
	from uint64
	name string
}{{100 << 30, "GT100GB"}, {60 << 30, "60GB-100GB"}, {40 << 30, "40GB-60GB"}, {30 << 30, "30GB-40GB"}, {20 << 30, "20GB-30GB"}, {10 << 30, "10GB-20GB"},
	{5 << 30, "5GB-10GB"}, {1 << 30, "1GB-5GB"}, {500 << 20, "500MB-1GB"}, {100 << 20, "100MB-500MB"}, {10 << 20, "10MB-100MB"}}

func sizeName(bytes uint64) string {
	for _, s := range sizes {
		if bytes > s.from {
			return s.name
		}
	}
	return "0-10MB"
}

// served counts the requests that next answers. Labels take the names of known
// paths and methods only, never a client's words (CVE-2020-8551).
func (m *metrics) served(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method, path := methodLabel(r.Method), pathLabel(r.URL.Path)
		labels := []string{method, path, "readwrite", strconv.FormatBool(path == "exec" || path == "attach" || path == "portForward")}
		m.requests.WithLabelValues(labels...).Inc()
		open := m.requestsOpen.WithLabelValues(labels...)
		open.Inc()
		defer open.Dec()
		began := time.Now()
		defer func() { m.requestSeconds.WithLabelValues(labels...).Observe(since(began)) }()
		next.ServeHTTP(w, r)
	})
}

func methodLabel(method string) string {
	switch method {
	case http.MethodOptions, http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodTrace, http.MethodConnect:
		return method
	}
	return "other"
}

// pathLabel is what a path begins with, in upstream's spelling.
func pathLabel(path string) string {
	switch path {
	case "/metrics/cadvisor", "/metrics/probes", "/metrics/resource":
		return path[1:]
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch first {
	case "attach", "containerLogs", "exec", "healthz", "metrics", "pods", "portForward", "stats":
		return first
	}
	return "other"
}
