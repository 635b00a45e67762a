package daemonset

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/history"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/plan"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

type setOption func(*appsv1.DaemonSet)

func set(opts ...setOption) *appsv1.DaemonSet {
	l := map[string]string{"app": "agent"}
	s := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "agent", UID: "set", Generation: 1, Annotations: map[string]string{appsv1.DeprecatedTemplateGeneration: "9"}},
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l, Annotations: map[string]string{"a": "b"}},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}}},
	}
	defaults.DaemonSet(s)
	for _, o := range opts {
		o(s)
	}
	return s
}

func image(v string) setOption {
	return func(s *appsv1.DaemonSet) { s.Spec.Template.Spec.Containers[0].Image = v }
}
func onDelete(s *appsv1.DaemonSet) {
	s.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
}
func gone(s *appsv1.DaemonSet) { s.DeletionTimestamp = &metav1.Time{Time: now} }
func slow(n int32) setOption   { return func(s *appsv1.DaemonSet) { s.Spec.MinReadySeconds = n } }
func historyLimit(n int32) setOption {
	return func(s *appsv1.DaemonSet) { s.Spec.RevisionHistoryLimit = &n }
}
func hostNetwork(s *appsv1.DaemonSet) { s.Spec.Template.Spec.HostNetwork = true }
func picky(s *appsv1.DaemonSet) {
	s.Spec.Template.Spec.NodeSelector = map[string]string{"kind": "good"}
}
func only(node string) setOption {
	return func(s *appsv1.DaemonSet) { s.Spec.Template.Spec.NodeName = node }
}
func unavailable(v intstr.IntOrString) setOption {
	return func(s *appsv1.DaemonSet) { s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = &v }
}
func surge(v intstr.IntOrString) setOption {
	return func(s *appsv1.DaemonSet) {
		none := intstr.FromInt32(0)
		s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable, s.Spec.UpdateStrategy.RollingUpdate.MaxSurge = &none, &v
	}
}

// revision that a set with that image writes.
func revision(v string, number int64) *appsv1.ControllerRevision {
	s := set(image(v))
	p := history.Subject{Kind: kinds.DaemonSet, Set: s, Template: &s.Spec.Template, HashLabel: appsv1.ControllerRevisionHashLabelKey,
		Named: func(string) *appsv1.ControllerRevision { return nil }}.Present(nil)
	p.Revision.Revision, p.Revision.UID = number, types.UID("r-"+v)
	return p.Revision
}

func hash(v string) string { return revision(v, 1).Labels[appsv1.ControllerRevisionHashLabelKey] }

type nodeOption func(*corev1.Node)

func node(name string, opts ...nodeOption) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kind": "good"}}}
	for _, o := range opts {
		o(n)
	}
	return n
}

func bad(n *corev1.Node) { n.Labels["kind"] = "bad" }
func tainted(key string, effect corev1.TaintEffect) nodeOption {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect}) }
}

type podOption func(*corev1.Pod)

// pod of the set on a node, of revision v1, available.
func pod(name, node string, opts ...podOption) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("u-" + name), CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
			Labels:          map[string]string{"app": "agent", appsv1.ControllerRevisionHashLabelKey: hash("v1")},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set(), kinds.DaemonSet.GVK)}},
		Spec: corev1.PodSpec{NodeName: node, Affinity: bind(nil, node)},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}},
	}
	for _, o := range opts {
		o(p)
	}
	return p
}

func of(v string) podOption {
	return func(p *corev1.Pod) { p.Labels[appsv1.ControllerRevisionHashLabelKey] = hash(v) }
}
func generation(n string) podOption { return func(p *corev1.Pod) { p.Labels[generationLabel] = n } }
func unready(p *corev1.Pod)         { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func unbound(p *corev1.Pod) {
	p.Spec.NodeName, p.Status.Phase = "", corev1.PodPending
	unready(p)
}
func failed(p *corev1.Pod)    { p.Status.Phase = corev1.PodFailed; unready(p) }
func succeeded(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded; unready(p) }
func deleting(p *corev1.Pod)  { p.DeletionTimestamp = &metav1.Time{Time: now} }
func orphan(p *corev1.Pod)    { p.OwnerReferences = nil }
func other(p *corev1.Pod)     { p.Labels["app"] = "other" }
func young(p *corev1.Pod)     { p.CreationTimestamp = metav1.NewTime(now) }
func readyFor(d time.Duration) podOption {
	return func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-d)) }
}

func observed(s *appsv1.DaemonSet, things ...any) Observed {
	n := 0
	o := Observed{Set: s, Now: now, Wait: map[types.UID]time.Duration{}, Suffix: func() string { n++; return fmt.Sprintf("s%04d", n) }}
	for _, t := range things {
		switch t := t.(type) {
		case *corev1.Pod:
			if metav1.GetControllerOf(t) == nil {
				o.Orphans = append(o.Orphans, t)
			} else {
				o.Owned = append(o.Owned, t)
			}
		case *appsv1.ControllerRevision:
			o.Revisions = append(o.Revisions, t)
		case *corev1.Node:
			o.Nodes = append(o.Nodes, t)
		}
	}
	o.Revision = func(name string) *appsv1.ControllerRevision {
		for _, r := range o.Revisions {
			if r.Name == name {
				return r
			}
		}
		return nil
	}
	return o
}

// summary of actions, without the status: "create n1 v1", "delete a".
func summary(res plan.Result) []string {
	var out []string
	for _, a := range res.Actions {
		switch o := a.Object.(type) {
		case *corev1.Pod:
			out = append(out, fmt.Sprintf("create %s %s", target(o), o.Spec.Containers[0].Image))
		case *appsv1.ControllerRevision:
			out = append(out, fmt.Sprintf("%s revision %d", a.Verb, o.Revision))
		case *appsv1.DaemonSet:
		default:
			switch {
			case a.Verb == plan.Patch && strings.Contains(string(a.Data), "$patch"):
				out = append(out, "release "+a.Ref.Name)
			case a.Verb == plan.Patch && strings.Contains(string(a.Data), "labels"):
				out = append(out, "relabel "+a.Ref.Name)
			case a.Verb == plan.Patch:
				out = append(out, "adopt "+a.Ref.Name)
			default:
				out = append(out, string(a.Verb)+" "+a.Ref.Name)
			}
		}
	}
	return out
}

func reasons(res plan.Result) (out []string) {
	for _, e := range res.Events {
		out = append(out, e.Reason)
	}
	return out
}

func TestPlan(t *testing.T) {
	r1, r2 := revision("v1", 1), revision("v2", 2)
	n1, n2, n3 := node("n1"), node("n2"), node("n3")
	v2 := image("v2")
	one, two, half := intstr.FromInt32(1), intstr.FromInt32(2), intstr.FromString("50%")
	twin := revision("v1", 2)
	twin.Name = "agent-twin"
	twin.Labels = map[string]string{appsv1.ControllerRevisionHashLabelKey: "twin"}
	bare := revision("v1", 1)
	bare.Labels = nil
	waiting := observed(set(), r1, n1, pod("a", "n1", failed))
	waiting.Wait["u-a"] = 8 * time.Second
	everything := set()
	everything.Spec.Selector = &metav1.LabelSelector{}
	for _, tt := range []struct {
		name string
		in   Observed
		want []string
	}{
		{"one pod per node, with a revision", observed(set(), n1, n2), []string{"create revision 1", "create n1 v1", "create n2 v1"}},
		{"where one is missing", observed(set(), r1, n1, n2, pod("a", "n1")), []string{"create n2 v1"}},
		{"one that waits for the scheduler counts", observed(set(), r1, n1, pod("a", "n1", unbound)), nil},
		{"one that goes counts", observed(set(), r1, n1, pod("a", "n1", deleting)), nil},
		{"unless it has ended", observed(set(), r1, n1, pod("a", "n1", deleting, failed)), []string{"create n1 v1"}},
		{"only one: the older stays", observed(set(), r1, n1, pod("a", "n1", young), pod("b", "n1")), []string{"delete a"}},
		{"only one: the bound one stays", observed(set(), r1, n1, pod("a", "n1", unbound), pod("b", "n1", young)), []string{"delete a"}},
		{"a failed one", observed(set(), r1, n1, pod("a", "n1", failed)), []string{"delete a"}},
		{"a failed one that waits", waiting, nil},
		{"a succeeded one", observed(set(), r1, n1, pod("a", "n1", succeeded)), []string{"delete a"}},
		{"a node that is not fit", observed(set(picky), revision("v1", 1), node("n1", bad), n2), []string{"create revision 2", "create n2 v1"}},
		{"a node that is not fit any more", observed(set(picky, onDelete), node("n1", bad), pod("a", "n1"), pod("b", "n1", deleting)), []string{"create revision 1", "delete a"}},
		{"the template names the node", observed(set(only("n2"), onDelete), n1, n2, pod("a", "n1")), []string{"create revision 1", "create n2 v1", "delete a"}},
		{"a taint keeps new pods away", observed(set(), r1, node("n1", tainted("x", "NoSchedule")), node("n2", tainted("x", "NoSchedule")), pod("a", "n1")), nil},
		{"a taint drives pods away", observed(set(), r1, node("n1", tainted("x", "NoSchedule"), tainted("y", "NoExecute")), pod("a", "n1")), []string{"delete a"}},
		{"a taint that does not count", observed(set(), r1, node("n1", tainted("x", "PreferNoSchedule"))), []string{"create n1 v1"}},
		{"a node in trouble", observed(set(), r1, node("n1", tainted(corev1.TaintNodeNotReady, "NoExecute"), tainted(corev1.TaintNodeUnschedulable, "NoSchedule"), tainted(corev1.TaintNodeMemoryPressure, "NoSchedule"))), []string{"create n1 v1"}},
		{"a node without network", observed(set(), r1, node("n1", tainted(corev1.TaintNodeNetworkUnavailable, "NoSchedule"))), nil},
		{"with the host's network", observed(set(hostNetwork), node("n1", tainted(corev1.TaintNodeNetworkUnavailable, "NoSchedule"))), []string{"create revision 1", "create n1 v1"}},
		{"a node that is gone", observed(set(), r1, pod("a", "gone", unbound), pod("b", "gone")), []string{"delete a"}},

		{"a new template: the first", observed(set(v2), r1, n1, n2, pod("a", "n1"), pod("b", "n2")), []string{"create revision 2", "delete a"}},
		{"made anew", observed(set(v2), r1, r2, n1, n2, pod("b", "n2")), []string{"create n1 v2"}},
		{"waits for the new one", observed(set(v2), r1, r2, n1, n2, pod("a", "n1", of("v2"), unready), pod("b", "n2")), nil},
		{"and for it to be available", observed(set(v2, slow(60)), r1, r2, n1, n2, pod("a", "n1", of("v2"), readyFor(time.Second)), pod("b", "n2")), nil},
		{"goes on", observed(set(v2), r1, r2, n1, n2, pod("a", "n1", of("v2")), pod("b", "n2")), []string{"delete b"}},
		{"half of the nodes", observed(set(v2, unavailable(half)), r1, r2, n1, n2, n3, pod("a", "n1"), pod("b", "n2"), pod("c", "n3")), []string{"delete a", "delete b"}},
		{"what is no good goes first, and beyond the bound", observed(set(v2), r1, r2, n1, n2, n3, pod("a", "n1"), pod("b", "n2", unready), pod("c", "n3", unready)), []string{"delete b", "delete c"}},
		{"by generation, too", observed(set(v2), r1, r2, n1, pod("a", "n1", generation("9"))), nil},
		{"on delete", observed(set(v2, onDelete), r1, r2, n1, n2, pod("a", "n1")), []string{"create n2 v2"}},
		{"rollback", observed(set(), r1, r2, n1, n2, pod("a", "n1", of("v2"), unready), pod("b", "n2")), []string{"update revision 3", "delete a"}},

		{"surge: beside the old", observed(set(v2, surge(one)), r1, r2, n1, n2, pod("a", "n1"), pod("b", "n2")), []string{"create n1 v2"}},
		{"surge: waits for the new", observed(set(v2, surge(one)), r1, r2, n1, n2, pod("a", "n1"), pod("b", "n2"), pod("c", "n1", of("v2"), unready)), nil},
		{"surge: then the old one goes", observed(set(v2, surge(one)), r1, r2, n1, n2, pod("a", "n1"), pod("b", "n2"), pod("c", "n1", of("v2"))), []string{"delete a"}},
		{"surge: and the next comes", observed(set(v2, surge(one)), r1, r2, n1, n2, pod("a", "n1", deleting), pod("b", "n2"), pod("c", "n1", of("v2"))), []string{"create n2 v2"}},
		{"surge: two", observed(set(v2, surge(two)), r1, r2, n1, n2, n3, pod("a", "n1"), pod("b", "n2"), pod("c", "n3")), []string{"create n1 v2", "create n2 v2"}},
		{"surge: those no good are no surge", observed(set(v2, surge(one)), r1, r2, n1, n2, pod("a", "n1"), pod("b", "n2", unready)), []string{"create n2 v2", "create n1 v2"}},
		{"surge: an old one that is no good gives way", observed(set(v2, surge(one)), r1, r2, n1, pod("a", "n1", unready), pod("b", "n1", of("v2"), unready)), []string{"delete a"}},
		{"surge: at most two", observed(set(v2, surge(one)), r1, r2, n1, pod("a", "n1"), pod("b", "n1", of("v2"), unready), pod("c", "n1", of("v2"), unready, young), pod("d", "n1", young)), []string{"delete d", "delete c"}},
		{"surge: not only after the end of the last", observed(set(surge(one)), r1, n1, pod("a", "n1", deleting)), []string{"create n1 v1"}},
		{"surge: leaves a node once enough are available", observed(set(v2, surge(one)), r1, r2, node("n1", tainted("x", "NoSchedule")), n2, pod("a", "n1"), pod("b", "n2", of("v2"))), []string{"delete a"}},
		{"surge: not before", observed(set(v2, surge(one)), r1, r2, node("n1", tainted("x", "NoSchedule")), n2, pod("a", "n1"), pod("b", "n2", of("v2"), unready)), nil},

		{"adopts", observed(set(), r1, n1, pod("a", "n1", orphan)), []string{"adopt a"}},
		{"leaves other orphans", observed(set(), r1, pod("a", "n1", orphan, other), pod("b", "n1", orphan, deleting)), nil},
		{"releases", observed(set(), r1, n1, pod("a", "n1", other)), []string{"release a", "create n1 v1"}},
		{"being deleted: nothing", observed(set(gone), n1, pod("a", "n1", failed)), nil},
		{"an empty selector manages nothing", observed(everything, n1, pod("a", "n1")), nil},
		{"revisions of one template", observed(set(), r1, twin, n1, n2, pod("a", "n1"), pod("b", "n2", hashed("twin"))), []string{"relabel a", "delete " + r1.Name}},
		{"a revision without a hash", observed(set(), bare, n1), []string{"update revision 1"}},
		{"history beyond the limit", observed(set(image("v3"), historyLimit(1)), r1, r2, revision("v3", 3)), []string{"delete " + r1.Name}},
		{"history that pods are of", observed(set(image("v3"), historyLimit(1), onDelete), r1, r2, revision("v3", 3), n1, pod("a", "n1")), []string{"delete " + r2.Name}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := summary(Plan(tt.in)); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
	if res := Plan(waiting); res.After != 8*time.Second {
		t.Errorf("a failed pod is looked at again after %v", res.After)
	}
	if got := reasons(Plan(observed(set(), r1, n1, n2, pod("a", "n1", failed), pod("b", "n2", succeeded)))); !slices.Equal(got, []string{"FailedDaemonPod", "SucceededDaemonPod"}) {
		t.Errorf("events %q", got)
	}
	if got := reasons(Plan(observed(everything))); !slices.Equal(got, []string{"SelectingAll"}) {
		t.Errorf("events %q", got)
	}
}

func hashed(h string) podOption {
	return func(p *corev1.Pod) { p.Labels[appsv1.ControllerRevisionHashLabelKey] = h }
}

func TestStatus(t *testing.T) {
	in := observed(set(image("v2"), slow(60)), revision("v1", 1), revision("v2", 2), node("n1"), node("n2"), node("n3"), node("n4"), node("n5", tainted("x", "NoSchedule")), node("n6", tainted("x", "NoSchedule")),
		pod("a", "n1", of("v2")), pod("b", "n2", of("v2"), readyFor(15*time.Second)), pod("c", "n3", unready), pod("e", "n5"))
	in.Set.Generation = 7
	in.Set.Status.Conditions = []appsv1.DaemonSetCondition{{Type: "Mine"}}
	res := Plan(in)
	i := slices.IndexFunc(res.Actions, func(a plan.Action) bool { return a.Ref.Sub == "status" })
	got := res.Actions[i].Object.(*appsv1.DaemonSet).Status
	want := appsv1.DaemonSetStatus{ObservedGeneration: 7, DesiredNumberScheduled: 4, CurrentNumberScheduled: 3, NumberReady: 2, NumberAvailable: 1, NumberUnavailable: 3,
		UpdatedNumberScheduled: 2, NumberMisscheduled: 1, Conditions: in.Set.Status.Conditions}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if res.After != 45*time.Second {
		t.Errorf("looks again after %v, when a pod becomes available", res.After)
	}
}

func TestPodOfSet(t *testing.T) {
	s := set(picky)
	s.Name = strings.Repeat("x", 80)
	ten := int64(10)
	s.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Key: "mine", Operator: "Exists"}, {Key: corev1.TaintNodeNotReady, Operator: "Exists", Effect: "NoExecute", TolerationSeconds: &ten}}
	s.Spec.Template.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{}, NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "kind", Operator: "Exists"}}}}}}}
	res := Plan(observed(s, node("n1")))
	a := res.Actions[len(res.Actions)-1]
	p := a.Object.(*corev1.Pod)
	if len(p.Name) > 63 || !strings.HasPrefix(p.Name, p.GenerateName) || p.Namespace != "default" || p.Annotations["a"] != "b" {
		t.Errorf("pod %+v", p)
	}
	if p.Labels["app"] != "agent" || p.Labels["pod-template-generation"] != "9" || p.Labels["controller-revision-hash"] == "" {
		t.Errorf("labels %v", p.Labels)
	}
	if ref := metav1.GetControllerOf(p); ref == nil || ref.UID != "set" || ref.Kind != "DaemonSet" || !*ref.BlockOwnerDeletion {
		t.Errorf("owner %+v", ref)
	}
	terms := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if p.Spec.NodeName != "" || len(terms) != 1 || len(terms[0].MatchExpressions) != 0 || target(p) != "n1" || p.Spec.Affinity.PodAntiAffinity == nil {
		t.Errorf("affinity %+v", p.Spec.Affinity)
	}
	var keys []string
	for _, t := range p.Spec.Tolerations {
		keys = append(keys, fmt.Sprint(strings.TrimPrefix(t.Key, "node.kubernetes.io/"), ":", t.Effect, t.TolerationSeconds == nil))
	}
	if want := []string{"mine:true", "not-ready:NoExecutetrue", "unreachable:NoExecutetrue", "disk-pressure:NoScheduletrue", "memory-pressure:NoScheduletrue", "pid-pressure:NoScheduletrue", "unschedulable:NoScheduletrue"}; !slices.Equal(keys, want) {
		t.Errorf("tolerations %q\nwant %q", keys, want)
	}
	if s.Spec.Template.Spec.Tolerations[1].TolerationSeconds == nil || len(s.Spec.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions) != 1 {
		t.Error("the template is changed")
	}
	if a.Event.Reason != "SuccessfulCreate" || a.Event.Message != "Created pod: "+p.Name || a.Failed.Reason != "FailedCreate" || a.Failed.Message != "Error creating: " {
		t.Errorf("events %+v %+v", a.Event, a.Failed)
	}
}

// anyThings draws nodes and pods in all states that the plan tells apart.
func anyThings(t *rapid.T) (things []any) {
	nodes := map[string]nodeOption{"bad": bad, "noschedule": tainted("x", "NoSchedule"), "noexecute": tainted("y", "NoExecute"), "unready": tainted(corev1.TaintNodeNotReady, "NoExecute")}
	pods := map[string]podOption{"unready": unready, "unbound": unbound, "failed": failed, "succeeded": succeeded, "deleting": deleting, "orphan": orphan,
		"other": other, "v2": of("v2"), "young": young, "late": readyFor(time.Second), "generation": generation("9")}
	names := []string{"n0", "n1", "n2", "n3", "n4", "n5"}
	for _, n := range names[:rapid.IntRange(0, 5).Draw(t, "nodes")] { // n5 is never there
		opts := []nodeOption{}
		for _, o := range rapid.SliceOfNDistinct(rapid.SampledFrom(slices.Sorted(maps.Keys(nodes))), 0, 1, rapid.ID[string]).Draw(t, "node") {
			opts = append(opts, nodes[o])
		}
		things = append(things, node(n, opts...))
	}
	for i := range rapid.IntRange(0, 10).Draw(t, "pods") {
		p := pod(fmt.Sprintf("p%02d", i), rapid.SampledFrom(names).Draw(t, "on"))
		for _, o := range rapid.SliceOfNDistinct(rapid.SampledFrom(slices.Sorted(maps.Keys(pods))), 0, 3, rapid.ID[string]).Draw(t, "state") {
			pods[o](p)
		}
		things = append(things, p)
	}
	return append(things, revision("v1", 1), revision("v2", 2))
}

func anySet(t *rapid.T) *appsv1.DaemonSet {
	s := set(image(rapid.SampledFrom([]string{"v1", "v2"}).Draw(t, "image")), slow(rapid.SampledFrom([]int32{0, 60}).Draw(t, "slow")))
	n := intstr.FromInt32(rapid.Int32Range(1, 3).Draw(t, "bound"))
	switch rapid.IntRange(0, 3).Draw(t, "strategy") {
	case 0:
		onDelete(s)
	case 1:
		surge(n)(s)
	default:
		unavailable(n)(s)
	}
	if rapid.Bool().Draw(t, "picky") {
		picky(s)
	}
	return s
}

func TestTouchesOnlyItsOwn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		things, s := anyThings(t), anySet(t)
		made, deleted := map[string]int{}, map[string]bool{}
		w := whereOf(s)
		for _, a := range Plan(observed(s, things...)).Actions {
			switch {
			case a.Ref.Kind == kinds.DaemonSet && (a.Ref.Name != s.Name || a.Ref.Sub != "status"):
				t.Fatalf("writes %s", a.Ref)
			case a.Ref.Kind == kinds.Pod && a.Verb == plan.Create:
				name := target(a.Object.(*corev1.Pod))
				i := slices.IndexFunc(things, func(o any) bool { n, ok := o.(*corev1.Node); return ok && n.Name == name })
				if i < 0 {
					t.Fatalf("makes a pod for %s, which is no node", name)
				}
				if run, _ := w.on(things[i].(*corev1.Node)); !run {
					t.Fatalf("makes a pod for %s, which is not fit", name)
				}
				if made[name]++; made[name] > 1 {
					t.Fatalf("makes two pods for %s", name)
				}
			case a.Ref.Kind == kinds.Pod:
				i := slices.IndexFunc(things, func(o any) bool { p, ok := o.(*corev1.Pod); return ok && p.Name == a.Ref.Name })
				p := things[i].(*corev1.Pod)
				if a.UID != p.UID {
					t.Fatalf("%s %s without its UID", a.Verb, a.Ref)
				}
				if a.Verb == plan.Delete && (p.Labels["app"] != "agent" || p.DeletionTimestamp != nil || deleted[p.Name]) {
					t.Fatalf("deletes %s, which is not of the set or goes already", p.Name)
				}
				deleted[p.Name] = deleted[p.Name] || a.Verb == plan.Delete
			}
		}
	})
}

func TestInputOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		things, s := anyThings(t), anySet(t)
		a := summary(Plan(observed(s, things...)))
		rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)).Shuffle(len(things), func(i, j int) { things[i], things[j] = things[j], things[i] })
		b := summary(Plan(observed(s, things...)))
		slices.Sort(a)
		slices.Sort(b)
		if !slices.Equal(a, b) {
			t.Fatalf("%q\n%q", a, b)
		}
	})
}

func TestBounded(t *testing.T) {
	var things []any
	for i := range 1000 {
		things = append(things, node(fmt.Sprintf("n%04d", i)))
		if i%2 == 0 {
			things = append(things, pod(fmt.Sprintf("p%04d", i), fmt.Sprintf("n%04d", i), failed))
		}
	}
	creates, deletes := 0, 0
	for _, a := range Plan(observed(set(), append(things, revision("v1", 1))...)).Actions {
		switch a.Verb {
		case plan.Create:
			creates++
		case plan.Delete:
			deletes++
		}
	}
	if creates != burst || deletes != burst {
		t.Errorf("%d creates and %d deletes in one pass", creates, deletes)
	}
}

// A pod that came in the same second as the one that it is to follow does not
// count in its place.
func TestAgesOfOneSecond(t *testing.T) {
	old, next := pod("b", "n1"), pod("a", "n1", of("v2"), unready)
	if byAge(old, next) >= 0 || byAge(next, old) <= 0 {
		t.Error("the pod that is not ready counts as the older")
	}
	if byAge(pod("a", "n1"), pod("b", "n1")) >= 0 {
		t.Error("names do not decide between equals")
	}
	if byAge(pod("b", "n1", young), pod("a", "n1", unready)) <= 0 {
		t.Error("age does not come first")
	}
}
