// Package replicaset keeps as many pods as a ReplicaSet, or a
// ReplicationController, asks for.
package replicaset

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	appsv1 "k8s.io/api/apps/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// burst bounds the pods that one pass creates or deletes, as upstream.
const burst = 500

// maxGenerateName leaves room for the suffix in a pod's name of 63 bytes, which
// is also its host name.
const maxGenerateName = 63 - 5

// Observed is what a plan depends on.
type Observed struct {
	// Set is the ReplicaSet, or a ReplicationController in its form; Kind says
	// which, and Stored is the object itself.
	Set    *appsv1.ReplicaSet
	Kind   *kinds.Kind
	Stored kinds.Object
	// Owned are the pods that Set controls, Orphans those of its namespace
	// that no controller owns.
	Owned, Orphans []*corev1.Pod
	// Neighbours counts the active pods per node of the other ReplicaSets of
	// the same Deployment: pods that double up on a node go first.
	Neighbours map[string]int
	// Ending: the namespace is being deleted, and takes no new pods.
	Ending bool
	Now    time.Time
	Suffix func() string
	// Failure of the last pass: the message, empty if none; CreateFailed
	// tells creates from deletes.
	Failure      string
	CreateFailed bool
}

// Plan returns what must change so that the pods match o.Set.
func Plan(o Observed) plan.Result {
	selector, err := metav1.LabelSelectorAsSelector(o.Set.Spec.Selector)
	if err != nil || selector.Empty() {
		return plan.Result{} // validation refuses both; never manage by everything
	}
	mine, claims := o.claim(selector)
	active := active(mine)
	manage := []plan.Action(nil)
	if o.Set.DeletionTimestamp == nil {
		manage = o.manage(active)
	}
	status, after := o.status(mine, active, len(manage) > 0)
	res := plan.Result{After: after}
	res.Actions = append(res.Actions, claims...)
	// After a failure the status goes first, because what failed will likely
	// fail again and end the pass.
	if o.Failure != "" {
		res.Actions = append(res.Actions, status...)
		res.Actions = append(res.Actions, manage...)
	} else {
		res.Actions = append(res.Actions, manage...)
		res.Actions = append(res.Actions, status...)
	}
	return res
}

// claim adopts orphans that match and releases pods that do not match any
// more. Adopted pods count from this pass on.
func (o Observed) claim(selector labels.Selector) (mine []*corev1.Pod, actions []plan.Action) {
	for _, p := range o.Owned {
		if selector.Matches(labels.Set(p.Labels)) {
			mine = append(mine, p)
		} else if o.Set.DeletionTimestamp == nil && p.DeletionTimestamp == nil {
			actions = append(actions, plan.Disown(kinds.Pod, p, o.Set.UID))
		}
	}
	if o.Set.DeletionTimestamp != nil {
		return mine, nil
	}
	for _, p := range o.Orphans {
		if p.DeletionTimestamp == nil && selector.Matches(labels.Set(p.Labels)) && isActive(p) {
			mine = append(mine, p)
			actions = append(actions, plan.Adopt(kinds.Pod, p, o.Kind, o.Set))
		}
		if len(actions) >= burst {
			break
		}
	}
	return mine, actions
}

// manage creates or deletes the difference, at most burst of it.
func (o Observed) manage(active []*corev1.Pod) []plan.Action {
	diff := len(active) - int(*o.Set.Spec.Replicas)
	var actions []plan.Action
	if diff < 0 && o.Ending {
		return nil
	}
	if diff < 0 {
		taken := map[string]bool{}
		for _, p := range o.Owned {
			taken[p.Name] = true
		}
		for range min(-diff, burst) {
			actions = append(actions, o.create(taken))
		}
		return actions
	}
	for _, p := range o.victims(active, min(diff, burst)) {
		actions = append(actions, plan.Action{
			Verb: plan.Delete, Ref: kinds.RefTo(kinds.Pod, p), UID: p.UID, Parallel: true,
			Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
			Event:    o.event(corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: "+p.Name),
			Failed:   o.event(corev1.EventTypeWarning, "FailedDelete", "Error deleting: "),
		})
	}
	return actions
}

// create makes one pod of the template under a name that no other pod of the
// set has.
func (o Observed) create(taken map[string]bool) plan.Action {
	t := &o.Set.Spec.Template
	base := o.Set.Name + "-"
	if len(base) > maxGenerateName {
		base = base[:maxGenerateName]
	}
	name := base + o.Suffix()
	for tries := 0; taken[name] && tries < 10; tries++ {
		name = base + o.Suffix()
	}
	taken[name] = true
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: o.Set.Namespace, Name: name, GenerateName: base,
			Labels: copyMap(t.Labels), Annotations: copyMap(t.Annotations), Finalizers: append([]string(nil), t.Finalizers...),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(o.Set, o.Kind.GVK)},
		},
		Spec: *t.Spec.DeepCopy(),
	}
	return plan.Action{
		Verb: plan.Create, Ref: kinds.RefTo(kinds.Pod, p), Object: p, Parallel: true,
		Event:  o.event(corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: "+name),
		Failed: o.event(corev1.EventTypeWarning, "FailedCreate", "Error creating: "),
	}
}

func copyMap(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

func (o Observed) event(kind, reason, message string) *plan.Event {
	return &plan.Event{Regarding: kinds.RefTo(o.Kind, o.Set), UID: o.Set.UID, Type: kind, Reason: reason, Message: message}
}

// status returns the status write, if one is due, and when a ready pod becomes
// available by time alone.
func (o Observed) status(mine, active []*corev1.Pod, busy bool) ([]plan.Action, time.Duration) {
	next := appsv1.ReplicaSetStatus{
		ObservedGeneration: o.Set.Generation, Replicas: int32(len(active)),
		Conditions: o.conditions(busy),
	}
	terminating := int32(len(terminating(mine)))
	next.TerminatingReplicas = &terminating
	template := labels.SelectorFromSet(o.Set.Spec.Template.Labels)
	minReady := time.Duration(o.Set.Spec.MinReadySeconds) * time.Second
	var after time.Duration
	for _, p := range active {
		if template.Matches(labels.Set(p.Labels)) {
			next.FullyLabeledReplicas++
		}
		since, ready := readySince(p)
		if !ready {
			continue
		}
		next.ReadyReplicas++
		wait := since.Add(minReady).Sub(o.Now)
		if minReady == 0 || wait <= 0 {
			next.AvailableReplicas++
		} else if after == 0 || wait < after {
			after = wait
		}
	}
	if o.Kind == kinds.ReplicationController {
		next.TerminatingReplicas = o.Set.Status.TerminatingReplicas // it has no such field
	}
	if apiequality.Semantic.DeepEqual(next, o.Set.Status) {
		return nil, after
	}
	return []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(o.Kind, o.Set).WithSub("status"), Object: withStatus(o.Stored, next)}}, after
}

// conditions sets or removes ReplicaFailure. It stays while pods are still
// missing, so that it does not flap between tries.
func (o Observed) conditions(busy bool) []appsv1.ReplicaSetCondition {
	var kept []appsv1.ReplicaSetCondition
	var old *appsv1.ReplicaSetCondition
	for i, c := range o.Set.Status.Conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure {
			old = &o.Set.Status.Conditions[i]
		} else {
			kept = append(kept, c)
		}
	}
	if o.Failure == "" {
		if old != nil && busy {
			kept = append(kept, *old)
		}
		return kept
	}
	reason := "FailedDelete"
	if o.CreateFailed {
		reason = "FailedCreate"
	}
	next := appsv1.ReplicaSetCondition{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
		LastTransitionTime: metav1.NewTime(o.Now), Reason: reason, Message: o.Failure}
	if old != nil && old.Reason == reason {
		next = *old // a message with the name of each pod would change with each try
	}
	return append(kept, next)
}

// withStatus copies the stored object with another status.
func withStatus(stored kinds.Object, s appsv1.ReplicaSetStatus) runtime.Object {
	switch o := stored.(type) {
	case *appsv1.ReplicaSet:
		c := *o // everything but the status is shared, and only read
		c.Status = s
		return &c
	case *corev1.ReplicationController:
		c := *o
		c.Status = corev1.ReplicationControllerStatus{
			Replicas: s.Replicas, FullyLabeledReplicas: s.FullyLabeledReplicas, ReadyReplicas: s.ReadyReplicas,
			AvailableReplicas: s.AvailableReplicas, ObservedGeneration: s.ObservedGeneration,
		}
		for _, cond := range s.Conditions {
			c.Status.Conditions = append(c.Status.Conditions, corev1.ReplicationControllerCondition{
				Type: corev1.ReplicationControllerConditionType(cond.Type), Status: cond.Status,
				LastTransitionTime: cond.LastTransitionTime, Reason: cond.Reason, Message: cond.Message,
			})
		}
		return &c
	}
	panic(fmt.Sprintf("replicaset: no status for %T", stored))
}

// active pods count as replicas: neither finished nor being deleted.
func active(pods []*corev1.Pod) []*corev1.Pod {
	var out []*corev1.Pod
	for _, p := range pods {
		if isActive(p) {
			out = append(out, p)
		}
	}
	return out
}

func isActive(p *corev1.Pod) bool { return !finished(p) && p.DeletionTimestamp == nil }

func terminating(pods []*corev1.Pod) []*corev1.Pod {
	var out []*corev1.Pod
	for _, p := range pods {
		if !finished(p) && p.DeletionTimestamp != nil {
			out = append(out, p)
		}
	}
	return out
}

func finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// readySince returns since when the pod is ready.
func readySince(p *corev1.Pod) (time.Time, bool) {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == corev1.PodReady {
			return c.LastTransitionTime.Time, c.Status == corev1.ConditionTrue
		}
	}
	return time.Time{}, false
}
