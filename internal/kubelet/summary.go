package kubelet

import (
	"net/http"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/cri"
)

// The summary's shape is upstream's stats/v1alpha1, as far as the runtime tells.
type summary struct {
	Node nodeStats  `json:"node"`
	Pods []podStats `json:"pods"`
}

type nodeStats struct {
	NodeName string    `json:"nodeName"`
	CPU      *cpuStats `json:"cpu,omitempty"`
	Memory   *memStats `json:"memory,omitempty"`
}

type podStats struct {
	PodRef     podRef           `json:"podRef"`
	StartTime  time.Time        `json:"startTime"`
	Containers []containerStats `json:"containers"`
	CPU        *cpuStats        `json:"cpu,omitempty"`
	Memory     *memStats        `json:"memory,omitempty"`
}

type podRef struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	UID       string `json:"uid"`
}

type containerStats struct {
	Name      string    `json:"name"`
	StartTime time.Time `json:"startTime"`
	CPU       *cpuStats `json:"cpu,omitempty"`
	Memory    *memStats `json:"memory,omitempty"`
}

type cpuStats struct {
	Time                 time.Time `json:"time"`
	UsageNanoCores       *uint64   `json:"usageNanoCores,omitempty"`
	UsageCoreNanoSeconds *uint64   `json:"usageCoreNanoSeconds,omitempty"`
}

type memStats struct {
	Time            time.Time `json:"time"`
	AvailableBytes  *uint64   `json:"availableBytes,omitempty"`
	UsageBytes      *uint64   `json:"usageBytes,omitempty"`
	WorkingSetBytes *uint64   `json:"workingSetBytes,omitempty"`
}

// serveSummary asks the runtime when it is asked; nothing is measured in
// between.
func (k *Kubelet) serveSummary(rw http.ResponseWriter, r *http.Request) {
	res, err := k.cri.Runtime.ListContainerStats(r.Context(), &runtimeapi.ListContainerStatsRequest{
		Filter: &runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{cri.LabelNode: k.cfg.NodeName}}})
	if err != nil {
		http.Error(rw, clean(err).Error(), http.StatusInternalServerError)
		return
	}
	now := k.cfg.Now()
	used := uint64(max(0, k.machine.memory-k.machine.available()))
	free := uint64(k.machine.available())
	out := summary{Node: nodeStats{NodeName: k.cfg.NodeName, Memory: &memStats{Time: now, AvailableBytes: &free, UsageBytes: &used, WorkingSetBytes: &used}}, Pods: []podStats{}}
	if root, ok := k.cgroups.Read("/", now); ok && root.CPU != nil {
		total := uint64(root.CPU.Total)
		out.Node.CPU = &cpuStats{Time: now, UsageCoreNanoSeconds: &total}
	}
	at, started := map[string]int{}, map[string]time.Time{} // by pod, and by container ID
	for _, w := range k.list() {
		w.mu.Lock()
		pod, containers := w.pod, w.containers
		w.mu.Unlock()
		for i := range containers {
			started[containers[i].ID] = containers[i].Started
		}
		p := podStats{PodRef: podRef{pod.Name, pod.Namespace, string(pod.UID)}, Containers: []containerStats{}}
		if pod.Status.StartTime != nil {
			p.StartTime = pod.Status.StartTime.Time
		}
		at[string(pod.UID)] = len(out.Pods)
		out.Pods = append(out.Pods, p)
	}
	for _, s := range res.Stats {
		labels := s.GetAttributes().GetLabels()
		i, ok := at[labels[cri.LabelPodUID]]
		if !ok {
			continue
		}
		out.Pods[i].add(labels[cri.LabelContainerName], started[s.GetAttributes().GetId()], s)
	}
	answer(rw, out)
}

func (p *podStats) add(name string, started time.Time, s *runtimeapi.ContainerStats) {
	c := containerStats{Name: name, StartTime: started}
	if u := s.GetCpu(); u != nil {
		c.CPU = &cpuStats{Time: time.Unix(0, u.Timestamp), UsageNanoCores: value(u.UsageNanoCores), UsageCoreNanoSeconds: value(u.UsageCoreNanoSeconds)}
		if p.CPU == nil {
			p.CPU = &cpuStats{Time: c.CPU.Time}
		}
		p.CPU.UsageNanoCores = sum(p.CPU.UsageNanoCores, c.CPU.UsageNanoCores)
		p.CPU.UsageCoreNanoSeconds = sum(p.CPU.UsageCoreNanoSeconds, c.CPU.UsageCoreNanoSeconds)
	}
	if m := s.GetMemory(); m != nil {
		c.Memory = &memStats{Time: time.Unix(0, m.Timestamp), UsageBytes: value(m.UsageBytes), WorkingSetBytes: value(m.WorkingSetBytes), AvailableBytes: value(m.AvailableBytes)}
		if p.Memory == nil {
			p.Memory = &memStats{Time: c.Memory.Time}
		}
		p.Memory.UsageBytes = sum(p.Memory.UsageBytes, c.Memory.UsageBytes)
		p.Memory.WorkingSetBytes = sum(p.Memory.WorkingSetBytes, c.Memory.WorkingSetBytes)
	}
	p.Containers = append(p.Containers, c)
}

func value(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

func sum(a, b *uint64) *uint64 {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	n := *a + *b
	return &n
}
