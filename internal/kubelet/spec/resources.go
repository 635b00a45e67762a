package spec

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kinds/qos"
	"knarr.dev/knarr/internal/kubelet/plan"
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
	a := plan.AmountsOf(pod, c)
	if _, asked := c.Resources.Requests[corev1.ResourceCPU]; !asked {
		a.CPURequest = a.CPULimit
	}
	r := Update(a)
	r.OomScoreAdj = OOMScore(pod, c, memory)
	return r
}

// Update is what a running container is changed to.
func Update(a plan.Amounts) *runtimeapi.LinuxContainerResources {
	return &runtimeapi.LinuxContainerResources{
		CpuPeriod: period, CpuQuota: Quota(a.CPULimit), CpuShares: Shares(a.CPURequest), MemoryLimitInBytes: a.MemoryLimit,
	}
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
	rest := unasked(pod)
	score := 1000 - 1000*(c.Resources.Requests.Memory().Value()+rest)/memory
	if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways && isInit(pod, c.Name) {
		// A sidecar goes no sooner than those that need it.
		least := int64(math.MaxInt64)
		for i := range pod.Spec.Containers {
			least = min(least, pod.Spec.Containers[i].Resources.Requests.Memory().Value())
		}
		score = min(score, 1000-1000*(least+rest)/memory)
	}
	return max(1000+oomGuaranteed, min(oomBestEffort-1, score))
}

func isInit(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name })
}

// unasked is each container's part of the memory that the pod asks for beyond
// what its containers do.
func unasked(pod *corev1.Pod) int64 {
	if !resourcehelper.IsPodLevelRequestsSet(pod) || len(pod.Spec.Containers) == 0 {
		return 0
	}
	asked := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	n := len(pod.Spec.Containers)
	for i := range pod.Spec.InitContainers {
		if r := pod.Spec.InitContainers[i].RestartPolicy; r != nil && *r == corev1.ContainerRestartPolicyAlways {
			n++
		}
	}
	return max(0, pod.Spec.Resources.Requests.Memory().Value()-asked.Memory().Value()) / int64(n)
}
