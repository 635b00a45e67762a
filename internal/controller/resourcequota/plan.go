// Package resourcequota counts what the objects of a namespace use. Admission
// charges quotas before it lets something in; here they are counted anew when
// something goes or a quota changes.
package resourcequota

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/quota"
)

const (
	// resync makes up for what was charged and never came; upstream's figure.
	resync = 5 * time.Minute
	// secondLook follows a count that was lower than what had been charged: one
	// of the charges may have been for an object that was on its way.
	secondLook = 2 * time.Second
	// awaiting is how soon to look for a kind that is about to be served.
	awaiting = time.Second
)

// Observed is what a plan depends on.
type Observed struct {
	Quota   *corev1.ResourceQuota
	Content []quota.Content // of its namespace, all kinds
	Around  quota.Around
	Awaited bool // a kind that it limits is defined, and not there yet
	Now     time.Time
}

// Plan returns the status that tells what is used.
func Plan(o Observed) plan.Result {
	q := o.Quota
	counted, next, err := quota.Meter{Around: o.Around, Now: o.Now}.Total(q, o.Content)
	if err != nil {
		return plan.Result{After: resync} // a selector that validation refuses today
	}
	status := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: corev1.ResourceList{}}
	less := false
	for name := range q.Spec.Hard {
		was, known := q.Status.Used[name]
		is, ok := counted[name]
		switch {
		case ok:
			status.Used[name] = is
			less = less || known && is.Cmp(was) < 0
		case known:
			status.Used[name] = was // nobody can count it at the moment
		}
	}
	res := plan.Result{After: resync}
	if o.Awaited {
		res.After = awaiting
	}
	if less {
		res.After = min(res.After, secondLook)
	}
	if !next.IsZero() {
		// It counts up to that very moment.
		res.After = min(res.After, next.Sub(o.Now)+time.Millisecond)
	}
	if q.Status.Hard == nil || q.Status.Used == nil || !quota.Same(status.Hard, q.Status.Hard) || !quota.Same(status.Used, q.Status.Used) {
		now := *q // only the status is another
		now.Status = status
		res.Actions = []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.ResourceQuota, q).WithSub("status"), Object: &now}}
	}
	return res
}
