// Package defaults fills in what clients leave out, as upstream's v1 API does.
// Every function works in place and is idempotent, because it also runs on
// what is read from the store.
package defaults

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Pod fills a pod, which gets a little more than a pod template: requests from
// limits, service links and the host ports of the host's network.
func Pod(pod *corev1.Pod) {
	PodSpec(&pod.Spec)
	for _, list := range [...][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			requestLimits(&list[i].Resources)
			if pod.Spec.HostNetwork {
				hostPorts(list[i].Ports)
			}
		}
	}
	set(&pod.Spec.EnableServiceLinks, true)
	st := &pod.Status
	if st.PodIP != "" && (len(st.PodIPs) == 0 || st.PodIPs[0].IP != st.PodIP) {
		st.PodIPs = []corev1.PodIP{{IP: st.PodIP}}
	} else if len(st.PodIPs) > 0 {
		st.PodIP = st.PodIPs[0].IP
	}
}

// PodTemplate fills a stored pod template.
func PodTemplate(t *corev1.PodTemplate) { PodSpec(&t.Template.Spec) }

// PodSpec fills what pods and pod templates have in common.
func PodSpec(spec *corev1.PodSpec) {
	or(&spec.DNSPolicy, corev1.DNSClusterFirst)
	or(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	or(&spec.SchedulerName, corev1.DefaultSchedulerName)
	set(&spec.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	if spec.SecurityContext == nil {
		spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	// The two names are one field: the old one mirrors the new one.
	if spec.ServiceAccountName == "" {
		spec.ServiceAccountName = spec.DeprecatedServiceAccount
	}
	spec.DeprecatedServiceAccount = spec.ServiceAccountName
	resourceList(spec.Overhead)
	for i := range spec.Volumes {
		volume(&spec.Volumes[i].VolumeSource)
	}
	for i := range spec.InitContainers {
		container(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		container(&spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		container((*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

func container(c *corev1.Container) {
	or(&c.ImagePullPolicy, pullPolicy(c.Image))
	or(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	or(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	resourceList(c.Resources.Limits)
	resourceList(c.Resources.Requests)
	for i := range c.Ports {
		or(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil {
			fieldRef(from.FieldRef)
			if from.FileKeyRef != nil {
				set(&from.FileKeyRef.Optional, false)
			}
		}
	}
	probe(c.LivenessProbe)
	probe(c.ReadinessProbe)
	probe(c.StartupProbe)
	if c.Lifecycle != nil {
		for _, h := range [...]*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				httpGet(h.HTTPGet)
			}
		}
	}
}

func pullPolicy(image string) corev1.PullPolicy {
	if latest(image) {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

// latest tells whether an image reference means the tag "latest": it says so,
// or names neither a tag nor a digest.
func latest(image string) bool {
	if image == "" || strings.Contains(image, "@") {
		return false
	}
	name := image[strings.LastIndex(image, "/")+1:]
	_, tag, tagged := strings.Cut(name, ":")
	return !tagged || tag == "latest"
}

func probe(p *corev1.Probe) {
	if p == nil {
		return
	}
	or(&p.TimeoutSeconds, 1)
	or(&p.PeriodSeconds, 10)
	or(&p.SuccessThreshold, 1)
	or(&p.FailureThreshold, 3)
	httpGet(p.HTTPGet)
	if p.GRPC != nil {
		set(&p.GRPC.Service, "")
	}
}

func httpGet(h *corev1.HTTPGetAction) {
	if h != nil {
		or(&h.Path, "/")
		or(&h.Scheme, corev1.URISchemeHTTP)
	}
}

func fieldRef(f *corev1.ObjectFieldSelector) {
	if f != nil {
		or(&f.APIVersion, "v1")
	}
}

// requestLimits asks for what is limited where nothing else is asked for.
func requestLimits(r *corev1.ResourceRequirements) {
	if r.Limits == nil {
		return
	}
	if r.Requests == nil {
		r.Requests = make(corev1.ResourceList, len(r.Limits))
	}
	fill(r.Requests, r.Limits)
}

func hostPorts(ports []corev1.ContainerPort) {
	for i := range ports {
		or(&ports[i].HostPort, ports[i].ContainerPort)
	}
}

func volume(v *corev1.VolumeSource) {
	if *v == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	switch {
	case v.HostPath != nil:
		set(&v.HostPath.Type, corev1.HostPathUnset)
	case v.Secret != nil:
		set(&v.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	case v.ConfigMap != nil:
		set(&v.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	case v.DownwardAPI != nil:
		set(&v.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		downwardFiles(v.DownwardAPI.Items)
	case v.Projected != nil:
		projected(v.Projected)
	case v.Image != nil:
		or(&v.Image.PullPolicy, pullPolicy(v.Image.Reference))
	case v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil:
		claimSpec(&v.Ephemeral.VolumeClaimTemplate.Spec)
	}
}

func projected(p *corev1.ProjectedVolumeSource) {
	set(&p.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
	for i := range p.Sources {
		s := &p.Sources[i]
		if s.DownwardAPI != nil {
			downwardFiles(s.DownwardAPI.Items)
		}
		if s.ServiceAccountToken != nil {
			set(&s.ServiceAccountToken.ExpirationSeconds, 3600)
		}
	}
}

func downwardFiles(files []corev1.DownwardAPIVolumeFile) {
	for i := range files {
		fieldRef(files[i].FieldRef)
	}
}
