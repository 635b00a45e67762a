package validate

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/node/util/sysctl"
)

// A sysctl's segments may be parted by dots or slashes, see sysctl.d(5).
const maxSysctl = 253

var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

func (s *podScope) podSecurity(p *field.Path) {
	c := s.spec.SecurityContext
	if c == nil {
		return
	}
	s.ids(p, c.RunAsUser, c.RunAsGroup)
	if c.FSGroup != nil {
		s.msgs(p.Child("fsGroup"), *c.FSGroup, validation.IsValidGroupID(*c.FSGroup))
	}
	for i, g := range c.SupplementalGroups {
		s.msgs(p.Child("supplementalGroups").Index(i), g, validation.IsValidGroupID(g))
	}
	s.sysctls(p.Child("sysctls"), c.Sysctls)
	inPtr(s.errors, p.Child("fsGroupChangePolicy"), c.FSGroupChangePolicy, corev1.FSGroupChangeOnRootMismatch, corev1.FSGroupChangeAlways)
	inPtr(s.errors, p.Child("supplementalGroupsPolicy"), c.SupplementalGroupsPolicy, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)
	inPtr(s.errors, p.Child("seLinuxChangePolicy"), c.SELinuxChangePolicy, corev1.SELinuxChangePolicyRecursive, corev1.SELinuxChangePolicyMountOption)
	s.seccomp(p.Child("seccompProfile"), c.SeccompProfile)
	s.appArmor(p.Child("appArmorProfile"), c.AppArmorProfile)
}

func (s *podScope) ids(p *field.Path, user, group *int64) {
	if user != nil {
		s.msgs(p.Child("runAsUser"), *user, validation.IsValidUserID(*user))
	}
	if group != nil {
		s.msgs(p.Child("runAsGroup"), *group, validation.IsValidGroupID(*group))
	}
}

func (s *podScope) sysctls(p *field.Path, list []corev1.Sysctl) {
	seen := map[string]bool{}
	for i := range list {
		name, at := list[i].Name, p.Index(i).Child("name")
		switch {
		case name == "":
			s.required(at)
		case len(name) > maxSysctl || !sysctlName.MatchString(name):
			s.invalid(at, name, fmt.Sprintf("must have at most %d characters and match regex %s", maxSysctl, sysctlName))
		default:
			unique(s.errors, seen, at, name, name)
		}
		switch ns, _, _ := sysctl.GetNamespace(name); {
		case s.spec.HostNetwork && ns == sysctl.NetNamespace:
			s.invalid(at, name, "may not be specified when 'hostNetwork' is true")
		case s.spec.HostIPC && ns == sysctl.IPCNamespace:
			s.invalid(at, name, "may not be specified when 'hostIPC' is true")
		}
	}
}

func (s *podScope) containerSecurity(p *field.Path, c *corev1.SecurityContext) {
	if c == nil {
		return
	}
	s.ids(p, c.RunAsUser, c.RunAsGroup)
	if c.ProcMount != nil {
		oneOf(s.errors, p.Child("procMount"), *c.ProcMount, corev1.DefaultProcMount, corev1.UnmaskedProcMount)
		if *c.ProcMount == corev1.UnmaskedProcMount && s.hostUsers() {
			s.invalid(p.Child("procMount"), *c.ProcMount, "`hostUsers` must be false to use `Unmasked`")
		}
	}
	s.seccomp(p.Child("seccompProfile"), c.SeccompProfile)
	if c.AllowPrivilegeEscalation != nil && !*c.AllowPrivilegeEscalation {
		if c.Privileged != nil && *c.Privileged {
			s.invalid(p, c, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
		}
		if c.Capabilities != nil && slices.Contains(c.Capabilities.Add, "CAP_SYS_ADMIN") {
			s.invalid(p, c, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
		}
	}
	s.appArmor(p.Child("appArmorProfile"), c.AppArmorProfile)
}

func (s *podScope) seccomp(p *field.Path, profile *corev1.SeccompProfile) {
	if profile == nil {
		return
	}
	if profile.Type == "" {
		s.add(field.Required(p.Child("type"), "type is required when seccompProfile is set"))
	} else {
		oneOf(s.errors, p.Child("type"), profile.Type, corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	}
	at := p.Child("localhostProfile")
	switch local := profile.LocalhostProfile; {
	case profile.Type != corev1.SeccompProfileTypeLocalhost:
		if local != nil {
			s.invalid(at, *local, "can only be set when seccomp type is Localhost")
		}
	case local == nil || *local == "": // empty: CVE-2023-2431, it meant unconfined
		s.add(field.Required(at, "must be set when seccomp type is Localhost"))
	default:
		s.relativePath(at, *local)
	}
}

func (s *podScope) appArmor(p *field.Path, profile *corev1.AppArmorProfile) {
	if profile == nil {
		return
	}
	const must = "must be set when AppArmor type is Localhost"
	const maxPath = 4095 // PATH_MAX without its NUL
	at := p.Child("localhostProfile")
	switch local := profile.LocalhostProfile; profile.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		switch {
		case local == nil:
			s.add(field.Required(at, must))
			return
		case strings.TrimSpace(*local) != *local:
			s.invalid(at, *local, "must not be padded with whitespace")
		case *local == "":
			s.add(field.Required(at, must))
		}
		if len(*local) > maxPath {
			s.add(field.TooLong(at, "", maxPath))
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if local != nil {
			s.invalid(at, *local, "can only be set when AppArmor type is Localhost")
		}
	case "":
		s.add(field.Required(p.Child("type"), "type is required when appArmorProfile is set"))
	default:
		oneOf(s.errors, p.Child("type"), profile.Type, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	}
}

// sameAppArmor: what annotations say of containers' profiles, as before 1.30, is what
// their fields say, or the pod's for all.
func (s *podScope) sameAppArmor(p *field.Path, annotations map[string]string) {
	if len(annotations) == 0 {
		return
	}
	var all *corev1.AppArmorProfile
	if sc := s.spec.SecurityContext; sc != nil {
		all = sc.AppArmorProfile
	}
	each := func(at *field.Path, c *corev1.Container) {
		said, ok := annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]
		has := all
		if sc := c.SecurityContext; sc != nil && sc.AppArmorProfile != nil {
			has = sc.AppArmorProfile
		}
		if !ok || has == nil {
			return
		}
		profile, local := strings.CutPrefix(said, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
		same := true // of an unknown type more is said elsewhere
		switch has.Type {
		case corev1.AppArmorProfileTypeUnconfined:
			same = said == corev1.DeprecatedAppArmorBetaProfileNameUnconfined
		case corev1.AppArmorProfileTypeRuntimeDefault:
			same = said == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault
		case corev1.AppArmorProfileTypeLocalhost:
			same = local
			if local && (has.LocalhostProfile == nil || *has.LocalhostProfile != profile) {
				s.forbid(at.Child("securityContext", "appArmorProfile", "localhostProfile"), "apparmor profile in annotation and field must match")
			}
		}
		if !same {
			s.forbid(at.Child("securityContext", "appArmorProfile", "type"), "apparmor type in annotation and field must match")
		}
	}
	for i := range s.spec.InitContainers {
		each(p.Child("initContainers").Index(i), &s.spec.InitContainers[i])
	}
	for i := range s.spec.Containers {
		each(p.Child("containers").Index(i), &s.spec.Containers[i])
	}
}

// hostNamespaces: a user namespace of one's own and the host's other
// namespaces exclude each other.
func (s *podScope) hostNamespaces(p *field.Path) {
	if share := s.spec.ShareProcessNamespace; share != nil && *share && s.spec.HostPID {
		s.invalid(p.Child("securityContext", "shareProcessNamespace"), *share, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	if s.hostUsers() {
		return
	}
	const why = "when `hostUsers` is false"
	if s.spec.HostNetwork {
		s.forbid(p.Child("hostNetwork"), why)
	}
	if s.spec.HostPID {
		s.forbid(p.Child("hostPID"), why)
	}
	if s.spec.HostIPC {
		s.forbid(p.Child("hostIPC"), why)
	}
}

// podAnnotations are the ones that mean something to components.
func (s *podScope) podAnnotations(p *field.Path, o *metav1.ObjectMeta) {
	if v, ok := o.Annotations[corev1.MirrorPodAnnotationKey]; ok && s.spec.NodeName == "" && s.isPod {
		s.invalid(p.Key(corev1.MirrorPodAnnotationKey), v, "must set spec.nodeName if mirror pod annotation is set")
	}
	if v, ok := o.Annotations[corev1.PodDeletionCost]; ok && !validCost(v) {
		s.invalid(p.Key(corev1.PodDeletionCost), v, "must be a 32bit integer")
	}
	for key, v := range o.Annotations {
		name, ok := strings.CutPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
		if !ok {
			continue
		}
		if !s.hasContainer(name) {
			s.invalid(p.Key(key), name, "container not found")
		}
		if v != "" && v != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault && v != corev1.DeprecatedAppArmorBetaProfileNameUnconfined &&
			!strings.HasPrefix(v, corev1.DeprecatedAppArmorBetaProfileNamePrefix) {
			s.invalid(p.Key(key), v, fmt.Sprintf("invalid AppArmor profile name: %q", v))
		}
	}
}

func (s *podScope) hasContainer(name string) bool {
	if s.names == nil {
		s.names = map[string]bool{}
		for i := range s.spec.InitContainers {
			s.names[s.spec.InitContainers[i].Name] = true
		}
		for i := range s.spec.Containers {
			s.names[s.spec.Containers[i].Name] = true
		}
		for i := range s.spec.EphemeralContainers {
			s.names[s.spec.EphemeralContainers[i].Name] = true
		}
	}
	return s.names[name]
}

// validCost: a plain decimal of 32 bits, without plus sign or leading zeros.
func validCost(v string) bool {
	digits := strings.TrimPrefix(v, "-")
	if digits == "" || len(digits) > 10 || (digits[0] == '0' && v != "0") {
		return false
	}
	var n int64
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return false
		}
		n = n*10 + int64(c-'0')
	}
	if v != digits {
		n = -n
	}
	return n == int64(int32(n))
}
