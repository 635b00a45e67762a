package cronjob

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// workers plan that many cron jobs at once, as upstream.
const workers = 5

// Controller makes the jobs of cron jobs. The view needs view.JobsByOwner.
func Controller() reconcile.Controller {
	m, late := &memory{schedules: map[reconcile.Key]schedule{}}, newSkew()
	return reconcile.Controller{
		Name: "cronjob-controller", For: kinds.CronJob, Owns: []*kinds.Kind{kinds.Job}, Workers: workers,
		Writes: []reconcile.Write{
			{Kind: kinds.Job, Verbs: []plan.Verb{plan.Create, plan.Delete}},
			{Kind: kinds.CronJob, Sub: "status", Verbs: []plan.Verb{plan.Update}},
		},
		Plan:    reconcile.Pair(func(in reconcile.Input) (Observed, bool) { return observe(in, m) }, Plan),
		Metrics: []prometheus.Collector{late}, Passed: func(p reconcile.Pass) { noteLate(late, p) },
	}
}

func observe(in reconcile.Input, m *memory) (Observed, bool) {
	c := view.Get[*batchv1.CronJob](in.View, kinds.CronJob, in.Key.Namespace, in.Key.Name)
	if c == nil {
		m.forget(in.Key)
		return Observed{}, false
	}
	return Observed{
		Cron: c, Now: in.Now, Since: m.since(in.Key, c, in.Now),
		Jobs:  slices.Collect(view.By[*batchv1.Job](in.View, view.JobsByOwner, string(c.UID))),
		Named: func(name string) *batchv1.Job { return view.Get[*batchv1.Job](in.View, kinds.Job, c.Namespace, name) },
	}, true
}

// schedule as it was seen last, and since when it is what it is.
type schedule struct {
	uid        types.UID
	text, zone string
	since      time.Time // zero: as long as this process knows
}

// memory of schedules, so that a new one does not start what it would have
// started in the past. It is lost with the process, as upstream's.
type memory struct {
	mu        sync.Mutex
	schedules map[reconcile.Key]schedule
}

// since when the schedule is what it is; zero if no change was seen.
func (m *memory) since(key reconcile.Key, c *batchv1.CronJob, now time.Time) time.Time {
	next := schedule{uid: c.UID, text: c.Spec.Schedule}
	if z := c.Spec.TimeZone; z != nil {
		next.zone = *z
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	last, known := m.schedules[key]
	switch {
	case known && last.uid == next.uid && last.text == next.text && last.zone == next.zone:
		next.since = last.since
	case known && last.uid == next.uid:
		next.since = now
	}
	m.schedules[key] = next
	return next.since
}

func (m *memory) forget(key reconcile.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.schedules, key)
}
