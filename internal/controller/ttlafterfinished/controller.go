package ttlafterfinished

import (
	batchv1 "k8s.io/api/batch/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// workers plan that many jobs at once, as upstream.
const workers = 5

// Controller deletes jobs that have ended.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "ttl-after-finished-controller", For: kinds.Job, Workers: workers,
		Writes: []reconcile.Write{{Kind: kinds.Job, Verbs: []plan.Verb{plan.Delete}}},
		Plan: reconcile.Pair(func(in reconcile.Input) (Observed, bool) {
			j := view.Get[*batchv1.Job](in.View, kinds.Job, in.Key.Namespace, in.Key.Name)
			return Observed{Job: j, Now: in.Now}, j != nil
		}, Plan),
	}
}
