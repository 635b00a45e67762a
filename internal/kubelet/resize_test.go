package kubelet_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

func limits(cpu, memory string) corev1.ResourceRequirements {
	l := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	return corev1.ResourceRequirements{Requests: l, Limits: l.DeepCopy()}
}

// resize a pod as its subresource would.
func (n *realNode) resize(name string, change func(*corev1.PodSpec)) {
	p := n.api.pod(name).DeepCopy()
	change(&p.Spec)
	p.Generation++
	n.api.add(kinds.Pod, p)
}

func resizing(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress {
			return true
		}
	}
	return false
}

// memoryOf the cgroups of a pod and of its first container.
func (n *realNode) memoryOf(p *corev1.Pod) (pod, container int64) {
	read := func(more string) int64 {
		for _, pattern := range []string{"/sys/fs/cgroup/memory/*/pod%/memory.limit_in_bytes", "/sys/fs/cgroup/*/pod%/memory.max",
			"/sys/fs/cgroup/memory/*/burstable/pod%/memory.limit_in_bytes", "/sys/fs/cgroup/*/burstable/pod%/memory.max"} {
			pattern = strings.Replace(pattern, "%", string(p.UID)+more, 1)
			if files, _ := filepath.Glob(pattern); len(files) == 1 {
				data, _ := os.ReadFile(files[0])
				v, _ := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
				return v
			}
		}
		return 0
	}
	_, id, _ := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
	return read(""), read("/" + id)
}

// TestRealResizeWaits: what does not fit waits until another pod has left.
func TestRealResizeWaits(t *testing.T) {
	n := newRealNode(t)
	n.start()
	share := func(percent int) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(int64(runtime.NumCPU()*10*percent), resource.DecimalSI)}}
	}
	for name, percent := range map[string]int{"web": 10, "job": 70} {
		p := pod(name, shell("main", "while :; do sleep 0.1; done"))
		p.Spec.Containers[0].Resources, p.Generation = share(percent), 1
		n.api.add(kinds.Pod, p)
	}
	n.await("both are ready", func() bool { return ready(n.api.pod("web")) && ready(n.api.pod("job")) })
	n.resize("web", func(s *corev1.PodSpec) { s.Containers[0].Resources = share(60) })
	n.await("it waits", func() bool { return resizing(n.api.pod("web")) })
	if q := n.api.pod("web").Status.ContainerStatuses[0].AllocatedResources.Cpu(); q.MilliValue() != int64(runtime.NumCPU()*100) {
		t.Errorf("allocated: %v", q)
	}
	gone := func(name string) {
		if _, err := n.api.Delete(t.Context(), kinds.Ref{Kind: kinds.Pod, Namespace: "default", Name: name}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		n.await(name+" is gone", func() bool { return n.api.pod(name) == nil })
	}
	gone("job")
	n.await("it got it", func() bool {
		p := n.api.pod("web")
		return !resizing(p) && p.Status.ContainerStatuses[0].AllocatedResources.Cpu().MilliValue() == int64(runtime.NumCPU()*600)
	})
	if !n.api.said("ResizeDeferred") || !n.api.said("ResizeCompleted") {
		t.Errorf("events:\n%s", n.api.told())
	}
	gone("web")
	n.nothingLeft()
}

func TestRealResize(t *testing.T) {
	n := newRealNode(t)
	n.start()
	web := pod("web", shell("main", "while :; do sleep 0.1; done"))
	web.Spec.Containers[0].Resources = limits("100m", "64Mi")
	web.Generation = 1
	n.api.add(kinds.Pod, web)
	n.await("web is ready", func() bool { return ready(n.api.pod("web")) })
	p := n.api.pod("web")
	id := p.Status.ContainerStatuses[0].ContainerID
	if r := p.Status.ContainerStatuses[0].Resources; r == nil || r.Limits.Memory().String() != "64Mi" || p.Status.ObservedGeneration != 1 {
		t.Errorf("before: %+v", p.Status)
	}
	is := func(memory string) func() bool {
		return func() bool {
			p := n.api.pod("web")
			st := p.Status.ContainerStatuses[0]
			want := resource.MustParse(memory)
			pod, container := n.memoryOf(p)
			return p.Status.ObservedGeneration == p.Generation && !resizing(p) && ready(p) && st.Resources != nil && st.Resources.Limits.Memory().Cmp(want) == 0 &&
				st.AllocatedResources.Memory().Cmp(want) == 0 && pod == want.Value() && container == want.Value()
		}
	}
	n.resize("web", func(s *corev1.PodSpec) { s.Containers[0].Resources = limits("200m", "128Mi") })
	n.await("more", is("128Mi"))
	n.resize("web", func(s *corev1.PodSpec) { s.Containers[0].Resources = limits("150m", "96Mi") })
	n.await("less", is("96Mi"))
	if st := n.api.pod("web").Status.ContainerStatuses[0]; st.ContainerID != id || st.RestartCount != 0 {
		t.Errorf("it was restarted: %+v", st)
	}
	if !n.api.said("ResizeStarted") || !n.api.said("ResizeCompleted") {
		t.Errorf("events:\n%s", n.api.told())
	}

	// Below what is in use, and what no node has: neither is done, both are said.
	n.resize("web", func(s *corev1.PodSpec) { s.Containers[0].Resources = limits("150m", "64Ki") })
	n.await("an error", func() bool {
		for _, c := range n.api.pod("web").Status.Conditions {
			if c.Type == corev1.PodResizeInProgress && c.Reason == corev1.PodReasonError && strings.HasPrefix(c.Message, "cannot decrease memory limits: ") {
				return true
			}
		}
		return false
	})
	n.resize("web", func(s *corev1.PodSpec) { s.Containers[0].Resources = limits("9999", "96Mi") })
	deferred := func() bool {
		p := n.api.pod("web")
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodResizePending && c.Reason == corev1.PodReasonDeferred && c.ObservedGeneration == p.Generation {
				return strings.HasPrefix(c.Message, "Node didn't have enough resource: cpu, requested: 9999000")
			}
		}
		return false
	}
	n.await("deferred", deferred)

	// A kubelet that starts anew keeps to what was promised.
	n.stop()
	n.start()
	n.await("deferred again", deferred)
	if q := n.api.pod("web").Status.ContainerStatuses[0].AllocatedResources; q.Cpu().String() != "150m" || q.Memory().String() != "64Ki" {
		t.Errorf("promised: %v", q)
	}
	n.resize("web", func(s *corev1.PodSpec) { s.Containers[0].Resources = limits("150m", "96Mi") })
	n.await("back", is("96Mi"))

	// With the other policy the container starts anew, and nothing else does.
	job := pod("job", shell("main", "trap 'exit 0' TERM; while :; do sleep 0.1; done"))
	job.Spec.Containers[0].Resources = limits("100m", "64Mi")
	job.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}
	job.Spec.RestartPolicy, job.Generation = corev1.RestartPolicyOnFailure, 1
	n.api.add(kinds.Pod, job)
	n.await("job is ready", func() bool { return ready(n.api.pod("job")) })
	n.resize("job", func(s *corev1.PodSpec) { s.Containers[0].Resources = limits("100m", "32Mi") })
	n.await("a restart", func() bool {
		p := n.api.pod("job")
		pod, container := n.memoryOf(p)
		return ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1 && pod == 32<<20 && container == 32<<20 && !resizing(p)
	})
	if st := n.api.pod("web").Status.ContainerStatuses[0]; st.ContainerID != id || st.RestartCount != 0 {
		t.Errorf("web was restarted: %+v", st)
	}
	for _, name := range []string{"web", "job"} {
		if _, err := n.api.Delete(t.Context(), kinds.Ref{Kind: kinds.Pod, Namespace: "default", Name: name}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	n.await("both are gone", func() bool { return n.api.pod("web") == nil && n.api.pod("job") == nil })
	n.nothingLeft()
}
