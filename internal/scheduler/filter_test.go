package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const hostname = corev1.LabelHostname

func set[T any](dst **T, v T) { *dst = &v }

func claim(name string, opts ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv-" + name}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
	for _, o := range opts {
		o(c)
	}
	return c
}

func volumeOn(name, node string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if node != "" {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: hostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}}
	}
	return v
}

func volumeIn(name, zone string) *corev1.PersistentVolume {
	v := volumeOn(name, "")
	v.Labels = map[string]string{corev1.LabelTopologyZone: zone}
	return v
}

// onlyOn has one term of node affinity for each list of names.
func onlyOn(terms ...[]string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		required := &corev1.NodeSelector{}
		for _, names := range terms {
			required.NodeSelectorTerms = append(required.NodeSelectorTerms, corev1.NodeSelectorTerm{
				MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: names}}})
		}
		affinity(p).NodeAffinity = &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: required}
	}
}

func mounts(claim string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: claim, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}})
	}
}

func selectsNodes(op corev1.NodeSelectorOperator, key string, values ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		affinity(p).NodeAffinity = &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}}}}}
	}
}

func initContainer(always bool, kv ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		c := corev1.Container{Name: "init", Resources: corev1.ResourceRequirements{Requests: list(kv...)}}
		if always {
			set(&c.RestartPolicy, corev1.ContainerRestartPolicyAlways)
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
}

// Each filter on one or two nodes: where the pod goes, or why nowhere.
func TestFilters(t *testing.T) {
	app := selecting("app", "a")
	for _, tt := range []struct {
		name    string
		objects []any
		pod     *corev1.Pod
		node    string
		why     string
	}{
		{"no nodes", nil, aPod("p"), "", "no nodes available to schedule pods"},
		{"plain", []any{aNode("n")}, aPod("p"), "n", ""},

		{"cordoned", []any{aNode("n", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, aPod("p"), "", "0/1 nodes are available: 1 node(s) were unschedulable."},
		{"cordoned but tolerated", []any{aNode("n", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, aPod("p", tolerating(corev1.TaintNodeUnschedulable)), "n", ""},

		{"tainted", []any{aNode("n", tainted("k", corev1.TaintEffectNoSchedule))}, aPod("p"), "", "0/1 nodes are available: 1 node(s) had untolerated taint(s)."},
		{"tainted NoExecute", []any{aNode("n", tainted("k", corev1.TaintEffectNoExecute))}, aPod("p"), "", "0/1 nodes are available: 1 node(s) had untolerated taint(s)."},
		{"tainted and tolerated", []any{aNode("n", tainted("k", corev1.TaintEffectNoSchedule))}, aPod("p", tolerating("k")), "n", ""},
		{"only preferred", []any{aNode("n", tainted("k", corev1.TaintEffectPreferNoSchedule))}, aPod("p"), "n", ""},

		{"node selector", []any{aNode("n"), aNode("m", labelled("disk", "ssd"))}, aPod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), "m", ""},
		{"node selector nowhere", []any{aNode("n")}, aPod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), "",
			"0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."},
		{"node affinity", []any{aNode("n", labelled("mem", "64")), aNode("m", labelled("mem", "8"))}, aPod("p", selectsNodes(corev1.NodeSelectorOpGt, "mem", "32")), "n", ""},

		{"by name", []any{aNode("n"), aNode("m"), aNode("k", tainted("k", corev1.TaintEffectNoSchedule))}, aPod("p", onlyOn([]string{"m"})), "m", ""},
		{"by names of alternatives", []any{aNode("n")}, aPod("p", onlyOn([]string{"m"}, []string{"n"})), "n", ""},
		{"by a name that is full", []any{aNode("n"), aNode("m", has("cpu", "1")), aNode("k", tainted("k", corev1.TaintEffectNoSchedule))}, aPod("p", onlyOn([]string{"m"}), requests("cpu", "2")), "",
			"0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."},
		{"by a name that is no node's", []any{aNode("n")}, aPod("p", onlyOn([]string{"m"})), "", "0/1 nodes are available: 1 node(s) didn't satisfy plugin(s) [NodeAffinity]."},
		{"by names that contradict", []any{aNode("n")}, aPod("p", onlyOn([]string{"n"}), func(p *corev1.Pod) {
			term := &p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0]
			term.MatchFields = append(term.MatchFields, corev1.NodeSelectorRequirement{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"m"}})
		}), "", "0/1 nodes are available: pod affinity terms conflict."},
		{"by a name and a label", []any{aNode("n"), aNode("m", labelled("disk", "ssd"))}, aPod("p", onlyOn([]string{"m"}, []string{"n"}), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), "m", ""},

		{"volume of another zone", []any{aNode("n", zone("a")), claim("c"), volumeIn("pv-c", "b")}, aPod("p", mounts("c")), "", "0/1 nodes are available: 1 node(s) had no available volume zone."},
		{"volume of two zones", []any{aNode("n", zone("a")), aNode("m", zone("c")), claim("c"), volumeIn("pv-c", "b__c")}, aPod("p", mounts("c")), "m", ""},
		{"volume of a zone, node of none", []any{aNode("n"), claim("c"), volumeIn("pv-c", "b")}, aPod("p", mounts("c")), "n", ""},
		{"volume with the old label", []any{aNode("n", zone("a")), aNode("m", zone("b")), claim("c"), func() *corev1.PersistentVolume {
			v := volumeOn("pv-c", "")
			v.Labels = map[string]string{corev1.LabelFailureDomainBetaZone: "b"}
			return v
		}()}, aPod("p", mounts("c")), "m", ""},

		{"host port taken", []any{aNode("n"), aPod("x", on("n"), hostPorts("/TCP/80"))}, aPod("p", hostPorts("/TCP/80")), "",
			"0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},
		{"host port of another protocol", []any{aNode("n"), aPod("x", on("n"), hostPorts("/UDP/80"))}, aPod("p", hostPorts("/TCP/80")), "n", ""},
		{"host port on another address", []any{aNode("n"), aPod("x", on("n"), hostPorts("10.0.0.1/TCP/80"))}, aPod("p", hostPorts("10.0.0.2/TCP/80")), "n", ""},
		{"host port on every address", []any{aNode("n"), aPod("x", on("n"), hostPorts("10.0.0.1/TCP/80"))}, aPod("p", hostPorts("0.0.0.0/TCP/80")), "",
			"0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},
		{"host port under one of every address", []any{aNode("n"), aPod("x", on("n"), hostPorts("::/TCP/80"))}, aPod("p", hostPorts("10.0.0.2/TCP/80")), "",
			"0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},

		{"cpu", []any{aNode("n"), aPod("x", on("n"), requests("cpu", "3"))}, aPod("p", requests("cpu", "1001m")), "", "0/1 nodes are available: 1 Insufficient cpu."},
		{"cpu to the last", []any{aNode("n"), aPod("x", on("n"), requests("cpu", "3"))}, aPod("p", requests("cpu", "1")), "n", ""},
		{"all at once", []any{aNode("n", has("pods", "0"))}, aPod("p", requests("cpu", "9", "memory", "9Gi", "ephemeral-storage", "1Ti", "x.y/gpu", "1", "hugepages-2Mi", "2Mi")), "",
			"0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient ephemeral-storage, 1 Insufficient hugepages-2Mi, 1 Insufficient memory, 1 Insufficient x.y/gpu, 1 Too many pods."},
		{"extended", []any{aNode("n"), aNode("m", has("x.y/gpu", "2")), aPod("x", on("m"), requests("x.y/gpu", "1"))}, aPod("p", requests("x.y/gpu", "1")), "m", ""},
		{"wants nothing on a full node", []any{aNode("n"), aPod("x", on("n"), requests("cpu", "40"))}, aPod("p"), "n", ""},
		{"ended pods hold nothing", []any{aNode("n")}, aPod("p", requests("cpu", "4")), "n", ""},
		{"an init container's peak", []any{aNode("n")}, aPod("p", requests("cpu", "1"), initContainer(false, "cpu", "5")), "", "0/1 nodes are available: 1 Insufficient cpu."},
		{"a sidecar adds up", []any{aNode("n")}, aPod("p", requests("cpu", "3"), initContainer(true, "cpu", "2")), "", "0/1 nodes are available: 1 Insufficient cpu."},
		{"an init container does not add up", []any{aNode("n")}, aPod("p", requests("cpu", "3"), initContainer(false, "cpu", "2")), "n", ""},
		{"overhead", []any{aNode("n")}, aPod("p", requests("cpu", "4"), func(p *corev1.Pod) { p.Spec.Overhead = list("cpu", "1m") }), "", "0/1 nodes are available: 1 Insufficient cpu."},
		{"pod level", []any{aNode("n")}, aPod("p", requests("cpu", "1"), func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu", "5")}
		}), "", "0/1 nodes are available: 1 Insufficient cpu."},
		{"a resize holds what the kubelet still holds", []any{aNode("n"), aPod("x", on("n"), requests("cpu", "1"), func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", AllocatedResources: list("cpu", "3"), Resources: &corev1.ResourceRequirements{Requests: list("cpu", "3")}}}
		})}, aPod("p", requests("cpu", "2")), "", "0/1 nodes are available: 1 Insufficient cpu."},

		{"no claim", []any{aNode("n")}, aPod("p", mounts("c")), "", `0/1 nodes are available: persistentvolumeclaim "c" not found.`},
		{"claim bound", []any{aNode("n"), aNode("m"), claim("c"), volumeOn("pv-c", "m")}, aPod("p", mounts("c")), "m", ""},
		{"claim bound elsewhere", []any{aNode("n"), claim("c"), volumeOn("pv-c", "m")}, aPod("p", mounts("c")), "", "0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity."},
		{"claim not bound", []any{aNode("n"), claim("c", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "" })}, aPod("p", mounts("c")), "",
			"0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."},
		{"claim ending", []any{aNode("n"), claim("c", func(c *corev1.PersistentVolumeClaim) { set(&c.DeletionTimestamp, metav1.Time{}) })}, aPod("p", mounts("c")), "",
			`0/1 nodes are available: persistentvolumeclaim "c" is being deleted.`},
		{"claim of one pod", []any{aNode("n"), volumeOn("pv-c", ""), aPod("x", on("n"), mounts("c")), claim("c", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
		})}, aPod("p", mounts("c")), "", "0/1 nodes are available: 1 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod."},
		{"no volume", []any{aNode("n"), claim("c")}, aPod("p", mounts("c")), "", `0/1 nodes are available: persistentvolume "pv-c" not found.`},

		{"near", []any{aNode("n"), aNode("m"), aPod("x", on("m"), with("app", "a"))}, aPod("p", near(hostname, app)), "m", ""},
		{"near nobody", []any{aNode("n")}, aPod("p", near(hostname, app)), "", "0/1 nodes are available: 1 node(s) didn't match pod affinity rules."},
		{"near itself, as the first", []any{aNode("n")}, aPod("p", with("app", "a"), near(hostname, app)), "n", ""},
		{"near itself, but without the label", []any{aNode("n")}, aPod("p", with("app", "a"), near("rack", app)), "", "0/1 nodes are available: 1 node(s) didn't match pod affinity rules."},
		{"near in another namespace", []any{aNode("n"), aPod("x", on("n"), with("app", "a"), func(p *corev1.Pod) { p.Namespace = "other" })}, aPod("p", near(hostname, app)), "",
			"0/1 nodes are available: 1 node(s) didn't match pod affinity rules."},
		{"near by namespace selector", []any{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other", Labels: map[string]string{"team": "t"}}},
			aNode("n"), aNode("m"), aPod("x", on("m"), with("app", "a"), func(p *corev1.Pod) { p.Namespace = "other" })},
			aPod("p", near(hostname, app), func(p *corev1.Pod) {
				p.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].NamespaceSelector = selecting("team", "t")
			}), "m", ""},
		{"near two at once means the same pod", []any{aNode("n"), aPod("x", on("n"), with("app", "a")), aPod("y", on("n"), with("tier", "b"))},
			aPod("p", near(hostname, app), near(hostname, selecting("tier", "b"))), "", "0/1 nodes are available: 1 node(s) didn't match pod affinity rules."},
		{"apart", []any{aNode("n"), aNode("m"), aPod("x", on("m"), with("app", "a"))}, aPod("p", apart(hostname, app)), "n", ""},
		{"apart nowhere", []any{aNode("n"), aPod("x", on("n"), with("app", "a"))}, aPod("p", apart(hostname, app)), "", "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."},
		{"apart by zone", []any{aNode("n", zone("a")), aNode("m", zone("a")), aPod("x", on("m"), with("app", "a"))}, aPod("p", apart(corev1.LabelTopologyZone, app)), "",
			"0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."},
		{"kept away", []any{aNode("n"), aPod("x", on("n"), apart(hostname, app))}, aPod("p", with("app", "a")), "", "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."},
		{"kept away from another node", []any{aNode("n"), aNode("m"), aPod("x", on("n"), apart(hostname, app))}, aPod("p", with("app", "a")), "m", ""},
		{"not meant", []any{aNode("n"), aPod("x", on("n"), apart(hostname, app))}, aPod("p", with("app", "b")), "n", ""},

		{"spread", []any{aNode("n"), aNode("m"), aPod("x", on("m"), with("app", "a"))}, aPod("p", with("app", "a"), spreads(hostname, 1, corev1.DoNotSchedule, app)), "n", ""},
		{"spread nowhere", []any{aNode("n"), aNode("m", tainted("k", corev1.TaintEffectNoSchedule)), aPod("x", on("n"), with("app", "a"))}, aPod("p", with("app", "a"), spreads(hostname, 1, corev1.DoNotSchedule, app)), "",
			"0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) had untolerated taint(s)."},
		{"spread honouring taints", []any{aNode("n"), aNode("m", tainted("k", corev1.TaintEffectNoSchedule)), aPod("x", on("n"), with("app", "a"))},
			aPod("p", with("app", "a"), spreads(hostname, 1, corev1.DoNotSchedule, app, func(c *corev1.TopologySpreadConstraint) { set(&c.NodeTaintsPolicy, corev1.NodeInclusionPolicyHonor) })), "n", ""},
		{"spread honours node affinity", []any{aNode("n"), aNode("m"), aPod("x", on("n"), with("app", "a"))},
			aPod("p", with("app", "a"), selectsNodes(corev1.NodeSelectorOpIn, hostname, "n"), spreads(hostname, 1, corev1.DoNotSchedule, app)), "n", ""},
		{"spread ignoring node affinity", []any{aNode("n"), aNode("m"), aPod("x", on("n"), with("app", "a"))},
			aPod("p", with("app", "a"), selectsNodes(corev1.NodeSelectorOpIn, hostname, "n"), spreads(hostname, 1, corev1.DoNotSchedule, app, func(c *corev1.TopologySpreadConstraint) {
				set(&c.NodeAffinityPolicy, corev1.NodeInclusionPolicyIgnore)
			})), "", "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) didn't match pod topology spread constraints."},
		{"spread without the label", []any{aNode("n")}, aPod("p", spreads("rack", 1, corev1.DoNotSchedule, app)), "",
			"0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label)."},
		{"spread over enough domains", []any{aNode("n"), aPod("x", on("n"), with("app", "a"))},
			aPod("p", with("app", "a"), spreads(hostname, 1, corev1.DoNotSchedule, app, func(c *corev1.TopologySpreadConstraint) { set(&c.MinDomains, 2) })), "",
			"0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints."},
		{"ending pods do not count", []any{aNode("n"), aNode("m", tainted("k", corev1.TaintEffectNoSchedule)), aPod("x", on("n"), with("app", "a"), func(p *corev1.Pod) { set(&p.DeletionTimestamp, metav1.Time{}) })},
			aPod("p", with("app", "a"), spreads(hostname, 1, corev1.DoNotSchedule, app)), "n", ""},

		{"reasons add up", []any{aNode("a", has("cpu", "1")), aNode("b", tainted("k", corev1.TaintEffectNoSchedule)), aNode("c", tainted("k", corev1.TaintEffectNoSchedule))}, aPod("p", requests("cpu", "2")), "",
			"0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s)."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node, why := decideFor(world(tt.objects...), tt.pod)
			if node != tt.node || why != tt.why {
				t.Errorf("got node %q, reason\n  %s\nwant node %q, reason\n  %s", node, why, tt.node, tt.why)
			}
		})
	}
}

func TestHugeRequestsDoNotWrapAround(t *testing.T) {
	huge := resource.MustParse("9Ei")
	c := world(aNode("n"))
	for i := range 100 {
		p := aPod(string(rune('a' + i)))
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: huge, "x.y/z": huge}
		c.place(placed(p), "n")
	}
	if n := c.byName["n"]; n.used.memory <= 0 || n.used.more["x.y/z"] <= 0 {
		t.Fatalf("the sum wrapped around: %+v", n.used)
	}
	if node, _ := decideFor(c, aPod("p", requests("memory", "1"))); node != "" {
		t.Error("found room on a node that has less than none")
	}
}

func TestRemovingEverythingLeavesNothing(t *testing.T) {
	c := world(aNode("n", zone("z")), claim("c"))
	p := placed(aPod("x", on("n"), with("app", "a"), requests("cpu", "1", "x.y/z", "2"), hostPorts("/TCP/80"), mounts("c"),
		near(hostname, selecting("app", "a")), apart(hostname, selecting("app", "b")), likes(5, hostname, nil), spreads(hostname, 1, corev1.DoNotSchedule, selecting("app", "a"))))
	c.place(p, "n")
	k := c.counter(true, newSelector("default", nil, nil, selecting("app", "a")))
	c.remove(p)
	n := c.byName["n"]
	if n.used.cpu != 0 || len(n.used.more) != 0 || len(n.ports) != 0 || len(n.pods) != 0 || n.scoreCPU != 0 || n.scoreMemory != 0 {
		t.Errorf("the node still has %+v", n)
	}
	if len(c.terms) != 0 || len(c.termsBy.by)+len(c.termsBy.loose) != 0 || len(c.claimUsers) != 0 || len(c.pods) != 0 || k.total != 0 {
		t.Errorf("the cluster still has terms %v, claims %v, pods %v, %d counted", c.terms, c.claimUsers, c.pods, k.total)
	}
	c.dropNode("n")
	if len(c.byName) != 0 || len(c.free) != 1 || c.slots[0] != nil {
		t.Errorf("the node is still known: %v", c.byName)
	}
}
