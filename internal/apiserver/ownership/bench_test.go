package ownership

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

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

// BenchmarkApply: a manager applies again to a pod that a kubelet and others
// write to, too.
func BenchmarkApply(b *testing.B) {
	f := New(kinds.Builtin().All(), kinds.Builtin().ByGVK)
	now := time.Unix(1_700_000_000, 0)
	config := map[string]any{}
	text := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"default","labels":{"app":"web"}},"spec":{"volumes":[{"name":"v","emptyDir":{}}],"containers":[
		{"name":"c0","image":"registry.example.com/team/application:v1.2.3","args":["--port=8080"],"env":[{"name":"VARIABLE_0","value":"v"},{"name":"VARIABLE_1","value":"v"}],"volumeMounts":[{"name":"v","mountPath":"/data"}]},
		{"name":"c1","image":"registry.example.com/team/application:v1.2.3","args":["--port=8081"],"env":[{"name":"VARIABLE_0","value":"v"},{"name":"VARIABLE_1","value":"v"}],"volumeMounts":[{"name":"v","mountPath":"/data"}]}]}}`
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		b.Fatal(err)
	}
	apply := func(b *testing.B, live kinds.Object, change func(map[string]any)) kinds.Object {
		c := runtime.DeepCopyJSON(config)
		change(c)
		w := Write{Kind: kinds.Pod, Manager: "m", Now: now}
		out, err := f.Apply(b.Context(), w, live, &unstructured.Unstructured{Object: c}, false)
		if err != nil {
			b.Fatal(err)
		}
		return out
	}
	first := apply(b, nil, func(map[string]any) {})
	live := first.DeepCopyObject().(*corev1.Pod)
	live.ManagedFields = nil
	live.Status.Conditions = []corev1.PodCondition{{Type: "Ready", Status: "True"}, {Type: "Initialized", Status: "True"}}
	live.Annotations = map[string]string{"a": "b"}
	if err := f.Update(b.Context(), Write{Kind: kinds.Pod, Sub: "status", Manager: "kubelet", Now: now}, first, live); err != nil {
		b.Fatal(err)
	}
	labels := func(c map[string]any) map[string]any {
		return c["metadata"].(map[string]any)["labels"].(map[string]any)
	}
	for _, bc := range []struct {
		name   string
		live   kinds.Object
		change func(map[string]any)
	}{
		{"create", nil, func(map[string]any) {}},
		{"same", live, func(map[string]any) {}},
		{"value", live, func(c map[string]any) { labels(c)["app"] = "shop" }},
		{"fewer", live, func(c map[string]any) { delete(labels(c), "app"); labels(c)["x"] = "y" }},
	} {
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				apply(b, bc.live, bc.change)
			}
		})
	}
}
