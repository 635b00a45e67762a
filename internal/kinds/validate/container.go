package validate

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podScope is what the rules of a container must know of its pod.
type podScope struct {
	*errors
	spec    *corev1.PodSpec
	isPod   bool // a pod, not the template of one
	podName string
	volumes map[string]*corev1.VolumeSource
	names   map[string]bool // of all containers, made when first asked for
}

func (s *podScope) grace() *int64 { return s.spec.TerminationGracePeriodSeconds }

func (s *podScope) hostUsers() bool { return s.spec.HostUsers == nil || *s.spec.HostUsers }

func (s *podScope) containers(p *field.Path) {
	list := s.spec.Containers
	if len(list) == 0 {
		s.required(p)
		return
	}
	names := make(map[string]bool, len(list))
	ports := map[string]bool{}
	for i := range list {
		c, at := &list[i], p.Index(i)
		s.container(at, c)
		unique(s.errors, names, at.Child("name"), c.Name, c.Name)
		s.longRunning(at, c)
		s.hostPorts(at, c, ports)
		s.restartPolicy(at, c, false)
	}
}

// initContainers run one by one, except for those that always restart, which
// stay and are probed.
func (s *podScope) initContainers(p *field.Path) {
	names := map[string]bool{}
	for i := range s.spec.Containers {
		names[s.spec.Containers[i].Name] = true
	}
	for i := range s.spec.InitContainers {
		c, at := &s.spec.InitContainers[i], p.Index(i)
		s.container(at, c)
		if c.Name != "" || names[""] {
			unique(s.errors, names, at.Child("name"), c.Name, c.Name)
		}
		s.restartPolicy(at, c, true)
		s.hostPorts(at, c, map[string]bool{})
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			s.longRunning(at, c)
			continue
		}
		for j, r := range c.ResizePolicy {
			if r.RestartPolicy == corev1.RestartContainer {
				s.invalid(at.Child("resizePolicy").Index(j).Child("restartPolicy"), r.RestartPolicy, "must not be set to 'RestartContainer' for non-sidecar initContainers")
			}
		}
		const why = "may not be set for init containers without restartPolicy=Always"
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"lifecycle", c.Lifecycle != nil}, {"livenessProbe", c.LivenessProbe != nil},
			{"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil},
		} {
			if f.set {
				s.forbid(at.Child(f.name), why)
			}
		}
	}
}

// The bounds of restart rules, and of jobs' rules about exit codes (upstream's).
const (
	maxRestartRules = 20
	maxExitCodes    = 255
)

func (s *podScope) restartPolicy(p *field.Path, c *corev1.Container, init bool) {
	rules := p.Child("restartPolicyRules")
	switch {
	case c.RestartPolicy == nil && len(c.RestartPolicyRules) > 0:
		s.add(field.Required(p.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
	case c.RestartPolicy != nil && init && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways:
		if len(c.RestartPolicyRules) > 0 {
			s.forbid(rules, "restartPolicyRules are not allowed for init containers with restart policy Always")
		}
		return
	case c.RestartPolicy != nil:
		inPtr(s.errors, p.Child("restartPolicy"), c.RestartPolicy, corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	}
	if n := len(c.RestartPolicyRules); n > maxRestartRules {
		s.add(field.TooMany(rules, n, maxRestartRules))
	}
	for i := range c.RestartPolicyRules {
		r, at := &c.RestartPolicyRules[i], rules.Index(i)
		in(s.errors, at.Child("action"), r.Action, corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		if r.ExitCodes == nil {
			s.add(field.Required(at.Child("exitCodes"), "must be specified"))
			continue
		}
		in(s.errors, at.Child("exitCodes", "operator"), r.ExitCodes.Operator, corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
		if n := len(r.ExitCodes.Values); n > maxExitCodes {
			s.add(field.TooMany(at.Child("exitCodes", "values"), n, maxExitCodes))
		}
	}
}

// longRunning has what only containers have that are meant to stay.
func (s *podScope) longRunning(p *field.Path, c *corev1.Container) {
	if l := c.Lifecycle; l != nil {
		at := p.Child("lifecycle")
		if l.PostStart != nil {
			s.handler(at.Child("postStart"), lifecycleHandler(l.PostStart))
		}
		if l.PreStop != nil {
			s.handler(at.Child("preStop"), lifecycleHandler(l.PreStop))
		}
	}
	s.probe(p.Child("livenessProbe"), c.LivenessProbe, true)
	s.probe(p.Child("readinessProbe"), c.ReadinessProbe, false)
	if r := c.ReadinessProbe; r != nil && r.TerminationGracePeriodSeconds != nil {
		s.invalid(p.Child("readinessProbe", "terminationGracePeriodSeconds"), r.TerminationGracePeriodSeconds, "must not be set for readinessProbes")
	}
	s.probe(p.Child("startupProbe"), c.StartupProbe, true)
}

// container has the rules that every container has.
func (s *podScope) container(p *field.Path, c *corev1.Container) {
	if c.Name == "" {
		s.required(p.Child("name"))
	} else {
		s.dnsLabel(p.Child("name"), c.Name)
	}
	if c.Image == "" {
		s.required(p.Child("image"))
	} else if s.isPod && c.Image != strings.TrimSpace(c.Image) {
		s.invalid(p.Child("image"), c.Image, "must not have leading or trailing whitespace")
	}
	in(s.errors, p.Child("terminationMessagePolicy"), c.TerminationMessagePolicy, corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	s.ports(p.Child("ports"), c.Ports)
	s.env(p.Child("env"), c.Env)
	s.envFrom(p.Child("envFrom"), c.EnvFrom)
	s.mounts(p.Child("volumeMounts"), c)
	s.devices(p.Child("volumeDevices"), c)
	s.pullPolicy(p.Child("imagePullPolicy"), c.ImagePullPolicy)
	s.containerResources(p.Child("resources"), &c.Resources)
	s.usedClaims(p.Child("resources", "claims"), c.Resources.Claims)
	s.resizePolicy(p.Child("resizePolicy"), c.ResizePolicy)
	s.containerSecurity(p.Child("securityContext"), c.SecurityContext)
}

func (s *podScope) pullPolicy(p *field.Path, policy corev1.PullPolicy) {
	in(s.errors, p, policy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

func (s *podScope) ports(p *field.Path, ports []corev1.ContainerPort) {
	names := map[string]bool{}
	for i := range ports {
		port, at := &ports[i], p.Index(i)
		if port.Name != "" {
			if m := validation.IsValidPortName(port.Name); len(m) > 0 {
				s.msgs(at.Child("name"), port.Name, m)
			} else {
				unique(s.errors, names, at.Child("name"), port.Name, port.Name)
			}
		}
		if port.ContainerPort == 0 {
			s.required(at.Child("containerPort"))
		} else {
			s.msgs(at.Child("containerPort"), port.ContainerPort, validation.IsValidPortNum(int(port.ContainerPort)))
		}
		if port.HostPort != 0 {
			s.msgs(at.Child("hostPort"), port.HostPort, validation.IsValidPortNum(int(port.HostPort)))
		}
		if port.HostIP != "" {
			s.ip(at.Child("hostIP"), port.HostIP)
		}
		protocol(s.errors, at.Child("protocol"), port.Protocol)
	}
}

func protocol(e *errors, p *field.Path, v corev1.Protocol) {
	in(e, p, v, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
}

// hostPorts must be free of collisions, and be the container's own on the
// host's network.
func (s *podScope) hostPorts(p *field.Path, c *corev1.Container, taken map[string]bool) {
	for i := range c.Ports {
		port, at := &c.Ports[i], p.Child("ports").Index(i).Child("hostPort")
		if port.HostPort != 0 {
			key := fmt.Sprintf("%s/%s/%d", port.Protocol, port.HostIP, port.HostPort)
			unique(s.errors, taken, at, key, key)
		}
		if s.spec.HostNetwork && (s.isPod || port.HostPort != 0) && port.HostPort != port.ContainerPort {
			s.invalid(at, port.HostPort, "must match `containerPort` when `hostNetwork` is true")
		}
	}
}

func (s *podScope) resizePolicy(p *field.Path, list []corev1.ContainerResizePolicy) {
	seen := map[corev1.ResourceName]bool{}
	for i, r := range list {
		unique(s.errors, seen, p.Index(i), r.ResourceName, r.ResourceName)
		in(s.errors, p, r.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)
		in(s.errors, p, r.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)
		if s.spec.RestartPolicy == corev1.RestartPolicyNever && r.RestartPolicy != corev1.NotRequired {
			s.invalid(p, r.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'")
		}
	}
}

// ephemeralContainers are for debugging: nothing may depend on them.
func (s *podScope) ephemeralContainers(p *field.Path) {
	names, others := map[string]bool{}, map[string]bool{}
	for _, list := range [...][]corev1.Container{s.spec.Containers, s.spec.InitContainers} {
		for i := range list {
			names[list[i].Name], others[list[i].Name] = true, true
		}
	}
	const why = "cannot be set for an Ephemeral Container"
	for i := range s.spec.EphemeralContainers {
		ec, at := &s.spec.EphemeralContainers[i], p.Index(i)
		c := (*corev1.Container)(&ec.EphemeralContainerCommon)
		s.container(at, c)
		unique(s.errors, names, at.Child("name"), c.Name, c.Name)
		if ec.TargetContainerName != "" && !others[ec.TargetContainerName] {
			s.add(field.NotFound(at.Child("targetContainerName"), ec.TargetContainerName))
		}
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"ports", c.Ports != nil},
			{"resources", c.Resources.Limits != nil || c.Resources.Requests != nil || c.Resources.Claims != nil},
			{"resizePolicy", c.ResizePolicy != nil},
			{"restartPolicy", c.RestartPolicy != nil},
			{"restartPolicyRules", c.RestartPolicyRules != nil},
			{"livenessProbe", c.LivenessProbe != nil},
			{"readinessProbe", c.ReadinessProbe != nil},
			{"startupProbe", c.StartupProbe != nil},
			{"lifecycle", c.Lifecycle != nil},
		} {
			if f.set {
				s.forbid(at.Child(f.name), why)
			}
		}
		for j, m := range c.VolumeMounts {
			if m.SubPath != "" {
				s.forbid(at.Child("volumeMounts").Index(j).Child("subPath"), why)
			}
			if m.SubPathExpr != "" {
				s.forbid(at.Child("volumeMounts").Index(j).Child("subPathExpr"), why)
			}
		}
	}
}
