// Package disruption keeps the status of PodDisruptionBudgets: how many of
// their pods are healthy, how many should be, and so how many may be evicted.
// The server takes from that number with every eviction; here it is counted
// anew. It also takes the word back from pods that were to be disrupted, and
// were not.
package disruption

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// deletionTimeout is how long after its eviction was allowed a pod is believed
// to be about to go, and staleTimeout how long one may say that it will be
// disrupted. Both are upstream's.
const (
	deletionTimeout = 2 * time.Minute
	staleTimeout    = 2 * time.Minute
	// recheck is when to look again for what could not be known: no change of a
	// custom owner wakes the budget.
	recheck = time.Minute
)

// Observed is what a budget's status depends on.
type Observed struct {
	Budget *policyv1.PodDisruptionBudget
	Pods   []*corev1.Pod // that it selects
	// Owners by the UID in the pods' controller references.
	Owners map[types.UID]Owner
	// Selector that cannot be understood: why; it then selects no pods.
	BadSelector string
	Now         time.Time
}

// Owner of pods, which says how many there should be.
type Owner struct {
	UID      types.UID // of what counts: the deployment of a replica set
	Replicas int32
	Missing  bool   // there is no such object
	Err      string // why its scale cannot be known
}

// Plan writes the status where it is not what it should be.
func Plan(o Observed) plan.Result {
	next := o.Budget.DeepCopy()
	st := &next.Status
	expected, desired, unmanaged, why, failed := o.expected()
	if failed != "" {
		// The number that was counted last may allow what is no longer safe.
		st.DisruptionsAllowed = 0
		setCondition(st, metav1.ConditionFalse, policyv1.SyncFailedReason, failed, o.Now)
		res := o.write(next)
		res.After = recheck
		if len(res.Actions) > 0 {
			res.Events = append(res.Events, o.event(corev1.EventTypeWarning, why, failed))
		}
		return res
	}
	disrupted, again := o.disrupted()
	healthy := o.healthy(disrupted)
	allowed := healthy - desired
	if expected <= 0 || allowed < 0 { // a budget without pods is not one that all may be taken from
		allowed = 0
	}
	st.CurrentHealthy, st.DesiredHealthy, st.ExpectedPods, st.DisruptionsAllowed = healthy, desired, expected, allowed
	st.DisruptedPods, st.ObservedGeneration = disrupted, next.Generation
	if allowed > 0 {
		setCondition(st, metav1.ConditionTrue, policyv1.SufficientPodsReason, "", o.Now)
	} else {
		setCondition(st, metav1.ConditionFalse, policyv1.InsufficientPodsReason, "", o.Now)
	}
	res := o.write(next)
	res.After = again
	if len(res.Actions) == 0 {
		return res
	}
	if len(o.Pods) == 0 {
		res.Events = append(res.Events, o.event(corev1.EventTypeNormal, "NoPods", "No matching pods found"))
	}
	if unmanaged {
		res.Events = append(res.Events, o.event(corev1.EventTypeWarning, "UnmanagedPods", fmt.Sprintf("Pods selected by this PodDisruptionBudget (selector: %v) were found "+
			"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" "+
			"field of the PDB to an integer value.", o.Budget.Spec.Selector)))
	}
	return res
}

func setCondition(st *policyv1.PodDisruptionBudgetStatus, status metav1.ConditionStatus, reason, message string, now time.Time) {
	meta.SetStatusCondition(&st.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: status, Reason: reason, Message: message,
		ObservedGeneration: st.ObservedGeneration, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second))})
}

func (o *Observed) write(next *policyv1.PodDisruptionBudget) plan.Result {
	if equality.Semantic.DeepEqual(next.Status, o.Budget.Status) {
		return plan.Result{}
	}
	return plan.Result{Actions: []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.PodDisruptionBudget, next).WithSub("status"), Object: next}}}
}

func (o *Observed) event(kind, reason, message string) plan.Event {
	return plan.Event{Regarding: kinds.RefTo(kinds.PodDisruptionBudget, o.Budget), UID: o.Budget.UID, Type: kind, Reason: reason, Message: message}
}

// expected says how many pods there should be and how many of them healthy; or
// why that cannot be known, and the reason of the event about it.
func (o *Observed) expected() (expected, desired int32, unmanaged bool, why, failed string) {
	if o.BadSelector != "" {
		return 0, 0, false, "NoPods", o.BadSelector
	}
	s := &o.Budget.Spec
	share := s.MaxUnavailable
	switch {
	case share != nil:
	case s.MinAvailable == nil:
		return 0, 0, false, "", ""
	case s.MinAvailable.Type == intstr.Int:
		return int32(len(o.Pods)), s.MinAvailable.IntVal, false, "", ""
	default:
		share = s.MinAvailable
	}
	const reason = "CalculateExpectedPodCountFailed"
	expected, unmanaged, failed = o.scale()
	if failed != "" {
		return 0, 0, false, reason, failed
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(share, int(expected), true)
	if err != nil {
		return 0, 0, false, reason, err.Error()
	}
	if s.MaxUnavailable != nil {
		return expected, max(0, expected-int32(n)), unmanaged, "", ""
	}
	return expected, int32(n), unmanaged, "", ""
}

// scale sums up what the owners of the pods want, each of them once. Pods that
// nobody owns count as none.
func (o *Observed) scale() (total int32, unmanaged bool, failed string) {
	counted := map[types.UID]bool{}
	for _, p := range o.Pods {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil {
			unmanaged = true
			continue
		}
		owner, ok := o.Owners[ref.UID]
		switch {
		case !ok || owner.Missing:
			return 0, false, fmt.Sprintf("found no controllers for pod %q", p.Name)
		case owner.Err != "":
			return 0, false, owner.Err
		case !counted[owner.UID]:
			counted[owner.UID] = true
			total += owner.Replicas
		}
	}
	return total, unmanaged, ""
}

// disrupted are the pods whose eviction was allowed and that are still to go,
// and when to look again.
func (o *Observed) disrupted() (map[string]metav1.Time, time.Duration) {
	was := o.Budget.Status.DisruptedPods
	if was == nil {
		return nil, 0
	}
	left, again := map[string]metav1.Time{}, time.Duration(0)
	for _, p := range o.Pods {
		at, ok := was[p.Name]
		if !ok || p.DeletionTimestamp != nil {
			continue
		}
		wait := at.Add(deletionTimeout).Sub(o.Now)
		if wait <= 0 {
			continue
		}
		left[p.Name] = at
		if again == 0 || wait < again {
			again = wait
		}
	}
	if maps.EqualFunc(left, was, func(a, b metav1.Time) bool { return a.Equal(&b) }) {
		return was, again
	}
	return left, again
}

func (o *Observed) healthy(disrupted map[string]metav1.Time) int32 {
	n := int32(0)
	for _, p := range o.Pods {
		if _, going := disrupted[p.Name]; !going && p.DeletionTimestamp == nil && ready(p) {
			n++
		}
	}
	return n
}

func ready(p *corev1.Pod) bool {
	c := condition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

func condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	i := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == t })
	if i < 0 {
		return nil
	}
	return &p.Status.Conditions[i]
}

// doomed: the pod says that it will be disrupted, and lives. What a kubelet
// ends takes its time, and what has ended says so for good.
func doomed(p *corev1.Pod) *corev1.PodCondition {
	c := condition(p, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet ||
		p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	return c
}

// PlanPod takes the word back that a pod will be disrupted, two minutes later,
// and tells of a pod that several budgets select, by their names: it cannot be
// evicted.
func PlanPod(p *corev1.Pod, budgets []string, now time.Time) (out plan.Result) {
	if len(budgets) > 1 {
		out.Events = []plan.Event{{Regarding: kinds.RefTo(kinds.Pod, p), UID: p.UID, Type: corev1.EventTypeWarning, Reason: "MultiplePodDisruptionBudgets",
			Message: fmt.Sprintf("Pod %q/%q matches multiple PodDisruptionBudgets.  Chose %q arbitrarily.", p.Namespace, p.Name, budgets[0])}}
	}
	c := doomed(p)
	if c == nil {
		return out
	}
	if wait := c.LastTransitionTime.Add(staleTimeout).Sub(now); wait > 0 {
		out.After = wait
		return out
	}
	// The patch says what the condition is to be in full: reason and message go.
	data, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []map[string]any{{
		"type": corev1.DisruptionTarget, "status": corev1.ConditionFalse, "lastTransitionTime": metav1.NewTime(now), "observedGeneration": p.Generation,
		"reason": nil, "message": nil,
	}}}})
	if err != nil {
		panic("disruption: " + err.Error()) // API types always marshal
	}
	out.Actions = []plan.Action{{
		Verb: plan.Patch, Ref: kinds.RefTo(kinds.Pod, p).WithSub("status"), PatchType: types.StrategicMergePatchType, Data: data,
		UID: p.UID, ResourceVersion: p.ResourceVersion, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
	}}
	return out
}
