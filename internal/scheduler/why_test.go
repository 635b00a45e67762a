package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
)

// What is said after upstream's words: where the least is needed, and what.
func TestAdvice(t *testing.T) {
	app := selecting("app", "a")
	for _, tt := range []struct {
		name    string
		objects []any
		pod     *corev1.Pod
		want    string
	}{
		{"cpu", []any{aNode("n"), aNode("m"), aPod("x", on("n"), requests("cpu", "3900m")), aPod("y", on("m"), requests("cpu", "3750m"))}, aPod("p", requests("cpu", "500m")), "It would fit on m with 250m more cpu free."},
		{"memory", []any{aNode("n"), aPod("x", on("n"), requests("memory", "7Gi"))}, aPod("p", requests("memory", "3Gi")), "It would fit on n with 2Gi more memory free."},
		{"memory to the byte", []any{aNode("n"), aPod("x", on("n"), requests("memory", "7Gi"))}, aPod("p", requests("memory", "3221225473")), "It would fit on n with 2049Mi more memory free."},
		{"far too much memory", []any{aNode("n")}, aPod("p", requests("memory", "9999Ti")), "It would fit on n with far less memory requested."},
		{"more cpu than can be counted", []any{aNode("n")}, aPod("p", requests("cpu", "1E")), "It would fit on n with far less cpu requested."},
		{"more memory than can be counted, twice", []any{aNode("n")}, aPod("p", func(p *corev1.Pod) {
			requests("memory", "100E")(p)
			p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[0])
		}), "It would fit on n with far less memory requested."},
		{"too much memory", []any{aNode("n")}, aPod("p", requests("memory", "99Ti")), "It would fit on n with 99Ti less memory requested."},
		{"too large for any", []any{aNode("n", has("x.y/gpu", "1"))}, aPod("p", requests("cpu", "4500m", "x.y/gpu", "2")), "It would fit on n with 500m less cpu requested and 1 less x.y/gpu requested."},
		{"pods", []any{aNode("n", has("pods", "1")), aPod("x", on("n"))}, aPod("p"), "It would fit on n with 1 pod fewer on the node."},
		{"taint", []any{aNode("n", tainted("k", corev1.TaintEffectNoSchedule))}, aPod("p"), "It would fit on n with a toleration of k:NoSchedule."},
		{"cordon", []any{aNode("n", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, aPod("p"), "It would fit on n with the node uncordoned."},
		{"cordon and its taint", []any{aNode("n", func(n *corev1.Node) { n.Spec.Unschedulable = true }, tainted(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule))}, aPod("p"), "It would fit on n with the node uncordoned."},
		{"apart from each other", []any{aNode("n"), aPod("x", on("n"), with("app", "a"), apart(hostname, app))}, aPod("p", with("app", "a"), apart(hostname, app)), "It would fit on n with 1 conflicting pod fewer in kubernetes.io/hostname=n."},
		{"label", []any{aNode("n", labelled("disk", "hdd"))}, aPod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), "It would fit on n with the node's label disk=ssd."},
		{"label of an affinity", []any{aNode("n")}, aPod("p", selectsNodes(corev1.NodeSelectorOpIn, "disk", "ssd", "nvme")), "It would fit on n with the node's label disk=ssd."},
		{"a label less", []any{aNode("n", labelled("disk", "hdd"))}, aPod("p", selectsNodes(corev1.NodeSelectorOpDoesNotExist, "disk")), "It would fit on n with no label disk on the node."},
		{"a number", []any{aNode("n", labelled("mem", "8"))}, aPod("p", selectsNodes(corev1.NodeSelectorOpGt, "mem", "32")), "It would fit on n with the node's label mem above 32."},
		{"a name", []any{aNode("n")}, aPod("p", onlyOn([]string{"m"})), ""},
		{"a port", []any{aNode("n"), aPod("x", on("n"), hostPorts("/TCP/80"))}, aPod("p", hostPorts("/TCP/80")), "It would fit on n with host port 80/TCP free."},
		{"a neighbour", []any{aNode("n")}, aPod("p", near(hostname, app)), "It would fit on n with a pod that its affinity asks for in kubernetes.io/hostname=n."},
		{"no neighbour", []any{aNode("n"), aPod("x", on("n"), with("app", "a")), aPod("y", on("n"), with("app", "a"))}, aPod("p", apart(hostname, app)), "It would fit on n with 2 conflicting pods fewer in kubernetes.io/hostname=n."},
		{"a skew", []any{aNode("n"), aNode("m", tainted("k", corev1.TaintEffectNoSchedule)), aPod("x", on("n"), with("app", "a"))}, aPod("p", with("app", "a"), spreads(hostname, 1, corev1.DoNotSchedule, app)),
			"It would fit on m with a toleration of k:NoSchedule; or on n with 1 matching pod fewer in kubernetes.io/hostname=n."},
		{"a domain", []any{aNode("n")}, aPod("p", spreads("rack", 1, corev1.DoNotSchedule, app)), "It would fit on n with the node's label rack."},
		{"a volume elsewhere", []any{aNode("n"), claim("c"), volumeOn("pv-c", "m")}, aPod("p", mounts("c")), ""},
		{"all that a node needs", []any{aNode("n", tainted("k", corev1.TaintEffectNoSchedule)), aPod("x", on("n"), requests("cpu", "4"))}, aPod("p", requests("cpu", "1")), "It would fit on n with a toleration of k:NoSchedule and 1 more cpu free."},
		{"the fewest things, then the least", []any{aNode("a", tainted("k", corev1.TaintEffectNoSchedule), tainted("l", corev1.TaintEffectNoSchedule)), aNode("b", has("cpu", "1")), aNode("c", tainted("k", corev1.TaintEffectNoSchedule))}, aPod("p", requests("cpu", "2")),
			"It would fit on c with a toleration of k:NoSchedule; or on b with 1 less cpu requested."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := world(tt.objects...)
			d := newDecider(rand.New(rand.NewPCG(1, 2))).decide(c, pending(tt.pod))
			got := ""
			if len(d.remedies) > 0 {
				got = adviceText(d.remedies)
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if m := d.message(); !strings.HasPrefix(m, d.why+" preemption: "+d.preemption) || tt.want != "" && !strings.HasSuffix(m, " "+tt.want) {
				t.Errorf("message %s", m)
			}
		})
	}
}

// However much there is to say, it stays within what an event holds, and
// upstream's words come first.
func TestMessageIsBounded(t *testing.T) {
	var objects []any
	long := strings.Repeat("l", 200)
	for i := range 50 {
		objects = append(objects, aNode(fmt.Sprintf("n%02d", i), tainted(fmt.Sprint("k", i, "/", long), corev1.TaintEffectNoSchedule)))
	}
	objects = append(objects, aNode("m"))
	kv := []string{}
	for i := range 40 {
		kv = append(kv, fmt.Sprintf("example.com/%d-%s", i, strings.Repeat("r", 50)), "1")
	}
	for _, p := range []*corev1.Pod{aPod("p", requests(kv...)), aPod("p", requests("cpu", "9"))} {
		d := newDecider(rand.New(rand.NewPCG(1, 2))).decide(world(objects...), pending(p))
		if m := d.message(); len(m) > maxMessage || !strings.HasPrefix(m, "0/51 nodes are available: ") {
			t.Errorf("%d bytes: %s", len(m), m)
		}
	}
}

// Why says from a snapshot what the scheduler does in its event.
func TestWhySaysWhatTheSchedulerSays(t *testing.T) {
	l := newLoop(t, aNode("n"), aNode("m", tainted("k", corev1.TaintEffectNoSchedule)), aPod("x", on("n"), requests("cpu", "3"), priority(1)),
		aPod("low", requests("cpu", "2")), aPod("w", requests("cpu", "1"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b"} }))
	l.steps()
	for _, name := range []string{"low", "w"} {
		said := condition(l.pod(name), corev1.PodScheduled).Message
		if r := Why(l.View.Snapshot(), l.pod(name)); r.Message != said || r.Node != "" || len(r.Remedies) == 0 || len(r.Remedies[0].Changes) == 0 {
			t.Errorf("%s: %+v\nwant %s", name, r, said)
		}
	}
	if r := Why(l.View.Snapshot(), aPod("small", requests("cpu", "1"))); r.Node != "n" {
		t.Errorf("small: %+v", r)
	}
	r := Why(l.View.Snapshot(), aPod("high", requests("cpu", "4"), priority(2)))
	if r.VictimsOn != "n" || len(r.Victims) != 1 || r.Victims[0].Name != "x" {
		t.Errorf("high: %+v", r)
	}
	if r := Why(l.View.Snapshot(), aPod("g", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} })); !strings.Contains(r.Message, "scheduling gates") {
		t.Errorf("gated: %+v", r)
	}
	if !slices.Contains(Kinds(), kinds.PodDisruptionBudget) {
		t.Error("budgets are not read")
	}
}
