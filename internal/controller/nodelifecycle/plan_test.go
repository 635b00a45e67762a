package nodelifecycle

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) metav1.Time { return metav1.NewTime(noon.Add(d)) }

func node(name string, status corev1.ConditionStatus, opts ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), ResourceVersion: "7", CreationTimestamp: at(-time.Hour)}}
	if status != "" {
		n.Status.Conditions = []corev1.NodeCondition{
			{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse}, {Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse},
			{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse}, {Type: corev1.NodeReady, Status: status, LastHeartbeatTime: at(0)},
		}
		if status == corev1.ConditionUnknown {
			for i := range n.Status.Conditions {
				n.Status.Conditions[i].Status = status
			}
		}
	}
	for _, o := range opts {
		o(n)
	}
	return n
}

func taints(list ...string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		for _, s := range list {
			key, effect, _ := strings.Cut(s, ":")
			t := at(0)
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffect(effect), TimeAdded: &t})
		}
	}
}

func pressure(t corev1.NodeConditionType) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Conditions = append(slices.DeleteFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == t }), corev1.NodeCondition{Type: t, Status: corev1.ConditionTrue})
	}
}

const (
	unreachable = corev1.TaintNodeUnreachable
	notReady    = corev1.TaintNodeNotReady
	noSchedule  = ":NoSchedule"
	noExecute   = ":NoExecute"
)

func observed(n *corev1.Node, opts ...func(*Observed)) Observed {
	o := Observed{Node: n, Now: noon, LastSeen: noon, Census: Census{Ready: 3, NotReady: 1}, Limits: limits(Config{}),
		Since: func(t corev1.Taint) time.Time {
			if t.TimeAdded != nil {
				return t.TimeAdded.Time
			}
			return noon
		}}
	for _, f := range opts {
		f(&o)
	}
	return o
}

// describe writes what a plan does in words.
func describe(t *testing.T, res plan.Result) string {
	t.Helper()
	var out []string
	for _, a := range res.Actions {
		line := fmt.Sprintf("%s %s", a.Verb, a.Ref)
		if a.UID == "" {
			t.Errorf("%s without a UID", line)
		}
		if a.Verb == plan.Patch {
			var body struct {
				Spec   struct{ Taints []corev1.Taint }
				Status struct {
					Conditions []struct{ Type, Status, Reason string }
				}
			}
			if err := json.Unmarshal(a.Data, &body); err != nil {
				t.Fatal(err)
			}
			var parts []string
			for _, x := range body.Spec.Taints {
				parts = append(parts, x.Key+":"+string(x.Effect))
			}
			for _, c := range body.Status.Conditions {
				parts = append(parts, c.Type+"="+c.Status+"/"+c.Reason)
			}
			line += " [" + strings.Join(parts, " ") + "]"
		}
		if a.Event != nil {
			line += " event " + a.Event.Reason
		}
		out = append(out, line)
	}
	if res.After > 0 {
		out = append(out, "after "+res.After.String())
	}
	return strings.Join(out, "\n")
}

func silent(o *Observed) { o.LastSeen = noon.Add(-41 * time.Second) }

func TestSilenceAndTaints(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    Observed
		want string
	}{
		{"well", observed(node("n", corev1.ConditionTrue)), "after 40s"},
		{"heard of 30 s ago", observed(node("n", corev1.ConditionTrue), func(o *Observed) { o.LastSeen = noon.Add(-30 * time.Second) }), "after 10s"},
		{"silent", observed(node("n", corev1.ConditionTrue), silent),
			"patch nodes n/status [Ready=Unknown/NodeStatusUnknown MemoryPressure=Unknown/NodeStatusUnknown DiskPressure=Unknown/NodeStatusUnknown PIDPressure=Unknown/NodeStatusUnknown] event NodeNotReady"},
		{"new and silent", observed(node("n", ""), func(o *Observed) { o.Never, o.LastSeen = true, noon.Add(-59*time.Second) }), "patch nodes n [node.kubernetes.io/not-ready:NoSchedule]\nafter 1s"},
		{"never heard of", observed(node("n", "", taints(notReady+noSchedule)), func(o *Observed) { o.Never, o.LastSeen = true, noon.Add(-time.Minute) }),
			"patch nodes n/status [Ready=Unknown/NodeStatusNeverUpdated MemoryPressure=Unknown/NodeStatusNeverUpdated DiskPressure=Unknown/NodeStatusNeverUpdated PIDPressure=Unknown/NodeStatusNeverUpdated]"},
		{"unknown", observed(node("n", corev1.ConditionUnknown), silent), "patch nodes n [node.kubernetes.io/unreachable:NoSchedule node.kubernetes.io/unreachable:NoExecute]"},
		{"not ready", observed(node("n", corev1.ConditionFalse)), "patch nodes n [node.kubernetes.io/not-ready:NoSchedule node.kubernetes.io/not-ready:NoExecute]\nafter 40s"},
		{"not ready any more but unknown", observed(node("n", corev1.ConditionUnknown, taints(notReady+noSchedule, notReady+noExecute)), silent), "patch nodes n [node.kubernetes.io/unreachable:NoSchedule node.kubernetes.io/unreachable:NoExecute]"},
		{"tainted as it should be", observed(node("n", corev1.ConditionFalse, taints(notReady+noExecute, notReady+noSchedule))), "after 40s"},
		{"well again", observed(node("n", corev1.ConditionTrue, taints("mine:NoExecute", notReady+noSchedule, unreachable+noExecute))), "patch nodes n [mine:NoExecute]\nafter 40s"},
		{"pressures", observed(node("n", corev1.ConditionTrue, pressure(corev1.NodeMemoryPressure), pressure(corev1.NodeDiskPressure), pressure(corev1.NodePIDPressure), pressure(corev1.NodeNetworkUnavailable))),
			"patch nodes n [node.kubernetes.io/memory-pressure:NoSchedule node.kubernetes.io/disk-pressure:NoSchedule node.kubernetes.io/pid-pressure:NoSchedule node.kubernetes.io/network-unavailable:NoSchedule]\nafter 40s"},
		{"pressure gone", observed(node("n", corev1.ConditionTrue, taints(corev1.TaintNodeDiskPressure+noSchedule))), "patch nodes n []\nafter 40s"},
		{"cordoned", observed(node("n", corev1.ConditionTrue, func(n *corev1.Node) { n.Spec.Unschedulable = true })), "patch nodes n [node.kubernetes.io/unschedulable:NoSchedule]\nafter 40s"},
		{"being deleted", observed(node("n", corev1.ConditionTrue, func(n *corev1.Node) { n.DeletionTimestamp = &metav1.Time{} }), silent), ""},

		{"alone", observed(node("n", corev1.ConditionFalse), func(o *Observed) { o.Census = Census{NotReady: 1} }), "patch nodes n [node.kubernetes.io/not-ready:NoSchedule]\nafter 40s"},
		{"none is ready any more", observed(node("n", corev1.ConditionFalse, taints(notReady+noSchedule, notReady+noExecute)), func(o *Observed) { o.Census = Census{NotReady: 2} }), "patch nodes n [node.kubernetes.io/not-ready:NoSchedule]\nafter 40s"},
		{"one of two", observed(node("n", corev1.ConditionFalse), func(o *Observed) { o.Census = Census{Ready: 1, NotReady: 1} }), "patch nodes n [node.kubernetes.io/not-ready:NoSchedule node.kubernetes.io/not-ready:NoExecute]\nafter 40s"},
		{"most of a small cluster", observed(node("n", corev1.ConditionFalse, taints(notReady+noSchedule)), func(o *Observed) { o.Census = Census{Ready: 2, NotReady: 3} }), "after 40s"},
		{"most of a small cluster, given up before", observed(node("n", corev1.ConditionFalse, taints(notReady+noSchedule, notReady+noExecute)), func(o *Observed) { o.Census = Census{Ready: 2, NotReady: 3} }), "after 40s"},
		{"another was given up 4 s ago", observed(node("n", corev1.ConditionFalse, taints(notReady+noSchedule)), func(o *Observed) { o.Census.LastEviction = noon.Add(-4 * time.Second) }), "after 6s"},
		{"another was given up 10 s ago", observed(node("n", corev1.ConditionFalse, taints(notReady+noSchedule)), func(o *Observed) { o.Census.LastEviction = noon.Add(-10 * time.Second) }),
			"patch nodes n [node.kubernetes.io/not-ready:NoSchedule node.kubernetes.io/not-ready:NoExecute]\nafter 40s"},
		{"most of a large cluster", observed(node("n", corev1.ConditionFalse, taints(notReady+noSchedule)), func(o *Observed) {
			o.Census = Census{Ready: 20, NotReady: 40, LastEviction: noon.Add(-90 * time.Second)}
		}), "after 10s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := describe(t, Plan(tt.o)); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func pod(name string, opts ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), CreationTimestamp: at(-time.Hour)},
		Spec:       corev1.PodSpec{NodeName: "n"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
	for _, o := range opts {
		o(p)
	}
	return p
}

// tolerating a key; below zero seconds: for ever.
func tolerating(key string, seconds int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds}
		if seconds < 0 {
			t.TolerationSeconds = nil
		}
		p.Spec.Tolerations = append(p.Spec.Tolerations, t)
	}
}

const evicted = "patch pods default/p/status [DisruptionTarget=True/DeletionByTaintManager]\ndelete pods default/p event TaintManagerEviction"

func TestEviction(t *testing.T) {
	tainted := func(list ...string) *corev1.Node { return node("n", corev1.ConditionTrue, taints(list...)) }
	later := func(d time.Duration) func(*Observed) {
		return func(o *Observed) { o.Now, o.LastSeen = noon.Add(d), noon.Add(d) }
	}
	for _, tt := range []struct {
		name string
		node *corev1.Node
		pod  *corev1.Pod
		opts []func(*Observed)
		want string
	}{
		{"no toleration", tainted("a:NoExecute"), pod("p"), nil, evicted + "\nafter 40s"},
		{"only NoSchedule", tainted("a:NoSchedule"), pod("p"), nil, "after 40s"},
		{"for ever", tainted("a:NoExecute"), pod("p", tolerating("a", -1)), nil, "after 40s"},
		{"for a while", tainted("a:NoExecute"), pod("p", tolerating("a", 30)), nil, "after 30s"},
		{"for a while yet", tainted("a:NoExecute"), pod("p", tolerating("a", 300)), []func(*Observed){later(280 * time.Second)}, "after 20s"},
		{"for a while that is over", tainted("a:NoExecute"), pod("p", tolerating("a", 300)), []func(*Observed){later(300 * time.Second)}, evicted + "\nafter 40s"},
		{"not at all", tainted("a:NoExecute"), pod("p", tolerating("a", 0)), nil, evicted + "\nafter 40s"},
		{"a huge number", tainted("a:NoExecute"), pod("p", tolerating("a", 1<<62)), nil, "after 40s"},
		{"one of two taints", tainted("a:NoExecute", "b:NoExecute"), pod("p", tolerating("a", -1)), nil, evicted + "\nafter 40s"},
		{"the shorter of two", tainted("a:NoExecute", "b:NoExecute"), pod("p", tolerating("a", 20), tolerating("b", 10)), nil, "after 10s"},
		{"the first toleration counts", tainted("a:NoExecute"), pod("p", tolerating("a", 20), tolerating("a", -1)), nil, "after 20s"},
		{"a pod that came after the taint", tainted("a:NoExecute"), pod("p", tolerating("a", 30), func(p *corev1.Pod) { p.CreationTimestamp = at(10 * time.Second) }), []func(*Observed){later(30 * time.Second)}, "after 10s"},
		{"is ending", tainted("a:NoExecute"), pod("p", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }), nil, "after 40s"},
		{"has ended", tainted("a:NoExecute"), pod("p", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), nil, "after 40s"},
		{"is marked", tainted("a:NoExecute"), pod("p", func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}
		}), nil, "delete pods default/p event TaintManagerEviction\nafter 40s"},
		{"of a silent node", node("n", corev1.ConditionUnknown, taints(unreachable+noSchedule, unreachable+noExecute)), pod("p", tolerating(unreachable, 300)), []func(*Observed){silent},
			"patch pods default/p/status [Ready=False/NodeNotReady] event NodeNotReady\nafter 5m0s"},
		{"of a silent node, out of service already", node("n", corev1.ConditionUnknown, taints(unreachable+noSchedule, unreachable+noExecute)),
			pod("p", tolerating(unreachable, 300), func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }), []func(*Observed){silent}, "after 5m0s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := observed(tt.node, tt.opts...)
			o.Pods = []*corev1.Pod{tt.pod}
			if got := describe(t, Plan(o)); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func lease(name string, renewed time.Time) *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: LeaseNamespace, Name: name}, Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: renewed}}}
}

// The memory of heartbeats: a wrong clock of the node does not matter, nor do
// heartbeats that are old because nobody could take them.
func TestLastSeen(t *testing.T) {
	n := node("n", corev1.ConditionTrue)
	for _, tt := range []struct {
		name  string
		beats []time.Duration // the heartbeat's time by the node's clock, looked at every 30 s by ours
		want  time.Duration   // when it was last seen, from the last look back
	}{
		{"first", []time.Duration{0}, 0},
		{"first, old", []time.Duration{-time.Hour}, 0},
		{"on time", []time.Duration{0, 25 * time.Second, 55 * time.Second}, 5 * time.Second},
		{"silent", []time.Duration{0, 0, 0}, 60 * time.Second},
		{"clock an hour behind", []time.Duration{-time.Hour, 25*time.Second - time.Hour, 55*time.Second - time.Hour}, 5 * time.Second},
		{"clock an hour ahead and silent", []time.Duration{time.Hour, time.Hour}, 30 * time.Second},
		{"clock set forward", []time.Duration{0, 25 * time.Second, 55*time.Second + time.Hour}, 0},
		{"clock set back", []time.Duration{time.Hour, 25*time.Second + time.Hour, 55 * time.Second}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &memory{nodes: map[string]*sighting{}}
			var seen, now time.Time
			for i, b := range tt.beats {
				now = noon.Add(time.Duration(i) * 30 * time.Second)
				seen, _ = m.lastSeen(n, noon.Add(b), now)
			}
			if got := now.Sub(seen); got != tt.want {
				t.Errorf("last seen %v ago, want %v", got, tt.want)
			}
		})
	}
	if at, never := (&memory{nodes: map[string]*sighting{}}).lastSeen(n, time.Time{}, noon); !never || !at.Equal(n.CreationTimestamp.Time) {
		t.Error("a node that never reported counts from its creation")
	}
}

// Three nodes, one falls silent: its pods go out of service when the grace is
// over and are deleted when they tolerate it no longer; the others' stay. A
// node that comes back in time keeps its pods.
func TestSilentNodeIsGivenUp(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.Node, kinds.Pod, kinds.Lease}, view.PodsByNode)
	w.Now = noon
	for _, name := range []string{"n", "a", "b"} {
		w.Put(kinds.Node, node(name, corev1.ConditionTrue))
		w.Put(kinds.Lease, lease(name, noon))
		w.Put(kinds.Pod, pod("on-"+name, func(p *corev1.Pod) { p.Spec.NodeName = name }, tolerating(unreachable, 300)))
	}
	c := Controller(Config{})
	var r driver
	r.start(t, w, c)
	for s := 0; s < 400; s += 10 {
		w.Now = noon.Add(time.Duration(s) * time.Second)
		for _, name := range []string{"a", "b"} {
			w.Put(kinds.Lease, lease(name, w.Now))
		}
		if s <= 20 {
			w.Put(kinds.Lease, lease("n", w.Now))
		}
		r.rest(t)
		p := w.Object(kinds.Pod, "default", "on-n")
		serving := p != nil && podCondition(p.(*corev1.Pod), corev1.PodReady).Status == corev1.ConditionTrue
		if wantServing := s < 70; s != 60 && serving != wantServing {
			t.Fatalf("after %d s serving is %v", s, serving)
		}
		if gone := p == nil; s != 360 && gone != (s > 360) {
			t.Fatalf("after %d s gone is %v", s, gone)
		}
	}
	for _, name := range []string{"on-a", "on-b"} {
		if p := w.Object(kinds.Pod, "default", name); p == nil || podCondition(p.(*corev1.Pod), corev1.PodReady).Status != corev1.ConditionTrue {
			t.Errorf("%s suffers too", name)
		}
	}
	// It comes back.
	w.Put(kinds.Node, func() *corev1.Node {
		n := w.Object(kinds.Node, "", "n").DeepCopyObject().(*corev1.Node)
		for i := range n.Status.Conditions {
			n.Status.Conditions[i].Status = corev1.ConditionFalse
		}
		c := condition(n, corev1.NodeReady)
		c.Status, c.LastHeartbeatTime = corev1.ConditionTrue, metav1.NewTime(w.Now)
		return n
	}())
	r.rest(t)
	if ts := w.Object(kinds.Node, "", "n").(*corev1.Node).Spec.Taints; len(ts) > 0 {
		t.Errorf("taints stay: %v", ts)
	}
}

// The control plane comes back after an hour: every heartbeat is old, and no
// node loses anything for it.
func TestRestartGivesNodesTime(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.Node, kinds.Pod, kinds.Lease}, view.PodsByNode)
	w.Now = noon.Add(time.Hour)
	for _, name := range []string{"a", "b"} {
		w.Put(kinds.Node, node(name, corev1.ConditionTrue))
		w.Put(kinds.Lease, lease(name, noon))
	}
	var r driver
	r.start(t, w, Controller(Config{}))
	r.rest(t)
	if len(w.Writes) > 0 {
		t.Fatalf("writes %v right after the start", w.Writes)
	}
	w.Now = w.Now.Add(41 * time.Second)
	r.rest(t)
	if len(w.Writes) == 0 {
		t.Fatal("nothing happens to nodes that stay silent")
	}
}

// All nodes fall silent at once: it is us. Nothing is evicted, whatever the
// order in which they are looked at, and however long it lasts.
func TestAllSilentEvictsNothing(t *testing.T) {
	for seed := range uint64(10) {
		w := reconciletest.New([]*kinds.Kind{kinds.Node, kinds.Pod, kinds.Lease}, view.PodsByNode)
		w.Now = noon
		for i := range 5 {
			name := fmt.Sprint("n", i)
			w.Put(kinds.Node, node(name, corev1.ConditionTrue))
			w.Put(kinds.Lease, lease(name, noon))
			w.Put(kinds.Pod, pod("on-"+name, func(p *corev1.Pod) { p.Spec.NodeName = name }, tolerating(unreachable, 300)))
		}
		if _, err := w.Drive(seed, 1000, time.Hour, Controller(Config{})); err != nil {
			t.Fatal(err)
		}
		if n := len(w.Objects(kinds.Pod)); n != 5 {
			t.Errorf("seed %d: %d pods are left of 5", seed, n)
		}
		for _, o := range w.Objects(kinds.Node) {
			if ready(o.(*corev1.Node)) != corev1.ConditionUnknown {
				t.Errorf("%s is not marked", o.GetName())
			}
		}
	}
}

// A taint that a user sets is acted on at once, and pods that come later too.
func TestUsersTaint(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.Node, kinds.Pod, kinds.Lease}, view.PodsByNode)
	w.Now = noon
	w.Put(kinds.Node, node("n", corev1.ConditionTrue))
	w.Put(kinds.Lease, lease("n", noon))
	w.Put(kinds.Pod, pod("p"))
	w.Put(kinds.Pod, pod("q", tolerating("k", 20)))
	var r driver
	r.start(t, w, Controller(Config{}))
	r.rest(t)
	n := w.Object(kinds.Node, "", "n").DeepCopyObject().(*corev1.Node)
	n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoExecute}} // kubectl sets no time
	w.Put(kinds.Node, n)
	r.rest(t)
	if w.Object(kinds.Pod, "default", "p") != nil || w.Object(kinds.Pod, "default", "q") == nil {
		t.Fatal("only the pod without a toleration goes at once")
	}
	w.Put(kinds.Pod, pod("late"))
	r.rest(t)
	if w.Object(kinds.Pod, "default", "late") != nil {
		t.Error("a pod that came after the taint stays")
	}
	w.Now = noon.Add(20 * time.Second)
	r.rest(t)
	if w.Object(kinds.Pod, "default", "q") != nil {
		t.Error("the pod stays although its time is up")
	}
}
