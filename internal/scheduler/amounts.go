package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// What a container without a request is counted as when nodes are scored, so
// that such pods spread too. Upstream's figures: 0.1 core and 200 MB.
const (
	assumedCPU    = 100
	assumedMemory = 200 * 1024 * 1024
)

// amounts of resources: cpu in thousandths of a core, memory and ephemeral
// storage in bytes, everything else under its name.
type amounts struct {
	cpu, memory, storage int64
	more                 map[corev1.ResourceName]int64 // nil when there is none
}

func amountsOf(list corev1.ResourceList) amounts {
	var a amounts
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			a.cpu = thousandths(&q)
		case corev1.ResourceMemory:
			a.memory = whole(&q)
		case corev1.ResourceEphemeralStorage:
			a.storage = whole(&q)
		case corev1.ResourcePods:
		default:
			if v := whole(&q); v != 0 {
				if a.more == nil {
					a.more = make(map[corev1.ResourceName]int64)
				}
				a.more[name] = v
			}
		}
	}
	return a
}

// whole and thousandths of a quantity stop at the largest number: its own
// methods say 0, or less, of what is beyond that.
func whole(q *resource.Quantity) int64 {
	if q.CmpInt64(math.MaxInt64) >= 0 {
		return math.MaxInt64
	}
	return q.Value()
}

func thousandths(q *resource.Quantity) int64 {
	if q.CmpInt64(math.MaxInt64/1000) >= 0 {
		return math.MaxInt64
	}
	return q.MilliValue()
}

// add counts b in; sign -1 takes it out again.
func (a *amounts) add(b amounts, sign int64) {
	a.cpu = a.cpu + sign*b.cpu
	a.memory = a.memory + sign*b.memory
	a.storage = a.storage + sign*b.storage
	for name, v := range b.more {
		if a.more == nil {
			a.more = make(map[corev1.ResourceName]int64)
		}
		if a.more[name] = a.more[name] + sign*v; a.more[name] == 0 {
			delete(a.more, name)
		}
	}
}

// maxAmount bounds one pod's request, so that sums over a node's pods (a
// kubelet runs at most some hundreds) cannot wrap around.
const maxAmount = math.MaxInt64 >> 16

func (a *amounts) clamp() {
	a.cpu, a.memory, a.storage = min(a.cpu, maxAmount), min(a.memory, maxAmount), min(a.storage, maxAmount)
	for name, v := range a.more {
		a.more[name] = min(v, maxAmount)
	}
}

// requestOf is what a pod takes of its node, and what it counts as in scores.
func requestOf(p *corev1.Pod) (request amounts, scoreCPU, scoreMemory int64) {
	opts := resourcehelper.PodResourcesOptions{
		// A resize under way holds the larger of old and new. A new pod has no
		// such status, and the helper is three times as fast without.
		UseStatusResources: hasStatusResources(p),
		InPlacePodLevelResourcesVerticalScalingEnabled: true,
	}
	request = amountsOf(resourcehelper.PodRequests(p, opts))
	request.clamp()
	scoreCPU, scoreMemory = request.cpu, request.memory
	if missesRequest(p) {
		opts.NonMissingContainerRequests = assumedFor(p, &request)
		score := amountsOf(resourcehelper.PodRequests(p, opts))
		score.clamp()
		scoreCPU, scoreMemory = score.cpu, score.memory
	}
	return request, scoreCPU, scoreMemory
}

// assumedFor is what containers without a request count as: where the pod as a
// whole asks for something, only of what neither it nor they ask for.
func assumedFor(p *corev1.Pod, request *amounts) corev1.ResourceList {
	whole := resourcehelper.IsPodLevelRequestsSet(p)
	list := corev1.ResourceList{}
	if !whole || request.cpu == 0 {
		list[corev1.ResourceCPU] = *resource.NewMilliQuantity(assumedCPU, resource.DecimalSI)
	}
	if !whole || request.memory == 0 {
		list[corev1.ResourceMemory] = *resource.NewQuantity(assumedMemory, resource.BinarySI)
	}
	return list
}

func missesRequest(p *corev1.Pod) bool {
	for _, list := range [...][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			r := list[i].Resources.Requests
			if _, ok := r[corev1.ResourceCPU]; !ok {
				return true
			}
			if _, ok := r[corev1.ResourceMemory]; !ok {
				return true
			}
		}
	}
	return false
}

func hasStatusResources(p *corev1.Pod) bool {
	if p.Status.Resources != nil || p.Status.AllocatedResources != nil {
		return true
	}
	for _, list := range [...][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].Resources != nil || list[i].AllocatedResources != nil {
				return true
			}
		}
	}
	return false
}
