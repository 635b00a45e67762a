package kubelet

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestTerminal: attaching follows the container, of whatever sort it is.
func TestTerminal(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers:      []corev1.Container{{Name: "init", TTY: true}},
		Containers:          []corev1.Container{{Name: "plain"}, {Name: "tty", TTY: true}},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", TTY: true}}},
	}}
	for name, want := range map[string]bool{"init": true, "plain": false, "tty": true, "debug": true, "nobody": false} {
		if got := terminal(pod, name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
