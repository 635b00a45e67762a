package spec

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestSandbox: what the containers may use and what their runtime costs are
// told apart, and the cost is of no concern without one.
func TestSandbox(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	p := &corev1.Pod{}
	p.Spec.Containers = []corev1.Container{
		{Resources: corev1.ResourceRequirements{Requests: list("500m", "1"), Limits: list("1", "100")}},
		{Resources: corev1.ResourceRequirements{Requests: list("500m", "1"), Limits: list("1", "200")}},
	}
	res, over := Sandbox(p)
	if over != nil || res.CpuShares != 1024 || res.CpuQuota != 200_000 || res.MemoryLimitInBytes != 300 {
		t.Errorf("%v, %v", res, over)
	}
	p.Spec.Overhead = list("250m", "50")
	res, over = Sandbox(p)
	if res.CpuShares != 1024 || res.MemoryLimitInBytes != 300 || over.CpuShares != 256 || over.CpuQuota != 25_000 || over.MemoryLimitInBytes != 50 {
		t.Errorf("%v, %v", res, over)
	}
}
