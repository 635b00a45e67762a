// Package nodelifecycle judges nodes by their heartbeats: it marks those that
// have fallen silent, taints nodes by their conditions, and deletes the pods
// that do not tolerate it.
package nodelifecycle

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Observed is what a node's fate depends on.
type Observed struct {
	Node *corev1.Node
	Now  time.Time
	// LastSeen is when the node's last heartbeat reached us, by our clock.
	LastSeen time.Time
	// Never is true of a node that has not reported at all; LastSeen is its
	// creation then.
	Never bool
	// Pods on the node. Only needed if it is silent or has NoExecute taints.
	Pods []*corev1.Pod
	// Since tells how long NoExecute taints are known that do not say when
	// they were added.
	Since  func(corev1.Taint) time.Time
	Census Census
	Limits Limits
}

// Census of all nodes. It only matters while this one is not ready.
type Census struct {
	Ready, NotReady int
	// LastEviction is when another node was last given up.
	LastEviction time.Time
}

// Limits of patience; see Config for the meaning.
type Limits struct {
	Grace, StartupGrace         time.Duration
	EvictInterval, SlowInterval time.Duration
	LargeCluster                int
	UnhealthyShare              float64
}

// Plan says what follows from the node's silence, conditions and taints, one
// after the other: each step is planned on what the last one has written.
func Plan(o Observed) plan.Result {
	if o.Node.DeletionTimestamp != nil {
		return plan.Result{}
	}
	silent, after := silence(o)
	if silent {
		if a, ok := markUnknown(o); ok {
			return plan.Result{Actions: []plan.Action{a}}
		}
	}
	a, changed, wait := taint(o)
	after = sooner(after, wait)
	if changed {
		return plan.Result{Actions: []plan.Action{a}, After: after}
	}
	res := evict(o)
	if ready(o.Node) == corev1.ConditionUnknown {
		res.Actions = append(markPods(o), res.Actions...)
	}
	res.After = sooner(after, res.After)
	return res
}

// sooner of two waits, where 0 is for ever.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// silence reports whether the node's time is up, or how long it still has.
func silence(o Observed) (bool, time.Duration) {
	grace := o.Limits.Grace
	if o.Never {
		grace = o.Limits.StartupGrace
	}
	if left := o.LastSeen.Add(grace).Sub(o.Now); left > 0 {
		return false, left
	}
	return true, 0
}

// The conditions that a silent node no longer vouches for.
var vouched = [...]corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure}

// markUnknown sets these conditions to Unknown. Not against a newer state: if
// the kubelet has just reported, the write fails and the node is looked at
// again.
func markUnknown(o Observed) (plan.Action, bool) {
	var changed []corev1.NodeCondition
	now := metav1.NewTime(o.Now)
	for _, t := range vouched {
		c := condition(o.Node, t)
		switch {
		case c == nil:
			changed = append(changed, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: o.Node.CreationTimestamp, LastTransitionTime: now,
			})
		case c.Status != corev1.ConditionUnknown:
			next := *c
			next.Status, next.LastTransitionTime = corev1.ConditionUnknown, now
			next.Reason, next.Message = "NodeStatusUnknown", "Kubelet stopped posting node status."
			changed = append(changed, next)
		}
	}
	if len(changed) == 0 {
		return plan.Action{}, false
	}
	a := plan.Action{
		Verb: plan.Patch, Ref: kinds.RefTo(kinds.Node, o.Node).WithSub("status"), PatchType: types.StrategicMergePatchType,
		Data: body("status", "conditions", changed), UID: o.Node.UID, ResourceVersion: o.Node.ResourceVersion,
	}
	if ready(o.Node) == corev1.ConditionTrue {
		a.Event = &plan.Event{
			Regarding: kinds.RefTo(kinds.Node, o.Node), UID: o.Node.UID, Type: corev1.EventTypeNormal,
			Reason: "NodeNotReady", Message: "Node " + o.Node.Name + " status is now: NodeNotReady",
		}
	}
	return a, true
}

// body is {outer: {inner: v}}.
func body(outer, inner string, v any) []byte {
	b, err := json.Marshal(map[string]any{outer: map[string]any{inner: v}})
	if err != nil {
		panic("nodelifecycle: " + err.Error()) // API types always marshal
	}
	return b
}

func condition(n *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

// ready is the status of the Ready condition; "" if there is none.
func ready(n *corev1.Node) corev1.ConditionStatus {
	if c := condition(n, corev1.NodeReady); c != nil {
		return c.Status
	}
	return ""
}

// The taints of conditions, besides those of Ready: a node with this condition
// takes no new pods that do not tolerate it.
var pressures = [...]struct {
	condition corev1.NodeConditionType
	key       string
}{
	{corev1.NodeMemoryPressure, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.TaintNodeNetworkUnavailable},
}

// ours are the taint keys that this controller owns, with their effects.
func ours(t corev1.Taint) bool {
	switch t.Key {
	case corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable:
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	case corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure, corev1.TaintNodePIDPressure,
		corev1.TaintNodeNetworkUnavailable, corev1.TaintNodeUnschedulable:
		return t.Effect == corev1.TaintEffectNoSchedule
	}
	return false
}

// taint makes the node's taints those of its conditions, besides what others
// put there. wait is when a taint that is held back may come.
func taint(o Observed) (a plan.Action, changed bool, wait time.Duration) {
	have := o.Node.Spec.Taints
	want, wait := wanted(o)
	var next []corev1.Taint
	for _, t := range have {
		if ours(t) && !slices.ContainsFunc(want, func(w corev1.Taint) bool { return w.MatchTaint(&t) }) {
			changed = true
			continue
		}
		next = append(next, t)
	}
	for _, w := range want {
		if !slices.ContainsFunc(have, func(t corev1.Taint) bool { return w.MatchTaint(&t) }) {
			now := metav1.NewTime(o.Now)
			w.TimeAdded = &now
			next = append(next, w)
			changed = true
		}
	}
	if !changed {
		return plan.Action{}, false, wait
	}
	return plan.Action{
		Verb: plan.Patch, Ref: kinds.RefTo(kinds.Node, o.Node), PatchType: types.MergePatchType,
		Data: body("spec", "taints", next), UID: o.Node.UID, ResourceVersion: o.Node.ResourceVersion,
	}, true, wait
}

// wanted are the taints that the node should have of ours.
func wanted(o Observed) (want []corev1.Taint, wait time.Duration) {
	key := ""
	switch ready(o.Node) {
	case corev1.ConditionTrue:
	case corev1.ConditionUnknown:
		key = corev1.TaintNodeUnreachable
	default:
		key = corev1.TaintNodeNotReady
	}
	if key != "" {
		want = append(want, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
		if condition(o.Node, corev1.NodeReady) != nil {
			var evict bool
			if evict, wait = mayEvict(o); evict {
				want = append(want, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute})
			}
		}
	}
	for _, p := range pressures {
		if c := condition(o.Node, p.condition); c != nil && c.Status == corev1.ConditionTrue {
			want = append(want, corev1.Taint{Key: p.key, Effect: corev1.TaintEffectNoSchedule})
		}
	}
	if o.Node.Spec.Unschedulable {
		want = append(want, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	}
	return want, wait
}

// mayEvict guards against giving up nodes when it is rather us that are cut
// off: never when no node is ready, not when most of a small cluster is not,
// and otherwise one node per interval. A node that has been given up stays so
// unless none is left.
func mayEvict(o Observed) (bool, time.Duration) {
	c, l := o.Census, o.Limits
	if c.Ready == 0 {
		return false, 0
	}
	for _, t := range o.Node.Spec.Taints {
		if givenUp(t) {
			return true, 0
		}
	}
	interval := l.EvictInterval
	if total := c.Ready + c.NotReady; c.NotReady > 2 && float64(c.NotReady) >= l.UnhealthyShare*float64(total) {
		if total <= l.LargeCluster {
			return false, 0
		}
		interval = l.SlowInterval
	}
	if left := c.LastEviction.Add(interval).Sub(o.Now); left > 0 && !c.LastEviction.IsZero() {
		return false, left
	}
	return true, 0
}

func givenUp(t corev1.Taint) bool {
	return t.Effect == corev1.TaintEffectNoExecute && (t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable)
}

// markPods takes the pods of a silent node out of service.
func markPods(o Observed) []plan.Action {
	var actions []plan.Action
	for _, p := range o.Pods {
		c := podCondition(p, corev1.PodReady)
		if c == nil || c.Status != corev1.ConditionTrue || ended(p) {
			continue
		}
		next := *c
		next.Status, next.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(o.Now)
		next.Reason, next.Message = "NodeNotReady", "node "+o.Node.Name+" does not report"
		actions = append(actions, plan.Action{
			Verb: plan.Patch, Ref: kinds.RefTo(kinds.Pod, p).WithSub("status"), PatchType: types.StrategicMergePatchType,
			Data: body("status", "conditions", []corev1.PodCondition{next}), UID: p.UID, ResourceVersion: p.ResourceVersion, Parallel: true,
			Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
			Event: &plan.Event{
				Regarding: kinds.RefTo(kinds.Pod, p), UID: p.UID, Type: corev1.EventTypeWarning, Reason: "NodeNotReady", Message: "Node is not ready",
			},
		})
	}
	return actions
}

func podCondition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// evict deletes the pods whose tolerance of the node's NoExecute taints has
// run out.
func evict(o Observed) plan.Result {
	var res plan.Result
	for _, p := range o.Pods {
		if p.DeletionTimestamp != nil || ended(p) {
			continue
		}
		deadline, ever := tolerance(o, p)
		if !ever {
			continue
		}
		if left := deadline.Sub(o.Now); left > 0 {
			res.After = sooner(res.After, left)
			continue
		}
		res.Actions = append(res.Actions, evictPod(o, p)...)
	}
	return res
}

// tolerance is until when the pod may stay; ever is false if it may for ever.
// As upstream, the first toleration that covers a taint is the one that counts.
func tolerance(o Observed, p *corev1.Pod) (deadline time.Time, ever bool) {
	for _, t := range o.Node.Spec.Taints {
		if t.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		start := o.Since(t)
		if p.CreationTimestamp.After(start) {
			start = p.CreationTimestamp.Time
		}
		i := slices.IndexFunc(p.Spec.Tolerations, func(tol corev1.Toleration) bool { return tolerates(&tol, &t) })
		if i >= 0 {
			seconds := p.Spec.Tolerations[i].TolerationSeconds
			if seconds == nil {
				continue
			}
			start = start.Add(plan.Tolerated(*seconds))
		} else {
			start = o.Now // not at all
		}
		if !ever || start.Before(deadline) {
			deadline, ever = start, true
		}
	}
	return deadline, ever
}

func evictPod(o Observed, p *corev1.Pod) []plan.Action {
	return plan.Evict(p, o.Now, "DeletionByTaintManager", fmt.Sprintf("Taint manager: deleting due to NoExecute taint on node %s", o.Node.Name),
		plan.Event{Reason: "TaintManagerEviction", Message: "Marking for deletion Pod " + p.Namespace + "/" + p.Name})
}
