package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/client/remote"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
	viewremote "knarr.dev/knarr/internal/view/remote"
)

const podStartCount = 50

// podStarts creates pods one after another and takes the time from the create
// to Ready, as a watch sees it.
func (b *bench) podStarts() error {
	api, err := remote.FromKubeconfig(b.kubeconfig(), "knarr-bench")
	if err != nil {
		return err
	}
	v := view.New([]*kinds.Kind{kinds.Pod})
	ready := newReadyTimes(v)
	feed, err := viewremote.New(viewremote.Config{Client: api, View: v, Log: slog.New(slog.DiscardHandler),
		Sources: []viewremote.Source{{Kind: kinds.Pod, Namespace: "default"}}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan error, 1)
	go func() { done <- feed.Run(ctx) }()
	defer func() { cancel(); <-done }()
	synced, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	if err := v.WaitSynced(synced); err != nil {
		return fmt.Errorf("the API does not answer: %w", err)
	}
	var ms []float64
	for i := range podStartCount {
		d, err := onePod(ctx, api, ready, fmt.Sprintf("start-%d", i))
		if err != nil {
			return err
		}
		ms = append(ms, d.Seconds()*1000)
	}
	s := sortedCopy(ms)
	report("pod.start.p50", percentile(s, 0.5), "ms")
	report("pod.start.p99", percentile(s, 0.99), "ms")
	return nil
}

func onePod(ctx context.Context, api *remote.Client, ready *readyTimes, name string) (time.Duration, error) {
	ref := kinds.Ref{Kind: kinds.Pod, Namespace: "default", Name: name}
	seen := ready.expect(name)
	began := time.Now()
	if _, err := api.Create(ctx, ref, benchPod(name)); err != nil {
		return 0, err
	}
	select {
	case at := <-seen:
		zero := int64(0)
		_, err := api.Delete(ctx, ref, metav1.DeleteOptions{GracePeriodSeconds: &zero})
		return at.Sub(began), err
	case <-time.After(30 * time.Second):
		return 0, errors.New("pod " + name + " is not ready after 30 s")
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func benchPod(name string) *corev1.Pod {
	no := false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PodSpec{AutomountServiceAccountToken: &no,
			Containers: []corev1.Container{{Name: "c", Image: "registry.knarr.dev/demo:1"}}},
	}
}

// readyTimes tells when pods were first seen Ready.
type readyTimes struct {
	mu      sync.Mutex
	waiting map[string]chan time.Time
}

func newReadyTimes(v *view.View) *readyTimes {
	r := &readyTimes{waiting: map[string]chan time.Time{}}
	v.Subscribe(func(c view.Change) {
		pod, ok := c.New.(*corev1.Pod)
		if !ok || pod == nil {
			return
		}
		for _, cond := range pod.Status.Conditions {
			if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue {
				r.seen(pod.Name, time.Now())
			}
		}
	})
	return r
}

func (r *readyTimes) expect(name string) <-chan time.Time {
	ch := make(chan time.Time, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting[name] = ch
	return ch
}

func (r *readyTimes) seen(name string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ch := r.waiting[name]; ch != nil {
		ch <- at
		delete(r.waiting, name)
	}
}
