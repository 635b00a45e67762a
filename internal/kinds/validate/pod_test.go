package validate

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

type podChange = change[*corev1.Pod]

func TestPodMeta(t *testing.T) {
	creates(t, goodPod, fillPod, Pod, []podChange{
		{"good", nil, nil},
		{"no name", func(p *corev1.Pod) { p.Name = "" }, []string{"metadata.name Required: name or generateName is required"}},
		{"upper case", func(p *corev1.Pod) { p.Name = "Web" }, []string{"metadata.name Invalid: lowercase RFC 1123 subdomain"}},
		{"no namespace", func(p *corev1.Pod) { p.Namespace = "" }, []string{"metadata.namespace Required"}},
		{"bad label", func(p *corev1.Pod) { p.Labels = map[string]string{"a b": "c"} }, []string{"metadata.labels Invalid: name part must consist of"}},
		{"bad label value", func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b c"} }, []string{"metadata.labels Invalid: a valid label must be"}},
		{"annotations of 256 KiB", func(p *corev1.Pod) { p.Annotations = map[string]string{"a": strings.Repeat("x", 256<<10)} }, []string{"metadata.annotations TooLong: may not be more than 262144"}},
		{"owner without uid", func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "x"}}
		}, []string{"metadata.ownerReferences[0].uid Required: must not be empty"}},
		{"event as owner", func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Event", Name: "x", UID: "y"}}
		}, []string{"metadata.ownerReferences[0] Invalid: is disallowed from being an owner"}},
		{"bare finalizer", func(p *corev1.Pod) { p.Finalizers = []string{"mine"} }, []string{"metadata.finalizers[0] Invalid: neither a standard finalizer name nor is it fully qualified"}},
		{"mirror without node", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} },
			[]string{"metadata.annotations[kubernetes.io/config.mirror] Invalid: must set spec.nodeName"}},
		{"deletion cost", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "007"} },
			[]string{"metadata.annotations[controller.kubernetes.io/pod-deletion-cost] Invalid: must be a 32bit integer"}},
		{"negative deletion cost", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "-2147483648"} }, nil},
		{"deletion cost of 33 bits", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "2147483648"} },
			[]string{"metadata.annotations[controller.kubernetes.io/pod-deletion-cost] Invalid"}},
		{"profile of an absent container", func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + "db": "runtime/default"}
		}, []string{"metadata.annotations[container.apparmor.security.beta.kubernetes.io/db] Invalid: container not found"}},
		{"profile of an annotation and a field", appArmor("unconfined", "Unconfined", nil), nil},
		{"local profile of an annotation and a field", appArmor("localhost/a", "Localhost", ptr("a")), nil},
		{"another profile in the field", appArmor("unconfined", "RuntimeDefault", nil), []string{"spec.containers[0].securityContext.appArmorProfile.type Forbidden: apparmor type in annotation and field must match"}},
		{"a local profile in the annotation", appArmor("localhost/a", "RuntimeDefault", nil), []string{"spec.containers[0].securityContext.appArmorProfile.type Forbidden"}},
		{"no profile in the annotation", appArmor("", "RuntimeDefault", nil), []string{"spec.containers[0].securityContext.appArmorProfile.type Forbidden"}},
		{"another profile for the pod", func(p *corev1.Pod) {
			appArmor("unconfined", "", nil)(p)
			first(p).SecurityContext = nil
			p.Spec.SecurityContext = &corev1.PodSecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: "RuntimeDefault"}}
		}, []string{"spec.containers[0].securityContext.appArmorProfile.type Forbidden"}},
		{"another local profile in the field", appArmor("localhost/a", "Localhost", ptr("b")), []string{"spec.containers[0].securityContext.appArmorProfile.localhostProfile Forbidden: apparmor profile in annotation and field must match"}},
	})
}

// appArmor names the first container's profile twice.
func appArmor(annotation string, kind corev1.AppArmorProfileType, local *string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Annotations = map[string]string{corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + first(p).Name: annotation}
		first(p).SecurityContext = &corev1.SecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: kind, LocalhostProfile: local}}
	}
}

func TestPodContainers(t *testing.T) {
	second := func(name string) corev1.Container {
		return corev1.Container{Name: name, Image: "i", ImagePullPolicy: "Always", TerminationMessagePolicy: "File"}
	}
	creates(t, goodPod, fillPod, Pod, []podChange{
		{"none", func(p *corev1.Pod) { p.Spec.Containers = nil }, []string{"spec.containers Required"}},
		{"no name", func(p *corev1.Pod) { first(p).Name = "" }, []string{"spec.containers[0].name Required"}},
		{"dotted name", func(p *corev1.Pod) { first(p).Name = "a.b" }, []string{"spec.containers[0].name Invalid: must not contain dots"}},
		{"two of a name", func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, second("web")) }, []string{"spec.containers[1].name Duplicate"}},
		{"init of the same name", func(p *corev1.Pod) { p.Spec.InitContainers = append(p.Spec.InitContainers, second("web")) }, []string{"spec.initContainers[0].name Duplicate"}},
		{"no image", func(p *corev1.Pod) { first(p).Image = "" }, []string{"spec.containers[0].image Required"}},
		{"padded image", func(p *corev1.Pod) { first(p).Image = " i" }, []string{"spec.containers[0].image Invalid: must not have leading or trailing whitespace"}},
		{"pull policy", func(p *corev1.Pod) { first(p).ImagePullPolicy = "Maybe" }, []string{`spec.containers[0].imagePullPolicy NotSupported: supported values: "Always", "IfNotPresent", "Never"`}},
		{"message policy", func(p *corev1.Pod) { first(p).TerminationMessagePolicy = "" }, []string{"spec.containers[0].terminationMessagePolicy Required"}},
		{"restart policy", func(p *corev1.Pod) { p.Spec.RestartPolicy = "Sometimes" }, []string{`spec.restartPolicy NotSupported: supported values: "Always", "Never", "OnFailure"`}},
		{"grace", func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = nil }, []string{"spec.terminationGracePeriodSeconds Required"}},
		{"negative grace", func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr(int64(-1)) }, []string{"spec.terminationGracePeriodSeconds Invalid: must be greater than or equal to 0"}},
		{"deadline", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr(int64(0)) }, []string{"spec.activeDeadlineSeconds Invalid: must be between 1 and 2147483647, inclusive"}},
		{"port", func(p *corev1.Pod) { first(p).Ports = []corev1.ContainerPort{{Protocol: "TCP"}} }, []string{"spec.containers[0].ports[0].containerPort Required"}},
		{"big port", func(p *corev1.Pod) { first(p).Ports = []corev1.ContainerPort{{ContainerPort: 70000, Protocol: "TCP"}} }, []string{"spec.containers[0].ports[0].containerPort Invalid: between 1 and 65535"}},
		{"protocol", func(p *corev1.Pod) { first(p).Ports = []corev1.ContainerPort{{ContainerPort: 1, Protocol: "ICMP"}} },
			[]string{`spec.containers[0].ports[0].protocol NotSupported: supported values: "SCTP", "TCP", "UDP"`}},
		{"port names", func(p *corev1.Pod) {
			first(p).Ports = []corev1.ContainerPort{{Name: "a", ContainerPort: 1, Protocol: "TCP"}, {Name: "a", ContainerPort: 2, Protocol: "TCP"}, {Name: "ABC", ContainerPort: 3, Protocol: "TCP"}}
		}, []string{"spec.containers[0].ports[1].name Duplicate", "spec.containers[0].ports[2].name Invalid: alpha-numeric", "spec.containers[0].ports[2].name Invalid: at least one letter"}},
		{"host ports", func(p *corev1.Pod) {
			first(p).Ports = []corev1.ContainerPort{{ContainerPort: 1, HostPort: 80, Protocol: "TCP"}, {ContainerPort: 2, HostPort: 80, Protocol: "TCP"}, {ContainerPort: 2, HostPort: 80, Protocol: "UDP"}}
		}, []string{"spec.containers[0].ports[1].hostPort Duplicate"}},
		{"host network", func(p *corev1.Pod) {
			p.Spec.HostNetwork = true
			first(p).Ports = []corev1.ContainerPort{{ContainerPort: 1, HostPort: 2, Protocol: "TCP"}}
		}, []string{"spec.containers[0].ports[0].hostPort Invalid: must match `containerPort` when `hostNetwork` is true"}},
		{"init probes", func(p *corev1.Pod) {
			c := second("init")
			c.LivenessProbe = &corev1.Probe{}
			c.Lifecycle = &corev1.Lifecycle{}
			p.Spec.InitContainers = []corev1.Container{c}
		}, []string{"spec.initContainers[0].livenessProbe Forbidden: may not be set for init containers without restartPolicy=Always", "spec.initContainers[0].lifecycle Forbidden"}},
		{"sidecar", func(p *corev1.Pod) {
			c := second("sidecar")
			c.RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways)
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 5}}}
			p.Spec.InitContainers = []corev1.Container{c}
		}, nil},
		{"ephemeral on create", func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon(second("debug"))}}
		}, []string{"spec.ephemeralContainers Forbidden: cannot be set on create"}},
		{"resize policy", func(p *corev1.Pod) {
			first(p).ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: "disk", RestartPolicy: corev1.NotRequired}}
		}, []string{"spec.containers[0].resizePolicy NotSupported"}},
	})
}

func TestPodProbes(t *testing.T) {
	with := func(do func(*corev1.Probe)) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			probe := &corev1.Probe{
				ProbeHandler:   corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(80), Scheme: "HTTP"}},
				TimeoutSeconds: 1, PeriodSeconds: 1, SuccessThreshold: 1, FailureThreshold: 1,
			}
			do(probe)
			first(p).LivenessProbe = probe
		}
	}
	creates(t, goodPod, fillPod, Pod, []podChange{
		{"good", with(func(*corev1.Probe) {}), nil},
		{"no handler", with(func(p *corev1.Probe) { p.HTTPGet = nil }), []string{"spec.containers[0].livenessProbe Required: must specify a handler type"}},
		{"two handlers", with(func(p *corev1.Probe) { p.Exec = &corev1.ExecAction{Command: []string{"x"}} }),
			[]string{"spec.containers[0].livenessProbe.httpGet Forbidden: may not specify more than 1 handler type"}},
		{"no command", with(func(p *corev1.Probe) { p.ProbeHandler = corev1.ProbeHandler{Exec: &corev1.ExecAction{}} }), []string{"spec.containers[0].livenessProbe.exec.command Required"}},
		{"port name", with(func(p *corev1.Probe) { p.HTTPGet.Port = intstr.FromString("") }), []string{
			"spec.containers[0].livenessProbe.httpGet.port Invalid: must contain only alpha-numeric characters", "spec.containers[0].livenessProbe.httpGet.port Invalid: must contain at least one letter"}},
		{"scheme", with(func(p *corev1.Probe) { p.HTTPGet.Scheme = "ftp" }), []string{`spec.containers[0].livenessProbe.httpGet.scheme NotSupported: "HTTP", "HTTPS"`}},
		{"header", with(func(p *corev1.Probe) { p.HTTPGet.HTTPHeaders = []corev1.HTTPHeader{{Name: "a b"}} }), []string{"spec.containers[0].livenessProbe.httpGet.httpHeaders Invalid"}},
		{"negative", with(func(p *corev1.Probe) { p.PeriodSeconds = -1 }), []string{"spec.containers[0].livenessProbe.periodSeconds Invalid: must be greater than or equal to 0"}},
		{"liveness succeeds once", with(func(p *corev1.Probe) { p.SuccessThreshold = 2 }), []string{"spec.containers[0].livenessProbe.successThreshold Invalid: must be 1"}},
		{"grpc port", with(func(p *corev1.Probe) { p.ProbeHandler = corev1.ProbeHandler{GRPC: &corev1.GRPCAction{}} }), []string{"spec.containers[0].livenessProbe.grpc.port Invalid"}},
		{"readiness grace", func(p *corev1.Pod) {
			with(func(probe *corev1.Probe) { probe.TerminationGracePeriodSeconds = ptr(int64(1)) })(p)
			first(p).ReadinessProbe, first(p).LivenessProbe = first(p).LivenessProbe, nil
		}, []string{"spec.containers[0].readinessProbe.terminationGracePeriodSeconds Invalid: must not be set for readinessProbes"}},
		{"sleep longer than grace", func(p *corev1.Pod) {
			first(p).Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 31}}}
		}, []string{"spec.containers[0].lifecycle.preStop.sleep Invalid: less than terminationGracePeriodSeconds (30)"}},
	})
}

func TestPodEnv(t *testing.T) {
	env := func(v corev1.EnvVar) func(*corev1.Pod) {
		return func(p *corev1.Pod) { first(p).Env = []corev1.EnvVar{v} }
	}
	ref := func(path string) corev1.EnvVar {
		return corev1.EnvVar{Name: "A", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
	}
	const at = "spec.containers[0].env[0]"
	creates(t, goodPod, fillPod, Pod, []podChange{
		{"no name", env(corev1.EnvVar{}), []string{at + ".name Required"}},
		{"equals sign", env(corev1.EnvVar{Name: "a=b"}), []string{at + ".name Invalid"}},
		{"odd but allowed", env(corev1.EnvVar{Name: "1 ü!"}), []string{at + ".name Invalid: printable ASCII"}},
		{"no source", env(corev1.EnvVar{Name: "A", ValueFrom: &corev1.EnvVarSource{}}), []string{at + ".valueFrom Invalid: must specify one of: `fieldRef`"}},
		{"value and source", env(func() corev1.EnvVar { v := ref("metadata.name"); v.Value = "x"; return v }()), []string{at + ".valueFrom Invalid: may not be specified when `value` is not empty"}},
		{"pod ip", env(ref("status.podIP")), nil},
		{"a label", env(ref("metadata.labels['app.example/x']")), nil},
		{"a bad label", env(ref("metadata.labels['a b']")), []string{at + ".valueFrom.fieldRef Invalid"}},
		{"all labels", env(ref("metadata.labels")), []string{at + `.valueFrom.fieldRef.fieldPath NotSupported: "metadata.name"`}},
		{"unknown field", env(ref("spec.nope")), []string{at + ".valueFrom.fieldRef.fieldPath Invalid: error converting fieldPath: field label not supported: spec.nope"}},
		{"subscript of a scalar", env(ref("metadata.name['x']")), []string{at + ".valueFrom.fieldRef Invalid: does not support subscript"}},
		{"resource", env(corev1.EnvVar{Name: "A", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.gpu"}}}),
			[]string{at + ".valueFrom.resourceFieldRef.resource NotSupported"}},
		{"divisor", env(corev1.EnvVar{Name: "A", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu", Divisor: resource.MustParse("1k")}}}),
			[]string{at + ".valueFrom.resourceFieldRef.divisor Invalid: only divisor's values 1m and 1 are supported with the cpu resource"}},
		{"secret key", env(corev1.EnvVar{Name: "A", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{}}}),
			[]string{at + ".valueFrom.secretKeyRef.name Invalid", at + ".valueFrom.secretKeyRef.key Required"}},
		{"env from nothing", func(p *corev1.Pod) { first(p).EnvFrom = []corev1.EnvFromSource{{}} }, []string{"spec.containers[0].envFrom Invalid: must specify one of: `configMapRef` or `secretRef`"}},
		{"env from a nameless map", func(p *corev1.Pod) {
			first(p).EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{}}}
		}, []string{"spec.containers[0].envFrom[0].configMapRef.name Required"}},
		{"file key", env(corev1.EnvVar{Name: "A", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{}}}),
			[]string{at + ".valueFrom.fileKeyRef Forbidden: not supported by this version"}},
	})
}

func TestPodVolumes(t *testing.T) {
	vol := func(src corev1.VolumeSource) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: src}} }
	}
	mount := func(m corev1.VolumeMount) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			vol(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})(p)
			first(p).VolumeMounts = []corev1.VolumeMount{m}
		}
	}
	projected := func(s ...corev1.VolumeProjection) func(*corev1.Pod) {
		return vol(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: s}})
	}
	const at, m0 = "spec.volumes[0]", "spec.containers[0].volumeMounts[0]"
	secret := func(path string) corev1.VolumeProjection {
		return corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Items: []corev1.KeyToPath{{Key: "k", Path: path}}}}
	}
	creates(t, goodPod, fillPod, Pod, []podChange{
		{"no source", vol(corev1.VolumeSource{}), []string{at + " Required: must specify a volume type"}},
		{"two sources", vol(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}, HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}),
			[]string{at + ".hostPath Forbidden: may not specify more than 1 volume type"}},
		{"bad name", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "A", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		}, []string{at + ".name Invalid"}},
		{"negative size", vol(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: ptr(resource.MustParse("-1"))}}),
			[]string{at + ".emptyDir.sizeLimit Forbidden: SizeLimit field must be a valid resource quantity"}},
		{"host path", vol(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/a/../b", Type: ptr(corev1.HostPathType("Pipe"))}}),
			[]string{at + ".hostPath.path Invalid: must not contain '..'", at + ".hostPath.type NotSupported"}},
		{"git repo", vol(corev1.VolumeSource{GitRepo: &corev1.GitRepoVolumeSource{Repository: "r"}}), []string{at + ".gitRepo Forbidden: CVE-2024-10220"}},
		{"claim", vol(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}), nil},
		{"claim of no name", vol(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}), []string{at + ".persistentVolumeClaim.claimName Required"}},
		{"claim and more", vol(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}, PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}),
			[]string{at + ".persistentVolumeClaim Forbidden: may not specify more than 1 volume type"}},
		{"ephemeral", vol(ephemeralSource(func(*corev1.PersistentVolumeClaimTemplate) {})), nil},
		{"ephemeral of nothing", vol(corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}), []string{at + ".ephemeral.volumeClaimTemplate Required"}},
		{"ephemeral with a name", vol(ephemeralSource(func(c *corev1.PersistentVolumeClaimTemplate) { c.Name, c.Finalizers = "x", []string{"a/b"} })),
			[]string{at + ".ephemeral.volumeClaimTemplate.metadata.name Forbidden: cannot be set", at + ".ephemeral.volumeClaimTemplate.metadata.finalizers Forbidden: cannot be set"}},
		{"ephemeral of no size", vol(ephemeralSource(func(c *corev1.PersistentVolumeClaimTemplate) { c.Spec.Resources.Requests = nil })),
			[]string{at + ".ephemeral.volumeClaimTemplate.spec.resources[storage] Required"}},
		{"ephemeral for any way", vol(ephemeralSource(func(c *corev1.PersistentVolumeClaimTemplate) { c.Spec.AccessModes = nil })),
			[]string{at + ".ephemeral.volumeClaimTemplate.spec.accessModes Required: at least 1 access mode is required"}},
		{"ephemeral's claim by name", func(p *corev1.Pod) {
			vol(ephemeralSource(func(*corev1.PersistentVolumeClaimTemplate) {}))(p)
			made := p.Name + "-" + p.Spec.Volumes[0].Name
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "other", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: made}}})
		}, []string{"spec.volumes[1].persistentVolumeClaim.claimName Invalid: must not reference a PVC that gets created for an ephemeral volume"}},
		{"ephemeral with a long name", func(p *corev1.Pod) {
			vol(ephemeralSource(func(*corev1.PersistentVolumeClaimTemplate) {}))(p)
			p.Name = strings.Repeat("a", 253)
		}, []string{at + ".name Invalid: PVC name"}},
		{"csi", vol(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{}}), []string{at + ".csi Forbidden: not supported by this version"}},
		{"image", vol(corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "i", PullPolicy: "Never"}}), nil},
		{"no image", vol(corev1.VolumeSource{Image: &corev1.ImageVolumeSource{PullPolicy: "Maybe"}}),
			[]string{at + ".image.reference Required", at + `.image.pullPolicy NotSupported: supported values: "Always", "IfNotPresent", "Never"`}},
		{"image with propagation", func(p *corev1.Pod) {
			vol(corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "i", PullPolicy: "Never"}})(p)
			first(p).VolumeMounts = []corev1.VolumeMount{{Name: p.Spec.Volumes[0].Name, MountPath: "/m", MountPropagation: ptr(corev1.MountPropagationHostToContainer)}}
		}, []string{"spec.containers[0].volumeMounts[0].mountPropagation Forbidden"}},
		{"secret mode", vol(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: ptr(int32(0o1000))}}),
			[]string{at + ".secret.defaultMode Invalid: must be a number between 0 and 0777 (octal), both inclusive"}},
		{"items leave", vol(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}, Items: []corev1.KeyToPath{{Key: "k", Path: "../x"}, {Key: "k", Path: "..x"}, {Path: "/x"}}}}),
			[]string{at + ".configMap.items[0].path Invalid: must not contain '..'", at + ".configMap.items[1].path Invalid: must not start with '..'", at + ".configMap.items[2].key Required", at + ".configMap.items[2].path Invalid: must be a relative path"}},
		{"downward", vol(corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "x"}}}}),
			[]string{at + ".downwardAPI Required: one of fieldRef and resourceFieldRef is required"}},
		{"downward resource", vol(corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "x", ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}}}}),
			[]string{at + ".downwardAPI.resourceFieldRef.containerName Required"}},
		{"projected twice", projected(secret("a"), secret("a")), []string{at + ".projected Invalid: conflicting duplicate paths"}},
		{"projected two in one", projected(corev1.VolumeProjection{Secret: secret("a").Secret, ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}),
			[]string{at + ".projected.sources[0] Forbidden: may not specify more than 1 volume type per source"}},
		{"token", func(p *corev1.Pod) {
			p.Spec.ServiceAccountName = "sa"
			projected(corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t", ExpirationSeconds: ptr(int64(599))}})(p)
		}, []string{at + ".projected.sources[0].serviceAccountToken.expirationSeconds Invalid: may not specify a duration less than 10 minutes"}},
		{"token without account", projected(corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t", ExpirationSeconds: ptr(int64(600))}}),
			[]string{at + ".projected.sources[0].serviceAccountToken Forbidden: must not be specified when serviceAccountName is not set"}},
		{"trust bundle", projected(corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: ptr("e.io:s:b"), Path: "b"}}), nil},
		{"trust bundle of a signer", projected(corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{SignerName: ptr("e.io/s"), LabelSelector: goodSelector(), Path: "b"}}), nil},
		{"trust bundle of nobody", projected(corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{User: ptr(int64(1))}}),
			[]string{at + ".projected.sources[0].clusterTrustBundle Required: either name or signerName must be specified", at + ".projected.sources[0].clusterTrustBundle.path Required",
				at + ".projected.sources[0].clusterTrustBundle.user Forbidden"}},
		{"trust bundle twice", projected(corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: ptr("b"), SignerName: ptr("e.io/s"), Path: "../b"}}),
			[]string{at + ".projected.sources[0].clusterTrustBundle Invalid: only one of name and signerName may be used", at + ".projected.sources[0].clusterTrustBundle.path Invalid: must not contain '..'"}},
		{"trust bundle badly named", projected(corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: ptr("e.io:s:B"), LabelSelector: goodSelector(), Path: "b"}}),
			[]string{at + ".projected.sources[0].clusterTrustBundle.name Invalid: not a valid clustertrustbundlename: a lowercase RFC 1123 subdomain", at + ".projected.sources[0].clusterTrustBundle.labelSelector Invalid: labelSelector must be unset"}},
		{"certificate", projected(corev1.VolumeProjection{PodCertificate: &corev1.PodCertificateProjection{SignerName: "e.io/s", KeyType: "ED25519", CredentialBundlePath: "b", KeyPath: "k", CertificateChainPath: "c",
			UserAnnotations: map[string]string{"e.io/Key": "v"}}}), nil},
		{"bad certificate", projected(corev1.VolumeProjection{PodCertificate: &corev1.PodCertificateProjection{KeyType: "DSA", MaxExpirationSeconds: ptr(int32(3599)), User: ptr(int64(1)), UserAnnotations: map[string]string{"key": "v"}}}),
			[]string{at + ".projected.sources[0].podCertificate.signerName Required", at + ".projected.sources[0].podCertificate.keyType NotSupported", at + ".projected.sources[0].podCertificate.maxExpirationSeconds Invalid: if provided, maxExpirationSeconds must be >= 3600",
				at + ".projected.sources[0].podCertificate Required: specify at least one of", at + ".projected.sources[0].podCertificate.userAnnotations Invalid: must be a domain-prefixed key", at + ".projected.sources[0].podCertificate.user Forbidden"}},
		{"certificate files collide", projected(corev1.VolumeProjection{PodCertificate: &corev1.PodCertificateProjection{SignerName: "kubernetes.io/s", KeyType: "ED25519", MaxExpirationSeconds: ptr(int32(86401)), KeyPath: "k", CertificateChainPath: "k"}}),
			[]string{at + ".projected Invalid: conflicting duplicate paths", at + ".projected.sources[0].podCertificate.maxExpirationSeconds Invalid: if provided, maxExpirationSeconds must be <= 86400"}},
		{"mount", mount(corev1.VolumeMount{Name: "v", MountPath: "/x"}), nil},
		{"mount of nothing", mount(corev1.VolumeMount{Name: "w", MountPath: "/x"}), []string{m0 + ".name NotFound"}},
		{"mount nowhere", mount(corev1.VolumeMount{Name: "v"}), []string{m0 + ".mountPath Required"}},
		{"mount twice", func(p *corev1.Pod) {
			mount(corev1.VolumeMount{Name: "v", MountPath: "/x"})(p)
			first(p).VolumeMounts = append(first(p).VolumeMounts, first(p).VolumeMounts[0])
		}, []string{"spec.containers[0].volumeMounts[1].mountPath Invalid: must be unique"}},
		{"sub path", mount(corev1.VolumeMount{Name: "v", MountPath: "/x", SubPath: "a/../../b", SubPathExpr: "$(A)"}),
			[]string{m0 + ".subPath Invalid: must not contain '..'", m0 + ".subPathExpr Invalid: subPathExpr and subPath are mutually exclusive"}},
		{"propagation", mount(corev1.VolumeMount{Name: "v", MountPath: "/x", MountPropagation: ptr(corev1.MountPropagationBidirectional)}),
			[]string{m0 + ".mountPropagation Forbidden: available only to privileged containers"}},
		{"recursive", mount(corev1.VolumeMount{Name: "v", MountPath: "/x", RecursiveReadOnly: ptr(corev1.RecursiveReadOnlyEnabled)}),
			[]string{m0 + ".recursiveReadOnly Forbidden: may only be specified when readOnly is true"}},
		{"device", func(p *corev1.Pod) { first(p).VolumeDevices = []corev1.VolumeDevice{{Name: "d", DevicePath: "/dev/x"}} },
			[]string{"spec.containers[0].volumeDevices[0].name NotFound", "spec.containers[0].volumeDevices Forbidden: block devices are not supported"}},
	})
}

func TestPodResources(t *testing.T) {
	res := func(limits, requests corev1.ResourceList) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			first(p).Resources = corev1.ResourceRequirements{Limits: limits, Requests: requests}
		}
	}
	const at = "spec.containers[0].resources"
	creates(t, goodPod, fillPod, Pod, []podChange{
		{"good", res(quantities("cpu", "1", "memory", "1Gi", "ephemeral-storage", "1Gi", "example.com/gpu", "1"), quantities("cpu", "100m", "example.com/gpu", "1")), nil},
		{"unknown", res(quantities("disk", "1"), nil), []string{at + ".limits[disk] Invalid: must be a standard resource type or fully qualified", at + ".limits[disk] Invalid: must be a standard resource for containers"}},
		{"negative", res(nil, quantities("cpu", "-1")), []string{at + ".requests[cpu] Invalid: must be greater than or equal to 0"}},
		{"above the limit", res(quantities("cpu", "1"), quantities("cpu", "2")), []string{at + ".requests Invalid: must be less than or equal to cpu limit of 1"}},
		{"half a gpu", res(quantities("example.com/gpu", "500m"), nil), []string{at + ".limits[example.com/gpu] Invalid: must be an integer"}},
		{"gpu without limit", res(nil, quantities("example.com/gpu", "1")), []string{at + ".limits Required: Limit must be set for non overcommitable resources"}},
		{"fewer gpus than the limit", res(quantities("example.com/gpu", "2"), quantities("example.com/gpu", "1")), []string{at + ".requests Invalid: must be equal to example.com/gpu limit of 2"}},
		{"huge pages alone", res(quantities("hugepages-2Mi", "4Mi"), nil), []string{at + " Forbidden: HugePages require cpu or memory"}},
		{"odd huge pages", res(quantities("hugepages-2Mi", "3Mi", "cpu", "1"), nil), []string{at + ".limits[hugepages-2Mi] Invalid: is not positive integer multiple of"}},
	})
}

func ephemeralSource(change func(*corev1.PersistentVolumeClaimTemplate)) corev1.VolumeSource {
	t := &corev1.PersistentVolumeClaimTemplate{Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}}}
	t.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	change(t)
	return corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: t}}
}
