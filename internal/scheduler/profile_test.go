package scheduler

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"pgregory.net/rapid"
)

func profileWith(opts ...func(*Profile)) Profile {
	p := DefaultProfile()
	for _, o := range opts {
		o(&p)
	}
	return p
}

func deciderWith(opts ...func(*Profile)) *decider {
	return deciderBy(rulesOf(profileWith(opts...)), nil, rand.New(rand.NewPCG(1, 2)))
}

func addedAffinity(key string, values ...string) func(*Profile) {
	return func(p *Profile) {
		p.NodeAffinity.AddedAffinity = &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}}}}}}
	}
}

func addedPreference(key, value string) func(*Profile) {
	return func(p *Profile) {
		p.NodeAffinity.AddedAffinity = &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 10,
			Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}}}}}}}
	}
}

func unasked(names ...string) func(*Profile) {
	return func(p *Profile) {
		for _, name := range names {
			delete(p.Filters, name)
		}
	}
}

func strategy(kind configv1.ScoringStrategyType, kv ...any) func(*Profile) {
	return func(p *Profile) {
		p.Resources.ScoringStrategy = &configv1.ScoringStrategy{Type: kind}
		for i := 0; i < len(kv); i += 2 {
			p.Resources.ScoringStrategy.Resources = append(p.Resources.ScoringStrategy.Resources, configv1.ResourceSpec{Name: kv[i].(string), Weight: int64(kv[i+1].(int))})
		}
	}
}

func shaped(points ...int32) func(*Profile) {
	return func(p *Profile) {
		s := &configv1.RequestedToCapacityRatioParam{}
		for i := 0; i < len(points); i += 2 {
			s.Shape = append(s.Shape, configv1.UtilizationShapePoint{Utilization: points[i], Score: points[i+1]})
		}
		p.Resources.ScoringStrategy.RequestedToCapacityRatio = s
	}
}

func defaultConstraint(key string, when corev1.UnsatisfiableConstraintAction) func(*Profile) {
	return func(p *Profile) {
		p.Spread.DefaultingType = configv1.ListDefaulting
		p.Spread.DefaultConstraints = append(p.Spread.DefaultConstraints, corev1.TopologySpreadConstraint{TopologyKey: key, MaxSkew: 1, WhenUnsatisfiable: when})
	}
}

// What each argument does to where a pod may go.
func TestProfilesFilter(t *testing.T) {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "a"}}}
	uneven := []any{service, aNode("n", zone("a")), aNode("m", zone("b"), tainted("k", corev1.TaintEffectNoSchedule)), aPod("x", on("n"), with("app", "a"))}
	for _, tt := range []struct {
		name    string
		profile []func(*Profile)
		objects []any
		pod     *corev1.Pod
		want    string // a node, or the beginning of why not
	}{
		{"added affinity", []func(*Profile){addedAffinity("pool", "a")}, []any{aNode("n", labelled("pool", "a")), aNode("m")}, aPod("p"), "n"},
		{"added affinity refuses", []func(*Profile){addedAffinity("pool", "a")}, []any{aNode("n", labelled("pool", "b")), aNode("m")}, aPod("p"),
			"0/2 nodes are available: 2 node(s) didn't match scheduler-enforced node affinity. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling. It would fit on m with the labels that the scheduler's configuration asks of nodes."},
		{"both affinities must match", []func(*Profile){addedAffinity("pool", "a")}, []any{aNode("n", labelled("pool", "a")), aNode("m")}, aPod("p", onlyOn([]string{"m"})), "0/2 nodes are available: 1 node(s) didn't match scheduler-enforced node affinity, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]."},
		{"the pod's own still says so", []func(*Profile){addedAffinity("pool", "a")}, []any{aNode("n", labelled("pool", "a"))}, aPod("p", selectsNodes(corev1.NodeSelectorOpExists, "disk")), "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."},
		{"without taints", []func(*Profile){unasked("TaintToleration")}, []any{aNode("n", tainted("k", corev1.TaintEffectNoSchedule))}, aPod("p"), "n"},
		{"without node affinity, names are no matter", []func(*Profile){unasked("NodeAffinity")}, []any{aNode("n")}, aPod("p", onlyOn([]string{"m"})), "n"},
		{"without node affinity, conflicts are no matter", []func(*Profile){unasked("NodeAffinity")}, []any{aNode("n")}, aPod("p", onlyOn([]string{"m"}), func(p *corev1.Pod) {
			terms := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
			terms[0].MatchFields = append(terms[0].MatchFields, corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{"k"}})
		}), "n"},
		{"without volume binding", []func(*Profile){unasked("VolumeBinding")}, []any{aNode("n")}, aPod("p", mounts("nowhere")), "n"},
		{"without resources", []func(*Profile){unasked("NodeResourcesFit")}, []any{aNode("n")}, aPod("p", requests("cpu", "9")), "n"},
		{"ignored resource", []func(*Profile){func(p *Profile) { p.Resources.IgnoredResources = []string{"x.y/gpu"} }}, []any{aNode("n")}, aPod("p", requests("x.y/gpu", "1")), "n"},
		{"ignored group", []func(*Profile){func(p *Profile) { p.Resources.IgnoredResourceGroups = []string{"x.y"} }}, []any{aNode("n")}, aPod("p", requests("x.y/gpu", "1")), "n"},
		{"another group", []func(*Profile){func(p *Profile) { p.Resources.IgnoredResourceGroups = []string{"x"} }}, []any{aNode("n")}, aPod("p", requests("x.y/gpu", "1")), "0/1 nodes are available: 1 Insufficient x.y/gpu."},
		{"what is Kubernetes' own is never ignored", []func(*Profile){func(p *Profile) { p.Resources.IgnoredResources = []string{"hugepages-2Mi", "cpu"} }}, []any{aNode("n")}, aPod("p", requests("hugepages-2Mi", "2Mi")), "0/1 nodes are available: 1 Insufficient hugepages-2Mi."},
		{"hard default constraint", []func(*Profile){defaultConstraint(corev1.LabelTopologyZone, corev1.DoNotSchedule)}, uneven, aPod("p", with("app", "a")), "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) had untolerated taint(s)."},
		{"it is for pods without their own", []func(*Profile){defaultConstraint(corev1.LabelTopologyZone, corev1.DoNotSchedule)}, uneven, aPod("p", with("app", "a"), spreads(hostname, 9, corev1.ScheduleAnyway, selecting("app", "a"))), "n"},
		{"it is for pods with siblings", []func(*Profile){defaultConstraint(corev1.LabelTopologyZone, corev1.DoNotSchedule)}, uneven, aPod("p", with("app", "b")), "n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := deciderWith(tt.profile...)
			dec := d.decide(world(tt.objects...), pending(tt.pod))
			got := dec.message()
			if dec.node != nil {
				got = dec.node.name
			}
			if got != tt.want && (dec.node != nil || !strings.HasPrefix(got, tt.want)) {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// What each argument does to scores. Nodes have 4 cores and 8 GiB.
func TestProfilesScore(t *testing.T) {
	half, most := aPod("x", on("a"), requests("cpu", "2", "memory", "4Gi")), aPod("y", on("b"), requests("cpu", "3", "memory", "6Gi"))
	owner := func(c *cluster) {
		c.setOwner(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{UID: "uid-rs"}, Spec: appsv1.ReplicaSetSpec{Selector: selecting("app", "a")}}, false)
	}
	likesOther := aPod("x", on("a"), near(hostname, selecting("app", "a")))
	for _, tt := range []struct {
		scorer, name string
		profile      []func(*Profile)
		objects      []any
		pod          *corev1.Pod
		want         []float64 // of a, b, ...; nil: no preference
	}{
		{"NodeResourcesFit", "most allocated", []func(*Profile){strategy(configv1.MostAllocated, "cpu", 1, "memory", 1)}, []any{aNode("a"), aNode("b"), half, most}, aPod("p", requests("cpu", "1", "memory", "1Gi")), []float64{(75 + 62.5) / 2, (100 + 87.5) / 2}},
		{"NodeResourcesFit", "weights", []func(*Profile){strategy(configv1.MostAllocated, "cpu", 3, "memory", 1)}, []any{aNode("a"), aNode("b"), half, most}, aPod("p", requests("cpu", "1", "memory", "1Gi")), []float64{(3*75 + 62.5) / 4, (3*100 + 87.5) / 4}},
		{"NodeResourcesFit", "least allocated of one", []func(*Profile){strategy(configv1.LeastAllocated, "memory", 1)}, []any{aNode("a"), aNode("b"), half, most}, aPod("p", requests("cpu", "1", "memory", "1Gi")), []float64{37.5, 12.5}},
		{"NodeResourcesFit", "storage", []func(*Profile){strategy(configv1.MostAllocated, "ephemeral-storage", 1)}, []any{aNode("a"), aNode("b", has("ephemeral-storage", "50Gi"))}, aPod("p", requests("ephemeral-storage", "25Gi")), []float64{25, 50}},
		{"NodeResourcesFit", "a device", []func(*Profile){strategy(configv1.MostAllocated, "x.y/gpu", 5, "cpu", 1)}, []any{aNode("a", has("x.y/gpu", "4")), aNode("b", has("x.y/gpu", "2"))}, aPod("p", requests("x.y/gpu", "1", "cpu", "4")), []float64{(5*25 + 100) / 6.0, (5*50 + 100) / 6.0}},
		{"NodeResourcesFit", "a device that the pod does not want", []func(*Profile){strategy(configv1.MostAllocated, "x.y/gpu", 5, "cpu", 1)}, []any{aNode("a", has("x.y/gpu", "4")), aNode("b")}, aPod("p", requests("cpu", "4")), []float64{100, 100}},
		{"NodeResourcesFit", "more than there is", []func(*Profile){strategy(configv1.MostAllocated, "cpu", 1)}, []any{aNode("a", has("cpu", "50m")), aNode("b", has("cpu", "1"))}, aPod("p"), []float64{100, 10}},
		{"NodeResourcesFit", "by a shape", []func(*Profile){strategy(configv1.RequestedToCapacityRatio, "cpu", 1), shaped(0, 0, 50, 10, 100, 2)}, []any{aNode("a"), aNode("b"), half, most}, aPod("p", requests("cpu", "1")), []float64{60, 20}},
		{"NodeResourcesFit", "before and after a shape", []func(*Profile){strategy(configv1.RequestedToCapacityRatio, "cpu", 1), shaped(40, 3, 60, 7)}, []any{aNode("a"), aNode("b"), most}, aPod("p", requests("cpu", "1")), []float64{30, 70}},
		{"NodeResourcesFit", "a shape's zero does not count", []func(*Profile){strategy(configv1.RequestedToCapacityRatio, "cpu", 1, "memory", 1), shaped(50, 0, 100, 10)}, []any{aNode("a"), aNode("b"), most}, aPod("p", requests("cpu", "1", "memory", "512Mi")), []float64{0, (100 + 62) / 2}},
		{"NodeResourcesBalancedAllocation", "three resources", []func(*Profile){func(p *Profile) {
			p.Balance.Resources = []configv1.ResourceSpec{{Name: "cpu", Weight: 1}, {Name: "memory", Weight: 1}, {Name: "x.y/gpu", Weight: 1}}
		}}, []any{aNode("a", has("x.y/gpu", "4")), aNode("b", has("x.y/gpu", "2"))}, aPod("p", requests("cpu", "2", "memory", "4Gi", "x.y/gpu", "2")), []float64{100, 100 * (1 - math.Sqrt(2)/6)}},
		{"NodeResourcesFit", "devices that stand for a resource", []func(*Profile){strategy(configv1.MostAllocated, widget, 1)},
			[]any{aNode("a"), aNode("b"), aNode("c"), standingFor("x", widget, isModel("x")), aSlice("a", "a:x", "b:x", "c:x", "d:x", "e:y"), aSlice("b", "a:x", "b:x"), aDeviceClaim("d", exactly("x", 1), given([]string{"a/a", "a/e"}))}, aPod("p", requests(widget, "1")), []float64{50, 50, 0}},
		{"NodeResourcesFit", "devices of another class", []func(*Profile){strategy(configv1.MostAllocated, widget, 1)}, []any{aNode("a"), aNode("b", has(widget, "2")), standingFor("x", widget, isModel("x")), aSlice("a", "a:y")}, aPod("p", requests(widget, "1")), []float64{0, 50}},
		{"NodeResourcesBalancedAllocation", "devices that stand for a resource", []func(*Profile){func(p *Profile) {
			p.Balance.Resources = []configv1.ResourceSpec{{Name: "cpu", Weight: 1}, {Name: widget, Weight: 1}}
		}}, []any{aNode("a"), aNode("b"), standingFor("x", widget), aSlice("a", "a:x"), everywhere(aSlice("b", "a:x"))}, aPod("p", requests("cpu", "2", widget, "1")), []float64{100, 75}},
		{"NodeResourcesBalancedAllocation", "none of them is wanted", []func(*Profile){func(p *Profile) { p.Balance.Resources = []configv1.ResourceSpec{{Name: "x.y/gpu", Weight: 1}} }}, []any{aNode("a"), aNode("b")}, aPod("p", requests("cpu", "2")), nil},
		{"NodeAffinity", "added preference", []func(*Profile){addedPreference("disk", "ssd")}, []any{aNode("a", labelled("disk", "ssd")), aNode("b")}, aPod("p"), []float64{100, 0}},
		{"InterPodAffinity", "required counts as preferred", nil, []any{aNode("a"), aNode("b"), likesOther}, aPod("p", with("app", "a")), []float64{100, 0}},
		{"InterPodAffinity", "by its weight", []func(*Profile){func(p *Profile) { set(&p.PodAffinity.HardPodAffinityWeight, 5) }}, []any{aNode("a"), aNode("b"), likesOther, aPod("y", on("b"), likes(10, hostname, selecting("app", "a")))}, aPod("p", with("app", "a")), []float64{0, 100}},
		{"InterPodAffinity", "and not at all", []func(*Profile){func(p *Profile) { set(&p.PodAffinity.HardPodAffinityWeight, 0) }}, []any{aNode("a"), aNode("b"), likesOther}, aPod("p", with("app", "a")), nil},
		{"InterPodAffinity", "placed pods' terms are ignored", []func(*Profile){func(p *Profile) { p.PodAffinity.IgnorePreferredTermsOfExistingPods = true }}, []any{aNode("a"), aNode("b"), aPod("y", on("b"), likes(10, hostname, selecting("app", "a")))}, aPod("p", with("app", "a")), nil},
		{"InterPodAffinity", "unless the pod has some", []func(*Profile){func(p *Profile) { p.PodAffinity.IgnorePreferredTermsOfExistingPods = true }}, []any{aNode("a"), aNode("b"), aPod("y", on("b"), likes(10, hostname, selecting("app", "a")))}, aPod("p", with("app", "a"), likes(1, hostname, selecting("app", "z"))), []float64{0, 100}},
		{"PodTopologySpread", "no default", []func(*Profile){func(p *Profile) { p.Spread.DefaultingType = configv1.ListDefaulting }}, []any{aNode("a"), aNode("b"), aPod("x", on("a"), with("app", "a"))}, aPod("p", with("app", "a"), owned("rs")), nil},
		{"PodTopologySpread", "a default of its own; a node without the label is bad", []func(*Profile){defaultConstraint("rack", corev1.ScheduleAnyway)}, []any{aNode("a", labelled("rack", "1")), aNode("b", labelled("rack", "2")), aNode("c"), aPod("x", on("a"), with("app", "a"))}, aPod("p", with("app", "a"), owned("rs")), []float64{0, 100, 0}},
	} {
		t.Run(tt.scorer+"/"+tt.name, func(t *testing.T) {
			c := world(tt.objects...)
			owner(c)
			d, p := deciderWith(tt.profile...), pending(tt.pod)
			cy := d.cycle(c, p, d.classes.of(p))
			var nodes []*node
			for _, name := range []string{"a", "b", "c"} {
				if n := c.byName[name]; n != nil {
					nodes = append(nodes, n)
				}
			}
			out := make([]float64, len(nodes))
			for _, s := range d.rules.scorers {
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

// The quick forms of the default scores are the general ones.
func TestDefaultScoresAreTheGeneralOnes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string, lo int) int { return rapid.IntRange(lo, 9000).Draw(t, name) }
		c := world(aNode("n", has("cpu", fmt.Sprintf("%dm", draw("cpus", 1)), "memory", fmt.Sprint(draw("bytes", 1)))),
			aPod("x", on("n"), requests("cpu", fmt.Sprintf("%dm", draw("used", 0)), "memory", fmt.Sprint(draw("taken", 0)))))
		p := pending(aPod("p", requests("cpu", fmt.Sprintf("%dm", draw("cpu", 0)), "memory", fmt.Sprint(draw("memory", 0)))))
		n := c.byName["n"]
		order := []configv1.ResourceSpec{{Name: "memory", Weight: 4}, {Name: "cpu", Weight: 4}} // not the usual one
		general := leftBy(&configv1.ScoringStrategy{Type: configv1.LeastAllocated, Resources: order})(p, n, nil)
		if got := leastAllocated(p, n); math.Abs(got-general) > 1e-9 {
			t.Fatalf("least allocated: %v, in general %v", got, general)
		}
		if got, general := balanced(p, n), balanceOf(order)(p, n, nil); math.Abs(got-general) > 1e-6 {
			t.Fatalf("balanced: %v, in general %v", got, general)
		}
	})
}

func TestPercentageOfNodes(t *testing.T) {
	for _, tt := range []struct{ nodes, percent, want int }{{50, 10, 50}, {1000, 0, 420}, {1000, 5, 100}, {1000, 30, 300}, {1000, 100, 1000}} {
		if got := sample(tt.nodes, tt.percent); got != tt.want {
			t.Errorf("of %d nodes %d are enough at %d%%, want %d", tt.nodes, got, tt.percent, tt.want)
		}
	}
	c := world()
	for i := range 300 {
		c.setNode(aNode(fmt.Sprintf("n%03d", i)))
	}
	looked := func(opts ...func(*Profile)) int {
		d, p := deciderWith(opts...), pending(aPod("p"))
		d.search(d.cycle(c, p, d.classes.of(p)), c.candidates())
		return len(d.looked)
	}
	if n := looked(func(p *Profile) { p.PercentageOfNodes = 80 }); n != 240 {
		t.Errorf("%d nodes were looked at, want 240", n)
	}
	if n := looked(func(p *Profile) { clear(p.Weights) }); n != 1 {
		t.Errorf("%d nodes were looked at though nothing compares them", n)
	}
}

// Preemption ends with as many candidates as the profile says, or is off.
func TestPreemptionByProfile(t *testing.T) {
	c := world()
	for i := range 200 {
		n := fmt.Sprintf("n%03d", i)
		c.setNode(aNode(n, has("cpu", "1")))
		c.place(placed(aPod("x"+n, on(n), requests("cpu", "1"))), n)
	}
	p := pending(aPod("p", requests("cpu", "1"), priority(1)))
	for _, tt := range []struct {
		percent, least int32
		want           int
	}{{10, 100, 100}, {10, 0, 20}, {0, 7, 7}, {100, 0, 200}} {
		d := deciderWith(func(p *Profile) {
			set(&p.Preemption.MinCandidateNodesPercentage, tt.percent)
			set(&p.Preemption.MinCandidateNodesAbsolute, tt.least)
		})
		cy := d.cycle(c, p, d.classes.of(p))
		d.search(cy, cy.targets())
		d.explain(cy)
		if got := len(d.rooms(cy, d.looked, map[string]int{})); got != tt.want {
			t.Errorf("%d%% and %d: %d candidates, want %d", tt.percent, tt.least, got, tt.want)
		}
	}
	dec := deciderWith(func(p *Profile) { p.Preempts = false }).decide(c, p)
	if dec.room != nil || dec.node != nil || strings.Contains(dec.message(), "preemption") {
		t.Errorf("preemption is off: %+v", dec)
	}
}

func TestProfilesAreChecked(t *testing.T) {
	for name, o := range map[string]func(*Profile){
		"filter": func(p *Profile) { p.Filters["Mine"] = true }, "scorer": func(p *Profile) { p.Weights["Mine"] = 1 }, "affinity": addedAffinity("not a key", "a"),
	} {
		p := profileWith(o)
		if _, err := newRules(&p); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

// Two profiles share one queue and one state, and each pod goes by its own.
func TestTwoProfiles(t *testing.T) {
	packed := profileWith(strategy(configv1.MostAllocated, "cpu", 1), addedAffinity("pool", "batch"), func(p *Profile) { p.Name = "batch" })
	l := newLoop(t, aNode("a", labelled("pool", "batch")), aNode("b", labelled("pool", "batch")), aNode("c"), aPod("x", on("a"), requests("cpu", "1")))
	own := &events{}
	s, err := New(Config{View: l.View, Client: l.api, Now: l.s.now, Rand: rand.New(rand.NewPCG(1, 1)), Profiles: []Profile{DefaultProfile(), packed},
		EventsOf: func(name string) Emitter {
			if name == "batch" {
				return own
			}
			return l.events
		}})
	if err != nil {
		t.Fatal(err)
	}
	l.s = s
	by := func(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.SchedulerName = name } }
	// All are of one template but for the profile.
	for i := range 3 {
		l.put(aPod(fmt.Sprint("web-", i), requests("cpu", "1")), aPod(fmt.Sprint("batch-", i), requests("cpu", "1"), by("batch")), aPod(fmt.Sprint("other-", i), by("other")))
	}
	l.steps()
	for i := range 3 {
		if got := l.pod(fmt.Sprint("batch-", i)).Spec.NodeName; got != "a" {
			t.Errorf("batch-%d is on %q, want the fullest node of its pool", i, got)
		}
		if got := l.pod(fmt.Sprint("web-", i)).Spec.NodeName; got == "" || got == "a" {
			t.Errorf("web-%d is on %q", i, got)
		}
		if got := l.pod(fmt.Sprint("other-", i)).Spec.NodeName; got != "" {
			t.Errorf("other-%d is on %q", i, got)
		}
	}
	l.put(aPod("late", requests("cpu", "4"), by("batch")), aPod("late-web", requests("cpu", "9")))
	l.steps()
	if c := condition(l.pod("late"), corev1.PodScheduled); c == nil || !strings.Contains(c.Message, "1 node(s) didn't match scheduler-enforced node affinity") {
		t.Errorf("%+v", c)
	}
	if !strings.Contains(own.String(), "late Warning FailedScheduling") || strings.Contains(own.String(), "web") || strings.Contains(l.events.String(), "batch-") {
		t.Errorf("events of batch:\n%s\nand of the other:\n%s", own, l.events)
	}
	// The added affinity is satisfied where a node gets the label.
	c := aNode("d", labelled("pool", "batch"))
	l.put(c)
	l.Now = l.Now.Add(11e9)
	l.steps()
	if got := l.pod("late").Spec.NodeName; got != "d" {
		t.Errorf("late is on %q after a node of its pool came", got)
	}
}

// A hard default constraint refuses, and a pod that leaves wakes the refused.
func TestHardDefaultConstraintIsWoken(t *testing.T) {
	l := newLoop(t, aNode("a", zone("1")), aNode("b", zone("2"), has("pods", "1")), aPod("x", on("a"), with("app", "a"), owned("rs")), aPod("y", on("b")))
	s, err := New(Config{View: l.View, Client: l.api, Now: l.s.now, Rand: rand.New(rand.NewPCG(1, 1)), Profiles: []Profile{profileWith(defaultConstraint(corev1.LabelTopologyZone, corev1.DoNotSchedule))}})
	if err != nil {
		t.Fatal(err)
	}
	l.s = s
	l.s.Step(context.Background())
	l.s.cluster.setOwner(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{UID: "uid-rs"}, Spec: appsv1.ReplicaSetSpec{Selector: selecting("app", "a")}}, false)
	l.put(aPod("p", with("app", "a"), owned("rs")))
	l.steps()
	if got := l.pod("p").Spec.NodeName; got != "" {
		t.Fatalf("p is on %q", got)
	}
	ended := l.pod("x").DeepCopy()
	ended.Status.Phase = corev1.PodSucceeded
	l.put(ended)
	l.Now = l.Now.Add(11e9)
	l.steps()
	if got := l.pod("p").Spec.NodeName; got != "a" {
		t.Errorf("p is on %q after the pod that it was kept from had ended", got)
	}
}
