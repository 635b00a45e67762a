package job

import (
	"slices"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/reconcile"
)

// A new pod waits after a failure, twice as long after each further one in a
// row; as upstream.
const (
	firstWait   = 10 * time.Second
	longestWait = 10 * time.Minute
)

// enoughFailures is how many failures in a row make the longest wait: ten
// seconds doubled six times are more than that.
const enoughFailures = 7

// waitAfter so many failures, the last of them at that time.
func waitAfter(failures int, last, now time.Time) time.Duration {
	if failures == 0 {
		return 0
	}
	wait := longestWait
	if failures < enoughFailures {
		wait = firstWait << (failures - 1)
	}
	return max(0, last.Add(wait).Sub(now))
}

// ending of a pod, remembered because the pod may be gone soon.
type ending struct {
	uid types.UID
	at  time.Time
}

// streak are the last failures of a job since its last success, in order.
type streak struct {
	job      types.UID
	success  time.Time
	failures []ending
}

// add takes in what the pods tell. Adding the same pods again changes nothing.
// Pods that were told to go, because there were too many of them or the job was
// suspended, are no longer tracked and do not count.
func (s *streak) add(j *batchv1.Job, pods []*corev1.Pod) {
	for _, p := range pods {
		if !tracked(p) && (!ended(p) || p.DeletionTimestamp != nil) {
			continue
		}
		switch at := endOf(p); {
		case succeeded(p):
			if at.After(s.success) {
				s.success = at
			}
		case failed(j, p):
			if i := slices.IndexFunc(s.failures, func(e ending) bool { return e.uid == p.UID }); i >= 0 {
				s.failures[i].at = at
			} else {
				s.failures = append(s.failures, ending{p.UID, at})
			}
		}
	}
	s.failures = slices.DeleteFunc(s.failures, func(e ending) bool { return !e.at.After(s.success) })
	slices.SortFunc(s.failures, func(a, b ending) int { return a.at.Compare(b.at) })
	if n := len(s.failures); n > enoughFailures {
		s.failures = slices.Delete(s.failures, 0, n-enoughFailures)
	}
}

// memory of failures, since the pods that failed do not stay. It is lost with
// the process: then what is still there counts.
type memory struct {
	mu   sync.Mutex
	jobs map[reconcile.Key]*streak
}

// recent failures of a job in a row: how many, enoughFailures at most, and when
// the last was.
func (m *memory) recent(key reconcile.Key, j *batchv1.Job, pods []*corev1.Pod) (n int, last time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.jobs[key]
	if s == nil || s.job != j.UID {
		s = &streak{job: j.UID}
	}
	s.add(j, pods)
	if len(s.failures) == 0 && s.success.IsZero() {
		delete(m.jobs, key)
		return 0, time.Time{}
	}
	m.jobs[key] = s
	if n = len(s.failures); n > 0 {
		last = s.failures[n-1].at
	}
	return n, last
}

// forget a job that has ended or is gone.
func (m *memory) forget(key reconcile.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.jobs, key)
}
