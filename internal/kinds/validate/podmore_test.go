package validate

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPodSecurity(t *testing.T) {
	pod := func(c corev1.PodSecurityContext) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.SecurityContext = &c }
	}
	box := func(c corev1.SecurityContext) func(*corev1.Pod) {
		return func(p *corev1.Pod) { first(p).SecurityContext = &c }
	}
	const p0, c0 = "spec.securityContext", "spec.containers[0].securityContext"
	creates(t, goodPod, fillPod, Pod, []podChange{
		{"user", pod(corev1.PodSecurityContext{RunAsUser: ptr(int64(-1))}), []string{p0 + ".runAsUser Invalid: must be between 0 and 2147483647, inclusive"}},
		{"groups", pod(corev1.PodSecurityContext{SupplementalGroups: []int64{1, -1}}), []string{p0 + ".supplementalGroups[1] Invalid"}},
		{"seccomp type", pod(corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{}}), []string{p0 + ".seccompProfile.type Required: type is required when seccompProfile is set"}},
		{"empty localhost profile", pod(corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: "Localhost", LocalhostProfile: ptr("")}}),
			[]string{p0 + ".seccompProfile.localhostProfile Required: must be set when seccomp type is Localhost"}},
		{"profile outside", pod(corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: "Localhost", LocalhostProfile: ptr("../x")}}),
			[]string{p0 + ".seccompProfile.localhostProfile Invalid: must not contain '..'"}},
		{"apparmor", box(corev1.SecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: "Localhost", LocalhostProfile: ptr(" x")}}),
			[]string{c0 + ".appArmorProfile.localhostProfile Invalid: must not be padded with whitespace"}},
		{"sysctls", pod(corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net.ipv4.ip_forward"}, {Name: "net.ipv4.ip_forward"}, {Name: "A"}, {}}}),
			[]string{p0 + ".sysctls[1].name Duplicate", p0 + ".sysctls[2].name Invalid: must have at most 253 characters and match regex", p0 + ".sysctls[3].name Required"}},
		{"sysctl of the host's network", func(p *corev1.Pod) {
			pod(corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net.ipv4.ip_forward"}}})(p)
			p.Spec.HostNetwork = true
		}, []string{p0 + ".sysctls[0].name Invalid: may not be specified when 'hostNetwork' is true"}},
		{"privileged without escalation", box(corev1.SecurityContext{Privileged: ptr(true), AllowPrivilegeEscalation: ptr(false)}),
			[]string{c0 + " Invalid: cannot set `allowPrivilegeEscalation` to false and `privileged` to true"}},
		{"admin without escalation", box(corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"CAP_SYS_ADMIN"}}, AllowPrivilegeEscalation: ptr(false)}),
			[]string{c0 + " Invalid: `capabilities.Add` CAP_SYS_ADMIN"}},
		{"proc mount", box(corev1.SecurityContext{ProcMount: ptr(corev1.UnmaskedProcMount)}), []string{c0 + ".procMount Invalid: `hostUsers` must be false to use `Unmasked`"}},
		{"host pid and shared pid", func(p *corev1.Pod) { p.Spec.HostPID, p.Spec.ShareProcessNamespace = true, ptr(true) },
			[]string{p0 + ".shareProcessNamespace Invalid: ShareProcessNamespace and HostPID cannot both be enabled"}},
		{"user namespace", func(p *corev1.Pod) { p.Spec.HostUsers, p.Spec.HostIPC = ptr(false), true },
			[]string{"spec.hostIPC Forbidden: when `hostUsers` is false"}},
		{"root of its own", func(p *corev1.Pod) { p.Spec.HostUsers = ptr(false) }, nil},
	})
}

func TestPodPlacement(t *testing.T) {
	node := func(r corev1.NodeSelectorRequirement) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{r}}},
			}}}
		}
	}
	pods := func(term corev1.PodAffinityTerm) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
		}
	}
	spread := func(list ...corev1.TopologySpreadConstraint) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.TopologySpreadConstraints = list }
	}
	tolerate := func(tol corev1.Toleration) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{tol} }
	}
	const required = "requiredDuringSchedulingIgnoredDuringExecution"
	const n0, a0 = "spec.affinity.nodeAffinity." + required + ".nodeSelectorTerms[0].matchExpressions[0]", "spec.affinity.podAntiAffinity." + required + "[0]"
	const s0 = "spec.topologySpreadConstraints[0]"
	creates(t, goodPod, fillPod, Pod, []podChange{
		{"no terms", func(p *corev1.Pod) {
			node(corev1.NodeSelectorRequirement{})(p)
			p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms = nil
		}, []string{"spec.affinity.nodeAffinity." + required + ".nodeSelectorTerms Required: must have at least one node selector term"}},
		{"in nothing", node(corev1.NodeSelectorRequirement{Key: "a", Operator: "In"}), []string{n0 + ".values Required: must be specified when `operator` is 'In' or 'NotIn'"}},
		{"exists with value", node(corev1.NodeSelectorRequirement{Key: "a", Operator: "Exists", Values: []string{"x"}}), []string{n0 + ".values Forbidden"}},
		{"greater than two", node(corev1.NodeSelectorRequirement{Key: "a", Operator: "Gt", Values: []string{"1", "2"}}), []string{n0 + ".values Required: single value"}},
		{"operator", node(corev1.NodeSelectorRequirement{Key: "a", Operator: "Like"}), []string{n0 + ".operator Invalid: not a valid selector operator"}},
		{"bad value", node(corev1.NodeSelectorRequirement{Key: "a", Operator: "In", Values: []string{"a b"}}), []string{n0 + ".values[0] Invalid"}},
		{"weight", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 101}}}}
		}, []string{"spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight Invalid: must be in the range 1-100"}},
		{"no topology", pods(corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{}}), []string{a0 + ".topologyKey Required: can not be empty", a0 + ".topologyKey Invalid: name part must be non-empty", a0 + ".topologyKey Invalid: name part must consist of"}},
		{"keys without selector", pods(corev1.PodAffinityTerm{TopologyKey: "a", MatchLabelKeys: []string{"k"}}), []string{a0 + ".matchLabelKeys Forbidden: must not be specified when labelSelector is not set"}},
		{"key in both", pods(corev1.PodAffinityTerm{TopologyKey: "a", LabelSelector: &metav1.LabelSelector{}, MatchLabelKeys: []string{"k"}, MismatchLabelKeys: []string{"k"}}),
			[]string{a0 + ".matchLabelKeys[0] Invalid: exists in both matchLabelKeys and mismatchLabelKeys"}},
		{"key in selector", pods(corev1.PodAffinityTerm{TopologyKey: "a", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"k": "v"}}, MatchLabelKeys: []string{"k"}}),
			[]string{a0 + ".matchLabelKeys[0] Invalid: exists in both matchLabelKeys and labelSelector"}},
		{"spread", spread(corev1.TopologySpreadConstraint{MaxSkew: 0, WhenUnsatisfiable: "Maybe"}),
			[]string{s0 + ".maxSkew Invalid: must be greater than zero", s0 + ".topologyKey Required: can not be empty", s0 + `.whenUnsatisfiable NotSupported: "DoNotSchedule", "ScheduleAnyway"`}},
		{"spread twice", spread(corev1.TopologySpreadConstraint{MaxSkew: 1, TopologyKey: "a", WhenUnsatisfiable: "DoNotSchedule"}, corev1.TopologySpreadConstraint{MaxSkew: 2, TopologyKey: "a", WhenUnsatisfiable: "DoNotSchedule"}),
			[]string{"spec.topologySpreadConstraints[1].{topologyKey, whenUnsatisfiable} Duplicate"}},
		{"min domains", spread(corev1.TopologySpreadConstraint{MaxSkew: 1, TopologyKey: "a", WhenUnsatisfiable: "ScheduleAnyway", MinDomains: ptr(int32(2))}),
			[]string{s0 + ".minDomains Invalid: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway"}},
		{"tolerate anything", tolerate(corev1.Toleration{Operator: "Exists"}), nil},
		{"tolerate no key", tolerate(corev1.Toleration{Operator: "Equal"}), []string{"spec.tolerations[0].operator Invalid: operator must be Exists when `key` is empty"}},
		{"tolerate for a while", tolerate(corev1.Toleration{Key: "a", Effect: "NoSchedule", TolerationSeconds: ptr(int64(1))}), []string{"spec.tolerations[0].effect Invalid: effect must be 'NoExecute' when `tolerationSeconds` is set"}},
		{"tolerate effect", tolerate(corev1.Toleration{Key: "a", Effect: "NoWay"}), []string{"spec.tolerations[0].effect NotSupported"}},
		{"tolerate more than", tolerate(corev1.Toleration{Key: "a", Operator: "Gt", Value: "1"}), []string{"spec.tolerations[0].operator NotSupported"}},
		{"gated and bound", func(p *corev1.Pod) {
			p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}, {Name: "g"}}
			p.Spec.NodeName = "n"
		}, []string{"spec.schedulingGates[1] Duplicate", "spec.nodeName Forbidden: cannot be set until all schedulingGates have been cleared"}},
		{"dns none", func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSNone }, []string{"spec.dnsConfig Required: must provide `dnsConfig` when `dnsPolicy` is None"}},
		{"nameservers", func(p *corev1.Pod) {
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "010.1.1.1", "x", "1.1.1.1"}, Searches: []string{".", "a_b.example.", "A"}}
		}, []string{"spec.dnsConfig.nameservers Invalid: must not have more than 3 nameservers", "spec.dnsConfig.nameservers[1] Invalid: must not have leading 0s", "spec.dnsConfig.nameservers[2] Invalid: must be a valid IP address", "spec.dnsConfig.searches[2] Invalid"}},
		{"host alias", func(p *corev1.Pod) { p.Spec.HostAliases = []corev1.HostAlias{{IP: "x", Hostnames: []string{"A"}}} },
			[]string{"spec.hostAliases[0].ip Invalid", "spec.hostAliases[0].hostnames[0] Invalid"}},
		{"names", func(p *corev1.Pod) {
			p.Spec.NodeName, p.Spec.ServiceAccountName, p.Spec.PriorityClassName, p.Spec.Hostname, p.Spec.Subdomain = "N", "S", "P", "a.b", "C"
		}, []string{"spec.nodeName Invalid", "spec.serviceAccountName Invalid", "spec.priorityClassName Invalid", "spec.hostname Invalid", "spec.subdomain Invalid"}},
	})
}

func TestPodUnsupported(t *testing.T) {
	creates(t, goodPod, fillPod, Pod, []podChange{
		{"runtime class", func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr("gvisor") }, nil},
		{"runtime class, bad name", func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr("gVisor") }, []string{"spec.runtimeClassName Invalid"}},
		{"overhead", func(p *corev1.Pod) { p.Spec.Overhead = quantities("cpu", "1") }, nil},
		{"overhead of what is no resource", func(p *corev1.Pod) { p.Spec.Overhead = quantities("disk", "1") }, []string{"spec.overhead.limits[disk] Invalid: must be a standard resource type or fully qualified", "spec.overhead.limits[disk] Invalid: must be a standard resource for containers"}},
		{"windows", func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }, []string{"spec.os.name Forbidden: Windows pods are not supported"}},
		{"linux", func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Linux} }, nil},
		{"container restarts", func(p *corev1.Pod) { first(p).RestartPolicy = ptr(corev1.ContainerRestartPolicyNever) }, nil},
		{"restart of all", func(p *corev1.Pod) {
			first(p).RestartPolicy = ptr(corev1.ContainerRestartPolicyNever)
			first(p).RestartPolicyRules = []corev1.ContainerRestartRule{{Action: "RestartAllContainers", ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: "In"}}}
		}, []string{"spec.containers[0].restartPolicyRules[0].action Forbidden: restarting all containers of a pod is not supported by this version of knarr"}},
		{"stop signal", func(p *corev1.Pod) { first(p).Lifecycle = &corev1.Lifecycle{StopSignal: ptr(corev1.SIGHUP)} }, []string{"spec.containers[0].lifecycle.stopSignal Forbidden"}},
		{"owner of files", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultUser: ptr(int64(1))}}}}
		}, []string{"spec.volumes[0].secret.defaultUser Forbidden"}},
		{"host users", func(p *corev1.Pod) { p.Spec.HostUsers = ptr(true) }, nil},
	})
}

func TestPodUpdate(t *testing.T) {
	const other = "spec Forbidden: pod updates may not change fields other than `spec.containers[*].image`"
	updates(t, goodPod, fillPod, PodUpdate, []podChange{
		{"nothing", nil, nil},
		{"image", func(p *corev1.Pod) { first(p).Image = "other" }, nil},
		{"label", func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }, nil},
		{"no version", func(p *corev1.Pod) { p.ResourceVersion = "" }, []string{"metadata.resourceVersion Invalid: must be specified for an update"}},
		{"uid", func(p *corev1.Pod) { p.UID = "other" }, []string{"metadata.uid Invalid: field is immutable"}},
		{"container name", func(p *corev1.Pod) { first(p).Name = "db" }, []string{other}},
		{"env", func(p *corev1.Pod) { first(p).Env = []corev1.EnvVar{{Name: "A"}} }, []string{other}},
		{"more containers", func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, *first(p)) },
			[]string{"spec.containers[1].name Duplicate", "spec.containers Forbidden: pod updates may not add or remove containers"}},
		{"node", func(p *corev1.Pod) { p.Spec.NodeName = "n" }, []string{other}},
		{"deadline", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr(int64(5)) }, nil},
		{"toleration", func(p *corev1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Operator: "Exists"})
		}, nil},
		{"new gate", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} },
			[]string{"spec.schedulingGates[0].name Forbidden: only deletion is allowed, but found new scheduling gate 'g'"}},
		{"mirror", func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			p.Spec.NodeName = ""
		},
			[]string{"metadata.annotations[kubernetes.io/config.mirror] Invalid", "metadata.annotations[kubernetes.io/config.mirror] Forbidden: may not add mirror pod annotation"}},
	})
	rich := func() *corev1.Pod {
		p := goodPod()
		p.Spec.ActiveDeadlineSeconds = ptr(int64(5))
		p.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: "Exists", Effect: "NoExecute"}}
		p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
		p.Spec.NodeSelector = map[string]string{"a": "b"}
		return p
	}
	updates(t, rich, fillPod, PodUpdate, []podChange{
		{"later deadline", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr(int64(6)) }, []string{"spec.activeDeadlineSeconds Invalid: must be less than or equal to previous value"}},
		{"no deadline", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = nil }, []string{"spec.activeDeadlineSeconds Invalid: must not update from a positive integer to nil value"}},
		{"seconds of a toleration", func(p *corev1.Pod) { p.Spec.Tolerations[0].TolerationSeconds = ptr(int64(3)) }, nil},
		{"toleration gone", func(p *corev1.Pod) { p.Spec.Tolerations = nil }, []string{"spec.tolerations Forbidden: existing toleration can not be modified except its tolerationSeconds"}},
		{"gate lifted", func(p *corev1.Pod) { p.Spec.SchedulingGates = nil }, nil},
		{"gated, narrower", func(p *corev1.Pod) { p.Spec.NodeSelector["c"] = "d" }, nil},
		{"gated, elsewhere", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "c"} },
			[]string{"spec.nodeSelector Invalid: only additions to spec.nodeSelector are allowed (no mutations or deletions)"}},
		{"gated, affinity", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "a", Operator: "Exists"}}}}}}}
		}, nil},
	})
}

func TestPodUpdateNamesWhatChanged(t *testing.T) {
	o, old := goodPod(), goodPod()
	fillPod(o)
	fillPod(old)
	first(o).Env = []corev1.EnvVar{{Name: "A"}}
	o.Spec.NodeName = "n"
	errs := PodUpdate(o, old)
	compare(t, errs, []string{"spec Forbidden: changed: spec.containers[0].env, spec.nodeName"})
}

func TestPodStatusUpdate(t *testing.T) {
	ended := func() *corev1.Pod {
		p := goodPod()
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
		return p
	}
	updates(t, ended, fillPod, PodStatusUpdate, []podChange{
		{"same", nil, nil},
		{"comes back", func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
		}, []string{"status.containerStatuses[0].state Forbidden: may not be transitioned to non-terminated state"}},
		{"generations", func(p *corev1.Pod) {
			p.Status.ObservedGeneration = -1
			p.Status.Conditions = []corev1.PodCondition{{Type: "a b", ObservedGeneration: -1}}
		}, []string{"status.observedGeneration Invalid: must be a non-negative integer", "status.conditions[0].observedGeneration Invalid: must be a non-negative integer", "status.conditions[0].Type Invalid"}},
		{"nominated", func(p *corev1.Pod) { p.Status.NominatedNodeName = "n" }, nil},
		{"qos", func(p *corev1.Pod) { p.Status.QOSClass = "Other" }, []string{"status.qosClass Invalid: field is immutable"}},
		{"addresses", func(p *corev1.Pod) { p.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "10.0.0.2"}} },
			[]string{"status.podIPs Invalid: may specify no more than one IP for each IP family"}},
		{"both families", func(p *corev1.Pod) { p.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}} }, nil},
		{"no address", func(p *corev1.Pod) { p.Status.PodIPs = []corev1.PodIP{{IP: "x"}} }, []string{"status.podIPs[0] Invalid: must be a valid IP address"}},
		{"host", func(p *corev1.Pod) { p.Status.HostIP, p.Status.HostIPs = "10.0.0.1", []corev1.HostIP{{IP: "10.0.0.2"}} },
			[]string{"status.hostIPs[0].ip Invalid: must be equal to `hostIP`"}},
		{"nominated", func(p *corev1.Pod) { p.Status.NominatedNodeName = "N" }, []string{"status.nominatedNodeName Invalid"}},
		{"condition", func(p *corev1.Pod) { p.Status.Conditions = []corev1.PodCondition{{Type: "a b"}} }, []string{"status.conditions[0].Type Invalid"}},
	})
}

func TestPodEphemeralUpdate(t *testing.T) {
	debug := func(name string) corev1.EphemeralContainer {
		return corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: "i", ImagePullPolicy: "Always", TerminationMessagePolicy: "File"}}
	}
	with := func() *corev1.Pod {
		p := goodPod()
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{debug("one")}
		return p
	}
	at := "spec.ephemeralContainers[1]"
	add := func(do func(*corev1.EphemeralContainer)) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			c := debug("two")
			do(&c)
			p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, c)
		}
	}
	updates(t, with, fillPod, PodEphemeralUpdate, []podChange{
		{"one more", add(func(*corev1.EphemeralContainer) {}), nil},
		{"of a taken name", add(func(c *corev1.EphemeralContainer) { c.Name = "web" }), []string{at + ".name Duplicate"}},
		{"into nothing", add(func(c *corev1.EphemeralContainer) { c.TargetContainerName = "db" }), []string{at + ".targetContainerName NotFound"}},
		{"with ports", add(func(c *corev1.EphemeralContainer) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 1, Protocol: "TCP"}}
		}), []string{at + ".ports Forbidden: cannot be set for an Ephemeral Container"}},
		{"with resources", add(func(c *corev1.EphemeralContainer) { c.Resources.Limits = quantities("cpu", "1") }), []string{at + ".resources Forbidden"}},
		{"removed", func(p *corev1.Pod) { p.Spec.EphemeralContainers = nil }, []string{`spec.ephemeralContainers Forbidden: existing ephemeral containers "one" may not be removed`}},
		{"changed", func(p *corev1.Pod) { p.Spec.EphemeralContainers[0].Image = "j" }, []string{`spec.ephemeralContainers Forbidden: existing ephemeral containers "one" may not be changed`}},
	})
	mirror := func() *corev1.Pod {
		p := with()
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		return p
	}
	updates(t, mirror, fillPod, PodEphemeralUpdate, []podChange{{"mirror", nil, []string{"[] Forbidden: static pods do not support ephemeral containers"}}})
	updates(t, goodPod, fillPod, PodResizeUpdate, []podChange{{"resize", func(p *corev1.Pod) {
		first(p).Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("1")}
	}, []string{"spec Invalid: Pod QOS Class may not change as a result of resizing"}}})
}

func TestPodResourceClaims(t *testing.T) {
	claims := func(list ...corev1.PodResourceClaim) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.ResourceClaims = list }
	}
	uses := func(list ...corev1.ResourceClaim) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "a", ResourceClaimName: ptr("x")}, {Name: "b", ResourceClaimTemplateName: ptr("y")}}
			first(p).Resources.Claims = list
		}
	}
	creates(t, goodPod, fillPod, Pod, []podChange{
		{"named and of a template", uses(corev1.ResourceClaim{Name: "a"}, corev1.ResourceClaim{Name: "b", Request: "r"}, corev1.ResourceClaim{Name: "b", Request: "s"}), nil},
		{"without a name", claims(corev1.PodResourceClaim{ResourceClaimName: ptr("x")}), []string{"spec.resourceClaims[0].name Required"}},
		{"twice", claims(corev1.PodResourceClaim{Name: "a", ResourceClaimName: ptr("x")}, corev1.PodResourceClaim{Name: "a", ResourceClaimName: ptr("y")}), []string{"spec.resourceClaims[1].name Duplicate"}},
		{"bad names", claims(corev1.PodResourceClaim{Name: "A", ResourceClaimName: ptr("X")}, corev1.PodResourceClaim{Name: "b", ResourceClaimTemplateName: ptr("Y")}),
			[]string{"spec.resourceClaims[0].name Invalid", "spec.resourceClaims[0].resourceClaimName Invalid", "spec.resourceClaims[1].resourceClaimTemplateName Invalid"}},
		{"of nothing", claims(corev1.PodResourceClaim{Name: "a"}), []string{"spec.resourceClaims[0] Invalid: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"}},
		{"of both", claims(corev1.PodResourceClaim{Name: "a", ResourceClaimName: ptr("x"), ResourceClaimTemplateName: ptr("x")}),
			[]string{"spec.resourceClaims[0] Invalid: at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"}},
		{"used without a name", uses(corev1.ResourceClaim{}), []string{"spec.containers[0].resources.claims[0] Required"}},
		{"used twice", uses(corev1.ResourceClaim{Name: "a"}, corev1.ResourceClaim{Name: "a"}, corev1.ResourceClaim{Name: "b", Request: "r"}, corev1.ResourceClaim{Name: "b", Request: "r"}),
			[]string{"spec.containers[0].resources.claims[1] Duplicate", "spec.containers[0].resources.claims[3] Duplicate"}},
		{"used, but not there", uses(corev1.ResourceClaim{Name: "c", Request: "R"}),
			[]string{"spec.containers[0].resources.claims[0].request Invalid", "spec.containers[0].resources.claims[0] NotFound: must be one of the names in pod.spec.resourceClaims: a, b"}},
		{"used, but none is there", func(p *corev1.Pod) { first(p).Resources.Claims = []corev1.ResourceClaim{{Name: "c"}} },
			[]string{"spec.containers[0].resources.claims[0] NotFound: must be one of the names in pod.spec.resourceClaims which is empty"}},
	})
}

func TestPodResourceClaimStatuses(t *testing.T) {
	pod := goodPod()
	fillPod(pod)
	pod.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "a", ResourceClaimTemplateName: ptr("t")}}
	for _, tt := range []struct {
		name string
		list []corev1.PodResourceClaimStatus
		want []string
	}{
		{"made", []corev1.PodResourceClaimStatus{{Name: "a", ResourceClaimName: ptr("x")}}, nil},
		{"not needed", []corev1.PodResourceClaimStatus{{Name: "a"}}, nil},
		{"of no claim", []corev1.PodResourceClaimStatus{{Name: "b"}}, []string{"must match the name of an entry in `spec.resourceClaims`"}},
		{"twice, with a bad name", []corev1.PodResourceClaimStatus{{Name: "a", ResourceClaimName: ptr("X")}, {Name: "a"}}, []string{"RFC 1123", "Duplicate"}},
	} {
		now := pod.DeepCopy()
		now.Status.ResourceClaimStatuses = tt.list
		errs := PodStatusUpdate(now, pod)
		if len(errs) != len(tt.want) {
			t.Errorf("%s: %v", tt.name, errs)
			continue
		}
		for i, want := range tt.want {
			if !strings.Contains(errs[i].Error(), want) || !strings.HasPrefix(errs[i].Field, "status.resourceClaimStatuses[") {
				t.Errorf("%s: %v, want %s", tt.name, errs[i], want)
			}
		}
	}
}

func TestPodExtendedResourceClaimStatus(t *testing.T) {
	pod := goodPod()
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}
	pod.Spec.Containers[0].Resources.Limits = pod.Spec.Containers[0].Resources.Requests
	fillPod(pod)
	good := corev1.ContainerExtendedResourceRequest{ContainerName: pod.Spec.Containers[0].Name, ResourceName: "example.com/gpu", RequestName: "container-0-request-0"}
	with := func(change func(*corev1.ContainerExtendedResourceRequest)) []corev1.ContainerExtendedResourceRequest {
		m := good
		change(&m)
		return []corev1.ContainerExtendedResourceRequest{m}
	}
	for _, tt := range []struct {
		name, claim string
		list        []corev1.ContainerExtendedResourceRequest
		want        string
	}{
		{"made", "c", with(func(*corev1.ContainerExtendedResourceRequest) {}), ""},
		{"bad name", "C", nil, "status.extendedResourceClaimStatus.resourceClaimName"},
		{"no such container", "c", with(func(m *corev1.ContainerExtendedResourceRequest) { m.ContainerName = "x" }), "status.extendedResourceClaimStatus.requestMappings[0].containerName"},
		{"not asked for", "c", with(func(m *corev1.ContainerExtendedResourceRequest) { m.ResourceName = "example.com/x" }), "status.extendedResourceClaimStatus.requestMappings[0].resourceName"},
		{"bad request", "c", with(func(m *corev1.ContainerExtendedResourceRequest) { m.RequestName = "" }), "status.extendedResourceClaimStatus.requestMappings[0].requestName"},
		{"twice", "c", []corev1.ContainerExtendedResourceRequest{good, good}, "status.extendedResourceClaimStatus.requestMappings[1]"},
	} {
		now := pod.DeepCopy()
		now.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: tt.claim, RequestMappings: tt.list}
		errs := PodStatusUpdate(now, pod)
		if (len(errs) > 0) != (tt.want != "") || len(errs) > 1 || len(errs) == 1 && errs[0].Field != tt.want {
			t.Errorf("%s: %v, want %s", tt.name, errs, tt.want)
		}
	}
}
