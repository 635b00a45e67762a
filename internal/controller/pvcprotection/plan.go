// Package pvcprotection keeps claims as long as pods use them, and says of
// each whether one does.
package pvcprotection

import (
	"encoding/json"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/view"
)

// Finalizer of a claim that may be in use; admission adds it.
const Finalizer = "kubernetes.io/pvc-protection"

// behind is how soon to look again when the view has not caught up yet with
// the pods; every feed reports progress much sooner.
const behind = 100 * time.Millisecond

// Observed is what a plan depends on.
type Observed struct {
	Claim *corev1.PersistentVolumeClaim
	Pods  []*corev1.Pod // that name it
	// CaughtUp: Pods are all that there were when the claim was last written.
	CaughtUp bool
	Now      time.Time
}

// Plan lets go of a claim that no pod on a node has. A pod that is placed
// afterwards does not start: kubelets refuse claims that are being deleted.
func Plan(o Observed) plan.Result {
	held := slices.ContainsFunc(o.Pods, func(p *corev1.Pod) bool { return holds(p, o.Claim) })
	out := plan.Guard(kinds.PersistentVolumeClaim, o.Claim, Finalizer, func() bool { return held || !o.CaughtUp })
	switch {
	case len(out.Actions) > 0:
		return out
	case plan.Protection(o.Claim, Finalizer) == plan.Leaving && !held:
		return plan.Result{After: behind}
	case o.Claim.DeletionTimestamp == nil && o.Claim.Status.Phase == corev1.ClaimBound:
		return o.unused()
	}
	return plan.Result{}
}

// holds: the pod is on a node and has the claim. A claim that belongs to the pod,
// because it was made for it or its stateful set gave it up, need not wait for one
// that is done with: the pod's own finalizers may wait for the claim.
func holds(p *corev1.Pod, c *corev1.PersistentVolumeClaim) bool {
	if p.Spec.NodeName == "" {
		return false
	}
	done := p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds == 0
	return !(done && metav1.IsControlledBy(c, p)) && names(p, c, !done)
}

// names reports whether a volume of the pod is the claim's; made says whether
// claims that were made for the pod count.
func names(p *corev1.Pod, c *corev1.PersistentVolumeClaim, made bool) bool {
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if view.ClaimOf(p, v) == c.Name && (v.Ephemeral == nil || made && metav1.IsControlledBy(c, p)) {
			return true
		}
	}
	return false
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// unused says since when no pod that has not ended has named the claim.
func (o Observed) unused() plan.Result {
	want := corev1.PersistentVolumeClaimCondition{Type: corev1.PersistentVolumeClaimUnused, Status: corev1.ConditionTrue, Reason: "NoPodsUsingPVC",
		Message: "No pods are currently referencing this PVC", LastTransitionTime: metav1.NewTime(o.Now.Truncate(time.Second))}
	if slices.ContainsFunc(o.Pods, func(p *corev1.Pod) bool { return !ended(p) && names(p, o.Claim, true) }) {
		want.Status, want.Reason, want.Message = corev1.ConditionFalse, "PodUsingPVC", "A pod is currently referencing this PVC"
	} else if !o.CaughtUp {
		return plan.Result{After: behind}
	}
	if slices.ContainsFunc(o.Claim.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return c.Type == want.Type && c.Status == want.Status
	}) {
		return plan.Result{}
	}
	data, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.PersistentVolumeClaimCondition{want}}})
	if err != nil {
		panic("pvcprotection: " + err.Error()) // API types always marshal
	}
	return plan.Result{Actions: []plan.Action{{
		Verb: plan.Patch, Ref: kinds.RefTo(kinds.PersistentVolumeClaim, o.Claim).WithSub("status"), PatchType: types.StrategicMergePatchType, Data: data,
		UID: o.Claim.UID, ResourceVersion: o.Claim.ResourceVersion, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
	}}}
}
