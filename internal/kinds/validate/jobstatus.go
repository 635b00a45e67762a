package validate

import (
	"fmt"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// JobStatusUpdate judges what a controller reports, ours or another one by
// managedBy: clients wait for the conditions, so these may not contradict each
// other nor be taken back. A rule between fields is applied where one of them
// changes, so that an old mistake does not stand in the way of other news.
func JobStatusUpdate(j, old *batchv1.Job) field.ErrorList {
	e := metaUpdate(&j.ObjectMeta, &old.ObjectMeta)
	s := &jobStatus{errors: e, j: j, old: old, conditions: statusPath.Child("conditions")}
	s.counts()
	s.uncounted()
	s.ends()
	s.times()
	s.indexes()
	s.finished()
	s.takenBack()
	return e.list
}

type jobStatus struct {
	*errors
	j, old     *batchv1.Job
	conditions *field.Path
}

func jobIs(j *batchv1.Job, t batchv1.JobConditionType, status corev1.ConditionStatus) bool {
	for _, c := range j.Status.Conditions {
		if c.Type == t && c.Status == status {
			return true
		}
	}
	return false
}

func (s *jobStatus) is(t batchv1.JobConditionType) bool { return jobIs(s.j, t, corev1.ConditionTrue) }
func (s *jobStatus) was(t batchv1.JobConditionType) bool {
	return jobIs(s.old, t, corev1.ConditionTrue)
}

func (s *jobStatus) changed(types ...batchv1.JobConditionType) bool {
	for _, t := range types {
		if s.is(t) != s.was(t) {
			return true
		}
	}
	return false
}

func (s *jobStatus) isFinished() bool { return s.is(batchv1.JobComplete) || s.is(batchv1.JobFailed) }

// finishedChanged: it ends, or does no longer.
func (s *jobStatus) finishedChanged() bool {
	return s.isFinished() != (s.was(batchv1.JobComplete) || s.was(batchv1.JobFailed))
}

func (s *jobStatus) bad(why string) { s.invalid(s.conditions, field.OmitValueType{}, why) }

func (s *jobStatus) counts() {
	st, was := &s.j.Status, &s.old.Status
	for _, c := range []count{{"active", st.Active}, {"succeeded", st.Succeeded}, {"failed", st.Failed}} {
		s.notNegative(statusPath.Child(c.name), int64(c.n))
	}
	if st.Ready != nil {
		s.notNegative(statusPath.Child("ready"), int64(*st.Ready))
	}
	if st.Terminating != nil {
		s.notNegative(statusPath.Child("terminating"), int64(*st.Terminating))
	}
	if (!same(st.Ready, was.Ready) || st.Active != was.Active) && st.Ready != nil && *st.Ready > st.Active {
		s.invalid(statusPath.Child("ready"), *st.Ready, "cannot set more ready pods than active")
	}
	if st.Failed < was.Failed {
		s.invalid(statusPath.Child("failed"), st.Failed, "cannot decrease the failed counter")
	}
	// An indexed job that is as parallel as it is long may be scaled down.
	elastic := indexed(&s.j.Spec) && same(s.j.Spec.Completions, s.j.Spec.Parallelism)
	if !elastic && st.Succeeded < was.Succeeded {
		s.invalid(statusPath.Child("succeeded"), st.Succeeded, "cannot decrease the succeeded counter")
	}
}

func (s *jobStatus) uncounted() {
	u := s.j.Status.UncountedTerminatedPods
	if u == nil {
		return
	}
	seen := map[types.UID]bool{}
	list := func(p *field.Path, uids []types.UID) {
		for i, uid := range uids {
			if uid == "" {
				s.invalid(p.Index(i), uid, "must not be empty")
				continue
			}
			unique(s.errors, seen, p.Index(i), uid, uid)
		}
	}
	list(statusPath.Child("uncountedTerminatedPods", "succeeded"), u.Succeeded)
	list(statusPath.Child("uncountedTerminatedPods", "failed"), u.Failed)
}

// ends: a job ends one way, and says so before it does.
func (s *jobStatus) ends() {
	const complete, failed, target, met = batchv1.JobComplete, batchv1.JobFailed, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet
	if s.changed(complete, failed) && s.is(complete) && s.is(failed) {
		s.bad("cannot set Complete=True and Failed=true conditions")
	}
	if s.changed(complete, target) && s.is(complete) && s.is(target) {
		s.bad("cannot set Complete=True and FailureTarget=true conditions")
	}
	if (s.changed(failed) || !same(s.j.Status.FailedIndexes, s.old.Status.FailedIndexes)) && s.is(failed) && !s.is(target) {
		s.bad("cannot set Failed=True condition without the FailureTarget=true condition")
	}
	if s.changed(complete, met) && s.is(complete) && !s.is(met) {
		s.bad("cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	}
	if s.is(met) && s.is(failed) {
		s.bad("cannot set SuccessCriteriaMet=True and Failed=true conditions")
	}
	if s.is(met) && s.is(target) {
		s.bad("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
	}
	if s.j.Spec.SuccessPolicy != nil && !s.is(met) && s.is(complete) {
		s.bad("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")
	}
}

func (s *jobStatus) times() {
	st, was := &s.j.Status, &s.old.Status
	start, end := statusPath.Child("startTime"), statusPath.Child("completionTime")
	started, ended := !same(st.StartTime, was.StartTime), !same(st.CompletionTime, was.CompletionTime)
	complete := s.is(batchv1.JobComplete)
	if s.changed(batchv1.JobComplete) || ended {
		switch {
		case st.CompletionTime != nil && !complete:
			s.invalid(end, st.CompletionTime, "cannot set completionTime when there is no Complete=True condition")
		case st.CompletionTime == nil && complete:
			s.add(field.Required(end, "completionTime is required for Complete jobs"))
		}
	}
	if (started || ended) && st.StartTime != nil && st.CompletionTime != nil && st.CompletionTime.Before(st.StartTime) {
		s.invalid(end, st.CompletionTime, "must be equal to or after `startTime`")
	}
	if st.CompletionTime != nil && was.CompletionTime != nil && ended {
		s.invalid(end, st.CompletionTime, "field is immutable")
	}
	suspended := s.j.Spec.Suspend != nil && *s.j.Spec.Suspend
	resumes := s.was(batchv1.JobSuspended) && jobIs(s.j, batchv1.JobSuspended, corev1.ConditionFalse)
	if started && !resumes && was.StartTime != nil && !suspended {
		s.invalid(start, st.StartTime, "field is immutable for unsuspended job once set")
	}
	empty := suspended && s.j.Spec.Completions != nil && *s.j.Spec.Completions == 0
	if (s.finishedChanged() || started) && !empty && st.StartTime == nil && s.isFinished() {
		s.add(field.Required(start, "startTime is required for finished job"))
	}
}

func (s *jobStatus) indexes() {
	st, was, spec := &s.j.Status, &s.old.Status, &s.j.Spec
	done, failed := statusPath.Child("completedIndexes"), statusPath.Child("failedIndexes")
	doneChanged, failedChanged := st.CompletedIndexes != was.CompletedIndexes, !same(st.FailedIndexes, was.FailedIndexes)
	if doneChanged && spec.Completions != nil {
		if _, err := indexes(st.CompletedIndexes, *spec.Completions); err != nil {
			s.invalid(done, st.CompletedIndexes, "error parsing completedIndexes: "+err.Error())
		}
	}
	if doneChanged && st.CompletedIndexes != "" && !indexed(spec) {
		s.invalid(done, st.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode")
	}
	if st.FailedIndexes == nil {
		return
	}
	if failedChanged && spec.Completions != nil && spec.BackoffLimitPerIndex != nil {
		if _, err := indexes(*st.FailedIndexes, *spec.Completions); err != nil {
			s.invalid(failed, *st.FailedIndexes, "error parsing failedIndexes: "+err.Error())
		}
	}
	if failedChanged && spec.BackoffLimitPerIndex == nil {
		s.invalid(failed, *st.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
	}
	if (doneChanged || failedChanged) && spec.Completions != nil {
		if at, both := overlap(st.CompletedIndexes, *st.FailedIndexes, *spec.Completions); both {
			s.invalid(failed, *st.FailedIndexes, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", at))
		}
	}
}

// overlap finds an index that is in both lists, passing over what is none.
func overlap(a, b string, completions int32) (int32, bool) {
	parse := func(list string) (all [][2]int32) {
		for part := range strings.SplitSeq(list, ",") {
			if from, to, err := interval(part, completions); err == nil {
				all = append(all, [2]int32{from, to})
			}
		}
		return all
	}
	x, y := parse(a), parse(b)
	for len(x) > 0 && len(y) > 0 {
		if x[0][0] <= y[0][1] && y[0][0] <= x[0][1] {
			return max(x[0][0], y[0][0]), true
		}
		if x[0][0] <= y[0][0] {
			x = x[1:]
		} else {
			y = y[1:]
		}
	}
	return 0, false
}

// finished jobs have no pods left.
func (s *jobStatus) finished() {
	st, was := &s.j.Status, &s.old.Status
	if !s.isFinished() {
		return
	}
	changed := s.finishedChanged()
	if (changed || st.Active != was.Active) && st.Active > 0 {
		s.invalid(statusPath.Child("active"), st.Active, "active>0 is invalid for finished job")
	}
	if u := st.UncountedTerminatedPods; (changed || !same(u, was.UncountedTerminatedPods)) && u != nil && len(u.Failed)+len(u.Succeeded) > 0 {
		s.invalid(statusPath.Child("uncountedTerminatedPods"), u, "must be empty for finished job")
	}
	if n := st.Terminating; (changed || !same(n, was.Terminating)) && n != nil && *n > 0 {
		s.invalid(statusPath.Child("terminating"), *n, "terminating>0 is invalid for finished job")
	}
}

// takenBack: what a client may have acted on stays true.
func (s *jobStatus) takenBack() {
	for _, t := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		if s.was(t) && !s.is(t) {
			s.bad(fmt.Sprintf("cannot disable the terminal %s=True condition", t))
		}
	}
	const met = batchv1.JobSuccessCriteriaMet
	if s.was(met) && !s.is(met) {
		s.bad("cannot disable the SuccessCriteriaMet=True condition")
	}
	if s.was(batchv1.JobComplete) && !s.was(met) && s.is(met) {
		s.bad("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")
	}
}
