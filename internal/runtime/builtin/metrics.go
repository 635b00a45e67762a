package builtin

import (
	"context"
	"path"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/cgroup"
	"knarr.dev/knarr/internal/runtime/builtin/spec"
)

// metric of a container, under the name that the field's tools know.
type metric struct {
	name, help string
	kind       runtimeapi.MetricType
	// of tells the value; false: the kernel does not tell it.
	of func(usageOf) (uint64, bool)
}

type usageOf struct {
	cgroup.Usage
	started time.Time
	limits  *runtimeapi.LinuxContainerResources
}

// seconds are whole ones: values are integers in this interface.
func seconds(d time.Duration) uint64 { return uint64(d / time.Second) }

func ofCPU(fn func(*cgroup.CPU) uint64) func(usageOf) (uint64, bool) {
	return func(u usageOf) (uint64, bool) {
		if u.CPU == nil {
			return 0, false
		}
		return fn(u.CPU), true
	}
}

func ofMemory(fn func(*cgroup.Memory) uint64) func(usageOf) (uint64, bool) {
	return func(u usageOf) (uint64, bool) {
		if u.Memory == nil {
			return 0, false
		}
		return fn(u.Memory), true
	}
}

func ofTasks(fn func(*cgroup.Tasks) uint64) func(usageOf) (uint64, bool) {
	return func(u usageOf) (uint64, bool) {
		if u.Tasks == nil {
			return 0, false
		}
		return fn(u.Tasks), true
	}
}

const (
	counter = runtimeapi.MetricType_COUNTER
	gauge   = runtimeapi.MetricType_GAUGE
)

var metrics = []metric{
	{"container_cpu_usage_seconds_total", "CPU time that was used, in seconds", counter, ofCPU(func(c *cgroup.CPU) uint64 { return seconds(c.Total) })},
	{"container_cpu_user_seconds_total", "CPU time in user mode, in seconds", counter, ofCPU(func(c *cgroup.CPU) uint64 { return seconds(c.User) })},
	{"container_cpu_system_seconds_total", "CPU time in kernel mode, in seconds", counter, ofCPU(func(c *cgroup.CPU) uint64 { return seconds(c.System) })},
	{"container_cpu_cfs_periods_total", "periods in which the quota applied", counter, ofCPU(func(c *cgroup.CPU) uint64 { return c.Periods })},
	{"container_cpu_cfs_throttled_periods_total", "periods in which the quota was used up", counter, ofCPU(func(c *cgroup.CPU) uint64 { return c.Throttled })},
	{"container_cpu_cfs_throttled_seconds_total", "time of waiting for the next period, in seconds", counter, ofCPU(func(c *cgroup.CPU) uint64 { return seconds(c.ThrottledTime) })},
	{"container_memory_usage_bytes", "memory in use, caches included", gauge, ofMemory(func(m *cgroup.Memory) uint64 { return m.Usage })},
	{"container_memory_working_set_bytes", "memory in use that cannot be dropped easily", gauge, ofMemory(func(m *cgroup.Memory) uint64 { return m.WorkingSet })},
	{"container_memory_rss", "anonymous memory in use", gauge, ofMemory(func(m *cgroup.Memory) uint64 { return m.RSS })},
	{"container_memory_cache", "page cache in use, in bytes", gauge, ofMemory(func(m *cgroup.Memory) uint64 { return m.Cache })},
	{"container_memory_failcnt", "how often the limit was hit", counter, ofMemory(func(m *cgroup.Memory) uint64 { return m.Failures })},
	{"container_oom_events_total", "how often the kernel killed for want of memory", counter, ofMemory(func(m *cgroup.Memory) uint64 { return m.Kills })},
	{"container_processes", "processes", gauge, ofTasks(func(t *cgroup.Tasks) uint64 { return uint64(t.Processes) })},
	{"container_threads", "threads", gauge, ofTasks(func(t *cgroup.Tasks) uint64 { return t.Threads })},
	{"container_spec_cpu_shares", "CPU shares", gauge, func(u usageOf) (uint64, bool) { return uint64(u.limits.GetCpuShares()), true }},
	{"container_spec_cpu_quota", "CPU quota in microseconds, 0 is none", gauge, func(u usageOf) (uint64, bool) { return uint64(max(u.limits.GetCpuQuota(), 0)), true }},
	{"container_spec_cpu_period", "CPU period in microseconds", gauge, func(u usageOf) (uint64, bool) { return uint64(u.limits.GetCpuPeriod()), true }},
	{"container_spec_memory_limit_bytes", "memory limit, 0 is none", gauge, func(u usageOf) (uint64, bool) { return uint64(u.limits.GetMemoryLimitInBytes()), true }},
	{"container_start_time_seconds", "when it was started, in seconds since 1970", gauge, func(u usageOf) (uint64, bool) { return uint64(u.started.Unix()), !u.started.IsZero() }},
	{"container_last_seen", "when it was looked at, in seconds since 1970", gauge, func(u usageOf) (uint64, bool) { return uint64(u.At.Unix()), true }},
}

// ListMetricDescriptors implements the CRI.
func (r *Runtime) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	out := &runtimeapi.ListMetricDescriptorsResponse{}
	for _, m := range metrics {
		out.Descriptors = append(out.Descriptors, &runtimeapi.MetricDescriptor{Name: m.name, Help: m.help})
	}
	return out, nil
}

// ListPodSandboxMetrics implements the CRI.
func (r *Runtime) ListPodSandboxMetrics(context.Context, *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	t, err := r.tree()
	if err != nil {
		return nil, failed(err, "metrics")
	}
	out := &runtimeapi.ListPodSandboxMetricsResponse{}
	r.mu.Lock()
	var boxes []*sandbox
	for _, s := range r.sandboxes {
		if s.rec().Ready {
			boxes = append(boxes, s)
		}
	}
	r.mu.Unlock()
	for _, s := range boxes {
		p := &runtimeapi.PodSandboxMetrics{PodSandboxId: s.rec().ID}
		parent := s.config().GetLinux().GetCgroupParent()
		if parent != "" {
			p.Metrics = measured(t, path.Join("/", parent), s.rec().Created, s.config().GetLinux().GetResources())
		}
		for _, c := range r.running("", s.rec().ID, nil) {
			r.mu.Lock()
			rec, limits := c.rec(), c.config().GetLinux().GetResources()
			r.mu.Unlock()
			p.ContainerMetrics = append(p.ContainerMetrics, &runtimeapi.ContainerMetrics{ContainerId: rec.ID,
				Metrics: measured(t, spec.CgroupPath(parent, rec.ID), rec.Started, limits)})
		}
		out.PodMetrics = append(out.PodMetrics, p)
	}
	return out, nil
}

func measured(t *cgroup.Tree, at string, started time.Time, limits *runtimeapi.LinuxContainerResources) []*runtimeapi.Metric {
	u, ok := t.Read(at, time.Now())
	if !ok {
		return nil
	}
	var out []*runtimeapi.Metric
	for _, m := range metrics {
		if v, ok := m.of(usageOf{u, started, limits}); ok {
			out = append(out, &runtimeapi.Metric{Name: m.name, MetricType: m.kind, Value: value(v)})
		}
	}
	return out
}

// StreamPodSandboxMetrics implements the CRI.
func (r *Runtime) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, out grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	l, err := r.ListPodSandboxMetrics(out.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	return parts(l.GetPodMetrics(), err, func(p []*runtimeapi.PodSandboxMetrics) error {
		return out.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: p})
	})
}
