package validate

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// notYet is the reason of every refusal in this file: the field is valid, but
// nothing in this version would do what it asks for, and a cluster that
// silently does something else is worse than one that says so.
const notYet = "not supported by this version of knarr"

// podUnsupported are the fields of a pod that nothing honours yet.
var podUnsupported = []struct {
	path []string
	set  func(*corev1.PodSpec) bool
	why  string
}{
	{[]string{"schedulingGroup"}, func(s *corev1.PodSpec) bool { return s.SchedulingGroup != nil }, "scheduling of groups is " + notYet},
	{[]string{"evictionResponders"}, func(s *corev1.PodSpec) bool { return len(s.EvictionResponders) > 0 }, notYet},
	{[]string{"os", "name"}, func(s *corev1.PodSpec) bool { return s.OS != nil && s.OS.Name == corev1.Windows }, "Windows pods are " + notYet},
	{[]string{"securityContext", "windowsOptions"}, func(s *corev1.PodSpec) bool {
		return s.SecurityContext != nil && s.SecurityContext.WindowsOptions != nil
	}, "Windows pods are " + notYet},
	{[]string{"securityContext", "seLinuxChangePolicy"}, func(s *corev1.PodSpec) bool {
		return s.SecurityContext != nil && s.SecurityContext.SELinuxChangePolicy != nil
	}, notYet},
}

// containerUnsupported are the fields of a container that nothing honours yet.
var containerUnsupported = []struct {
	path []string
	set  func(*corev1.Container) bool
	why  string
}{
	{[]string{"volumeDevices"}, func(c *corev1.Container) bool { return len(c.VolumeDevices) > 0 }, "block devices are " + notYet},
	{[]string{"lifecycle", "stopSignal"}, func(c *corev1.Container) bool {
		return c.Lifecycle != nil && c.Lifecycle.StopSignal != nil
	}, notYet},
	{[]string{"securityContext", "windowsOptions"}, func(c *corev1.Container) bool {
		return c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil
	}, "Windows pods are " + notYet},
}

// otherVolumes are the sources that no kubelet of this version mounts.
var otherVolumes = []struct {
	name string
	set  func(*corev1.VolumeSource) bool
}{
	{"gitRepo", func(v *corev1.VolumeSource) bool { return v.GitRepo != nil }},
	{"csi", func(v *corev1.VolumeSource) bool { return v.CSI != nil }},
	{"nfs", func(v *corev1.VolumeSource) bool { return v.NFS != nil }},
	{"iscsi", func(v *corev1.VolumeSource) bool { return v.ISCSI != nil }},
	{"gcePersistentDisk", func(v *corev1.VolumeSource) bool { return v.GCEPersistentDisk != nil }},
	{"awsElasticBlockStore", func(v *corev1.VolumeSource) bool { return v.AWSElasticBlockStore != nil }},
	{"glusterfs", func(v *corev1.VolumeSource) bool { return v.Glusterfs != nil }},
	{"rbd", func(v *corev1.VolumeSource) bool { return v.RBD != nil }},
	{"flexVolume", func(v *corev1.VolumeSource) bool { return v.FlexVolume != nil }},
	{"cinder", func(v *corev1.VolumeSource) bool { return v.Cinder != nil }},
	{"cephfs", func(v *corev1.VolumeSource) bool { return v.CephFS != nil }},
	{"flocker", func(v *corev1.VolumeSource) bool { return v.Flocker != nil }},
	{"fc", func(v *corev1.VolumeSource) bool { return v.FC != nil }},
	{"azureFile", func(v *corev1.VolumeSource) bool { return v.AzureFile != nil }},
	{"azureDisk", func(v *corev1.VolumeSource) bool { return v.AzureDisk != nil }},
	{"vsphereVolume", func(v *corev1.VolumeSource) bool { return v.VsphereVolume != nil }},
	{"quobyte", func(v *corev1.VolumeSource) bool { return v.Quobyte != nil }},
	{"photonPersistentDisk", func(v *corev1.VolumeSource) bool { return v.PhotonPersistentDisk != nil }},
	{"portworxVolume", func(v *corev1.VolumeSource) bool { return v.PortworxVolume != nil }},
	{"scaleIO", func(v *corev1.VolumeSource) bool { return v.ScaleIO != nil }},
	{"storageos", func(v *corev1.VolumeSource) bool { return v.StorageOS != nil }},
}

func unsupportedVolume(v *corev1.VolumeSource) string {
	for _, o := range otherVolumes {
		if o.set(v) {
			return o.name
		}
	}
	return ""
}

func unsupportedVolumeDetail(name string) string {
	if name == "gitRepo" {
		// CVE-2024-10220, CVE-2025-1767: whoever names the repository runs
		// hooks as root on the node. This one will never be supported.
		return "gitRepo volumes are not supported: they let a repository run commands on the node (CVE-2024-10220); clone in an init container into an emptyDir instead"
	}
	return name + " volumes are " + notYet
}

// unsupported refuses what would be ignored otherwise.
func (s *podScope) unsupported(p *field.Path) {
	for _, f := range podUnsupported {
		if f.set(s.spec) {
			s.forbid(p.Child(f.path[0], f.path[1:]...), f.why)
		}
	}
	for i := range s.spec.Volumes {
		s.unsupportedVolumeFields(p.Child("volumes").Index(i), &s.spec.Volumes[i].VolumeSource)
	}
	each := func(at *field.Path, c *corev1.Container) {
		for _, f := range containerUnsupported {
			if f.set(c) {
				s.forbid(at.Child(f.path[0], f.path[1:]...), f.why)
			}
		}
		for i := range c.Env {
			if from := c.Env[i].ValueFrom; from != nil && from.FileKeyRef != nil {
				s.forbid(at.Child("env").Index(i).Child("valueFrom", "fileKeyRef"), notYet)
			}
		}
		for i := range c.RestartPolicyRules {
			if c.RestartPolicyRules[i].Action == corev1.ContainerRestartRuleActionRestartAllContainers {
				s.forbid(at.Child("restartPolicyRules").Index(i).Child("action"), "restarting all containers of a pod is "+notYet)
			}
		}
		for i := range c.VolumeMounts {
			m, p := &c.VolumeMounts[i], at.Child("volumeMounts").Index(i)
			if len(m.BindMountOptions) > 0 {
				s.forbid(p.Child("bindMountOptions"), notYet)
			}
			if v := s.volumes[m.Name]; v != nil && v.Image != nil && m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
				s.forbid(p.Child("mountPropagation"), "propagation of mounts in images is "+notYet)
			}
		}
	}
	for i := range s.spec.InitContainers {
		each(p.Child("initContainers").Index(i), &s.spec.InitContainers[i])
	}
	for i := range s.spec.Containers {
		each(p.Child("containers").Index(i), &s.spec.Containers[i])
	}
	for i := range s.spec.EphemeralContainers {
		each(p.Child("ephemeralContainers").Index(i), (*corev1.Container)(&s.spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

// unsupportedVolumeFields refuses the alpha fields of files in volumes.
func (s *podScope) unsupportedVolumeFields(p *field.Path, v *corev1.VolumeSource) {
	no := func(set bool, at *field.Path) {
		if set {
			s.forbid(at, notYet)
		}
	}
	items := func(at *field.Path, list []corev1.KeyToPath) {
		for i := range list {
			no(list[i].User != nil, at.Child("items").Index(i).Child("user"))
		}
	}
	files := func(at *field.Path, list []corev1.DownwardAPIVolumeFile) {
		for i := range list {
			no(list[i].User != nil, at.Child("items").Index(i).Child("user"))
		}
	}
	switch {
	case v.EmptyDir != nil:
		no(v.EmptyDir.Mode != nil, p.Child("emptyDir", "mode"))
	case v.Secret != nil:
		no(v.Secret.DefaultUser != nil, p.Child("secret", "defaultUser"))
		items(p.Child("secret"), v.Secret.Items)
	case v.ConfigMap != nil:
		no(v.ConfigMap.DefaultUser != nil, p.Child("configMap", "defaultUser"))
		items(p.Child("configMap"), v.ConfigMap.Items)
	case v.DownwardAPI != nil:
		no(v.DownwardAPI.DefaultUser != nil, p.Child("downwardAPI", "defaultUser"))
		files(p.Child("downwardAPI"), v.DownwardAPI.Items)
	case v.Projected != nil:
		no(v.Projected.DefaultUser != nil, p.Child("projected", "defaultUser"))
		for i := range v.Projected.Sources {
			src, at := &v.Projected.Sources[i], p.Child("projected", "sources").Index(i)
			if src.ClusterTrustBundle != nil {
				no(src.ClusterTrustBundle.User != nil, at.Child("clusterTrustBundle", "user"))
			}
			if src.PodCertificate != nil {
				no(src.PodCertificate.User != nil, at.Child("podCertificate", "user"))
			}
			if src.Secret != nil {
				items(at.Child("secret"), src.Secret.Items)
			}
			if src.ConfigMap != nil {
				items(at.Child("configMap"), src.ConfigMap.Items)
			}
			if src.DownwardAPI != nil {
				files(at.Child("downwardAPI"), src.DownwardAPI.Items)
			}
			if src.ServiceAccountToken != nil {
				no(src.ServiceAccountToken.User != nil, at.Child("serviceAccountToken", "user"))
			}
		}
	}
}
