package prepare

import (
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds/equal"
	"knarr.dev/knarr/internal/kinds/qos"
)

// PodCreate starts a pod as pending, of the class of service that follows from
// its resources.
func PodCreate(pod *corev1.Pod) {
	fresh(pod, true)
	podResources(&pod.Spec)
	oldAppArmor(pod)
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: qos.Of(pod)}
	if len(pod.Spec.SchedulingGates) > 0 {
		pod.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message:            "Scheduling is blocked due to non-empty scheduling gates",
			ObservedGeneration: pod.Generation,
		}}
	}
	mergeLabelKeys(pod)
}

// oldAppArmor: what an annotation says of a container's profile, as before 1.30, a
// field says from here on, unless it did already.
func oldAppArmor(pod *corev1.Pod) {
	if len(pod.Annotations) == 0 {
		return
	}
	var all *corev1.AppArmorProfile
	if sc := pod.Spec.SecurityContext; sc != nil {
		all = sc.AppArmorProfile
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			p := appArmorOf(pod.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name])
			if p == nil || reflect.DeepEqual(p, all) || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
				continue
			}
			if c.SecurityContext == nil {
				c.SecurityContext = &corev1.SecurityContext{}
			}
			c.SecurityContext.AppArmorProfile = p
		}
	}
}

// maxProfileName is the longest that validation takes.
const maxProfileName = 4095

// appArmorOf is the profile that an annotation names; nil is none that can be.
func appArmorOf(annotation string) *corev1.AppArmorProfile {
	name, local := strings.CutPrefix(annotation, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
	switch {
	case annotation == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	case annotation == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case local && name != "" && name == strings.TrimSpace(name) && len(name) <= maxProfileName:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	}
	return nil
}

// PodUpdate keeps the status and counts changes of the spec.
func PodUpdate(pod, old *corev1.Pod) {
	Keep(pod, old)
	pod.Status = old.Status
	if pod.Spec.Resources == nil { // left out by a client that does not know them
		pod.Spec.Resources = old.Spec.Resources
	}
	changed := !equal.Messages(&pod.Spec, &old.Spec)
	if !changed {
		pod.Spec = old.Spec // the same parts, which validation compares at no cost
	}
	bump(pod, old, changed)
}

// PodStatusUpdate keeps everything but the status. Owners are not the
// kubelet's to change. What a client leaves out that does not know it stays:
// the class of service, the generations, the claims.
func PodStatusUpdate(pod, old *corev1.Pod) {
	Keep(pod, old)
	pod.Spec = old.Spec
	pod.OwnerReferences = old.OwnerReferences
	st, was := &pod.Status, &old.Status
	or(&st.QOSClass, was.QOSClass)
	or(&st.ObservedGeneration, was.ObservedGeneration)
	if st.ResourceClaimStatuses == nil {
		st.ResourceClaimStatuses = was.ResourceClaimStatuses
	}
	if st.ExtendedResourceClaimStatus == nil {
		st.ExtendedResourceClaimStatus = was.ExtendedResourceClaimStatus
	}
	if st.NodeAllocatableResourceClaimStatuses == nil {
		st.NodeAllocatableResourceClaimStatuses = was.NodeAllocatableResourceClaimStatuses
	}
	// A type may be there several times: the first of them is the first's.
	generations := map[corev1.PodConditionType][]int64{}
	for i := range was.Conditions {
		c := &was.Conditions[i]
		generations[c.Type] = append(generations[c.Type], c.ObservedGeneration)
	}
	for i := range st.Conditions {
		c := &st.Conditions[i]
		if g := generations[c.Type]; len(g) > 0 {
			or(&c.ObservedGeneration, g[0])
			generations[c.Type] = g[1:]
		}
	}
}

func or[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// PodEphemeralUpdate takes nothing but the ephemeral containers.
func PodEphemeralUpdate(pod, old *corev1.Pod) {
	containers := pod.Spec.EphemeralContainers
	revert(pod, old)
	pod.Spec.EphemeralContainers = containers
	bump(pod, old, differ(pod.Spec, old.Spec))
}

// PodResizeUpdate takes nothing but resources and what is to happen when they
// change. Containers that were added, removed, renamed or moved are left for
// validation to refuse.
func PodResizeUpdate(pod, old *corev1.Pod) {
	if !sameNames(pod.Spec.Containers, old.Spec.Containers) || !sameNames(pod.Spec.InitContainers, old.Spec.InitContainers) {
		return
	}
	wanted := pod.DeepCopy()
	revert(pod, old)
	take := func(have, want []corev1.Container) {
		for i := range have {
			have[i].Resources, have[i].ResizePolicy = want[i].Resources, want[i].ResizePolicy
		}
	}
	take(pod.Spec.Containers, wanted.Spec.Containers)
	take(pod.Spec.InitContainers, wanted.Spec.InitContainers)
	// A client that does not know of resources of the whole pod leaves them out
	// and means no harm.
	if wanted.Spec.Resources != nil {
		pod.Spec.Resources = wanted.Spec.Resources
		podResources(&pod.Spec)
	}
	bump(pod, old, differ(pod.Spec, old.Spec))
}

func sameNames(a, b []corev1.Container) bool {
	return slices.EqualFunc(a, b, func(x, y corev1.Container) bool { return x.Name == y.Name })
}

// revert makes pod what old is, except for what the request identifies itself
// with.
func revert(pod, old *corev1.Pod) {
	asked := pod.ObjectMeta
	old.DeepCopyInto(pod)
	pod.Name, pod.Namespace, pod.UID = asked.Name, asked.Namespace, asked.UID
	pod.ResourceVersion, pod.ManagedFields = asked.ResourceVersion, asked.ManagedFields
	if pod.UID == "" {
		pod.UID = old.UID
	}
}

// mergeLabelKeys writes matchLabelKeys into the selectors that they extend, so
// that the scheduler only ever looks at selectors.
func mergeLabelKeys(pod *corev1.Pod) {
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		mergeKeys(c.LabelSelector, pod.Labels, c.MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
	a := pod.Spec.Affinity
	if a == nil {
		return
	}
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			mergeTerm(&required[i], pod.Labels)
		}
		for i := range preferred {
			mergeTerm(&preferred[i].PodAffinityTerm, pod.Labels)
		}
	}
	if p := a.PodAffinity; p != nil {
		terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func mergeTerm(t *corev1.PodAffinityTerm, labels map[string]string) {
	mergeKeys(t.LabelSelector, labels, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
	mergeKeys(t.LabelSelector, labels, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
}

// mergeKeys never adds a requirement that is there already: preparing may run
// more than once.
func mergeKeys(s *metav1.LabelSelector, labels map[string]string, keys []string, op metav1.LabelSelectorOperator) {
	if s == nil {
		return
	}
	for _, key := range keys {
		value, ok := labels[key]
		if !ok {
			continue
		}
		have := slices.ContainsFunc(s.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool {
			return r.Key == key && r.Operator == op && slices.Equal(r.Values, []string{value})
		})
		if !have {
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{value}})
		}
	}
}

// PodGrace is how long a pod may take to end: what the request or the pod
// says, but nothing when no kubelet has it or it has ended already.
func PodGrace(pod *corev1.Pod, o *metav1.DeleteOptions) int64 {
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return 0
	}
	var period int64
	if o != nil && o.GracePeriodSeconds != nil {
		period = *o.GracePeriodSeconds
	} else if p := pod.Spec.TerminationGracePeriodSeconds; p != nil {
		period = *p
	}
	if period < 0 {
		return 1 // what older clients mean by a negative number
	}
	return period
}
