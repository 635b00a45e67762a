// Package job runs pods to their end. Each pod is counted exactly once: it
// carries a finalizer until its end stands in the job's status, first by its
// UID, and as a mere number once the finalizer is gone.
package job

import (
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// burst bounds the pods that one pass creates, deletes or lets go, as upstream.
const burst = 500

// maxUncounted bounds the UIDs in a status, which makes about 20 KB of them; as
// upstream.
const maxUncounted = 500

// Observed is what a plan depends on.
type Observed struct {
	// Job is nil if there is none of that name (any more).
	Job *batchv1.Job
	// Owned are the pods that Job controls, Orphans those of its namespace that
	// no controller owns. Strays are tracked for a job that is gone, or for none.
	Owned, Orphans, Strays []*corev1.Pod
	// Failures in a row, and when the last was.
	Failures    int
	LastFailure time.Time
	Now         time.Time
	Suffix      func() string
	// Failed: a write of a pod ended the last pass.
	Failed bool
	// Ending: the namespace is being deleted, which waits for its pods; nothing
	// can be created in it any more.
	Ending bool
}

// Plan returns what must change so that o.Job goes on.
func Plan(o Observed) plan.Result {
	res := plan.Result{Actions: o.letStraysGo()}
	if o.Job == nil || o.foreign() {
		return res
	}
	if done(o.Job) {
		// Its pods were counted before; this is for those that came later.
		res.Actions = append(res.Actions, letGo(where(o.Owned, tracked))...)
		return res
	}
	selector, err := metav1.LabelSelectorAsSelector(o.Job.Spec.Selector)
	if err != nil || o.Job.Spec.Selector == nil || selector.Empty() || !o.defaulted() {
		return res // validation refuses both; never manage by everything
	}
	if m := *o.Job.Spec.CompletionMode; m != batchv1.NonIndexedCompletion && m != batchv1.IndexedCompletion {
		res.Events = append(res.Events, *event(o.Job, corev1.EventTypeWarning, "UnknownCompletionMode", "Skipped Job sync because completion mode is unknown"))
		return res
	}
	mine, claims := o.claim(selector)
	res.Actions = append(res.Actions, claims...)
	p := newPass(&o, mine)
	p.run()
	res.Actions = append(res.Actions, p.actions...)
	res.Events = append(res.Events, p.events...)
	res.After = p.after
	return res
}

// foreign jobs are another controller's.
func (o *Observed) foreign() bool {
	by := o.Job.Spec.ManagedBy
	return by != nil && *by != batchv1.JobControllerName
}

func (o *Observed) defaulted() bool {
	s := &o.Job.Spec
	return s.CompletionMode != nil && s.Parallelism != nil && s.BackoffLimit != nil && (s.Completions != nil || *s.CompletionMode != batchv1.IndexedCompletion)
}

// done jobs have ended, one way or the other.
func done(j *batchv1.Job) bool {
	return is(j, batchv1.JobComplete) || is(j, batchv1.JobFailed)
}

func is(j *batchv1.Job, t batchv1.JobConditionType) bool {
	c := conditionOf(&j.Status, t)
	return c != nil && c.Status == corev1.ConditionTrue
}

func conditionOf(s *batchv1.JobStatus, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// pass is one look at a job that has not ended.
type pass struct {
	*Observed
	job *batchv1.Job
	// status is what is to be.
	status batchv1.JobStatus

	mine, active, terminating []*corev1.Pod
	// counted are the UIDs in the status whose pods are still tracked.
	countedSucceeded, countedFailed map[types.UID]bool
	succeeded, failed               int

	// Indexed only: what the status says, and what is true.
	doneBefore, done spans
	failedIndexes    spans
	// last failed pod of each index that has no new pod yet: it stays until
	// there is one, which takes over its number of failures.
	last map[int]*corev1.Pod

	// verdict is how the job ends: FailureTarget or SuccessCriteriaMet for the
	// first time, SuccessCriteriaMet or Failed once that is told. nil: it does
	// not end yet.
	verdict *batchv1.JobCondition

	actions []plan.Action
	events  []plan.Event
	after   time.Duration
	note    *plan.Event // goes with the status
}

func newPass(o *Observed, mine []*corev1.Pod) *pass {
	slices.SortFunc(mine, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	p := &pass{Observed: o, job: o.Job, mine: mine, active: where(mine, isActive), terminating: where(mine, isTerminating),
		countedSucceeded: map[types.UID]bool{}, countedFailed: map[types.UID]bool{}}
	o.Job.Status.DeepCopyInto(&p.status)
	if p.status.UncountedTerminatedPods == nil {
		p.status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	return p
}

// run decides in the order in which it can depend on each other: what has
// ended, how the job ends, which pods there have to be, what the status says.
func (p *pass) run() {
	p.settle()
	p.tally()
	if p.status.StartTime == nil && !suspended(p.job) {
		p.status.StartTime = p.time()
	}
	p.judge()
	change := p.change()
	if p.Failed && len(change.actions) > 0 {
		// What failed will likely fail again and end the pass, so the status
		// goes first and tells of what is.
		p.report(changes{managed: change.managed})
		p.actions = append(p.actions, change.actions...)
		return
	}
	p.actions = append(p.actions, change.actions...)
	p.report(change)
}

func (p *pass) time() *metav1.Time {
	t := metav1.NewTime(p.Now)
	return &t
}

// wait asks for a pass after d at the latest.
func (p *pass) wait(d time.Duration) {
	d = max(d, time.Millisecond) // 0 would mean never
	if p.after == 0 || d < p.after {
		p.after = d
	}
}

func (p *pass) completions() int { return int(*p.job.Spec.Completions) }

// valid pods have an index that the job has, if it has any.
func (p *pass) valid(pod *corev1.Pod) bool {
	i := indexOf(pod)
	return !indexed(p.job) || i != noIndex && i < p.completions()
}

// tally counts what has ended, told or not.
func (p *pass) tally() {
	u := p.status.UncountedTerminatedPods
	p.succeeded = int(p.status.Succeeded) + len(u.Succeeded)
	p.failed = int(p.status.Failed) + len(u.Failed)
	var newDone, newFailed []int
	for _, pod := range p.mine {
		if !tracked(pod) || !p.valid(pod) {
			continue
		}
		switch {
		case succeeded(pod):
			newDone = append(newDone, indexOf(pod))
			if !p.countedSucceeded[pod.UID] {
				p.succeeded++
			}
		case failed(p.job, pod):
			if !p.countedFailed[pod.UID] && p.counts(pod) {
				p.failed++
			}
			if p.job.Spec.BackoffLimitPerIndex != nil && p.indexFails(pod) {
				newFailed = append(newFailed, indexOf(pod))
			}
		}
	}
	if !indexed(p.job) {
		return
	}
	p.doneBefore = parseSpans(p.status.CompletedIndexes, p.completions())
	p.done = p.doneBefore.with(spansOf(newDone))
	p.succeeded = p.done.total()
	if p.job.Spec.BackoffLimitPerIndex != nil {
		if s := p.status.FailedIndexes; s != nil {
			p.failedIndexes = parseSpans(*s, p.completions())
		}
		p.failedIndexes = p.failedIndexes.with(spansOf(newFailed))
		p.last = p.lastFailed()
	}
}

// counts tells whether a failure counts against the limits.
func (p *pass) counts(pod *corev1.Pod) bool {
	action, _ := verdictOn(p.job.Spec.PodFailurePolicy, pod)
	return action != batchv1.PodFailurePolicyActionIgnore
}

// indexFails: this failure is the last that its index has.
func (p *pass) indexFails(pod *corev1.Pod) bool {
	switch action, _ := verdictOn(p.job.Spec.PodFailurePolicy, pod); action {
	case batchv1.PodFailurePolicyActionFailIndex:
		return true
	case batchv1.PodFailurePolicyActionIgnore:
		return false
	}
	return count(pod, batchv1.JobIndexFailureCountAnnotation) >= *p.job.Spec.BackoffLimitPerIndex
}

// lastFailed finds the pods that wait for the next of their index.
func (p *pass) lastFailed() map[int]*corev1.Pod {
	busy := p.done.with(p.failedIndexes, indexesOf(p.active))
	last := map[int]*corev1.Pod{}
	for _, pod := range p.mine {
		i := indexOf(pod)
		if !tracked(pod) || !p.valid(pod) || !failed(p.job, pod) || busy.has(i) {
			continue
		}
		if have := last[i]; have == nil || failuresOf(have) <= failuresOf(pod) && !endOf(pod).Before(endOf(have)) {
			last[i] = pod
		}
	}
	return last
}

// statusWrite, if the status has changed.
func (p *pass) statusWrite() []plan.Action {
	if apiequality.Semantic.DeepEqual(p.status, p.job.Status) {
		return nil
	}
	next := *p.job // everything but the status is shared, and only read
	next.Status = p.status
	return []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.Job, p.job).WithSub("status"), Object: &next, Event: p.note}}
}

func event(j *batchv1.Job, kind, reason, message string) *plan.Event {
	return &plan.Event{Regarding: kinds.RefTo(kinds.Job, j), UID: j.UID, Type: kind, Reason: reason, Message: message}
}
