package customresourcedefinition

import (
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Controller keeps the definitions. objects are what it watches and deletes:
// all custom kinds. held is the kind under which the view holds a resource's
// objects, or nil.
func Controller(objects *kinds.Kind, held func(*view.Snapshot, schema.GroupResource) *kinds.Kind) reconcile.Controller {
	c := reconcile.Controller{
		Name: "customresourcedefinition-controller", For: kinds.CustomResourceDefinition,
		Watches: []reconcile.Watch{
			{Kind: kinds.CustomResourceDefinition, Keys: group},
			{Kind: objects, Keys: terminating},
		},
		Writes: []reconcile.Write{
			{Kind: kinds.CustomResourceDefinition, Verbs: []plan.Verb{plan.Update}},
			{Kind: kinds.CustomResourceDefinition, Sub: "status", Verbs: []plan.Verb{plan.Update}},
			{Kind: objects, Verbs: []plan.Verb{plan.Delete}},
		},
	}
	c.Plan = reconcile.Pair(func(in reconcile.Input) (Observed, bool) { return observe(in, held) }, Plan)
	return c
}

// group: a definition that frees a name, or takes one, concerns its group.
func group(s *view.Snapshot, c view.Change) []reconcile.Key {
	crd, ok := c.Object().(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return nil
	}
	var keys []reconcile.Key
	for other := range view.List[*apiextensionsv1.CustomResourceDefinition](s, kinds.CustomResourceDefinition, "") {
		if other.Spec.Group == crd.Spec.Group && other.Name != crd.Name {
			keys = append(keys, reconcile.KeyOf(other))
		}
	}
	return keys
}

// terminating wakes the definition of an object, if it is being deleted.
func terminating(s *view.Snapshot, c view.Change) []reconcile.Key {
	name := c.Kind.Resource + "." + c.Kind.GVK.Group
	crd := view.Get[*apiextensionsv1.CustomResourceDefinition](s, kinds.CustomResourceDefinition, "", name)
	if crd == nil || crd.DeletionTimestamp == nil {
		return nil
	}
	return []reconcile.Key{{Name: name}}
}

func observe(in reconcile.Input, held func(*view.Snapshot, schema.GroupResource) *kinds.Kind) (Observed, bool) {
	o := Observed{Now: in.Now, CRD: view.Get[*apiextensionsv1.CustomResourceDefinition](in.View, kinds.CustomResourceDefinition, "", in.Key.Name)}
	if o.CRD == nil {
		return o, false
	}
	if in.Failure != nil {
		o.Failure = in.Failure.Message
	}
	if o.CRD.DeletionTimestamp == nil {
		for other := range view.List[*apiextensionsv1.CustomResourceDefinition](in.View, kinds.CustomResourceDefinition, "") {
			if other.Spec.Group == o.CRD.Spec.Group && other.UID != o.CRD.UID {
				o.Others = append(o.Others, other)
			}
		}
		return o, true
	}
	if o.Kind = held(in.View, schema.GroupResource{Group: o.CRD.Spec.Group, Resource: o.CRD.Spec.Names.Plural}); o.Kind != nil {
		o.Objects = slices.Collect(view.List[kinds.Object](in.View, o.Kind, ""))
	}
	return o, true
}
