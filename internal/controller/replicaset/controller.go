package replicaset

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// workers plan that many sets at once, as upstream.
const workers = 5

// Controller keeps the pods of ReplicaSets. The view needs view.PodsByOwner,
// view.PodOrphans and view.ReplicaSetsByOwner.
func Controller() reconcile.Controller {
	return declare("replicaset-controller", kinds.ReplicaSet, asReplicaSet)
}

// ReplicationController keeps the pods of ReplicationControllers, by the same
// plan.
func ReplicationController() reconcile.Controller {
	return declare("replication-controller", kinds.ReplicationController, asReplicaSet)
}

func declare(name string, k *kinds.Kind, convert func(kinds.Object) *appsv1.ReplicaSet) reconcile.Controller {
	adopters := reconcile.Adopters(k, func(o kinds.Object) *metav1.LabelSelector { return convert(o).Spec.Selector })
	return reconcile.Controller{
		Name: name, For: k, Owns: []*kinds.Kind{kinds.Pod}, Workers: workers,
		Watches: []reconcile.Watch{{Kind: kinds.Pod, Keys: adopters}}, Reads: []*kinds.Kind{kinds.Namespace},
		Writes: []reconcile.Write{
			{Kind: kinds.Pod, Verbs: []plan.Verb{plan.Create, plan.Delete, plan.Patch}},
			{Kind: k, Sub: "status", Verbs: []plan.Verb{plan.Update}},
		},
		Plan: reconcile.Pair(func(in reconcile.Input) (Observed, bool) { return observe(in, k, convert) }, Plan),
	}
}

func observe(in reconcile.Input, k *kinds.Kind, convert func(kinds.Object) *appsv1.ReplicaSet) (Observed, bool) {
	stored := view.Get[kinds.Object](in.View, k, in.Key.Namespace, in.Key.Name)
	if stored == nil {
		return Observed{}, false
	}
	o := Observed{
		Set: convert(stored), Kind: k, Stored: stored, Now: in.Now, Suffix: in.Suffix,
		Owned:   slices.Collect(view.By[*corev1.Pod](in.View, view.PodsByOwner, string(stored.GetUID()))),
		Orphans: slices.Collect(view.By[*corev1.Pod](in.View, view.PodOrphans, stored.GetNamespace())),
	}
	if o.Set.Spec.Replicas == nil || o.Set.Spec.Selector == nil {
		return Observed{}, false // not defaulted: not from our server
	}
	ns := view.Get[*corev1.Namespace](in.View, kinds.Namespace, "", stored.GetNamespace())
	o.Ending = ns != nil && ns.DeletionTimestamp != nil
	if f := in.Failure; f != nil && f.Kind == kinds.Pod {
		o.Failure, o.CreateFailed = f.Message, f.Verb == plan.Create
	}
	if len(active(o.Owned)) > int(*o.Set.Spec.Replicas) {
		o.Neighbours = neighbours(in.View, stored)
	}
	return o, true
}

// neighbours counts the pods per node of the other sets of the same owner; it
// is only needed to choose which pods to delete.
func neighbours(s *view.Snapshot, set kinds.Object) map[string]int {
	ref := metav1.GetControllerOfNoCopy(set)
	if ref == nil {
		return nil
	}
	count := map[string]int{}
	for rs := range view.By[*appsv1.ReplicaSet](s, view.ReplicaSetsByOwner, string(ref.UID)) {
		if rs.UID == set.GetUID() {
			continue
		}
		for p := range view.By[*corev1.Pod](s, view.PodsByOwner, string(rs.UID)) {
			if isActive(p) && p.Spec.NodeName != "" {
				count[p.Spec.NodeName]++
			}
		}
	}
	return count
}

// asReplicaSet gives both kinds one form. Nothing is copied that is only read.
func asReplicaSet(o kinds.Object) *appsv1.ReplicaSet {
	rc, ok := o.(*corev1.ReplicationController)
	if !ok {
		return o.(*appsv1.ReplicaSet)
	}
	rs := &appsv1.ReplicaSet{ObjectMeta: rc.ObjectMeta, Spec: appsv1.ReplicaSetSpec{
		Replicas: rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds,
		Selector: &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
	}, Status: appsv1.ReplicaSetStatus{
		Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas, ReadyReplicas: rc.Status.ReadyReplicas,
		AvailableReplicas: rc.Status.AvailableReplicas, ObservedGeneration: rc.Status.ObservedGeneration,
	}}
	if rc.Spec.Template != nil {
		rs.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rs
}
