package main

import (
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// runsFor is how long the pods of jobs work.
const runsFor = 3 * time.Second

// failsOneIn so many pods of jobs fail, by their UID.
const failsOneIn = 4

// actOnJobs does one thing with jobs or their schedules.
func (u *users) actOnJobs(ns string) (what, name string, err error) {
	name = u.pick("one", "two")
	ref, cron := kinds.Ref{Kind: kinds.Job, Namespace: ns, Name: name}, kinds.Ref{Kind: kinds.CronJob, Namespace: ns, Name: "cron"}
	switch u.rng.IntN(10) {
	case 0, 1, 2:
		return "create job", name, u.create(kinds.Job, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: u.jobSpec()})
	case 3:
		return "delete job", name, u.remove(ref, u.policy())
	case 4, 5:
		return "suspend or resume job", name, u.patch(ref, fmt.Sprintf(`{"spec":{"suspend":%v}}`, u.rng.IntN(2) == 0))
	case 6:
		n := u.rng.IntN(4)
		return fmt.Sprintf("parallelism %d", n), name, u.patch(ref, fmt.Sprintf(`{"spec":{"parallelism":%d}}`, n))
	}
	switch {
	case !u.there(cron):
		return "create cron job", cron.Name, u.create(kinds.CronJob, u.cronJob(ns))
	case u.rng.IntN(4) == 0:
		return "delete cron job", cron.Name, u.remove(cron, u.policy())
	}
	return "resume cron job", cron.Name, u.patch(cron, `{"spec":{"suspend":false}}`)
}

// jobSpec of any kind. Its limits are low, so that it ends soon.
func (u *users) jobSpec() batchv1.JobSpec {
	parallelism, completions, limit := int32(1+u.rng.IntN(3)), int32(1+u.rng.IntN(5)), int32(u.rng.IntN(4))
	t := u.template("job")
	t.Spec.RestartPolicy = corev1.RestartPolicyNever
	t.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("50m")
	s := batchv1.JobSpec{Parallelism: &parallelism, Completions: &completions, BackoffLimit: &limit, Template: t}
	switch mode := batchv1.IndexedCompletion; u.rng.IntN(5) {
	case 0:
		s.Completions = nil
	case 1:
		s.CompletionMode = &mode
	case 2:
		s.CompletionMode, s.BackoffLimitPerIndex, s.BackoffLimit = &mode, &limit, nil
	case 3:
		failed := batchv1.Failed
		s.PodReplacementPolicy = &failed
	}
	if u.rng.IntN(3) == 0 {
		ttl := int32(u.rng.IntN(200)) // less than a calm cluster is waited for
		s.TTLSecondsAfterFinished = &ttl
	}
	return s
}

// stopSchedules, since a cluster that makes a job each minute is never idle.
func (u *users) stopSchedules() {
	for c := range view.List[*batchv1.CronJob](u.tap.Snapshot(), kinds.CronJob, "") {
		u.note("stop the schedule", u.patch(kinds.RefTo(kinds.CronJob, c), `{"spec":{"suspend":true}}`))
	}
}

// counted pods wait for their job to count them.
func counted(p *corev1.Pod) bool {
	return slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer)
}

func jobOf(p *corev1.Pod) types.UID {
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil && ref.Kind == "Job" {
		return ref.UID
	}
	return ""
}

// endJobPod ends a running pod of a job once it has worked, or at once if it
// is being deleted.
func endJobPod(in reconcile.Input, p *corev1.Pod) plan.Result {
	if p.DeletionTimestamp == nil {
		if wait := p.Status.StartTime.Add(startsAfter + runsFor).Sub(in.Now); wait > 0 {
			return plan.Result{After: wait}
		}
	}
	h := fnv.New32a()
	h.Write([]byte(p.UID))
	next := p.DeepCopy()
	next.Status.Phase = corev1.PodSucceeded
	if h.Sum32()%failsOneIn == 0 || p.DeletionTimestamp != nil {
		next.Status.Phase = corev1.PodFailed
	}
	setPodReady(&next.Status, false, metav1.NewTime(in.Now))
	return plan.Result{Actions: []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.Pod, p).WithSub("status"), Object: next}}}
}

// job audits what a job's status says: no pod is counted before it is let go,
// none twice, and no more than are to succeed.
func (a *audit) job(j *batchv1.Job) {
	a.wanted[j.UID] = max(a.wanted[j.UID], *j.Spec.Parallelism)
	s := &j.Status
	if c := j.Spec.Completions; c != nil && s.Succeeded > *c {
		a.fail("job %s/%s has %d successes, wants %d", j.Namespace, j.Name, s.Succeeded, *c)
	}
	if ofIndexes(j) {
		return
	}
	if n := int(s.Succeeded + s.Failed); n > a.freed[j.UID] {
		a.fail("job %s/%s counts %d pods, but only %d have ended", j.Namespace, j.Name, n, a.freed[j.UID])
	}
}

func ofIndexes(j *batchv1.Job) bool {
	return j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
}

// free notes pods that are let go at their end. Those that are stopped because
// there are too many are let go before.
func (a *audit) free(before, after *corev1.Pod) {
	if before == nil || !counted(before) || after != nil && counted(after) {
		return
	}
	if uid := jobOf(before); uid != "" && (finished(before) || before.DeletionTimestamp != nil) {
		a.freed[uid]++
	}
}

// checkJobs: each job has ended, unless it is suspended or has pods that fit
// nowhere; then all its pods are counted.
func (w *world) checkJobs(t truth) error {
	stuck := w.waiting()
	active, left := map[types.UID]int{}, map[types.UID]int{}
	for _, p := range all[*corev1.Pod](t, kinds.Pod) {
		uid := jobOf(p)
		if !finished(p) {
			active[uid]++
		}
		if counted(p) {
			left[uid]++
		}
	}
	for _, j := range all[*batchv1.Job](t, kinds.Job) {
		over := jobEnd(j) != nil
		s, n, stuck := j.Status, active[j.UID], stuck || w.limited(j.Namespace)
		switch {
		case !over && *j.Spec.Suspend:
			if n > 0 || s.Active > 0 {
				return fmt.Errorf("job %s/%s is suspended, but has %d pods: %+v", j.Namespace, j.Name, n, s)
			}
		case !over && !stuck && *j.Spec.Parallelism > 0:
			return fmt.Errorf("job %s/%s does not end: %+v", j.Namespace, j.Name, s)
		case over && (n > 0 || left[j.UID] > 0 || s.Active > 0):
			return fmt.Errorf("job %s/%s has ended, but %d pods run and %d are not counted: %+v", j.Namespace, j.Name, n, left[j.UID], s)
		case over && !ofIndexes(j) && int(s.Succeeded+s.Failed) != w.audit.freed[j.UID]:
			return fmt.Errorf("job %s/%s has counted %d and %d pods of %d", j.Namespace, j.Name, s.Succeeded, s.Failed, w.audit.freed[j.UID])
		}
	}
	return nil
}

// holdsCount: the last failed pod of an index bears how often that failed, and
// stays until the next one takes that over, which a job that stands still does
// not make, nor one that a quota does not let.
func (t truth) holdsCount(o kinds.Object) bool {
	if !slices.Contains(o.GetFinalizers(), batchv1.JobTrackingFinalizer) {
		return false
	}
	for _, j := range t[kinds.Job] {
		j := j.(*batchv1.Job)
		if metav1.IsControlledBy(o, j) {
			limited := slices.ContainsFunc(t[kinds.ResourceQuota], func(q kinds.Object) bool { return q.GetNamespace() == j.Namespace })
			return j.Spec.BackoffLimitPerIndex != nil && (*j.Spec.Parallelism == 0 || *j.Spec.Suspend || limited) && j.DeletionTimestamp == nil
		}
	}
	return false
}
