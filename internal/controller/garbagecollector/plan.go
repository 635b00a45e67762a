// Package garbagecollector deletes what has lost all its owners, and carries
// out foreground and orphaning deletions.
package garbagecollector

import (
	"encoding/json"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// burst bounds the dependents that one pass lets go.
const burst = 500

// behind is how soon to look again when the view has not caught up yet with
// all kinds; every feed reports progress much sooner.
const behind = 100 * time.Millisecond

// OwnerState is what the view knows of an owner.
type OwnerState int

// The states of an owner.
const (
	// Unknown: its kind is not served here, or cannot be an owner of this
	// object. Such an owner counts as alive, so that nothing is lost.
	Unknown OwnerState = iota
	Solid
	// Absent: nothing of that kind and name has the UID.
	Absent
	// Waiting: it is being deleted in the foreground and waits for its
	// dependents.
	Waiting
)

// Owner is one reference of the object, looked up.
type Owner struct {
	Ref   metav1.OwnerReference
	State OwnerState
	// Object is the owner's reference for a live check; set when Absent or
	// Waiting.
	Object kinds.Ref
	// Misplaced: a cluster-scoped object names an owner in a namespace.
	Misplaced bool
}

// Dependent is an object that names the observed one as owner.
type Dependent struct {
	Kind     *kinds.Kind
	Object   kinds.Object
	Blocking bool // its reference has blockOwnerDeletion
}

// Observed is what a plan depends on.
type Observed struct {
	Kind   *kinds.Kind
	Object kinds.Object
	Owners []Owner
	// Dependents are only needed of an object that is being deleted or has an
	// owner that waits.
	Dependents []Dependent
	// CaughtUp: the view knows all kinds as of the object's own revision, so
	// that a dependent which is not in it does not exist.
	CaughtUp bool
}

// Plan returns what must happen to o.Object, and to its dependents if it is to
// be orphaned from them.
func Plan(o Observed) plan.Result {
	if o.Object.GetDeletionTimestamp() != nil {
		switch {
		case has(o.Object, metav1.FinalizerOrphanDependents):
			return o.orphan()
		case has(o.Object, metav1.FinalizerDeleteDependents):
			return o.foreground()
		}
		return plan.Result{}
	}
	return o.dependent()
}

func has(obj kinds.Object, finalizer string) bool {
	return slices.Contains(obj.GetFinalizers(), finalizer)
}

// orphan takes the object out of its dependents' owners, and then goes.
func (o Observed) orphan() plan.Result {
	var res plan.Result
	for _, d := range o.Dependents {
		if len(res.Actions) >= burst {
			return res
		}
		a := setOwners(d.Kind, d.Object, slices.DeleteFunc(slices.Clone(d.Object.GetOwnerReferences()), func(r metav1.OwnerReference) bool {
			return r.UID == o.Object.GetUID()
		}))
		a.Parallel = true
		res.Actions = append(res.Actions, a)
	}
	if len(o.Dependents) > 0 {
		return res
	}
	return o.release(metav1.FinalizerOrphanDependents)
}

// foreground goes once no dependent that blocks is left; they are deleted by
// their own passes.
func (o Observed) foreground() plan.Result {
	if slices.ContainsFunc(o.Dependents, func(d Dependent) bool { return d.Blocking }) {
		return plan.Result{}
	}
	return o.release(metav1.FinalizerDeleteDependents)
}

// release takes a finalizer away.
func (o Observed) release(finalizer string) plan.Result {
	if !o.CaughtUp {
		return plan.Result{After: behind}
	}
	left := slices.DeleteFunc(slices.Clone(o.Object.GetFinalizers()), func(f string) bool { return f == finalizer })
	return plan.Result{Actions: []plan.Action{patch(o.Kind, o.Object, map[string]any{"finalizers": left})}}
}

// dependent looks at the object's owners.
func (o Observed) dependent() plan.Result {
	var res plan.Result
	var live []plan.Live
	var alive, waiting, absent int
	for _, w := range o.Owners {
		switch w.State {
		case Absent:
			absent++
			live = append(live, plan.Live{Want: plan.Absent, Ref: w.Object, UID: w.Ref.UID})
		case Waiting:
			waiting++
			// Another delete may have turned it into an orphaning one since.
			live = append(live, plan.Live{Want: plan.Waiting, Ref: w.Object, UID: w.Ref.UID})
		default:
			alive++
		}
		if w.Misplaced {
			res.Events = append(res.Events, o.misplaced(w))
		}
	}
	switch {
	case absent+waiting == 0:
	case alive > 0:
		// Not its last owner: only the reference goes.
		a := setOwners(o.Kind, o.Object, o.keep())
		a.Live = live
		res.Actions = append(res.Actions, a)
	case waiting > 0 && len(o.Dependents) > 0:
		res.Actions = append(o.unblock(live), o.delete(metav1.DeletePropagationForeground, live))
	default:
		res.Actions = append(res.Actions, o.delete(o.propagation(), live))
	}
	return res
}

// keep are the references to owners that are alive or unknown.
func (o Observed) keep() []metav1.OwnerReference {
	var refs []metav1.OwnerReference
	for _, w := range o.Owners {
		if w.State == Solid || w.State == Unknown {
			refs = append(refs, w.Ref)
		}
	}
	return refs
}

// unblock ends a circle: an object in whose foreground deletion a dependent
// waits already must not block that one in turn.
func (o Observed) unblock(live []plan.Live) []plan.Action {
	circle := slices.ContainsFunc(o.Dependents, func(d Dependent) bool {
		return d.Object.GetDeletionTimestamp() != nil && has(d.Object, metav1.FinalizerDeleteDependents)
	})
	if !circle {
		return nil
	}
	refs := slices.Clone(o.Object.GetOwnerReferences())
	changed, no := false, false
	for i := range refs {
		if refs[i].BlockOwnerDeletion != nil && *refs[i].BlockOwnerDeletion {
			refs[i].BlockOwnerDeletion, changed = &no, true
		}
	}
	if !changed {
		return nil
	}
	a := setOwners(o.Kind, o.Object, refs)
	a.Live = live
	return []plan.Action{a}
}

// propagation that the object's finalizers ask for.
func (o Observed) propagation() metav1.DeletionPropagation {
	switch {
	case has(o.Object, metav1.FinalizerOrphanDependents):
		return metav1.DeletePropagationOrphan
	case has(o.Object, metav1.FinalizerDeleteDependents):
		return metav1.DeletePropagationForeground
	}
	return metav1.DeletePropagationBackground
}

// delete the object as it was seen. After unblock it has a newer revision, so
// only the UID is asked for then.
func (o Observed) delete(p metav1.DeletionPropagation, live []plan.Live) plan.Action {
	a := plan.Action{
		Verb: plan.Delete, Ref: kinds.RefTo(o.Kind, o.Object), UID: o.Object.GetUID(), ResourceVersion: o.Object.GetResourceVersion(),
		Propagation: p, Live: live, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
	}
	if p == metav1.DeletePropagationForeground {
		a.ResourceVersion = ""
	}
	return a
}

func (o Observed) misplaced(w Owner) plan.Event {
	return plan.Event{
		Regarding: kinds.RefTo(o.Kind, o.Object), UID: o.Object.GetUID(), Type: corev1.EventTypeWarning, Reason: "OwnerRefInvalidNamespace",
		Message: "ownerRef [" + w.Ref.APIVersion + "/" + w.Ref.Kind + ", name: " + w.Ref.Name + ", uid: " + string(w.Ref.UID) + "] is namespaced, but its dependent is cluster-scoped",
	}
}

func setOwners(k *kinds.Kind, obj kinds.Object, refs []metav1.OwnerReference) plan.Action {
	if refs == nil {
		refs = []metav1.OwnerReference{}
	}
	a := patch(k, obj, map[string]any{"ownerReferences": refs})
	a.Tolerate = []metav1.StatusReason{metav1.StatusReasonNotFound}
	return a
}

// patch replaces lists in the metadata, so it insists on the revision that was
// seen. It is a merge patch because that works for custom resources too.
func patch(k *kinds.Kind, obj kinds.Object, metadata map[string]any) plan.Action {
	data, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		panic("garbagecollector: " + err.Error()) // strings and booleans always marshal
	}
	return plan.Action{
		Verb: plan.Patch, Ref: kinds.RefTo(k, obj), UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(),
		PatchType: types.MergePatchType, Data: data,
	}
}
