package job

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

func world() *reconciletest.World {
	return reconciletest.New([]*kinds.Kind{kinds.Job, kinds.Pod, kinds.Namespace}, view.PodsByOwner, view.PodOrphans, view.TrackedPods)
}

// kubelet runs pods of which one in every so many fails; 0: none does. It ends
// pods that are deleted.
func kubelet(oneIn uint32) reconcile.Controller {
	return reconcile.Controller{
		Name: "kubelet", For: kinds.Pod, Writes: []reconcile.Write{{Kind: kinds.Pod, Sub: "status", Verbs: []plan.Verb{plan.Update}}},
		Plan: func(in reconcile.Input) (res plan.Result) {
			p := view.Get[*corev1.Pod](in.View, kinds.Pod, in.Key.Namespace, in.Key.Name)
			if p == nil || ended(p) {
				return res
			}
			next := p.DeepCopy()
			switch {
			case p.DeletionTimestamp != nil:
				next.Status.Phase = corev1.PodFailed
			case p.Status.Phase != corev1.PodRunning:
				next.Status.Phase = corev1.PodRunning
			default:
				next.Status.Phase = corev1.PodSucceeded
				h := fnv.New32a()
				h.Write([]byte(p.Name))
				if oneIn > 0 && h.Sum32()%oneIn == 0 {
					next.Status.Phase = corev1.PodFailed
				}
			}
			state := corev1.ConditionFalse
			if next.Status.Phase == corev1.PodRunning {
				state = corev1.ConditionTrue
			}
			next.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: state, LastTransitionTime: metav1.NewTime(in.Now)}}
			res.Actions = []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.Pod, p).WithSub("status"), Object: next}}
			return res
		},
	}
}

func stored(w *reconciletest.World) *batchv1.Job {
	return w.Object(kinds.Job, "default", "pi").(*batchv1.Job)
}

func fresh(j *batchv1.Job) *batchv1.Job {
	j.UID, j.Status = "job", batchv1.JobStatus{}
	return j
}

func anyJob(t *rapid.T) *batchv1.Job {
	parallelism, completions := rapid.Int32Range(1, 5).Draw(t, "parallelism"), rapid.Int32Range(1, 8).Draw(t, "completions")
	opts := []jobOption{sized(parallelism, completions), limit(1000)}
	switch rapid.IntRange(0, 3).Draw(t, "mode") {
	case 1:
		opts = append(opts, asIndexed)
	case 2:
		opts = append(opts, perIndex(1000))
	case 3:
		opts = append(opts, replacesFailed)
	}
	return fresh(job(opts...))
}

// Whatever fails and whenever the controller starts anew, each pod that was
// ever made is counted exactly once.
func TestCountsEachPodOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world()
		j := w.Put(kinds.Job, anyJob(t)).(*batchv1.Job)
		seed := rapid.Uint64().Draw(t, "seed")
		rng := rand.New(rand.NewPCG(seed, 0))
		created := map[string]bool{}
		faults := rapid.IntRange(0, 40).Draw(t, "faults")
		w.Hook = func(v plan.Verb, ref kinds.Ref, o runtime.Object) error {
			if ref.Sub != "status" && ref.Kind == kinds.Job {
				t.Fatalf("writes %s %s", v, ref)
			}
			if faults > 0 && rng.IntN(4) == 0 {
				faults--
				return apierrors.NewInternalError(errors.New("away"))
			}
			if v == plan.Create {
				created[ref.Name] = true
				if active := where(pods(w), isActive); len(active) >= int(*j.Spec.Parallelism) {
					t.Fatalf("%d active pods already, parallelism %d", len(active), *j.Spec.Parallelism)
				}
			}
			return nil
		}
		for n := 0; !done(stored(w)); n++ {
			if n > 200 {
				t.Fatalf("never ends: %+v", stored(w).Status)
			}
			// An error only says that there is more to do: the next life goes on.
			_, _ = w.Drive(seed+uint64(n), rng.IntN(40), time.Duration(rng.IntN(1000))*time.Second, Controller(), kubelet(3))
			if all := pods(w); len(all) > 0 && rng.IntN(3) == 0 {
				victim := all[rng.IntN(len(all))]
				_, _ = w.Delete(t.Context(), kinds.RefTo(kinds.Pod, victim), metav1.DeleteOptions{})
			}
		}
		if _, err := w.Drive(seed, 400, time.Hour, Controller(), kubelet(3)); err != nil {
			t.Fatal(err)
		}
		s := stored(w).Status
		if !is(stored(w), batchv1.JobComplete) || s.Succeeded != *j.Spec.Completions || int(s.Succeeded+s.Failed) != len(created) {
			t.Fatalf("%d pods were made for %d completions: %+v", len(created), *j.Spec.Completions, s)
		}
		if left := where(pods(w), tracked); len(left) > 0 || s.Active+*s.Terminating != 0 {
			t.Fatalf("%d pods are still tracked: %+v", len(left), s)
		}
		n := len(w.Writes)
		if _, err := w.Drive(seed, 400, time.Hour, Controller()); err != nil || len(w.Writes) != n {
			t.Fatalf("at rest, but writes %v: %v", w.Writes[n:], err)
		}
	})
}

func pods(w *reconciletest.World) []*corev1.Pod {
	var out []*corev1.Pod
	for _, o := range w.Objects(kinds.Pod) {
		out = append(out, o.(*corev1.Pod))
	}
	return out
}

func TestRunsToTheEnd(t *testing.T) {
	for _, tt := range []struct {
		name   string
		job    *batchv1.Job
		oneIn  uint32 // fails
		end    batchv1.JobConditionType
		reason string
	}{
		{"large", job(sized(700, 1600)), 0, batchv1.JobComplete, "CompletionsReached"},
		{"large and indexed", job(sized(700, 1600), asIndexed), 0, batchv1.JobComplete, "CompletionsReached"},
		{"work queue", job(queue(3)), 0, batchv1.JobComplete, "CompletionsReached"},
		{"always fails", job(limit(2)), 1, batchv1.JobFailed, "BackoffLimitExceeded"},
		{"each index fails", job(sized(2, 3), perIndex(1)), 1, batchv1.JobFailed, "FailedIndexes"},
		{"too many indexes fail", job(sized(2, 9), perIndex(0), maxFailedIndexes(1)), 1, batchv1.JobFailed, "MaxFailedIndexesExceeded"},
		{"one is enough", job(sized(1, 5), asIndexed, success(batchv1.SuccessPolicyRule{SucceededCount: ptr(int32(1))})), 0, batchv1.JobComplete, "SuccessPolicy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := world()
			w.Put(kinds.Job, fresh(tt.job))
			ev, err := w.Drive(1, 40000, 3*time.Hour, Controller(), kubelet(tt.oneIn))
			if err != nil {
				t.Fatal(err)
			}
			j := stored(w)
			if c := conditionOf(&j.Status, tt.end); c == nil || c.Reason != tt.reason {
				t.Fatalf("status %+v", j.Status)
			}
			if tt.end == batchv1.JobComplete && tt.reason == "CompletionsReached" && j.Spec.Completions != nil && j.Status.Succeeded != *j.Spec.Completions {
				t.Errorf("%d succeeded", j.Status.Succeeded)
			}
			want := tt.reason
			if tt.end == batchv1.JobComplete {
				want = "Completed"
			}
			if n := len(slices.DeleteFunc(slices.Clone(ev.All), func(e plan.Event) bool { return e.Reason != want })); n != 1 {
				t.Errorf("%d events %s", n, want)
			}
			if left := where(pods(w), tracked); len(left) > 0 {
				t.Errorf("%d pods are still tracked", len(left))
			}
		})
	}
}

func TestWaitsLongerAfterEachFailure(t *testing.T) {
	w := world()
	w.Put(kinds.Job, fresh(job(limit(4))))
	begin := w.Now
	if _, err := w.Drive(1, 1000, time.Hour, Controller(), kubelet(1)); err != nil {
		t.Fatal(err)
	}
	if n := len(pods(w)); n != 5 {
		t.Errorf("%d pods, want 5", n)
	}
	var at []time.Duration
	for _, p := range pods(w) {
		at = append(at, p.CreationTimestamp.Sub(begin))
	}
	slices.Sort(at)
	if !slices.Equal(at, []time.Duration{0, 10 * time.Second, 30 * time.Second, 70 * time.Second, 150 * time.Second}) {
		t.Errorf("pods made at %v", at)
	}
}

func TestPodsOfAJobThatIsGoneAreLetGo(t *testing.T) {
	w := world()
	gone := pod("gone")
	gone.OwnerReferences[0].UID, gone.OwnerReferences[0].Name = "x", "x"
	theirs := pod("theirs")
	theirs.OwnerReferences[0].Kind, theirs.OwnerReferences[0].APIVersion = "Thing", "example.com/v1"
	for _, p := range []*corev1.Pod{gone, theirs, pod("nobody's", orphaned)} {
		w.Put(kinds.Pod, p)
	}
	if _, err := w.Drive(1, 100, time.Hour, Controller()); err != nil {
		t.Fatal(err)
	}
	w.Put(kinds.Job, fresh(job(suspend)))
	w.Put(kinds.Pod, pod("late", succeeds))
	w.Remove(kinds.Job, "default", "pi")
	if _, err := w.Drive(1, 100, time.Hour, Controller()); err != nil {
		t.Fatal(err)
	}
	for _, p := range pods(w) {
		if tracked(p) != (p.Name == "theirs") {
			t.Errorf("%s: finalizers %v", p.Name, p.Finalizers)
		}
	}
}

// The namespace waits for the pods, so these must not wait for others; and a
// suspended job looks at them for no other reason.
func TestNothingIsHeldInANamespaceThatEnds(t *testing.T) {
	for name, j := range map[string]*batchv1.Job{"plain": job(), "by index": job(perIndex(3)), "suspended": job(perIndex(3), suspend)} {
		for _, late := range []time.Duration{0, time.Minute} {
			w := world()
			begin := w.Now
			w.Put(kinds.Namespace, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Finalizers: []string{"f"}}})
			user := reconcile.Controller{
				Name: "user", For: kinds.Namespace, Writes: []reconcile.Write{{Kind: kinds.Namespace, Verbs: []plan.Verb{plan.Delete}}},
				Plan: func(in reconcile.Input) plan.Result {
					if wait := begin.Add(late).Sub(in.Now); wait > 0 {
						return plan.Result{After: wait}
					}
					return plan.Result{Actions: []plan.Action{{Verb: plan.Delete, Ref: kinds.Ref{Kind: kinds.Namespace, Name: in.Key.Name}}}}
				},
			}
			if late == 0 {
				if _, err := w.Drive(1, 100, 0, user); err != nil {
					t.Fatal(err)
				}
			}
			w.Put(kinds.Job, fresh(j.DeepCopy()))
			w.Put(kinds.Pod, pod("a", at(0), fails, leaves))
			if _, err := w.Drive(1, 100, 2*late, Controller(), user); err != nil {
				t.Fatal(err)
			}
			if w.Object(kinds.Pod, "default", "a") != nil {
				t.Errorf("%s: the namespace ends after %v, and the pod is left", name, late)
			}
		}
	}
}

func TestStatusTellsOfRefusedPods(t *testing.T) {
	w := world()
	w.Put(kinds.Job, fresh(job(sized(3, 3))))
	w.Hook = func(v plan.Verb, ref kinds.Ref, _ runtime.Object) error {
		if v == plan.Create && len(pods(w)) == 1 {
			return apierrors.NewForbidden(kinds.Pod.GroupResource(), ref.Name, errors.New("exceeded quota"))
		}
		return nil
	}
	ev, err := w.Drive(1, 200, 10*time.Second, Controller())
	if err != nil {
		t.Fatal(err)
	}
	if s := stored(w).Status; s.Active != 1 || s.StartTime == nil {
		t.Errorf("status %+v", s)
	}
	if !slices.ContainsFunc(ev.All, func(e plan.Event) bool { return e.Reason == "FailedCreate" }) || len(w.Writes) > 60 {
		t.Errorf("%d writes, events %v", len(w.Writes), ev.All)
	}
}

func TestWakesWhoIsConcerned(t *testing.T) {
	w := world()
	w.Put(kinds.Job, job())
	s := w.View.Snapshot()
	for _, tt := range []struct {
		name string
		c    view.Change
		want string
	}{
		{"a tracked pod", view.Change{New: pod("a")}, "[default/pi]"},
		{"untracked now", view.Change{Old: pod("a"), New: pod("a", untracked)}, "[default/pi]"},
		{"untracked", view.Change{New: pod("a", untracked)}, "[]"},
		{"an orphan", view.Change{New: pod("a", orphaned, untracked)}, "[default/pi]"},
		{"a tracked orphan", view.Change{New: pod("a", orphaned)}, "[default/ default/pi]"},
		{"an orphan of others", view.Change{New: pod("a", orphaned, untracked, stranger)}, "[]"},
		{"released", view.Change{Old: pod("a", untracked), New: pod("a", orphaned, untracked)}, "[default/pi]"},
		{"only its status changed", view.Change{Old: pod("a", orphaned, untracked), New: pod("a", orphaned, untracked, unready)}, "[]"},
		{"an orphan is gone", view.Change{Old: pod("a", orphaned, untracked)}, "[]"},
	} {
		if got := fmt.Sprint(concerned(s, tt.c)); got != tt.want {
			t.Errorf("%s wakes %s, want %s", tt.name, got, tt.want)
		}
	}
}

// anyPods draws pods in all states that the plan tells apart.
func anyPods(t *rapid.T) []*corev1.Pod {
	options := []podOption{unready, succeeds, fails, pends, leaves, untracked, orphaned, stranger, at(0), at(1), at(9), exits(42), disrupted, restarted(3), endedAgo(time.Second)}
	var out []*corev1.Pod
	for i := range rapid.IntRange(0, 12).Draw(t, "pods") {
		p := pod(fmt.Sprintf("p%02d", i))
		for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(0, len(options)-1), 0, 4, rapid.ID[int]).Draw(t, "state") {
			options[n](p)
		}
		out = append(out, p)
	}
	return out
}

func anyState(t *rapid.T) *batchv1.Job {
	options := []jobOption{asIndexed, perIndex(1), limit(1), queue(4), deadline(90), suspend, replacesFailed, leavingJob,
		rules(onExit("FailJob", "In", 42)), toldCounts(1, 2), uncounted(nil, []types.UID{"u-p00", "u-p01"}),
		told(batchv1.JobFailureTarget, "r", "m"), told(batchv1.JobComplete, "r", "m")}
	opts := []jobOption{sized(rapid.Int32Range(0, 700).Draw(t, "parallelism"), rapid.Int32Range(0, 900).Draw(t, "completions"))}
	for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(0, len(options)-1), 0, 4, rapid.ID[int]).Draw(t, "job") {
		opts = append(opts, options[n])
	}
	j := job(opts...)
	if indexed(j) && j.Spec.Completions == nil {
		j.Spec.Completions = ptr(int32(5))
	}
	return j
}

func TestTouchesOnlyItsOwnWithinBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j, all := anyState(t), anyPods(t)
		creates, deletes, patches := 0, 0, 0
		for _, a := range Plan(observed(j, all...)).Actions {
			if a.Ref.Kind == kinds.Job {
				if a.Ref.Name != j.Name || a.Ref.Sub != "status" || a.Verb != plan.Update {
					t.Fatalf("%s %s", a.Verb, a.Ref)
				}
				continue
			}
			if a.Verb == plan.Create {
				creates++
				continue
			}
			p := all[slices.IndexFunc(all, func(p *corev1.Pod) bool { return p.Name == a.Ref.Name })]
			ref := metav1.GetControllerOf(p)
			if a.UID != p.UID || ref != nil && ref.UID != j.UID {
				t.Fatalf("%s %s, which is not the job's", a.Verb, a.Ref)
			}
			if a.Verb == plan.Delete {
				deletes++
				if ended(p) || p.Labels == nil {
					t.Fatalf("deletes %s", p.Name)
				}
			} else if patches++; ref == nil && (p.Labels == nil || p.DeletionTimestamp != nil) {
				t.Fatalf("adopts %s", p.Name)
			}
		}
		if creates > burst || deletes > burst || patches > 4*burst || creates > 0 && deletes > 0 {
			t.Fatalf("%d creates, %d deletes and %d patches in one pass", creates, deletes, patches)
		}
	})
}

func TestInputOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j, all := anyState(t), anyPods(t)
		a := summary(Plan(observed(j, all...)))
		shuffled := slices.Clone(all)
		rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)).Shuffle(len(all), func(i, k int) { shuffled[i], shuffled[k] = shuffled[k], shuffled[i] })
		b := summary(Plan(observed(j, shuffled...)))
		slices.Sort(a)
		slices.Sort(b)
		if !slices.Equal(a, b) {
			t.Fatalf("%q\n%q", a, b)
		}
	})
}

func TestSpans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOf(rapid.IntRange(0, 30)).Draw(t, "a")
		other := rapid.SliceOf(rapid.IntRange(0, 30)).Draw(t, "b")
		s, o := spansOf(in), spansOf(other)
		both, union := 0, map[int]bool{}
		for i := range 32 {
			if s.has(i) != slices.Contains(in, i) {
				t.Fatalf("%s has %d: %v", s, i, s.has(i))
			}
			if slices.Contains(in, i) && slices.Contains(other, i) {
				both++
			}
			if slices.Contains(in, i) || slices.Contains(other, i) {
				union[i] = true
			}
		}
		if got := s.common(o); got != both {
			t.Fatalf("%s and %s have %d in common, said %d", s, o, both, got)
		}
		if got := s.with(o); got.total() != len(union) {
			t.Fatalf("%s with %s: %s", s, o, got)
		}
		if back := parseSpans(s.String(), 31); !slices.Equal(back, s) {
			t.Fatalf("%s becomes %s", s, back)
		}
		n := rapid.IntRange(0, 40).Draw(t, "n")
		for _, i := range s.missing(20, n) {
			if s.has(i) || i >= 20 {
				t.Fatalf("%s misses %d", s, i)
			}
		}
		if free := 20 - parseSpans(s.String(), 20).total(); len(s.missing(20, n)) != min(n, free) {
			t.Fatalf("%s misses %v", s, s.missing(20, n))
		}
	})
	for in, want := range map[string]string{"": "", "x,3-5,2,9-1,-4,12,7-20": "2-5,7-9", "1,2": "1,2", "0-9": "0-9"} {
		if got := parseSpans(in, 10).String(); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
