package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"knarr.dev/knarr/internal/kinds/qos"
)

// criticalPriority begins that of the system's own pods, which are never
// evicted.
const criticalPriority = 2_000_000_000

// Critical reports whether a pod belongs to the system itself.
func Critical(pod *corev1.Pod) bool {
	return pod.Spec.Priority != nil && *pod.Spec.Priority >= criticalPriority
}

// Consumer is a pod and what its containers use of the resource that is short;
// what belongs to none of them has no name.
type Consumer struct {
	Pod  *corev1.Pod
	Used map[string]int64
}

func (c *Consumer) total() int64 {
	sum := int64(0)
	for _, n := range c.Used {
		sum += n
	}
	return sum
}

func (c *Consumer) request(name corev1.ResourceName) int64 {
	q := resourcehelper.PodRequests(c.Pod, resourcehelper.PodResourcesOptions{})[name]
	return q.Value()
}

// Victim chooses who is ended when a node runs short of memory or disk, and
// says why; nil: nobody may be. First come those that use more than they asked
// for, among them the least important, then the one that is furthest above.
func Victim(list []Consumer, name corev1.ResourceName, threshold, available int64) (*corev1.Pod, string) {
	list = slices.DeleteFunc(slices.Clone(list), func(c Consumer) bool { return Critical(c.Pod) })
	if len(list) == 0 {
		return nil, ""
	}
	priority := func(c *Consumer) int32 {
		if p := c.Pod.Spec.Priority; p != nil {
			return *p
		}
		return 0
	}
	worst := slices.MinFunc(list, func(a, b Consumer) int {
		overA, overB := a.total()-a.request(name), b.total()-b.request(name)
		if (overA > 0) != (overB > 0) {
			return cmp.Compare(overB, overA)
		}
		return cmp.Or(cmp.Compare(priority(&a), priority(&b)), cmp.Compare(overB, overA), strings.Compare(string(a.Pod.UID), string(b.Pod.UID)))
	})
	amount := func(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }
	text := fmt.Sprintf("The node was low on resource: %s. Threshold quantity: %s, available: %s. ", name, amount(threshold), amount(available))
	asked := map[string]int64{}
	for _, containers := range [][]corev1.Container{worst.Pod.Spec.InitContainers, worst.Pod.Spec.Containers} {
		for i := range containers {
			q := containers[i].Resources.Requests[name]
			asked[containers[i].Name] = q.Value()
		}
	}
	for _, c := range slices.Sorted(maps.Keys(worst.Used)) {
		if c != "" && worst.Used[c] > asked[c] {
			text += fmt.Sprintf("Container %s was using %s, request is %s, has larger consumption of %s. ", c, amount(worst.Used[c]), amount(asked[c]), name)
		}
	}
	return worst.Pod, text
}

// underPressure turns away who would make a shortage worse.
func underPressure(pod *corev1.Pod, conditions []corev1.NodeConditionType) *Rejection {
	if len(conditions) == 0 || Critical(pod) {
		return nil
	}
	if slices.Equal(conditions, []corev1.NodeConditionType{corev1.NodeMemoryPressure}) {
		taint := &corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}
		if qos.Of(pod) != corev1.PodQOSBestEffort || tolerates(pod, taint) {
			return nil
		}
	}
	return &Rejection{"Evicted", fmt.Sprintf("The node had condition: %v. ", conditions)}
}
