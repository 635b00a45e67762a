package validate

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"knarr.dev/knarr/internal/kinds/restart"
)

// PodStatusUpdate judges what the kubelet and the scheduler report.
func PodStatusUpdate(pod, old *corev1.Pod) field.ErrorList {
	e := metaUpdate(&pod.ObjectMeta, &old.ObjectMeta)
	s := &podScope{errors: e, spec: &pod.Spec, isPod: true}
	s.annotationUpdate(pod, old)
	for i, c := range pod.Status.Conditions {
		at := statusPath.Child("conditions").Index(i)
		if c.ObservedGeneration < 0 {
			s.invalid(at.Child("observedGeneration"), c.ObservedGeneration, "must be a non-negative integer")
		}
		switch c.Type {
		case corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized:
		default:
			s.qualifiedName(at.Child("Type"), string(c.Type))
		}
	}
	if pod.Spec.NodeName != old.Spec.NodeName {
		s.forbid(statusPath.Child("nodeName"), "may not be changed directly")
	}
	if n := pod.Status.NominatedNodeName; n != "" && n != old.Status.NominatedNodeName {
		s.msgs(statusPath.Child("nominatedNodeName"), n, subdomain(n, false))
		if old.Spec.NodeName != "" {
			s.forbid(statusPath.Child("nominatedNodeName"), "may not be set on pods that are already bound to a node")
		}
	}
	if pod.Status.ObservedGeneration < 0 {
		s.invalid(statusPath.Child("observedGeneration"), pod.Status.ObservedGeneration, "must be a non-negative integer")
	}
	s.immutable(statusPath.Child("qosClass"), pod.Status.QOSClass, old.Status.QOSClass)
	s.transitions(pod, old)
	s.podIPs(pod)
	s.hostIPs(pod)
	s.claimStatuses(statusPath.Child("resourceClaimStatuses"), pod.Status.ResourceClaimStatuses)
	s.extendedClaimStatus(statusPath.Child("extendedResourceClaimStatus"), pod.Status.ExtendedResourceClaimStatus)
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
	s.transition("containerStatuses", pod.Status.ContainerStatuses, old.Status.ContainerStatuses, again(&old.Spec, old.Spec.Containers))
	s.transition("initContainerStatuses", pod.Status.InitContainerStatuses, old.Status.InitContainerStatuses, again(&old.Spec, old.Spec.InitContainers))
	s.transition("ephemeralContainerStatuses", pod.Status.EphemeralContainerStatuses, old.Status.EphemeralContainerStatuses, func(string, int32) bool { return false })
}

// again tells by name whether a container that ended so may run again.
func again(spec *corev1.PodSpec, list []corev1.Container) func(name string, code int32) bool {
	return func(name string, code int32) bool {
		i := slices.IndexFunc(list, func(c corev1.Container) bool { return c.Name == name })
		return i >= 0 && restart.Again(spec, &list[i], code)
	}
}

func (s *podScope) transition(name string, list, old []corev1.ContainerStatus, again func(string, int32) bool) {
	ended := make(map[string]bool, len(list))
	for i := range list {
		ended[list[i].Name] = list[i].State.Terminated != nil
	}
	for i := range old {
		t := old[i].State.Terminated
		if t == nil {
			continue
		}
		if end, ok := ended[old[i].Name]; ok && !end && !again(old[i].Name, t.ExitCode) {
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
