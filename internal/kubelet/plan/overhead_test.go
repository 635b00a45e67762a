package plan

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestOverhead: the cost of running a pod is part of its cgroup's limits, but
// makes none where the containers have none.
func TestOverhead(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	p := &corev1.Pod{}
	p.Spec.Overhead = list("250m", "50")
	p.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: list("750m", "10"), Limits: list("1", "100")}}}
	if a := PodAmounts(p); a.CPURequest != 1000 || a.CPULimit != 1250 || a.MemoryLimit != 150 {
		t.Errorf("%+v", a)
	}
	p.Spec.Containers[0].Resources.Limits = nil
	if a := PodAmounts(p); a.CPURequest != 1000 || a.CPULimit != 0 || a.MemoryLimit != 0 {
		t.Errorf("without limits: %+v", a)
	}
}
