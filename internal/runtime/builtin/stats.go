package builtin

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/cadvisor"
	"knarr.dev/knarr/internal/kubelet/cgroup"
	"knarr.dev/knarr/internal/runtime/builtin/spec"
)

// sample of CPU time, to tell a rate by the next one.
type sample struct {
	at    time.Time
	total time.Duration
}

// minRate is how far apart two samples must be: a rate of less is noise.
const minRate = 100 * time.Millisecond

func (r *Runtime) tree() (*cgroup.Tree, error) { return cgroup.Open("knarr-runtime") }

// ContainerStats implements the CRI.
func (r *Runtime) ContainerStats(ctx context.Context, req *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	c, err := r.runningContainer(req.ContainerId)
	if err != nil {
		return nil, err
	}
	t, err := r.tree()
	if err != nil {
		return nil, failed(err, "statistics")
	}
	return &runtimeapi.ContainerStatsResponse{Stats: r.statsOf(ctx, t, c)}, nil
}

// ListContainerStats implements the CRI: of those that run.
func (r *Runtime) ListContainerStats(ctx context.Context, req *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	f := req.GetFilter()
	t, err := r.tree()
	if err != nil {
		return nil, failed(err, "statistics")
	}
	out := &runtimeapi.ListContainerStatsResponse{}
	for _, c := range r.running(f.GetId(), f.GetPodSandboxId(), f.GetLabelSelector()) {
		out.Stats = append(out.Stats, r.statsOf(ctx, t, c))
	}
	return out, nil
}

func (r *Runtime) running(id, box string, labels map[string]string) []*container {
	r.mu.Lock()
	defer r.mu.Unlock()
	if box != "" {
		s, ok := find(r.sandboxes, box)
		if !ok {
			return nil
		}
		box = s.rec().ID
	}
	var out []*container
	for _, c := range selected(r.containers, id) {
		if c.state() == runtimeapi.ContainerState_CONTAINER_RUNNING && (box == "" || c.rec().Sandbox == box) && matches(c.config().Labels, labels) {
			out = append(out, c)
		}
	}
	return out
}

func (r *Runtime) statsOf(ctx context.Context, t *cgroup.Tree, c *container) *runtimeapi.ContainerStats {
	r.mu.Lock()
	rec, config := c.rec(), c.config()
	parent := ""
	if s := r.sandboxes[rec.Sandbox]; s != nil {
		parent = s.config().GetLinux().GetCgroupParent()
	}
	r.mu.Unlock()
	out := &runtimeapi.ContainerStats{Attributes: &runtimeapi.ContainerAttributes{Id: rec.ID, Metadata: config.Metadata, Labels: config.Labels, Annotations: config.Annotations}}
	now := time.Now()
	if u, ok := t.Read(spec.CgroupPath(parent, rec.ID), now); ok {
		out.Cpu, out.Memory, out.Swap = cpuUsage(u), memoryUsage(u), swapUsage(u)
		r.rate(c, u, out.Cpu)
	}
	if bytes, inodes, err := r.cfg.Images.Usage(ctx, rec.ID); err == nil {
		out.WritableLayer = &runtimeapi.FilesystemUsage{Timestamp: now.UnixNano(), UsedBytes: value(uint64(bytes)), InodesUsed: value(uint64(inodes)),
			FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: r.cfg.Root}}
	}
	return out
}

// rate tells how much CPU is used at the time, by the sample before.
func (r *Runtime) rate(c *container, u cgroup.Usage, out *runtimeapi.CpuUsage) {
	if u.CPU == nil || out == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	last := c.last
	if d := u.At.Sub(last.at); d >= minRate {
		c.last = sample{u.At, u.CPU.Total}
		if !last.at.IsZero() && u.CPU.Total >= last.total {
			c.rate = uint64(float64(u.CPU.Total-last.total) / d.Seconds())
		}
	}
	out.UsageNanoCores = value(c.rate)
}

func value(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

func cpuUsage(u cgroup.Usage) *runtimeapi.CpuUsage {
	if u.CPU == nil {
		return nil
	}
	return &runtimeapi.CpuUsage{Timestamp: u.At.UnixNano(), UsageCoreNanoSeconds: value(uint64(u.CPU.Total))}
}

func memoryUsage(u cgroup.Usage) *runtimeapi.MemoryUsage {
	m := u.Memory
	if m == nil {
		return nil
	}
	out := &runtimeapi.MemoryUsage{Timestamp: u.At.UnixNano(), WorkingSetBytes: value(m.WorkingSet), UsageBytes: value(m.Usage),
		RssBytes: value(m.RSS), PageFaults: value(m.Faults), MajorPageFaults: value(m.MajorFaults)}
	if m.Limit > 0 && m.Limit > m.WorkingSet {
		out.AvailableBytes = value(m.Limit - m.WorkingSet)
	}
	return out
}

func swapUsage(u cgroup.Usage) *runtimeapi.SwapUsage {
	if u.Memory == nil || u.Memory.Swap == nil {
		return nil
	}
	return &runtimeapi.SwapUsage{Timestamp: u.At.UnixNano(), SwapUsageBytes: value(*u.Memory.Swap)}
}

// PodSandboxStats implements the CRI.
func (r *Runtime) PodSandboxStats(ctx context.Context, req *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	s, err := r.sandbox(req.PodSandboxId)
	if err != nil {
		return nil, err
	}
	t, err := r.tree()
	if err != nil {
		return nil, failed(err, "statistics")
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: r.podStats(ctx, t, s)}, nil
}

// ListPodSandboxStats implements the CRI: of those that are ready.
func (r *Runtime) ListPodSandboxStats(ctx context.Context, req *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	f := req.GetFilter()
	t, err := r.tree()
	if err != nil {
		return nil, failed(err, "statistics")
	}
	r.mu.Lock()
	var l []*sandbox
	if id := f.GetId(); id != "" {
		if s, ok := find(r.sandboxes, id); ok && matches(s.config().Labels, f.GetLabelSelector()) {
			l = append(l, s)
		}
	} else {
		for _, s := range r.sandboxes {
			if s.rec().Ready && matches(s.config().Labels, f.GetLabelSelector()) {
				l = append(l, s)
			}
		}
	}
	r.mu.Unlock()
	out := &runtimeapi.ListPodSandboxStatsResponse{}
	for _, s := range l {
		out.Stats = append(out.Stats, r.podStats(ctx, t, s))
	}
	return out, nil
}

func (r *Runtime) podStats(ctx context.Context, t *cgroup.Tree, s *sandbox) *runtimeapi.PodSandboxStats {
	c := s.config()
	linux := &runtimeapi.LinuxPodSandboxStats{}
	now := time.Now()
	if parent := c.GetLinux().GetCgroupParent(); parent != "" {
		at := path.Join("/", parent)
		if u, ok := t.Read(at, now); ok {
			linux.Cpu, linux.Memory = cpuUsage(u), memoryUsage(u)
		}
	}
	linux.Network = r.networkUsage(s, now)
	processes := 0
	for _, k := range r.running("", s.rec().ID, nil) {
		linux.Containers = append(linux.Containers, r.statsOf(ctx, t, k))
		processes += len(t.Procs(spec.CgroupPath(c.GetLinux().GetCgroupParent(), k.rec().ID)))
	}
	linux.Process = &runtimeapi.ProcessUsage{Timestamp: now.UnixNano(), ProcessCount: value(uint64(processes))}
	return &runtimeapi.PodSandboxStats{Linux: linux,
		Attributes: &runtimeapi.PodSandboxAttributes{Id: s.rec().ID, Metadata: c.Metadata, Labels: c.Labels, Annotations: c.Annotations}}
}

// networkUsage of a sandbox with a network of its own.
func (r *Runtime) networkUsage(s *sandbox, now time.Time) *runtimeapi.NetworkUsage {
	var out *runtimeapi.NetworkUsage
	for _, i := range r.network(s) {
		u := &runtimeapi.NetworkInterfaceUsage{Name: i.Name, RxBytes: value(i.Receive.Bytes), RxErrors: value(i.Receive.Errors),
			TxBytes: value(i.Transmit.Bytes), TxErrors: value(i.Transmit.Errors)}
		if out == nil {
			out = &runtimeapi.NetworkUsage{Timestamp: now.UnixNano(), DefaultInterface: u}
			continue
		}
		out.Interfaces = append(out.Interfaces, u)
	}
	return out
}

// network is what went through a sandbox's interfaces, if it has its own.
func (r *Runtime) network(s *sandbox) []cadvisor.Interface {
	if s.flags()&unix.CLONE_NEWNET == 0 || !s.rec().Ready {
		return nil
	}
	var text []byte
	err := inside(r.sandboxDir(s.rec().ID), unix.CLONE_NEWNET, func() (err error) {
		text, err = os.ReadFile(filepath.Join("/proc/self/task", strconv.Itoa(unix.Gettid()), "net/dev"))
		return err
	})
	if err != nil {
		return nil
	}
	return cadvisor.Interfaces(string(text))
}
