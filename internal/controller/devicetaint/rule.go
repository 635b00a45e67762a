package devicetaint

import (
	"encoding/json"
	"fmt"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// pause between two reports on one spec, as upstream: while pods are evicted,
// not each of them is worth a write.
const pause = 10 * time.Second

// Effect is what a plan for a rule's status depends on.
type Effect struct {
	Rule *resourcev1.DeviceTaintRule
	Now  time.Time
	// Published and Allocated are the devices that the rule selects.
	Published, Allocated int
	// Pods that the rule evicts sooner or later, or would, and in how many
	// namespaces they are.
	Pods, Namespaces int
	// Evicted pods that this process has seen to.
	Evicted int
	// Since is when the rule's status began to be out of date; zero: it is not,
	// as far as is known.
	Since time.Time
}

// PlanRule reports at once on a new spec, and then now and then how far its
// eviction is. What a rule without that would do is said once.
func PlanRule(o Effect) plan.Result {
	if left := o.pausing(); left > 0 {
		return plan.Result{After: left}
	}
	if !o.stale() {
		return plan.Result{}
	}
	next := o.wanted()
	if have := inProgress(o.Rule); have != nil && have.Status == next.Status {
		next.LastTransitionTime = have.LastTransitionTime
	} else {
		next.LastTransitionTime = metav1.NewTime(o.Now)
	}
	data, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []metav1.Condition{next}}})
	if err != nil {
		panic("devicetaint: " + err.Error()) // API types always marshal
	}
	return plan.Result{Actions: []plan.Action{{
		Verb: plan.Patch, Ref: kinds.RefTo(kinds.DeviceTaintRule, o.Rule).WithSub("status"), PatchType: types.StrategicMergePatchType, Data: data,
		UID: o.Rule.UID, ResourceVersion: o.Rule.ResourceVersion, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
	}}}
}

// pausing is how long a report that is due may still wait.
func (o *Effect) pausing() time.Duration {
	if !told(o.Rule) {
		return 0
	}
	return max(0, o.Since.Add(pause).Sub(o.Now))
}

func inProgress(r *resourcev1.DeviceTaintRule) *metav1.Condition {
	return meta.FindStatusCondition(r.Status.Conditions, resourcev1.DeviceTaintConditionEvictionInProgress)
}

// told: the status is of what the rule says now.
func told(r *resourcev1.DeviceTaintRule) bool {
	c := inProgress(r)
	return c != nil && c.ObservedGeneration == r.Generation
}

func evicts(r *resourcev1.DeviceTaintRule) bool {
	return r.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute
}

// stale: the status does not say what is.
func (o *Effect) stale() bool {
	if !told(o.Rule) {
		return true
	}
	if !evicts(o.Rule) {
		return false // told once
	}
	have, want := *inProgress(o.Rule), o.wanted()
	have.LastTransitionTime = want.LastTransitionTime
	return have != want
}

// wanted is what the status is to say; reasons and messages are upstream's.
func (o *Effect) wanted() metav1.Condition {
	c := metav1.Condition{Type: resourcev1.DeviceTaintConditionEvictionInProgress, Status: metav1.ConditionFalse, ObservedGeneration: o.Rule.Generation}
	switch have := inProgress(o.Rule); o.Rule.Spec.Taint.Effect {
	case resourcev1.DeviceTaintEffectNoExecute:
		switch {
		case o.Pods > 0:
			c.Status, c.Reason = metav1.ConditionTrue, "PodsPendingEviction"
			c.Message = fmt.Sprintf("%s to be evicted in %s.", count(o.Pods, "pod needs", "pods need"), count(o.Namespaces, "namespace", "different namespaces"))
		case o.Evicted > 0:
			c.Reason = "Completed"
		case told(o.Rule) && have.Status == metav1.ConditionTrue:
			c.Reason = "Completed" // by a process before this one, or they went on their own
		case told(o.Rule):
			return *have // what was done before this process stays said
		default:
			c.Reason = "NotStarted"
		}
	case resourcev1.DeviceTaintEffectNone:
		c.Reason = "NoEffect"
		c.Message = fmt.Sprintf("%s selected. %s selected. %s be evicted in %s if the effect was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.",
			count(o.Published, "published device", "published devices"), count(o.Allocated, "allocated device", "allocated devices"),
			count(o.Pods, "pod would", "pods would"), count(o.Namespaces, "namespace", "different namespaces"))
	default:
		c.Reason, c.Message = "OtherEffect", "Eviction only happens for the NoExecute effect."
	}
	if o.Evicted > 0 {
		if c.Message != "" {
			c.Message += " "
		}
		c.Message += count(o.Evicted, "pod", "pods") + " evicted since starting the controller."
	}
	return c
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprint(n, " ", many)
}
