package admission

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/kinds"
)

func TestRuntimeClass(t *testing.T) {
	cost := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("120Mi")}
	place := &nodev1.Scheduling{NodeSelector: map[string]string{"sandbox": "yes"}, Tolerations: []corev1.Toleration{{Key: "sandbox", Operator: corev1.TolerationOpExists}}}
	w := newWorld(t, &corev1.Namespace{ObjectMeta: meta("", "default")}, &corev1.ServiceAccount{ObjectMeta: meta("default", "default")},
		&nodev1.RuntimeClass{ObjectMeta: meta("", "dear"), Handler: "kata", Overhead: &nodev1.Overhead{PodFixed: cost}, Scheduling: place},
		&nodev1.RuntimeClass{ObjectMeta: meta("", "plain"), Handler: "runc"})
	of := func(class string, change func(*corev1.PodSpec)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: meta("default", "p")}
		if class != "" {
			p.Spec.RuntimeClassName = &class
		}
		if change != nil {
			change(&p.Spec)
		}
		return p
	}
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		code int32
		part string
	}{
		{"none", of("", nil), 0, ""},
		{"plain", of("plain", nil), 0, ""},
		{"dear", of("dear", nil), 0, ""},
		{"the same cost", of("dear", func(s *corev1.PodSpec) { s.Overhead = cost.DeepCopy() }), 0, ""},
		{"absent", of("absent", nil), 403, `pods "p" is forbidden: pod rejected: RuntimeClass "absent" not found`},
		{"another cost", of("dear", func(s *corev1.PodSpec) {
			s.Overhead = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
		}), 403, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"},
		{"a cost of nothing", of("plain", func(s *corev1.PodSpec) { s.Overhead = cost.DeepCopy() }), 403, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"},
		{"elsewhere", of("dear", func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"sandbox": "no"} }), 403, "conflict: runtimeClass.scheduling.nodeSelector[sandbox] = yes; pod.spec.nodeSelector[sandbox] = no"},
	} {
		t.Run(c.name, func(t *testing.T) { want(t, w.admit(create(kinds.Pod, c.pod)), c.code, c.part) })
	}
	p := of("dear", func(s *corev1.PodSpec) {
		s.NodeSelector, s.Tolerations = map[string]string{"disk": "ssd"}, []corev1.Toleration{{Key: "sandbox", Operator: corev1.TolerationOpEqual, Value: "a"}}
	})
	want(t, w.admit(create(kinds.Pod, p)), 0, "")
	if p.Spec.Overhead.Cpu().String() != "250m" || !reflect.DeepEqual(p.Spec.NodeSelector, map[string]string{"disk": "ssd", "sandbox": "yes"}) || !reflect.DeepEqual(p.Spec.Tolerations[len(p.Spec.Tolerations)-1], place.Tolerations[0]) || len(p.Spec.Tolerations) != 3 {
		t.Errorf("%+v", p.Spec)
	}
	p.Spec.Overhead[corev1.ResourceCPU] = resource.MustParse("9")
	if cost.Cpu().String() != "250m" {
		t.Error("the class is shared with the pod")
	}
}

func TestMergeTolerations(t *testing.T) {
	all := corev1.Toleration{Operator: corev1.TolerationOpExists}
	a := corev1.Toleration{Key: "a", Operator: corev1.TolerationOpEqual, Value: "1"}
	long := corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](9)}
	short := long
	short.TolerationSeconds = ptr.To[int64](1)
	for name, c := range map[string]struct{ in, want []corev1.Toleration }{
		"nothing":   {nil, nil},
		"equal":     {[]corev1.Toleration{a, a}, []corev1.Toleration{a}},
		"covered":   {[]corev1.Toleration{a, all, long}, []corev1.Toleration{all}},
		"longer":    {[]corev1.Toleration{short, long}, []corev1.Toleration{long}},
		"different": {[]corev1.Toleration{a, long}, []corev1.Toleration{a, long}},
	} {
		if got := mergeTolerations(c.in); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
