package kubelet

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/kubelet/probe"
)

// hookLimit bounds postStart hooks, which have no timeout of their own.
const hookLimit = 10 * time.Minute

// killing of one container, beside its worker.
type killing struct {
	cancel context.CancelFunc
	before time.Time
}

func seconds(s string) *int64 {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		return nil
	}
	return &n
}

func graceText(pod *corev1.Pod) string {
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return strconv.FormatInt(*g, 10)
	}
	return ""
}

// kill ends a container: its preStop hook, then the runtime's stop with what
// is left of the grace. A second, quicker one takes the first one's place.
func (w *worker) kill(ctx context.Context, pod *corev1.Pod, a plan.Action, in plan.Input) {
	own, cancel := context.WithCancel(ctx)
	kl := &killing{cancel: cancel, before: w.k.cfg.Now().Add(a.Grace + plan.MinGrace)}
	w.mu.Lock()
	old := w.kills[a.ID]
	w.kills[a.ID] = kl
	w.mu.Unlock()
	noHook := a.NoHook
	if old != nil {
		old.cancel()
		noHook = true
	} else {
		reason := "Killing"
		if a.Reason == "FailedPostStartHook" {
			w.emit(pod, a.Container, false, reason, "FailedPostStartHook")
		} else {
			w.emit(pod, a.Container, false, reason, a.Message)
		}
	}
	c, _ := specOf(pod, a.Container)
	w.k.group.Add(1)
	go func() {
		defer w.k.group.Done()
		defer cancel()
		left := a.Grace
		if !noHook && c != nil && c.Lifecycle != nil && c.Lifecycle.PreStop != nil && left > 0 {
			left = w.preStop(own, pod, c, a.ID, left, in)
		}
		w.stop(own, a.ID, left)
		w.mu.Lock()
		if w.kills[a.ID] == kl {
			kl.before = w.k.cfg.Now() // over: if it still runs, it may be ended again
		}
		w.mu.Unlock()
		kick(w.wake)
		w.k.askSoon()
	}()
}

// preStop runs the hook and returns what it left of the grace.
func (w *worker) preStop(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id string, grace time.Duration, in plan.Input) time.Duration {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if err := w.hook(limited, pod, c, id, c.Lifecycle.PreStop, in); err != nil && ctx.Err() == nil {
		w.log.Debug("preStop hook failed", "container", c.Name, "error", err)
		w.emit(pod, c.Name, true, "FailedPreStopHook", "PreStopHook failed")
	}
	return max(grace-time.Since(began), plan.MinGrace)
}

func (w *worker) stop(ctx context.Context, id string, grace time.Duration) {
	secs := int64((grace + time.Second - 1) / time.Second)
	limited, cancel := context.WithTimeout(ctx, time.Duration(secs)*time.Second+sandboxTimeout)
	defer cancel()
	_, err := w.k.cri.Runtime.StopContainer(limited, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: secs})
	if err != nil && ctx.Err() == nil {
		w.log.Warn("cannot stop a container", "id", id, "error", err)
	}
}

// postStart runs the hook beside the worker; the plan waits for it.
func (w *worker) postStart(pod *corev1.Pod, c *corev1.Container, id string, in plan.Input) {
	w.k.group.Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), hookLimit)
	w.mu.Lock()
	w.kills["hook "+id] = &killing{cancel: cancel} // ended with the worker
	w.mu.Unlock()
	go func() {
		defer w.k.group.Done()
		defer cancel()
		state := plan.HookDone
		if err := w.hook(ctx, pod, c, id, c.Lifecycle.PostStart, in); err != nil {
			w.log.Debug("postStart hook failed", "container", c.Name, "error", err)
			w.emit(pod, c.Name, true, "FailedPostStartHook", "PostStartHook failed")
			state = plan.HookFailed
		}
		w.setHook(id, state)
		w.mu.Lock()
		delete(w.kills, "hook "+id)
		w.mu.Unlock()
		kick(w.wake)
	}()
}

// hook runs one handler.
func (w *worker) hook(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id string, h *corev1.LifecycleHandler, in plan.Input) error {
	switch {
	case h.Exec != nil:
		out, ok, err := w.k.exec(ctx, id, h.Exec.Command, hookLimit)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("the command failed: %s", out)
		}
		return nil
	case h.HTTPGet != nil:
		return probe.HTTP(ctx, c, w.k.podIP(pod, in.Sandboxes), h.HTTPGet)
	case h.Sleep != nil:
		select {
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
		case <-ctx.Done(): // the grace is over; that is no failure
		}
		return nil
	case h.TCPSocket != nil:
		return errors.New("tcpSocket is not supported as a lifecycle handler")
	}
	return errors.New("the hook has no handler")
}

func (k *Kubelet) podIP(pod *corev1.Pod, boxes []plan.Sandbox) string {
	if pod.Spec.HostNetwork {
		return k.cfg.NodeIP
	}
	if len(boxes) > 0 && len(boxes[0].IPs) > 0 {
		return boxes[0].IPs[0]
	}
	return pod.Status.PodIP
}

// exec runs a command in a container and tells whether it succeeded.
func (k *Kubelet) exec(ctx context.Context, id string, command []string, timeout time.Duration) (string, bool, error) {
	secs := int64((timeout + time.Second - 1) / time.Second)
	res, err := k.cri.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: secs})
	if err != nil {
		return "", false, clean(err)
	}
	return string(res.Stdout) + string(res.Stderr), res.ExitCode == 0, nil
}

func (k *Kubelet) execProbe(ctx context.Context, id string, command []string, timeout time.Duration) (string, bool, error) {
	out, ok, err := k.exec(ctx, id, command, timeout)
	if ctx.Err() != nil {
		return "", false, fmt.Errorf("command timed out: %q timed out after %s", command, timeout)
	}
	return out, ok, err
}

// probes are the plan's, with what asking takes.
func (w *worker) probes(pod *corev1.Pod, boxes []plan.Sandbox, wanted []plan.Probing) []probe.Target {
	var out []probe.Target
	for _, p := range wanted {
		c, _ := specOf(pod, p.Container)
		if c == nil {
			continue
		}
		t := probe.Target{Probing: p, Pod: pod, Spec: c, IP: w.k.podIP(pod, boxes), Changed: func() { kick(w.wake) }}
		switch p.Kind {
		case plan.Startup:
			t.Probe = c.StartupProbe
		case plan.Liveness:
			t.Probe = c.LivenessProbe
		case plan.Readiness:
			t.Probe = c.ReadinessProbe
		}
		for i := range w.containers {
			if w.containers[i].ID == p.ID {
				t.Since = w.containers[i].Started
			}
		}
		name := c.Name
		t.Failed = func(kind plan.Kind, message string) {
			w.emit(pod, name, true, "Unhealthy", string(kind)+" probe failed: "+message)
		}
		out = append(out, t)
	}
	return out
}
