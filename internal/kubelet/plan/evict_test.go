package plan

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

func TestVictim(t *testing.T) {
	consumer := func(name string, priority int32, request string, used int64) Consumer {
		p := newPod(nil)
		p.Name, p.UID, p.Spec.Priority = name, types.UID(name), &priority
		if request != "" {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(request)}
		}
		return Consumer{p, map[string]int64{"a": used << 20}}
	}
	for _, tt := range []struct {
		name, want string
		list       []Consumer
	}{
		{"nobody", "", nil},
		{"the system stays", "", []Consumer{consumer("sys", 2_000_000_000, "", 100)}},
		{"above its request before below", "b", []Consumer{consumer("a", 0, "2Gi", 1000), consumer("b", 100, "1Mi", 2)}},
		{"the less important", "a", []Consumer{consumer("a", 0, "", 1), consumer("b", 100, "", 500)}},
		{"the one furthest above", "b", []Consumer{consumer("a", 0, "200Mi", 300), consumer("b", 0, "", 150)}},
		{"nobody above: the nearest", "a", []Consumer{consumer("a", 0, "100Mi", 90), consumer("b", 0, "1Gi", 200)}},
	} {
		for range 2 { // in either order
			got, why := Victim(tt.list, corev1.ResourceMemory, 100<<20, 50<<20)
			if got == nil && tt.want != "" || got != nil && got.Name != tt.want {
				t.Errorf("%s: %v %s", tt.name, got, why)
			}
			if len(tt.list) == 2 {
				tt.list[0], tt.list[1] = tt.list[1], tt.list[0]
			}
		}
	}
	_, why := Victim([]Consumer{consumer("a", 0, "1Mi", 30)}, corev1.ResourceMemory, 100<<20, 50<<20)
	if why != "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container a was using 30Mi, request is 1Mi, has larger consumption of memory. " {
		t.Error(why)
	}
}

func TestPressureAdmission(t *testing.T) {
	modest := newPod(nil)
	asking := newPod(func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Mi")}
	})
	critical := newPod(func(p *corev1.Pod) { n := int32(2_000_000_000); p.Spec.Priority = &n })
	for _, tt := range []struct {
		name     string
		pod      *corev1.Pod
		pressure []corev1.NodeConditionType
		want     bool
	}{
		{"none", modest, nil, true},
		{"memory", modest, []corev1.NodeConditionType{corev1.NodeMemoryPressure}, false},
		{"memory, asked for", asking, []corev1.NodeConditionType{corev1.NodeMemoryPressure}, true},
		{"disk", asking, []corev1.NodeConditionType{corev1.NodeDiskPressure}, false},
		{"both", asking, []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure}, false},
		{"critical", critical, []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure}, true},
	} {
		room := Room{Pressure: tt.pressure, Allocatable: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("9"), corev1.ResourceMemory: resource.MustParse("1Gi")}}
		rej := Admit(tt.pod, room)
		if (rej == nil) != tt.want || rej != nil && (rej.Reason != "Evicted" || !strings.HasPrefix(rej.Message, "The node had condition: [")) {
			t.Errorf("%s: %+v", tt.name, rej)
		}
	}
}

// Resources that are none of Kubernetes's own are judged where the node has
// them; others are the scheduler's affair, which may have devices serve them.
func TestExtendedResourcesAreAdmitted(t *testing.T) {
	pod := func(name string, n string) *corev1.Pod {
		return newPod(func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceName(name): resource.MustParse(n)}
		})
	}
	const byClass = "deviceclass.resource.kubernetes.io/g"
	served := func(name, by string) *corev1.Pod {
		p := pod(name, "4")
		p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "c", RequestMappings: []corev1.ContainerExtendedResourceRequest{{ContainerName: "c", ResourceName: by, RequestName: "r"}}}
		return p
	}
	for _, tt := range []struct {
		pod  *corev1.Pod
		want string
	}{
		{served(byClass, byClass), ""}, {pod(byClass, "4"), "OutOf" + byClass}, {served("example.com/none", "example.com/none"), ""}, {pod("example.com/none", "4"), "OutOfexample.com/none"},
		{served("example.com/none", "example.com/other"), "OutOfexample.com/none"}, {served("example.com/room", "example.com/room"), "OutOfexample.com/room"},
		{pod("example.com/room", "2"), ""}, {pod("example.com/room", "4"), "OutOfexample.com/room"}, {pod("example.com/other", "4"), ""},
		{pod("hugepages-2Mi", "2Mi"), "OutOfhugepages-2Mi"},
	} {
		room := Room{Allocatable: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("9"), "example.com/room": resource.MustParse("3"), "example.com/none": resource.MustParse("0")}}
		got := ""
		if rej := Admit(tt.pod, room); rej != nil {
			got = rej.Reason
		}
		if got != tt.want {
			t.Errorf("%v: %q, want %q", tt.pod.Spec.Containers[0].Resources.Requests, got, tt.want)
		}
	}
}
