package ownership

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

// usualPod is as large as those that run: 3 to 5 KB in JSON.
func usualPod() *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", Labels: map[string]string{"app": "web", "pod-template-hash": "7c5ddbdf54"}}}
	for i := range 3 {
		c := corev1.Container{Name: fmt.Sprint("c", i), Image: "registry.example.com/team/application:v1.2.3", Args: []string{"--port=8080"}}
		for j := range 8 {
			c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprint("VARIABLE_", j), Value: strings.Repeat("v", 20)})
		}
		c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/data"}}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	kinds.Pod.Default(p)
	return p
}

func BenchmarkUpdate(b *testing.B) {
	f := New(kinds.Builtin().All(), kinds.Builtin().ByGVK)
	created := usualPod()
	w := Write{Kind: kinds.Pod, Manager: "kubectl-create", Now: time.Unix(1_700_000_000, 0)}
	if err := f.Update(b.Context(), w, nil, created); err != nil {
		b.Fatal(err)
	}
	labelled := created.DeepCopy()
	labelled.Labels["x"] = "y"
	running := created.DeepCopy()
	running.Status.Conditions = []corev1.PodCondition{{Type: "Ready", Status: "True"}, {Type: "Initialized", Status: "True"}}
	for name, bc := range map[string]struct {
		w         Write
		live, obj *corev1.Pod
	}{
		"create": {w, nil, usualPod()},
		"label":  {Write{Kind: kinds.Pod, Manager: "kubectl-label", Now: w.Now}, created, labelled},
		"same":   {w, created, created.DeepCopy()},
		"status": {Write{Kind: kinds.Pod, Sub: "status", Manager: "kubelet", Now: w.Now}, created, running},
	} {
		for _, direct := range []bool{true, false} {
			b.Run(fmt.Sprintf("%s/direct=%v", name, direct), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					obj := *bc.obj
					obj.ManagedFields = nil
					var live kinds.Object
					if bc.live != nil {
						live = bc.live
					}
					var err error
					if direct {
						var base []metav1.ManagedFieldsEntry
						if bc.live != nil {
							base = bc.live.ManagedFields
						}
						_, err = f.update(bc.w, live, &obj, base)
					} else {
						err = f.updateByLibrary(b.Context(), bc.w, live, &obj)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
