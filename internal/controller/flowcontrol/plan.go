// Package flowcontrol keeps the flow schemas and priority levels that every
// cluster has, and tells in each schema's status whether its level exists.
package flowcontrol

import (
	"slices"
	"strconv"
	"strings"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// maxStatus bounds the statuses that one pass writes; each wakes the next.
const maxStatus = 50

// Standard is an object that every cluster has. A mandatory one is as it is, a
// suggested one may be changed by its owner.
type Standard struct {
	Kind      *kinds.Kind
	Object    kinds.Object // with its defaults
	Mandatory bool
}

// Observed is what should be and what there is.
type Observed struct {
	Standard []Standard
	Schemas  []*flowcontrolv1.FlowSchema
	Levels   []*flowcontrolv1.PriorityLevelConfiguration
	Now      time.Time
}

// Plan creates what is missing, puts back what its owner has not taken over,
// deletes what earlier versions had, and keeps the statuses.
func Plan(o Observed) plan.Result {
	var res plan.Result
	have := map[kinds.Ref]kinds.Object{}
	for _, l := range o.Levels {
		have[kinds.RefTo(kinds.PriorityLevelConfiguration, l)] = l
	}
	for _, f := range o.Schemas {
		have[kinds.RefTo(kinds.FlowSchema, f)] = f
	}
	touched, wanted := map[kinds.Ref]bool{}, map[kinds.Ref]bool{}
	for _, s := range o.Standard {
		ref := kinds.RefTo(s.Kind, s.Object)
		wanted[ref] = true
		is, ok := have[ref]
		switch {
		case !ok:
			res.Actions = append(res.Actions, plan.Action{Verb: plan.Create, Ref: ref, Object: s.Object.DeepCopyObject(),
				Tolerate: []metav1.StatusReason{metav1.StatusReasonAlreadyExists}})
		case is.GetDeletionTimestamp() == nil:
			if next := mended(s, is); next != nil {
				touched[ref] = true
				res.Actions = append(res.Actions, plan.Action{Verb: plan.Update, Ref: ref, Object: next})
			}
		}
	}
	res.Actions = append(res.Actions, leftover(o, wanted)...)
	res.Actions = append(res.Actions, statuses(o, touched)...)
	return res
}

// mended returns the object as it has to be, or nil if it is.
func mended(s Standard, is kinds.Object) kinds.Object {
	ours, said := autoUpdate(is)
	if s.Mandatory || !said && is.GetGeneration() == 1 { // nobody has changed it
		ours = true
	}
	value := strconv.FormatBool(ours)
	next := is.DeepCopyObject().(kinds.Object)
	changed := false
	if already, ok := autoUpdate(is); !ok || already != ours {
		a := next.GetAnnotations()
		if a == nil {
			a = map[string]string{}
		}
		a[flowcontrolv1.AutoUpdateAnnotationKey] = value
		next.SetAnnotations(a)
		changed = true
	}
	if ours && setSpec(next, s.Object) {
		changed = true
	}
	if !changed {
		return nil
	}
	return next
}

// autoUpdate reads whether the object follows us; said is false if nothing
// that can be understood says so.
func autoUpdate(o kinds.Object) (ours, said bool) {
	v, err := strconv.ParseBool(o.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey])
	return v, err == nil
}

// setSpec reports whether the spec had to change.
func setSpec(next, want kinds.Object) bool {
	switch n := next.(type) {
	case *flowcontrolv1.FlowSchema:
		w := want.(*flowcontrolv1.FlowSchema).Spec.DeepCopy()
		if equality.Semantic.DeepEqual(&n.Spec, w) {
			return false
		}
		n.Spec = *w
	case *flowcontrolv1.PriorityLevelConfiguration:
		w := want.(*flowcontrolv1.PriorityLevelConfiguration).Spec.DeepCopy()
		if w.Exempt != nil && n.Spec.Exempt != nil { // how much it lends is the administrator's
			w.Exempt = n.Spec.Exempt
		}
		if equality.Semantic.DeepEqual(&n.Spec, w) {
			return false
		}
		n.Spec = *w
	}
	return true
}

// leftover deletes what is marked as ours and is none of the standard objects.
func leftover(o Observed, wanted map[kinds.Ref]bool) []plan.Action {
	var out []plan.Action
	drop := func(k *kinds.Kind, obj kinds.Object) {
		ref := kinds.RefTo(k, obj)
		if ours, _ := autoUpdate(obj); ours && !wanted[ref] && obj.GetDeletionTimestamp() == nil {
			out = append(out, plan.Action{Verb: plan.Delete, Ref: ref, UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(),
				Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound}})
		}
	}
	for _, f := range o.Schemas {
		drop(kinds.FlowSchema, f)
	}
	for _, l := range o.Levels {
		drop(kinds.PriorityLevelConfiguration, l)
	}
	slices.SortFunc(out, func(a, b plan.Action) int { return strings.Compare(a.Ref.String(), b.Ref.String()) })
	return out
}

// statuses say of each schema whether its level exists. One whose spec is
// about to change is left for the next pass.
func statuses(o Observed, touched map[kinds.Ref]bool) []plan.Action {
	levels := map[string]bool{}
	for _, l := range o.Levels {
		levels[l.Name] = true
	}
	for _, s := range o.Standard { // about to be created
		if s.Kind == kinds.PriorityLevelConfiguration {
			levels[s.Object.GetName()] = true
		}
	}
	schemas := slices.Clone(o.Schemas)
	slices.SortFunc(schemas, func(a, b *flowcontrolv1.FlowSchema) int { return strings.Compare(a.Name, b.Name) })
	var out []plan.Action
	for _, f := range schemas {
		ref := kinds.RefTo(kinds.FlowSchema, f).WithSub("status")
		if len(out) == maxStatus || touched[kinds.RefTo(kinds.FlowSchema, f)] || f.DeletionTimestamp != nil {
			continue
		}
		name := f.Spec.PriorityLevelConfiguration.Name
		c := flowcontrolv1.FlowSchemaCondition{Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, Reason: "Found", LastTransitionTime: metav1.NewTime(o.Now),
			Message: "This FlowSchema references the PriorityLevelConfiguration object named " + strconv.Quote(name) + " and it exists"}
		if !levels[name] {
			c.Status, c.Reason = flowcontrolv1.ConditionTrue, "NotFound"
			c.Message = "This FlowSchema references the PriorityLevelConfiguration object named " + strconv.Quote(name) + " but there is no such object"
		}
		at := slices.IndexFunc(f.Status.Conditions, func(h flowcontrolv1.FlowSchemaCondition) bool { return h.Type == c.Type })
		next := f.DeepCopy()
		if at < 0 {
			next.Status.Conditions = append(next.Status.Conditions, c)
		} else if h := f.Status.Conditions[at]; h.Status == c.Status && h.Reason == c.Reason && h.Message == c.Message {
			continue
		} else {
			next.Status.Conditions[at] = c
		}
		out = append(out, plan.Action{Verb: plan.Update, Ref: ref, Object: next})
	}
	return out
}
