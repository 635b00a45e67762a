package apiserver

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestPodPort(t *testing.T) {
	bare := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}}}}
	web := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}, {Name: "b", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}, {Name: "tls", ContainerPort: 8443}}}}}}
	for _, tt := range []struct {
		pod                *corev1.Pod
		scheme, port, want string
	}{
		{bare, "", "", "80"}, {bare, "http", "", "80"}, {bare, "https", "", "443"}, {bare, "", "9", "9"}, {bare, "", "web", "web"},
		{web, "", "", "8080"}, {web, "https", "", "8080"}, {web, "", "tls", "8443"}, {web, "", "99", "99"},
	} {
		if got := podPort(tt.pod, tt.scheme, tt.port); got != tt.want {
			t.Errorf("%d containers, scheme %q, port %q: %s, want %s", len(tt.pod.Spec.Containers), tt.scheme, tt.port, got, tt.want)
		}
	}
}
