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
	if c.Name == "certificate-controller" {
		signers := []string{certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientSignerName}
		r.Rules = append(r.Rules, named(rule([]string{"approve", "sign"}, certificatesv1.GroupName, "signers"), signers...))
	}
	if c.Name == "clusterrole-aggregation-controller" {
		// It only joins what others were allowed to grant.
		r.Rules = append(r.Rules, rule([]string{"escalate"}, rbacv1.GroupName, "clusterroles"))
	}
	return r
}

// Objects of every cluster, and the roles of its controllers.
func Objects(controllers []reconcile.Controller) []Entry {
	var out []Entry
	for _, ns := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		out = append(out, Entry{kinds.Namespace, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}})
	}
	for name, value := range map[string]int32{"system-cluster-critical": 2000000000, "system-node-critical": 2000001000} {
		out = append(out, Entry{kinds.PriorityClass, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value,
			Description: "Used for system critical pods that must run in the cluster."}})
	}
	for _, r := range slices.Concat(userRoles(), systemRoles()) {
		out = append(out, Entry{kinds.ClusterRole, r})
	}
	for _, b := range bindings() {
		out = append(out, Entry{kinds.ClusterRoleBinding, b})
	}
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

// Ensure creates what is missing and gives roles and bindings back what was
// taken from them, unless their owner said to leave them alone. It writes
// nothing when all is there.
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
		_, err := c.Create(ctx, ref, e.Object)
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}
	next := mended(have, e.Object)
	if next == nil {
		return nil
	}
	_, err := c.Update(ctx, ref, next)
	if apierrors.IsConflict(err) {
		return nil // somebody is at it: the next start looks again
	}
	return err
}

// mended adds to what stands what it has to have, or returns nil.
func mended(have, want kinds.Object) kinds.Object {
	if have.GetAnnotations()[autoUpdate] == "false" {
		return nil
	}
	switch w := want.(type) {
	case *rbacv1.ClusterRole:
		h, ok := have.(*rbacv1.ClusterRole)
		if !ok || w.AggregationRule != nil {
			return nil
		}
		covered, missing := validation.Covers(h.Rules, w.Rules)
		if covered {
			return nil
		}
		out := h.DeepCopy()
		out.Rules = append(out.Rules, missing...)
		return out
	case *rbacv1.ClusterRoleBinding:
		h, ok := have.(*rbacv1.ClusterRoleBinding)
		if !ok || h.RoleRef != w.RoleRef {
			return nil
		}
		out := h.DeepCopy()
		for _, sub := range w.Subjects {
			if !slices.Contains(out.Subjects, sub) {
				out.Subjects = append(out.Subjects, sub)
			}
		}
		if len(out.Subjects) == len(h.Subjects) {
			return nil
		}
		return out
	}
	return nil
}
