package spec

import (
	"fmt"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The paths that an unprivileged container must not see or write: the defaults
// of the field's runtimes.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// RunAsUser that the spec names for a container, or nil: the image's.
func RunAsUser(pod *corev1.Pod, c *corev1.Container) *int64 {
	if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
		return c.SecurityContext.RunAsUser
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.RunAsUser
	}
	return nil
}

func runAsGroup(pod *corev1.Pod, c *corev1.Container) *int64 {
	if c.SecurityContext != nil && c.SecurityContext.RunAsGroup != nil {
		return c.SecurityContext.RunAsGroup
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.RunAsGroup
	}
	return nil
}

// NonRoot reports whether the container must not run as user 0.
func NonRoot(pod *corev1.Pod, c *corev1.Container) bool {
	if c.SecurityContext != nil && c.SecurityContext.RunAsNonRoot != nil {
		return *c.SecurityContext.RunAsNonRoot
	}
	return pod.Spec.SecurityContext != nil && isTrue(pod.Spec.SecurityContext.RunAsNonRoot)
}

// VerifyNonRoot judges against the image, at every start: an image may change
// under the same name.
func VerifyNonRoot(pod *corev1.Pod, c *corev1.Container, image *runtimeapi.Image) error {
	if !NonRoot(pod, c) {
		return nil
	}
	if user := RunAsUser(pod, c); user != nil {
		if *user == 0 {
			return fmt.Errorf("container's runAsUser breaks non-root policy (pod: %q, container: %s)", pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", c.Name)
		}
		return nil
	}
	switch {
	case image.GetUid() != nil && image.GetUid().Value != 0:
		return nil
	case image.GetUid() == nil && image.GetUsername() != "":
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (pod: %q, container: %s)",
			image.GetUsername(), pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", c.Name)
	}
	return fmt.Errorf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)", pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", c.Name)
}

// Privileged reports whether the container asks for everything.
func Privileged(c *corev1.Container) bool {
	return c.SecurityContext != nil && isTrue(c.SecurityContext.Privileged)
}

// seccomp profile: the container's, else the pod's, else the runtime's default,
// as upstream with seccompDefault. Runtimes let the privileged go without.
func seccomp(pod, own *corev1.SeccompProfile, root string) (*runtimeapi.SecurityProfile, error) {
	p := own
	if p == nil {
		p = pod
	}
	if p == nil {
		p = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
	}
	switch p.Type {
	case corev1.SeccompProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case corev1.SeccompProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case corev1.SeccompProfileTypeLocalhost:
		if p.LocalhostProfile == nil || !filepath.IsLocal(*p.LocalhostProfile) {
			return nil, fmt.Errorf("localhostProfile must be a path below the node's seccomp directory")
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: filepath.Join(root, *p.LocalhostProfile)}, nil
	}
	return nil, fmt.Errorf("unknown seccomp profile type %q", p.Type)
}

func namespaces(pod *corev1.Pod, target string, users *runtimeapi.UserNamespace) *runtimeapi.NamespaceOption {
	o := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER, UsernsOptions: users}
	if pod.Spec.HostNetwork {
		o.Network = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		o.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		o.Pid = runtimeapi.NamespaceMode_NODE
	case target != "":
		o.Pid, o.TargetId = runtimeapi.NamespaceMode_TARGET, target
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		o.Pid = runtimeapi.NamespaceMode_POD
	}
	return o
}

// groups of the pod's processes besides their primary one.
func groups(pod *corev1.Pod) []int64 {
	s := pod.Spec.SecurityContext
	if s == nil {
		return nil
	}
	out := append([]int64(nil), s.SupplementalGroups...)
	if s.FSGroup != nil {
		out = append(out, *s.FSGroup)
	}
	return out
}

func groupsPolicy(pod *corev1.Pod) runtimeapi.SupplementalGroupsPolicy {
	if s := pod.Spec.SecurityContext; s != nil && s.SupplementalGroupsPolicy != nil && *s.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
		return runtimeapi.SupplementalGroupsPolicy_Strict
	}
	return runtimeapi.SupplementalGroupsPolicy_Merge
}

// Security of a container. target is the container whose processes an
// ephemeral container sees, users the pod's user namespace.
func Security(pod *corev1.Pod, c *corev1.Container, image *runtimeapi.Image, seccompRoot, target string, users *runtimeapi.UserNamespace) (*runtimeapi.LinuxContainerSecurityContext, error) {
	s := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions: namespaces(pod, target, users), SupplementalGroups: groups(pod), SupplementalGroupsPolicy: groupsPolicy(pod),
		Privileged: Privileged(c), Apparmor: appArmor(pod, c),
	}
	if u := RunAsUser(pod, c); u != nil {
		s.RunAsUser = &runtimeapi.Int64Value{Value: *u}
	} else if image.GetUid() != nil {
		s.RunAsUser = &runtimeapi.Int64Value{Value: image.GetUid().Value}
	} else {
		s.RunAsUsername = image.GetUsername()
	}
	if g := runAsGroup(pod, c); g != nil {
		s.RunAsGroup = &runtimeapi.Int64Value{Value: *g}
	}
	var podSeccomp, ownSeccomp *corev1.SeccompProfile
	if pod.Spec.SecurityContext != nil {
		podSeccomp = pod.Spec.SecurityContext.SeccompProfile
		s.SelinuxOptions = selinux(pod.Spec.SecurityContext.SELinuxOptions)
	}
	sc := c.SecurityContext
	if sc == nil {
		sc = &corev1.SecurityContext{}
	}
	ownSeccomp = sc.SeccompProfile
	var err error
	if s.Seccomp, err = seccomp(podSeccomp, ownSeccomp, seccompRoot); err != nil {
		return nil, err
	}
	if sc.SELinuxOptions != nil {
		s.SelinuxOptions = selinux(sc.SELinuxOptions)
	}
	s.ReadonlyRootfs = isTrue(sc.ReadOnlyRootFilesystem)
	// setuid programs gain privileges unless that is refused; a privileged
	// container has them all anyway.
	s.NoNewPrivs = sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation
	if sc.Capabilities != nil {
		s.Capabilities = &runtimeapi.Capability{AddCapabilities: caps(sc.Capabilities.Add), DropCapabilities: caps(sc.Capabilities.Drop)}
	}
	if !s.Privileged && (sc.ProcMount == nil || *sc.ProcMount == corev1.DefaultProcMount) {
		s.MaskedPaths, s.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	return s, nil
}

func caps(list []corev1.Capability) []string {
	var out []string
	for _, c := range list {
		out = append(out, strings.TrimPrefix(strings.ToUpper(string(c)), "CAP_"))
	}
	return out
}

func selinux(o *corev1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

// appArmor profile that the spec names; without one the runtime's default is
// used where the kernel has AppArmor.
func appArmor(pod *corev1.Pod, c *corev1.Container) *runtimeapi.SecurityProfile {
	var p *corev1.AppArmorProfile
	if pod.Spec.SecurityContext != nil {
		p = pod.Spec.SecurityContext.AppArmorProfile
	}
	if c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
		p = c.SecurityContext.AppArmorProfile
	}
	switch {
	case p == nil:
		return nil
	case p.Type == corev1.AppArmorProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	case p.Type == corev1.AppArmorProfileTypeLocalhost:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: *p.LocalhostProfile}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
}
