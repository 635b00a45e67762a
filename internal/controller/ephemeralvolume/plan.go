// Package ephemeralvolume makes the claims of pods' ephemeral volumes. They go
// with their pods, which own them.
package ephemeralvolume

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/view"
)

// again is how often it is told anew that somebody else has a claim's name.
const again = 10 * time.Minute

// Observed is what a plan depends on.
type Observed struct {
	Pod   *corev1.Pod
	Claim func(name string) *corev1.PersistentVolumeClaim // nil: there is none of that name in the pod's namespace
}

// Plan makes the claims that the pod lacks, in the order of its volumes; it
// stops at one whose name somebody else has. Pods that go or have ended get
// none any more.
func Plan(o Observed) (out plan.Result) {
	pod := o.Pod
	if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return plan.Result{}
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		name := view.ClaimOf(pod, v)
		switch have := o.Claim(name); {
		case have == nil:
			out.Actions = append(out.Actions, o.create(name, v))
		case !metav1.IsControlledBy(have, pod):
			out.After = again
			out.Events = append(out.Events, *o.failed(v, fmt.Sprintf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", have.Namespace, have.Name, pod.Namespace, pod.Name)))
			return out
		}
	}
	return out
}

func (o *Observed) create(name string, v *corev1.Volume) plan.Action {
	t := v.Ephemeral.VolumeClaimTemplate.DeepCopy()
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: o.Pod.Namespace, Name: name, Labels: t.Labels, Annotations: t.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(o.Pod, kinds.Pod.GVK)},
		},
		Spec: t.Spec,
	}
	return plan.Action{Verb: plan.Create, Ref: kinds.RefTo(kinds.PersistentVolumeClaim, c), Object: c, Failed: o.failed(v, fmt.Sprintf("create PVC %s: ", name))}
}

func (o *Observed) failed(v *corev1.Volume, why string) *plan.Event {
	return &plan.Event{Regarding: kinds.RefTo(kinds.Pod, o.Pod), UID: o.Pod.UID, Type: corev1.EventTypeWarning, Reason: "FailedBinding",
		Message: fmt.Sprintf("ephemeral volume %s: %s", v.Name, why)}
}
