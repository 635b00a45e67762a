package namespace

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func meta(name string, finalizers ...string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("u-" + name), Finalizers: finalizers}
}

func ending() *corev1.Namespace {
	return &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: "ns", UID: "u", DeletionTimestamp: &metav1.Time{Time: now}},
		Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
	}
}

func pods(n int, finalizers ...string) Content {
	c := Content{Kind: kinds.Pod}
	for i := range n {
		c.Objects = append(c.Objects, &corev1.Pod{ObjectMeta: meta(fmt.Sprint("p", i), finalizers...)})
	}
	return c
}

func policies(n int) Content {
	c := Content{Kind: kinds.NetworkPolicy}
	for i := range n {
		c.Objects = append(c.Objects, &networkingv1.NetworkPolicy{ObjectMeta: meta(fmt.Sprint("np", i))})
	}
	return c
}

// counts of actions: "delete pods".
func counts(res plan.Result) map[string]int {
	out := map[string]int{}
	for _, a := range res.Actions {
		what := string(a.Verb) + " " + a.Ref.Kind.Resource
		if a.Ref.Sub != "" {
			what += "/" + a.Ref.Sub
		}
		out[what]++
	}
	return out
}

func TestPlan(t *testing.T) {
	alive := ending()
	alive.DeletionTimestamp = nil
	released := ending()
	released.Spec.Finalizers = []corev1.FinalizerName{"example.com/other"}
	dying := pods(2)
	for _, o := range dying.Objects {
		o.SetDeletionTimestamp(&metav1.Time{Time: now})
	}
	settled := ending()
	settled.Status = statusOf(t, Plan(Observed{Namespace: ending(), Now: now}))
	for _, tt := range []struct {
		name string
		in   Observed
		want map[string]int
	}{
		{"alive", Observed{Namespace: alive, Content: []Content{pods(1)}}, map[string]int{}},
		{"let go by us already", Observed{Namespace: released}, map[string]int{}},
		{"pods before policies", Observed{Namespace: ending(), Content: []Content{policies(2), pods(3)}}, map[string]int{"delete pods": 3, "update namespaces/status": 1}},
		{"policies wait for pods that are ending", Observed{Namespace: ending(), Content: []Content{policies(2), dying}}, map[string]int{"update namespaces/status": 1}},
		{"policies once no pod is left", Observed{Namespace: ending(), Content: []Content{policies(2)}}, map[string]int{"delete networkpolicies": 2, "update namespaces/status": 1}},
		{"a bounded number", Observed{Namespace: ending(), Content: []Content{pods(1200)}}, map[string]int{"delete pods": burst, "update namespaces/status": 1}},
		{"empty: says so first", Observed{Namespace: ending(), Unseen: []*kinds.Kind{kinds.Event}}, map[string]int{"deletecollection events": 1, "update namespaces/status": 1}},
		{"empty: lets go", Observed{Namespace: settled, Unseen: []*kinds.Kind{kinds.Event}}, map[string]int{"deletecollection events": 1, "update namespaces/finalize": 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.Now = now
			if got := counts(Plan(tt.in)); fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func statusOf(t *testing.T, res plan.Result) corev1.NamespaceStatus {
	t.Helper()
	for _, a := range res.Actions {
		if a.Ref.Sub == "status" {
			return a.Object.(*corev1.Namespace).Status
		}
	}
	t.Fatal("no status write")
	return corev1.NamespaceStatus{}
}

func TestFinalizeAsksTheServer(t *testing.T) {
	ns := ending()
	ns.Spec.Finalizers = append(ns.Spec.Finalizers, "example.com/other")
	ns.Status = statusOf(t, Plan(Observed{Namespace: ns, Now: now}))
	res := Plan(Observed{Namespace: ns, Now: now, Kinds: []*kinds.Kind{kinds.Pod, kinds.Secret}})
	a := res.Actions[len(res.Actions)-1]
	if len(a.Live) != 2 || a.Live[0].Want != plan.Empty || a.Live[0].Ref.Namespace != "ns" {
		t.Errorf("live conditions %+v", a.Live)
	}
	if f := a.Object.(*corev1.Namespace).Spec.Finalizers; len(f) != 1 || f[0] != "example.com/other" {
		t.Errorf("finalizers %v, want only ours gone", f)
	}
	if len(ns.Spec.Finalizers) != 2 {
		t.Error("the observed namespace was changed")
	}
}

func TestConditions(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   Observed
		want map[string]string // type to "status reason", and a word of the message
		word string
	}{
		{"content", Observed{Content: []Content{pods(3)}}, map[string]string{"NamespaceContentRemaining": "True SomeResourcesRemain", "NamespaceFinalizersRemaining": "False ContentHasNoFinalizers"}, "pods has 3 resource instances"},
		{"finalizers", Observed{Content: []Content{pods(2, "a.io/x")}}, map[string]string{"NamespaceFinalizersRemaining": "True SomeFinalizersRemain"}, "a.io/x in 2 resource instances"},
		{"failure", Observed{Content: []Content{pods(1)}, Failure: "webhook down"}, map[string]string{"NamespaceDeletionContentFailure": "True ContentDeletionFailed"}, "webhook down"},
		{"none", Observed{}, map[string]string{"NamespaceContentRemaining": "False ContentRemoved", "NamespaceDeletionContentFailure": "False ContentDeleted", "NamespaceDeletionDiscoveryFailure": "False ResourcesDiscovered", "NamespaceDeletionGroupVersionParsingFailure": "False ParsedGroupVersions"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.Namespace, tt.in.Now = ending(), now
			st := statusOf(t, Plan(tt.in))
			if st.Phase != corev1.NamespaceTerminating {
				t.Errorf("phase %q", st.Phase)
			}
			found := tt.word == ""
			for _, c := range st.Conditions {
				if want := tt.want[string(c.Type)]; want != "" && want != string(c.Status)+" "+c.Reason {
					t.Errorf("%s is %s %s, want %s", c.Type, c.Status, c.Reason, want)
				}
				found = found || strings.Contains(c.Message, tt.word)
			}
			if !found || len(st.Conditions) != 5 {
				t.Errorf("no %q in the five conditions %+v", tt.word, st.Conditions)
			}
		})
	}
}

func TestCountsAreNotWrittenForEachObject(t *testing.T) {
	ns := ending()
	ns.Status = statusOf(t, Plan(Observed{Namespace: ns, Content: []Content{pods(3)}, Now: now}))
	res := Plan(Observed{Namespace: ns, Content: []Content{pods(2)}, Now: now.Add(300 * time.Millisecond)})
	if got := counts(res); got["update namespaces/status"] != 0 || res.After != 700*time.Millisecond {
		t.Errorf("%v again after %v, want no status for 700 ms", got, res.After)
	}
	res = Plan(Observed{Namespace: ns, Content: []Content{pods(2)}, Now: now.Add(time.Second)})
	if got := counts(res); got["update namespaces/status"] != 1 {
		t.Errorf("%v after a second, want the new count", got)
	}
}

func world() (*reconciletest.World, reconcile.Controller) {
	c := Controller(kinds.Builtin())
	return reconciletest.New(append(reconcile.Kinds([]reconcile.Controller{c}), kinds.Event)), c
}

func TestNamespaceGoesAway(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, c := world()
		w.Put(kinds.Namespace, ending())
		w.Put(kinds.Namespace, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
		foo := kinds.NewRaw(schema.GroupKind{Group: "example.com", Kind: "Foo"}, "foos", true, func() *kinds.Kind { return nil })
		foo.NewList = func() runtime.Object { return &metav1.List{} }
		w.View.Add(foo)
		w.View.Replace(foo, nil, 0)
		put := func(k *kinds.Kind, o kinds.Object) {
			w.Put(k, o)
			x := o.DeepCopyObject().(kinds.Object)
			x.SetNamespace("other")
			w.Put(k, x)
		}
		for i := range rapid.IntRange(0, 5).Draw(t, "pods") {
			put(kinds.Pod, &corev1.Pod{ObjectMeta: meta(fmt.Sprint("p", i))})
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "policies") {
			put(kinds.NetworkPolicy, &networkingv1.NetworkPolicy{ObjectMeta: meta(fmt.Sprint("np", i))})
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "custom objects") {
			put(foo, &kinds.Raw{PartialObjectMetadata: metav1.PartialObjectMetadata{ObjectMeta: meta(fmt.Sprint("f", i))}})
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "events") {
			put(kinds.Event, &corev1.Event{ObjectMeta: meta(fmt.Sprint("e", i))})
		}
		if rapid.Bool().Draw(t, "held") {
			put(kinds.Secret, &corev1.Secret{ObjectMeta: meta("held", "example.com/hold")})
		}
		run := func() {
			if _, err := w.Drive(rapid.Uint64().Draw(t, "seed"), 100, time.Hour, c); err != nil {
				t.Fatal(err)
			}
		}
		run()
		if held := w.Object(kinds.Secret, "ns", "held"); held != nil {
			if w.Object(kinds.Namespace, "", "ns") == nil {
				t.Fatal("the namespace is gone, what it held is not")
			}
			w.Remove(kinds.Secret, "ns", "held")
			run()
		}
		if w.Object(kinds.Namespace, "", "ns") != nil {
			t.Fatal("the namespace is still there")
		}
		if slices.ContainsFunc(w.Objects(foo), func(o kinds.Object) bool { return o.GetNamespace() == "ns" }) {
			t.Fatal("custom objects are left")
		}
		for _, wr := range w.Writes {
			if strings.Contains(wr, "other/") {
				t.Fatalf("touched another namespace: %s", wr)
			}
		}
		firstPolicy := slices.IndexFunc(w.Writes, func(s string) bool { return strings.Contains(s, "networkpolicies") })
		for i, wr := range w.Writes {
			if firstPolicy >= 0 && i > firstPolicy && strings.Contains(wr, "delete pods") {
				t.Fatalf("a policy went before a pod: %v", w.Writes)
			}
		}
	})
}

// Something that the view does not show yet must keep the namespace.
func TestWaitsForWhatTheViewDoesNotShow(t *testing.T) {
	w, c := world()
	w.Put(kinds.Namespace, ending())
	w.Lag = true
	w.Put(kinds.Secret, &corev1.Secret{ObjectMeta: meta("late")})
	w.Lag = false
	if _, err := w.Drive(1, 100, 10*time.Second, c); err != nil {
		t.Fatal(err)
	}
	if w.Object(kinds.Namespace, "", "ns") == nil {
		t.Fatal("the namespace went before its content")
	}
	w.Deliver(nil)
	if _, err := w.Drive(1, 100, time.Hour, c); err != nil {
		t.Fatal(err)
	}
	if w.Object(kinds.Namespace, "", "ns") != nil || w.Object(kinds.Secret, "ns", "late") != nil {
		t.Error("not gone once the view shows all")
	}
}

func TestFailureShows(t *testing.T) {
	w, c := world()
	w.Put(kinds.Namespace, ending())
	w.Put(kinds.Pod, &corev1.Pod{ObjectMeta: meta("p")})
	w.Hook = func(v plan.Verb, _ kinds.Ref, _ runtime.Object) error {
		if v == plan.Delete {
			return apierrors.NewInternalError(errors.New("webhook down"))
		}
		return nil
	}
	if _, err := w.Drive(1, 100, 10*time.Second, c); err != nil {
		t.Fatal(err)
	}
	ns := w.Object(kinds.Namespace, "", "ns").(*corev1.Namespace)
	i := slices.IndexFunc(ns.Status.Conditions, func(c corev1.NamespaceCondition) bool { return c.Type == corev1.NamespaceDeletionContentFailure })
	if i < 0 || ns.Status.Conditions[i].Status != corev1.ConditionTrue || !strings.Contains(ns.Status.Conditions[i].Message, "webhook down") {
		t.Errorf("conditions %+v", ns.Status.Conditions)
	}
}
