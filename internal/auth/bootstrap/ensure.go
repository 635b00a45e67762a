package bootstrap

import (
	"context"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/auth/rbac/validation"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// ControllerRole is what a controller may do: exactly what it declared.
func ControllerRole(c reconcile.Controller) *rbacv1.ClusterRole {
	r := role("system:controller:" + c.Name)
	for _, p := range reconcile.Permissions(c) {
		resource := p.Kind.Resource
		if p.Sub != "" {
			resource += "/" + p.Sub
		}
		pr := rule(p.Verbs, p.Kind.GVK.Group, resource)
		r.Rules = append(r.Rules, pr)
	}
	if c.Name == "kube-apiserver-serving-clustertrustbundle-publisher" {
		r.Rules = append(r.Rules, named(rule([]string{"attest"}, certificatesv1.GroupName, "signers"), "kubernetes.io/kube-apiserver-serving"))
	}
	if c.Name == "certificate-controller" {
		signers := []string{certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientSignerName}
		r.Rules = append(r.Rules, named(rule([]string{"approve", "sign"}, certificatesv1.GroupName, "signers"), signers...))
	}
	if c.Name == "clusterrole-aggregation-controller" {
		// It only joins what others were allowed to grant.
		r.Rules = append(r.Rules, rule([]string{"escalate"}, rbacv1.GroupName, "clusterroles"))
	}
	if c.Name == "disruption-controller" {
		// How many pods their owners want, whatever kind these are of.
		r.Rules = append(r.Rules, rule([]string{"get"}, "*", "*/scale"))
	}
	if c.Name == "horizontal-pod-autoscaler" {
		// Scales of any kind are among its writes; metrics are no stored objects.
		r.Rules = append(r.Rules, rule([]string{"get"}, "*", "*/scale"), rule([]string{"list"}, "metrics.k8s.io", "pods"),
			rule([]string{"get", "list"}, "custom.metrics.k8s.io", "*"), rule([]string{"get", "list"}, "external.metrics.k8s.io", "*"))
	}
	return r
}

// Objects of every cluster, and the roles of its controllers.
func Objects(controllers []reconcile.Controller) []Entry {
	var out []Entry
	for _, ns := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		out = append(out, Entry{kinds.Namespace, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}})
	}
	for _, c := range priorityClasses() {
		out = append(out, Entry{kinds.PriorityClass, c})
	}
	for _, r := range slices.Concat(userRoles(), systemRoles()) {
		out = append(out, Entry{kinds.ClusterRole, r})
	}
	for _, b := range bindings() {
		out = append(out, Entry{kinds.ClusterRoleBinding, b})
	}
	out = append(out, inSystem()...)
	for _, c := range controllers {
		r := ControllerRole(c)
		out = append(out, Entry{kinds.ClusterRole, r}, Entry{kinds.ClusterRoleBinding, binding(r.Name, account(metav1.NamespaceSystem, c.Name))})
	}
	return out
}

// Entry is one object to ensure.
type Entry struct {
	Kind   *kinds.Kind
	Object kinds.Object
}

func priorityClasses() []*schedulingv1.PriorityClass {
	return []*schedulingv1.PriorityClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "system-cluster-critical"}, Value: 2000000000,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."},
		{ObjectMeta: metav1.ObjectMeta{Name: "system-node-critical"}, Value: 2000001000,
			Description: "Used for system critical pods that must not be moved from their current node."},
	}
}

// Ensure creates what is missing and gives roles and bindings back what was
// taken from them, unless their owner said to leave them alone. It writes
// nothing when all is there. s should be what the store holds; where it lags,
// the store refuses and the next start looks again.
func Ensure(ctx context.Context, c client.Client, s *view.Snapshot, entries []Entry) error {
	for _, e := range entries {
		if err := ensure(ctx, c, s, e); err != nil {
			return fmt.Errorf("cannot set up %s %s: %w", e.Kind, e.Object.GetName(), err)
		}
	}
	return nil
}

func ensure(ctx context.Context, c client.Client, s *view.Snapshot, e Entry) error {
	ref := kinds.RefTo(e.Kind, e.Object)
	have := view.Get[kinds.Object](s, e.Kind, e.Object.GetNamespace(), e.Object.GetName())
	if have == nil {
		return create(ctx, c, ref, e.Object)
	}
	if have.GetAnnotations()[autoUpdate] == "false" {
		return nil
	}
	if otherRole(have, e.Object) {
		// What a binding binds can only be changed by making it anew.
		uid := have.GetUID()
		_, err := c.Delete(ctx, ref, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) {
			return tolerate(err)
		}
		return create(ctx, c, ref, e.Object)
	}
	next := mended(have, e.Object)
	if next == nil {
		return nil
	}
	_, err := c.Update(ctx, ref, next)
	return tolerate(err)
}

func create(ctx context.Context, c client.Client, ref kinds.Ref, o kinds.Object) error {
	_, err := c.Create(ctx, ref, o)
	if apierrors.IsAlreadyExists(err) {
		return nil // another server was faster
	}
	return err
}

// tolerate: somebody is at it at the same time.
func tolerate(err error) error {
	if apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func otherRole(have, want kinds.Object) bool {
	switch w := want.(type) {
	case *rbacv1.ClusterRoleBinding:
		h, ok := have.(*rbacv1.ClusterRoleBinding)
		return ok && h.RoleRef != w.RoleRef
	case *rbacv1.RoleBinding:
		h, ok := have.(*rbacv1.RoleBinding)
		return ok && h.RoleRef != w.RoleRef
	}
	return false
}

// mended adds to what stands what it has to have, or returns nil. What others
// have added stays.
func mended(have, want kinds.Object) kinds.Object {
	out, changed := have.DeepCopyObject().(kinds.Object), false
	switch w := want.(type) {
	case *rbacv1.ClusterRole:
		o, ok := out.(*rbacv1.ClusterRole)
		if !ok {
			return nil
		}
		changed = mendRole(o, w)
	case *rbacv1.ClusterRoleBinding:
		o, ok := out.(*rbacv1.ClusterRoleBinding)
		if !ok {
			return nil
		}
		changed = mendSubjects(&o.Subjects, w.Subjects)
	case *rbacv1.Role:
		o, ok := out.(*rbacv1.Role)
		if !ok {
			return nil
		}
		changed = mendRules(&o.Rules, w.Rules)
	case *rbacv1.RoleBinding:
		o, ok := out.(*rbacv1.RoleBinding)
		if !ok {
			return nil
		}
		changed = mendSubjects(&o.Subjects, w.Subjects)
	default:
		return nil // namespaces and priority classes are their owner's once they are there
	}
	labels, l := merged(out.GetLabels(), want.GetLabels())
	annotations, a := merged(out.GetAnnotations(), want.GetAnnotations())
	if !changed && !l && !a {
		return nil
	}
	out.SetLabels(labels)
	out.SetAnnotations(annotations)
	return out
}

func mendRole(have, want *rbacv1.ClusterRole) (changed bool) {
	if want.AggregationRule != nil {
		// Its rules are the aggregation controller's.
		if have.AggregationRule == nil {
			have.AggregationRule = want.AggregationRule.DeepCopy()
			return true
		}
		for _, sel := range want.AggregationRule.ClusterRoleSelectors {
			if !slices.ContainsFunc(have.AggregationRule.ClusterRoleSelectors, func(s metav1.LabelSelector) bool { return s.String() == sel.String() }) {
				have.AggregationRule.ClusterRoleSelectors = append(have.AggregationRule.ClusterRoleSelectors, sel)
				changed = true
			}
		}
		return changed
	}
	return mendRules(&have.Rules, want.Rules)
}

func mendRules(have *[]rbacv1.PolicyRule, want []rbacv1.PolicyRule) (changed bool) {
	for _, r := range want {
		if covered, _ := validation.Covers(*have, []rbacv1.PolicyRule{r}); !covered {
			*have, changed = append(*have, r), true
		}
	}
	return changed
}

func mendSubjects(have *[]rbacv1.Subject, want []rbacv1.Subject) (changed bool) {
	for _, sub := range want {
		if !slices.Contains(*have, sub) {
			*have, changed = append(*have, sub), true
		}
	}
	return changed
}

// merged adds what is missing; a value that somebody has changed stays.
func merged(have, want map[string]string) (map[string]string, bool) {
	changed := false
	for k, v := range want {
		if _, ok := have[k]; ok {
			continue
		}
		if have == nil {
			have = map[string]string{}
		}
		have[k], changed = v, true
	}
	return have, changed
}
