package scheduler

import (
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// counting counts how often nodes are looked at.
type counting struct {
	filter
	asked *int
}

func (f counting) Fits(c *cycle, n *node) bool {
	*f.asked++
	return f.filter.Fits(c, n)
}

// A burst of pods of one template costs one look at each node, and then one at
// the node that took the pod before; one that fits nowhere is found out once.
func TestClassIsEvaluatedOnce(t *testing.T) {
	c := world()
	for i := range 50 {
		c.setNode(aNode(fmt.Sprintf("n%d", i), has("cpu", "1", "pods", "10")))
	}
	d, asked := newDecider(rand.New(rand.NewPCG(1, 1))), 0
	d.filters[0] = counting{d.filters[0], &asked}
	for i := range 100 {
		p := d.classes.pending(aPod(fmt.Sprintf("p%d", i), requests("cpu", "500m"), func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: fmt.Sprintf("token-%d", i)}} // a name of its own, as every pod has
		}))
		c.place(p, d.decide(c, p).node.name)
	}
	if asked != 50+99 {
		t.Errorf("%d looks at nodes for 100 pods, want 149", asked)
	}
	asked = 0
	var why string
	for i := range 100 {
		dec := d.decide(c, d.classes.pending(aPod(fmt.Sprintf("q%d", i), requests("cpu", "500m"))))
		if dec.node != nil || i > 0 && dec.message() != why {
			t.Fatalf("%+v", dec)
		}
		why = dec.message()
	}
	if asked != 1+50 { // one node has changed, and the advice looks at all
		t.Errorf("%d looks at nodes for 100 pods that fit nowhere", asked)
	}
	c.setNode(aNode("n0", has("cpu", "8", "pods", "100")))
	if dec := d.decide(c, d.classes.pending(aPod("r", requests("cpu", "500m")))); dec.node == nil || dec.node.name != "n0" {
		t.Errorf("a larger node is not seen: %s", dec.message())
	}
}

// What decisions look at makes a class, and nothing else.
func TestClassOf(t *testing.T) {
	same := aPod("a", with("app", "a"), requests("cpu", "1"))
	for name, tt := range map[string]struct {
		change func(*corev1.Pod)
		want   string
	}{
		"name":       {func(p *corev1.Pod) { p.Name, p.UID = "b", "other" }, "same"},
		"command":    {func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"x"} }, "same"},
		"volume":     {func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "v"}} }, "same"},
		"namespace":  {func(p *corev1.Pod) { p.Namespace = "other" }, "other"},
		"label":      {func(p *corev1.Pod) { p.Labels["app"] = "b" }, "other"},
		"owner":      {owned("rs"), "other"},
		"request":    {requests("cpu", "2"), "other"},
		"image":      {func(p *corev1.Pod) { p.Spec.Containers[0].Image = "other" }, "other"},
		"port":       {hostPorts("/TCP/80"), "other"},
		"init":       {func(p *corev1.Pod) { p.Spec.InitContainers = p.Spec.Containers }, "other"},
		"selector":   {func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b"} }, "other"},
		"affinity":   {apart(hostname, selecting("a", "b")), "other"},
		"toleration": {tolerating("k"), "other"},
		"spread":     {spreads(hostname, 1, corev1.DoNotSchedule, selecting("a", "b")), "other"},
		"priority":   {priority(3), "other"},
		"preemption": {never, "other"},
		"overhead":   {func(p *corev1.Pod) { p.Spec.Overhead = list("cpu", "1") }, "other"},
		"image volume": {func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "i"}}}}
		}, "other"},
		"pod resources": {func(p *corev1.Pod) { p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu", "3")} }, "other"},
		"claim": {func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
		}, "none"},
		"devices":   {func(p *corev1.Pod) { p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "c"}} }, "none"},
		"resize":    {func(p *corev1.Pod) { p.Status.AllocatedResources = list("cpu", "1") }, "none"},
		"node name": {func(p *corev1.Pod) { p.Spec.NodeName = "n" }, "none"},
	} {
		p := same.DeepCopy()
		tt.change(p)
		got := "other"
		switch classOf(p) {
		case classOf(same):
			got = "same"
		case classID{}:
			got = "none"
		}
		if got != tt.want {
			t.Errorf("%s: the class is %s, want %s", name, got, tt.want)
		}
	}
}

func TestClassesAreBounded(t *testing.T) {
	c, d := world(aNode("n", has("cpu", "1", "pods", "1000"))), newDecider(rand.New(rand.NewPCG(1, 1)))
	often := aPod("often")
	for i := range 3 * maxClasses {
		d.decide(c, d.classes.pending(often))
		d.decide(c, d.classes.pending(aPod("p", with("n", fmt.Sprint(i)), func(p *corev1.Pod) { p.UID = types.UID(fmt.Sprint(i)) })))
	}
	if n := len(d.classes.byID); n != maxClasses || d.classes.byID[classOf(often)] == nil {
		t.Errorf("%d classes; the one in use is there: %v", n, d.classes.byID[classOf(often)] != nil)
	}
}
