package storagemigration

import (
	"slices"
	"strconv"

	migrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// workers migrate that many resources at once, as upstream.
const workers = 5

// Controller migrates the kinds that the view holds, custom ones included.
func Controller(all []*kinds.Kind) reconcile.Controller {
	c := reconcile.Controller{
		Name: "storage-version-migrator-controller", For: kinds.StorageVersionMigration, Workers: workers,
		Reads:  append(slices.Clone(all), kinds.Custom),
		Writes: []reconcile.Write{{Kind: kinds.StorageVersionMigration, Sub: "status", Verbs: []plan.Verb{plan.Update}}},
	}
	for _, k := range c.Reads {
		if patchable(k) {
			c.Writes = append(c.Writes, reconcile.Write{Kind: k, Verbs: []plan.Verb{plan.Patch}})
		}
	}
	c.Plan = reconcile.Pair(observe, Plan)
	return c
}

func patchable(k *kinds.Kind) bool { return k.Verbs == nil || slices.Contains(k.Verbs, "patch") }

func observe(in reconcile.Input) (Observed, bool) {
	m := view.Get[*migrationv1.StorageVersionMigration](in.View, kinds.StorageVersionMigration, "", in.Key.Name)
	if m == nil || m.DeletionTimestamp != nil || ended(m) {
		return Observed{}, false
	}
	o := Observed{Migration: m, Now: in.Now, Failure: in.Failure}
	k := in.View.ByName(schema.GroupResource{Group: m.Spec.Resource.Group, Resource: m.Spec.Resource.Resource})
	if k == nil {
		return o, true
	}
	o.Kind, o.Patchable = k, patchable(k)
	o.Revision = strconv.FormatInt(in.View.Rev(k), 10)
	o.Objects = slices.Collect(view.List[kinds.Object](in.View, k, ""))
	return o, true
}
