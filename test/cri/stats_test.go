package cri_test

import (
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// metricNames of cAdvisor that a runtime gives in its place (KEP-2371).
var metricNames = []string{
	"container_blkio_device_usage_total", "container_cpu_cfs_periods_total", "container_cpu_cfs_throttled_periods_total",
	"container_cpu_cfs_throttled_seconds_total", "container_cpu_system_seconds_total", "container_cpu_usage_seconds_total",
	"container_cpu_user_seconds_total", "container_file_descriptors", "container_fs_inodes_free", "container_fs_inodes_total",
	"container_fs_limit_bytes", "container_fs_reads_bytes_total", "container_fs_reads_total", "container_fs_usage_bytes",
	"container_fs_writes_bytes_total", "container_fs_writes_total", "container_last_seen", "container_memory_cache",
	"container_memory_failcnt", "container_memory_failures_total", "container_memory_kernel_usage", "container_memory_mapped_file",
	"container_memory_max_usage_bytes", "container_memory_rss", "container_memory_swap", "container_memory_usage_bytes",
	"container_memory_working_set_bytes", "container_network_receive_bytes_total", "container_network_receive_errors_total",
	"container_network_receive_packets_dropped_total", "container_network_receive_packets_total", "container_network_transmit_bytes_total",
	"container_network_transmit_errors_total", "container_network_transmit_packets_dropped_total", "container_network_transmit_packets_total",
	"container_oom_events_total", "container_processes", "container_sockets", "container_spec_cpu_period", "container_spec_cpu_shares",
	"container_spec_memory_limit_bytes", "container_spec_memory_swap_limit_bytes", "container_start_time_seconds", "container_threads",
	"container_threads_max",
}

// eater uses 20 MiB of memory and some CPU.
func (p *pod) eater(opts ...func(*containerConfig)) *container {
	c := p.start(append([]func(*containerConfig){shell("seq 1 100000 > /dev/null; exec probe eat 20")}, opts...)...)
	c.says("ate 20")
	return c
}

// checkStats of a container that eats.
func (c *container) checkStats(s *runtimeapi.ContainerStats, began time.Time) {
	t := c.t
	t.equal("id", s.GetAttributes().GetId(), c.id)
	t.equal("metadata", s.GetAttributes().GetMetadata(), c.config.Metadata)
	t.equal("labels", s.GetAttributes().GetLabels(), c.config.Labels)
	t.equal("annotations", s.GetAttributes().GetAnnotations(), c.config.Annotations)
	t.since("time of CPU", s.GetCpu().GetTimestamp(), began, time.Now())
	t.since("time of memory", s.GetMemory().GetTimestamp(), began, time.Now())
	if n := s.GetCpu().GetUsageCoreNanoSeconds().GetValue(); n < 1e6 || n > uint64(time.Hour) {
		t.errorf("CPU: %d ns", n)
	}
	const low, high = 20 << 20, 200 << 20
	for name, v := range map[string]uint64{
		"working set": s.GetMemory().GetWorkingSetBytes().GetValue(), "usage": s.GetMemory().GetUsageBytes().GetValue(), "RSS": s.GetMemory().GetRssBytes().GetValue(),
	} {
		if v < low || v > high {
			t.errorf("%s: %d bytes", name, v)
		}
	}
	if v := s.GetMemory().GetPageFaults().GetValue(); v == 0 {
		t.errorf("no page fault")
	}
}

func (t *T) listStats(f *runtimeapi.ContainerStatsFilter) []*runtimeapi.ContainerStats {
	resp, err := t.runtime.ListContainerStats(t.ctx, &runtimeapi.ListContainerStatsRequest{Filter: f})
	if err != nil {
		t.fatalf("ListContainerStats: %v", err)
	}
	return resp.Stats
}

func (t *T) listPodStats(f *runtimeapi.PodSandboxStatsFilter) []*runtimeapi.PodSandboxStats {
	resp, err := t.runtime.ListPodSandboxStats(t.ctx, &runtimeapi.ListPodSandboxStatsRequest{Filter: f})
	if err != nil {
		t.fatalf("ListPodSandboxStats: %v", err)
	}
	return resp.Stats
}

var statsCases = []testCase{
	{"stats/container", func(t *T) {
		began := time.Now()
		c := t.pod().eater(func(c *containerConfig) { c.Annotations = map[string]string{"a": "b"} })
		resp, err := t.runtime.ContainerStats(t.ctx, &runtimeapi.ContainerStatsRequest{ContainerId: c.id})
		t.must(err)
		c.checkStats(resp.Stats, began)
		first := resp.Stats.GetCpu().GetUsageCoreNanoSeconds().GetValue()
		c.sh("seq 1 300000 > /dev/null")
		resp, err = t.runtime.ContainerStats(t.ctx, &runtimeapi.ContainerStatsRequest{ContainerId: c.id})
		t.must(err)
		if next := resp.Stats.GetCpu().GetUsageCoreNanoSeconds().GetValue(); next <= first {
			t.errorf("CPU does not grow: %d, then %d", first, next)
		}
	}},
	{"stats/memory that is left", func(t *T) {
		c := t.pod().eater(resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 128 << 20}))
		resp, err := t.runtime.ContainerStats(t.ctx, &runtimeapi.ContainerStatsRequest{ContainerId: c.id})
		t.must(err)
		m := resp.Stats.GetMemory()
		if sum := m.GetAvailableBytes().GetValue() + m.GetWorkingSetBytes().GetValue(); sum != 128<<20 {
			t.errorf("available %d, working set %d", m.GetAvailableBytes().GetValue(), m.GetWorkingSetBytes().GetValue())
		}
	}},
	{"stats/writable layer", func(t *T) {
		c := t.pod().start()
		c.sh("dd if=/dev/zero of=/tmp/big bs=1M count=8 2>/dev/null; for i in $(seq 50); do touch /tmp/$i; done; sync")
		// Runtimes look at the disk at intervals.
		t.within("the written files count", func() bool {
			resp, err := t.runtime.ContainerStats(t.ctx, &runtimeapi.ContainerStatsRequest{ContainerId: c.id})
			t.must(err)
			w := resp.Stats.GetWritableLayer()
			return w.GetUsedBytes().GetValue() >= 8<<20 && w.GetInodesUsed().GetValue() >= 50 && w.GetTimestamp() > 0 && w.GetFsId().GetMountpoint() != ""
		})
	}},
	{"stats/CPU rate", func(t *T) {
		c := t.pod().start(shell("while :; do :; done"), resources(&runtimeapi.LinuxContainerResources{CpuQuota: 20000, CpuPeriod: 100000}))
		var rate uint64
		if !t.within("a rate of a fifth of a core is seen", func() bool {
			resp, err := t.runtime.ContainerStats(t.ctx, &runtimeapi.ContainerStatsRequest{ContainerId: c.id})
			t.must(err)
			rate = resp.Stats.GetCpu().GetUsageNanoCores().GetValue()
			t.pass(time.Second)
			return rate > 50e6 && rate < 400e6
		}) {
			t.errorf("the last rate is %d", rate)
		}
	}},
	{"stats/list", func(t *T) {
		began := time.Now()
		p, q := t.pod(), t.pod()
		mark := t.unique("mark")
		a := p.eater(func(c *containerConfig) { c.Labels = map[string]string{"mark": mark, "more": "x"} })
		b := q.start(func(c *containerConfig) { c.Labels = map[string]string{"mark": mark, "more": "y"} })
		for name, f := range map[string]struct {
			filter *runtimeapi.ContainerStatsFilter
			want   []string
		}{
			"label":             {&runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{"mark": mark}}, []string{a.id, b.id}},
			"two labels":        {&runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{"mark": mark, "more": "y"}}, []string{b.id}},
			"another value":     {&runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{"mark": mark, "more": "z"}}, nil},
			"id":                {&runtimeapi.ContainerStatsFilter{Id: a.id}, []string{a.id}},
			"sandbox":           {&runtimeapi.ContainerStatsFilter{PodSandboxId: q.id}, []string{b.id}},
			"id and sandbox":    {&runtimeapi.ContainerStatsFilter{Id: a.id, PodSandboxId: q.id}, nil},
			"an id of nobody":   {&runtimeapi.ContainerStatsFilter{Id: "nosuchcontainer"}, nil},
			"sandbox of nobody": {&runtimeapi.ContainerStatsFilter{PodSandboxId: "nosuchsandbox"}, nil},
		} {
			var got []string
			for _, s := range t.listStats(f.filter) {
				got = append(got, s.GetAttributes().GetId())
			}
			slices.Sort(got)
			slices.Sort(f.want)
			t.equal("list by "+name, got, f.want)
		}
		for _, s := range t.listStats(&runtimeapi.ContainerStatsFilter{Id: a.id}) {
			a.checkStats(s, began)
		}
		for _, f := range []*runtimeapi.ContainerStatsFilter{nil, {}} {
			seen := map[string]bool{}
			for _, s := range t.listStats(f) {
				seen[s.GetAttributes().GetId()] = true
			}
			if !seen[a.id] || !seen[b.id] {
				t.errorf("a list of all lacks some")
			}
		}
	}},
	{"stats/list of running containers only", func(t *T) {
		p := t.pod()
		e := p.start()
		t.must(e.stop(0))
		r := p.start()
		var got []string
		for _, s := range t.listStats(&runtimeapi.ContainerStatsFilter{PodSandboxId: p.id}) {
			got = append(got, s.GetAttributes().GetId())
		}
		if !slices.Contains(got, r.id) {
			t.errorf("no stats of a running container: %v", got)
		}
		for _, s := range t.listStats(&runtimeapi.ContainerStatsFilter{Id: e.id}) {
			if s.GetMemory().GetWorkingSetBytes().GetValue() > 0 {
				t.errorf("an exited container uses memory: %v", s)
			}
		}
	}},
	{"stats/stream of the list", func(t *T) {
		p := t.pod()
		want := map[string]int{p.start().id: 1, p.start().id: 1}
		s, err := t.runtime.StreamContainerStats(t.ctx, &runtimeapi.StreamContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{PodSandboxId: p.id}})
		t.must(err)
		got := map[string]int{}
		receive(t, s, func(m *runtimeapi.StreamContainerStatsResponse) {
			for _, c := range m.ContainerStats {
				got[c.GetAttributes().GetId()]++
			}
		})
		t.equal("streamed", got, want)
	}},
	{"stats/of what is not there", func(t *T) {
		_, err := t.runtime.ContainerStats(t.ctx, &runtimeapi.ContainerStatsRequest{ContainerId: "nosuchcontainer"})
		t.refused("ContainerStats", err, codes.NotFound)
		_, err = t.runtime.PodSandboxStats(t.ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: "nosuchsandbox"})
		t.refused("PodSandboxStats", err, codes.NotFound)
	}},
	{"stats/pod", func(t *T) {
		began := time.Now()
		p := t.pod(func(c *podConfig) { c.Annotations = map[string]string{"a": "b"} })
		a, b := p.eater(), p.start()
		_ = t.ask("tcp", p.ip()+":1") // some traffic
		resp, err := t.runtime.PodSandboxStats(t.ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.id})
		t.must(err)
		s := resp.Stats
		t.equal("id", s.GetAttributes().GetId(), p.id)
		t.equal("metadata", s.GetAttributes().GetMetadata(), p.config.Metadata)
		t.equal("labels", s.GetAttributes().GetLabels(), p.config.Labels)
		t.equal("annotations", s.GetAttributes().GetAnnotations(), p.config.Annotations)
		l := s.GetLinux()
		t.since("time of CPU", l.GetCpu().GetTimestamp(), began, time.Now())
		if n := l.GetMemory().GetWorkingSetBytes().GetValue(); n < 20<<20 {
			t.errorf("memory: %d bytes", n)
		}
		if n := l.GetCpu().GetUsageCoreNanoSeconds().GetValue(); n < 1e6 {
			t.errorf("CPU: %d ns", n)
		}
		if n := l.GetProcess().GetProcessCount().GetValue(); n < 2 || n > 100 { // some count threads
			t.errorf("%d processes", n)
		}
		net := l.GetNetwork().GetDefaultInterface()
		if net.GetName() != "eth0" || net.GetRxBytes().GetValue() == 0 || net.GetTxBytes().GetValue() == 0 {
			t.errorf("network: %v", l.GetNetwork())
		}
		var got []string
		for _, c := range l.GetContainers() {
			got = append(got, c.GetAttributes().GetId())
			if c.GetAttributes().GetId() == a.id {
				a.checkStats(c, began)
			}
		}
		want := []string{a.id, b.id}
		slices.Sort(got)
		slices.Sort(want)
		t.equal("containers", got, want)
	}},
	{"stats/list of pods", func(t *T) {
		mark := t.unique("mark")
		label := func(c *podConfig) { c.Labels = map[string]string{"mark": mark} }
		p, q := t.pod(label), t.pod(label)
		stopped := t.pod(label)
		t.must(stopped.stop())
		for name, f := range map[string]struct {
			filter *runtimeapi.PodSandboxStatsFilter
			want   []string
		}{
			"label": {&runtimeapi.PodSandboxStatsFilter{LabelSelector: map[string]string{"mark": mark}}, []string{p.id, q.id}},
			"id":    {&runtimeapi.PodSandboxStatsFilter{Id: p.id}, []string{p.id}},
			"both":  {&runtimeapi.PodSandboxStatsFilter{Id: p.id, LabelSelector: map[string]string{"mark": "another"}}, nil},
			"none":  {&runtimeapi.PodSandboxStatsFilter{Id: "nosuchsandbox"}, nil},
		} {
			var got []string
			for _, s := range t.listPodStats(f.filter) {
				if id := s.GetAttributes().GetId(); id != stopped.id { // some list it, without figures
					got = append(got, id)
				}
			}
			slices.Sort(got)
			slices.Sort(f.want)
			t.equal("list by "+name, got, f.want)
		}
		seen := map[string]bool{}
		for _, s := range t.listPodStats(nil) {
			seen[s.GetAttributes().GetId()] = true
		}
		if !seen[p.id] || !seen[q.id] {
			t.errorf("a list of all lacks some")
		}
	}},
	{"stats/stream of pods", func(t *T) {
		p := t.pod()
		p.start()
		s, err := t.runtime.StreamPodSandboxStats(t.ctx, &runtimeapi.StreamPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{Id: p.id}})
		t.must(err)
		var got []string
		receive(t, s, func(m *runtimeapi.StreamPodSandboxStatsResponse) {
			for _, x := range m.PodSandboxStats {
				got = append(got, x.GetAttributes().GetId())
			}
		})
		t.equal("streamed", got, []string{p.id})
	}},
	{"stats/metrics", func(t *T) {
		p := t.pod()
		c := p.eater(resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 256 << 20, CpuShares: 512, CpuPeriod: 100000, CpuQuota: 100000}))
		d, err := t.runtime.ListMetricDescriptors(t.ctx, &runtimeapi.ListMetricDescriptorsRequest{})
		t.must(err)
		labels := map[string]int{}
		for _, d := range d.Descriptors {
			labels[d.Name] = len(d.LabelKeys)
		}
		resp, err := t.runtime.ListPodSandboxMetrics(t.ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
		t.must(err)
		t.checkMetrics(resp.PodMetrics, labels, p, c)
	}},
	{"stats/stream of metrics", func(t *T) {
		p := t.pod()
		p.start()
		s, err := t.runtime.StreamPodSandboxMetrics(t.ctx, &runtimeapi.StreamPodSandboxMetricsRequest{})
		t.must(err)
		seen := map[string]int{}
		receive(t, s, func(m *runtimeapi.StreamPodSandboxMetricsResponse) {
			for _, x := range m.PodSandboxMetrics {
				seen[x.PodSandboxId]++
			}
		})
		t.equal("times that the pod came", seen[p.id], 1)
	}},
}

// checkMetrics of a pod with one container that eats.
func (t *T) checkMetrics(pods []*runtimeapi.PodSandboxMetrics, labels map[string]int, p *pod, c *container) {
	i := slices.IndexFunc(pods, func(m *runtimeapi.PodSandboxMetrics) bool { return m.PodSandboxId == p.id })
	if i < 0 {
		t.fatalf("no metrics of the pod")
	}
	values := map[string]uint64{}
	check := func(list []*runtimeapi.Metric) {
		for _, m := range list {
			if n, ok := labels[m.Name]; !ok || n != len(m.LabelValues) {
				t.errorf("%s has %d labels, its descriptor %d", m.Name, len(m.LabelValues), n)
			}
			values[m.Name] = max(values[m.Name], m.GetValue().GetValue())
		}
	}
	check(pods[i].Metrics)
	found := false
	for _, m := range pods[i].ContainerMetrics {
		check(m.Metrics)
		found = found || m.ContainerId == c.id
	}
	if !found {
		t.errorf("no metrics of the container")
	}
	for name, low := range map[string]uint64{
		"container_memory_working_set_bytes": 20 << 20, "container_memory_rss": 20 << 20, "container_memory_usage_bytes": 20 << 20, "container_spec_memory_limit_bytes": 256 << 20,
		"container_spec_cpu_shares": 512, "container_spec_cpu_period": 100000, "container_processes": 1, "container_threads": 1, "container_start_time_seconds": 1, "container_last_seen": 1,
	} {
		if values[name] < low {
			t.errorf("%s is %d", name, values[name])
		}
	}
}
