// Package podgc deletes the pods that nobody else would: of nodes that are
// gone or out of service, those that were deleted before they had a node, and
// the oldest finished ones when there are too many.
package podgc

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// maxPerPass bounds the deletions of one pass; each of them wakes the next.
const maxPerPass = 500

// Leftover is everything that belongs to no node.
type Leftover struct {
	Unbound   []*corev1.Pod // without a node
	Finished  []*corev1.Pod // that have ended, on any node
	Threshold int           // of finished pods that are kept; 0: all
}

// PlanLeftover deletes unbound pods that are being deleted, which no kubelet
// will finish, and finished pods above the threshold, the oldest first.
func PlanLeftover(o Leftover) plan.Result {
	var res plan.Result
	for _, p := range o.Unbound {
		if p.DeletionTimestamp == nil || over(p) || len(res.Actions) >= maxPerPass {
			continue
		}
		if !ended(p) && len(p.Finalizers) > 0 {
			res.Actions = append(res.Actions, end(p)) // who holds it may wait for its end
		}
		res.Actions = append(res.Actions, remove(p))
	}
	oldest := slices.DeleteFunc(slices.Clone(o.Finished), over)
	excess := len(oldest) - o.Threshold
	if o.Threshold <= 0 || excess <= 0 {
		return res
	}
	slices.SortFunc(oldest, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID))
	})
	for _, p := range oldest[:min(excess, maxPerPass)] {
		res.Actions = append(res.Actions, remove(p))
	}
	return res
}

// Node is one node, or the name of one that pods are bound to.
type Node struct {
	Name  string
	Node  *corev1.Node // nil: there is none
	Gone  time.Time    // since when there has been none
	Pods  []*corev1.Pod
	Now   time.Time
	Grace time.Duration // how long a node may be absent and come back
}

// PlanNode deletes the pods of a node that is gone for good, and those that
// are being deleted on one that is out of service.
func PlanNode(o Node) plan.Result {
	if o.Node != nil {
		return outOfService(o)
	}
	if len(o.Pods) == 0 {
		return plan.Result{}
	}
	if left := o.Gone.Add(o.Grace).Sub(o.Now); left > 0 {
		return plan.Result{After: left}
	}
	// The node and its pods reach us by different ways: ask whether it is gone.
	absent := plan.Live{Want: plan.Absent, Ref: kinds.Ref{Kind: kinds.Node, Name: o.Name}}
	var res plan.Result
	for _, p := range some(o.Pods) {
		if !ended(p) {
			res.Actions = append(res.Actions, fail(p, o.Now, "PodGC: node no longer exists", absent))
		}
		res.Actions = append(res.Actions, remove(p, absent))
	}
	return res
}

func outOfService(o Node) plan.Result {
	var res plan.Result
	if isReady(o.Node) || !slices.ContainsFunc(o.Node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService }) {
		return res
	}
	for _, p := range some(o.Pods) {
		if p.DeletionTimestamp == nil {
			continue
		}
		if !ended(p) {
			res.Actions = append(res.Actions, fail(p, o.Now, "PodGC: node is out of service"))
		}
		res.Actions = append(res.Actions, remove(p))
	}
	return res
}

func isReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// some pods of which there is something to be done.
func some(pods []*corev1.Pod) []*corev1.Pod {
	left := slices.DeleteFunc(slices.Clone(pods), over)
	return left[:min(len(left), maxPerPass)]
}

// over: the pod has ended and is deleted, and only others' finalizers hold it.
func over(p *corev1.Pod) bool {
	return ended(p) && p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds == 0
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// end says that a pod that never ran will not.
func end(p *corev1.Pod) plan.Action {
	return plan.Action{
		Verb: plan.Patch, Ref: kinds.RefTo(kinds.Pod, p).WithSub("status"), PatchType: types.StrategicMergePatchType,
		Data: []byte(`{"status":{"phase":"Failed"}}`), UID: p.UID, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
	}
}

// fail says what became of a pod that nobody can ask any more, for those who
// count its owner's successes.
func fail(p *corev1.Pod, now time.Time, why string, live ...plan.Live) plan.Action {
	status := map[string]any{"phase": corev1.PodFailed}
	if !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue
	}) {
		status["conditions"] = []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC", Message: why,
			LastTransitionTime: metav1.NewTime(now), ObservedGeneration: p.Generation,
		}}
	}
	data, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		panic("podgc: " + err.Error()) // API types always marshal
	}
	return plan.Action{
		Verb: plan.Patch, Ref: kinds.RefTo(kinds.Pod, p).WithSub("status"), PatchType: types.StrategicMergePatchType,
		Data: data, UID: p.UID, Live: live, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
	}
}

// remove deletes a pod without waiting for a kubelet.
func remove(p *corev1.Pod, live ...plan.Live) plan.Action {
	var now int64
	return plan.Action{
		Verb: plan.Delete, Ref: kinds.RefTo(kinds.Pod, p), UID: p.UID, GraceSeconds: &now, Live: live,
		Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
	}
}
