package warnings

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func only(t *testing.T, got []string, parts ...string) {
	t.Helper()
	if len(got) != len(parts) {
		t.Errorf("got %q, want %d", got, len(parts))
		return
	}
	for i, p := range parts {
		if !strings.Contains(got[i], p) {
			t.Errorf("got %q, want %q in it", got[i], p)
		}
	}
}

func TestPod(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "a.b", Annotations: map[string]string{"seccomp.security.alpha.kubernetes.io/pod": "x"}},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{"beta.kubernetes.io/os": "linux"},
			Containers:   []corev1.Container{{Env: []corev1.EnvVar{{Name: "A"}, {Name: "A"}}}},
		},
	}
	only(t, Pod(pod, nil), "metadata.name: this is used in the Pod's hostname", `spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`,
		"metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional", `spec.containers[0].env[1]: hides previous definition of "A"`)
	only(t, Pod(pod, pod))
	only(t, Pod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "plain"}}, nil))
}

func TestPodSpec(t *testing.T) {
	amounts := func(kv ...string) corev1.ResourceList {
		out := corev1.ResourceList{}
		for i := 0; i < len(kv); i += 2 {
			out[corev1.ResourceName(kv[i])] = resource.MustParse(kv[i+1])
		}
		return out
	}
	some := &metav1.LabelSelector{}
	of := func(c ...corev1.Container) corev1.PodSpec { return corev1.PodSpec{Containers: c} }
	ports := func(p ...corev1.ContainerPort) corev1.PodSpec {
		return of(corev1.Container{Ports: p[:1]}, corev1.Container{Ports: p[1:]})
	}
	on := func(key string) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key}}}
	}
	for _, tt := range []struct {
		name string
		spec corev1.PodSpec
		want []string
	}{
		{"bytes", of(corev1.Container{Resources: corev1.ResourceRequirements{Limits: amounts("memory", "500m", "cpu", "500m"), Requests: amounts("memory", "1Mi", "ephemeral-storage", "1500m")}}),
			[]string{`spec.containers[0].resources.limits[memory]: fractional byte value "500m" is invalid, must be an integer`, `spec.containers[0].resources.requests[ephemeral-storage]: fractional byte value "1500m"`}},
		{"overhead", corev1.PodSpec{Overhead: amounts("memory", "0.5")}, []string{`spec.overhead[memory]: fractional byte value "500m"`}},
		{"a variable out of its old value", of(corev1.Container{Env: []corev1.EnvVar{{Name: "A", Value: "x"}, {Name: "A", Value: "$(A):y"}}}), nil},
		{"a variable that is itself", of(corev1.Container{Env: []corev1.EnvVar{{Name: "A", Value: "x"}, {Name: "A", Value: "$(A)"}}}), []string{`spec.containers[0].env[1]: hides previous definition of "A"`}},
		{"ports", ports(corev1.ContainerPort{ContainerPort: 80, Protocol: "TCP"}, corev1.ContainerPort{ContainerPort: 80, Protocol: "UDP"}, corev1.ContainerPort{ContainerPort: 81, Protocol: "TCP"}), nil},
		{"a port twice", ports(corev1.ContainerPort{ContainerPort: 80}, corev1.ContainerPort{ContainerPort: 80}), []string{"spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]"}},
		{"a port on the node, and not", ports(corev1.ContainerPort{ContainerPort: 80}, corev1.ContainerPort{ContainerPort: 80, HostPort: 8}), []string{"spec.containers[1].ports[0]: overlapping port definition"}},
		{"a port on one address, and on all", ports(corev1.ContainerPort{ContainerPort: 80, HostPort: 8}, corev1.ContainerPort{ContainerPort: 80, HostPort: 8, HostIP: "192.0.2.1"}), []string{"dangerously ambiguous port definition"}},
		{"a port on two addresses", ports(corev1.ContainerPort{ContainerPort: 80, HostPort: 8, HostIP: "192.0.2.2"}, corev1.ContainerPort{ContainerPort: 80, HostPort: 8, HostIP: "192.0.2.1"}), nil},
		{"an address without a port", ports(corev1.ContainerPort{ContainerPort: 80, HostIP: "192.0.2.1"}), []string{"spec.containers[0].ports[0]: hostIP set without hostPort"}},
		{"aliases and secrets", corev1.PodSpec{HostAliases: []corev1.HostAlias{{IP: "1.2.3.4"}, {IP: "1.2.3.4"}}, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "a"}, {Name: "a"}, {}}},
			[]string{`spec.hostAliases[1].ip: duplicate ip "1.2.3.4"`, `spec.imagePullSecrets[1].name: duplicate name "a"`, `spec.imagePullSecrets[2].name: invalid empty name`}},
		{"spread", corev1.PodSpec{TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{TopologyKey: corev1.LabelFailureDomainBetaZone, LabelSelector: some}, {TopologyKey: "zone"}}},
			[]string{"spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated", "spec.topologySpreadConstraints[1].labelSelector: a null labelSelector results in matching no pod"}},
		{"affinity", corev1.PodSpec{Affinity: &corev1.Affinity{
			NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{on("ok"), on("beta.kubernetes.io/os")}},
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Preference: on("beta.kubernetes.io/arch")}}},
			PodAffinity:     &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: some}, {}}},
			PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{}}},
		}}, []string{
			"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[1].matchExpressions[0].key: beta.kubernetes.io/os is deprecated",
			"spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key: beta.kubernetes.io/arch is",
			"spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[1].labelSelector: a null labelSelector",
			"spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector"}},
	} {
		t.Run(tt.name, func(t *testing.T) { only(t, Pod(&corev1.Pod{Spec: tt.spec}, nil), tt.want...) })
	}
	only(t, Pod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"scheduler.alpha.kubernetes.io/critical-pod": ""}}}, nil),
		`metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "priorityClassName" field`)
}

func TestTemplateAndBound(t *testing.T) {
	d := &appsv1.Deployment{}
	for i := range 50 {
		d.Spec.Template.Spec.InitContainers = append(d.Spec.Template.Spec.InitContainers, corev1.Container{Name: fmt.Sprint(i), Env: []corev1.EnvVar{{Name: "A"}, {Name: "A"}}})
	}
	got := Deployment(d, nil)
	if len(got) != most || !strings.HasPrefix(got[0], "spec.template.spec.initContainers[0].env[1]: ") {
		t.Errorf("got %d: %q", len(got), got)
	}
}

func TestOthers(t *testing.T) {
	only(t, Service(&corev1.Service{Spec: corev1.ServiceSpec{Type: "LoadBalancer", LoadBalancerIP: "1.1.1.1"}}, nil), "spec.loadBalancerIP: deprecated", "no load balancer is part of this cluster")
	only(t, Service(&corev1.Service{}, nil))
	only(t, Endpoints(nil, nil), "use discovery.k8s.io/v1 EndpointSlice")
	only(t, NetworkPolicy(&networkingv1.NetworkPolicy{}, nil), "does not act on them yet")
	only(t, NetworkPolicy(&networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicy{}))
}

func TestStorage(t *testing.T) {
	pv := &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{
		PersistentVolumeReclaimPolicy: "Recycle", PersistentVolumeSource: corev1.PersistentVolumeSource{RBD: &corev1.RBDPersistentVolumeSource{}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelFailureDomainBetaZone}},
		}}}},
	}}
	only(t, PersistentVolume(pv, nil), "Recycle reclaim policy is deprecated",
		`spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
		"spec.rbd: deprecated in v1.28, non-functional in v1.31+")
	pvc := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{
		Requests: corev1.ResourceList{"storage": resource.MustParse("0.5")}, Limits: corev1.ResourceList{"storage": resource.MustParse("1Gi")},
	}}}
	only(t, PersistentVolumeClaim(pvc, nil), `spec.resources.requests[storage]: fractional byte value "500m" is invalid, must be an integer`)
	sts := &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{VolumeClaimTemplates: []corev1.PersistentVolumeClaim{*pvc}}}
	only(t, StatefulSet(sts, nil), "spec.volumeClaimTemplates[0].resources.requests[storage]: fractional byte value")
	only(t, StatefulSet(sts, sts), "spec.volumeClaimTemplates[0].Spec.resources.requests[storage]: fractional byte value")
	pod := &corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
		VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: pvc.Spec}}}}}}}
	only(t, Pod(pod, nil), "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]: fractional byte value")
	only(t, StorageClass(&storagev1.StorageClass{}, nil))
	driver := &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{TokenRequests: []storagev1.TokenRequest{{}}}}
	only(t, CSIDriver(driver, &storagev1.CSIDriver{}), "spec.serviceAccountTokenInSecrets is unset")
	only(t, CSIDriver(driver, driver))
}

func TestDevices(t *testing.T) {
	only(t, ResourceSlice(&resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{Driver: "D"}}, nil), "should be lowercase")
}
