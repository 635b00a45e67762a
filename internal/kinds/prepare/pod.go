package prepare

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds/qos"
)

// PodCreate starts a pod as pending, of its class of service.
func PodCreate(pod *corev1.Pod) {
	fresh(pod, true)
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

// PodUpdate keeps the status and counts changes of the spec.
func PodUpdate(pod, old *corev1.Pod) {
	Keep(pod, old)
	pod.Status = old.Status
	changed := differ(pod.Spec, old.Spec)
	if !changed {
		pod.Spec = old.Spec // the same parts, which validation compares at no cost
	}
	bump(pod, old, changed)
}

// PodStatusUpdate keeps everything but the status. Owners are not the
// kubelet's to change, and the class of service never changes.
func PodStatusUpdate(pod, old *corev1.Pod) {
	Keep(pod, old)
	pod.Spec = old.Spec
	pod.OwnerReferences = old.OwnerReferences
	pod.Status.QOSClass = old.Status.QOSClass
}

// PodEphemeralUpdate takes nothing but the ephemeral containers.
func PodEphemeralUpdate(pod, old *corev1.Pod) {
	containers := pod.Spec.EphemeralContainers
	revert(pod, old)
	pod.Spec.EphemeralContainers = containers
	bump(pod, old, differ(pod.Spec, old.Spec))
}

// PodResizeUpdate takes nothing but the containers' resources and what is to
// happen when they change.
func PodResizeUpdate(pod, old *corev1.Pod) {
	wanted := pod.DeepCopy()
	revert(pod, old)
	for _, lists := range [...][2][]corev1.Container{
		{wanted.Spec.Containers, pod.Spec.Containers},
		{wanted.Spec.InitContainers, pod.Spec.InitContainers},
	} {
		want, have := lists[0], lists[1]
		for i := range min(len(want), len(have)) {
			if want[i].Name == have[i].Name {
				have[i].Resources, have[i].ResizePolicy = want[i].Resources, want[i].ResizePolicy
			}
		}
	}
	pod.Spec.Resources = wanted.Spec.Resources
	bump(pod, old, differ(pod.Spec, old.Spec))
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
