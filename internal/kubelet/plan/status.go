package plan

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds/qos"
)

// Status times are seconds: finer ones would never equal what the API gives
// back.
func seconds(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Time{}
	}
	return metav1.NewTime(t.Truncate(time.Second))
}

// maxMessages bounds the termination messages of all of a pod's containers
// together (upstream's figure).
const maxMessages = 12 << 10

// containerID is the form of the API: the runtime's name and its own ID.
func (p *pass) containerID(id string) string {
	if id == "" {
		return ""
	}
	name := p.in.Runtime
	if name == "" {
		name = "containerd"
	}
	return name + "://" + id
}

// names reports whether a container ID of the API is the runtime's id.
func names(reported, id string) bool {
	_, own, ok := strings.Cut(reported, "://")
	return ok && own == id
}

// status reports what is, not what was planned.
func (p *pass) status() {
	old := &p.pod.Status
	st := corev1.PodStatus{
		ObservedGeneration: p.pod.Generation,
		HostIP:             p.in.NodeIP,
		HostIPs:            []corev1.HostIP{{IP: p.in.NodeIP}},
		StartTime:          old.StartTime,
		QOSClass:           old.QOSClass,
		Reason:             old.Reason, Message: old.Message,
		NominatedNodeName: old.NominatedNodeName, Resize: old.Resize,
		ResourceClaimStatuses: old.ResourceClaimStatuses, ExtendedResourceClaimStatus: old.ExtendedResourceClaimStatus,
		NodeAllocatableResourceClaimStatuses: old.NodeAllocatableResourceClaimStatuses,
	}
	if st.QOSClass == "" {
		st.QOSClass = qos.Of(p.pod)
	}
	if st.StartTime == nil {
		now := seconds(p.in.Now)
		st.StartTime = &now
	}
	p.addresses(&st)
	for i := range p.pod.Spec.InitContainers {
		spec := &p.pod.Spec.InitContainers[i]
		st.InitContainerStatuses = append(st.InitContainerStatuses, p.containerStatus(spec, true))
	}
	for i := range p.pod.Spec.Containers {
		one := p.containerStatus(&p.pod.Spec.Containers[i], false)
		one.AllocatedResourcesStatus = p.in.Devices.Health[one.Name]
		st.ContainerStatuses = append(st.ContainerStatuses, one)
	}
	for i := range p.pod.Spec.EphemeralContainers {
		spec := corev1.Container(p.pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		st.EphemeralContainerStatuses = append(st.EphemeralContainerStatuses, p.containerStatus(&spec, false))
	}
	st.Phase = p.phase(&st)
	p.podResources(&st)
	switch {
	case p.terminal:
	case p.in.Evicted != "":
		st.Reason, st.Message = "Evicted", p.in.Evicted
	case p.overdue():
		st.Reason, st.Message = "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
	}
	p.conditions(&st)
	p.out.Status = st
}

func (p *pass) addresses(st *corev1.PodStatus) {
	switch {
	case p.box == nil && p.ending:
		st.PodIP, st.PodIPs = p.pod.Status.PodIP, p.pod.Status.PodIPs
	case p.box == nil:
	case p.pod.Spec.HostNetwork:
		st.PodIP, st.PodIPs = p.in.NodeIP, []corev1.PodIP{{IP: p.in.NodeIP}}
	case len(p.box.IPs) > 0:
		st.PodIP = p.box.IPs[0]
		for _, ip := range p.box.IPs {
			st.PodIPs = append(st.PodIPs, corev1.PodIP{IP: ip})
		}
	}
}

// containerStatus of one container: its state, the end before it, and why it
// waits.
func (p *pass) containerStatus(spec *corev1.Container, init bool) corev1.ContainerStatus {
	st := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, Started: new(bool)}
	list := p.byName[spec.Name]
	if len(list) == 0 || list[0].State == Created {
		p.absent(&st, spec, init)
		if len(list) == 0 {
			return st
		}
		list = list[1:]
		if len(list) == 0 {
			return st
		}
		st.LastTerminationState = p.terminated(list[0])
		return st
	}
	c := list[0]
	st.ContainerID, st.ImageID, st.RestartCount = p.containerID(c.ID), c.ImageID, int32(c.Attempt)
	if c.Image != "" {
		st.Image = c.Image
	}
	switch {
	case c.State == Exited:
		st.State = p.terminated(c)
		if w, ok := p.wait[spec.Name]; ok {
			st.LastTerminationState, st.State = st.State, waitingState(w)
		}
	case c.Hook == HookRunning:
		st.State = waitingState(waiting{reason: "ContainerCreating"})
	case c.State == Running:
		st.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: seconds(c.Started)}}
		*st.Started = p.isStarted(spec, c)
		st.Ready = p.isReady(spec, c)
	default:
		st.State = waitingState(waiting{reason: "ContainerStatusUnknown"})
	}
	if init && !sidecar(spec) {
		st.Ready = c.State == Exited && c.ExitCode == 0
	}
	if st.LastTerminationState.Terminated == nil && len(list) > 1 && list[1].State == Exited {
		st.LastTerminationState = p.terminated(list[1])
	} else if old := p.sameBefore(c); old != nil && st.LastTerminationState.Terminated == nil {
		st.LastTerminationState = old.LastTerminationState // its container may be gone by now
	}
	p.resources(&st, spec, c)
	if c.User != nil {
		st.User = &corev1.ContainerUser{Linux: c.User.DeepCopy()}
	}
	st.VolumeMounts = p.mounts(spec)
	return st
}

// mounts as they are, which may be less than was asked for if possible.
func (p *pass) mounts(spec *corev1.Container) []corev1.VolumeMountStatus {
	var out []corev1.VolumeMountStatus
	for i := range spec.VolumeMounts {
		m := &spec.VolumeMounts[i]
		st := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.RecursiveReadOnly != nil {
			mode := *m.RecursiveReadOnly
			if mode == corev1.RecursiveReadOnlyIfPossible {
				mode = corev1.RecursiveReadOnlyDisabled
				if p.in.RecursiveReadOnly {
					mode = corev1.RecursiveReadOnlyEnabled
				}
			}
			st.RecursiveReadOnly = &mode
		}
		out = append(out, st)
	}
	return out
}

// absent is the status of a container that the runtime does not have: never
// made, or lost.
func (p *pass) absent(st *corev1.ContainerStatus, spec *corev1.Container, init bool) {
	old := p.old[spec.Name]
	if old != nil {
		st.RestartCount = old.RestartCount
		st.LastTerminationState = old.LastTerminationState
	}
	switch {
	case old != nil && old.State.Terminated != nil:
		st.State, st.ContainerID, st.ImageID, st.Image = old.State, old.ContainerID, old.ImageID, old.Image
		st.Ready = init && !sidecar(spec) && old.State.Terminated.ExitCode == 0
		if _, again := p.wait[spec.Name]; !again {
			return
		}
		st.LastTerminationState = old.State
	case old != nil && old.State.Running != nil:
		lost := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			Reason: "ContainerStatusUnknown", ExitCode: 137, ContainerID: old.ContainerID,
			Message: "The container could not be located when the pod was terminated",
		}}
		if p.ending {
			st.State = lost
			return
		}
		st.LastTerminationState = lost
	}
	w, ok := p.wait[spec.Name]
	switch {
	case ok:
	case len(p.pod.Spec.InitContainers) > 0 && !init && !p.initialized():
		w = waiting{reason: "PodInitializing"}
	case init && p.notFirst(spec.Name):
		w = waiting{reason: "PodInitializing"}
	default:
		w = waiting{reason: "ContainerCreating"}
	}
	st.State = waitingState(w)
}

// notFirst reports whether other init containers come before name.
func (p *pass) notFirst(name string) bool {
	return len(p.pod.Spec.InitContainers) > 0 && p.pod.Spec.InitContainers[0].Name != name
}

func waitingState(w waiting) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: w.reason, Message: w.message}}
}

func (p *pass) terminated(c *Container) corev1.ContainerState {
	reason := c.Reason
	if reason == "" {
		reason = "Error"
		if c.ExitCode == 0 {
			reason = "Completed"
		}
	}
	limit := maxMessages / max(1, len(p.pod.Spec.InitContainers)+len(p.pod.Spec.Containers)+len(p.pod.Spec.EphemeralContainers))
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: c.ExitCode, Reason: reason, Message: strings.ToValidUTF8(c.Message[:min(len(c.Message), limit)], ""), ContainerID: p.containerID(c.ID),
		StartedAt: seconds(c.Started), FinishedAt: seconds(c.Finished),
	}}
}

// phase of the pod; a terminal one never changes again.
func (p *pass) phase(st *corev1.PodStatus) corev1.PodPhase {
	if p.terminal {
		return p.pod.Status.Phase
	}
	running, waitingFirst, stopped, failed := 0, 0, 0, 0
	for _, c := range st.ContainerStatuses {
		switch {
		case c.State.Running != nil:
			running++
		case c.State.Terminated != nil:
			stopped++
			if c.State.Terminated.ExitCode != 0 {
				failed++
			}
		case c.LastTerminationState.Terminated != nil:
			stopped++
			failed++ // it waits to be started again
		default:
			waitingFirst++
		}
	}
	if p.ending && p.in.Devices.Held {
		return cmp.Or(p.pod.Status.Phase, corev1.PodPending)
	}
	if p.ending && !p.anyRunning() {
		if waitingFirst > 0 || failed > 0 || p.failedInit() != nil || p.overdue() || p.in.Evicted != "" || len(st.ContainerStatuses) == 0 {
			return corev1.PodFailed
		}
		return corev1.PodSucceeded
	}
	switch {
	case !p.ending && !p.initialized(), waitingFirst > 0:
		return corev1.PodPending
	case running > 0, stopped > 0:
		return corev1.PodRunning
	}
	return corev1.PodPending
}

func (p *pass) anyRunning() bool {
	return slices.ContainsFunc(p.in.Containers, func(c Container) bool { return c.State == Running || c.State == Unknown })
}

// initialized reports whether the init containers have done their work: each
// ordinary one has succeeded, each sidecar has started.
func (p *pass) initialized() bool { return len(p.uninitialized()) == 0 }

func (p *pass) uninitialized() []string {
	if p.mainBegun() {
		return nil
	}
	var names []string
	for i := range p.pod.Spec.InitContainers {
		spec := &p.pod.Spec.InitContainers[i]
		c := p.newest(spec.Name)
		switch {
		case sidecar(spec) && (c == nil || !p.ending && !p.started(spec)):
			names = append(names, spec.Name)
		case sidecar(spec):
		case c == nil:
			if old := p.old[spec.Name]; old == nil || old.State.Terminated == nil || old.State.Terminated.ExitCode != 0 {
				names = append(names, spec.Name)
			}
		case c.State != Exited || c.ExitCode != 0:
			names = append(names, spec.Name)
		}
	}
	return names
}

// probing lists the probes that should run now.
func (p *pass) probing() {
	if p.in.Rejected != nil {
		return
	}
	each := func(spec *corev1.Container) {
		c := p.newest(spec.Name)
		if c == nil || c.State != Running || c.Hook != HookDone {
			return
		}
		add := func(k Kind, probe *corev1.Probe) {
			if probe != nil {
				p.out.Probing = append(p.out.Probing, Probing{k, spec.Name, c.ID})
			}
		}
		if !p.isStarted(spec, c) {
			if !p.ending {
				add(Startup, spec.StartupProbe)
			}
			return
		}
		if !p.ending {
			add(Liveness, spec.LivenessProbe)
		}
		add(Readiness, spec.ReadinessProbe)
	}
	for i := range p.pod.Spec.InitContainers {
		if sidecar(&p.pod.Spec.InitContainers[i]) {
			each(&p.pod.Spec.InitContainers[i])
		}
	}
	for i := range p.pod.Spec.Containers {
		each(&p.pod.Spec.Containers[i])
	}
}
