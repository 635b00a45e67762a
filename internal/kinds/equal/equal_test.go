package equal_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"knarr.dev/knarr/internal/kinds/equal"
)

func spec(cpu string, more ...corev1.Volume) *corev1.PodSpec {
	return &corev1.PodSpec{Volumes: more, Containers: []corev1.Container{{Name: "c",
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse("1Gi")}}}}}
}

func TestMessages(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		a, b *corev1.PodSpec
		want bool
	}{
		{"alike", spec("1"), spec("1"), true},
		{"the same quantity in other words", spec("1"), spec("1000m"), true},
		{"another quantity of the same length", spec("1"), spec("2"), false},
		{"an empty list", spec("1"), &corev1.PodSpec{Containers: spec("1").Containers, Volumes: []corev1.Volume{}, Tolerations: nil}, true},
		{"one more", spec("1"), spec("1", corev1.Volume{Name: "v"}), false},
	} {
		if got := equal.Messages(c.a, c.b); got != c.want || got != equal.Values(*c.a, *c.b) {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
