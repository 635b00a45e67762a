package ttlafterfinished

import (
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// job that ended a minute ago, and stays for ttl.
func job(ttl int32, end batchv1.JobConditionType, change ...func(*batchv1.Job)) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "j", UID: "u", ResourceVersion: "7"},
		Spec: batchv1.JobSpec{TTLSecondsAfterFinished: &ttl},
		Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{
			{Type: batchv1.JobSuspended, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))},
			{Type: end, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Minute))}}}}
	for _, c := range change {
		c(j)
	}
	return j
}

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		name    string
		job     *batchv1.Job
		deletes bool
		after   time.Duration
	}{
		{"time is over", job(60, batchv1.JobComplete), true, 0},
		{"failed", job(10, batchv1.JobFailed), true, 0},
		{"at once", job(0, batchv1.JobComplete), true, 0},
		{"not yet", job(90, batchv1.JobComplete), false, 30 * time.Second},
		{"has not ended", job(0, batchv1.JobFailureTarget), false, 0},
		{"never", job(0, batchv1.JobComplete, func(j *batchv1.Job) { j.Spec.TTLSecondsAfterFinished = nil }), false, 0},
		{"is being deleted", job(0, batchv1.JobComplete, func(j *batchv1.Job) { j.DeletionTimestamp = &metav1.Time{Time: now} }), false, 0},
		{"does not say when", job(0, batchv1.JobComplete, func(j *batchv1.Job) { j.Status.Conditions[1].LastTransitionTime = metav1.Time{} }), false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := Plan(Observed{Job: tt.job, Now: now})
			if res.After != tt.after || len(res.Actions) == 1 != tt.deletes {
				t.Fatalf("%+v, want delete %v after %v", res, tt.deletes, tt.after)
			}
			if !tt.deletes {
				return
			}
			if a := res.Actions[0]; a.Verb != plan.Delete || a.Ref.Name != "j" || a.UID != "u" || a.ResourceVersion != "7" || a.Propagation != metav1.DeletePropagationForeground {
				t.Errorf("%+v", a)
			}
		})
	}
}

// Each job is deleted when its time is over, not before, and nothing else is.
func TestDeletesInTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := reconciletest.New([]*kinds.Kind{kinds.Job})
		want := map[string]time.Time{}
		for i := range rapid.IntRange(0, 6).Draw(t, "jobs") {
			end := rapid.SampledFrom([]batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed, batchv1.JobFailureTarget}).Draw(t, "end")
			ttl := rapid.Int32Range(0, 300).Draw(t, "ttl")
			j := job(ttl, end)
			j.Name, j.UID = string(rune('a'+i)), ""
			j.Status.Conditions[1].LastTransitionTime = metav1.NewTime(w.Now)
			if end != batchv1.JobFailureTarget {
				want[j.Name] = w.Now.Add(time.Duration(ttl) * time.Second)
			}
			w.Put(kinds.Job, j)
		}
		w.Hook = func(v plan.Verb, ref kinds.Ref, _ runtime.Object) error {
			if at, ok := want[ref.Name]; v != plan.Delete || !ok || !w.Now.Equal(at) {
				t.Fatalf("%s %s at %v, want it at %v", v, ref, w.Now, at)
			}
			delete(want, ref.Name)
			return nil
		}
		if _, err := w.Drive(rapid.Uint64().Draw(t, "seed"), 100, time.Hour, Controller()); err != nil || len(want) > 0 {
			t.Fatalf("left: %v (%v)", want, err)
		}
		n := len(w.Writes)
		if _, err := w.Drive(1, 100, time.Hour, Controller()); err != nil || len(w.Writes) != n {
			t.Fatalf("writes again: %v (%v)", w.Writes[n:], err)
		}
	})
}

func TestTimeThatWasMadeLongerCounts(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.Job})
	w.Now = now
	j := w.Put(kinds.Job, job(60, batchv1.JobComplete)).(*batchv1.Job)
	w.Lag = true // the view does not show it yet
	longer := j.DeepCopy()
	longer.Spec.TTLSecondsAfterFinished = new(int32)
	*longer.Spec.TTLSecondsAfterFinished = 3600
	w.Put(kinds.Job, longer)
	if _, err := w.Drive(1, 100, time.Second, Controller()); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(w.Writes, "delete jobs.batch default/j") || w.Object(kinds.Job, "default", "j").GetDeletionTimestamp() != nil {
		t.Errorf("writes %v; %+v", w.Writes, w.Object(kinds.Job, "default", "j"))
	}
}
