package admission

import (
	"context"
	"slices"
	"strings"

	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds"
)

// objectsMatch: the new state or the old one has the labels.
func (q *question) objectsMatch(s labels.Selector) bool {
	if s.Empty() {
		return true
	}
	has := func(o runtime.Object) bool {
		m, ok := o.(metav1.Object)
		return ok && s.Matches(labels.Set(m.GetLabels()))
	}
	return q.r.Object != nil && has(q.r.Object) || q.r.Old != nil && has(q.r.Old)
}

// namespaceMatches: the labels are those of the object's namespace, or of the
// object if it is one. What lies in none always matches.
func (q *question) namespaceMatches(ctx context.Context, s labels.Selector) (bool, error) {
	if s.Empty() || q.namespace == "" && q.r.Ref.Kind != kinds.Namespace {
		return true, nil
	}
	var ns metav1.Object
	if q.r.Ref.Kind == kinds.Namespace && q.r.Ref.Sub == "" {
		o := q.r.Object
		if o == nil {
			o = q.r.Old
		}
		ns, _ = o.(metav1.Object)
	} else {
		found, err := find[*corev1.Namespace](ctx, q.c, kinds.Namespace, "", q.namespace)
		if err != nil {
			return false, apierrors.NewInternalError(err)
		}
		if found == nil {
			return false, apierrors.NewNotFound(kinds.Namespace.GroupResource(), q.namespace)
		}
		ns = found
	}
	return ns != nil && s.Matches(labels.Set(ns.GetLabels())), nil
}

// kindFor is the kind of the request if one of n rules matches it, else one
// that is the same objects in another form; earlier rules go first.
func (q *question) kindFor(policy *registrationv1.MatchPolicyType, n int, matches func(rule int, k *kinds.Kind) bool) *kinds.Kind {
	own := q.r.Ref.Kind
	for i := range n {
		if matches(i, own) {
			return own
		}
	}
	if policy == nil || *policy != registrationv1.Equivalent || q.c.Table == nil || !own.Stored() && own.StoredAs == nil {
		return nil
	}
	for i := range n {
		for _, k := range q.c.Table.All() {
			if k != own && (stored(k) == stored(own) || k.Load != nil && k.Prefix == own.Prefix) && matches(i, k) {
				return k
			}
		}
	}
	return nil
}

func stored(k *kinds.Kind) *kinds.Kind {
	if k.StoredAs != nil {
		return k.StoredAs
	}
	return k
}

func (q *question) ruleMatches(r *registrationv1.RuleWithOperations, k *kinds.Kind) bool {
	if !anyOf(r.APIGroups, k.GVK.Group) || !anyOf(r.APIVersions, k.GVK.Version) || !anyOf(r.Operations, registrationv1.OperationType(q.r.Operation)) {
		return false
	}
	if r.Scope != nil {
		clusterWide := k == kinds.Namespace || q.namespace == ""
		if *r.Scope == registrationv1.NamespacedScope && clusterWide || *r.Scope == registrationv1.ClusterScope && !clusterWide {
			return false
		}
	}
	return slices.ContainsFunc(r.Resources, func(name string) bool {
		resource, sub, _ := strings.Cut(name, "/")
		return (resource == "*" || resource == k.Resource) && (sub == "*" || sub == q.r.Ref.Sub)
	})
}

func anyOf[T ~string](list []T, want T) bool {
	return slices.Contains(list, "*") || slices.Contains(list, want)
}
