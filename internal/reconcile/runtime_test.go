package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

// copier keeps want secrets for every config map: the smallest controller that
// goes wrong when it does not read its own writes.
func copier(want int) reconcile.Controller {
	return reconcile.Controller{
		Name: "copier", For: kinds.ConfigMap, Owns: []*kinds.Kind{kinds.Secret},
		Writes: []reconcile.Write{{Kind: kinds.Secret, Verbs: []plan.Verb{plan.Create, plan.Delete}}},
		Plan: func(in reconcile.Input) (res plan.Result) {
			cm := view.Get[*corev1.ConfigMap](in.View, kinds.ConfigMap, in.Key.Namespace, in.Key.Name)
			if cm == nil {
				return res
			}
			var have []*corev1.Secret
			for s := range view.List[*corev1.Secret](in.View, kinds.Secret, in.Key.Namespace) {
				if metav1.IsControlledBy(s, cm) {
					have = append(have, s)
				}
			}
			for range want - len(have) {
				s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: cm.Namespace, Name: cm.Name + "-" + in.Suffix(),
					OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cm, kinds.ConfigMap.GVK)}}}
				res.Actions = append(res.Actions, plan.Action{Verb: plan.Create, Ref: kinds.RefTo(kinds.Secret, s), Object: s, Parallel: true})
			}
			for i := want; i < len(have); i++ {
				res.Actions = append(res.Actions, plan.Action{Verb: plan.Delete, Ref: kinds.RefTo(kinds.Secret, have[i]), UID: have[i].UID})
			}
			return res
		},
	}
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
}

type fixture struct {
	*reconciletest.World
	runtime *reconcile.Runtime
	events  *reconciletest.Events
	log     *strings.Builder
	metrics *prometheus.Registry
	rng     *rand.Rand
}

func setup(t *testing.T, cs ...reconcile.Controller) *fixture {
	t.Helper()
	f := &fixture{
		World: reconciletest.New([]*kinds.Kind{kinds.ConfigMap, kinds.Secret, kinds.Pod}), events: &reconciletest.Events{},
		log: &strings.Builder{}, metrics: prometheus.NewRegistry(), rng: rand.New(rand.NewPCG(1, 2)),
	}
	r, err := reconcile.New(reconcile.Config{
		Controllers: cs, View: f.View, Client: func(string) client.Client { return f.World },
		Events: func(string) reconcile.Emitter { return f.events },
		Log:    slog.New(slog.NewTextHandler(f.log, nil)), Now: func() time.Time { return f.Now },
		Rand: rand.New(rand.NewPCG(3, 4)), Metrics: f.metrics,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.runtime = r
	return f
}

// steps runs until nothing is ready and returns how many keys were planned.
func (f *fixture) steps() int {
	n := 0
	for f.runtime.Step(context.Background(), f.rng) {
		n++
	}
	return n
}

func (f *fixture) metric(t *testing.T, name string) float64 {
	t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, mf := range families {
		for _, m := range mf.Metric {
			if mf.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func TestReadsItsOwnWrites(t *testing.T) {
	f := setup(t, copier(3))
	f.Put(kinds.ConfigMap, configMap("a"))
	f.Lag = true
	f.steps()
	// Woken again while the view shows none of the three: must not plan.
	f.View.Apply(view.Change{Kind: kinds.ConfigMap, New: bump(f.Object(kinds.ConfigMap, "default", "a"), "50"), Rev: 50})
	if n := f.steps(); n != 0 {
		t.Fatalf("planned %d times before the view showed the writes", n)
	}
	f.Deliver(nil)
	f.steps()
	if n := len(f.Objects(kinds.Secret)); n != 3 {
		t.Fatalf("%d secrets, want 3", n)
	}
}

func bump(o kinds.Object, rv string) kinds.Object {
	o = o.DeepCopyObject().(kinds.Object)
	o.SetResourceVersion(rv)
	return o
}

func TestHoldsBackAfterDelete(t *testing.T) {
	f := setup(t, copier(0))
	cm := f.Put(kinds.ConfigMap, configMap("a"))
	f.Put(kinds.Secret, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s",
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cm, kinds.ConfigMap.GVK)}}})
	f.Lag = true
	f.steps()
	f.View.Apply(view.Change{Kind: kinds.ConfigMap, New: bump(cm, "50"), Rev: 50})
	if n := f.steps(); n != 0 {
		t.Fatalf("planned %d times before the view showed the deletion", n)
	}
	f.Deliver(nil)
	f.steps()
	if got := f.Writes; len(got) != 1 {
		t.Fatalf("writes %v, want one delete", got)
	}
}

func TestHoldEndsAtItsLimit(t *testing.T) {
	f := setup(t, copier(1))
	f.Put(kinds.ConfigMap, configMap("a"))
	f.Lag = true
	f.steps()
	if due := f.runtime.NextDue(); due.Sub(f.Now) != 5*time.Minute {
		t.Fatalf("due in %v, want the limit of five minutes", due.Sub(f.Now))
	}
	f.Now = f.runtime.NextDue()
	if n := f.steps(); n != 1 {
		t.Fatalf("planned %d times at the limit, want once", n)
	}
	if !strings.Contains(f.log.String(), "does not show a write") {
		t.Errorf("no warning in the log: %s", f.log)
	}
}

func TestBackoffDoublesAndResets(t *testing.T) {
	f := setup(t, copier(1))
	f.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error {
		return apierrors.NewInternalError(errors.New("down"))
	}
	f.Put(kinds.ConfigMap, configMap("a"))
	want := 5 * time.Millisecond
	for range 20 {
		if n := f.steps(); n != 1 {
			t.Fatalf("planned %d times, want once", n)
		}
		wait := f.runtime.NextDue().Sub(f.Now)
		if wait < want || wait > want+want/5 {
			t.Fatalf("back-off %v, want %v and up to a fifth more", wait, want)
		}
		want = min(2*want, 5*time.Minute)
		f.Now = f.runtime.NextDue()
	}
	f.Hook = nil
	f.steps()
	if !f.runtime.NextDue().IsZero() || len(f.Objects(kinds.Secret)) != 1 {
		t.Error("the key did not come to rest")
	}
	// Success has reset the back-off.
	f.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error {
		return apierrors.NewInternalError(errors.New("down"))
	}
	f.Remove(kinds.Secret, "default", f.Objects(kinds.Secret)[0].GetName())
	f.steps()
	if wait := f.runtime.NextDue().Sub(f.Now); wait > 6*time.Millisecond {
		t.Errorf("back-off %v after a success, want the least", wait)
	}
}

func TestRefusalEndsAPass(t *testing.T) {
	c := copier(100)
	c.Owns = nil // what succeeded does not wake it at once
	f := setup(t, c)
	n := 0
	f.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error {
		if n++; n <= 3 {
			return nil
		}
		return apierrors.NewInternalError(errors.New("webhook"))
	}
	f.Put(kinds.ConfigMap, configMap("a"))
	f.steps()
	if n != 3+1 {
		t.Errorf("%d requests to a server that refuses after three, want 4", n)
	}
}

// A wish to be planned again outlives the wait for the view.
func TestAfterWithHold(t *testing.T) {
	c := copier(1)
	inner := c.Plan
	c.Plan = func(in reconcile.Input) plan.Result {
		res := inner(in)
		res.After = time.Hour
		return res
	}
	c.Owns = nil // the write itself does not wake
	f := setup(t, c)
	f.Put(kinds.ConfigMap, configMap("a"))
	f.Lag = true
	begin := f.Now
	f.steps()
	f.Now = f.Now.Add(time.Minute)
	f.Deliver(nil)
	f.steps()
	if got := f.runtime.NextDue().Sub(begin); got != time.Hour {
		t.Errorf("due %v after the pass, want 1h", got)
	}
}

func TestFailureReachesTheNextPlan(t *testing.T) {
	var seen []*reconcile.Failure
	c := copier(1)
	inner := c.Plan
	c.Plan = func(in reconcile.Input) plan.Result { seen = append(seen, in.Failure); return inner(in) }
	f := setup(t, c)
	answers := []error{
		apierrors.NewForbidden(kinds.Secret.GroupResource(), "x", errors.New("exceeded quota")),
		apierrors.NewConflict(kinds.Secret.GroupResource(), "x", errors.New("modified")), nil,
	}
	f.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error {
		err := answers[0]
		answers = answers[1:]
		return err
	}
	f.Put(kinds.ConfigMap, configMap("a"))
	f.steps()
	for !f.runtime.NextDue().IsZero() {
		f.Now = f.runtime.NextDue()
		f.steps()
	}
	if len(seen) < 3 || seen[0] != nil || seen[1] == nil || seen[1].Reason != metav1.StatusReasonForbidden || seen[2] != nil {
		t.Errorf("plans were told %v, want nothing, the refusal, and nothing for a conflict", seen)
	}
	if strings.Contains(f.log.String(), "modified") {
		t.Error("a conflict was logged as a failure")
	}
	if !strings.Contains(f.log.String(), "exceeded quota") {
		t.Error("the refusal is not in the log")
	}
}

// TestTakenNameIsToldInTheEnd: what exists already is most likely an own write
// that the view does not show yet; if it stays, plan and log are told.
func TestTakenNameIsToldInTheEnd(t *testing.T) {
	var seen []*reconcile.Failure
	c := copier(1)
	inner := c.Plan
	c.Plan = func(in reconcile.Input) plan.Result { seen = append(seen, in.Failure); return inner(in) }
	f := setup(t, c)
	f.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error {
		return apierrors.NewAlreadyExists(kinds.Secret.GroupResource(), "taken")
	}
	f.Put(kinds.ConfigMap, configMap("a"))
	f.steps()
	for len(seen) < 6 {
		f.Now = f.runtime.NextDue()
		f.steps()
	}
	if early := slices.IndexFunc(seen, func(g *reconcile.Failure) bool { return g != nil }); early != 4 || seen[4].Reason != metav1.StatusReasonAlreadyExists || seen[4].Verb != plan.Create {
		t.Errorf("plans were told %v, want what is in the way from the fifth on", seen)
	}
	if n := strings.Count(f.log.String(), "already exists"); n != 3 || seen[5] == nil {
		t.Errorf("logged %d times:\n%s", n, f.log.String())
	}
}

// TestConflictsAreNoFailures: who was outrun tries again at once and owes
// nothing to failures before or after, but not for ever.
func TestConflictsAreNoFailures(t *testing.T) {
	f := setup(t, copier(1))
	conflict := apierrors.NewConflict(kinds.Secret.GroupResource(), "x", errors.New("modified"))
	broken := apierrors.NewInternalError(errors.New("broken"))
	var answer error
	f.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error { return answer }
	// wait is how long the key waits after the next pass, in units of the first
	// back-off, without the jitter.
	wait := func(err error) int {
		t.Helper()
		answer = err
		f.steps()
		next := f.runtime.NextDue()
		if next.IsZero() {
			t.Fatal("the key is not tried again")
		}
		d := next.Sub(f.Now)
		f.Now = next
		for units := 1; ; units *= 2 {
			if least := time.Duration(units) * 5 * time.Millisecond; d <= least*6/5 {
				if d < least {
					t.Errorf("waits %v", d)
				}
				return units
			}
		}
	}
	f.Put(kinds.ConfigMap, configMap("a"))
	for i := range 10 {
		if got := wait(conflict); got != 1 {
			t.Fatalf("conflict %d: waits %d units", i+1, got)
		}
	}
	var grown []int
	for _, err := range []error{broken, conflict, broken, conflict, conflict} {
		grown = append(grown, wait(err))
	}
	if want := []int{1, 2, 4, 8, 16}; !slices.Equal(grown, want) {
		t.Errorf("after that it waits %v units, want %v", grown, want)
	}
	if n := strings.Count(f.log.String(), "write failed"); n != 2 || strings.Contains(f.log.String(), "modified") {
		t.Errorf("%d failures in the log: %s", n, f.log.String())
	}
	answer = nil
	f.steps()
	f.Remove(kinds.Secret, "default", f.Objects(kinds.Secret)[0].GetName())
	if got := wait(conflict); got != 1 {
		t.Errorf("after a success it waits %d units", got)
	}
}

func TestPanicIsContained(t *testing.T) {
	c := copier(1)
	inner := c.Plan
	c.Plan = func(in reconcile.Input) plan.Result {
		if in.Key.Name == "bad" {
			panic("boom")
		}
		return inner(in)
	}
	f := setup(t, c)
	f.Put(kinds.ConfigMap, configMap("bad"))
	f.Put(kinds.ConfigMap, configMap("good"))
	f.steps()
	if len(f.Objects(kinds.Secret)) != 1 {
		t.Error("the other key was not planned")
	}
	if f.runtime.NextDue().IsZero() {
		t.Error("the key is not tried again")
	}
	if !strings.Contains(f.log.String(), "boom") || f.metric(t, "knarr_reconcile_panics_total") != 1 {
		t.Error("the panic was not reported")
	}
}

func TestRefusesUndeclaredWrites(t *testing.T) {
	c := copier(1)
	c.Writes = []reconcile.Write{{Kind: kinds.Secret, Sub: "status", Verbs: []plan.Verb{plan.Create}}, {Kind: kinds.Secret, Verbs: []plan.Verb{plan.Delete}}}
	f := setup(t, c)
	f.Put(kinds.ConfigMap, configMap("a"))
	f.steps()
	if len(f.Writes) != 0 || f.metric(t, "knarr_reconcile_refused_writes_total") != 1 {
		t.Errorf("writes %v, refused %v", f.Writes, f.metric(t, "knarr_reconcile_refused_writes_total"))
	}
	if !strings.Contains(f.log.String(), "not declared") {
		t.Error("the refusal is not in the log")
	}
}

func TestSlowStart(t *testing.T) {
	f := setup(t, copier(100))
	f.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error {
		return apierrors.NewInternalError(errors.New("webhook"))
	}
	f.Put(kinds.ConfigMap, configMap("a"))
	f.steps()
	if len(f.Writes) != 1 {
		t.Errorf("%d requests to a server that refuses all, want 1", len(f.Writes))
	}
	f.Hook = nil
	f.Now = f.runtime.NextDue()
	f.steps()
	if n := len(f.Objects(kinds.Secret)); n != 100 {
		t.Errorf("%d secrets, want 100", n)
	}
}

// once plans the given actions for the config map "a" a single time.
func once(actions ...plan.Action) reconcile.Controller {
	left := actions
	all := []plan.Verb{plan.Create, plan.Update, plan.Patch, plan.Delete}
	return reconcile.Controller{
		Name: "once", For: kinds.ConfigMap, Writes: []reconcile.Write{{Kind: kinds.Secret, Verbs: all}, {Kind: kinds.ConfigMap, Verbs: all}},
		Plan: func(reconcile.Input) plan.Result {
			res := plan.Result{Actions: left}
			left = nil
			return res
		},
	}
}

func TestPreconditions(t *testing.T) {
	secret := kinds.Ref{Kind: kinds.Secret, Namespace: "default", Name: "s"}
	other := kinds.Ref{Kind: kinds.Pod, Namespace: "default", Name: "p"}
	waiting := kinds.Ref{Kind: kinds.Pod, Namespace: "default", Name: "w"}
	labels := []byte(`{"metadata":{"labels":{"x":"y"}}}`)
	patch := func(uid, rv string, t types.PatchType) plan.Action {
		return plan.Action{Verb: plan.Patch, Ref: secret, PatchType: t, Data: labels, UID: types.UID(uid), ResourceVersion: rv}
	}
	del := func(uid, rv string, live ...plan.Live) plan.Action {
		return plan.Action{Verb: plan.Delete, Ref: secret, UID: types.UID(uid), ResourceVersion: rv, Live: live}
	}
	alive := func(c plan.Condition, uid string) plan.Live {
		return plan.Live{Want: c, Ref: other, UID: types.UID(uid)}
	}
	for _, tt := range []struct {
		name    string
		action  plan.Action
		applied bool
	}{
		{"delete", del("s-uid", ""), true},
		{"delete of a namesake", del("old", ""), false},
		{"delete of an old state", del("s-uid", "1"), false},
		{"merge patch", patch("s-uid", "", types.MergePatchType), true},
		{"merge patch of a namesake", patch("old", "", types.MergePatchType), false},
		{"merge patch of an old state", patch("s-uid", "1", types.MergePatchType), false},
		{"strategic patch", patch("s-uid", "", types.StrategicMergePatchType), true},
		{"strategic patch of a namesake", patch("old", "", types.StrategicMergePatchType), false},
		{"other alive", del("s-uid", "", alive(plan.Alive, "p-uid")), true},
		{"other has another UID", del("s-uid", "", alive(plan.Alive, "old")), false},
		{"other absent", del("s-uid", "", alive(plan.Absent, "old")), true},
		{"other not absent", del("s-uid", "", alive(plan.Absent, "p-uid")), false},
		{"other waiting, in fact gone", del("s-uid", "", alive(plan.Waiting, "old")), true},
		{"other not waiting", del("s-uid", "", alive(plan.Waiting, "p-uid")), false},
		{"other waiting", del("s-uid", "", plan.Live{Want: plan.Waiting, Ref: waiting, UID: "w-uid"}), true},
		{"kind not empty", del("s-uid", "", alive(plan.Empty, "")), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := setup(t, once(tt.action))
			f.Put(kinds.Pod, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "p-uid"}})
			f.Put(kinds.Pod, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "w", UID: "w-uid",
				DeletionTimestamp: &metav1.Time{Time: f.Now}, Finalizers: []string{metav1.FinalizerDeleteDependents}}})
			before := f.Put(kinds.Secret, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s", UID: "s-uid"}})
			f.Put(kinds.ConfigMap, configMap("a"))
			f.steps()
			if applied := f.Object(kinds.Secret, "default", "s") != before; applied != tt.applied {
				t.Errorf("applied is %v", applied)
			}
			if f.log.Len() > 0 {
				t.Errorf("a failed precondition is in the course of things, logged: %s", f.log)
			}
		})
	}
}

func TestDeleteAll(t *testing.T) {
	c := once(plan.Action{Verb: plan.DeleteAll, Ref: kinds.Ref{Kind: kinds.Secret, Namespace: "default"}})
	c.Writes = append(c.Writes, reconcile.Write{Kind: kinds.Secret, Verbs: []plan.Verb{plan.DeleteAll}})
	f := setup(t, c)
	for i := range 20 {
		f.Put(kinds.Secret, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("s", i)}})
	}
	f.Put(kinds.Secret, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "s"}})
	f.Put(kinds.ConfigMap, configMap("a"))
	f.steps()
	if left := f.Objects(kinds.Secret); len(left) != 1 || left[0].GetNamespace() != "other" {
		t.Errorf("%d secrets left, want the one of the other namespace", len(left))
	}
}

func TestEventsFollowTheirActions(t *testing.T) {
	ok := plan.Action{Verb: plan.Delete, Ref: kinds.Ref{Kind: kinds.Secret, Namespace: "default", Name: "s"},
		Event: &plan.Event{Reason: "Deleted"}, Failed: &plan.Event{Reason: "NotDeleted", Message: "Error: "}}
	f := setup(t, once(ok))
	f.Put(kinds.Secret, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}})
	f.Put(kinds.ConfigMap, configMap("a"))
	f.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error { return apierrors.NewBadRequest("no") }
	f.steps()
	if len(f.events.All) != 1 || f.events.All[0].Reason != "NotDeleted" || f.events.All[0].Message != "Error: no" {
		t.Errorf("events %+v", f.events.All)
	}
	gone := ok
	gone.Ref.Name, gone.Tolerate = "absent", []metav1.StatusReason{metav1.StatusReasonNotFound}
	f = setup(t, once(gone, ok))
	f.Put(kinds.Secret, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}})
	f.Put(kinds.ConfigMap, configMap("a"))
	f.steps()
	if len(f.events.All) != 1 || f.events.All[0].Reason != "Deleted" {
		t.Errorf("events %+v, want one for the object that was there", f.events.All)
	}
}

func TestAfterAndResync(t *testing.T) {
	passes := 0
	c := reconcile.Controller{Name: "timer", For: kinds.ConfigMap, Resync: time.Hour, Plan: func(reconcile.Input) plan.Result {
		passes++
		if passes == 1 {
			return plan.Result{After: 7 * time.Second}
		}
		return plan.Result{}
	}}
	f := setup(t, c)
	f.Put(kinds.ConfigMap, configMap("a"))
	f.steps()
	for _, want := range []time.Duration{7 * time.Second, time.Hour, time.Hour} {
		if got := f.runtime.NextDue().Sub(f.Now); got != want {
			t.Fatalf("due in %v, want %v", got, want)
		}
		f.Now = f.runtime.NextDue()
		f.steps()
	}
	f.Remove(kinds.ConfigMap, "default", "a")
	f.steps()
	if !f.runtime.NextDue().IsZero() {
		t.Error("a deleted object is still due")
	}
}

// Run: keys of one controller never at once, the bound on workers holds, and
// everything is planned after a burst of changes.
func TestRunNeverPlansAKeyTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy [10]atomic.Int32
		var total, most atomic.Int32
		planned := make([]atomic.Int64, 10)
		c := reconcile.Controller{Name: "slow", For: kinds.ConfigMap, Workers: 4, Plan: func(in reconcile.Input) plan.Result {
			var i int
			fmt.Sscanf(in.Key.Name, "cm%d", &i)
			if busy[i].Add(1) > 1 {
				t.Errorf("%s is planned twice at once", in.Key)
			}
			most.Store(max(most.Load(), total.Add(1)))
			<-time.After(time.Second) // the bubble's time
			cm := view.Get[*corev1.ConfigMap](in.View, kinds.ConfigMap, in.Key.Namespace, in.Key.Name)
			planned[i].Store(int64(len(cm.Data)))
			total.Add(-1)
			busy[i].Add(-1)
			return plan.Result{}
		}}
		w := reconciletest.New([]*kinds.Kind{kinds.ConfigMap})
		r, err := reconcile.New(reconcile.Config{Controllers: []reconcile.Controller{c}, View: w.View, Client: func(string) client.Client { return w }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		for round := range 5 {
			for i := range 10 {
				cm := configMap(fmt.Sprintf("cm%d", i))
				cm.Data = map[string]string{}
				for n := range round + 1 {
					cm.Data[fmt.Sprint(n)] = ""
				}
				w.Put(kinds.ConfigMap, cm)
			}
			<-time.After(300 * time.Millisecond)
		}
		<-time.After(time.Minute)
		synctest.Wait()
		for i := range planned {
			if planned[i].Load() != 5 {
				t.Errorf("cm%d was last planned with %d entries, want 5", i, planned[i].Load())
			}
		}
		if most.Load() != 4 {
			t.Errorf("at most %d plans at once, want 4", most.Load())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRunCreatesInParallelAndStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := reconciletest.New([]*kinds.Kind{kinds.ConfigMap, kinds.Secret})
		var now, most atomic.Int32
		w.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error {
			most.Store(max(most.Load(), now.Add(1)))
			<-time.After(time.Millisecond)
			now.Add(-1)
			return nil
		}
		r, err := reconcile.New(reconcile.Config{Controllers: []reconcile.Controller{copier(200)}, View: w.View, Client: func(string) client.Client { return w }, Parallel: 10})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		w.Put(kinds.ConfigMap, configMap("a"))
		begin := time.Now()
		for len(w.Objects(kinds.Secret)) < 200 {
			<-time.After(time.Millisecond)
		}
		if took := time.Since(begin); took > 40*time.Millisecond {
			t.Errorf("200 writes of 1 ms took %v with 10 at once", took)
		}
		if most.Load() != 10 {
			t.Errorf("%d writes at once, want the bound of 10", most.Load())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A runtime without anything to do must not keep a timer: synctest's clock
// would jump from tick to tick, real machines would wake up.
func TestIdleRunDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := reconciletest.New([]*kinds.Kind{kinds.ConfigMap, kinds.Secret})
		passes := 0
		c := copier(1)
		inner := c.Plan
		c.Plan = func(in reconcile.Input) plan.Result { passes++; return inner(in) }
		r, err := reconcile.New(reconcile.Config{Controllers: []reconcile.Controller{c}, View: w.View, Client: func(string) client.Client { return w }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		w.Put(kinds.ConfigMap, configMap("a"))
		<-time.After(24 * time.Hour)
		synctest.Wait()
		if passes > 3 {
			t.Errorf("%d passes in an idle day", passes)
		}
		if !r.NextDue().IsZero() {
			t.Errorf("an idle runtime is due at %v", r.NextDue())
		}
		cancel()
		<-done
	})
}

func TestStepReplays(t *testing.T) {
	run := func() []string {
		f := setup(t, copier(4))
		for i := range 10 {
			f.Put(kinds.ConfigMap, configMap(fmt.Sprintf("cm%d", i)))
		}
		f.steps()
		return f.Writes
	}
	a, b := run(), run()
	if !slices.Equal(a, b) || len(a) != 40 {
		t.Errorf("two runs of one seed differ:\n%v\n%v", a, b)
	}
}
