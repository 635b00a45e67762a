package replicaset

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func set(replicas int32) *appsv1.ReplicaSet {
	l := map[string]string{"app": "web"}
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "set", Generation: 1},
		Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l, Annotations: map[string]string{"a": "b"}},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}},
	}
}

type podOption func(*corev1.Pod)

func pod(name string, opts ...podOption) *corev1.Pod {
	t := true
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("u-" + name), Labels: map[string]string{"app": "web"},
			CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
			OwnerReferences:   []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "set", Controller: &t}}},
		Spec:   corev1.PodSpec{NodeName: "n-" + name},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	readyFor(time.Hour)(p)
	for _, o := range opts {
		o(p)
	}
	return p
}

func readyFor(d time.Duration) podOption {
	return func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-d))}}
	}
}
func unready(p *corev1.Pod)    { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func unbound(p *corev1.Pod)    { p.Spec.NodeName = ""; pending(p) }
func pending(p *corev1.Pod)    { p.Status.Phase = corev1.PodPending; unready(p) }
func failedPod(p *corev1.Pod)  { p.Status.Phase = corev1.PodFailed; unready(p) }
func deleting(p *corev1.Pod)   { t := metav1.NewTime(now); p.DeletionTimestamp = &t }
func orphan(p *corev1.Pod)     { p.OwnerReferences = nil }
func other(p *corev1.Pod)      { p.Labels = map[string]string{"app": "other"} }
func on(node string) podOption { return func(p *corev1.Pod) { p.Spec.NodeName = node } }
func cost(c string) podOption {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: c} }
}
func restarted(n int32) podOption {
	return func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}} }
}
func aged(d time.Duration) podOption {
	return func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-d)) }
}

func observed(s *appsv1.ReplicaSet, owned ...*corev1.Pod) Observed {
	n := 0
	o := Observed{Set: s, Kind: kinds.ReplicaSet, Stored: s, Now: now, Suffix: func() string { n++; return fmt.Sprintf("s%04d", n) }}
	for _, p := range owned {
		if metav1.GetControllerOf(p) == nil {
			o.Orphans = append(o.Orphans, p)
		} else {
			o.Owned = append(o.Owned, p)
		}
	}
	return o
}

// summary of actions: "create", "delete a", "adopt b", "release c", "status r/ready/available".
func summary(res plan.Result) []string {
	var out []string
	for _, a := range res.Actions {
		switch {
		case a.Verb == plan.Create:
			out = append(out, "create")
		case a.Verb == plan.Patch && strings.Contains(string(a.Data), "$patch"):
			out = append(out, "release "+a.Ref.Name)
		case a.Verb == plan.Patch:
			out = append(out, "adopt "+a.Ref.Name)
		case a.Ref.Sub == "status":
			s := a.Object.(*appsv1.ReplicaSet).Status
			out = append(out, fmt.Sprintf("status %d/%d/%d", s.Replicas, s.ReadyReplicas, s.AvailableReplicas))
		default:
			out = append(out, string(a.Verb)+" "+a.Ref.Name)
		}
	}
	return out
}

func TestPlan(t *testing.T) {
	gone := set(3)
	gone.DeletionTimestamp = &metav1.Time{Time: now}
	slow := set(2)
	slow.Spec.MinReadySeconds = 60
	failedBefore := observed(set(1))
	failedBefore.Failure, failedBefore.CreateFailed = "exceeded quota", true
	ending := observed(set(3), pod("a"))
	ending.Ending = true
	everything := set(1)
	everything.Spec.Selector = &metav1.LabelSelector{}
	for _, tt := range []struct {
		name  string
		in    Observed
		want  []string
		after time.Duration
	}{
		{"creates what is missing", observed(set(3), pod("a")), []string{"create", "create", "status 1/1/1"}, 0},
		{"makes nothing in a namespace that ends", ending, []string{"status 1/1/1"}, 0},
		{"zero", observed(set(0)), []string{"status 0/0/0"}, 0},
		{"deletes the surplus", observed(set(1), pod("a"), pod("b", unready)), []string{"delete b", "status 2/1/1"}, 0},
		{"finished pods do not count", observed(set(1), pod("a", failedPod)), []string{"create", "status 0/0/0"}, 0},
		{"pods being deleted do not count", observed(set(1), pod("a", deleting)), []string{"create", "status 0/0/0"}, 0},
		{"adopts a matching orphan", observed(set(1), pod("a", orphan)), []string{"adopt a", "status 1/1/1"}, 0},
		{"leaves other orphans", observed(set(0), pod("a", orphan, other), pod("b", orphan, deleting), pod("c", orphan, failedPod)), []string{"status 0/0/0"}, 0},
		{"releases what does not match any more", observed(set(1), pod("a", other)), []string{"release a", "create", "status 0/0/0"}, 0},
		{"being deleted: only status", observed(gone, pod("a"), pod("b", orphan)), []string{"status 1/1/1"}, 0},
		{"available after minReadySeconds", observed(slow, pod("a", readyFor(45*time.Second)), pod("b", readyFor(10*time.Second))), []string{"status 2/2/0"}, 15 * time.Second},
		{"available at last", observed(slow, pod("a", readyFor(60*time.Second)), pod("b", readyFor(time.Hour))), []string{"status 2/2/2"}, 0},
		{"after a failure the status goes first", failedBefore, []string{"status 0/0/0", "create"}, 0},
		{"an empty selector manages nothing", observed(everything, pod("a"), pod("b")), nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := Plan(tt.in)
			if got := summary(res); !slices.Equal(got, tt.want) || res.After != tt.after {
				t.Errorf("got %q after %v\nwant %q after %v", got, res.After, tt.want, tt.after)
			}
		})
	}
}

func TestPodOfTemplate(t *testing.T) {
	s := set(1)
	s.Name = strings.Repeat("x", 80)
	res := Plan(observed(s))
	p := res.Actions[0].Object.(*corev1.Pod)
	if len(p.Name) > 63 || !strings.HasPrefix(p.Name, p.GenerateName) || p.Namespace != "default" {
		t.Errorf("name %q, generateName %q", p.Name, p.GenerateName)
	}
	ref := metav1.GetControllerOf(p)
	if ref == nil || ref.UID != s.UID || ref.Kind != "ReplicaSet" || ref.APIVersion != "apps/v1" || !*ref.BlockOwnerDeletion {
		t.Errorf("owner %+v", ref)
	}
	if p.Labels["app"] != "web" || p.Annotations["a"] != "b" || p.Spec.Containers[0].Image != "i" {
		t.Errorf("pod %+v", p)
	}
	if e := res.Actions[0].Event; e.Reason != "SuccessfulCreate" || e.Message != "Created pod: "+p.Name {
		t.Errorf("event %+v", e)
	}
	if e := res.Actions[0].Failed; e.Reason != "FailedCreate" || e.Type != "Warning" || e.Message != "Error creating: " {
		t.Errorf("event %+v", e)
	}
}

func TestReplicaFailure(t *testing.T) {
	in := observed(set(2))
	in.Failure, in.CreateFailed = "exceeded quota", true
	status := statusOf(t, Plan(in))
	if c := status.Conditions; len(c) != 1 || c[0].Type != "ReplicaFailure" || c[0].Status != "True" || c[0].Reason != "FailedCreate" || c[0].Message != "exceeded quota" {
		t.Fatalf("conditions %+v", c)
	}
	s := set(2)
	s.Status = status
	in = observed(s) // the next try: no failure known yet, pods still missing
	if got := summary(Plan(in)); !slices.Equal(got, []string{"create", "create"}) {
		t.Errorf("while it tries again: %q, want the condition left alone", got)
	}
	in = observed(s, pod("a"), pod("b"))
	if got := statusOf(t, Plan(in)); len(got.Conditions) != 0 {
		t.Errorf("conditions %+v after it succeeded", got.Conditions)
	}
}

func statusOf(t *testing.T, res plan.Result) appsv1.ReplicaSetStatus {
	t.Helper()
	for _, a := range res.Actions {
		if a.Ref.Sub == "status" {
			return a.Object.(*appsv1.ReplicaSet).Status
		}
	}
	t.Fatal("no status write")
	return appsv1.ReplicaSetStatus{}
}

// Each line: the first pod is deleted before the second.
func TestVictims(t *testing.T) {
	for _, tt := range []struct {
		name          string
		first, second []podOption
		neighbours    map[string]int
	}{
		{"unassigned before assigned", []podOption{unbound}, []podOption{pending}, nil},
		{"pending before running", []podOption{pending}, []podOption{unready}, nil},
		{"not ready before ready", []podOption{unready, cost("9")}, []podOption{cost("1")}, nil},
		{"low cost before high cost", []podOption{cost("-5"), on("n1")}, []podOption{cost("3"), on("n2"), readyFor(time.Second)}, nil},
		{"a bad cost is none", []podOption{cost("+5"), readyFor(time.Second)}, []podOption{cost("0")}, nil},
		{"more on the node first", []podOption{on("n1")}, []podOption{on("n2"), readyFor(time.Second)}, map[string]int{"n1": 3}},
		{"ready for a shorter time first", []podOption{on("n"), readyFor(time.Minute)}, []podOption{on("n"), restarted(9)}, nil},
		{"more restarts first", []podOption{on("n"), restarted(3)}, []podOption{on("n"), restarted(1), aged(time.Minute)}, nil},
		{"younger first", []podOption{on("n"), aged(time.Minute)}, []podOption{on("n"), aged(48 * time.Hour)}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, names := range [][2]string{{"a", "b"}, {"b", "a"}} { // whatever the names say
				in := observed(set(1), pod(names[0], tt.first...), pod(names[1], tt.second...))
				in.Neighbours = tt.neighbours
				if got := summary(Plan(in)); got[0] != "delete "+names[0] {
					t.Errorf("%q, want %s deleted", got, names[0])
				}
			}
		})
	}
}

// anyPods draws pods in all states that the plan tells apart.
func anyPods(t *rapid.T) []*corev1.Pod {
	options := map[string]podOption{
		"unready": unready, "unbound": unbound, "pending": pending, "failed": failedPod, "deleting": deleting,
		"orphan": orphan, "other": other, "cost": cost("7"), "young": readyFor(time.Second), "n1": on("n1"), "n2": on("n2"),
	}
	names := make([]string, 0, len(options))
	for n := range options {
		names = append(names, n)
	}
	slices.Sort(names)
	var pods []*corev1.Pod
	for i := range rapid.IntRange(0, 12).Draw(t, "pods") {
		p := pod(fmt.Sprintf("p%02d", i))
		for _, n := range rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 3, rapid.ID[string]).Draw(t, "state") {
			options[n](p)
		}
		pods = append(pods, p)
	}
	return pods
}

func TestPlanTouchesOnlyItsOwn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pods := anyPods(t)
		s := set(rapid.Int32Range(0, 2000).Draw(t, "replicas"))
		res := Plan(observed(s, pods...))
		creates, deletes := 0, 0
		for _, a := range res.Actions {
			if a.Ref.Kind == kinds.ReplicaSet {
				if a.Ref.Name != s.Name || a.Ref.Sub != "status" {
					t.Fatalf("writes %s", a.Ref)
				}
				continue
			}
			if a.Verb == plan.Create {
				creates++
				continue
			}
			p := pods[slices.IndexFunc(pods, func(p *corev1.Pod) bool { return p.Name == a.Ref.Name })]
			if a.UID != p.UID {
				t.Fatalf("%s %s without its UID", a.Verb, a.Ref)
			}
			if a.Verb == plan.Delete {
				deletes++
				if p.Labels["app"] != "web" || !isActive(p) {
					t.Fatalf("deletes %s, which is not an active pod of the set", p.Name)
				}
			}
		}
		if creates > burst || deletes > burst || creates > 0 && deletes > 0 {
			t.Fatalf("%d creates and %d deletes in one pass", creates, deletes)
		}
	})
}

func TestInputOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pods := anyPods(t)
		s := set(rapid.Int32Range(0, 12).Draw(t, "replicas"))
		a := summary(Plan(observed(s, pods...)))
		shuffled := slices.Clone(pods)
		rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)).Shuffle(len(pods), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		b := summary(Plan(observed(s, shuffled...)))
		slices.Sort(a)
		slices.Sort(b)
		if !slices.Equal(a, b) {
			t.Fatalf("%q\n%q", a, b)
		}
	})
}
