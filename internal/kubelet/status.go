package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet/plan"
)

const (
	statusTimeout = 30 * time.Second
	statusRetry   = time.Second
)

// statusWriter brings one pod's status to the API beside its worker: the
// newest one, one write at a time, only what differs.
type statusWriter struct {
	w *worker

	mu      sync.Mutex
	want    *corev1.PodStatus
	sent    *corev1.PodStatus // what the API took last
	last    *corev1.Pod       // the API's answer to that
	since   time.Time         // when want first differed from what was sent
	writing bool
	idle    chan struct{} // closed when a write has ended
}

// set what the status should be. What was sent is sent again if somebody
// changed it after that.
func (s *statusWriter) set(ctx context.Context, st corev1.PodStatus) {
	pod, _ := s.w.current()
	s.mu.Lock()
	defer s.mu.Unlock()
	if same(s.last, pod) {
		s.last = pod // the view has it by now: one copy is enough
	}
	if s.want != nil && s.sent == s.want && equality.Semantic.DeepEqual(*s.want, st) {
		if !after(pod, s.last) || equality.Semantic.DeepEqual(pod.Status, st) {
			return
		}
		s.sent = nil
	}
	if s.want == nil || !equality.Semantic.DeepEqual(*s.want, st) {
		s.want = &st
		if s.since.IsZero() {
			s.since = time.Now()
		}
	}
	if s.writing {
		return
	}
	s.writing, s.idle = true, make(chan struct{})
	s.w.k.group.Add(1)
	go func() {
		defer s.w.k.group.Done()
		s.loop(ctx)
	}()
}

// lastEnded is the ID of the container that the newest status names as the
// last one of that name that ended.
func (s *statusWriter) lastEnded(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.want == nil {
		return ""
	}
	for _, list := range [][]corev1.ContainerStatus{s.want.InitContainerStatuses, s.want.ContainerStatuses} {
		for i := range list {
			if t := list[i].LastTerminationState.Terminated; list[i].Name == name && t != nil {
				return t.ContainerID
			}
		}
	}
	return ""
}

func (s *statusWriter) loop(ctx context.Context) {
	for {
		s.mu.Lock()
		want := s.want
		if want == s.sent || ctx.Err() != nil {
			s.writing = false
			close(s.idle)
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		err := s.write(ctx, want)
		switch {
		case err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err):
			s.mu.Lock()
			s.sent = want
			if err == nil && s.want == want && !s.since.IsZero() {
				s.w.k.metrics.statusWritten.Observe(since(s.since))
				s.since = time.Time{}
			}
			s.mu.Unlock()
		case ctx.Err() == nil:
			s.w.log.Warn("cannot write the pod's status", "error", err)
			select {
			case <-time.After(statusRetry):
			case <-ctx.Done():
			}
		}
	}
}

// flush waits until the newest status is written, or writes it.
func (s *statusWriter) flush(ctx context.Context) error {
	for {
		s.mu.Lock()
		want, writing, idle := s.want, s.writing, s.idle
		done := want == nil || s.sent == want
		s.mu.Unlock()
		if !writing {
			if done {
				return nil
			}
			return s.write(ctx, want)
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// write the difference to the newest pod that is known, of which conditions of
// others stay untouched.
func (s *statusWriter) write(ctx context.Context, want *corev1.PodStatus) error {
	pod, absent := s.w.current()
	if absent {
		return nil
	}
	s.mu.Lock()
	if s.last != nil && s.last.UID == pod.UID && !after(pod, s.last) {
		pod = s.last
	}
	s.mu.Unlock()
	data, err := statusPatch(pod, withForeign(want, &pod.Status))
	if err != nil || data == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	out, err := s.w.k.cfg.Client.Patch(ctx, kinds.RefTo(kinds.Pod, pod).WithSub("status"), types.StrategicMergePatchType, data)
	if err != nil {
		return err
	}
	if p, ok := out.(*corev1.Pod); ok {
		if seen, _ := s.w.current(); same(p, seen) {
			p = seen
		}
		s.mu.Lock()
		s.last = p
		s.mu.Unlock()
	}
	return nil
}

// same reports whether two are one state of one pod.
func same(a, b *corev1.Pod) bool {
	return a != nil && b != nil && a.UID == b.UID && a.ResourceVersion == b.ResourceVersion
}

// after reports whether a is a later state than b of the same pod.
func after(a, b *corev1.Pod) bool {
	if b == nil {
		return true
	}
	x, err := strconv.ParseInt(a.ResourceVersion, 10, 64)
	y, err2 := strconv.ParseInt(b.ResourceVersion, 10, 64)
	return err == nil && err2 == nil && x > y
}

// withForeign is want with the conditions of others as they are now.
func withForeign(want, now *corev1.PodStatus) *corev1.PodStatus {
	out := *want
	out.Conditions = nil
	own := map[corev1.PodConditionType]bool{}
	for i := range want.Conditions {
		if c := &want.Conditions[i]; plan.Owns(c) {
			own[c.Type] = true
			out.Conditions = append(out.Conditions, *c)
		}
	}
	for i := range now.Conditions {
		if c := &now.Conditions[i]; !plan.Owns(c) && !own[c.Type] {
			out.Conditions = append(out.Conditions, *c)
		}
	}
	return &out
}

// statusPatch is nil if nothing differs. It names the UID, so that it fails
// for another pod of the same name.
func statusPatch(pod *corev1.Pod, want *corev1.PodStatus) ([]byte, error) {
	if equality.Semantic.DeepEqual(pod.Status, *want) {
		return nil, nil
	}
	diff, err := patchOf(&corev1.Pod{Status: pod.Status}, &corev1.Pod{Status: *want})
	if err != nil || string(diff) == "{}" { // they differ in nothing that is written
		return nil, err
	}
	withUID := &corev1.Pod{Status: *want}
	withUID.UID = pod.UID
	return patchOf(&corev1.Pod{Status: pod.Status}, withUID)
}

func patchOf(old, now *corev1.Pod) ([]byte, error) {
	before, err := json.Marshal(old)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the status: %w", err)
	}
	after, err := json.Marshal(now)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the status: %w", err)
	}
	return strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Pod{})
}
