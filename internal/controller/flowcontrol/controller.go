package flowcontrol

import (
	"slices"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Controller looks at all objects when any of them changes: they are few.
func Controller() reconcile.Controller {
	standard := upstream()
	all := func(*view.Snapshot, view.Change) []reconcile.Key { return []reconcile.Key{{}} }
	return reconcile.Controller{
		Name:    "flowcontrol-controller",
		Watches: []reconcile.Watch{{Kind: kinds.FlowSchema, Keys: all}, {Kind: kinds.PriorityLevelConfiguration, Keys: all}},
		Writes: []reconcile.Write{
			{Kind: kinds.FlowSchema, Verbs: []plan.Verb{plan.Create, plan.Update, plan.Delete}},
			{Kind: kinds.FlowSchema, Sub: "status", Verbs: []plan.Verb{plan.Update}},
			{Kind: kinds.PriorityLevelConfiguration, Verbs: []plan.Verb{plan.Create, plan.Update, plan.Delete}},
		},
		Plan: func(in reconcile.Input) plan.Result {
			return Plan(Observed{
				Standard: standard, Now: in.Now,
				Schemas: slices.Collect(view.List[*flowcontrolv1.FlowSchema](in.View, kinds.FlowSchema, "")),
				Levels:  slices.Collect(view.List[*flowcontrolv1.PriorityLevelConfiguration](in.View, kinds.PriorityLevelConfiguration, "")),
			})
		},
	}
}

// upstream's objects, the levels before the schemas that name them.
func upstream() []Standard {
	var out []Standard
	add := func(k *kinds.Kind, o kinds.Object, mandatory bool) {
		o = o.DeepCopyObject().(kinds.Object)
		k.Default(o)
		out = append(out, Standard{k, o, mandatory})
	}
	for _, l := range bootstrap.MandatoryPriorityLevelConfigurations {
		add(kinds.PriorityLevelConfiguration, l, true)
	}
	for _, l := range bootstrap.SuggestedPriorityLevelConfigurations {
		add(kinds.PriorityLevelConfiguration, l, false)
	}
	for _, f := range bootstrap.MandatoryFlowSchemas {
		add(kinds.FlowSchema, f, true)
	}
	for _, f := range bootstrap.SuggestedFlowSchemas {
		add(kinds.FlowSchema, f, false)
	}
	return out
}
