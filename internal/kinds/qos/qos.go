// Package qos decides a pod's quality of service class. The API server writes
// it into the status, the kubelet makes cgroups and OOM scores of it.
package qos

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// counted are the resources that decide; all others never change the class.
var counted = [...]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}

// Of returns the class of a pod whose defaults are filled in. Ephemeral
// containers do not count: they come after the class is fixed.
func Of(pod *corev1.Pod) corev1.PodQOSClass {
	if r := pod.Spec.Resources; r != nil && (len(r.Limits) > 0 || len(r.Requests) > 0) {
		return class(sums(r.Requests), sums(r.Limits), true)
	}
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	everyLimit := true
	for _, list := range [...][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			r := &list[i].Resources
			for _, name := range counted {
				add(requests, r.Requests, name)
				if !add(limits, r.Limits, name) {
					everyLimit = false
				}
			}
		}
	}
	return class(requests, limits, everyLimit)
}

// class is Guaranteed when every container has both limits and all requests
// equal them, BestEffort when nobody asks for anything.
func class(requests, limits corev1.ResourceList, everyLimit bool) corev1.PodQOSClass {
	if len(requests) == 0 && len(limits) == 0 {
		return corev1.PodQOSBestEffort
	}
	if everyLimit && len(limits) == len(counted) && len(requests) == len(limits) {
		same := true
		for name, want := range limits {
			got := requests[name]
			same = same && got.Cmp(want) == 0
		}
		if same {
			return corev1.PodQOSGuaranteed
		}
	}
	return corev1.PodQOSBurstable
}

// sums keeps only what counts.
func sums(list corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, name := range counted {
		add(out, list, name)
	}
	return out
}

// add sums a positive quantity into total and reports whether there was one.
func add(total, from corev1.ResourceList, name corev1.ResourceName) bool {
	q, ok := from[name]
	if !ok || q.Cmp(resource.Quantity{}) <= 0 {
		return false
	}
	if have, ok := total[name]; ok {
		q = q.DeepCopy()
		q.Add(have)
	}
	total[name] = q
	return true
}
