package validate

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"

	"knarr.dev/knarr/internal/kinds/qos"
)

// PodResizeUpdate judges changed cpu and memory of containers and of the whole
// pod: nothing else may change, nothing may be taken away, and the class of
// service stays.
func PodResizeUpdate(pod, old *corev1.Pod) field.ErrorList {
	s := podRules(pod, metaUpdate(&pod.ObjectMeta, &old.ObjectMeta), false)
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "windows pods cannot be resized")}
	}
	class := old.Status.QOSClass
	if class == "" {
		class = qos.Of(old)
	}
	if class != qos.Of(pod) {
		s.invalid(specPath, pod.Status.QOSClass, "Pod QOS Class may not change as a result of resizing")
	}
	if !nodeResizes(old) {
		s.forbid(specPath, "Pod running on node without support for resize")
	}
	rest := pod.Spec.DeepCopy()
	if resourcehelper.IsPodLevelResourcesSet(old) || resourcehelper.IsPodLevelResourcesSet(pod) {
		s.wholeResize(rest, &old.Spec)
	}
	if !s.sameContainers("containers", pod.Spec.Containers, old.Spec.Containers) || !s.sameContainers("initContainers", pod.Spec.InitContainers, old.Spec.InitContainers) {
		return s.list
	}
	s.nothingTaken("initContainers", pod.Spec.InitContainers, old.Spec.InitContainers)
	s.nothingTaken("containers", pod.Spec.Containers, old.Spec.Containers)
	for i := range rest.Containers {
		if rest.Containers[i] = resizable(&rest.Containers[i], &old.Spec.Containers[i]); !same(rest.Containers[i], old.Spec.Containers[i]) {
			s.forbid(specPath, "only cpu and memory resources are mutable")
		}
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i] = s.initResize(specPath.Child("initContainers").Index(i), &rest.InitContainers[i], &old.Spec.InitContainers[i])
	}
	if !same(pod.Spec.Volumes, old.Spec.Volumes) {
		s.forbid(specPath.Child("volumes"), "volumes are immutable on resize when InPlacePodVerticalScalingMemoryBackedVolumes feature gate is disabled")
	}
	if len(s.list) == 0 && !same(*rest, old.Spec) {
		s.forbid(specPath, "only cpu and memory resources are mutable")
	}
	return s.list
}

// nodeResizes: a kubelet that resizes reports the resources of what runs.
func nodeResizes(pod *corev1.Pod) bool {
	i := slices.IndexFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.State.Running != nil })
	return i < 0 || pod.Status.ContainerStatuses[i].Resources != nil
}

func (s *podScope) sameContainers(name string, list, old []corev1.Container) bool {
	before := len(s.list)
	if len(list) != len(old) {
		s.forbid(specPath.Child(name), name+" may not be added or removed on resize")
		return false
	}
	for i := range list {
		if list[i].Name != old[i].Name {
			s.forbid(specPath.Child(name).Index(i).Child("name"), name+" may not be renamed or reordered on resize")
		}
	}
	return len(s.list) == before
}

func (s *podScope) nothingTaken(name string, list, old []corev1.Container) {
	for i := range list {
		p := specPath.Child(name).Index(i).Child("resources")
		if lacks(list[i].Resources.Requests, old[i].Resources.Requests) {
			s.forbid(p.Child("requests"), "resource requests cannot be removed")
		}
		if lacks(list[i].Resources.Limits, old[i].Resources.Limits) {
			s.forbid(p.Child("limits"), "resource limits cannot be removed")
		}
	}
}

func lacks(list, old corev1.ResourceList) bool {
	for name := range old {
		if _, ok := list[name]; !ok {
			return true
		}
	}
	return false
}

// initResize judges one init container and returns it with cpu and memory as
// they were.
func (s *podScope) initResize(p *field.Path, c, old *corev1.Container) corev1.Container {
	out := resizable(c, old)
	if !same(out, *old) {
		s.forbid(p, "only cpu and memory resources for init or sidecar containers are mutable")
	}
	stays := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	if stays || same(*c, *old) {
		return out
	}
	for _, r := range c.ResizePolicy {
		if r.RestartPolicy == corev1.RestartContainer {
			s.forbid(p, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized")
		}
	}
	return out
}

// resizable is c with what a resize may change as it was in old.
func resizable(c, old *corev1.Container) corev1.Container {
	out := *c
	out.Resources.Limits = asBefore(c.Resources.Limits, old.Resources.Limits)
	out.Resources.Requests = asBefore(c.Resources.Requests, old.Resources.Requests)
	return out
}

func asBefore(list, old corev1.ResourceList) corev1.ResourceList {
	if list == nil && old == nil {
		return nil
	}
	out := list.DeepCopy()
	if out == nil {
		out = corev1.ResourceList{}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		delete(out, name)
		if q, ok := old[name]; ok {
			out[name] = q
		}
	}
	return out
}

// wholeResize judges the resources of the whole pod and sets rest's back.
func (s *podScope) wholeResize(rest, old *corev1.PodSpec) {
	p := specPath.Child("resources")
	if old.Resources != nil && rest.Resources == nil {
		s.forbid(p, "pod-level resources cannot be removed")
		return
	}
	if old.Resources != nil {
		if lacks(rest.Resources.Requests, old.Resources.Requests) {
			s.forbid(p.Child("requests"), "pod-level resource requests cannot be removed")
		}
		if lacks(rest.Resources.Limits, old.Resources.Limits) {
			s.forbid(p.Child("limits"), "pod-level resource limits cannot be removed")
		}
	}
	was := old.Resources
	if was == nil {
		was = &corev1.ResourceRequirements{}
	}
	r := rest.Resources
	r.Requests, r.Limits = asBefore(r.Requests, was.Requests), asBefore(r.Limits, was.Limits)
	if old.Resources == nil && len(r.Requests)+len(r.Limits)+len(r.Claims) == 0 {
		rest.Resources = nil
	}
	if !same(rest.Resources, old.Resources) {
		s.forbid(specPath, "only cpu and memory resources are mutable at pod-level")
	}
}

// podResources judges what the whole pod asks for and may use: no less than
// its containers ask for, and no container may use more than the pod.
func (s *podScope) podResources(p *field.Path) {
	r := s.spec.Resources
	if r == nil {
		return
	}
	if s.spec.OS != nil && s.spec.OS.Name == corev1.Windows {
		s.forbid(p, "may not be set for a windows pod")
		return
	}
	if r.Claims != nil {
		s.forbid(p.Child("claims"), "claims may not be set for Resources at pod-level")
	}
	s.resources(p, r, s.podResource)
	pod := &corev1.Pod{Spec: *s.spec}
	for name, sum := range resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{}) {
		if q, ok := r.Requests[name]; ok && sum.Cmp(q) > 0 {
			s.invalid(p.Child("requests").Key(string(name)), q.String(), fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", sum.String()))
		}
	}
	for name, sum := range resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{}) {
		if q, ok := r.Limits[name]; ok && hugePages(name) && sum.Cmp(q) > 0 {
			s.invalid(p.Child("limits").Key(string(name)), q.String(), fmt.Sprintf("must be greater than or equal to aggregate container limits of %s", sum.String()))
		}
	}
	for i := range s.spec.Containers {
		for name, limit := range s.spec.Containers[i].Resources.Limits {
			if q, ok := r.Limits[name]; ok && limit.Cmp(q) > 0 {
				s.invalid(p.Child("containers").Index(i).Key(string(name)).Child("limits"), limit.String(), fmt.Sprintf("must be less than or equal to pod limits of %s", q.String()))
			}
		}
	}
}

// podResource is one that a whole pod may ask for.
func (s *podScope) podResource(p *field.Path, name corev1.ResourceName) {
	before := len(s.list)
	s.resourceName(p, name)
	if len(s.list) == before && !resourcehelper.IsSupportedPodLevelResource(name) {
		names := resourcehelper.SupportedPodLevelResources().UnsortedList()
		slices.Sort(names)
		s.add(field.NotSupported(p, name, names))
	}
}
