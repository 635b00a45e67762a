package prepare

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// podResources completes the resources of a whole pod, if it has any, out of
// its containers'.
func podResources(spec *corev1.PodSpec) {
	r := spec.Resources
	if r == nil || len(r.Requests)+len(r.Limits) == 0 {
		return
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: spec.Containers, InitContainers: spec.InitContainers}}
	limits := resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{})
	put := func(list *corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
		if _, has := (*list)[name]; has {
			return
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = q.DeepCopy()
	}
	for name, q := range limits { // huge pages cannot be overcommitted
		if _, asked := r.Requests[name]; huge(name) && !asked {
			put(&r.Limits, name, q)
		}
	}
	for name, q := range resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{}) {
		if resourcehelper.IsSupportedPodLevelResource(name) && !huge(name) {
			put(&r.Requests, name, q)
		}
	}
	for name, q := range r.Limits {
		if resourcehelper.IsSupportedPodLevelResource(name) {
			put(&r.Requests, name, q)
		}
	}
	for name, asked := range r.Requests {
		q, ok := limits[name]
		if !ok || !resourcehelper.IsSupportedPodLevelResource(name) || !allLimited(spec, name) {
			continue
		}
		if asked.Cmp(q) > 0 {
			q = asked
		}
		put(&r.Limits, name, q)
	}
}

func huge(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// allLimited reports whether every container of every sort has that limit.
func allLimited(spec *corev1.PodSpec, name corev1.ResourceName) bool {
	if len(spec.EphemeralContainers) > 0 { // they have none
		return false
	}
	for _, list := range [...][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			if _, ok := list[i].Resources.Limits[name]; !ok {
				return false
			}
		}
	}
	return true
}
