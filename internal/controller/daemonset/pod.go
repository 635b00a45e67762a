package daemonset

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// generationLabel is on daemon pods since before there were revisions.
const generationLabel = "pod-template-generation"

// maxGenerateName leaves room for the suffix in a pod's name of 63 bytes, which
// is also its host name.
const maxGenerateName = 63 - 5

// create makes a pod for a node, under a name that no other pod of the set has.
func (p *pass) create(node string) {
	if len(p.creates) >= burst {
		return
	}
	t := &p.set.Spec.Template
	base := p.set.Name + "-"
	if len(base) > maxGenerateName {
		base = base[:maxGenerateName]
	}
	name := base + p.Suffix()
	for tries := 0; p.taken[name] && tries < 10; tries++ {
		name = base + p.Suffix()
	}
	p.taken[name] = true
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.set.Namespace, Name: name, GenerateName: base,
			Labels: maps.Clone(t.Labels), Annotations: maps.Clone(t.Annotations), Finalizers: slices.Clone(t.Finalizers),
			OwnerReferences: []metav1.OwnerReference{p.owner()},
		},
		Spec: *t.Spec.DeepCopy(),
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	if g := p.generation(); g != "" {
		pod.Labels[generationLabel] = g
	}
	pod.Labels[appsv1.ControllerRevisionHashLabelKey] = p.hash
	pod.Spec.Tolerations = slices.Clone(p.where.tolerations)
	pod.Spec.Affinity = bind(pod.Spec.Affinity, node)
	p.creates = append(p.creates, plan.Action{
		Verb: plan.Create, Ref: kinds.RefTo(kinds.Pod, pod), Object: pod, Parallel: true,
		Event:  p.event(corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: "+name),
		Failed: p.event(corev1.EventTypeWarning, "FailedCreate", "Error creating: "),
	})
}

// remove deletes a pod.
func (p *pass) remove(pod *corev1.Pod) {
	if len(p.deletes) >= burst {
		return
	}
	p.deletes = append(p.deletes, plan.Action{
		Verb: plan.Delete, Ref: kinds.RefTo(kinds.Pod, pod), UID: pod.UID, Parallel: true,
		Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
		Event:    p.event(corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: "+pod.Name),
		Failed:   p.event(corev1.EventTypeWarning, "FailedDelete", "Error deleting: "),
	})
}

// generation of the template, as the set's annotation counts it; empty if that
// is no number.
func (p *pass) generation() string {
	g := p.set.Annotations[appsv1.DeprecatedTemplateGeneration]
	n, err := strconv.ParseInt(g, 10, 64)
	if err != nil {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// current pods have the hash of the present template.
func (p *pass) current(pod *corev1.Pod) bool {
	h := pod.Labels[appsv1.ControllerRevisionHashLabelKey]
	return h != "" && (h == p.hash || p.twins[h])
}

// updated pods are of the present template, by its hash or by its generation.
func (p *pass) updated(pod *corev1.Pod) bool {
	g := p.generation()
	return p.current(pod) || g != "" && pod.Labels[generationLabel] == g
}

// byAge orders pods of a node: bound ones first, then the older. Of those of the
// same second, which is all that is known, what is ready was there before.
func byAge(a, b *corev1.Pod) int {
	last := func(is bool) int {
		if is {
			return 1
		}
		return 0
	}
	return cmp.Or(last(a.Spec.NodeName == "")-last(b.Spec.NodeName == ""), a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		last(!ready(a))-last(!ready(b)), cmp.Compare(a.Name, b.Name))
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// readySince returns since when the pod is ready.
func readySince(pod *corev1.Pod) (time.Time, bool) {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady {
			return c.LastTransitionTime.Time, c.Status == corev1.ConditionTrue
		}
	}
	return time.Time{}, false
}

func ready(pod *corev1.Pod) bool {
	_, ok := readySince(pod)
	return ok
}

func (p *pass) available(pod *corev1.Pod) bool { return ready(pod) && p.untilAvailable(pod) <= 0 }

// untilAvailable of a ready pod; 0 or less: it is. The set is looked at again
// when the first is.
func (p *pass) untilAvailable(pod *corev1.Pod) time.Duration {
	since, ok := readySince(pod)
	wait := time.Duration(p.set.Spec.MinReadySeconds) * time.Second
	if !ok || wait == 0 {
		return 0
	}
	if !since.IsZero() {
		wait = since.Add(wait).Sub(p.Now)
	}
	p.again(wait)
	return wait
}

func (p *pass) again(wait time.Duration) {
	if wait > 0 && (p.after == 0 || wait < p.after) {
		p.after = wait
	}
}
