package deployment

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

// workers plan that many Deployments at once, as upstream.
const workers = 5

// Controller rolls Deployments out. The view needs view.ReplicaSetsByOwner,
// view.ReplicaSetOrphans and view.PodsByOwner.
func Controller() reconcile.Controller {
	adopters := reconcile.Adopters(kinds.Deployment, func(o kinds.Object) *metav1.LabelSelector { return o.(*appsv1.Deployment).Spec.Selector })
	return reconcile.Controller{
		Name: "deployment-controller", For: kinds.Deployment, Owns: []*kinds.Kind{kinds.ReplicaSet}, Workers: workers,
		Watches: []reconcile.Watch{{Kind: kinds.ReplicaSet, Keys: adopters}, {Kind: kinds.Pod, Keys: recreated}},
		Writes: []reconcile.Write{
			{Kind: kinds.ReplicaSet, Verbs: []plan.Verb{plan.Create, plan.Update, plan.Patch, plan.Delete}},
			{Kind: kinds.Deployment, Verbs: []plan.Verb{plan.Patch}},
			{Kind: kinds.Deployment, Sub: "status", Verbs: []plan.Verb{plan.Update}},
		},
		Plan: reconcile.Pair(observe, Plan),
	}
}

// recreated wakes a Deployment that waits for its last old pod to end.
func recreated(s *view.Snapshot, c view.Change) []reconcile.Key {
	if p, ok := c.New.(*corev1.Pod); ok && p != nil && !finished(p) {
		return nil
	}
	ref := metav1.GetControllerOfNoCopy(c.Object())
	if ref == nil || ref.Kind != kinds.ReplicaSet.GVK.Kind {
		return nil
	}
	rs := view.Get[*appsv1.ReplicaSet](s, kinds.ReplicaSet, c.Object().GetNamespace(), ref.Name)
	if rs == nil || rs.UID != ref.UID {
		return nil
	}
	owner := metav1.GetControllerOfNoCopy(rs)
	if owner == nil || owner.Kind != kinds.Deployment.GVK.Kind {
		return nil
	}
	d := view.Get[*appsv1.Deployment](s, kinds.Deployment, rs.Namespace, owner.Name)
	if d == nil || d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		return nil
	}
	return []reconcile.Key{reconcile.KeyOf(d)}
}

func observe(in reconcile.Input) (Observed, bool) {
	d := view.Get[*appsv1.Deployment](in.View, kinds.Deployment, in.Key.Namespace, in.Key.Name)
	if d == nil || d.Spec.Replicas == nil || d.Spec.Selector == nil {
		return Observed{}, false
	}
	o := Observed{
		Deployment: d, Now: in.Now,
		Owned:   slices.Collect(view.By[*appsv1.ReplicaSet](in.View, view.ReplicaSetsByOwner, string(d.UID))),
		Orphans: slices.Collect(view.By[*appsv1.ReplicaSet](in.View, view.ReplicaSetOrphans, d.Namespace)),
	}
	if f := in.Failure; f != nil && f.Kind == kinds.ReplicaSet && f.Verb == plan.Create {
		o.CreateFailure = f.Message
	}
	current, old := split(d, o.Owned)
	if current == nil {
		name, _ := Name(d)
		o.Namesake = view.Get[*appsv1.ReplicaSet](in.View, kinds.ReplicaSet, d.Namespace, name)
	}
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		o.OldPods = slices.ContainsFunc(old, func(rs *appsv1.ReplicaSet) bool {
			for p := range view.By[*corev1.Pod](in.View, view.PodsByOwner, string(rs.UID)) {
				if !finished(p) {
					return true
				}
			}
			return false
		})
	}
	return o, true
}

func finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}
