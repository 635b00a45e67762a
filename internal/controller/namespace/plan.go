// Package namespace empties namespaces that are being deleted and then lets
// them go.
package namespace

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// burst bounds the objects that one pass deletes.
const burst = 500

// refresh is how often the counts in the conditions may be written.
const refresh = time.Second

// Content is what a namespace holds of one kind.
type Content struct {
	Kind    *kinds.Kind
	Objects []kinds.Object
}

// Observed is what a plan depends on.
type Observed struct {
	Namespace *corev1.Namespace
	// Content, without kinds that are absent.
	Content []Content
	// Kinds that a namespace may hold; Unseen are those of them that Content
	// does not tell about.
	Kinds, Unseen []*kinds.Kind
	Now           time.Time
	Failure       string // why the last pass could not delete
}

// Plan returns what must be deleted next. Pods go first and alone: as long as
// one runs, the network policies and quotas that bind it must stand
// (CVE-2024-7598).
func Plan(o Observed) plan.Result {
	ns := o.Namespace
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return plan.Result{}
	}
	var deletes []plan.Action
	podsLeft := slices.ContainsFunc(o.Content, func(c Content) bool { return c.Kind == kinds.Pod })
	for _, c := range o.Content {
		if podsLeft && c.Kind != kinds.Pod {
			continue
		}
		deletes = append(deletes, deleteAll(c, burst-len(deletes))...)
	}
	status, after := o.status()
	res := plan.Result{After: after}
	if o.Failure != "" { // what failed will likely fail again and end the pass
		res.Actions = append(status, deletes...)
		return res
	}
	res.Actions = append(deletes, status...)
	if len(o.Content) == 0 {
		for _, k := range o.Unseen {
			res.Actions = append(res.Actions, plan.Action{Verb: plan.DeleteAll, Ref: kinds.Ref{Kind: k, Namespace: ns.Name}})
		}
		// With a status write before it, the namespace has a newer revision
		// than the one that is known here: then the next pass lets it go.
		if len(status) == 0 {
			res.Actions = append(res.Actions, o.finalize())
		}
	}
	return res
}

func deleteAll(c Content, limit int) []plan.Action {
	background := metav1.DeletePropagationBackground
	var out []plan.Action
	for _, obj := range c.Objects {
		if len(out) >= limit {
			break
		}
		if obj.GetDeletionTimestamp() != nil {
			continue
		}
		out = append(out, plan.Action{
			Verb: plan.Delete, Ref: kinds.RefTo(c.Kind, obj), UID: obj.GetUID(), Propagation: background, Parallel: true,
			Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
		})
	}
	return out
}

// finalize takes our finalizer away, once the server confirms that nothing is
// left: something may have been created that the view does not show yet.
func (o Observed) finalize() plan.Action {
	c := *o.Namespace // everything but the finalizers is shared, and only read
	c.Spec.Finalizers = slices.DeleteFunc(slices.Clone(c.Spec.Finalizers), func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	a := plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.Namespace, o.Namespace).WithSub("finalize"), Object: &c}
	for _, k := range o.Kinds {
		a.Live = append(a.Live, plan.Live{Want: plan.Empty, Ref: kinds.Ref{Kind: k, Namespace: c.Name}})
	}
	return a
}

// status says how far the deletion is, in upstream's conditions.
func (o Observed) status() ([]plan.Action, time.Duration) {
	next := *o.Namespace.Status.DeepCopy()
	next.Phase = corev1.NamespaceTerminating
	var after time.Duration
	for _, c := range o.conditions() {
		i := slices.IndexFunc(next.Conditions, func(x corev1.NamespaceCondition) bool { return x.Type == c.Type })
		if i < 0 {
			next.Conditions = append(next.Conditions, c)
			continue
		}
		old := &next.Conditions[i]
		if old.Status == c.Status && old.Reason == c.Reason {
			if old.Message == c.Message {
				continue
			}
			if wait := old.LastTransitionTime.Add(refresh).Sub(o.Now); wait > 0 {
				after = wait // only a count changed: not with every object
				continue
			}
		}
		*old = c
	}
	if apiequality.Semantic.DeepEqual(next, o.Namespace.Status) {
		return nil, after
	}
	c := *o.Namespace
	c.Status = next
	return []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.Namespace, o.Namespace).WithSub("status"), Object: &c}}, after
}

func (o Observed) conditions() []corev1.NamespaceCondition {
	var out []corev1.NamespaceCondition
	add := func(t corev1.NamespaceConditionType, bad bool, goodReason, goodMessage, badReason, badMessage string) {
		c := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(o.Now), Reason: goodReason, Message: goodMessage}
		if bad {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, badReason, badMessage
		}
		out = append(out, c)
	}
	remaining, finalizers := o.remaining()
	add(corev1.NamespaceDeletionDiscoveryFailure, false, "ResourcesDiscovered", "All resources successfully discovered", "", "")
	add(corev1.NamespaceDeletionGVParsingFailure, false, "ParsedGroupVersions", "All legacy kube types successfully parsed", "", "")
	add(corev1.NamespaceDeletionContentFailure, o.Failure != "", "ContentDeleted", "All content successfully deleted, may be waiting on finalization",
		"ContentDeletionFailed", "Failed to delete all resource types, the last error is: "+o.Failure)
	add(corev1.NamespaceContentRemaining, remaining != "", "ContentRemoved", "All content successfully removed",
		"SomeResourcesRemain", "Some resources are remaining: "+remaining)
	add(corev1.NamespaceFinalizersRemaining, finalizers != "", "ContentHasNoFinalizers", "All content-preserving finalizers finished",
		"SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+finalizers)
	return out
}

// remaining describes what is left, and which finalizers hold it.
func (o Observed) remaining() (content, finalizers string) {
	count := map[string]int{}
	var kindsLeft, held []string
	for _, c := range o.Content {
		kindsLeft = append(kindsLeft, fmt.Sprintf("%s has %d resource instances", c.Kind, len(c.Objects)))
		for _, obj := range c.Objects {
			for _, f := range obj.GetFinalizers() {
				count[f]++
			}
		}
	}
	for f, n := range count {
		held = append(held, fmt.Sprintf("%s in %d resource instances", f, n))
	}
	slices.Sort(kindsLeft)
	slices.Sort(held)
	return strings.Join(kindsLeft, ", "), strings.Join(held, ", ")
}
