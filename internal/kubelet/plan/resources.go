package plan

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// What the kernel cannot tell from less: 10 thousandths of a core as a limit,
// 2 as a share (upstream's figures). Then the status shows what is allocated.
const (
	minCPULimit = 10
	minCPUShare = 2
)

// resources of a container that the runtime has: what is allocated, and what
// holds for it now.
func (p *pass) resources(st *corev1.ContainerStatus, spec *corev1.Container, c *Container) {
	if spec.Resources.Requests != nil {
		st.AllocatedResources = spec.Resources.Requests.DeepCopy()
	}
	r := spec.Resources.DeepCopy()
	st.Resources = r
	if c.State != Running {
		return
	}
	now := c.Given
	now.CPURequest, now.CPULimit, now.MemoryLimit = known(c.Actual.CPURequest, now.CPURequest), known(c.Actual.CPULimit, now.CPULimit), known(c.Actual.MemoryLimit, now.MemoryLimit)
	if r.Limits != nil {
		show(r.Limits, corev1.ResourceCPU, now.CPULimit, minCPULimit)
		show(r.Limits, corev1.ResourceMemory, now.MemoryLimit, 0)
	}
	if r.Requests != nil {
		show(r.Requests, corev1.ResourceCPU, now.CPURequest, minCPUShare)
		show(r.Requests, corev1.ResourceMemory, now.MemoryRequest, 0)
	}
}

func known(actual, otherwise int64) int64 {
	if actual == 0 {
		return otherwise
	}
	return actual
}

// show an amount, if it is another than the list's and the kernel can tell
// the two apart.
func show(list corev1.ResourceList, name corev1.ResourceName, amount, least int64) {
	q := list[name]
	have := q.Value()
	if name == corev1.ResourceCPU {
		have = q.MilliValue()
	}
	if amount == 0 || amount == have || amount <= least && have <= least {
		return
	}
	if name == corev1.ResourceCPU {
		list[name] = *resource.NewMilliQuantity(amount, resource.DecimalSI)
		return
	}
	list[name] = *resource.NewQuantity(amount, resource.BinarySI)
}

// podResources are those of the pod as a whole: its cgroup's while it runs.
func (p *pass) podResources(st *corev1.PodStatus) {
	o := resourcehelper.PodResourcesOptions{}
	st.AllocatedResources = resourcehelper.PodRequests(p.pod, o)
	r := p.pod.Spec.Resources.DeepCopy()
	if r == nil {
		r = &corev1.ResourceRequirements{}
	}
	st.Resources = r
	if st.Phase != corev1.PodRunning {
		r.Requests, r.Limits = st.AllocatedResources.DeepCopy(), resourcehelper.PodLimits(p.pod, o)
		return
	}
	if r.Requests == nil {
		r.Requests = corev1.ResourceList{}
	}
	if r.Limits == nil {
		r.Limits = corev1.ResourceList{}
	}
	for _, name := range [...]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if q, ok := st.AllocatedResources[name]; ok {
			r.Requests[name] = q
		}
	}
	want := PodAmounts(p.pod)
	limits := resourcehelper.PodLimits(p.pod, o)
	if want.CPULimit > 0 {
		r.Limits[corev1.ResourceCPU] = limits[corev1.ResourceCPU]
	}
	if want.MemoryLimit > 0 {
		r.Limits[corev1.ResourceMemory] = limits[corev1.ResourceMemory]
	}
	show(r.Requests, corev1.ResourceCPU, p.in.Cgroup.CPURequest, minCPUShare)
	show(r.Limits, corev1.ResourceCPU, p.in.Cgroup.CPULimit, minCPULimit)
	show(r.Limits, corev1.ResourceMemory, p.in.Cgroup.MemoryLimit, 0)
}
