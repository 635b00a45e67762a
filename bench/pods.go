package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/client/remote"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
	viewremote "knarr.dev/knarr/internal/view/remote"
)

// Pods that come and go one after another, and pods that stay.
const (
	podStartCount = 50
	denseStep     = 100
	denseSteps    = 3
)

// podStarts creates pods one after another and takes the time from the create
// to Ready, as a watch sees it.
func (b *bench) podStarts() error {
	return b.watching(func(ctx context.Context, api *remote.Client, ready *readyTimes) error {
		return startPods(ctx, api, ready, "pod.start", podStartCount, true)
	})
}

// density fills the node: what the last pods cost is compared with the first.
func (b *bench) density() error {
	return b.watching(func(ctx context.Context, api *remote.Client, ready *readyTimes) error {
		for i := range denseSteps {
			before, name := b.nodeMemory(), fmt.Sprintf("pod.dense.%d", (i+1)*denseStep)
			if err := startPods(ctx, api, ready, name, denseStep, false); err != nil {
				return err
			}
			report(name+".memory", (b.nodeMemory()-before)/denseStep, "MiB/pod of knarr and the supervisor")
		}
		return nil
	})
}

// nodeMemory is that of knarr and its parent of containers, in MiB.
func (b *bench) nodeMemory() float64 {
	in, err := b.instance()
	if err != nil {
		return 0
	}
	return b.overhead(b.data()) + b.overhead(in.RunDir)
}

func startPods(ctx context.Context, api *remote.Client, ready *readyTimes, name string, n int, remove bool) error {
	var ms []float64
	for i := range n {
		pod := fmt.Sprintf("%s-%d", name, i)
		d, err := onePod(ctx, api, ready, pod)
		if err != nil {
			return err
		}
		ms = append(ms, d.Seconds()*1000)
		if !remove {
			continue
		}
		zero := int64(0)
		if _, err := api.Delete(ctx, kinds.Ref{Kind: kinds.Pod, Namespace: "default", Name: pod}, metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
			return err
		}
	}
	slices.Sort(ms)
	report(name+".p50", percentile(ms, 0.5), "ms")
	report(name+".p99", percentile(ms, 0.99), "ms")
	return nil
}

// watching has pods watched while fn works.
func (b *bench) watching(fn func(ctx context.Context, api *remote.Client, ready *readyTimes) error) error {
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
	return fn(ctx, api, ready)
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
		return at.Sub(began), nil
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
