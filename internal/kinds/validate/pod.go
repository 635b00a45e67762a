package validate

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/internal/kinds/equal"
)

// updatablePodFields are all that may change in a pod once it is there.
const updatablePodFields = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// Pod judges a new pod.
func Pod(pod *corev1.Pod) field.ErrorList {
	s := podRules(pod, meta(&pod.ObjectMeta, true, subdomain), false)
	if len(pod.Spec.EphemeralContainers) > 0 {
		s.forbid(specPath.Child("ephemeralContainers"), "cannot be set on create")
	}
	if pod.Spec.NodeName != "" && len(pod.Spec.SchedulingGates) > 0 {
		s.forbid(specPath.Child("nodeName"), "cannot be set until all schedulingGates have been cleared")
	}
	s.sameAppArmor(specPath, pod.Annotations)
	return s.list
}

// podRules are the rules of every write to a pod's spec. What stands has been
// judged when it was written.
func podRules(pod *corev1.Pod, e *errors, stands bool) *podScope {
	s := &podScope{errors: e, spec: &pod.Spec, isPod: true, podName: pod.Name}
	s.podAnnotations(metaPath.Child("annotations"), &pod.ObjectMeta)
	if !stands {
		s.podSpec(specPath)
	}
	return s
}

// PodUpdate judges a changed pod: little may change.
func PodUpdate(pod, old *corev1.Pod) field.ErrorList {
	stands := equal.Messages(&pod.Spec, &old.Spec)
	s := podRules(pod, metaUpdate(&pod.ObjectMeta, &old.ObjectMeta), stands)
	s.annotationUpdate(pod, old)
	if stands {
		return s.list
	}
	counts := func(name string, list, was []corev1.Container) bool {
		if len(list) != len(was) {
			s.forbid(specPath.Child(name), "pod updates may not add or remove containers")
		}
		return len(list) == len(was)
	}
	if !counts("containers", pod.Spec.Containers, old.Spec.Containers) || !counts("initContainers", pod.Spec.InitContainers, old.Spec.InitContainers) {
		return s.list
	}
	if !s.deadlineUpdate(pod.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds) {
		return s.list
	}
	s.onlyAddedTolerations(specPath.Child("tolerations"), pod.Spec.Tolerations, old.Spec.Tolerations)
	s.onlyRemovedGates(specPath.Child("schedulingGates"), pod.Spec.SchedulingGates, old.Spec.SchedulingGates)
	rest := s.withoutUpdatable(pod, old)
	if !same(*rest, old.Spec) {
		s.forbid(specPath, "pod updates may not change fields other than "+updatablePodFields+"\n"+difference("spec", *rest, old.Spec))
	}
	return s.list
}

// deadlineUpdate: a deadline may be set and brought forward.
func (s *podScope) deadlineUpdate(d, old *int64) bool {
	p := specPath.Child("activeDeadlineSeconds")
	switch {
	case d == nil && old != nil:
		s.invalid(p, d, "must not update from a positive integer to nil value")
	case d != nil && (*d < 0 || *d > math.MaxInt32):
		s.invalid(p, *d, validation.InclusiveRangeError(0, math.MaxInt32))
		return false
	case d != nil && old != nil && *old < *d:
		s.invalid(p, *d, "must be less than or equal to previous value")
		return false
	}
	return true
}

// withoutUpdatable is the new spec with everything that may change as it was.
func (s *podScope) withoutUpdatable(pod, old *corev1.Pod) *corev1.PodSpec {
	rest := pod.Spec.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	rest.SchedulingGates = old.Spec.SchedulingGates
	rest.Tolerations = old.Spec.Tolerations
	if was, is := old.Spec.TerminationGracePeriodSeconds, rest.TerminationGracePeriodSeconds; was != nil && *was < 0 && is != nil && *is == 1 {
		rest.TerminationGracePeriodSeconds = was
	}
	if len(old.Spec.SchedulingGates) > 0 {
		s.gatedUpdate(rest, &old.Spec)
	}
	return rest
}

// gatedUpdate: where a gated pod may run can still be narrowed.
func (s *podScope) gatedUpdate(rest, old *corev1.PodSpec) {
	for k, v := range old.NodeSelector {
		if rest.NodeSelector[k] != v {
			s.invalid(specPath.Child("nodeSelector"), rest.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)")
			break
		}
	}
	rest.NodeSelector = old.NodeSelector
	var was, is *corev1.NodeAffinity
	if old.Affinity != nil {
		was = old.Affinity.NodeAffinity
	}
	if rest.Affinity != nil {
		is = rest.Affinity.NodeAffinity
	}
	if same(was, is) {
		return
	}
	s.affinityNarrowed(specPath.Child("affinity", "nodeAffinity"), is, was)
	if rest.Affinity == nil {
		rest.Affinity = &corev1.Affinity{}
	}
	rest.Affinity.NodeAffinity = was
	if old.Affinity == nil && rest.Affinity.PodAffinity == nil && rest.Affinity.PodAntiAffinity == nil {
		rest.Affinity = nil
	}
}

func (s *podScope) affinityNarrowed(p *field.Path, is, was *corev1.NodeAffinity) {
	if was == nil || was.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return
	}
	before := was.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	var after []corev1.NodeSelectorTerm
	if is != nil && is.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		after = is.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	at := p.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	if len(before) > 0 && len(before) != len(after) {
		s.invalid(at, len(after), "no additions/deletions to non-empty NodeSelectorTerms list are allowed")
		return
	}
	for i := range before {
		none := len(before[i].MatchExpressions) == 0 && len(before[i].MatchFields) == 0
		grown := len(after[i].MatchExpressions) > 0 || len(after[i].MatchFields) > 0
		if none && grown || !begins(after[i].MatchExpressions, before[i].MatchExpressions) || !begins(after[i].MatchFields, before[i].MatchFields) {
			s.invalid(at.Index(i), after[i].String(), "only additions are allowed (no mutations or deletions)")
		}
	}
}

// begins tells whether list starts with all of some.
func begins(list, some []corev1.NodeSelectorRequirement) bool {
	return len(list) >= len(some) && same(list[:len(some)], some)
}

// annotationUpdate: what makes a pod a mirror, or sets its profile, is fixed.
func (s *podScope) annotationUpdate(pod, old *corev1.Pod) {
	p := metaPath.Child("annotations")
	profile := func(key string) bool {
		return strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
	}
	for key, was := range old.Annotations {
		is, ok := pod.Annotations[key]
		if ok && is == was {
			continue
		}
		if profile(key) {
			s.forbid(p.Key(key), "may not remove or update AppArmor annotations")
		}
		if key == corev1.MirrorPodAnnotationKey {
			s.forbid(p.Key(key), "may not remove or update mirror pod annotation")
		}
	}
	for key := range pod.Annotations {
		if _, ok := old.Annotations[key]; ok {
			continue
		}
		if profile(key) {
			s.forbid(p.Key(key), "may not add AppArmor annotations")
		}
		if key == corev1.MirrorPodAnnotationKey {
			s.forbid(p.Key(key), "may not add mirror pod annotation")
		}
	}
}

// PodEphemeralUpdate judges added debug containers; those that are there stay
// as they are.
func PodEphemeralUpdate(pod, old *corev1.Pod) field.ErrorList {
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	s := podRules(pod, metaUpdate(&pod.ObjectMeta, &old.ObjectMeta), false)
	p := specPath.Child("ephemeralContainers")
	byName := make(map[string]*corev1.EphemeralContainer, len(pod.Spec.EphemeralContainers))
	for i := range pod.Spec.EphemeralContainers {
		byName[pod.Spec.EphemeralContainers[i].Name] = &pod.Spec.EphemeralContainers[i]
	}
	for i := range old.Spec.EphemeralContainers {
		was := &old.Spec.EphemeralContainers[i]
		switch is := byName[was.Name]; {
		case is == nil:
			s.forbid(p, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name))
		case !same(*is, *was):
			s.forbid(p, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", was.Name, difference(was.Name, *is, *was)))
		}
	}
	return s.list
}

// PodTemplate judges a stored template.
func PodTemplate(t *corev1.PodTemplate) field.ErrorList {
	e := meta(&t.ObjectMeta, true, subdomain)
	e.template(field.NewPath("template"), &t.Template)
	return e.list
}

// PodTemplateUpdate judges a changed one.
func PodTemplateUpdate(t, old *corev1.PodTemplate) field.ErrorList {
	e := metaUpdate(&t.ObjectMeta, &old.ObjectMeta)
	e.template(field.NewPath("template"), &t.Template)
	return e.list
}

// template judges what pods are made of.
func (e *errors) template(p *field.Path, t *corev1.PodTemplateSpec) {
	e.templateMeta(p, &t.ObjectMeta)
	s := &podScope{errors: e, spec: &t.Spec}
	s.podAnnotations(p.Child("annotations"), &t.ObjectMeta)
	s.podSpec(p.Child("spec"))
	s.sameAppArmor(p.Child("spec"), t.Annotations)
	if len(t.Spec.EphemeralContainers) > 0 {
		e.forbid(p.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template")
	}
}

func (e *errors) templateMeta(p *field.Path, o *metav1.ObjectMeta) {
	e.labels(p.Child("labels"), o.Labels)
	e.annotations(p.Child("annotations"), o.Annotations)
	e.all(metavalidation.ValidateManagedFields(o.ManagedFields, p.Child("managedFields")))
}
