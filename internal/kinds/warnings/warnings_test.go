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
	only(t, Pod(pod, nil), "metadata.name: this is used in the Pod's hostname", "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional",
		`spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`, `spec.containers[0].env[1]: hides previous definition of "A"`)
	only(t, Pod(pod, pod))
	only(t, Pod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "plain"}}, nil))
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
