package statefulset

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

type setOption func(*appsv1.StatefulSet)

func set(replicas int32, opts ...setOption) *appsv1.StatefulSet {
	l := map[string]string{"app": "web"}
	s := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "set", Generation: 1},
		Spec: appsv1.StatefulSetSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l}, ServiceName: "svc",
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l, Annotations: map[string]string{"a": "b"}},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}, Volumes: []corev1.Volume{{Name: "tmp"}}}}},
	}
	defaults.StatefulSet(s)
	for _, o := range opts {
		o(s)
	}
	return s
}

func image(v string) setOption {
	return func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = v }
}
func parallel(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }
func onDelete(s *appsv1.StatefulSet) {
	s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
}
func gone(s *appsv1.StatefulSet) { s.DeletionTimestamp = &metav1.Time{Time: now} }
func from(n int32) setOption {
	return func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: n} }
}
func slow(n int32) setOption { return func(s *appsv1.StatefulSet) { s.Spec.MinReadySeconds = n } }
func historyLimit(n int32) setOption {
	return func(s *appsv1.StatefulSet) { s.Spec.RevisionHistoryLimit = &n }
}
func partitioned(n int32) setOption {
	return func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = &n }
}
func unavailable(v intstr.IntOrString) setOption {
	return func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = &v }
}

// rolling sets have revision v1 as their current one.
func rolling(s *appsv1.StatefulSet) { s.Status.CurrentRevision = revision("v1", 1).Name }

// revision that a set with that image writes.
func revision(v string, number int64) *appsv1.ControllerRevision {
	s := set(0, image(v))
	p := history.Subject{Kind: kinds.StatefulSet, Set: s, Template: &s.Spec.Template, HashLabel: history.HashLabel, Collisions: new(int32),
		Named: func(string) *appsv1.ControllerRevision { return nil }}.Present(nil)
	p.Revision.Revision, p.Revision.UID = number, types.UID("r-"+v)
	return p.Revision
}

type podOption func(*corev1.Pod)

// pod of the set, of revision v1, available.
func pod(n int, opts ...podOption) *corev1.Pod {
	name := fmt.Sprint("web-", n)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("u-" + name),
			Labels:          map[string]string{"app": "web", appsv1.StatefulSetPodNameLabel: name, appsv1.StatefulSetRevisionLabel: revision("v1", 1).Name},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set(0), kinds.StatefulSet.GVK)}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "v1"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}},
	}
	for _, o := range opts {
		o(p)
	}
	return p
}

func of(v string) podOption {
	return func(p *corev1.Pod) { p.Labels[appsv1.StatefulSetRevisionLabel] = revision(v, 1).Name }
}
func unready(p *corev1.Pod)  { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func pending(p *corev1.Pod)  { p.Status.Phase = corev1.PodPending; unready(p) }
func failed(p *corev1.Pod)   { p.Status.Phase = corev1.PodFailed; unready(p) }
func deleting(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }
func orphan(p *corev1.Pod)   { p.OwnerReferences = nil }
func other(p *corev1.Pod)    { p.Labels["app"] = "other" }
func nameless(p *corev1.Pod) { delete(p.Labels, appsv1.StatefulSetPodNameLabel) }
func readyFor(d time.Duration) podOption {
	return func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-d)) }
}

// observed has the revisions v1 and v2, as far as in says so, and the claims.
func observed(s *appsv1.StatefulSet, things ...any) Observed {
	o := Observed{Set: s, Now: now}
	claims := map[string]*corev1.PersistentVolumeClaim{}
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
		case *corev1.PersistentVolumeClaim:
			claims[t.Name] = t
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
	o.Claim = func(name string) *corev1.PersistentVolumeClaim { return claims[name] }
	return o
}

// summary of actions, without the status: "create web-0 v1", "delete web-1",
// "revision 2".
func summary(res plan.Result) []string {
	var out []string
	for _, a := range res.Actions {
		switch o := a.Object.(type) {
		case *corev1.Pod:
			out = append(out, fmt.Sprintf("%s %s %s", a.Verb, o.Name, o.Spec.Containers[0].Image))
		case *appsv1.ControllerRevision:
			out = append(out, fmt.Sprintf("%s revision %d", a.Verb, o.Revision))
		case *corev1.PersistentVolumeClaim:
			out = append(out, fmt.Sprintf("%s claim %s %s", a.Verb, o.Name, owners(o.OwnerReferences)))
		case *appsv1.StatefulSet:
		default:
			switch {
			case a.Verb == plan.Patch && strings.Contains(string(a.Data), "$patch"):
				out = append(out, "release "+a.Ref.Name)
			case a.Verb == plan.Patch:
				out = append(out, "adopt "+a.Ref.Name)
			default:
				out = append(out, string(a.Verb)+" "+a.Ref.Name)
			}
		}
	}
	return out
}

func owners(refs []metav1.OwnerReference) string {
	var names []string
	for _, r := range refs {
		names = append(names, r.Kind+":"+r.Name)
	}
	return strings.Join(names, ",")
}

// status that the plan writes, or the set's if it writes none.
func status(o Observed) string {
	s := o.Set.Status
	for _, a := range Plan(o).Actions {
		if a.Ref.Sub == "status" {
			s = a.Object.(*appsv1.StatefulSet).Status
		}
	}
	name := func(r string) string {
		for _, v := range []string{"v1", "v2", "v3"} {
			if r == revision(v, 1).Name {
				return v
			}
		}
		return r
	}
	return fmt.Sprintf("%d pods, %d ready, %d available, %d %s, %d %s", s.Replicas, s.ReadyReplicas, s.AvailableReplicas,
		s.CurrentReplicas, name(s.CurrentRevision), s.UpdatedReplicas, name(s.UpdateRevision))
}

func TestPlan(t *testing.T) {
	r1, r2 := revision("v1", 1), revision("v2", 2)
	to2 := []setOption{image("v2"), rolling}
	with := func(more ...setOption) []setOption { return append(slices.Clone(to2), more...) }
	everything := set(1)
	everything.Spec.Selector = &metav1.LabelSelector{}
	for _, tt := range []struct {
		name string
		in   Observed
		want []string
	}{
		{"the first pod with its revision", observed(set(3)), []string{"create revision 1", "create web-0 v1"}},
		{"waits for the first to be ready", observed(set(3), r1, pod(0, pending)), nil},
		{"waits for the first to be available", observed(set(3, slow(60)), r1, pod(0, readyFor(time.Second))), nil},
		{"the second pod", observed(set(3), r1, pod(0)), []string{"create web-1 v1"}},
		{"a gap first", observed(set(3), r1, pod(0), pod(2)), []string{"create web-1 v1"}},
		{"not while an earlier one goes", observed(set(3), r1, pod(0, deleting), pod(1)), nil},
		{"all at once", observed(set(3, parallel), r1, pod(1, pending)), []string{"create web-0 v1", "create web-2 v1"}},
		{"from another ordinal", observed(set(2, from(5)), r1, pod(5)), []string{"create web-6 v1"}},
		{"what is below the start goes", observed(set(1, from(1)), r1, pod(0), pod(1)), []string{"delete web-0"}},
		{"zero", observed(set(0), r1), nil},

		{"an ended pod is deleted", observed(set(2), r1, pod(0, failed), pod(1)), []string{"delete web-0"}},
		{"and made anew when it is gone", observed(set(2), r1, pod(0, failed, deleting), pod(1)), nil},
		{"all that have ended", observed(set(2, parallel), r1, pod(0, failed), pod(1, failed)), []string{"delete web-0", "delete web-1"}},

		{"scales down from the end", observed(set(1), r1, pod(0), pod(1), pod(2)), []string{"delete web-2"}},
		{"one at a time", observed(set(1), r1, pod(0), pod(1), pod(2, deleting)), nil},
		{"not while one before is not ready", observed(set(1), r1, pod(0, unready), pod(1)), nil},
		{"not while one before it that goes too is not ready", observed(set(1), r1, pod(0), pod(1, unready), pod(2, unready)), nil},
		{"the last, if it is the only one not ready", observed(set(1), r1, pod(0), pod(1), pod(2, unready)), []string{"delete web-2"}},
		{"not available either", observed(set(1, slow(60)), r1, pod(0), pod(1, readyFor(time.Second)), pod(2, readyFor(time.Second))), nil},
		{"scales down all at once", observed(set(1, parallel), r1, pod(0, unready), pod(1), pod(2, unready), pod(3, deleting)), []string{"delete web-2", "delete web-1"}},
		{"scaling goes before updates", observed(set(2, to2...), r1, r2, pod(0), pod(1), pod(2)), []string{"delete web-2"}},

		{"a new template", observed(set(2, to2...), r1, pod(0), pod(1)), []string{"create revision 2", "delete web-1"}},
		{"updates from the end", observed(set(3, to2...), r1, r2, pod(0), pod(1), pod(2, of("v2"))), []string{"delete web-1"}},
		{"waits for the updated", observed(set(3, to2...), r1, r2, pod(0), pod(1), pod(2, of("v2"), unready)), nil},
		{"makes the pod of the new revision", observed(set(3, to2...), r1, r2, pod(0), pod(1)), []string{"create web-2 v2"}},
		{"partition", observed(set(3, with(partitioned(2))...), r1, r2, pod(0), pod(1), pod(2, of("v2"))), nil},
		{"partition beyond the end", observed(set(2, with(partitioned(9))...), r1, r2, pod(0), pod(1)), nil},
		{"below the partition the old revision comes back", observed(set(3, with(partitioned(2))...), r1, r2, pod(0), pod(2, of("v2"))), []string{"create web-1 v1"}},
		{"above it the new one", observed(set(3, with(partitioned(2))...), r1, r2, pod(0), pod(1)), []string{"create web-2 v2"}},
		{"partition counts from the start", observed(set(3, with(partitioned(1), from(10))...), r1, r2, pod(10), pod(11), pod(12, of("v2"))), []string{"delete web-11"}},
		{"two at a time", observed(set(4, with(unavailable(intstr.FromInt32(2)))...), r1, r2, pod(0), pod(1), pod(2), pod(3)), []string{"delete web-3", "delete web-2"}},
		{"half, rounded down", observed(set(5, with(unavailable(intstr.FromString("50%")))...), r1, r2, pod(0), pod(1), pod(2), pod(3), pod(4)), []string{"delete web-4", "delete web-3"}},
		{"a small share is one", observed(set(2, with(unavailable(intstr.FromString("1%")))...), r1, r2, pod(0), pod(1)), []string{"delete web-1"}},
		{"parallel: no more than may be away", observed(set(4, with(parallel, unavailable(intstr.FromInt32(2)))...), r1, r2, pod(0), pod(1), pod(2), pod(3, of("v2"), unready)), []string{"delete web-2"}},
		{"parallel: a missing one counts", observed(set(3, with(parallel)...), r1, r2, pod(0), pod(1)), []string{"create web-2 v2"}},
		{"parallel: those away already first", observed(set(4, with(parallel, unavailable(intstr.FromInt32(2)))...), r1, r2, pod(0, unready), pod(1), pod(2), pod(3)), []string{"delete web-0", "delete web-3"}},
		{"parallel: all that are away", observed(set(3, with(parallel)...), r1, r2, pod(0, unready), pod(1), pod(2, pending)), []string{"delete web-2", "delete web-0"}},
		{"parallel: an ended one is deleted once", observed(set(2, with(parallel)...), r1, r2, pod(0), pod(1, failed)), []string{"delete web-1"}},
		{"a broken update stays, as long as nobody deletes its pod", observed(set(2, image("v1"), rolling), revision("v1", 3), r2, pod(0), pod(1, of("v2"), unready)), nil},
		{"rollback", observed(set(2, image("v1"), rolling), r1, r2, pod(0), pod(1, of("v2"))), []string{"update revision 3", "delete web-1"}},
		{"on delete: nothing by itself", observed(set(2, image("v2"), rolling, onDelete), r1, r2, pod(0), pod(1)), nil},
		{"on delete: new pods are new", observed(set(2, image("v2"), rolling, onDelete), r1, r2, pod(0)), []string{"create web-1 v2"}},

		{"adopts", observed(set(1), r1, pod(0, orphan)), []string{"adopt web-0"}},
		{"leaves other orphans", observed(set(0), r1, pod(0, orphan, other), pod(1, orphan, deleting), named("web-x"), named("web-01"), named("web-0-1")), nil},
		{"releases by label", observed(set(0), r1, pod(0, other)), []string{"release web-0"}},
		{"gives an adopted pod its name", observed(set(1), r1, pod(0, nameless)), []string{"update web-0 v1"}},
		{"being deleted: nothing", observed(set(3, gone), pod(0, failed), pod(1, orphan), pod(2, other)), nil},
		{"an empty selector manages nothing", observed(everything, pod(0)), nil},
		{"history beyond the limit", observed(set(0, historyLimit(1), image("v3")), r1, r2, revision("v3", 3)), []string{"delete " + r1.Name}},
		{"history that pods are of", observed(set(1, historyLimit(0), image("v3"), partitioned(1), rolling), r1, r2, revision("v3", 3), pod(0)), []string{"delete " + r2.Name}},
		{"history without a limit", observed(set(0, historyLimit(-1), image("v3")), r1, r2, revision("v3", 3)), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := summary(Plan(tt.in)); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

// named is an orphan with the labels of the set under a name that it would not give.
func named(name string) *corev1.Pod {
	p := pod(0, orphan)
	p.Name = name
	return p
}

func TestStatus(t *testing.T) {
	r1, r2 := revision("v1", 1), revision("v2", 2)
	for _, tt := range []struct {
		name string
		in   Observed
		want string
	}{
		{"new", observed(set(2)), "0 pods, 0 ready, 0 available, 0 v1, 0 v1"},
		{"counts", observed(set(4), r1, pod(0), pod(1, unready), pod(2, deleting)), "3 pods, 2 ready, 2 available, 2 v1, 2 v1"},
		{"available later", observed(set(2, slow(60)), r1, pod(0), pod(1, readyFor(time.Second))), "2 pods, 2 ready, 1 available, 2 v1, 2 v1"},
		{"an update begins", observed(set(2, image("v2"), rolling), r1, pod(0), pod(1)), "2 pods, 2 ready, 2 available, 1 v1, 0 v2"},
		{"goes on", observed(set(2, image("v2"), rolling), r1, r2, pod(0), pod(1, of("v2"), unready)), "2 pods, 1 ready, 1 available, 1 v1, 1 v2"},
		{"ends", observed(set(2, image("v2"), rolling), r1, r2, pod(0, of("v2")), pod(1, of("v2"))), "2 pods, 2 ready, 2 available, 2 v2, 2 v2"},
		{"a partition is no end", observed(set(2, image("v2"), rolling, partitioned(1)), r1, r2, pod(0), pod(1, of("v2"))), "2 pods, 2 ready, 2 available, 1 v1, 1 v2"},
		{"being deleted", observed(set(2, gone, rolling), pod(0)), "1 pods, 1 ready, 1 available, 1 v1, 0 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := status(tt.in); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
	if got := Plan(observed(set(1, slow(60)), r1, pod(0, readyFor(45*time.Second)))).After; got != 15*time.Second {
		t.Errorf("looks again after %v, when the pod becomes available", got)
	}
}

func TestPodOfSet(t *testing.T) {
	res := Plan(observed(set(3, from(7)), revision("v1", 1)))
	a := res.Actions[len(res.Actions)-1]
	p := a.Object.(*corev1.Pod)
	want := map[string]string{"app": "web", "statefulset.kubernetes.io/pod-name": "web-7", "apps.kubernetes.io/pod-index": "7", "controller-revision-hash": revision("v1", 1).Name}
	if p.Name != "web-7" || p.GenerateName != "web-" || p.Spec.Hostname != "web-7" || p.Spec.Subdomain != "svc" || !maps.Equal(p.Labels, want) || p.Annotations["a"] != "b" {
		t.Errorf("pod %+v", p)
	}
	if ref := metav1.GetControllerOf(p); ref == nil || ref.UID != "set" || ref.Kind != "StatefulSet" || !*ref.BlockOwnerDeletion {
		t.Errorf("owner %+v", ref)
	}
	if e := a.Event; e.Reason != "SuccessfulCreate" || e.Message != "Create Pod web-7 in StatefulSet web successful" {
		t.Errorf("event %+v", e)
	}
	if e := a.Failed; e.Reason != "FailedCreate" || e.Type != "Warning" || e.Message != "Create Pod web-7 in StatefulSet web failed error: " {
		t.Errorf("event %+v", e)
	}
	res = Plan(observed(set(0), revision("v1", 1), pod(0)))
	a = res.Actions[len(res.Actions)-1]
	if a.UID != "u-web-0" || a.Event.Reason != "SuccessfulDelete" || a.Event.Message != "Delete Pod web-0 in StatefulSet web successful" {
		t.Errorf("action %+v", a)
	}
}

// A set that wants two billion pods costs no more than one pass's worth.
func TestHugeSet(t *testing.T) {
	if n := len(summary(Plan(observed(set(2_000_000_000, parallel), revision("v1", 1))))); n != burst {
		t.Errorf("%d creates", n)
	}
	if n := len(summary(Plan(observed(set(2_000_000_000), revision("v1", 1))))); n != 1 {
		t.Errorf("%d creates in an ordered set", n)
	}
}

// anyPods draws pods in all states that the plan tells apart.
func anyPods(t *rapid.T) (things []any) {
	options := map[string]podOption{"unready": unready, "pending": pending, "failed": failed, "deleting": deleting, "orphan": orphan,
		"other": other, "v2": of("v2"), "young": readyFor(time.Second), "nameless": nameless}
	names := slices.Sorted(maps.Keys(options))
	for n := range rapid.IntRange(0, 8).Draw(t, "pods") {
		if rapid.Bool().Draw(t, "missing") {
			continue
		}
		p := pod(n)
		for _, o := range rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 3, rapid.ID[string]).Draw(t, "state") {
			options[o](p)
		}
		things = append(things, p)
	}
	return things
}

func anySet(t *rapid.T) *appsv1.StatefulSet {
	s := set(rapid.Int32Range(0, 8).Draw(t, "replicas"), image(rapid.SampledFrom([]string{"v1", "v2"}).Draw(t, "image")), rolling,
		partitioned(rapid.Int32Range(0, 8).Draw(t, "partition")), unavailable(intstr.FromInt32(rapid.Int32Range(1, 3).Draw(t, "unavailable"))),
		slow(rapid.SampledFrom([]int32{0, 60}).Draw(t, "slow")), from(rapid.Int32Range(0, 3).Draw(t, "start")))
	if rapid.Bool().Draw(t, "parallel") {
		parallel(s)
	}
	if rapid.IntRange(0, 4).Draw(t, "on delete") == 0 {
		onDelete(s)
	}
	return s
}

func TestTouchesOnlyItsOwn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		things := anyPods(t)
		s := anySet(t)
		in := observed(s, append(things, revision("v1", 1), revision("v2", 2))...)
		budget, deleted := 0, map[string]bool{}
		for _, a := range Plan(in).Actions {
			if a.Ref.Kind == kinds.Pod && a.Verb != plan.Create {
				i := slices.IndexFunc(things, func(o any) bool { return o.(*corev1.Pod).Name == a.Ref.Name })
				p := things[i].(*corev1.Pod)
				if a.Verb != plan.Update && a.UID != p.UID {
					t.Fatalf("%s %s without its UID", a.Verb, a.Ref)
				}
				if a.Verb == plan.Delete {
					if p.Labels["app"] != "web" || p.DeletionTimestamp != nil || deleted[p.Name] {
						t.Fatalf("deletes %s, which is not of the set or goes already", p.Name)
					}
					deleted[p.Name] = true
				}
				continue
			}
			if a.Ref.Kind == kinds.StatefulSet && (a.Ref.Name != s.Name || a.Ref.Sub != "status") {
				t.Fatalf("writes %s", a.Ref)
			}
			if a.Ref.Kind == kinds.Pod {
				budget++
			}
		}
		if s.Spec.PodManagementPolicy != appsv1.ParallelPodManagement && budget > 1 {
			t.Fatalf("an ordered set makes %d pods at once", budget)
		}
	})
}

func TestInputOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		things := append(anyPods(t), revision("v1", 1), revision("v2", 2))
		s := anySet(t)
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
