package devicetaint

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
)

// Tally is what evictions came to, which no object says: both controllers share
// it, and it is lost with the process.
type Tally struct {
	mu    sync.Mutex
	rules map[string]*record

	deletions prometheus.Counter
	latency   prometheus.Histogram
}

// record of a rule.
type record struct {
	uid     types.UID
	evicted int
	since   time.Time // its status is out of date since then; zero: it is not
}

// NewTally returns an empty one; its metrics have upstream's names.
func NewTally() *Tally {
	const subsystem = "device_taint_eviction_controller"
	return &Tally{
		rules:     map[string]*record{},
		deletions: prometheus.NewCounter(prometheus.CounterOpts{Subsystem: subsystem, Name: "pod_deletions_total", Help: "Pods deleted because of tainted devices."}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{Subsystem: subsystem, Name: "pod_deletion_duration_seconds",
			Help: "Time from when a pod had to leave a device to its deletion.", Buckets: []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 30, 60, 120, 180, 240}}),
	}
}

// passed counts a pod that was evicted, also for each rule that it had to leave
// for.
func (t *Tally) passed(p reconcile.Pass) {
	for _, a := range p.Applied {
		if a.Verb != plan.Delete {
			continue
		}
		o, ok := observe(p.Input)
		causes := o.causes()
		if !ok || len(causes) == 0 {
			continue
		}
		t.deletions.Inc()
		t.latency.Observe(p.Now.Add(p.Took).Sub(soonest(causes).at).Seconds())
		seen := map[types.UID]bool{}
		for _, c := range causes {
			if r := c.taint.Rule; r != nil && !seen[r.UID] {
				seen[r.UID] = true
				t.count(r)
			}
		}
	}
}

// of must be called with mu held.
func (t *Tally) of(r *resourcev1.DeviceTaintRule) *record {
	known := t.rules[r.Name]
	if known == nil || known.uid != r.UID {
		known = &record{uid: r.UID}
		t.rules[r.Name] = known
	}
	return known
}

func (t *Tally) count(r *resourcev1.DeviceTaintRule) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of(r).evicted++
}

// recall what is known of a rule.
func (t *Tally) recall(r *resourcev1.DeviceTaintRule) (evicted int, since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.of(r)
	return known.evicted, known.since
}

// reported: what was out of date is not any more.
func (t *Tally) reported(p reconcile.Pass) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known := t.rules[p.Key.Name]; known != nil && len(p.Applied) > 0 {
		known.since = time.Time{}
	}
}

// since is when the rule's status began to be out of date.
func (t *Tally) since(r *resourcev1.DeviceTaintRule, stale bool, now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.of(r)
	switch {
	case !stale:
		known.since = time.Time{}
	case known.since.IsZero():
		known.since = now
	}
	return known.since
}

func (t *Tally) forget(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.rules, name)
}
