package statefulset

import (
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// workers plan that many sets at once, as upstream.
const workers = 5

// Controller keeps the pods of StatefulSets. The view needs view.PodsByOwner,
// view.PodOrphans, view.RevisionsByOwner and view.RevisionOrphans.
func Controller() reconcile.Controller {
	adopters := reconcile.Adopters(kinds.StatefulSet, func(o kinds.Object) *metav1.LabelSelector { return o.(*appsv1.StatefulSet).Spec.Selector })
	return reconcile.Controller{
		Name: "statefulset-controller", For: kinds.StatefulSet, Owns: []*kinds.Kind{kinds.Pod}, Workers: workers,
		Watches: []reconcile.Watch{
			{Kind: kinds.Pod, Keys: adopters},
			{Kind: kinds.ControllerRevision, Keys: adopters},
			{Kind: kinds.ControllerRevision, Keys: reconcile.ChangedOwners(kinds.StatefulSet)},
			{Kind: kinds.PersistentVolumeClaim, Keys: claimants},
		},
		Writes: []reconcile.Write{
			{Kind: kinds.Pod, Verbs: []plan.Verb{plan.Create, plan.Update, plan.Patch, plan.Delete}},
			{Kind: kinds.ControllerRevision, Verbs: []plan.Verb{plan.Create, plan.Update, plan.Patch, plan.Delete}},
			{Kind: kinds.PersistentVolumeClaim, Verbs: []plan.Verb{plan.Create, plan.Update}},
			{Kind: kinds.StatefulSet, Sub: "status", Verbs: []plan.Verb{plan.Update}},
		},
		Plan: reconcile.Pair(observe, Plan),
	}
}

// claimants finds the set that a claim is of, by its name, when the claim came
// to an end or changed owners; that it is bound or grows is no matter.
func claimants(s *view.Snapshot, c view.Change) []reconcile.Key {
	if c.New != nil && c.New.GetDeletionTimestamp() == nil &&
		(c.Old == nil || apiequality.Semantic.DeepEqual(c.Old.GetOwnerReferences(), c.New.GetOwnerReferences())) {
		return nil
	}
	var keys []reconcile.Key
	name := c.Object().GetName()
	for set := range view.List[*appsv1.StatefulSet](s, kinds.StatefulSet, c.Object().GetNamespace()) {
		if slices.ContainsFunc(set.Spec.VolumeClaimTemplates, func(t corev1.PersistentVolumeClaim) bool {
			return strings.HasPrefix(name, t.Name+"-"+set.Name+"-")
		}) {
			keys = append(keys, reconcile.KeyOf(set))
		}
	}
	return keys
}

func observe(in reconcile.Input) (Observed, bool) {
	set := view.Get[*appsv1.StatefulSet](in.View, kinds.StatefulSet, in.Key.Namespace, in.Key.Name)
	if set == nil || set.Spec.Replicas == nil || set.Spec.Selector == nil {
		return Observed{}, false // not defaulted: not from our server
	}
	return Observed{
		Set: set, Now: in.Now,
		Owned:           slices.Collect(view.By[*corev1.Pod](in.View, view.PodsByOwner, string(set.UID))),
		Orphans:         slices.Collect(view.By[*corev1.Pod](in.View, view.PodOrphans, set.Namespace)),
		Revisions:       slices.Collect(view.By[*appsv1.ControllerRevision](in.View, view.RevisionsByOwner, string(set.UID))),
		OrphanRevisions: slices.Collect(view.By[*appsv1.ControllerRevision](in.View, view.RevisionOrphans, set.Namespace)),
		Revision: func(name string) *appsv1.ControllerRevision {
			return view.Get[*appsv1.ControllerRevision](in.View, kinds.ControllerRevision, set.Namespace, name)
		},
		Claim: func(name string) *corev1.PersistentVolumeClaim {
			return view.Get[*corev1.PersistentVolumeClaim](in.View, kinds.PersistentVolumeClaim, set.Namespace, name)
		},
	}, true
}
