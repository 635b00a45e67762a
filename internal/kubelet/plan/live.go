package plan

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds/restart"
)

// live brings the pod up and keeps it up.
func (p *pass) live() {
	if p.settled() {
		p.end()
		return
	}
	if !p.in.Volumes.Ready || p.box == nil {
		p.prefetch()
	}
	if !p.in.Volumes.Ready {
		p.prepare()
		return
	}
	if p.box == nil {
		p.sandbox()
		return
	}
	p.ephemeral()
	if p.initialize() {
		for i := range p.pod.Spec.Containers {
			spec := &p.pod.Spec.Containers[i]
			if c := p.newest(spec.Name); c != nil && p.done(spec, c) {
				continue // even if in a sandbox before this one
			}
			p.run(spec, p.again(spec))
		}
	}
	p.resize()
	if why := p.out.ResizeError; why != "" {
		p.out.Events = append(p.out.Events, Event{Warning: true, Reason: "ResizeError",
			Message: ResizeMessage("Pod resize error", p.pod, p.in.Resizing, why)})
	}
}

func (p *pass) prepare() {
	if p.in.Volumes.Working {
		return
	}
	if f := p.in.Volumes.Failed; f.Count > 0 && !p.retry(f) {
		return
	}
	p.act(Action{Op: PrepareVolumes})
}

// prefetch begins to look for images while volumes and the sandbox are made.
// What comes of it is judged when the container is about to start.
func (p *pass) prefetch() {
	for _, list := range [][]corev1.Container{p.pod.Spec.InitContainers, p.pod.Spec.Containers} {
		for i := range list {
			spec := &list[i]
			for _, n := range Needs(p.pod, spec) {
				if im, ok := p.in.Images[n.Key]; (!ok || im.Spec != n.Image) && p.newest(spec.Name) == nil {
					p.ensure(spec, n, p.nextAttempt(spec.Name))
				}
			}
		}
	}
}

// retry reports whether the pause after a failure is over.
func (p *pass) retry(f Failed) bool {
	at := f.At.Add(pause(f.Count))
	if p.in.Now.Before(at) {
		p.wakeAt(at)
		return false
	}
	return true
}

func pause(count int) time.Duration {
	d := retryFirst
	for i := 1; i < count && d < retryMax; i++ {
		d *= 2
	}
	return min(d, retryMax)
}

// sandbox makes a new one, after what is left in the old one has ended.
func (p *pass) sandbox() {
	busy := false
	for i := range p.in.Containers {
		c := &p.in.Containers[i]
		if c.State == Running || c.State == Unknown {
			busy = true
			p.kill(c, p.grace(), "Killing", "Stopping container "+c.Name+": its sandbox changed", false)
		}
	}
	if busy {
		return
	}
	attempt := uint32(0)
	if len(p.in.Sandboxes) > 0 {
		attempt = p.in.Sandboxes[0].Attempt + 1
	}
	if f, ok := p.in.Failures[""]; ok && !p.retry(f) {
		return
	}
	if attempt > 0 {
		p.act(Action{Op: StopSandbox, ID: p.in.Sandboxes[0].ID})
	}
	p.act(Action{Op: CreateSandbox, Attempt: attempt})
}

// settled reports that every container has ended for good, so that only what
// goes on beside them is left to be ended.
func (p *pass) settled() bool {
	if c := p.failedInit(); c != nil {
		return true
	}
	for i := range p.pod.Spec.Containers {
		spec := &p.pod.Spec.Containers[i]
		if c := p.newest(spec.Name); c != nil {
			if !p.done(spec, c) {
				return false
			}
			continue
		}
		st := p.old[spec.Name]
		if st == nil || st.State.Terminated == nil || restart.Again(&p.pod.Spec, spec, st.State.Terminated.ExitCode) {
			return false
		}
	}
	return true
}

// failedInit is the init container whose failure is the pod's.
func (p *pass) failedInit() *Container {
	for i := range p.pod.Spec.InitContainers {
		spec := &p.pod.Spec.InitContainers[i]
		if c := p.newest(spec.Name); c != nil && !sidecar(spec) && c.ExitCode != 0 && p.done(spec, c) {
			return c
		}
	}
	return nil
}

// done reports whether a container has ended for good.
func (p *pass) done(spec *corev1.Container, c *Container) bool {
	return c.State == Exited && !restart.Again(&p.pod.Spec, spec, c.ExitCode) && !(c.Killed && restart.AfterKill(&p.pod.Spec, spec))
}

// again reports whether a container that ended with a code is started again.
func (p *pass) again(spec *corev1.Container) func(int32) bool {
	return func(code int32) bool { return restart.Again(&p.pod.Spec, spec, code) }
}

// onFailure is again for an init container, which is done when it ended well.
func (p *pass) onFailure(spec *corev1.Container) func(int32) bool {
	return func(code int32) bool { return code != 0 && restart.Again(&p.pod.Spec, spec, code) }
}

func always(int32) bool { return true }
func never(int32) bool  { return false }

// ephemeral containers start whenever there is a sandbox, once.
func (p *pass) ephemeral() {
	for i := range p.pod.Spec.EphemeralContainers {
		spec := corev1.Container(p.pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		// One that ran is never run again, even if its record is gone.
		old := p.old[spec.Name]
		if p.newest(spec.Name) == nil && (old == nil || old.ContainerID == "") || p.current(spec.Name) != nil {
			p.run(&spec, never)
		}
	}
}

// mainBegun reports whether the sandbox's init phase is over.
func (p *pass) mainBegun() bool {
	for i := range p.pod.Spec.Containers {
		if p.current(p.pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

// initialize runs the init containers in order and reports whether the others
// may run. Once those have begun, only sidecars are looked after.
func (p *pass) initialize() bool {
	begun := p.mainBegun()
	for i := range p.pod.Spec.InitContainers {
		spec := &p.pod.Spec.InitContainers[i]
		if sidecar(spec) {
			p.run(spec, always)
			if !begun && !p.started(spec) && !p.laterBegun(i) {
				return false
			}
			continue
		}
		if begun || p.laterBegun(i) {
			continue
		}
		c := p.current(spec.Name)
		if c != nil && c.State == Exited && c.ExitCode == 0 {
			continue
		}
		p.run(spec, p.onFailure(spec))
		return false
	}
	return true
}

// laterBegun reports whether an init container after i exists in the sandbox,
// which proves that i was done.
func (p *pass) laterBegun(i int) bool {
	for _, spec := range p.pod.Spec.InitContainers[i+1:] {
		if p.current(spec.Name) != nil {
			return true
		}
	}
	return false
}

// started reports whether a container has passed its start: running, its hook
// done and its startup probe, if any, successful.
func (p *pass) started(spec *corev1.Container) bool {
	c := p.current(spec.Name)
	return c != nil && p.isStarted(spec, c)
}

func (p *pass) isStarted(spec *corev1.Container, c *Container) bool {
	if c.State != Running || c.Hook != HookDone {
		return false
	}
	if spec.StartupProbe == nil {
		return true
	}
	switch p.in.Probes[c.ID].Startup {
	case Success:
		return true
	case Failure:
		return false
	}
	old := p.sameBefore(c)
	return old != nil && old.Started != nil && *old.Started
}

// sameBefore is what was last reported of exactly this container: a kubelet
// that starts anew goes on from there until its probes have run.
func (p *pass) sameBefore(c *Container) *corev1.ContainerStatus {
	if st := p.old[c.Name]; st != nil && names(st.ContainerID, c.ID) {
		return st
	}
	return nil
}

func (p *pass) isReady(spec *corev1.Container, c *Container) bool {
	if !p.isStarted(spec, c) {
		return false
	}
	if spec.ReadinessProbe == nil {
		return true
	}
	switch p.in.Probes[c.ID].Readiness {
	case Success:
		return true
	case Failure:
		return false
	}
	old := p.sameBefore(c)
	return old != nil && old.Ready
}

// run does the next thing for one container that should run.
func (p *pass) run(spec *corev1.Container, again func(code int32) bool) {
	c := p.current(spec.Name)
	if c == nil {
		p.start(spec)
		return
	}
	switch c.State {
	case Running:
		p.check(spec, c)
	case Created:
		// The runtime made it, then something died before it was started.
		p.act(Action{Op: RemoveContainer, Container: c.Name, ID: c.ID})
	case Unknown:
		p.kill(c, 0, "Killing", "Container "+c.Name+" is in an unknown state, try killing it before restart", true)
	case Exited:
		switch {
		case again(c.ExitCode):
			p.start(spec)
		case c.Killed && restart.AfterKill(&p.pod.Spec, spec):
			// It ended well, but only because it is to start anew.
			p.wait[spec.Name] = waiting{reason: "ContainerCreating"}
			p.start(spec)
		}
	}
}

// check ends a running container that must be replaced.
func (p *pass) check(spec *corev1.Container, c *Container) {
	pr := p.in.Probes[c.ID]
	switch {
	case p.resizeRestarts(spec, c):
		p.kill(c, p.grace(), "Killing", fmt.Sprintf("Container %s resize requires restart", c.Name), false)
	case c.Hook == HookFailed:
		p.kill(c, p.grace(), "FailedPostStartHook", "FailedPostStartHook", false)
	case c.Hash != Hash(spec):
		p.kill(c, p.grace(), "Killing", fmt.Sprintf("Container %s definition changed, will be restarted", c.Name), false)
	case pr.Liveness == Failure:
		p.kill(c, p.probeGrace(spec.LivenessProbe), "Killing", fmt.Sprintf("Container %s failed liveness probe, will be restarted", c.Name), false)
	case pr.Startup == Failure:
		p.kill(c, p.probeGrace(spec.StartupProbe), "Killing", fmt.Sprintf("Container %s failed startup probe, will be restarted", c.Name), false)
	}
}

// start goes through what comes before a container runs: the pause after a
// crash or a failed attempt, and the image.
func (p *pass) start(spec *corev1.Container) {
	attempt := p.nextAttempt(spec.Name)
	if p.pausing(spec) {
		return
	}
	if f, ok := p.in.Failures[spec.Name]; ok {
		p.wait[spec.Name] = waiting{f.Reason, f.Message}
		if !p.retry(f) {
			return
		}
	}
	for _, n := range Needs(p.pod, spec) {
		if !p.image(spec, n, attempt) {
			return
		}
	}
	for _, a := range p.out.Actions {
		if a.Op == StartContainer { // one at a time, so that the second sees the first's hook
			return
		}
	}
	for _, other := range p.in.Containers {
		if other.Hook == HookRunning && other.State == Running {
			return
		}
	}
	p.act(Action{Op: StartContainer, Container: spec.Name, Attempt: attempt, Backoff: p.nextBackoff(spec.Name)})
}

// nextAttempt is the restart count of the container to be made.
func (p *pass) nextAttempt(name string) uint32 {
	n := uint32(0)
	if c := p.newest(name); c != nil {
		n = c.Attempt + 1
	}
	if st := p.old[name]; st != nil && st.ContainerID != "" {
		if c := p.newest(name); c == nil || names(st.ContainerID, c.ID) {
			n = max(n, uint32(st.RestartCount)+1)
		} else {
			n = max(n, uint32(st.RestartCount))
		}
	}
	return n
}

// pausing reports whether a crashed container has to wait.
func (p *pass) pausing(spec *corev1.Container) bool {
	last := p.newest(spec.Name)
	if last == nil || last.Backoff == 0 || last.Finished.Sub(last.Created) > backoffForget {
		return false
	}
	until := last.Finished.Add(last.Backoff)
	if !p.in.Now.Before(until) {
		return false
	}
	p.wakeAt(until)
	message := fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", last.Backoff, spec.Name, p.pod.Name, p.pod.Namespace, p.pod.UID)
	p.wait[spec.Name] = waiting{"CrashLoopBackOff", message}
	p.out.Events = append(p.out.Events, Event{Container: spec.Name, Warning: true, Reason: "BackOff",
		Message: fmt.Sprintf("Back-off restarting failed container %s in pod %s_%s(%s)", spec.Name, p.pod.Name, p.pod.Namespace, p.pod.UID)})
	return true
}

// nextBackoff is how long the start after the next one will wait: the first
// restart is immediate.
func (p *pass) nextBackoff(name string) time.Duration {
	last := p.newest(name)
	switch {
	case last == nil:
		return 0
	case last.Backoff == 0, p.in.Now.Sub(last.Created) > backoffForget:
		return backoffFirst
	}
	return min(2*last.Backoff, backoffMax)
}

// image reports whether an image is there; if not, it says what to do or why
// nothing is done.
func (p *pass) image(spec *corev1.Container, n Need, attempt uint32) bool {
	im := p.in.Images[n.Key]
	if im.Spec == n.Image && im.Attempt == attempt && im.Ready {
		return true
	}
	if im.Pulling {
		return false
	}
	if im.Reason == "" || im.Spec != n.Image {
		p.ensure(spec, n, attempt)
		return false
	}
	shown, again := im.At.Add(errorShown), im.At.Add(im.Delay)
	switch {
	case !p.in.Now.Before(again):
		p.wait[spec.Name] = backedOff(im)
		p.ensure(spec, n, attempt)
		return false
	case im.Reason == "ErrImagePull" && !p.in.Now.Before(shown):
		p.wait[spec.Name] = backedOff(im)
		p.out.Events = append(p.out.Events, Event{Container: spec.Name, Reason: "BackOff", Message: fmt.Sprintf("Back-off pulling image %q", n.Image)},
			Event{Container: spec.Name, Warning: true, Reason: "Failed", Message: "Error: ImagePullBackOff"})
	default:
		p.wait[spec.Name] = waiting{im.Reason, im.Message}
		if im.Reason == "ErrImagePull" {
			p.wakeAt(shown)
		}
	}
	p.wakeAt(again)
	return false
}

func (p *pass) ensure(spec *corev1.Container, n Need, attempt uint32) {
	p.act(Action{Op: EnsureImage, Container: spec.Name, Image: n.Key, Attempt: attempt})
}

func backedOff(im Image) waiting {
	if im.Reason != "ErrImagePull" {
		return waiting{im.Reason, im.Message}
	}
	return waiting{"ImagePullBackOff", fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %s", im.Spec, im.Message)}
}

// NextPull is the pause after another failed pull.
func NextPull(last time.Duration) time.Duration {
	if last == 0 {
		return backoffFirst
	}
	return min(2*last, backoffMax)
}
