package job

import (
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/plan"
)

// settle turns the UIDs whose pods are no longer tracked into numbers: they
// stood in the status before the finalizers went, so none is lost, and they
// leave the list with the same write that counts them, so none counts twice.
func (p *pass) settle() {
	is := map[types.UID]bool{}
	for _, pod := range p.mine {
		if tracked(pod) {
			is[pod.UID] = true
		}
	}
	u := p.status.UncountedTerminatedPods
	take := func(list []types.UID, counter *int32, counted map[types.UID]bool) []types.UID {
		var left []types.UID
		for _, uid := range list {
			if is[uid] {
				left = append(left, uid)
				counted[uid] = true
			} else {
				*counter++
			}
		}
		return left
	}
	u.Succeeded = take(u.Succeeded, &p.status.Succeeded, p.countedSucceeded)
	u.Failed = take(u.Failed, &p.status.Failed, p.countedFailed)
}

// report writes the status, then lets those pods go that it tells of.
func (p *pass) report(c changes) {
	active := len(p.active) + c.created - len(c.deleted)
	switch {
	case p.verdict != nil:
	case p.complete(active):
		p.verdict = p.condition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	case c.managed:
		p.suspension()
	}
	isReady := int32(len(where(p.active, ready)) - len(where(c.deleted, ready)))
	terminating := int32(len(p.terminating) + len(c.deleted))
	p.status.Active, p.status.Ready, p.status.Terminating = int32(active), &isReady, &terminating
	going, all := p.track()
	p.tellIndexes()
	p.end(all && len(going) == 0)
	p.actions = append(p.actions, p.statusWrite()...)
	p.actions = append(p.actions, letGo(going)...)
}

// suspension tells whether the job is suspended; how long it may take starts
// anew when it goes on.
func (p *pass) suspension() {
	status, reason, message, name := corev1.ConditionFalse, "JobResumed", "Job resumed", "Resumed"
	if suspended(p.job) {
		status, reason, message, name = corev1.ConditionTrue, "JobSuspended", "Job suspended", "Suspended"
	}
	c := conditionOf(&p.status, batchv1.JobSuspended)
	if c == nil && status == corev1.ConditionFalse || c != nil && c.Status == status && c.Reason == reason && c.Message == message {
		return
	}
	next := p.condition(batchv1.JobSuspended, reason, message)
	next.Status = status
	if c == nil {
		p.status.Conditions = append(p.status.Conditions, *next)
	} else {
		*c = *next
	}
	p.status.StartTime = nil
	if !suspended(p.job) {
		p.status.StartTime = p.time()
	}
	p.note = event(p.job, corev1.EventTypeNormal, name, message)
}

// track lists the UIDs of pods that have ended, and returns the pods that may
// go once that is written; all tells whether that is everyone who may.
func (p *pass) track() (going []*corev1.Pod, all bool) {
	u := p.status.UncountedTerminatedPods
	var done []int
	for _, pod := range slices.SortedStableFunc(slices.Values(p.mine), byIndex) {
		if !tracked(pod) || !p.mayGo(pod) {
			continue
		}
		if len(done)+len(u.Succeeded)+len(u.Failed) >= maxUncounted || len(going) >= burst {
			p.finishIndexes(done)
			return going, false
		}
		going = append(going, pod)
		switch {
		case succeeded(pod) && !p.countedFailed[pod.UID]:
			if !indexed(p.job) {
				if !p.countedSucceeded[pod.UID] {
					u.Succeeded = append(u.Succeeded, pod.UID)
				}
			} else if i := indexOf(pod); p.valid(pod) && !p.doneBefore.has(i) {
				done = append(done, i) // an index tells by itself that it was counted
			}
		case failed(p.job, pod) || p.verdict != nil && p.verdict.Type != batchv1.JobSuccessCriteriaMet:
			// When a job fails, so do all pods that have not ended.
			if !p.countedFailed[pod.UID] && p.valid(pod) && p.counts(pod) {
				u.Failed = append(u.Failed, pod.UID)
			}
		}
	}
	p.finishIndexes(done)
	return going, true
}

// mayGo: the pod has ended and nobody needs it, or everything ends.
func (p *pass) mayGo(pod *corev1.Pod) bool {
	if p.job.DeletionTimestamp != nil || p.verdict != nil || succeeded(pod) {
		return true
	}
	return failed(p.job, pod) && (p.last[indexOf(pod)] != pod || p.Ending)
}

// finishIndexes keeps to what the status is about to tell.
func (p *pass) finishIndexes(done []int) {
	if indexed(p.job) {
		p.done = p.doneBefore.with(spansOf(done))
	}
}

func (p *pass) tellIndexes() {
	if !indexed(p.job) {
		return
	}
	p.status.Succeeded = int32(p.done.total())
	p.status.CompletedIndexes = p.done.String()
	p.status.FailedIndexes = nil
	if p.job.Spec.BackoffLimitPerIndex != nil {
		s := p.failedIndexes.String()
		p.status.FailedIndexes = &s
	}
}

// end tells the verdict; the next pass tells the end itself, once all pods are
// counted and have stopped.
func (p *pass) end(counted bool) {
	v := p.verdict
	if v == nil {
		return
	}
	if v.Type == batchv1.JobFailureTarget || v.Type == batchv1.JobSuccessCriteriaMet && conditionOf(&p.status, v.Type) == nil {
		p.status.Conditions = append(p.status.Conditions, *v)
		return
	}
	u := p.status.UncountedTerminatedPods
	if !counted || len(u.Succeeded)+len(u.Failed) > 0 || *p.status.Terminating > 0 {
		return
	}
	if v.Type == batchv1.JobFailed {
		p.status.Conditions = append(p.status.Conditions, *v)
		p.note = event(p.job, corev1.EventTypeWarning, v.Reason, v.Message)
		return
	}
	p.status.Conditions = append(p.status.Conditions, *p.condition(batchv1.JobComplete, v.Reason, v.Message))
	p.status.CompletionTime = p.time()
	p.note = event(p.job, corev1.EventTypeNormal, "Completed", "Job completed")
	if c := p.job.Spec.Completions; c != nil && p.status.Succeeded > *c {
		p.events = append(p.events, *event(p.job, corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached"))
	}
}

// letGo removes the finalizer of pods, of so many at a time.
func letGo(pods []*corev1.Pod) []plan.Action {
	var actions []plan.Action
	for _, pod := range pods[:min(len(pods), burst)] {
		actions = append(actions, release(pod))
	}
	return actions
}

// letStraysGo only as they were seen: a job may be adopting one.
func (o *Observed) letStraysGo() []plan.Action {
	actions := letGo(o.Strays)
	for i := range actions {
		actions[i].ResourceVersion = o.Strays[i].ResourceVersion
	}
	return actions
}
