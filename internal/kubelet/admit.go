package kubelet

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/validate"
	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/view"
)

// admit judges a pod once: what this node cannot do is refused with a reason
// instead of being left out. A pod that already runs is not judged again.
func (w *worker) admit(pod *corev1.Pod, absent bool) {
	w.admitted = true
	w.mu.Lock()
	w.recall(pod)
	w.mu.Unlock()
	if placed(pod) || absent || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded || pod.DeletionTimestamp != nil {
		w.placed.Store(true)
		return
	}
	w.k.admitting.Lock() // one after the other, or two would take the same place
	defer w.k.admitting.Unlock()
	pod, _ = w.allocated()
	w.rejected = w.k.refuses(w, pod)
	if w.rejected != nil {
		w.k.metrics.rejections.WithLabelValues(w.rejected.Reason).Inc()
		w.emit(pod, "", true, w.rejected.Reason, w.rejected.Message)
		return
	}
	w.mu.Lock()
	err := w.promise(pod)
	w.mu.Unlock()
	if err != nil {
		w.log.Warn("cannot keep what was allocated to the pod", "error", err)
	}
	w.placed.Store(true)
}

// placed reports whether the pod had its place before this kubelet started.
func placed(pod *corev1.Pod) bool {
	return pod.Status.StartTime != nil || pod.Status.Phase == corev1.PodRunning
}

func (k *Kubelet) refuses(w *worker, pod *corev1.Pod) *plan.Rejection {
	if why := k.cannot(pod); why != "" {
		return &plan.Rejection{Reason: "UnexpectedAdmissionError", Message: why}
	}
	if !k.able().groupsPolicy && strictGroups(pod) {
		return &plan.Rejection{Reason: "SupplementalGroupsPolicyNotSupported", Message: "SupplementalGroupsPolicy=Strict is not supported in this node"}
	}
	return plan.Admit(pod, k.room(w))
}

func strictGroups(pod *corev1.Pod) bool {
	s := pod.Spec.SecurityContext
	return s != nil && s.SupplementalGroupsPolicy != nil && *s.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict
}

// room is what the node has for w's pod beside what others were promised.
func (k *Kubelet) room(w *worker) plan.Room {
	room := plan.Room{
		Node:        view.Get[*corev1.Node](k.cfg.View.Snapshot(), kinds.Node, "", k.cfg.NodeName),
		Allocatable: k.allocatable(), Sysctls: k.cfg.AllowedUnsafeSysctls,
		Pressure: k.pressure(),
	}
	if room.Node != nil {
		room.Allocatable = withExtended(room.Allocatable, room.Node.Status.Allocatable)
	}
	for _, other := range k.list() {
		p, absent := other.allocated()
		// One whose containers have ended takes no room, even if its record is
		// not yet gone: the scheduler may know that sooner than we do.
		if other == w || absent || other.over.Load() || !other.placed.Load() && !placed(p) {
			continue
		}
		room.Pods = append(room.Pods, p)
	}
	return room
}

// cannot says what the machine or its runtime lacks for the pod.
func (k *Kubelet) cannot(pod *corev1.Pod) string {
	s := &pod.Spec
	if s.SecurityContext != nil && !k.machine.apparmor && wantsAppArmor(s.SecurityContext.AppArmorProfile) {
		return "Cannot enforce AppArmor: AppArmor is not enabled on the host"
	}
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			if why := k.cannotRun(pod, &list[i]); why != "" {
				return fmt.Sprintf("container %q: %s", list[i].Name, why)
			}
		}
	}
	for i := range s.Volumes {
		if e := s.Volumes[i].EmptyDir; e != nil && e.Medium != corev1.StorageMediumDefault && e.Medium != corev1.StorageMediumMemory {
			return fmt.Sprintf("volume %q: this node has no emptyDir medium %q", s.Volumes[i].Name, e.Medium)
		}
	}
	return ""
}

func wantsAppArmor(p *corev1.AppArmorProfile) bool {
	return p != nil && p.Type != corev1.AppArmorProfileTypeUnconfined
}

func (k *Kubelet) cannotRun(pod *corev1.Pod, c *corev1.Container) string {
	sc := c.SecurityContext
	if sc != nil && !k.machine.apparmor && wantsAppArmor(sc.AppArmorProfile) {
		return "Cannot enforce AppArmor: AppArmor is not enabled on the host"
	}
	for name := range c.Resources.Limits {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		default:
			if !!validate.NativeResource(name) { // those are counted, by what the node's status says
				return fmt.Sprintf("this node has no resource %q", name)
			}
		}
	}
	for _, m := range c.VolumeMounts {
		if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled && !k.able().recursiveReadOnly {
			return fmt.Sprintf("volume %q requested recursive read-only mode, but it is not supported by the runtime", m.Name)
		}
		if m.MountPropagation == nil || *m.MountPropagation == corev1.MountPropagationNone {
			continue
		}
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			if v.Name != m.Name {
				continue
			}
			shared, err := sharedMount(k.volumes.Path(pod, v))
			if err != nil || !shared {
				return fmt.Sprintf("volume %q: mount propagation %s needs a shared mount on the node", m.Name, *m.MountPropagation)
			}
		}
	}
	return ""
}
