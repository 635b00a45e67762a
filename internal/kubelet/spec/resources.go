package spec

import (
	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kinds/qos"
)

// The kernel's scales, and upstream's figures on them.
const (
	period    = 100_000 // µs of a CFS period
	minQuota  = 1_000   // the kernel refuses less
	minShares = 2
	maxShares = 262_144
	// OOM scores: -997 for guaranteed pods, 1000 for those that asked for
	// nothing, between by the share of the node's memory that was asked for.
	oomGuaranteed = -997
	oomBestEffort = 1000
)

// Shares of CPU for a request in thousandths.
func Shares(milli int64) int64 { return max(minShares, min(maxShares, milli*1024/1000)) }

// Quota of CPU time per period for a limit in thousandths; 0: none.
func Quota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(minQuota, milli*period/1000)
}

// Period that Quota is for, in microseconds.
func Period() int64 { return period }

// Resources of a container. memory is the node's capacity.
func Resources(pod *corev1.Pod, c *corev1.Container, memory int64) *runtimeapi.LinuxContainerResources {
	req, lim := c.Resources.Requests, c.Resources.Limits
	r := &runtimeapi.LinuxContainerResources{
		CpuPeriod: period, CpuQuota: Quota(lim.Cpu().MilliValue()),
		MemoryLimitInBytes: lim.Memory().Value(), OomScoreAdj: OOMScore(pod, c, memory),
	}
	cpu := req.Cpu().MilliValue()
	if _, asked := req[corev1.ResourceCPU]; !asked {
		cpu = lim.Cpu().MilliValue()
	}
	r.CpuShares = Shares(cpu)
	return r
}

// Sandbox tells a runtime that makes a machine for each pod how large that has
// to be: what the containers need together, and what running them costs. nil
// is nothing.
func Sandbox(pod *corev1.Pod) (resources, overhead *runtimeapi.LinuxContainerResources) {
	opts := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
	req, lim := resourcehelper.PodRequests(pod, opts), resourcehelper.PodLimits(pod, opts)
	cpu, asked := req[corev1.ResourceCPU]
	if !asked {
		cpu = lim[corev1.ResourceCPU]
	}
	resources = &runtimeapi.LinuxContainerResources{
		CpuPeriod: period, CpuShares: Shares(cpu.MilliValue()), CpuQuota: Quota(lim.Cpu().MilliValue()), MemoryLimitInBytes: lim.Memory().Value()}
	if over := pod.Spec.Overhead; len(over) > 0 {
		milli := over.Cpu().MilliValue()
		overhead = &runtimeapi.LinuxContainerResources{
			CpuPeriod: period, CpuShares: Shares(milli), CpuQuota: Quota(milli), MemoryLimitInBytes: over.Memory().Value()}
	}
	return resources, overhead
}

// OOMScore of a container's processes.
func OOMScore(pod *corev1.Pod, c *corev1.Container, memory int64) int64 {
	if p := pod.Spec.Priority; p != nil && *p >= 2_000_000_000 { // system priorities
		return oomGuaranteed
	}
	switch qos.Of(pod) {
	case corev1.PodQOSGuaranteed:
		return oomGuaranteed
	case corev1.PodQOSBestEffort:
		return oomBestEffort
	}
	if memory <= 0 {
		return oomBestEffort - 1
	}
	score := 1000 - 1000*c.Resources.Requests.Memory().Value()/memory
	return max(1000+oomGuaranteed, min(oomBestEffort-1, score))
}
