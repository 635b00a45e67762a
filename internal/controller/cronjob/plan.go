// Package cronjob makes jobs at the times of a schedule. A job is named after
// the time that it is for, so that none is made twice, and says that time in
// an annotation, by which a controller that has forgotten knows its own.
package cronjob

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// burst bounds the jobs that one pass deletes.
const burst = 500

// Observed is what a plan depends on.
type Observed struct {
	Cron *batchv1.CronJob
	// Jobs are those that Cron controls.
	Jobs []*batchv1.Job
	// Named finds a job of the namespace, whoever controls it.
	Named func(name string) *batchv1.Job
	// Since is when the schedule was changed, if that is known: what would have
	// been due before is not missed.
	Since time.Time
	Now   time.Time
}

// pass is one look at a cron job.
type pass struct {
	Observed
	status  batchv1.CronJobStatus
	deletes []plan.Action
	live    []plan.Live
	events  []plan.Event
	res     plan.Result
}

// Plan returns what must change so that what is due runs.
func Plan(o Observed) plan.Result {
	p := &pass{Observed: o, status: *o.Cron.Status.DeepCopy()}
	p.Jobs = slices.SortedFunc(slices.Values(o.Jobs), byStart)
	p.look()
	p.missing()
	p.history()
	var create []plan.Action
	if o.Cron.DeletionTimestamp == nil && !suspended(o.Cron) {
		create = p.start()
	}
	p.res.Actions = append(p.res.Actions, p.deletes...)
	p.report()
	p.res.Actions = append(p.res.Actions, create...)
	return p.res
}

func suspended(c *batchv1.CronJob) bool { return c.Spec.Suspend != nil && *c.Spec.Suspend }

// look takes in what became of the jobs.
func (p *pass) look() {
	for _, j := range p.Jobs {
		end := endOf(j)
		listed := p.listed(j.UID)
		at, own := p.startedFor(j)
		switch {
		case end != "" && listed:
			p.unlist(j.UID)
			p.tell(corev1.EventTypeNormal, "SawCompletedJob", fmt.Sprintf("Saw completed job: %s, condition: %s", j.Name, end))
		case end == "" && !listed && own && j.DeletionTimestamp == nil:
			p.status.Active = append(p.status.Active, reference(j))
		case end == "" && !listed && j.DeletionTimestamp == nil:
			p.tell(corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: "+j.Name)
		}
		if own && (p.status.LastScheduleTime == nil || p.status.LastScheduleTime.Time.Before(at)) {
			p.status.LastScheduleTime = &metav1.Time{Time: at}
		}
		if t := j.Status.CompletionTime; end == batchv1.JobComplete && t != nil && (p.status.LastSuccessfulTime == nil || p.status.LastSuccessfulTime.Before(t)) {
			p.status.LastSuccessfulTime = t.DeepCopy()
		}
	}
}

// startedFor is the time that a job of ours was made for.
func (p *pass) startedFor(j *batchv1.Job) (time.Time, bool) {
	at, err := time.Parse(time.RFC3339, j.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
	return at, err == nil && !at.After(p.Now) && j.Name == jobName(p.Cron, at)
}

// missing strikes jobs off the list that are gone, which is asked again before
// that is written.
func (p *pass) missing() {
	for _, ref := range slices.Clone(p.status.Active) {
		if slices.ContainsFunc(p.Jobs, func(j *batchv1.Job) bool { return j.UID == ref.UID }) {
			continue
		}
		if j := p.Named(ref.Name); j != nil && j.UID == ref.UID {
			continue // it has lost its owner
		}
		p.unlist(ref.UID)
		p.live = append(p.live, plan.Live{Want: plan.Absent, Ref: kinds.Ref{Kind: kinds.Job, Namespace: p.Cron.Namespace, Name: ref.Name}, UID: ref.UID})
		p.tell(corev1.EventTypeNormal, "MissingJob", "Active job went missing: "+ref.Name)
	}
}

// history keeps no more jobs that have ended than the limits say.
func (p *pass) history() {
	for end, limit := range map[batchv1.JobConditionType]*int32{
		batchv1.JobComplete: p.Cron.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: p.Cron.Spec.FailedJobsHistoryLimit} {
		if limit == nil {
			continue
		}
		var ended []*batchv1.Job
		for _, j := range p.Jobs {
			if j.DeletionTimestamp == nil && endOf(j) == end {
				ended = append(ended, j)
			}
		}
		for _, j := range ended[:min(max(0, len(ended)-int(*limit)), burst)] {
			p.remove(j)
		}
	}
	slices.SortFunc(p.deletes, func(a, b plan.Action) int { return strings.Compare(a.Ref.Name, b.Ref.Name) })
}

func (p *pass) remove(j *batchv1.Job) {
	p.deletes = append(p.deletes, plan.Action{
		Verb: plan.Delete, Ref: kinds.RefTo(kinds.Job, j), UID: j.UID, Propagation: metav1.DeletePropagationBackground, Parallel: true,
		Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
		Event:    p.event(corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job "+j.Name),
		Failed:   p.event(corev1.EventTypeWarning, "FailedDelete", "Deleted job: "),
	})
	p.unlist(j.UID)
}

// start makes the job that is due, and says when the next one is.
func (p *pass) start() []plan.Action {
	spec := &p.Cron.Spec
	if zone := spec.TimeZone; zone != nil {
		if _, err := time.LoadLocation(*zone); err != nil {
			p.tell(corev1.EventTypeWarning, "UnknownTimeZone", fmt.Sprintf("invalid timeZone: %q: %s", *zone, err))
			return nil
		}
	}
	if strings.Contains(spec.Schedule, "TZ") {
		p.tell(corev1.EventTypeWarning, "UnsupportedSchedule", fmt.Sprintf("CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", spec.Schedule))
	}
	schedule, err := parse(spec)
	if err != nil {
		p.tell(corev1.EventTypeWarning, "UnparseableSchedule", fmt.Sprintf("unparseable schedule: %q : %s", spec.Schedule, err))
		return nil
	}
	due, ok := p.due(schedule)
	if !ok || !p.mayStart(due) {
		return nil
	}
	if spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent {
		p.replace()
	}
	return []plan.Action{p.create(due)}
}

// due is the last start that was missed and is not too late yet; it asks for a
// pass at the next one.
func (p *pass) due(schedule cron.Schedule) (time.Time, bool) {
	since := p.Cron.CreationTimestamp.Time
	if t := p.status.LastScheduleTime; t != nil {
		since = t.Time
	}
	if p.Since.After(since) {
		since = p.Since
	}
	p.wakeAfter(schedule, since)
	if s := p.Cron.Spec.StartingDeadlineSeconds; s != nil {
		if t := p.Now.Add(-time.Duration(*s) * time.Second); t.After(since) {
			since = t
		}
	}
	last, n, err := missed(schedule, since, p.Now)
	if err != nil {
		p.tell(corev1.EventTypeWarning, "InvalidSchedule", fmt.Sprintf("invalid schedule: %s : %s", p.Cron.Spec.Schedule, err))
		return last, false
	}
	if last.IsZero() {
		return last, false
	}
	if n > manyMissed {
		p.tell(corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	return last, true
}

// wakeAfter since, from which a schedule like "@every 1h" counts.
func (p *pass) wakeAfter(schedule cron.Schedule, since time.Time) {
	from := since
	last, n, err := missed(schedule, since, p.Now)
	switch {
	case !last.IsZero():
		from = last
	case err != nil || n > 0:
		from = p.Now
	}
	next := schedule.Next(from)
	if !next.After(p.Now) {
		next = schedule.Next(p.Now)
	}
	if next.After(p.Now) {
		p.res.After = next.Sub(p.Now)
	}
}

// mayStart: the start that is due is not made and not forbidden.
func (p *pass) mayStart(due time.Time) bool {
	name := jobName(p.Cron, due)
	if slices.ContainsFunc(p.status.Active, func(r corev1.ObjectReference) bool { return r.Name == name }) || p.status.LastScheduleTime.Equal(&metav1.Time{Time: due}) {
		return false
	}
	if p.Named(name) != nil {
		return false // somebody else has made one of that name
	}
	if p.Cron.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(p.status.Active) > 0 {
		p.tell(corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return false
	}
	return true
}

// replace ends what still runs.
func (p *pass) replace() {
	for _, ref := range slices.Clone(p.status.Active) {
		if j := p.Named(ref.Name); j != nil && j.UID == ref.UID {
			p.remove(j)
		}
	}
}

func (p *pass) create(at time.Time) plan.Action {
	t := &p.Cron.Spec.JobTemplate
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{
		Namespace: p.Cron.Namespace, Name: jobName(p.Cron, at), Labels: maps.Clone(t.Labels), Annotations: maps.Clone(t.Annotations),
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(p.Cron, kinds.CronJob.GVK)},
	}}
	if j.Annotations == nil {
		j.Annotations = map[string]string{}
	}
	zone := time.UTC
	if name := p.Cron.Spec.TimeZone; name != nil {
		if l, err := time.LoadLocation(*name); err == nil {
			zone = l
		}
	}
	j.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.In(zone).Format(time.RFC3339)
	t.Spec.DeepCopyInto(&j.Spec)
	return plan.Action{
		Verb: plan.Create, Ref: kinds.RefTo(kinds.Job, j), Object: j,
		Event:  p.event(corev1.EventTypeNormal, "SuccessfulCreate", "Created job "+j.Name),
		Failed: p.event(corev1.EventTypeWarning, "FailedCreate", "Error creating job: "),
	}
}

// report writes the status, if it has changed. The first event goes with it,
// so that it is not told again should the write be.
func (p *pass) report() {
	if !apiequality.Semantic.DeepEqual(p.status, p.Cron.Status) {
		next := *p.Cron // everything but the status is shared, and only read
		next.Status = p.status
		a := plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.CronJob, p.Cron).WithSub("status"), Object: &next, Live: p.live}
		if len(p.events) > 0 {
			a.Event, p.events = &p.events[0], p.events[1:]
		}
		p.res.Actions = append(p.res.Actions, a)
	}
	p.res.Events = append(p.res.Events, p.events...)
}

func (p *pass) listed(uid types.UID) bool {
	return slices.ContainsFunc(p.status.Active, func(r corev1.ObjectReference) bool { return r.UID == uid })
}

func (p *pass) unlist(uid types.UID) {
	p.status.Active = slices.DeleteFunc(p.status.Active, func(r corev1.ObjectReference) bool { return r.UID == uid })
}

func (p *pass) tell(kind, reason, message string) {
	p.events = append(p.events, *p.event(kind, reason, message))
}

func (p *pass) event(kind, reason, message string) *plan.Event {
	return &plan.Event{Regarding: kinds.RefTo(kinds.CronJob, p.Cron), UID: p.Cron.UID, Type: kind, Reason: reason, Message: message}
}

// jobName of the job for a time; a schedule knows whole minutes only.
func jobName(c *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", c.Name, at.Unix()/60)
}

func reference(j *batchv1.Job) corev1.ObjectReference {
	gv, kind := kinds.Job.GVK.ToAPIVersionAndKind()
	return corev1.ObjectReference{APIVersion: gv, Kind: kind, Namespace: j.Namespace, Name: j.Name, UID: j.UID, ResourceVersion: j.ResourceVersion}
}

// endOf a job, or none.
func endOf(j *batchv1.Job) batchv1.JobConditionType {
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

// byStart orders jobs by when they started; those that have not are last.
func byStart(a, b *batchv1.Job) int {
	x, y := a.Status.StartTime, b.Status.StartTime
	switch {
	case x == nil && y != nil:
		return 1
	case x != nil && y == nil:
		return -1
	case x != nil:
		return cmp.Or(x.Compare(y.Time), strings.Compare(a.Name, b.Name))
	}
	return strings.Compare(a.Name, b.Name)
}
