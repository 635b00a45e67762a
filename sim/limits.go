package main

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// drain is the taint by which users empty a node.
const drain = "drain"

// actOnLimits does one thing with quotas, taints or replication controllers.
func (u *users) actOnLimits(ns string) (what, name string, err error) {
	switch n := u.rng.IntN(12); {
	case n < 5:
		what, err = u.actOnQuota(ns)
		return what, "limit", err
	case n < 7:
		name = fmt.Sprintf("n%d", u.rng.IntN(nodes))
		return "taint node", name, u.taint(name, u.rng.IntN(3) > 0)
	case n < 8:
		p := u.pod(ns, "alone")
		seconds := int64(30)
		p.Spec.Tolerations = []corev1.Toleration{{Key: drain, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds}}
		return "create a pod that stays for a while", p.Name, u.create(kinds.Pod, p)
	}
	rc, n := kinds.Ref{Kind: kinds.ReplicationController, Namespace: ns, Name: "old"}, int32(u.rng.IntN(4))
	switch t := u.template(rc.Name); {
	case !u.there(rc):
		return "create replication controller", rc.Name, u.create(kinds.ReplicationController, &corev1.ReplicationController{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: rc.Name}, Spec: corev1.ReplicationControllerSpec{Replicas: &n, Selector: map[string]string{"app": rc.Name}, Template: &t}})
	case u.rng.IntN(5) == 0:
		return "delete replication controller", rc.Name, u.remove(rc, u.policy())
	}
	return fmt.Sprintf("scale replication controller to %d", n), rc.Name, u.patch(rc, fmt.Sprintf(`{"spec":{"replicas":%d}}`, n))
}

func (u *users) there(ref kinds.Ref) bool {
	return view.Get[kinds.Object](u.tap.Snapshot(), ref.Kind, ref.Namespace, ref.Name) != nil
}

func (u *users) actOnQuota(ns string) (string, error) {
	ref, n := kinds.Ref{Kind: kinds.ResourceQuota, Namespace: ns, Name: "limit"}, 1+u.rng.IntN(8)
	switch {
	case !u.there(ref):
		q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: ref.Name}, Spec: corev1.ResourceQuotaSpec{
			Hard: corev1.ResourceList{corev1.ResourcePods: *resource.NewQuantity(int64(n), resource.DecimalSI)}}}
		return "create quota", u.create(kinds.ResourceQuota, q)
	case u.rng.IntN(2) == 0:
		return "delete quota", u.remove(ref, "")
	}
	return fmt.Sprintf("limit to %d pods", n), u.patch(ref, fmt.Sprintf(`{"spec":{"hard":{"pods":"%d"}}}`, n))
}

// taint a node, at most one of them, or take the taint off.
func (u *users) taint(name string, on bool) error {
	for n := range view.List[*corev1.Node](u.tap.Snapshot(), kinds.Node, "") {
		if drained(n) && on {
			return nil
		}
	}
	if !on {
		return u.untaint()
	}
	n := view.Get[*corev1.Node](u.tap.Snapshot(), kinds.Node, "", name)
	if n == nil {
		return nil
	}
	n = n.DeepCopy()
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: drain, Effect: corev1.TaintEffectNoExecute})
	_, err := u.admin.Update(u.ctx, kinds.RefTo(kinds.Node, n), n)
	return err
}

// untaint all nodes.
func (u *users) untaint() (err error) {
	for n := range view.List[*corev1.Node](u.tap.Snapshot(), kinds.Node, "") {
		if drained(n) {
			n = n.DeepCopy()
			n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == drain })
			_, err = u.admin.Update(u.ctx, kinds.RefTo(kinds.Node, n), n)
		}
	}
	return err
}

func drained(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == drain })
}

// unlimit takes quotas away.
func (u *users) unlimit() {
	for q := range view.List[*corev1.ResourceQuota](u.tap.Snapshot(), kinds.ResourceQuota, "") {
		u.note("delete quota", u.remove(kinds.RefTo(kinds.ResourceQuota, q), ""))
	}
}

// limited namespaces cannot have all that is asked for; "": is there any?
func (w *world) limited(ns string) bool {
	for range view.List[*corev1.ResourceQuota](w.tap.Snapshot(), kinds.ResourceQuota, ns) {
		return true
	}
	return false
}

// evict a pod, which the server must refuse where a budget allows none.
func (u *users) evict(ns, name string) error {
	p := view.Get[*corev1.Pod](u.tap.Snapshot(), kinds.Pod, ns, name)
	protected := ""
	if p != nil && p.Status.Phase == corev1.PodRunning && podReady(p) && p.DeletionTimestamp == nil {
		for b := range view.List[*policyv1.PodDisruptionBudget](u.tap.Snapshot(), kinds.PodDisruptionBudget, ns) {
			if sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && sel.Matches(labels.Set(p.Labels)) && b.Status.DisruptionsAllowed == 0 {
				protected = b.Name
			}
		}
	}
	_, err := u.admin.Create(u.ctx, kinds.Ref{Kind: kinds.Pod, Namespace: ns, Name: name, Sub: "eviction"}, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}})
	if err == nil && protected != "" {
		u.audit.fail("pod %s/%s was evicted, although the budget %s allows none", ns, name, protected)
	}
	return err
}

// charge watches that admission lets nothing in beyond a quota.
func (a *audit) charge(before, after kinds.Object, by string) {
	q, ok := after.(*corev1.ResourceQuota)
	if !ok || before == nil || by == "resourcequota-controller" {
		return
	}
	was, used, hard := before.(*corev1.ResourceQuota).Status.Used[corev1.ResourcePods], q.Status.Used[corev1.ResourcePods], q.Status.Hard[corev1.ResourcePods]
	if used.Cmp(was) > 0 {
		a.charged++
		if used.Cmp(hard) > 0 {
			a.fail("quota %s/%s of %s pods is charged with %s by %s", q.Namespace, q.Name, &hard, &used, by)
		}
	}
}

// checkQuotas: each says what is used.
func (w *world) checkQuotas(t truth) error {
	for _, q := range all[*corev1.ResourceQuota](t, kinds.ResourceQuota) {
		n := int64(0)
		for _, p := range all[*corev1.Pod](t, kinds.Pod) {
			if p.Namespace == q.Namespace && !finished(p) {
				n++
			}
		}
		used, hard, want := q.Status.Used[corev1.ResourcePods], q.Status.Hard[corev1.ResourcePods], q.Spec.Hard[corev1.ResourcePods]
		if used.Value() != n || hard.Cmp(want) != 0 {
			return fmt.Errorf("quota %s/%s says %s of %s pods, there are %d of %s", q.Namespace, q.Name, &used, &hard, n, &want)
		}
	}
	return nil
}

// checkDrained: nothing that can end is left on a node that is to be empty.
func (w *world) checkDrained(t truth) error {
	for _, n := range all[*corev1.Node](t, kinds.Node) {
		if !drained(n) {
			continue
		}
		for _, p := range all[*corev1.Pod](t, kinds.Pod) {
			if p.Spec.NodeName == n.Name && !finished(p) {
				return fmt.Errorf("pod %s/%s is still on %s, which is to be empty", p.Namespace, p.Name, n.Name)
			}
		}
	}
	return nil
}

// set is what keeps a number of pods.
type set struct {
	kinds.Object
	kind        *kinds.Kind
	wanted, has int32
	seen        int64
}

// sets of both kinds.
func sets(t truth) (out []set) {
	for _, s := range all[*appsv1.ReplicaSet](t, kinds.ReplicaSet) {
		out = append(out, set{s, kinds.ReplicaSet, *s.Spec.Replicas, s.Status.Replicas, s.Status.ObservedGeneration})
	}
	for _, s := range all[*corev1.ReplicationController](t, kinds.ReplicationController) {
		out = append(out, set{s, kinds.ReplicationController, *s.Spec.Replicas, s.Status.Replicas, s.Status.ObservedGeneration})
	}
	return out
}
