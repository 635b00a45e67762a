package qos

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func list(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func box(requests, limits corev1.ResourceList) corev1.Container {
	return corev1.Container{Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}
}

func TestOf(t *testing.T) {
	full := box(list("1", "1Gi"), list("1", "1Gi"))
	gpu := corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}
	for name, tc := range map[string]struct {
		containers, init []corev1.Container
		pod              *corev1.ResourceRequirements
		want             corev1.PodQOSClass
	}{
		"nothing asked":            {containers: []corev1.Container{box(nil, nil)}, want: corev1.PodQOSBestEffort},
		"zero is nothing":          {containers: []corev1.Container{box(list("0", ""), nil)}, want: corev1.PodQOSBestEffort},
		"devices do not count":     {containers: []corev1.Container{box(gpu, gpu)}, want: corev1.PodQOSBestEffort},
		"guaranteed":               {containers: []corev1.Container{full, full}, want: corev1.PodQOSGuaranteed},
		"same value, other form":   {containers: []corev1.Container{box(list("1000m", "1024Mi"), list("1", "1Gi"))}, want: corev1.PodQOSGuaranteed},
		"one container without":    {containers: []corev1.Container{full, box(nil, nil)}, want: corev1.PodQOSBurstable},
		"init container without":   {containers: []corev1.Container{full}, init: []corev1.Container{box(nil, nil)}, want: corev1.PodQOSBurstable},
		"init container with":      {containers: []corev1.Container{full}, init: []corev1.Container{full}, want: corev1.PodQOSGuaranteed},
		"only cpu":                 {containers: []corev1.Container{box(list("1", ""), list("1", ""))}, want: corev1.PodQOSBurstable},
		"requests below limits":    {containers: []corev1.Container{box(list("1", "1Gi"), list("2", "1Gi"))}, want: corev1.PodQOSBurstable},
		"requests only":            {containers: []corev1.Container{box(list("1", "1Gi"), nil)}, want: corev1.PodQOSBurstable},
		"pod level guaranteed":     {containers: []corev1.Container{box(nil, nil)}, pod: &corev1.ResourceRequirements{Requests: list("1", "1Gi"), Limits: list("1", "1Gi")}, want: corev1.PodQOSGuaranteed},
		"pod level burstable":      {containers: []corev1.Container{full}, pod: &corev1.ResourceRequirements{Requests: list("1", "")}, want: corev1.PodQOSBurstable},
		"empty pod level is unset": {containers: []corev1.Container{full}, pod: &corev1.ResourceRequirements{}, want: corev1.PodQOSGuaranteed},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: tc.containers, InitContainers: tc.init, Resources: tc.pod}}
			before := pod.DeepCopy()
			if got := Of(pod); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
			if before.String() != pod.String() {
				t.Error("the pod was changed")
			}
		})
	}
}
