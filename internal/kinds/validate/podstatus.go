package validate

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// PodStatusUpdate judges what the kubelet and the scheduler report.
func PodStatusUpdate(pod, old *corev1.Pod) field.ErrorList {
	e := metaUpdate(&pod.ObjectMeta, &old.ObjectMeta)
	s := &podScope{errors: e, spec: &pod.Spec, isPod: true}
	s.annotationUpdate(pod, old)
	for i, c := range pod.Status.Conditions {
		switch c.Type {
		case corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized:
		default:
			s.qualifiedName(metaPath.Child("conditions").Index(i).Child("Type"), string(c.Type))
		}
	}
	if pod.Spec.NodeName != old.Spec.NodeName {
		s.forbid(statusPath.Child("nodeName"), "may not be changed directly")
	}
	if n := pod.Status.NominatedNodeName; n != "" && n != old.Status.NominatedNodeName {
		s.msgs(statusPath.Child("nominatedNodeName"), n, subdomain(n, false))
	}
	s.immutable(statusPath.Child("qosClass"), pod.Status.QOSClass, old.Status.QOSClass)
	s.transitions(pod, old)
	s.podIPs(pod)
	s.hostIPs(pod)
	for _, l := range []struct {
		name string
		list []corev1.ContainerStatus
	}{
		{"containerStatuses", pod.Status.ContainerStatuses},
		{"initContainerStatuses", pod.Status.InitContainerStatuses},
		{"ephemeralContainerStatuses", pod.Status.EphemeralContainerStatuses},
	} {
		for i := range l.list {
			s.statusUser(statusPath.Child(l.name).Index(i).Child("linux"), l.list[i].User)
		}
	}
	return s.list
}

func (s *podScope) statusUser(p *field.Path, u *corev1.ContainerUser) {
	if u == nil || u.Linux == nil {
		return
	}
	s.msgs(p.Child("uid"), u.Linux.UID, validation.IsValidUserID(u.Linux.UID))
	s.msgs(p.Child("gid"), u.Linux.GID, validation.IsValidGroupID(u.Linux.GID))
	for i, g := range u.Linux.SupplementalGroups {
		s.msgs(p.Child("supplementalGroups").Index(i), g, validation.IsValidGroupID(g))
	}
}

// transitions: what has ended for good does not come back.
func (s *podScope) transitions(pod, old *corev1.Pod) {
	policy := old.Spec.RestartPolicy
	stays := map[string]bool{}
	for i := range old.Spec.InitContainers {
		c := &old.Spec.InitContainers[i]
		stays[c.Name] = c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	s.transition("containerStatuses", pod.Status.ContainerStatuses, old.Status.ContainerStatuses, policy, nil)
	s.transition("initContainerStatuses", pod.Status.InitContainerStatuses, old.Status.InitContainerStatuses, policy, stays)
	s.transition("ephemeralContainerStatuses", pod.Status.EphemeralContainerStatuses, old.Status.EphemeralContainerStatuses, corev1.RestartPolicyNever, nil)
}

func (s *podScope) transition(name string, list, old []corev1.ContainerStatus, policy corev1.RestartPolicy, skip map[string]bool) {
	if policy == corev1.RestartPolicyAlways {
		return
	}
	ended := make(map[string]bool, len(list))
	for i := range list {
		ended[list[i].Name] = list[i].State.Terminated != nil
	}
	for i := range old {
		t := old[i].State.Terminated
		if t == nil || t.ExitCode != 0 && policy == corev1.RestartPolicyOnFailure || skip[old[i].Name] {
			continue
		}
		if end, ok := ended[old[i].Name]; ok && !end {
			s.forbid(statusPath.Child(name).Index(i).Child("state"), "may not be transitioned to non-terminated state")
		}
	}
}

func (s *podScope) podIPs(pod *corev1.Pod) {
	ips := make([]string, len(pod.Status.PodIPs))
	for i, ip := range pod.Status.PodIPs {
		ips[i] = ip.IP
	}
	s.ipList(statusPath.Child("podIPs"), ips)
}

func (s *podScope) hostIPs(pod *corev1.Pod) {
	list, p := pod.Status.HostIPs, statusPath.Child("hostIPs")
	if len(list) == 0 {
		return
	}
	if pod.Status.HostIP != list[0].IP {
		s.invalid(p.Index(0).Child("ip"), list[0].IP, "must be equal to `hostIP`")
	}
	ips := make([]string, len(list))
	for i, ip := range list {
		ips[i] = ip.IP
	}
	s.ipList(p, ips)
}

// ipList holds at most one address of each family.
func (s *podScope) ipList(p *field.Path, ips []string) {
	valid := true
	for i, ip := range ips {
		valid = s.ip(p.Index(i), ip) && valid
	}
	if len(ips) < 2 {
		return
	}
	seen := map[string]bool{}
	for i, ip := range ips {
		unique(s.errors, seen, p.Index(i), ip, ip)
	}
	if dual, err := netutils.IsDualStackIPStrings(ips); valid && (err != nil || !dual || len(ips) > 2) {
		s.invalid(p, ips, "may specify no more than one IP for each IP family")
	}
}

// PodResizeUpdate judges changed cpu and memory of containers.
func PodResizeUpdate(pod, old *corev1.Pod) field.ErrorList {
	// No kubelet of this version changes a running container's cgroup, and a
	// spec that says more than what holds would mislead the scheduler.
	return field.ErrorList{field.Forbidden(specPath, "resizing pods in place is "+notYet)}
}
