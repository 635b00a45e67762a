// Package warnings tells clients of what works, but not as they may think.
// Each warning becomes a Warning header; kubectl prints it.
package warnings

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// most warnings that one answer carries.
const most = 10

// seccomp annotations have done nothing since Kubernetes 1.27.
const (
	seccompPod       = "seccomp.security.alpha.kubernetes.io/pod"
	seccompContainer = "container.seccomp.security.alpha.kubernetes.io/"
)

// oldNodeLabels say what to use instead.
var oldNodeLabels = map[string]string{
	"beta.kubernetes.io/arch":                       `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	"beta.kubernetes.io/os":                         `deprecated since v1.14; use "kubernetes.io/os" instead`,
	corev1.LabelFailureDomainBetaRegion:             `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	corev1.LabelFailureDomainBetaZone:               `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	corev1.LabelInstanceType:                        `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
	"app.kubernetes.io/created-by":                  "deprecated since v1.9",
	"scheduler.alpha.kubernetes.io/preferAvoidPods": "deprecated since v1.22; use Taints and Tolerations instead",
	"node-role.kubernetes.io/master":                `use "node-role.kubernetes.io/control-plane" instead`,
}

type list []string

func (l *list) addf(format string, args ...any) {
	if len(*l) < most {
		*l = append(*l, fmt.Sprintf(format, args...))
	}
}

// Pod on create only: what runs cannot be mended.
func Pod(pod, old *corev1.Pod) []string {
	if old != nil {
		return nil
	}
	var l list
	if pod.Name != "" && len(validation.IsDNS1123Label(pod.Name)) > 0 {
		l.addf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", validation.IsDNS1123Label(pod.Name))
	}
	l.podSpec(nil, &pod.Spec, pod.Annotations)
	return l
}

// Deployment looks at the template.
func Deployment(d, _ *appsv1.Deployment) []string { return template(&d.Spec.Template) }

// ReplicaSet looks at the template.
func ReplicaSet(rs, _ *appsv1.ReplicaSet) []string { return template(&rs.Spec.Template) }

// DaemonSet looks at the template.
func DaemonSet(ds, _ *appsv1.DaemonSet) []string { return template(&ds.Spec.Template) }

// StatefulSet looks at the templates of pods and claims.
func StatefulSet(sts, old *appsv1.StatefulSet) []string {
	l := list(template(&sts.Spec.Template))
	for i := range sts.Spec.VolumeClaimTemplates {
		at := field.NewPath("spec", "volumeClaimTemplates").Index(i)
		if old != nil {
			at = at.Child("Spec") // as upstream has it
		}
		l.claim(at, &sts.Spec.VolumeClaimTemplates[i].Spec)
	}
	if n := sts.Spec.RevisionHistoryLimit; n != nil && *n < 0 {
		l.addf("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return l
}

// ReplicationController looks at the template.
func ReplicationController(rc, _ *corev1.ReplicationController) []string {
	if rc.Spec.Template == nil {
		return nil
	}
	return template(rc.Spec.Template)
}

// inert says of a new object that it is kept, but nothing acts on it yet. A
// user who creates a policy or a quota must not believe that it holds.
func inert(kind string, created bool) []string {
	if !created {
		return nil
	}
	return []string{"this version of knarr stores " + kind + " objects but does not act on them yet"}
}

// NetworkPolicy is not enforced yet.
func NetworkPolicy(_, old *networkingv1.NetworkPolicy) []string {
	return inert("NetworkPolicy", old == nil)
}

// Ingress is not served yet.
func Ingress(_, old *networkingv1.Ingress) []string { return inert("Ingress", old == nil) }

func template(t *corev1.PodTemplateSpec) []string {
	var l list
	l.podSpec(field.NewPath("spec", "template"), &t.Spec, t.Annotations)
	return l
}

func (l *list) podSpec(p *field.Path, spec *corev1.PodSpec, annotations map[string]string) {
	at := func(name string, more ...string) *field.Path {
		if p == nil {
			return field.NewPath(name, more...)
		}
		return p.Child(name, more...)
	}
	l.placement(spec, at("spec"))
	for key := range annotations {
		switch {
		case oldAnnotations[key] != "":
			l.addf("%s: %s", at("metadata", "annotations").Key(key), oldAnnotations[key])
		case key == seccompPod || strings.HasPrefix(key, seccompContainer):
			l.addf("%s: non-functional in v1.27+; use the \"seccompProfile\" field instead", at("metadata", "annotations").Key(key))
		case strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix):
			l.addf("%s: deprecated since v1.30; use the \"appArmorProfile\" field instead", at("metadata", "annotations").Key(key))
		}
	}
	for i := range spec.Volumes {
		if e := spec.Volumes[i].Ephemeral; e != nil && e.VolumeClaimTemplate != nil {
			l.claim(at("spec", "volumes").Index(i).Child("ephemeral", "volumeClaimTemplate", "spec"), &e.VolumeClaimTemplate.Spec)
		}
	}
	l.lists(spec, at("spec"))
	for _, bytes := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		l.whole(bytes, spec.Overhead, at("spec"), "overhead")
	}
	l.containers(spec, at("spec"))
}

// Service warns of what no component does.
func Service(svc, _ *corev1.Service) []string {
	var l list
	if svc.Spec.LoadBalancerIP != "" {
		l.addf("spec.loadBalancerIP: deprecated in v1.24+; use a provider-specific annotation instead")
	}
	if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP && len(svc.Spec.ClusterIPs) == 1 && svc.Spec.ClusterIPs[0] == corev1.ClusterIPNone {
		l.addf("spec.SessionAffinity is ignored for headless services")
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		l.addf("spec.type: no load balancer is part of this cluster; the service is reachable by its node ports only, unless one is installed")
	}
	return l
}

// Endpoints are the old form of endpoint slices.
func Endpoints(*corev1.Endpoints, *corev1.Endpoints) []string {
	return []string{"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"}
}

// Node warns of fields that nothing reads.
func Node(n, _ *corev1.Node) []string {
	var l list
	if n.Spec.DoNotUseExternalID != "" {
		l.addf("spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	return l
}
