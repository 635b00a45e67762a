package endpoints

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

const workers = 5

// Controller keeps the Endpoints of all services. The view needs
// view.SlicesByService.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "endpoint-controller", For: kinds.Service, Workers: workers,
		Watches: []reconcile.Watch{
			{Kind: kinds.EndpointSlice, Keys: sliceKeys},
			{Kind: kinds.Endpoints, Keys: func(_ *view.Snapshot, c view.Change) []reconcile.Key {
				return []reconcile.Key{reconcile.KeyOf(c.Object())}
			}},
		},
		Writes: []reconcile.Write{{Kind: kinds.Endpoints, Verbs: []plan.Verb{plan.Create, plan.Update, plan.Delete}}},
		Plan:   reconcile.Pair(observe, Plan),
	}
}

func observe(in reconcile.Input) (Observed, bool) {
	ns, name := in.Key.Namespace, in.Key.Name
	return Observed{
		Service: view.Get[*corev1.Service](in.View, kinds.Service, ns, name),
		Slices:  slices.Collect(view.By[*discoveryv1.EndpointSlice](in.View, view.SlicesByService, ns+"/"+name)),
		Have:    view.Get[*corev1.Endpoints](in.View, kinds.Endpoints, ns, name),
	}, true
}

func sliceKeys(_ *view.Snapshot, c view.Change) []reconcile.Key {
	if c.Object().GetLabels()[discoveryv1.LabelManagedBy] != sliceManager {
		return nil
	}
	return []reconcile.Key{{Namespace: c.Object().GetNamespace(), Name: c.Object().GetLabels()[discoveryv1.LabelServiceName]}}
}
