package plan

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// grace is the pod's period for a container that ends although the pod lives.
func (p *pass) grace() time.Duration {
	if g := p.pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return time.Duration(*g) * time.Second
	}
	return corev1.DefaultTerminationGracePeriodSeconds * time.Second
}

func (p *pass) probeGrace(probe *corev1.Probe) time.Duration {
	if probe != nil && probe.TerminationGracePeriodSeconds != nil {
		return time.Duration(*probe.TerminationGracePeriodSeconds) * time.Second
	}
	return p.grace()
}

// remaining grace of a pod that is ending. A pod that vanished from the API
// still gets what was promised, at least a second.
func (p *pass) remaining() time.Duration {
	total := p.grace()
	if g := p.pod.DeletionGracePeriodSeconds; g != nil {
		total = time.Duration(*g) * time.Second
	}
	if p.in.Evicted != "" {
		total = min(total, evictionGrace)
	}
	if p.in.Gone {
		total = max(total, time.Second)
	}
	return max(0, total-p.in.Now.Sub(p.out.Since))
}

// kill asks for the end of a container, again if it must now be quicker.
func (p *pass) kill(c *Container, grace time.Duration, reason, message string, noHook bool) {
	before := p.in.Now.Add(grace + MinGrace)
	if c.Killing && p.in.Now.Before(c.KillBefore) && !before.Add(time.Second).Before(c.KillBefore) {
		p.wakeAt(c.KillBefore) // the runtime may have failed to end it
		return
	}
	p.act(Action{Op: KillContainer, Container: c.Name, ID: c.ID, Grace: grace, Reason: reason, Message: message, NoHook: noHook})
}

// end stops the containers, sidecars last and in reverse order, then the
// sandbox, then cleans up and, for a deleted pod, says so to the API.
func (p *pass) end() {
	p.ending = true
	if p.out.Since.IsZero() {
		p.out.Since = p.in.Now
	}
	if p.stopContainers() {
		return
	}
	for _, b := range p.in.Sandboxes {
		if b.Ready {
			p.act(Action{Op: StopSandbox, ID: b.ID})
		}
	}
	if !p.in.Volumes.Cleaned {
		if f := p.in.Volumes.Unclean; f.Count > 0 && !p.retry(f) {
			return
		}
		p.act(Action{Op: CleanUp})
		return
	}
	if len(p.out.Actions) > 0 || !(p.in.Gone || p.pod.DeletionTimestamp != nil) {
		return
	}
	if len(p.in.Sandboxes) > 0 || len(p.in.Containers) > 0 {
		p.act(Action{Op: RemoveSandboxes})
		return
	}
	if !p.in.Gone {
		p.act(Action{Op: Delete})
		return
	}
	p.out.Done = true
}

// stopContainers reports whether anything still runs.
func (p *pass) stopContainers() bool {
	side := map[string]bool{}
	for i := range p.pod.Spec.InitContainers {
		if c := &p.pod.Spec.InitContainers[i]; sidecar(c) {
			side[c.Name] = true
		}
	}
	busy := false
	for i := range p.in.Containers {
		c := &p.in.Containers[i]
		if c.State == Exited || side[c.Name] {
			continue
		}
		busy = p.stop(c) || busy
	}
	if busy {
		return true
	}
	for i := len(p.pod.Spec.InitContainers) - 1; i >= 0; i-- {
		for _, c := range p.byName[p.pod.Spec.InitContainers[i].Name] {
			if c.State != Exited && p.stop(c) {
				busy = true
			}
		}
		if busy {
			return true
		}
	}
	return false
}

// stop ends one container and reports whether it has to be waited for.
func (p *pass) stop(c *Container) bool {
	if c.State == Created {
		p.act(Action{Op: RemoveContainer, Container: c.Name, ID: c.ID})
		return true
	}
	p.kill(c, p.remaining(), "Killing", fmt.Sprintf("Stopping container %s", c.Name), false)
	return true
}
