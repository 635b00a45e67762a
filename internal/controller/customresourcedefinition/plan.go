// Package customresourcedefinition decides which names custom resources get,
// and lets a definition go only when its objects are gone.
package customresourcedefinition

import (
	"fmt"
	"slices"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// burst bounds the objects that one pass deletes.
const burst = 500

// Observed is a definition and what it depends on.
type Observed struct {
	CRD *apiextensionsv1.CustomResourceDefinition
	// Others of the same group.
	Others []*apiextensionsv1.CustomResourceDefinition
	// Kind of its objects; nil as long as it is not served.
	Kind    *kinds.Kind
	Objects []kinds.Object
	Failure string // why the last pass could not delete
	Now     time.Time
}

// Plan accepts names, or empties a definition that is being deleted.
func Plan(o Observed) plan.Result {
	if o.CRD.DeletionTimestamp != nil {
		return o.finish()
	}
	next := o.CRD.DeepCopy()
	o.names(&next.Status)
	if apiequality.Semantic.DeepEqual(next.Status, o.CRD.Status) {
		return plan.Result{}
	}
	return plan.Result{Actions: []plan.Action{o.status(next)}}
}

func (o Observed) status(next *apiextensionsv1.CustomResourceDefinition) plan.Action {
	return plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.CustomResourceDefinition, next).WithSub("status"), Object: next}
}

// finish deletes the objects and then takes the finalizer away, once the
// server confirms that nothing is left.
func (o Observed) finish() plan.Result {
	if !slices.Contains(o.CRD.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) {
		return plan.Result{}
	}
	var r plan.Result
	for _, obj := range o.Objects {
		if len(r.Actions) == burst {
			break
		}
		if obj.GetDeletionTimestamp() == nil {
			r.Actions = append(r.Actions, plan.Action{Verb: plan.Delete, Ref: kinds.RefTo(o.Kind, obj), UID: obj.GetUID(), Parallel: true,
				Propagation: metav1.DeletePropagationBackground, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound}})
		}
	}
	next := o.CRD.DeepCopy()
	c := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue,
		Reason: "InstanceDeletionInProgress", Message: "CustomResource deletion is in progress"}
	switch {
	case o.Failure != "":
		c.Reason, c.Message = "InstanceDeletionFailed", "could not list or delete instances: "+o.Failure
	case len(o.Objects) == 0:
		c.Status, c.Reason, c.Message = apiextensionsv1.ConditionFalse, "InstanceDeletionCompleted", "removed all instances"
	}
	if o.condition(&next.Status, c) {
		status := o.status(next)
		if o.Failure != "" { // what failed will likely fail again and end the pass
			r.Actions = append([]plan.Action{status}, r.Actions...)
			return r
		}
		r.Actions = append(r.Actions, status)
		return r
	}
	if len(o.Objects) == 0 {
		next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == apiextensionsv1.CustomResourceCleanupFinalizer })
		a := plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.CustomResourceDefinition, next), Object: next}
		if o.Kind != nil {
			a.Live = []plan.Live{{Want: plan.Empty, Ref: kinds.Ref{Kind: o.Kind}}}
		}
		r.Actions = append(r.Actions, a)
	}
	return r
}

// names gives the definition what it asks for unless another one has it. Each
// name is looked at, so that the status is as good as it can be.
func (o Observed) names(s *apiextensionsv1.CustomResourceDefinitionStatus) {
	resources, kindsTaken := map[string]bool{}, map[string]bool{}
	for _, other := range o.Others {
		n := other.Status.AcceptedNames
		for _, r := range append([]string{n.Plural, n.Singular}, n.ShortNames...) {
			resources[r] = true
		}
		kindsTaken[n.Kind], kindsTaken[n.ListKind] = true, true
	}
	delete(resources, "")
	delete(kindsTaken, "")
	want, have := o.CRD.Spec.Names, &s.AcceptedNames
	accepted := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue,
		Reason: "NoConflicts", Message: "no conflicts found"}
	taken := func(reason, name string) {
		accepted.Status, accepted.Reason, accepted.Message = apiextensionsv1.ConditionFalse, reason, fmt.Sprintf("%q is already in use", name)
	}
	for _, n := range []struct {
		want   string
		have   *string
		used   map[string]bool
		reason string
	}{
		{want.Plural, &have.Plural, resources, "PluralConflict"},
		{want.Singular, &have.Singular, resources, "SingularConflict"},
		{want.Kind, &have.Kind, kindsTaken, "KindConflict"},
		{want.ListKind, &have.ListKind, kindsTaken, "ListKindConflict"},
	} {
		if n.want != *n.have && n.used[n.want] {
			taken(n.reason, n.want)
			continue
		}
		*n.have = n.want
	}
	free := true
	for _, short := range want.ShortNames {
		if !slices.Contains(have.ShortNames, short) && resources[short] {
			taken("ShortNamesConflict", short)
			free = false
		}
	}
	if free {
		have.ShortNames = want.ShortNames
	}
	have.Categories = want.Categories
	o.condition(s, accepted)
	if i := slices.IndexFunc(s.Conditions, is(apiextensionsv1.Established)); i >= 0 && s.Conditions[i].Status == apiextensionsv1.ConditionTrue {
		return // what is served goes on under the names that it has
	}
	established := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse,
		Reason: "NotAccepted", Message: "not all names are accepted"}
	if accepted.Status == apiextensionsv1.ConditionTrue {
		// The apiserver says that it is established once it serves the objects.
		established.Reason, established.Message = "Installing", "the initial names have been accepted"
	}
	o.condition(s, established)
}

func is(t apiextensionsv1.CustomResourceDefinitionConditionType) func(apiextensionsv1.CustomResourceDefinitionCondition) bool {
	return func(c apiextensionsv1.CustomResourceDefinitionCondition) bool { return c.Type == t }
}

// condition sets c, and reports whether that changes anything.
func (o Observed) condition(s *apiextensionsv1.CustomResourceDefinitionStatus, c apiextensionsv1.CustomResourceDefinitionCondition) bool {
	c.LastTransitionTime = metav1.NewTime(o.Now)
	i := slices.IndexFunc(s.Conditions, is(c.Type))
	if i < 0 {
		s.Conditions = append(s.Conditions, c)
		return true
	}
	have := s.Conditions[i]
	if have.Status == c.Status {
		c.LastTransitionTime = have.LastTransitionTime
	}
	c.ObservedGeneration = have.ObservedGeneration
	s.Conditions[i] = c
	return have != c
}
