package disruption

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func budget(change func(*policyv1.PodDisruptionBudgetSpec)) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b", UID: "b", Generation: 2}}
	b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	change(&b.Spec)
	return b
}

func atLeast(v intstr.IntOrString) func(*policyv1.PodDisruptionBudgetSpec) {
	return func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = &v }
}

func atMostDown(v intstr.IntOrString) func(*policyv1.PodDisruptionBudgetSpec) {
	return func(s *policyv1.PodDisruptionBudgetSpec) { s.MaxUnavailable = &v }
}

func pod(name string, owner types.UID, ready bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}}}
	if owner != "" {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: string(owner), UID: owner, Controller: ptr.To(true)}}
	}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return p
}

// pods of one owner, of which some are ready.
func pods(owner types.UID, all, ready int) []*corev1.Pod {
	var out []*corev1.Pod
	for i := range all {
		out = append(out, pod(fmt.Sprintf("p%d", i), owner, i < ready))
	}
	return out
}

func TestPlan(t *testing.T) {
	of := func(n int32) map[types.UID]Owner { return map[types.UID]Owner{"rs": {UID: "deployment", Replicas: n}} }
	going := func(p []*corev1.Pod) []*corev1.Pod {
		p[0].DeletionTimestamp = &metav1.Time{Time: now}
		return p
	}
	for _, c := range []struct {
		name                               string
		o                                  Observed
		expected, desired, healthy, allows int32
		failed, event                      string
	}{
		{"a number", Observed{Budget: budget(atLeast(intstr.FromInt32(2))), Pods: pods("", 3, 3)}, 3, 2, 3, 1, "", ""},
		{"too few", Observed{Budget: budget(atLeast(intstr.FromInt32(2))), Pods: pods("", 3, 1)}, 3, 2, 1, 0, "", ""},
		{"nobody", Observed{Budget: budget(atLeast(intstr.FromInt32(0)))}, 0, 0, 0, 0, "", "NoPods"},
		{"nothing wanted", Observed{Budget: budget(func(*policyv1.PodDisruptionBudgetSpec) {}), Pods: pods("", 2, 2)}, 0, 0, 2, 0, "", ""},
		{"one is going", Observed{Budget: budget(atLeast(intstr.FromInt32(1))), Pods: going(pods("", 2, 2))}, 2, 1, 1, 0, "", ""},
		{"a share of what is wanted", Observed{Budget: budget(atLeast(intstr.FromString("28%"))), Pods: pods("rs", 5, 5), Owners: of(7)}, 7, 2, 5, 3, "", ""},
		{"a share that may be down", Observed{Budget: budget(atMostDown(intstr.FromString("28%"))), Pods: pods("rs", 6, 6), Owners: of(7)}, 7, 5, 6, 1, "", ""},
		{"a number that may be down", Observed{Budget: budget(atMostDown(intstr.FromInt32(2))), Pods: pods("rs", 3, 3), Owners: of(3)}, 3, 1, 3, 2, "", ""},
		{"more than there are", Observed{Budget: budget(atMostDown(intstr.FromInt32(9))), Pods: pods("rs", 3, 3), Owners: of(3)}, 3, 0, 3, 3, "", ""},
		{"of nobody", Observed{Budget: budget(atMostDown(intstr.FromInt32(1))), Pods: pods("", 2, 2)}, 0, 0, 2, 0, "", "UnmanagedPods"},
		{"two sets of one deployment", Observed{Budget: budget(atMostDown(intstr.FromInt32(1))), Pods: append(pods("rs", 2, 2), pod("q", "older", true)),
			Owners: map[types.UID]Owner{"rs": {UID: "d", Replicas: 4}, "older": {UID: "d", Replicas: 4}}}, 4, 3, 3, 0, "", ""},
		{"owner gone", Observed{Budget: budget(atMostDown(intstr.FromInt32(1))), Pods: pods("rs", 1, 1), Owners: map[types.UID]Owner{"rs": {Missing: true}}}, 9, 9, 9, 0, `found no controllers for pod "p0"`, "CalculateExpectedPodCountFailed"},
		{"owner without a scale", Observed{Budget: budget(atMostDown(intstr.FromInt32(1))), Pods: pods("rs", 1, 1), Owners: map[types.UID]Owner{"rs": {Err: "no scale"}}}, 9, 9, 9, 0, "no scale", "CalculateExpectedPodCountFailed"},
		{"selector", Observed{Budget: budget(atLeast(intstr.FromInt32(1))), BadSelector: "no selector"}, 9, 9, 9, 0, "no selector", "NoPods"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Now = now
			c.o.Budget.Status = policyv1.PodDisruptionBudgetStatus{ExpectedPods: 9, DesiredHealthy: 9, CurrentHealthy: 9, DisruptionsAllowed: 9, ObservedGeneration: 1}
			before := c.o.Budget.DeepCopy()
			res := Plan(c.o)
			if len(res.Actions) != 1 || res.Actions[0].Verb != plan.Update || res.Actions[0].Ref.Sub != "status" {
				t.Fatalf("%+v", res)
			}
			next := res.Actions[0].Object.(*policyv1.PodDisruptionBudget)
			st := next.Status
			if st.ExpectedPods != c.expected || st.DesiredHealthy != c.desired || st.CurrentHealthy != c.healthy || st.DisruptionsAllowed != c.allows {
				t.Errorf("status %+v", st)
			}
			want := metav1.Condition{Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason}
			generation := int64(2)
			switch {
			case c.failed != "":
				want, generation = metav1.Condition{Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: c.failed}, 1
			case c.allows > 0:
				want = metav1.Condition{Status: metav1.ConditionTrue, Reason: policyv1.SufficientPodsReason}
			}
			if got := st.Conditions[0]; got.Status != want.Status || got.Reason != want.Reason || got.Message != want.Message || st.ObservedGeneration != generation {
				t.Errorf("condition %+v", got)
			}
			event := ""
			if len(res.Events) > 0 {
				event = res.Events[0].Reason
			}
			if event != c.event || len(res.Events) > 1 {
				t.Errorf("events %+v", res.Events)
			}
			if !equality.Semantic.DeepEqual(before, c.o.Budget) {
				t.Error("the observed budget was changed")
			}
			c.o.Budget = next
			if again := Plan(c.o); len(again.Actions)+len(again.Events) > 0 {
				t.Errorf("and once more: %+v", again)
			}
		})
	}
}

func TestDisruptedPods(t *testing.T) {
	o := Observed{Budget: budget(atLeast(intstr.FromInt32(1))), Pods: pods("", 4, 4), Now: now}
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }
	o.Pods[2].DeletionTimestamp = &metav1.Time{Time: now}
	o.Budget.Status.DisruptedPods = map[string]metav1.Time{"p0": ago(time.Minute), "p1": ago(2 * time.Minute), "p2": ago(0), "gone": ago(0)}
	res := Plan(o)
	st := res.Actions[0].Object.(*policyv1.PodDisruptionBudget).Status
	if len(st.DisruptedPods) != 1 || st.DisruptedPods["p0"] != ago(time.Minute) || res.After != time.Minute {
		t.Errorf("%v, again after %v", st.DisruptedPods, res.After)
	}
	if st.CurrentHealthy != 2 { // p1, which was not evicted after all, and p3
		t.Errorf("healthy: %d", st.CurrentHealthy)
	}
}

func TestPlanPod(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		after  time.Duration
		acts   bool
	}{
		"stale":      {func(*corev1.Pod) {}, 0, true},
		"young":      {func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-time.Minute)) }, time.Minute, false},
		"going":      {func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }, 0, false},
		"ended":      {func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, 0, false},
		"by kubelet": {func(p *corev1.Pod) { p.Status.Conditions[0].Reason = corev1.PodReasonTerminationByKubelet }, 0, false},
		"taken back": {func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }, 0, false},
		"no word":    {func(p *corev1.Pod) { p.Status.Conditions = nil }, 0, false},
	} {
		p := pod("p", "", false)
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", LastTransitionTime: metav1.NewTime(now.Add(-2 * time.Minute))}}
		c.change(p)
		res := PlanPod(p, []string{"b"}, now)
		if res.After != c.after || (len(res.Actions) == 1) != c.acts || len(res.Events) > 0 {
			t.Errorf("%s: %+v", name, res)
		}
		if c.acts && !strings.Contains(string(res.Actions[0].Data), `"reason":null,"status":"False","type":"DisruptionTarget"`) {
			t.Errorf("%s: %s", name, res.Actions[0].Data)
		}
	}
}

// TestSeveralBudgets: a pod that cannot be evicted for them is told of, and its
// word is taken back all the same.
func TestSeveralBudgets(t *testing.T) {
	w, table := world(), kinds.Builtin()
	for _, name := range []string{"x", "b"} {
		b := budget(atMostDown(intstr.FromInt32(1)))
		b.Name, b.UID = name, ""
		w.Put(kinds.PodDisruptionBudget, b)
	}
	p := pod("p", "", true)
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(w.Now)})
	w.Put(kinds.Pod, p)
	free := pod("free", "", true)
	free.Labels = map[string]string{"app": "other"}
	w.Put(kinds.Pod, free)
	events, err := w.Drive(1, 200, time.Hour, Controller(table))
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	for _, e := range events.All {
		if e.Reason != "MultiplePodDisruptionBudgets" {
			continue
		}
		told++
		if want := `Pod "default"/"p" matches multiple PodDisruptionBudgets.  Chose "b" arbitrarily.`; e.Message != want || e.Type != corev1.EventTypeWarning || e.Regarding.Kind != kinds.Pod || e.Regarding.Name != "p" {
			t.Errorf("%+v", e)
		}
	}
	if told == 0 {
		t.Errorf("not told of: %+v", events.All)
	}
	if doomed(w.Object(kinds.Pod, "default", "p").(*corev1.Pod)) != nil {
		t.Error("the pod still says that it will be disrupted")
	}
}

func world() *reconciletest.World {
	return reconciletest.New([]*kinds.Kind{kinds.PodDisruptionBudget, kinds.Pod, kinds.Deployment, kinds.ReplicaSet, kinds.StatefulSet, kinds.ReplicationController})
}

// TestConvergesAndRests on any pods: it comes to rest, counts right, and
// touches nothing but status of budgets and stale words of pods.
func TestConvergesAndRests(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, table := world(), kinds.Builtin()
		replicas := rapid.Int32Range(0, 6).Draw(t, "replicas")
		d := w.Put(kinds.Deployment, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: appsv1.DeploymentSpec{Replicas: &replicas}})
		rs := w.Put(kinds.ReplicaSet, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: d.GetUID(), Controller: ptr.To(true)}}}, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](1)}})
		b := budget(atMostDown(rapid.SampledFrom([]intstr.IntOrString{intstr.FromInt32(1), intstr.FromString("50%")}).Draw(t, "share")))
		b.Status.DisruptedPods = map[string]metav1.Time{"p0": metav1.NewTime(w.Now), "p9": metav1.NewTime(w.Now)}
		b.UID = ""
		w.Put(kinds.PodDisruptionBudget, b)
		other := w.Put(kinds.PodDisruptionBudget, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "b"}, Spec: b.Spec})
		n := rapid.IntRange(0, 5).Draw(t, "pods")
		ready := int32(0)
		for i := range n {
			p := pod(fmt.Sprintf("p%d", i), rs.GetUID(), rapid.Bool().Draw(t, "ready"))
			p.OwnerReferences[0].Name = "web-1"
			if ready1 := len(p.Status.Conditions) > 0; ready1 {
				ready++
			}
			if rapid.Bool().Draw(t, "stale") {
				p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(w.Now)})
			}
			w.Put(kinds.Pod, p)
		}
		if _, err := w.Drive(rapid.Uint64().Draw(t, "seed"), 200, time.Hour, Controller(table)); err != nil {
			t.Fatal(err)
		}
		st := w.Object(kinds.PodDisruptionBudget, "default", "b").(*policyv1.PodDisruptionBudget).Status
		expected := replicas
		if n == 0 {
			expected = 0
		}
		if st.ExpectedPods != expected || st.CurrentHealthy != ready || len(st.DisruptedPods) > 0 || st.DisruptionsAllowed > max(0, ready-st.DesiredHealthy) {
			t.Fatalf("status %+v of %d pods, %d ready", st, n, ready)
		}
		for _, o := range w.Objects(kinds.Pod) {
			if doomed(o.(*corev1.Pod)) != nil {
				t.Fatalf("%s still says that it will be disrupted", o.GetName())
			}
		}
		if got := w.Object(kinds.PodDisruptionBudget, "other", "b").(*policyv1.PodDisruptionBudget); got.Status.CurrentHealthy != 0 || !equality.Semantic.DeepEqual(got.Spec, other.(*policyv1.PodDisruptionBudget).Spec) {
			t.Fatalf("pods of another namespace counted: %+v", got.Status)
		}
		writes := len(w.Writes)
		if writes > 4*(n+2) {
			t.Fatalf("%d writes for %d pods", writes, n)
		}
		if _, err := w.Drive(1, 200, time.Hour, Controller(table)); err != nil {
			t.Fatal(err)
		}
		if len(w.Writes) != writes {
			t.Fatalf("at rest, but writes %v", w.Writes[writes:])
		}
	})
}

func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := Observed{Budget: budget(atMostDown(intstr.FromInt32(1))), Now: now, Pods: pods("rs", 5, 3), Owners: map[types.UID]Owner{"rs": {UID: "rs", Replicas: 5}}}
		o.Budget.Status.DisruptedPods = map[string]metav1.Time{"p1": metav1.NewTime(now), "p4": metav1.NewTime(now)}
		want := Plan(o)
		o.Pods = rapid.Permutation(o.Pods).Draw(t, "pods")
		if got := Plan(o); !equality.Semantic.DeepEqual(got, want) {
			t.Fatalf("%+v\n%+v", got, want)
		}
	})
}

// TestCustomOwner: the scale of a custom kind counts, in the version that is
// stored.
func TestCustomOwner(t *testing.T) {
	gvk := schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Farm"}
	served := func(version string, replicas int32) *kinds.Kind {
		k := *kinds.NewRaw(gvk.GroupKind(), "farms", true, nil)
		k.GVK.Version = version
		k.Subresources = map[string]kinds.Subresource{"scale": kinds.ScaleSubresource(&kinds.Scale{Spec: func(kinds.Object) int32 { return replicas }})}
		return &k
	}
	held := kinds.NewRaw(gvk.GroupKind(), "farms", true, nil)
	v := view.New([]*kinds.Kind{held})
	raw := &kinds.Raw{JSON: []byte(`{"apiVersion":"example.com/v2","kind":"Farm","metadata":{"name":"f"}}`)}
	raw.Name, raw.Namespace, raw.UID = "f", "default", "f-uid"
	v.Replace(held, []kinds.Object{raw}, 1)
	table := kinds.Builtin()
	ref := metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Farm", Name: "f", UID: "f-uid"}
	ask := func() Owner { return ownerOf(v.Snapshot(), table, "default", &ref) }
	if got := ask(); got.Err != `no matches for kind "Farm" in version "example.com/v1"` {
		t.Errorf("unknown: %+v", got)
	}
	table.SetCustom([]*kinds.Kind{served("v1", 3)})
	if got := ask(); !strings.Contains(got.Err, "does not implement the scale subresource in the version") {
		t.Errorf("only the other version: %+v", got)
	}
	table.SetCustom([]*kinds.Kind{served("v1", 3), served("v2", 7)})
	if got := ask(); got != (Owner{UID: "f-uid", Replicas: 7}) {
		t.Errorf("%+v", got)
	}
	ref.UID = "older"
	if got := ask(); !got.Missing {
		t.Errorf("another one of that name: %+v", got)
	}
	ref.APIVersion, ref.Kind = "apps/v1", "DaemonSet"
	if got := ask(); got.Err != "daemonsets.apps does not implement the scale subresource" {
		t.Errorf("daemon set: %+v", got)
	}
}
