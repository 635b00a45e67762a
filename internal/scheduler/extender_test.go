package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"
)

// talk is an extender that answers from a table of verbs, by way of JSON as the
// real ones, and notes what it was asked.
type talk struct {
	verbs map[string]func(args map[string]any) (any, error)
	asked []string
}

func (t *talk) call(_ context.Context, verb string, args, answer any) error {
	data, err := json.Marshal(args)
	if err != nil {
		return err
	}
	t.asked = append(t.asked, verb)
	in := map[string]any{}
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	out, err := t.verbs[verb](in)
	if err != nil {
		return err
	}
	if data, err = json.Marshal(out); err != nil {
		return err
	}
	return json.Unmarshal(data, answer)
}

func (t *talk) extender(opts ...func(*configv1.Extender)) Extender {
	e := Extender{Extender: configv1.Extender{URLPrefix: "http://x", NodeCacheCapable: true, Weight: 1}, Call: t.call}
	for _, o := range opts {
		o(&e.Extender)
	}
	return e
}

func verbs(names string) func(*configv1.Extender) {
	return func(e *configv1.Extender) {
		for _, v := range strings.Fields(names) {
			switch v {
			case "filter":
				e.FilterVerb = v
			case "prioritize":
				e.PrioritizeVerb = v
			case "preempt":
				e.PreemptVerb = v
			case "bind":
				e.BindVerb = v
			}
		}
	}
}

func ignorable(e *configv1.Extender)  { e.Ignorable = true }
func wholeNodes(e *configv1.Extender) { e.NodeCacheCapable = false }
func managing(name string) func(*configv1.Extender) {
	return func(e *configv1.Extender) { e.ManagedResources = []configv1.ExtenderManagedResource{{Name: name}} }
}

func deciderBeside(list ...Extender) *decider {
	return deciderBy(rulesOf(DefaultProfile()), newOutside(list, slog.New(slog.DiscardHandler)), rand.New(rand.NewPCG(1, 2)))
}

// saying answers a filter: these nodes stay, and those fail.
func saying(r extenderv1.ExtenderFilterResult) *talk {
	return &talk{verbs: map[string]func(map[string]any) (any, error){"filter": func(map[string]any) (any, error) { return r, nil }}}
}

func failing() *talk {
	no := func(map[string]any) (any, error) { return nil, errors.New("no answer") }
	return &talk{verbs: map[string]func(map[string]any) (any, error){"filter": no, "prioritize": no, "preempt": no, "bind": no}}
}

func nodesNamed(names ...string) *corev1.NodeList {
	l := &corev1.NodeList{}
	for _, n := range names {
		l.Items = append(l.Items, *aNode(n))
	}
	return l
}

func TestExtenderFilters(t *testing.T) {
	type result = extenderv1.ExtenderFilterResult
	two := []any{aNode("m"), aNode("n")}
	for _, tt := range []struct {
		name      string
		extenders []Extender
		pod       *corev1.Pod
		want      string // a node, the beginning of why not, or an error
		stays     string // nodes that no pod's leaving would help
	}{
		{"one stays", []Extender{saying(result{NodeNames: &[]string{"n"}}).extender(verbs("filter"))}, aPod("p"), "n", ""},
		{"one stays, by the whole node", []Extender{saying(result{Nodes: nodesNamed("n")}).extender(verbs("filter"), wholeNodes)}, aPod("p"), "n", ""},
		{"none stays", []Extender{saying(result{NodeNames: &[]string{}, FailedNodes: map[string]string{"m": "m is tired", "n": "n is tired"}}).extender(verbs("filter"))}, aPod("p"),
			"0/2 nodes are available: 1 m is tired, 1 n is tired. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.", ""},
		{"no pod's leaving helps", []Extender{saying(result{FailedNodes: map[string]string{"m": "tired", "n": "tired"}, FailedAndUnresolvableNodes: map[string]string{"n": "broken"}}).extender(verbs("filter"))}, aPod("p"),
			"0/2 nodes are available: 1 broken, 1 tired. preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.", "n"},
		{"it says nothing", []Extender{saying(result{}).extender(verbs("filter"))}, aPod("p"), "0/2 nodes are available: . preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.", "m n"},
		{"one after the other", []Extender{saying(result{NodeNames: &[]string{"m", "n"}}).extender(verbs("filter")), saying(result{NodeNames: &[]string{"m"}}).extender(verbs("filter"))}, aPod("p"), "m", ""},
		{"a stranger", []Extender{saying(result{NodeNames: &[]string{"k"}}).extender(verbs("filter"))}, aPod("p"), `error: extender "http://x" claims a filtered node "k" which is not found in the input node list`, ""},
		{"an error", []Extender{saying(result{Error: "out of order"}).extender(verbs("filter"))}, aPod("p"), "error: out of order", ""},
		{"it fails", []Extender{failing().extender(verbs("filter"))}, aPod("p"), "error: no answer", ""},
		{"it fails and may", []Extender{failing().extender(verbs("filter"), ignorable), saying(result{NodeNames: &[]string{"m"}}).extender(verbs("filter"))}, aPod("p"), "m", ""},
		{"it fails, but is not asked", []Extender{failing().extender(verbs("filter"), managing("x.y/gpu")), saying(result{NodeNames: &[]string{"m"}}).extender(verbs("filter"))}, aPod("p"), "m", ""},
		{"it minds a resource", []Extender{saying(result{NodeNames: &[]string{"m"}}).extender(verbs("filter"), managing("cpu"))}, aPod("p", requests("cpu", "1")), "m", ""},
		{"of an init container", []Extender{saying(result{NodeNames: &[]string{"m"}}).extender(verbs("filter"), managing("cpu"))}, aPod("p", initContainer(false, "cpu", "1")), "m", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, d := world(two...), deciderBeside(tt.extenders...)
			dec := d.decide(c, d.classes.pending(tt.pod))
			got := dec.message()
			switch {
			case dec.err != nil:
				got = "error: " + dec.err.Error()
			case dec.node != nil:
				got = dec.node.name
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			var stays []string
			for i, n := range d.looked {
				if dec.node == nil && dec.err == nil && d.stays[i] {
					stays = append(stays, n.name)
				}
			}
			if slices.Sort(stays); strings.Join(stays, " ") != tt.stays {
				t.Errorf("no pod's leaving would help on %v, want %s", stays, tt.stays)
			}
			if dec.node == nil && dec.err == nil && !d.helps(c, pending(tt.pod), dec.refused, &event{what: namespaceChanged}) {
				t.Error("an event of any sort may help, and is not tried")
			}
		})
	}
}

// Those that may fail are asked last, and an extender is asked again about each
// pod of a class that fits nowhere.
func TestExtendersAreAskedEachTime(t *testing.T) {
	var order []string
	noting := func(name string, left ...string) *talk {
		return &talk{verbs: map[string]func(map[string]any) (any, error){"filter": func(args map[string]any) (any, error) {
			order = append(order, name)
			if len(args["NodeNames"].([]any)) == 0 || args["Nodes"] != nil || args["Pod"].(map[string]any)["metadata"].(map[string]any)["name"] == "" {
				t.Errorf("asked with %v", args)
			}
			return extenderv1.ExtenderFilterResult{NodeNames: &left}, nil
		}}}
	}
	last := noting("may fail")
	c, d := world(aNode("n"), aNode("m")), deciderBeside(last.extender(verbs("filter"), ignorable), noting("must not", "n").extender(verbs("filter")))
	for i := range 3 {
		if dec := d.decide(c, d.classes.pending(aPod(string(rune('a'+i))))); dec.node != nil {
			t.Fatalf("%+v", dec)
		}
	}
	if want := "must not,may fail,must not,may fail,must not,may fail"; strings.Join(order, ",") != want {
		t.Errorf("asked %v", order)
	}
	last.verbs["filter"] = func(map[string]any) (any, error) {
		return extenderv1.ExtenderFilterResult{NodeNames: &[]string{"n"}}, nil
	}
	if dec := d.decide(c, d.classes.pending(aPod("z"))); dec.node == nil || dec.node.name != "n" {
		t.Errorf("a change of the extender's mind is not seen: %s", dec.message())
	}
}

func TestExtenderScores(t *testing.T) {
	scoring := func(kv ...any) *talk {
		var l extenderv1.HostPriorityList
		for i := 0; i < len(kv); i += 2 {
			l = append(l, extenderv1.HostPriority{Host: kv[i].(string), Score: int64(kv[i+1].(int))})
		}
		return &talk{verbs: map[string]func(map[string]any) (any, error){"prioritize": func(map[string]any) (any, error) { return l, nil }}}
	}
	weighing := func(w int64) func(*configv1.Extender) { return func(e *configv1.Extender) { e.Weight = w } }
	for _, tt := range []struct {
		name      string
		extenders []Extender
		want      []float64 // what is added for m and n
	}{
		{"10 is our 100", []Extender{scoring("m", 10, "n", 1).extender(verbs("prioritize"))}, []float64{100, 10}},
		{"weights", []Extender{scoring("m", 10).extender(verbs("prioritize"), weighing(3)), scoring("n", 2).extender(verbs("prioritize"), weighing(5))}, []float64{300, 100}},
		{"strangers do not matter", []Extender{scoring("k", 10, "n", 1).extender(verbs("prioritize"))}, []float64{0, 10}},
		{"one that fails gives nothing", []Extender{failing().extender(verbs("prioritize")), scoring("n", 1).extender(verbs("prioritize"))}, []float64{0, 10}},
		{"one that is not asked", []Extender{scoring("n", 1).extender(verbs("prioritize"), managing("x.y/gpu"))}, []float64{0, 0}},
		{"one without the verb", []Extender{scoring("n", 1).extender()}, []float64{0, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, d := world(aNode("m"), aNode("n")), deciderBeside(tt.extenders...)
			p := pending(aPod("p"))
			got := make([]float64, 2)
			d.outside.score(d.cycle(c, p, d.classes.of(p)), []*node{c.byName["m"], c.byName["n"]}, got)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	// It outweighs our own scores.
	c, d := world(aNode("m"), aNode("n", has("cpu", "64"))), deciderBeside(scoring("m", 10).extender(verbs("prioritize"), weighing(10)))
	if dec := d.decide(c, pending(aPod("p", requests("cpu", "2")))); dec.node == nil || dec.node.name != "m" {
		t.Errorf("%+v", dec)
	}
}

func TestExtenderPreempts(t *testing.T) {
	full := requests("cpu", "4")
	objects := []any{aNode("m"), aNode("n"), aPod("x", on("m"), full), aPod("y", on("n"), full), aPod("z", on("n"))}
	type rooms = map[string]*extenderv1.MetaVictims
	answering := func(r rooms) *talk {
		return &talk{verbs: map[string]func(map[string]any) (any, error){"preempt": func(map[string]any) (any, error) {
			return extenderv1.ExtenderPreemptionResult{NodeNameToMetaVictims: r}, nil
		}}}
	}
	victims := func(names ...string) *extenderv1.MetaVictims {
		v := &extenderv1.MetaVictims{}
		for _, n := range names {
			v.Pods = append(v.Pods, &extenderv1.MetaPod{UID: n + "-uid"})
		}
		return v
	}
	for _, tt := range []struct {
		name      string
		extenders []Extender
		room, why string
	}{
		{"a node", []Extender{answering(rooms{"n": victims("y")}).extender(verbs("preempt"))}, "n: y", "found a potential placement for pod on node n, preempting 1 victims"},
		{"other victims", []Extender{answering(rooms{"n": victims("z", "y")}).extender(verbs("preempt"))}, "n: y z", "found a potential placement for pod on node n, preempting 2 victims"},
		{"none", []Extender{answering(rooms{}).extender(verbs("preempt"))}, "", "no candidate node for preemption"},
		{"no victims", []Extender{answering(rooms{"n": victims()}).extender(verbs("preempt"))}, "", `expected at least one victim pod on node "n"`},
		{"no victims, and it may", []Extender{answering(rooms{"n": victims(), "m": victims("x")}).extender(verbs("preempt"), ignorable)}, "m: x", "found a potential placement for pod on node m, preempting 1 victims"},
		{"a pod of elsewhere", []Extender{answering(rooms{"n": victims("x")}).extender(verbs("preempt"))}, "", "extender: http://x claims to preempt pod (UID: &{x-uid}) on node: n, but the pod is not found on that node"},
		{"a stranger", []Extender{answering(rooms{"k": victims("x")}).extender(verbs("preempt"))}, "", `extender: http://x claims to preempt pods on node "k", which is not found`},
		{"it fails", []Extender{failing().extender(verbs("preempt"))}, "", "no answer"},
		{"it fails and may", []Extender{failing().extender(verbs("preempt"), ignorable), answering(rooms{"m": victims("x")}).extender(verbs("preempt"))}, "m: x", "found a potential placement for pod on node m, preempting 1 victims"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dec := deciderBeside(tt.extenders...).decide(world(objects...), pending(aPod("p", full, priority(1))))
			if got := roomText(dec.room); got != tt.room || dec.preemption != tt.why {
				t.Errorf("room %q, says %s\nwant %q, %s", got, dec.preemption, tt.room, tt.why)
			}
		})
	}
	// What it is asked with: names if it knows the nodes, or whole pods.
	for _, whole := range []bool{false, true} {
		asked := &talk{verbs: map[string]func(map[string]any) (any, error){"preempt": func(args map[string]any) (any, error) {
			a, b := args["NodeNameToMetaVictims"], args["NodeNameToVictims"]
			if (a == nil) != whole || (b == nil) == whole {
				t.Errorf("asked with %v", args)
			}
			return extenderv1.ExtenderPreemptionResult{}, nil
		}}}
		o := func(e *configv1.Extender) { e.NodeCacheCapable = !whole }
		deciderBeside(asked.extender(verbs("preempt"), o)).decide(world(objects...), pending(aPod("p", full, priority(1))))
		if len(asked.asked) != 1 {
			t.Errorf("asked %v", asked.asked)
		}
	}
}

// The node for which others had to go is taken if the extender agrees, and a
// failure there means that all nodes are looked at.
func TestExtenderAgreesToTheNominatedNode(t *testing.T) {
	for want, answer := range map[string]func(args map[string]any) (any, error){
		"n": func(args map[string]any) (any, error) { return args, nil },
		"m": func(args map[string]any) (any, error) {
			if names := args["NodeNames"].([]any); len(names) == 1 {
				return nil, errors.New("no")
			}
			return extenderv1.ExtenderFilterResult{NodeNames: &[]string{"m"}}, nil
		},
	} {
		c := world(aNode("m"), aNode("n"))
		p := pending(aPod("p"))
		c.nominate(p, "n")
		d := deciderBeside((&talk{verbs: map[string]func(map[string]any) (any, error){"filter": answer}}).extender(verbs("filter")))
		if dec := d.decide(c, p); dec.node == nil || dec.node.name != want {
			t.Errorf("%+v, want %s", dec, want)
		}
	}
}

// In the loop: a failure is told as the scheduler's, and tried again; a binding
// is the extender's to make, and ours if it fails and may.
func TestExtenderInTheLoop(t *testing.T) {
	l := newLoop(t, aNode("n"))
	up := false
	ext := &talk{}
	ext.verbs = map[string]func(map[string]any) (any, error){
		"filter": func(args map[string]any) (any, error) {
			if !up {
				return nil, errors.New("not up yet")
			}
			return map[string]any{"NodeNames": args["NodeNames"]}, nil
		},
		"bind": func(args map[string]any) (any, error) {
			switch args["PodName"] {
			case "refused":
				return extenderv1.ExtenderBindingResult{Error: "never"}, nil
			case "broken":
				return nil, errors.New("broken")
			}
			p := l.pod(args["PodName"].(string)).DeepCopy()
			p.Spec.NodeName = args["Node"].(string)
			l.put(p)
			return extenderv1.ExtenderBindingResult{}, nil
		},
	}
	start := func(opts ...func(*configv1.Extender)) {
		s, err := New(Config{View: l.View, Client: l.api, Events: l.events, Now: l.s.now, Rand: rand.New(rand.NewPCG(1, 1)), Extenders: []Extender{ext.extender(opts...)}})
		if err != nil {
			t.Fatal(err)
		}
		l.s = s
	}
	start(verbs("filter bind"))
	l.put(aPod("p"))
	l.steps()
	c := condition(l.pod("p"), corev1.PodScheduled)
	if c == nil || c.Reason != corev1.PodReasonSchedulerError || c.Message != "not up yet" || !strings.Contains(l.events.String(), "p Warning FailedScheduling: not up yet") {
		t.Fatalf("condition %+v, events %s", c, l.events)
	}
	up = true
	l.Now = l.Now.Add(11e9)
	l.steps()
	if got := l.pod("p").Spec.NodeName; got != "n" || !strings.Contains(l.events.String(), "Successfully assigned default/p to n") {
		t.Errorf("p is on %q; events %s", got, l.events)
	}
	l.put(aPod("refused"))
	l.steps()
	if got := l.pod("refused").Spec.NodeName; got != "" || !strings.Contains(l.events.String(), "cannot bind to n: never") {
		t.Errorf("refused is on %q; events %s", got, l.events)
	}
	l.s.Stop()
	start(verbs("filter bind"), ignorable)
	l.put(aPod("broken"))
	l.steps()
	if got := l.pod("broken").Spec.NodeName; got != "n" {
		t.Errorf("broken is on %q, though the extender may fail", got)
	}
}
