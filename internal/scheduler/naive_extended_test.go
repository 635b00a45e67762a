package scheduler

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// widget is an extended resource that nodes have themselves, or devices for.
const widget = "example.com/widget"

// naiveExtended is what the oracle knows of devices that stand for widgets.
type naiveExtended struct {
	class   string              // whose devices do; empty: there is none
	devices map[string]int      // by node
	taken   map[string][]string // by node
	made    map[types.UID]*resourcev1.ResourceClaim
}

func newNaiveExtended() naiveExtended {
	return naiveExtended{devices: map[string]int{}, taken: map[string][]string{}, made: map[types.UID]*resourcev1.ResourceClaim{}}
}

// byDevices is how many devices the pod needs on the node.
func (w *naive) byDevices(p *corev1.Pod, n *corev1.Node) int {
	own, want := n.Status.Allocatable[widget], p.Spec.Containers[0].Resources.Requests[widget]
	if w.class == "" || !own.IsZero() {
		return 0
	}
	return int(want.Value())
}

func (w *naive) devicesFit(p *corev1.Pod, n *corev1.Node) bool {
	need, free := w.byDevices(p, n), 0
	for i := range w.devices[n.Name] {
		if !slices.Contains(w.taken[n.Name], fmt.Sprint("d", i)) {
			free++
		}
	}
	return need <= free
}

// disturbDevices: classes come and go, and a node has more devices or fewer.
func (w *naive) disturbDevices(t *rapid.T, c *cluster) {
	if rapid.IntRange(0, 2).Draw(t, "of class") == 0 {
		was := w.class
		w.class = rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "class")
		if was != "" && was != w.class {
			c.take(standingFor(was, widget), true)
		}
		if w.class != "" {
			c.take(standingFor(w.class, widget), false)
		}
		return
	}
	node := fmt.Sprintf("n%d", rapid.IntRange(0, 4).Draw(t, "devices of"))
	w.devices[node] = rapid.IntRange(0, 3).Draw(t, "devices")
	var names []string
	for i := range w.devices[node] {
		names = append(names, fmt.Sprintf("d%d:x", i))
	}
	c.take(aSlice(node, names...), false)
}

// grant checks what the pod is given, and writes it as the API shows it.
func (w *naive) grant(t *rapid.T, p *corev1.Pod, grants []grant, c *cluster) {
	node := w.nodes[p.Spec.NodeName]
	need := w.byDevices(p, node)
	if len(grants) == 0 {
		if need > 0 {
			t.Fatalf("pod %s gets no devices, it needs %d", p.Name, need)
		}
		return
	}
	g := grants[0]
	if len(grants) != 1 || g.draft == nil || len(g.allocation.Devices.Results) != need || need == 0 {
		t.Fatalf("pod %s gets %+v, it needs %d", p.Name, grants, need)
	}
	for _, r := range g.allocation.Devices.Results {
		if r.Pool != node.Name || slices.Contains(w.taken[node.Name], r.Device) {
			t.Fatalf("pod %s on %s gets %s/%s; %v are taken", p.Name, node.Name, r.Pool, r.Device, w.taken[node.Name])
		}
		w.taken[node.Name] = append(w.taken[node.Name], r.Device)
	}
	made := g.claim.DeepCopy()
	made.Name, made.UID, made.Status.Allocation = "made-"+p.Name, "made-"+p.UID, g.allocation
	w.made[p.UID] = made
	c.take(made, false)
}

// giveBack what a pod has that is gone.
func (w *naive) giveBack(p *corev1.Pod, c *cluster) {
	made := w.made[p.UID]
	if made == nil {
		return
	}
	for _, r := range made.Status.Allocation.Devices.Results {
		w.taken[r.Pool] = slices.DeleteFunc(w.taken[r.Pool], func(d string) bool { return d == r.Device })
	}
	delete(w.made, p.UID)
	c.take(made, true)
}
