package scheduler

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"
)

func priority(v int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &v } }

func never(p *corev1.Pod) { set(&p.Spec.PreemptionPolicy, corev1.PreemptNever) }

func startedAt(minute int) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		t := metav1.NewTime(time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC))
		p.Status.StartTime = &t
	}
}

func aBudget(name string, allowed int32, sel *metav1.LabelSelector) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: sel}, Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: allowed}}
}

func ending(by string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		set(&p.DeletionTimestamp, metav1.Now())
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: by}}
	}
}

func nominated(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.NominatedNodeName = node }
}

func withBudgets(c *cluster, budgets ...*policyv1.PodDisruptionBudget) *cluster {
	for _, b := range budgets {
		c.setBudget(b, false)
	}
	return c
}

const (
	noVictims  = "No preemption victims found for incoming pod"
	notHelpful = "Preemption is not helpful for scheduling"
)

// Who goes where for whom, and what is said.
func TestPreemption(t *testing.T) {
	full, half, app := requests("cpu", "4"), requests("cpu", "2"), selecting("app", "a")
	for _, tt := range []struct {
		name    string
		objects []any
		budgets []*policyv1.PodDisruptionBudget
		waiting []*corev1.Pod // nominated
		pod     *corev1.Pod
		room    string // node: victims
		why     string
	}{
		{"one of less priority", []any{aNode("n"), aPod("x", on("n"), full, priority(1))}, nil, nil, aPod("p", full, priority(2)), "n: x", "found a potential placement for pod on node n, preempting 1 victims"},
		{"none of equal priority", []any{aNode("n"), aPod("x", on("n"), full, priority(2)), aPod("y", on("n"), priority(3))}, nil, nil, aPod("p", full, priority(2)), "", "0/1 nodes are available: 1 " + noVictims + "."},
		{"no priority is zero", []any{aNode("n"), aPod("x", on("n"), full)}, nil, nil, aPod("p", full, priority(1)), "n: x", "found a potential placement for pod on node n, preempting 1 victims"},
		{"below zero", []any{aNode("n"), aPod("x", on("n"), full, priority(-10))}, nil, nil, aPod("p", full), "n: x", "found a potential placement for pod on node n, preempting 1 victims"},
		{"not with policy Never", []any{aNode("n"), aPod("x", on("n"), full, priority(1))}, nil, nil, aPod("p", full, priority(2), never), "", "not eligible due to preemptionPolicy=Never."},
		{"not where the node is too small", []any{aNode("n", has("cpu", "3")), aPod("x", on("n"), requests("cpu", "3"), priority(1))}, nil, nil, aPod("p", full, priority(2)), "", "0/1 nodes are available: 1 " + notHelpful + "."},
		{"not where a taint is", []any{aNode("n", tainted("k", corev1.TaintEffectNoSchedule)), aNode("m"), aPod("x", on("n"), full, priority(1)), aPod("y", on("m"), full, priority(5))}, nil, nil, aPod("p", full, priority(2)), "",
			"0/2 nodes are available: 1 " + noVictims + ", 1 " + notHelpful + "."},
		{"not where it would not be enough", []any{aNode("n"), aPod("x", on("n"), half, priority(1)), aPod("y", on("n"), half, priority(9))}, nil, nil, aPod("p", full, priority(2)), "", "0/1 nodes are available: 1 Insufficient cpu."},
		{"a port", []any{aNode("n"), aPod("x", on("n"), hostPorts("/TCP/80")), aPod("y", on("n"))}, nil, nil, aPod("p", hostPorts("/TCP/80"), priority(1)), "n: x", "found a potential placement for pod on node n, preempting 1 victims"},
		{"whom it must not meet", []any{aNode("n"), aPod("x", on("n"), with("app", "a")), aPod("y", on("n"))}, nil, nil, aPod("p", apart(hostname, app), priority(1)), "n: x", "found a potential placement for pod on node n, preempting 1 victims"},
		{"who must not meet it", []any{aNode("n"), aPod("x", on("n"), apart(hostname, app)), aPod("y", on("n"))}, nil, nil, aPod("p", with("app", "a"), priority(1)), "n: x", "found a potential placement for pod on node n, preempting 1 victims"},
		{"not for neighbours", []any{aNode("n"), aPod("x", on("n"), full)}, nil, nil, aPod("p", near(hostname, app), priority(1)), "", "0/1 nodes are available: 1 " + notHelpful + "."},
		{"the user of a claim", []any{aNode("n"), volumeOn("pv-c", ""), aPod("x", on("n"), mounts("c")), aPod("y", on("n")), claim("c", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
		})}, nil, nil, aPod("p", mounts("c"), priority(1)), "n: x", "found a potential placement for pod on node n, preempting 1 victims"},
		{"no more than needed", []any{aNode("n"), aPod("w", on("n"), requests("cpu", "1"), priority(3)), aPod("x", on("n"), requests("cpu", "1"), priority(2)), aPod("y", on("n"), half, priority(1))}, nil, nil, aPod("p", half, priority(9)), "n: y",
			"found a potential placement for pod on node n, preempting 1 victims"},
		// As upstream's conformance test: 200, 300 and 450 of 1000, and 500 wanted.
		{"the important stay", []any{aNode("n", has("x.y/z", "1000")), aPod("a", on("n"), requests("x.y/z", "200"), priority(1)), aPod("b", on("n"), requests("x.y/z", "300"), priority(2)), aPod("c", on("n"), requests("x.y/z", "450"), priority(3))}, nil, nil,
			aPod("p", requests("x.y/z", "500"), priority(4)), "n: b a", "found a potential placement for pod on node n, preempting 2 victims"},
		// And its test of spread: one low pod would do for the resource.
		{"for the spread", []any{aNode("n", zone("a"), has("x.y/z", "10")), aNode("m", zone("b"), has("x.y/z", "10")), aPod("high", on("n"), with("app", "a"), requests("x.y/z", "9"), priority(9)),
			aPod("x", on("m"), with("app", "a"), requests("x.y/z", "3"), startedAt(1)), aPod("y", on("m"), with("app", "a"), requests("x.y/z", "3"), startedAt(2)), aPod("z", on("m"), with("app", "a"), requests("x.y/z", "3"), startedAt(3))}, nil, nil,
			aPod("p", with("app", "a"), requests("x.y/z", "3"), priority(5), spreads(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule, app)), "m: y z", "found a potential placement for pod on node m, preempting 2 victims"},
		{"for the spread of chosen nodes", []any{aNode("n", zone("a"), labelled("disk", "ssd")), aNode("m", zone("b"), labelled("disk", "ssd")), aNode("k", zone("c")),
			aPod("x", on("n"), with("app", "a"), priority(9)), aPod("y", on("m"), with("app", "a")), aPod("z", on("m"), with("app", "a"), startedAt(1)), aPod("full", on("n"), requests("cpu", "4"), priority(9))}, nil, nil,
			aPod("p", with("app", "a"), requests("cpu", "1"), priority(5), selectsNodes(corev1.NodeSelectorOpIn, "disk", "ssd"), spreads(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule, app)), "m: y", "found a potential placement for pod on node m, preempting 1 victims"},

		{"fewest violations", []any{aNode("n"), aNode("m"), aPod("x", on("n"), full, with("app", "a")), aPod("y", on("m"), full, priority(5))}, []*policyv1.PodDisruptionBudget{aBudget("b", 0, app)}, nil, aPod("p", full, priority(9)), "m: y",
			"found a potential placement for pod on node m, preempting 1 victims"},
		{"a budget with room", []any{aNode("n"), aNode("m"), aPod("x", on("n"), full, with("app", "a")), aPod("y", on("m"), full, priority(5))}, []*policyv1.PodDisruptionBudget{aBudget("b", 1, app)}, nil, aPod("p", full, priority(9)), "n: x",
			"found a potential placement for pod on node n, preempting 1 victims"},
		{"a budget of nobody", []any{aNode("n"), aNode("m"), aPod("x", on("n"), full, with("app", "a")), aPod("y", on("m"), full, priority(5))}, []*policyv1.PodDisruptionBudget{aBudget("b", 0, &metav1.LabelSelector{})}, nil, aPod("p", full, priority(9)), "n: x",
			"found a potential placement for pod on node n, preempting 1 victims"},
		{"protected pods stay before important ones", []any{aNode("n"), aPod("x", on("n"), half, with("app", "a"), priority(1)), aPod("y", on("n"), half, priority(5))}, []*policyv1.PodDisruptionBudget{aBudget("b", 0, app)}, nil, aPod("p", half, priority(9)), "n: y",
			"found a potential placement for pod on node n, preempting 1 victims"},
		{"a budget is broken if it must be", []any{aNode("n"), aPod("x", on("n"), full, with("app", "a"))}, []*policyv1.PodDisruptionBudget{aBudget("b", 0, app)}, nil, aPod("p", full, priority(9)), "n: x",
			"found a potential placement for pod on node n, preempting 1 victims"},
		{"lowest highest priority", []any{aNode("n"), aNode("m"), aPod("x", on("n"), full, priority(5)), aPod("y", on("m"), half, priority(4)), aPod("z", on("m"), half, priority(4))}, nil, nil, aPod("p", full, priority(9)), "m: y z",
			"found a potential placement for pod on node m, preempting 2 victims"},
		{"smallest sum", []any{aNode("n"), aNode("m"), aPod("w", on("n"), half, priority(5)), aPod("x", on("n"), half, priority(4)), aPod("y", on("m"), half, priority(5)), aPod("z", on("m"), half, priority(3))}, nil, nil, aPod("p", full, priority(9)), "m: y z",
			"found a potential placement for pod on node m, preempting 2 victims"},
		{"smallest sum, the other way", []any{aNode("n"), aNode("m"), aPod("w", on("m"), half, priority(5)), aPod("x", on("m"), half, priority(4)), aPod("y", on("n"), half, priority(5)), aPod("z", on("n"), half, priority(3))}, nil, nil, aPod("p", full, priority(9)), "n: y z",
			"found a potential placement for pod on node n, preempting 2 victims"},
		{"fewest, below zero too", []any{aNode("n"), aNode("m"), aPod("w", on("n"), half, priority(-5)), aPod("x", on("n"), half, priority(-5)), aPod("y", on("m"), full, priority(-5))}, nil, nil, aPod("p", full), "m: y",
			"found a potential placement for pod on node m, preempting 1 victims"},
		{"latest start", []any{aNode("n"), aNode("m"), aPod("x", on("n"), full, startedAt(5)), aPod("y", on("m"), full, startedAt(9))}, nil, nil, aPod("p", full, priority(1)), "m: y",
			"found a potential placement for pod on node m, preempting 1 victims"},
		{"who ran longer stays", []any{aNode("n"), aPod("x", on("n"), half, startedAt(5)), aPod("y", on("n"), half, startedAt(9))}, nil, nil, aPod("p", half, priority(1)), "n: y",
			"found a potential placement for pod on node n, preempting 1 victims"},

		{"not twice", []any{aNode("n"), aNode("m"), aPod("x", on("n"), full, ending("PreemptionByScheduler")), aPod("y", on("m"), full)}, nil, nil, aPod("p", full, priority(1), nominated("n")), "",
			"not eligible due to a terminating pod on the nominated node."},
		{"again if others end", []any{aNode("n"), aNode("m"), aPod("x", on("n"), full, startedAt(1), ending("EvictionByEvictionAPI")), aPod("y", on("m"), full, startedAt(2))}, nil, nil, aPod("p", full, priority(1), nominated("n")), "m: y",
			"found a potential placement for pod on node m, preempting 1 victims"},
		{"again if the node is of no use", []any{aNode("n", tainted("k", corev1.TaintEffectNoSchedule)), aNode("m"), aPod("x", on("n"), full, ending("PreemptionByScheduler")), aPod("y", on("m"), full)}, nil, nil, aPod("p", full, priority(1), nominated("n")), "m: y",
			"found a potential placement for pod on node m, preempting 1 victims"},
		{"again if the node is gone", []any{aNode("m"), aPod("y", on("m"), full)}, nil, nil, aPod("p", full, priority(1), nominated("n")), "m: y",
			"found a potential placement for pod on node m, preempting 1 victims"},
		{"not for the room of an equal", []any{aNode("n"), aPod("x", on("n"), half)}, nil, []*corev1.Pod{aPod("w", half, priority(5), nominated("n"))}, aPod("p", full, priority(5)), "", "0/1 nodes are available: 1 Insufficient cpu."},
		{"beside an equal", []any{aNode("n"), aPod("x", on("n"), half)}, nil, []*corev1.Pod{aPod("w", half, priority(5), nominated("n"))}, aPod("p", half, priority(5)), "n: x",
			"found a potential placement for pod on node n, preempting 1 victims"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := withBudgets(world(tt.objects...), tt.budgets...)
			p := pending(tt.pod)
			for _, w := range tt.waiting {
				c.nominate(pending(w), w.Status.NominatedNodeName)
			}
			if name := tt.pod.Status.NominatedNodeName; name != "" {
				c.nominate(p, name)
			}
			before := fingerprint(c)
			d := newDecider(rand.New(rand.NewPCG(1, 2))).decide(c, p)
			if got := roomText(d.room); d.node != nil || got != tt.room || d.preemption != tt.why {
				t.Errorf("on %v, room %q, says\n  %s\nwant room %q,\n  %s", d.node, got, d.preemption, tt.room, tt.why)
			}
			if after := fingerprint(c); after != before {
				t.Errorf("deciding has changed the cluster from\n%s\nto\n%s", before, after)
			}
		})
	}
}

func roomText(r *room) string {
	if r == nil {
		return ""
	}
	s := r.node.name + ":"
	for _, v := range r.victims {
		s += " " + v.obj.Name
	}
	return s
}

// fingerprint of all that a decision must leave as it is.
func fingerprint(c *cluster) string {
	var b strings.Builder
	for _, n := range c.slots {
		if n == nil {
			continue
		}
		var pods []string
		for _, p := range n.pods {
			pods = append(pods, keyOf(p.obj))
		}
		slices.Sort(pods)
		fmt.Fprintln(&b, n.name, n.used, n.scoreCPU, n.scoreMemory, n.ports, pods, len(n.nominated))
	}
	fmt.Fprintln(&b, len(c.pods), c.claimUsers, c.priorities, len(c.nominees))
	for _, key := range slices.Sorted(maps.Keys(c.terms)) {
		t := c.terms[key]
		fmt.Fprintln(&b, key, t.refs, t.total, trim(t.perNode))
	}
	return b.String()
}

func trim(counts []int32) []int32 {
	for len(counts) > 0 && counts[len(counts)-1] == 0 {
		counts = counts[:len(counts)-1]
	}
	return counts
}

// Pods of more priority do not take the room that is kept for others, those of
// less may not either, and whoever is nominated goes there.
func TestRoomIsKept(t *testing.T) {
	half := requests("cpu", "2")
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		node string
		why  string
	}{
		{"less priority", aPod("p", half, priority(1)), "", "0/1 nodes are available: 1 Insufficient cpu."},
		{"equal priority", aPod("p", half, priority(5)), "", "0/1 nodes are available: 1 Insufficient cpu."},
		{"more priority", aPod("p", half, priority(6)), "n", ""},
		{"a smaller one", aPod("p", requests("cpu", "1"), priority(1)), "n", ""},
		{"near one that is not there yet", aPod("p", near(hostname, selecting("app", "w")), priority(1)), "", "0/1 nodes are available: 1 node(s) didn't match pod affinity rules."},
		{"apart from one that is to come", aPod("p", apart(hostname, selecting("app", "w")), priority(1)), "", "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."},
		{"kept away by one that is to come", aPod("p", with("app", "p"), priority(1)), "", "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := world(aNode("n"), aPod("x", on("n"), requests("cpu", "1")))
			c.nominate(pending(aPod("w", half, priority(5), with("app", "w"), apart(hostname, selecting("app", "p")))), "n")
			before := fingerprint(c)
			if node, why := decideFor(c, tt.pod); node != tt.node || why != tt.why {
				t.Errorf("got %q, %s; want %q, %s", node, why, tt.node, tt.why)
			}
			if after := fingerprint(c); after != before {
				t.Errorf("deciding has changed the cluster from\n%s\nto\n%s", before, after)
			}
		})
	}
	c := world(aNode("n"), aNode("m"), aPod("x", on("n"), half))
	p := pending(aPod("p", half, priority(5)))
	c.nominate(p, "n")
	if d := newDecider(rand.New(rand.NewPCG(1, 2))).decide(c, p); d.node == nil || d.node.name != "n" {
		t.Errorf("a nominated pod goes to %v, want n", d.node)
	}
}

// naiveRoom is a node with the pods that would have to go.
type naiveRoom struct {
	node       string
	victims    []*corev1.Pod
	violations int
}

func prio(p *corev1.Pod) int64 {
	if p.Spec.Priority != nil {
		return int64(*p.Spec.Priority)
	}
	return 0
}

// less than others, as the documentation says.
func (w *naive) less(a, b *corev1.Pod) bool {
	if prio(a) != prio(b) {
		return prio(a) < prio(b)
	}
	if !a.Status.StartTime.Equal(b.Status.StartTime) {
		return a.Status.StartTime == nil || b.Status.StartTime != nil && b.Status.StartTime.Before(a.Status.StartTime)
	}
	return keyOf(a) > keyOf(b)
}

// may reports whether a pod fits on a node, with those nominated to it that it
// must yield to, and without.
func (w *naive) may(p *corev1.Pod, n *corev1.Node) bool {
	with := *w
	with.pods = slices.Clone(w.pods)
	for _, x := range w.nominated {
		if x.Status.NominatedNodeName == n.Name && prio(x) >= prio(p) && x.UID != p.UID {
			x = x.DeepCopy()
			x.Spec.NodeName = n.Name
			with.pods = append(with.pods, x)
		}
	}
	return with.fits(p, n) && w.fits(p, n)
}

func (w *naive) without(gone ...*corev1.Pod) *naive {
	next := *w
	next.pods = slices.DeleteFunc(slices.Clone(w.pods), func(p *corev1.Pod) bool { return slices.Contains(gone, p) })
	return &next
}

// preempt finds a room on each node by the rules of the documentation.
func (w *naive) preempt(p *corev1.Pod) (out []naiveRoom) {
	for _, n := range w.nodes {
		lower := slices.DeleteFunc(w.on(n), func(x *corev1.Pod) bool { return prio(x) >= prio(p) })
		if len(lower) == 0 || !w.without(lower...).may(p, n) {
			continue
		}
		slices.SortFunc(lower, func(a, b *corev1.Pod) int {
			if w.less(b, a) {
				return -1
			}
			return 1
		})
		r := naiveRoom{node: n.Name, victims: slices.Clone(lower)}
		protected := w.protected(lower)
		for _, round := range []bool{true, false} {
			for _, x := range lower {
				if protected[x] != round {
					continue
				}
				fewer := slices.DeleteFunc(slices.Clone(r.victims), func(v *corev1.Pod) bool { return v == x })
				if w.without(fewer...).may(p, n) {
					r.victims = fewer
				} else if round {
					r.violations++
				}
			}
		}
		if len(r.victims) > 0 {
			out = append(out, r)
		}
	}
	return out
}

func (w *naive) protected(pods []*corev1.Pod) map[*corev1.Pod]bool {
	out := map[*corev1.Pod]bool{}
	used := map[string]int32{}
	for _, p := range pods {
		for _, b := range w.budgets {
			sel, _ := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			if b.Namespace == p.Namespace && !sel.Empty() && sel.Matches(labels.Set(p.Labels)) {
				if used[b.Name]++; used[b.Name] > b.Status.DisruptionsAllowed {
					out[p] = true
					break
				}
			}
		}
	}
	return out
}

// rank is what rooms are compared by, most significant first; smaller is better.
func (r *naiveRoom) rank() []int64 {
	var sum int64
	top, latest := prio(r.victims[0]), int64(0)
	for _, v := range r.victims {
		sum += prio(v) + 1<<31
		if prio(v) == top {
			at := int64(1 << 40)
			if t := v.Status.StartTime; t != nil {
				at = t.Unix()
			}
			if latest == 0 || at < latest {
				latest = at
			}
		}
	}
	return []int64{int64(r.violations), top, sum, int64(len(r.victims)), -latest}
}

// subsets reports whether the pod would fit on some node if any set of pods of
// less priority left it.
func (w *naive) subsets(p *corev1.Pod) bool {
	for _, n := range w.nodes {
		lower := slices.DeleteFunc(w.on(n), func(x *corev1.Pod) bool { return prio(x) >= prio(p) })
		for set := range 1 << len(lower) {
			var gone []*corev1.Pod
			for i, x := range lower {
				if set&(1<<i) != 0 {
					gone = append(gone, x)
				}
			}
			if w.without(gone...).may(p, n) {
				return true
			}
		}
	}
	return false
}

// What preemption plans is the best by the rules that the documentation gives,
// applied to the API objects by loops over everything; where it plans nothing,
// no set of pods that may go would help. And nothing is changed by planning.
func TestPreemptionAgreesWithBruteForce(t *testing.T) {
	planned, unable := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		c := world(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other", Labels: map[string]string{"team": "t"}}})
		w := &naive{nodes: map[string]*corev1.Node{}, namespaces: map[string]map[string]string{"default": nil, "other": {"team": "t"}}}
		for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
			n := drawNode(t, fmt.Sprint("n", i))
			c.setNode(n)
			w.nodes[n.Name] = n
		}
		for i := range rapid.IntRange(0, 2).Draw(t, "budgets") {
			b := aBudget(fmt.Sprint("b", i), rapid.Int32Range(0, 2).Draw(t, "allowed"), drawSelector(t))
			c.setBudget(b, false)
			w.budgets = append(w.budgets, b)
		}
		d := newDecider(rand.New(rand.NewPCG(1, 1)))
		for i := range rapid.IntRange(1, 14).Draw(t, "pods") {
			p := drawPod(t, fmt.Sprint("p", i))
			if rapid.Bool().Draw(t, "has started") {
				startedAt(rapid.IntRange(0, 3).Draw(t, "started"))(p)
			}
			var feasible []string
			for name, n := range w.nodes {
				if w.may(p, n) {
					feasible = append(feasible, name)
				}
			}
			rooms := w.preempt(p)
			before := fingerprint(c)
			dec := d.decide(c, pending(p))
			if after := fingerprint(c); after != before {
				t.Fatalf("deciding has changed the cluster from\n%s\nto\n%s", before, after)
			}
			switch {
			case dec.node != nil:
				if !slices.Contains(feasible, dec.node.name) {
					t.Fatalf("pod %s was given %s, feasible are %v", p.Name, dec.node.name, feasible)
				}
				p.Spec.NodeName = dec.node.name
				c.place(placed(p), p.Spec.NodeName)
				w.pods = append(w.pods, p)
				continue
			case len(feasible) > 0:
				t.Fatalf("pod %s fits on %v, the scheduler says: %s", p.Name, feasible, dec.message())
			}
			if !rapid.Bool().Draw(t, "policy") {
				rooms = nil
				never(p)
				if dec = d.decide(c, pending(p)); dec.room != nil {
					t.Fatalf("pod %s may not preempt, but plans %s", p.Name, roomText(dec.room))
				}
			}
			if dec.room == nil {
				unable++
				if len(rooms) > 0 {
					t.Fatalf("pod %s has no room, but could have %+v; the scheduler says: %s", p.Name, rooms[0], dec.message())
				}
				if p.Spec.PreemptionPolicy == nil && len(nearTerms(p)) == 0 && w.subsets(p) {
					t.Fatalf("pod %s would fit without some pods of less priority; the scheduler says: %s", p.Name, dec.message())
				}
				continue
			}
			planned++
			checkRoom(t, p, dec.room, rooms)
			p.Status.NominatedNodeName = dec.room.node.name
			c.nominate(pending(p), dec.room.node.name)
			w.nominated = append(w.nominated, p)
			if rapid.Bool().Draw(t, "they go") {
				for _, v := range dec.room.victims {
					c.remove(v)
					w.pods = slices.DeleteFunc(w.pods, func(x *corev1.Pod) bool { return x.UID == v.obj.UID })
				}
			}
		}
	})
	if !testing.Short() && (planned < 5 || unable < 5) { // short tests are too few to be sure of it
		t.Errorf("%d plans and %d refusals: the test sees too little", planned, unable)
	}
}

func checkRoom(t *rapid.T, p *corev1.Pod, got *room, rooms []naiveRoom) {
	if len(rooms) == 0 {
		t.Fatalf("pod %s plans %s, but nothing would help", p.Name, roomText(got))
	}
	best := slices.MinFunc(rooms, func(a, b naiveRoom) int { return slices.Compare(a.rank(), b.rank()) })
	for _, r := range rooms {
		if r.node != got.node.name {
			continue
		}
		var names, want []string
		for _, v := range got.victims {
			names = append(names, v.obj.Name)
			if prio(v.obj) >= prio(p) {
				t.Fatalf("pod %s of priority %d plans to preempt %s of %d", p.Name, prio(p), v.obj.Name, prio(v.obj))
			}
		}
		for _, v := range r.victims {
			want = append(want, v.Name)
		}
		if !slices.Equal(names, want) || got.violations != r.violations {
			t.Fatalf("pod %s plans %s with %d violations, want %v with %d", p.Name, roomText(got), got.violations, want, r.violations)
		}
		if slices.Compare(r.rank(), best.rank()) != 0 {
			t.Fatalf("pod %s plans %s, but %+v is better", p.Name, roomText(got), best)
		}
		return
	}
	t.Fatalf("pod %s plans %s, where nothing would help", p.Name, roomText(got))
}
