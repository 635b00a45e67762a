package quota

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

// deviceResource is one of a class of devices: by the class, or as the
// extended resource that stands for it.
func (m Meter) deviceResource(name corev1.ResourceName) bool {
	s := string(name)
	if strings.HasSuffix(s, corev1.ResourceClaimsPerClass) {
		return true
	}
	if class, ok := strings.CutPrefix(s, corev1.ResourceImplicitExtendedClaimsPerClass); ok && m.extendedOf(class) != "" {
		return true
	}
	return extended(name) && m.standsForClass(strings.TrimPrefix(s, requests))
}

// extendedOf is the extended resource by which a class can be asked for too.
func (m Meter) extendedOf(class string) string {
	for _, c := range m.Around.DeviceClasses() {
		if c.Name == class && c.Spec.ExtendedResourceName != nil {
			return *c.Spec.ExtendedResourceName
		}
	}
	return ""
}

func (m Meter) standsForClass(name string) bool {
	for _, c := range m.Around.DeviceClasses() {
		if name == resourcev1.ResourceDeviceClassPrefix+c.Name || c.Spec.ExtendedResourceName != nil && name == *c.Spec.ExtendedResourceName {
			return true
		}
	}
	return false
}

// deviceClaim counts the devices that might be allocated, in the worst case.
func (m Meter) deviceClaim(c *resourcev1.ResourceClaim) corev1.ResourceList {
	out := corev1.ResourceList{countName(kinds.ResourceClaim): count(1)}
	for _, r := range c.Spec.Devices.Requests {
		if r.Exactly != nil && len(r.FirstAvailable) == 0 {
			add(out, corev1.ResourceList{corev1.ResourceName(r.Exactly.DeviceClassName + corev1.ResourceClaimsPerClass): count(devices(r.Exactly.AllocationMode, r.Exactly.Count))})
		}
		most := map[string]int{}
		for _, s := range r.FirstAvailable {
			most[s.DeviceClassName] = max(most[s.DeviceClassName], devices(s.AllocationMode, s.Count))
		}
		for class, n := range most {
			if n > 0 {
				add(out, corev1.ResourceList{corev1.ResourceName(class + corev1.ResourceClaimsPerClass): count(n)})
			}
		}
	}
	m.asExtended(c, out)
	return out
}

func devices(mode resourcev1.DeviceAllocationMode, n int64) int {
	switch mode {
	case resourcev1.DeviceAllocationModeExactCount:
		return int(n)
	case resourcev1.DeviceAllocationModeAll:
		return resourcev1.AllocationResultsMaxSize
	}
	return 0
}

// asExtended adds the same devices under the names of the extended resources,
// but for what the pod has been charged for by these names already.
func (m Meter) asExtended(c *resourcev1.ResourceClaim, out corev1.ResourceList) {
	extra := corev1.ResourceList{}
	for name, q := range out {
		class, ok := strings.CutSuffix(string(name), corev1.ResourceClaimsPerClass)
		if !ok || class == "" {
			continue
		}
		extra[corev1.ResourceName(corev1.ResourceImplicitExtendedClaimsPerClass+class)] = q
		if e := m.extendedOf(class); e != "" {
			extra[corev1.ResourceName(requests+e)] = q
		}
	}
	if len(extra) > 0 {
		add(out, more(extra, m.charged(c)))
	}
}

// charged is the usage of the pod for whose extended resources the claim was
// made: only if they know each other, and for one claim only, so that nobody
// makes claims for free. The pod's status may still name one that is gone, which
// was made in vain.
func (m Meter) charged(c *resourcev1.ResourceClaim) corev1.ResourceList {
	ref := metav1.GetControllerOfNoCopy(c)
	if c.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" || ref == nil || ref.Kind != "Pod" || ref.APIVersion != "v1" {
		return nil
	}
	pod := m.Around.Pod(c.Namespace, ref.Name)
	if pod == nil || pod.UID != ref.UID {
		return nil
	}
	others := m.Around.ClaimsOf(c.Namespace, pod.UID)
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		if s.ResourceClaimName == c.Name {
			return m.pod(pod)
		}
		if slices.ContainsFunc(others, func(other *resourcev1.ResourceClaim) bool { return other.Name == s.ResourceClaimName }) {
			return nil
		}
	}
	for _, other := range others {
		if other.Annotations[resourcev1.ExtendedResourceClaimAnnotation] == "true" &&
			cmp.Or(other.CreationTimestamp.Compare(c.CreationTimestamp.Time), cmp.Compare(other.Name, c.Name)) < 0 {
			return nil
		}
	}
	return m.pod(pod)
}
