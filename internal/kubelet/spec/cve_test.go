package spec

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestCVE2019_11245: runAsNonRoot is judged at every start of a container, with
// the image as it is then: a restart, or an image that is present already, is
// no way around it.
func TestCVE2019_11245(t *testing.T) {
	yes := true
	for name, pod := range map[string]*corev1.Pod{
		"container": {Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", SecurityContext: &corev1.SecurityContext{RunAsNonRoot: &yes}}}}},
		"pod":       {Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes}, Containers: []corev1.Container{{Name: "c"}}}},
	} {
		c := &pod.Spec.Containers[0]
		user, root, silent := &runtimeapi.Image{Uid: &runtimeapi.Int64Value{Value: 7}}, &runtimeapi.Image{Uid: &runtimeapi.Int64Value{}}, &runtimeapi.Image{}
		for i, start := range []struct {
			image *runtimeapi.Image
			ok    bool
		}{{user, true}, {user, true}, {root, false}, {user, true}, {silent, false}, {root, false}} {
			if err := VerifyNonRoot(pod, c, start.image); (err == nil) != start.ok {
				t.Errorf("%s, start %d: %v", name, i, err)
			}
		}
	}
}
