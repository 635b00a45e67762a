package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"knarr.dev/knarr/internal/kinds"
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
	writing bool
	idle    chan struct{} // closed when a write has ended
}

// set what the status should be.
func (s *statusWriter) set(ctx context.Context, st corev1.PodStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.want != nil && equality.Semantic.DeepEqual(*s.want, st) && s.sent == s.want {
		return
	}
	if s.want == nil || !equality.Semantic.DeepEqual(*s.want, st) {
		s.want = &st
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

// write the difference to what the view shows, so that conditions of others
// stay untouched.
func (s *statusWriter) write(ctx context.Context, want *corev1.PodStatus) error {
	pod, absent := s.w.current()
	if absent {
		return nil
	}
	data, err := statusPatch(pod, want)
	if err != nil || data == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	_, err = s.w.k.cfg.Client.Patch(ctx, kinds.RefTo(kinds.Pod, pod).WithSub("status"), types.StrategicMergePatchType, data)
	return err
}

// statusPatch is nil if nothing differs. It names the UID, so that it fails
// for another pod of the same name.
func statusPatch(pod *corev1.Pod, want *corev1.PodStatus) ([]byte, error) {
	if equality.Semantic.DeepEqual(pod.Status, *want) {
		return nil, nil
	}
	before, err := json.Marshal(&corev1.Pod{Status: pod.Status})
	if err != nil {
		return nil, fmt.Errorf("cannot encode the status: %w", err)
	}
	after := &corev1.Pod{Status: *want}
	after.UID = pod.UID
	data, err := json.Marshal(after)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the status: %w", err)
	}
	return strategicpatch.CreateTwoWayMergePatch(before, data, corev1.Pod{})
}
