package statefulset

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/history"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// ordinal in the name of one of the set's pods; names that the set would not
// give are nobody's.
func (p *pass) ordinal(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, p.set.Name+"-")
	n, err := strconv.ParseInt(digits, 10, 32)
	if !ok || err != nil || n < 0 || p.name(int(n)) != name {
		return 0, false
	}
	return int(n), true
}

// at is the ordinal of a pod of the set.
func (p *pass) at(pod *corev1.Pod) int {
	n, _ := p.ordinal(pod.Name)
	return n
}

func (p *pass) name(ordinal int) string { return p.set.Name + "-" + strconv.Itoa(ordinal) }

// start is the first ordinal, end the one after the last.
func (p *pass) start() int {
	if p.set.Spec.Ordinals == nil {
		return 0
	}
	return int(p.set.Spec.Ordinals.Start)
}

func (p *pass) end() int { return p.start() + int(*p.set.Spec.Replicas) }

func (p *pass) wants(ordinal int) bool { return ordinal >= p.start() && ordinal < p.end() }

// partition is the first ordinal that a rolling update reaches.
func (p *pass) partition() int {
	r := p.set.Spec.UpdateStrategy.RollingUpdate
	if r == nil || r.Partition == nil {
		return p.start()
	}
	return p.start() + int(*r.Partition)
}

// create makes the pod of an ordinal, of the revision that the strategy keeps
// it at.
func (p *pass) create(ordinal int) plan.Action {
	revision, template := p.update, &p.set.Spec.Template
	if p.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && ordinal < p.partition() && p.current != p.update {
		if t := p.template(p.current); t != nil {
			revision, template = p.current, t
		}
	}
	name := p.name(ordinal)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.set.Namespace, Name: name, GenerateName: p.set.Name + "-",
			Labels: maps.Clone(template.Labels), Annotations: maps.Clone(template.Annotations), Finalizers: slices.Clone(template.Finalizers),
			OwnerReferences: []metav1.OwnerReference{p.owner()},
		},
		Spec: *template.Spec.DeepCopy(),
	}
	p.identify(pod, ordinal)
	pod.Labels[appsv1.StatefulSetRevisionLabel] = revision
	pod.Spec.Hostname, pod.Spec.Subdomain = name, p.set.Spec.ServiceName
	p.mount(pod, ordinal)
	return plan.Action{
		Verb: plan.Create, Ref: kinds.RefTo(kinds.Pod, pod), Object: pod, Parallel: true,
		Event: p.podEvent("Create", name), Failed: p.podFailure("Create", name),
	}
}

// template of a revision, or nil if there is none to be read.
func (p *pass) template(revision string) *corev1.PodTemplateSpec {
	for _, r := range p.revisions {
		if r.Name == revision {
			if t, err := history.Template(r); err == nil {
				return t
			}
		}
	}
	return nil
}

// identify puts the labels on a pod that say which one it is.
func (p *pass) identify(pod *corev1.Pod, ordinal int) {
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.StatefulSetPodNameLabel] = pod.Name
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
}

// mount makes the pod's volumes those of its claims, and keeps the others.
func (p *pass) mount(pod *corev1.Pod, ordinal int) {
	if p.mounts(pod, ordinal) {
		return
	}
	var volumes []corev1.Volume
	own := map[string]bool{}
	for i := range p.set.Spec.VolumeClaimTemplates {
		t := &p.set.Spec.VolumeClaimTemplates[i]
		if own[t.Name] {
			continue
		}
		own[t.Name] = true
		volumes = append(volumes, corev1.Volume{Name: t.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: p.claimName(t, ordinal)}}})
	}
	for _, v := range pod.Spec.Volumes {
		if !own[v.Name] {
			volumes = append(volumes, v)
		}
	}
	pod.Spec.Volumes = volumes
}

// mounts reports whether the pod has the volumes of all its claims.
func (p *pass) mounts(pod *corev1.Pod, ordinal int) bool {
	for i := range p.set.Spec.VolumeClaimTemplates {
		t := &p.set.Spec.VolumeClaimTemplates[i]
		if !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == t.Name && v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == p.claimName(t, ordinal)
		}) {
			return false
		}
	}
	return true
}

// remove deletes a pod, once in a pass.
func (p *pass) remove(pod *corev1.Pod) {
	if p.terminating(pod) || len(p.leaving) >= burst {
		return
	}
	p.leaving[pod.UID] = true
	p.actions = append(p.actions, plan.Action{
		Verb: plan.Delete, Ref: kinds.RefTo(kinds.Pod, pod), UID: pod.UID, Parallel: true,
		Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
		Event:    p.podEvent("Delete", pod.Name), Failed: p.podFailure("Delete", pod.Name),
	})
}

func (p *pass) podEvent(what, pod string) *plan.Event {
	return p.event(corev1.EventTypeNormal, "Successful"+what, fmt.Sprintf("%s Pod %s in StatefulSet %s successful", what, pod, p.set.Name))
}

func (p *pass) podFailure(what, pod string) *plan.Event {
	return p.event(corev1.EventTypeWarning, "Failed"+what, fmt.Sprintf("%s Pod %s in StatefulSet %s failed error: ", what, pod, p.set.Name))
}

func revisionOf(pod *corev1.Pod) string { return pod.Labels[appsv1.StatefulSetRevisionLabel] }

func (p *pass) terminating(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil || p.leaving[pod.UID]
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

func runningAndReady(pod *corev1.Pod) bool {
	_, ready := readySince(pod)
	return ready && pod.Status.Phase == corev1.PodRunning
}

// untilAvailable of a ready pod; 0 or less: it is.
func (p *pass) untilAvailable(pod *corev1.Pod) time.Duration {
	wait := time.Duration(p.set.Spec.MinReadySeconds) * time.Second
	if wait == 0 {
		return 0
	}
	since, _ := readySince(pod)
	if since.IsZero() {
		return wait
	}
	return since.Add(wait).Sub(p.Now)
}

// available pods run, are ready for long enough, and not on their way out.
func (p *pass) available(pod *corev1.Pod) bool {
	return runningAndReady(pod) && !p.terminating(pod) && p.untilAvailable(pod) <= 0
}
