package builtin

import (
	"cmp"
	"context"
	"path"
	"slices"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/cadvisor"
	"knarr.dev/knarr/internal/kubelet/cgroup"
	"knarr.dev/knarr/internal/runtime/builtin/spec"
)

const (
	procRoot = "/proc"
	sysRoot  = "/sys"
)

func families() []cadvisor.Family {
	return cadvisor.Families(func(number string) string { return cadvisor.Device(sysRoot, number) })
}

// ListMetricDescriptors implements the CRI.
func (r *Runtime) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	out := &runtimeapi.ListMetricDescriptorsResponse{}
	for _, f := range families() {
		out.Descriptors = append(out.Descriptors, &runtimeapi.MetricDescriptor{Name: f.Name, Help: f.Help, LabelKeys: slices.Concat(cadvisor.Labels, f.Labels)})
	}
	return out, nil
}

// metricsOf what was measured; labels are values of cadvisor.Labels.
func metricsOf(m *cadvisor.Measured, labels []string) []*runtimeapi.Metric {
	var out []*runtimeapi.Metric
	for _, f := range families() {
		kind := runtimeapi.MetricType_GAUGE
		if f.Counter {
			kind = runtimeapi.MetricType_COUNTER
		}
		for _, v := range f.Values(m) {
			// Values are integers in this interface: seconds are whole ones.
			out = append(out, &runtimeapi.Metric{Name: f.Name, Timestamp: m.Usage.At.UnixNano(), MetricType: kind, LabelValues: slices.Concat(labels, v.Labels), Value: value(uint64(v.Value))})
		}
	}
	return out
}

// ListPodSandboxMetrics implements the CRI.
func (r *Runtime) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	t, err := r.tree()
	if err != nil {
		return nil, failed(err, "metrics")
	}
	r.mu.Lock()
	var boxes []*sandbox
	for _, s := range r.sandboxes {
		if s.rec().Ready {
			boxes = append(boxes, s)
		}
	}
	r.mu.Unlock()
	out := &runtimeapi.ListPodSandboxMetricsResponse{}
	for _, s := range boxes {
		out.PodMetrics = append(out.PodMetrics, r.podMetrics(ctx, t, s))
	}
	return out, nil
}

func (r *Runtime) podMetrics(ctx context.Context, t *cgroup.Tree, s *sandbox) *runtimeapi.PodSandboxMetrics {
	box := s.rec()
	config := box.Config.m
	pod, parent := config.GetMetadata(), config.GetLinux().GetCgroupParent()
	whole := cadvisor.Measured{Started: box.Created, Network: r.network(s), Usage: cgroup.Usage{At: time.Now()}}
	at := ""
	if parent != "" { // otherwise nothing counts the pod
		at = path.Join("/", parent)
		if u, ok := t.Read(at, time.Now()); ok {
			whole.Usage = u
			asked(&whole.Usage, config.GetLinux().GetResources())
		}
	}
	out := &runtimeapi.PodSandboxMetrics{PodSandboxId: box.ID, Metrics: metricsOf(&whole, []string{"", at, "", "", pod.GetNamespace(), pod.GetName()})}
	for _, c := range r.running("", box.ID, nil) {
		rec := c.rec()
		at := spec.CgroupPath(parent, rec.ID)
		u, ok := t.Read(at, time.Now())
		if !ok {
			continue // it has just ended
		}
		config := rec.Config.m
		asked(&u, config.GetLinux().GetResources())
		m := cadvisor.Measured{Started: rec.Started, Usage: u, Files: cadvisor.FilesOf(procRoot, t.Procs(at)), Disk: r.disk(ctx, rec.ID)}
		labels := []string{config.GetMetadata().GetName(), at, cmp.Or(config.GetImage().GetUserSpecifiedImage(), config.GetImage().GetImage()), rec.ID, pod.GetNamespace(), pod.GetName()}
		out.ContainerMetrics = append(out.ContainerMetrics, &runtimeapi.ContainerMetrics{ContainerId: rec.ID, Metrics: metricsOf(&m, labels)})
	}
	return out
}

// asked completes what was read: version 2 has a weight in the place of shares,
// which tells them roughly only.
func asked(u *cgroup.Usage, limits *runtimeapi.LinuxContainerResources) {
	if n := limits.GetCpuShares(); n > 0 && u.CPU != nil {
		u.CPU.Shares = n
	}
}

// disk that a container's files are on, which are beside our own, and what it
// has written.
func (r *Runtime) disk(ctx context.Context, id string) *cadvisor.Disk {
	written, _, err := r.cfg.Images.Usage(ctx, id)
	if err != nil {
		return nil
	}
	d := cadvisor.DiskOf(sysRoot, r.cfg.Root)
	if d != nil {
		d.Used = uint64(written)
	}
	return d
}

// StreamPodSandboxMetrics implements the CRI.
func (r *Runtime) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, out grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	l, err := r.ListPodSandboxMetrics(out.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	return parts(l.GetPodMetrics(), err, func(p []*runtimeapi.PodSandboxMetrics) error {
		return out.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: p})
	})
}
