package why

import (
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

// ending: what an object that is being deleted waits for.
func (l *look) ending(k *kinds.Kind, o kinds.Object) *finding {
	left := o.GetFinalizers()
	f := about(k, o, "it is being deleted, and waits for its finalizers: %s", strings.Join(left, ", ")).since(*o.GetDeletionTimestamp())
	switch {
	case len(left) == 0:
		f.What = "it is being deleted"
		return f
	case slices.Contains(left, "kubernetes.io/pvc-protection"):
		pods, _ := list[*corev1.Pod](l, Want{Kind: kinds.Pod, Namespace: o.GetNamespace()})
		for _, p := range pods {
			if uses(p, o.GetName()) {
				f.What = "it is being deleted, and waits until no pod uses it"
				return f.because(about(kinds.Pod, p, "it uses the claim %s", o.GetName()).help("delete the pod, or let it end"))
			}
		}
		return l.blind(f)
	case slices.Contains(left, "kubernetes.io/pv-protection"):
		if v, ok := o.(*corev1.PersistentVolume); ok && v.Spec.ClaimRef != nil && v.Status.Phase == corev1.VolumeBound {
			f.What = "it is being deleted, and waits until no claim is bound to it"
			return f.because(on(kinds.PersistentVolumeClaim, v.Spec.ClaimRef.Namespace, v.Spec.ClaimRef.Name, "it is bound to the volume").help("delete the claim, if its data may go"))
		}
		return f
	case slices.Contains(left, metav1.FinalizerDeleteDependents):
		f.What = "it is being deleted, and waits until what it owns is deleted"
		return l.dependent(f, o)
	}
	if only := theirs(left); len(only) > 0 {
		return f.help("whoever set %s has to remove it: does it run? As a last resort remove it from metadata.finalizers yourself; what it was to clean up stays", strings.Join(only, ", "))
	}
	return f
}

// theirs are finalizers that no part of Kubernetes removes by itself.
func theirs(all []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool {
		return s == metav1.FinalizerOrphanDependents || s == metav1.FinalizerDeleteDependents || strings.HasPrefix(s, "kubernetes.io/") || strings.HasPrefix(s, "batch.kubernetes.io/")
	})
}

// dependent goes on to what an object that is deleted with its dependents owns.
func (l *look) dependent(f *finding, o kinds.Object) *finding {
	for _, k := range []*kinds.Kind{kinds.ReplicaSet, kinds.Job, kinds.Pod} {
		all, _ := list[kinds.Object](l, Want{Kind: k, Namespace: o.GetNamespace()})
		for _, d := range all {
			if slices.ContainsFunc(d.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == o.GetUID() }) && d.GetDeletionTimestamp() != nil {
				return f.behind(k, d)
			}
		}
	}
	return l.blind(f)
}

var remaining = regexp.MustCompile(`([a-z0-9.\-]+?)\.? has \d+ resource instances`)

func (l *look) namespace(n *corev1.Namespace) *finding {
	if n.DeletionTimestamp == nil {
		return nil
	}
	f := about(kinds.Namespace, n, "it is being deleted").since(*n.DeletionTimestamp)
	for _, t := range []corev1.NamespaceConditionType{corev1.NamespaceDeletionDiscoveryFailure, corev1.NamespaceDeletionGVParsingFailure,
		corev1.NamespaceDeletionContentFailure, corev1.NamespaceFinalizersRemaining, corev1.NamespaceContentRemaining} {
		for i := range n.Status.Conditions {
			if c := &n.Status.Conditions[i]; c.Type == t && c.Status == corev1.ConditionTrue {
				f.What = "it is being deleted: " + c.Message
				return l.content(f, n)
			}
		}
	}
	if left := n.Spec.Finalizers; len(left) > 0 && !slices.Equal(left, []corev1.FinalizerName{corev1.FinalizerKubernetes}) {
		return f.help("whoever set spec.finalizers (%v) has to remove what is theirs", left)
	}
	if len(n.Finalizers) > 0 {
		return l.ending(kinds.Namespace, n)
	}
	return f
}

// content goes on to an object that a namespace still holds, one that waits for
// a finalizer before all others.
func (l *look) content(f *finding, n *corev1.Namespace) *finding {
	var first owner
	for i := range n.Status.Conditions {
		c := &n.Status.Conditions[i]
		if c.Type != corev1.NamespaceContentRemaining || c.Status != corev1.ConditionTrue {
			continue
		}
		for _, m := range remaining.FindAllStringSubmatch(c.Message, -1) {
			k := builtin(m[1])
			if k == nil {
				continue
			}
			all, _ := list[kinds.Object](l, Want{Kind: k, Namespace: n.Name})
			for _, o := range all {
				if o.GetDeletionTimestamp() != nil && (first.obj == nil || len(o.GetFinalizers()) > 0 && len(first.obj.GetFinalizers()) == 0) {
					first = owner{k, o}
				}
			}
		}
	}
	if first.obj != nil {
		return f.behind(first.kind, first.obj)
	}
	return l.blind(f)
}

// builtin is the kind of a resource by its name, with or without its group.
func builtin(name string) *kinds.Kind {
	for _, k := range kinds.Builtin().All() {
		if k.Namespaced && k.Stored() && (k.String() == name || k.Resource == name) {
			return k
		}
	}
	return nil
}
