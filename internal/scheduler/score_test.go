package scheduler

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func owned(by string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: by, UID: "uid-" + "rs", Controller: &yes}}
	}
}

// Each scorer's values by node, in the order of the names; nil: no preference.
func TestScores(t *testing.T) {
	app := selecting("app", "a")
	rs := func(c *cluster) {
		c.setOwner(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{UID: "uid-rs"}, Spec: appsv1.ReplicaSetSpec{Selector: app}}, false)
	}
	prefer := func(p *corev1.Pod) {
		affinity(p).NodeAffinity = &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
			{Weight: 1, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpExists}}}},
			{Weight: 3, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"ssd"}}}}},
		}}
	}
	withImage := func(name string, size int64) func(*corev1.Node) {
		return func(n *corev1.Node) {
			n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{name}, SizeBytes: size})
		}
	}
	for _, tt := range []struct {
		scorer  string
		name    string
		objects []any
		setup   func(*cluster)
		pod     *corev1.Pod
		want    []float64
	}{
		{"NodeResourcesFit", "half and quarter", []any{aNode("a"), aNode("b"), aPod("x", on("b"), requests("cpu", "1", "memory", "2Gi"))}, nil, aPod("p", requests("cpu", "1", "memory", "2Gi")), []float64{75, 50}},
		{"NodeResourcesFit", "pods without requests count a little", []any{aNode("a"), aNode("b"), aPod("x", on("b"))}, nil, aPod("p", requests("cpu", "0", "memory", "0")), []float64{100, 100 - (100*100.0/4000+100*200.0/8192)/2}},
		{"NodeResourcesFit", "a pod that asks as a whole does not count more", []any{aNode("a")}, nil, aPod("p", func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu", "1")}
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d"})
		}), []float64{(75 + 100*(1-400.0/8192)) / 2}},
		{"NodeResourcesFit", "overfull", []any{aNode("a", has("cpu", "0", "memory", "0"))}, nil, aPod("p"), []float64{0}},

		{"NodeResourcesBalancedAllocation", "lopsided", []any{aNode("a"), aNode("b"), aPod("x", on("b"), requests("cpu", "2", "memory", "0"))}, nil, aPod("p", requests("cpu", "1", "memory", "2Gi")), []float64{100, 75}},
		{"NodeResourcesBalancedAllocation", "wants nothing", []any{aNode("a")}, nil, aPod("p"), nil},

		{"TaintToleration", "fewest", []any{aNode("a", tainted("x", corev1.TaintEffectPreferNoSchedule), tainted("y", corev1.TaintEffectPreferNoSchedule)), aNode("b", tainted("x", corev1.TaintEffectPreferNoSchedule)), aNode("c", tainted("z", corev1.TaintEffectPreferNoSchedule))},
			nil, aPod("p", tolerating("z")), []float64{0, 50, 100}},
		{"TaintToleration", "none", []any{aNode("a"), aNode("b")}, nil, aPod("p"), nil},

		{"NodeAffinity", "weights", []any{aNode("a"), aNode("b", labelled("disk", "hdd")), aNode("c", labelled("disk", "ssd"))}, nil, aPod("p", prefer), []float64{0, 25, 100}},
		{"NodeAffinity", "none", []any{aNode("a")}, nil, aPod("p"), nil},

		{"InterPodAffinity", "likes", []any{aNode("a"), aNode("b"), aNode("c"), aPod("x", on("b"), with("app", "a")), aPod("y", on("c"), with("app", "a")), aPod("z", on("c"), with("app", "a"))}, nil, aPod("p", likes(10, hostname, app)), []float64{0, 50, 100}},
		{"InterPodAffinity", "dislikes", []any{aNode("a"), aNode("b"), aPod("x", on("b"), with("app", "a"))}, nil, aPod("p", likes(-10, hostname, app)), []float64{100, 0}},
		{"InterPodAffinity", "is liked", []any{aNode("a"), aNode("b"), aPod("x", on("b"), likes(7, hostname, app))}, nil, aPod("p", with("app", "a")), []float64{0, 100}},
		{"InterPodAffinity", "is needed", []any{aNode("a"), aNode("b"), aPod("x", on("b"), near(hostname, app))}, nil, aPod("p", with("app", "a")), []float64{0, 100}},
		{"InterPodAffinity", "is disliked", []any{aNode("a"), aNode("b"), aPod("x", on("b"), likes(-7, hostname, app))}, nil, aPod("p", with("app", "a")), []float64{100, 0}},

		{"PodTopologySpread", "own constraint", []any{aNode("a"), aNode("b"), aNode("c"), aPod("x", on("b"), with("app", "a")), aPod("y", on("c"), with("app", "a")), aPod("z", on("c"), with("app", "a"))},
			nil, aPod("p", with("app", "a"), spreads(hostname, 1, corev1.ScheduleAnyway, app)), []float64{100, 50, 0}},
		{"PodTopologySpread", "without the label", []any{aNode("a", zone("z")), aNode("b"), aPod("x", on("a"), with("app", "a"))}, nil, aPod("p", with("app", "a"), spreads(corev1.LabelTopologyZone, 1, corev1.ScheduleAnyway, app)), []float64{100, 0}},
		{"PodTopologySpread", "pods where a label is missing do not count", []any{aNode("a", zone("z")), aNode("b", zone("y")), func() *corev1.Node {
			n := aNode("c", zone("z"))
			delete(n.Labels, hostname)
			return n
		}(), aPod("x", on("b"), with("app", "a")), aPod("y", on("c"), with("app", "a")), aPod("z", on("c"), with("app", "a"))}, nil,
			aPod("p", with("app", "a"), spreads(hostname, 1, corev1.ScheduleAnyway, app), spreads(corev1.LabelTopologyZone, 1, corev1.ScheduleAnyway, app)), []float64{100, 0, 0}},
		{"PodTopologySpread", "siblings by owner", []any{aNode("a"), aNode("b"), aPod("x", on("b"), with("app", "a"))}, rs, aPod("p", with("app", "a"), owned("rs")), []float64{100, 100 * 2 / (math.Log(4) + 2)}},
		{"PodTopologySpread", "siblings by service", []any{aNode("a"), aNode("b"), aPod("x", on("b"), with("app", "a")), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "a"}}}},
			nil, aPod("p", with("app", "a")), []float64{100, 100 * 2 / (math.Log(4) + 2)}},
		{"PodTopologySpread", "no siblings", []any{aNode("a"), aPod("x", on("a"), with("app", "a"))}, nil, aPod("p", with("app", "a")), nil},

		{"ImageLocality", "half of the nodes have it", []any{aNode("a", withImage("i:latest", 1000<<20)), aNode("b")}, nil, aPod("p"), []float64{100 * 477.0 / 977, 0}},
		{"ImageLocality", "a volume's image", []any{aNode("a", withImage("v:1", 1000<<20)), aNode("b")}, nil, aPod("p", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "v:1"}}}}
		}), []float64{100 * 477.0 / 1977, 0}},
		{"ImageLocality", "small", []any{aNode("a", withImage("i:latest", 20<<20)), aNode("b")}, nil, aPod("p"), nil},
	} {
		t.Run(tt.scorer+"/"+tt.name, func(t *testing.T) {
			c := world(tt.objects...)
			if tt.setup != nil {
				tt.setup(c)
			}
			d, p := newDecider(nil), pending(tt.pod)
			cy := d.cycle(c, p, d.classes.of(p))
			nodes := slices.SortedFunc(slices.Values(c.candidates()), func(a, b *node) int { return cmp.Compare(a.name, b.name) })
			out := make([]float64, len(nodes))
			for _, s := range scorers() {
				if s.name != tt.scorer {
					continue
				}
				if says := s.score(cy, nodes, out); says != (tt.want != nil) {
					t.Fatalf("has a preference: %v (%v)", says, out)
				}
			}
			for i, want := range tt.want {
				if math.Abs(out[i]-want) > 0.01 {
					t.Errorf("%s: got %.2f, want %.2f (all: %v)", nodes[i].name, out[i], want, out)
				}
			}
		})
	}
}

// 30 pods of one replica set on 10 nodes in 2 zones end up even without their
// asking for it.
func TestPodsSpreadByDefault(t *testing.T) {
	c := world()
	for i := range 10 {
		c.setNode(aNode(fmt.Sprintf("n%d", i), zone(fmt.Sprintf("z%d", i%2))))
	}
	c.setOwner(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{UID: "uid-rs"}, Spec: appsv1.ReplicaSetSpec{Selector: selecting("app", "a")}}, false)
	d := newDecider(rand.New(rand.NewPCG(1, 1)))
	for i := range 30 {
		p := pending(aPod(fmt.Sprint(i), with("app", "a"), owned("rs")))
		c.place(p, d.decide(c, p).node.name)
	}
	for _, n := range c.candidates() {
		if len(n.pods) != 3 {
			t.Errorf("%s has %d pods, want 3", n.name, len(n.pods))
		}
	}
}

func TestSampleOfNodes(t *testing.T) {
	for nodes, want := range map[int]int{1: 1, 100: 100, 200: 100, 1000: 420, 5000: 500, 10000: 500} {
		if got := sample(nodes, 0); got != want {
			t.Errorf("of %d nodes %d are enough, want %d", nodes, got, want)
		}
	}
	c := world()
	for i := range 300 {
		c.setNode(aNode(fmt.Sprintf("n%03d", i), zone(fmt.Sprintf("z%d", i%3))))
	}
	d, zones, seen := newDecider(rand.New(rand.NewPCG(1, 1))), map[string]int{}, map[string]bool{}
	for range 3 {
		p := pending(aPod("p"))
		d.search(d.cycle(c, p, d.classes.of(p)), c.candidates())
		for _, n := range d.feasible {
			zones[n.obj.Labels[corev1.LabelTopologyZone]]++
			seen[n.name] = true
		}
	}
	if zones["z0"] != zones["z1"] || zones["z1"] != zones["z2"] {
		t.Errorf("the sample is uneven over zones: %v", zones)
	}
	if len(seen) < 300 {
		t.Errorf("three searches of a half each saw %d of 300 nodes", len(seen))
	}
}
