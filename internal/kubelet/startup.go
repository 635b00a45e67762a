package kubelet

import (
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kubelet/plan"
)

// startup is how long one pod takes to start, for the metrics of that. A pod
// that had its place before this kubelet saw it is not followed.
type startup struct {
	mu      sync.Mutex
	seen    time.Time
	over    bool // it has started as its clients see it, or is not followed
	running bool // its phase was Running

	pulling    int // at the moment
	pullsSince time.Time
	pulls      time.Duration // with at least one pull under way
	inits      map[string]time.Duration
}

func newStartup(pod *corev1.Pod, now time.Time) *startup {
	followed := !placed(pod) && len(pod.Spec.Containers) > 0
	return &startup{seen: now, over: !followed, running: !followed}
}

// pull tells that one begins or has ended.
func (s *startup) pull(begins bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case begins:
		if s.pulling++; s.pulling == 1 {
			s.pullsSince = now
		}
	default:
		if s.pulling--; s.pulling == 0 {
			s.pulls += now.Sub(s.pullsSince)
		}
	}
}

// looked tells what a pass found; it returns how long the pod took to run if
// it does so for the first time.
func (s *startup) looked(pod *corev1.Pod, phase corev1.PodPhase, containers []plan.Container, now time.Time) (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return 0, false
	}
	for i := range containers {
		c := &containers[i]
		if c.State == plan.Exited && c.Finished.After(c.Started) && slices.ContainsFunc(pod.Spec.InitContainers, func(i corev1.Container) bool { return i.Name == c.Name }) {
			if s.inits == nil {
				s.inits = map[string]time.Duration{}
			}
			s.inits[c.ID] = c.Finished.Sub(c.Started)
		}
	}
	if phase == corev1.PodFailed || phase == corev1.PodSucceeded {
		s.over = true
	}
	if s.running || phase != corev1.PodRunning {
		return 0, false
	}
	s.running = true
	return now.Sub(s.seen), true
}

// observed tells of the pod as the API shows it. If all of its containers have
// started for the first time, it returns how long that took since its creation,
// and how long without pulls and init containers.
func (s *startup) observed(pod *corev1.Pod, now time.Time) (total, net time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || len(pod.Status.ContainerStatuses) < len(pod.Spec.Containers) {
		return 0, 0, false
	}
	for i := range pod.Status.ContainerStatuses {
		if pod.Status.ContainerStatuses[i].State.Running == nil {
			return 0, 0, false
		}
	}
	s.over = true
	total = now.Sub(pod.CreationTimestamp.Time)
	net = total - s.pulls
	for _, d := range s.inits {
		net -= d
	}
	return total, max(0, net), true
}

// stateful pods are no part of the objective of start times: they mount
// something else than what the kubelet makes by itself.
func stateful(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Secret == nil && v.ConfigMap == nil && v.DownwardAPI == nil && v.EmptyDir == nil && v.Projected == nil
	})
}
