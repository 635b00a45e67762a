package disruption

import (
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// workers count that many budgets at once; upstream takes one after the other.
const workers = 5

// podKey marks the keys of pods; no name has a slash.
const podKey = "pod/"

// Controller keeps the budgets. Its keys are those of budgets, and of pods that
// say that they will be disrupted. Pods of custom kinds count by the scale of
// these, which the table knows how to read; that, and nothing else of custom
// objects, is looked at, so they are not among the declared reads: bootstrap
// grants "get" on scales instead.
func Controller(table *kinds.Table) reconcile.Controller {
	return reconcile.Controller{
		Name: "disruption-controller", For: kinds.PodDisruptionBudget, Workers: workers,
		Watches: []reconcile.Watch{
			{Kind: kinds.Pod, Keys: podKeys},
			{Kind: kinds.Deployment, Keys: scaledKeys}, {Kind: kinds.ReplicaSet, Keys: scaledKeys},
			{Kind: kinds.StatefulSet, Keys: scaledKeys}, {Kind: kinds.ReplicationController, Keys: scaledKeys},
		},
		Writes: []reconcile.Write{
			{Kind: kinds.PodDisruptionBudget, Sub: "status", Verbs: []plan.Verb{plan.Update}},
			{Kind: kinds.Pod, Sub: "status", Verbs: []plan.Verb{plan.Patch}},
		},
		Plan: func(in reconcile.Input) plan.Result {
			if name, ok := strings.CutPrefix(in.Key.Name, podKey); ok {
				if p := view.Get[*corev1.Pod](in.View, kinds.Pod, in.Key.Namespace, name); p != nil {
					return PlanPod(p, budgetsOf(in.View, p), in.Now)
				}
				return plan.Result{}
			}
			o, ok := observe(in, table)
			if !ok {
				return plan.Result{}
			}
			return Plan(o)
		},
	}
}

// budgetsOf are the names of the budgets that select a pod, in order.
func budgetsOf(s *view.Snapshot, p *corev1.Pod) []string {
	var names []string
	for b := range view.List[*policyv1.PodDisruptionBudget](s, kinds.PodDisruptionBudget, p.Namespace) {
		if sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && sel.Matches(labels.Set(p.Labels)) {
			names = append(names, b.Name)
		}
	}
	slices.Sort(names)
	return names
}

// podKeys are the budgets that select a pod, or did, and the pod itself if its
// word may have to be taken back, or more than one budget selects it.
func podKeys(s *view.Snapshot, c view.Change) []reconcile.Key {
	var keys []reconcile.Key
	for b := range view.List[*policyv1.PodDisruptionBudget](s, kinds.PodDisruptionBudget, c.Object().GetNamespace()) {
		sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && slices.ContainsFunc([]kinds.Object{c.Old, c.New}, func(p kinds.Object) bool { return p != nil && sel.Matches(labels.Set(p.GetLabels())) }) {
			keys = append(keys, reconcile.KeyOf(b))
		}
	}
	if p, ok := c.New.(*corev1.Pod); ok && (doomed(p) != nil || len(keys) > 1 && len(budgetsOf(s, p)) > 1) {
		keys = append(keys, reconcile.Key{Namespace: p.Namespace, Name: podKey + p.Name})
	}
	return keys
}

// scaledKeys are the budgets of a namespace in which an owner of pods comes,
// goes or is scaled.
func scaledKeys(s *view.Snapshot, c view.Change) []reconcile.Key {
	if c.Old != nil && c.New != nil {
		if sc := scaleOf(c.Kind); sc == nil || sc.Spec(c.Old) == sc.Spec(c.New) {
			return nil
		}
	}
	var keys []reconcile.Key
	for b := range view.List[*policyv1.PodDisruptionBudget](s, kinds.PodDisruptionBudget, c.Object().GetNamespace()) {
		keys = append(keys, reconcile.KeyOf(b))
	}
	return keys
}

func scaleOf(k *kinds.Kind) *kinds.Scale { return k.Subresources["scale"].Scale }

func observe(in reconcile.Input, table *kinds.Table) (Observed, bool) {
	b := view.Get[*policyv1.PodDisruptionBudget](in.View, kinds.PodDisruptionBudget, in.Key.Namespace, in.Key.Name)
	if b == nil || b.DeletionTimestamp != nil {
		return Observed{}, false
	}
	o := Observed{Budget: b, Now: in.Now, Owners: map[types.UID]Owner{}}
	sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		o.BadSelector = err.Error()
		return o, true
	}
	for p := range view.List[*corev1.Pod](in.View, kinds.Pod, b.Namespace) {
		if !sel.Matches(labels.Set(p.Labels)) {
			continue
		}
		o.Pods = append(o.Pods, p)
		if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
			if _, known := o.Owners[ref.UID]; !known {
				o.Owners[ref.UID] = ownerOf(in.View, table, b.Namespace, ref)
			}
		}
	}
	return o, true
}

// ownerOf looks the owner of pods up; that of a replica set is the deployment
// that it is a part of.
func ownerOf(s *view.Snapshot, table *kinds.Table, namespace string, ref *metav1.OwnerReference) Owner {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return Owner{Err: err.Error()}
	}
	k := table.ByGVK(gv.WithKind(ref.Kind))
	if k == nil {
		return Owner{Err: fmt.Sprintf("no matches for kind %q in version %q", ref.Kind, ref.APIVersion)}
	}
	if scaleOf(k) == nil {
		return Owner{Err: fmt.Sprintf("%s does not implement the scale subresource", k.GroupResource())}
	}
	if k.Load != nil {
		return customOwner(s, table, k, namespace, ref)
	}
	obj := view.Get[kinds.Object](s, k, namespace, ref.Name)
	if obj == nil || obj.GetUID() != ref.UID {
		return Owner{Missing: true}
	}
	if rs, ok := obj.(*appsv1.ReplicaSet); ok {
		if above := metav1.GetControllerOfNoCopy(rs); above != nil && above.Kind == "Deployment" {
			if d := view.Get[*appsv1.Deployment](s, kinds.Deployment, namespace, above.Name); d != nil && d.UID == above.UID {
				k, obj = kinds.Deployment, d
			}
		}
	}
	return Owner{UID: obj.GetUID(), Replicas: scaleOf(k).Spec(obj)}
}

// customOwner reads the scale in the version that the object is stored in, to
// have nothing converted, for which a webhook might have to be asked.
func customOwner(s *view.Snapshot, table *kinds.Table, k *kinds.Kind, namespace string, ref *metav1.OwnerReference) Owner {
	held := s.ByGroupKind(k.GVK.GroupKind())
	if held == nil {
		return Owner{Err: fmt.Sprintf("%s cannot be read at the moment", k.GroupResource())}
	}
	raw := view.Get[*kinds.Raw](s, held, namespace, ref.Name)
	if raw == nil || raw.UID != ref.UID {
		return Owner{Missing: true}
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw.JSON); err != nil {
		return Owner{Err: fmt.Sprintf("%s %q cannot be read", k.GroupResource(), ref.Name)}
	}
	stored := table.ByGVK(u.GroupVersionKind())
	if stored == nil || scaleOf(stored) == nil {
		return Owner{Err: fmt.Sprintf("%s does not implement the scale subresource in the version that it is stored in", k.GroupResource())}
	}
	return Owner{UID: raw.UID, Replicas: scaleOf(stored).Spec(u)}
}
