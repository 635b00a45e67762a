package kinds

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func benchPod() *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-5d4f8c7b9-abcde", Namespace: "default", ResourceVersion: "7", Labels: map[string]string{"app": "web", "pod-template-hash": "5d4f8c7b9"}}}
	p.Spec.ServiceAccountName = "default"
	p.Spec.Volumes = []corev1.Volume{{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}}}}}}
	p.Spec.Containers = []corev1.Container{{
		Name: "web", Image: "registry.example/web:1", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
		Env:           []corev1.EnvVar{{Name: "A", Value: "b"}, {Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}}},
		VolumeMounts:  []corev1.VolumeMount{{Name: "token", MountPath: "/var/run/secrets"}},
		LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}},
	}}
	p.Spec.Tolerations = []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: "Exists", Effect: "NoExecute"}}
	Pod.Default(p)
	return p
}

func BenchmarkPod(b *testing.B) {
	p := benchPod()
	old := p.DeepCopy()
	b.Run("default", func(b *testing.B) {
		for b.Loop() {
			Pod.Default(p)
		}
	})
	b.Run("create", func(b *testing.B) {
		for b.Loop() {
			Pod.PrepareCreate(p)
			if errs := Pod.Validate(p); len(errs) > 0 {
				b.Fatal(errs)
			}
		}
	})
	b.Run("status", func(b *testing.B) {
		s := Pod.Subresources["status"]
		Pod.PrepareCreate(old)
		for b.Loop() {
			s.PrepareUpdate(p, old)
			if errs := s.ValidateUpdate(p, old); len(errs) > 0 {
				b.Fatal(errs)
			}
		}
	})
	b.Run("table", func(b *testing.B) {
		for b.Loop() {
			for _, c := range Pod.Columns {
				c.Value(p, clock)
			}
		}
	})
}
