package kubelet

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/cgroup"
	"knarr.dev/knarr/internal/kubelet/cri"
)

// resources are the few figures that metrics-server and the like ask for often.
type resources struct{ k *Kubelet }

var (
	inPod       = []string{"pod", "namespace"}
	inContainer = []string{"container", "pod", "namespace"}

	nodeCPUDesc         = prometheus.NewDesc("node_cpu_usage_seconds_total", "CPU time of the node.", nil, nil)
	nodeMemoryDesc      = prometheus.NewDesc("node_memory_working_set_bytes", "Memory of the node without idle pages of files.", nil, nil)
	nodeSwapDesc        = prometheus.NewDesc("node_swap_usage_bytes", "Memory of the node that was swapped out.", nil, nil)
	podCPUDesc          = prometheus.NewDesc("pod_cpu_usage_seconds_total", "CPU time of a pod.", inPod, nil)
	podMemoryDesc       = prometheus.NewDesc("pod_memory_working_set_bytes", "Memory of a pod without idle pages of files.", inPod, nil)
	podSwapDesc         = prometheus.NewDesc("pod_swap_usage_bytes", "Memory of a pod that was swapped out.", inPod, nil)
	containerCPUDesc    = prometheus.NewDesc("container_cpu_usage_seconds_total", "CPU time of a container.", inContainer, nil)
	containerMemoryDesc = prometheus.NewDesc("container_memory_working_set_bytes", "Memory of a container without idle pages of files.", inContainer, nil)
	containerSwapDesc   = prometheus.NewDesc("container_swap_usage_bytes", "Memory of a container that was swapped out.", inContainer, nil)
	containerStartDesc  = prometheus.NewDesc("container_start_time_seconds", "When a container began.", inContainer, nil)
	resourceErrorDesc   = prometheus.NewDesc("resource_scrape_error", "1: something could not be read.", nil, nil)
)

// Describe implements prometheus.Collector.
func (resources) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodeCPUDesc, nodeMemoryDesc, nodeSwapDesc, podCPUDesc, podMemoryDesc, podSwapDesc,
		containerCPUDesc, containerMemoryDesc, containerSwapDesc, containerStartDesc, resourceErrorDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (r resources) Collect(ch chan<- prometheus.Metric) {
	all, missing := r.k.measure()
	failed := 0.0
	if len(all) == 0 {
		failed = 1
	}
	if len(missing) > 0 { // a runtime that has its cgroups elsewhere knows them
		more, err := r.k.askRuntime(missing)
		if err != nil {
			r.k.cfg.Log.Warn("cannot read what containers use", "error", err)
			failed = 1
		}
		all = append(all, more...)
	}
	for i := range all {
		m := &all[i]
		switch {
		case m.container != "":
			if !m.Started.IsZero() {
				ch <- prometheus.MustNewConstMetric(containerStartDesc, prometheus.GaugeValue, float64(m.Started.UnixNano())/1e9, m.container, m.pod, m.namespace)
			}
			usage(ch, &m.Usage, containerCPUDesc, containerMemoryDesc, containerSwapDesc, m.container, m.pod, m.namespace)
		case m.path == "/":
			usage(ch, &m.Usage, nodeCPUDesc, nodeMemoryDesc, nodeSwapDesc)
		case m.pod != "" && m.id == "":
			usage(ch, &m.Usage, podCPUDesc, podMemoryDesc, podSwapDesc, m.pod, m.namespace)
		}
	}
	ch <- prometheus.MustNewConstMetric(resourceErrorDesc, prometheus.GaugeValue, failed)
}

func usage(ch chan<- prometheus.Metric, u *cgroup.Usage, cpu, memory, swap *prometheus.Desc, labels ...string) {
	put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64) {
		ch <- prometheus.NewMetricWithTimestamp(u.At, prometheus.MustNewConstMetric(d, kind, v, labels...))
	}
	if u.CPU != nil {
		put(cpu, prometheus.CounterValue, u.CPU.Total.Seconds())
	}
	if u.Memory == nil {
		return
	}
	put(memory, prometheus.GaugeValue, float64(u.Memory.WorkingSet))
	if u.Memory.Swap != nil {
		put(swap, prometheus.GaugeValue, float64(*u.Memory.Swap))
	}
}

// statsLimit is how long the runtime may take to answer a scrape, which has ten
// seconds by Prometheus' default.
const statsLimit = 5 * time.Second

// askRuntime completes containers by what the runtime says.
func (k *Kubelet) askRuntime(list []measured) ([]measured, error) {
	ctx, cancel := context.WithTimeout(context.Background(), statsLimit)
	defer cancel()
	res, err := k.cri.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{
		Filter: &runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{cri.LabelNode: k.cfg.NodeName}}})
	if err != nil {
		return nil, clean(err)
	}
	byID := map[string]*runtimeapi.ContainerStats{}
	for _, s := range res.Stats {
		byID[s.GetAttributes().GetId()] = s
	}
	var out []measured
	for _, m := range list {
		s := byID[m.id]
		if s == nil {
			continue // it has just ended
		}
		m.Usage.At = k.cfg.Now()
		if c := s.GetCpu().GetUsageCoreNanoSeconds(); c != nil {
			m.Usage.CPU = &cgroup.CPU{Total: time.Duration(c.Value)}
		}
		if w := s.GetMemory().GetWorkingSetBytes(); w != nil {
			m.Usage.Memory = &cgroup.Memory{WorkingSet: w.Value}
		}
		out = append(out, m)
	}
	return out, nil
}
