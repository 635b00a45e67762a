package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// namespaceLifecycle lets nothing be created in a namespace that is not there
// or is going, and keeps the namespaces that the cluster needs.
type namespaceLifecycle struct{ view *view.View }

func (namespaceLifecycle) Name() string { return "NamespaceLifecycle" }

func (namespaceLifecycle) Mutate(context.Context, *Request) error { return nil }

func (p namespaceLifecycle) Validate(_ context.Context, r *Request) error {
	k := r.Ref.Kind
	if k == kinds.Namespace && r.Operation == Delete && r.Ref.Sub == "" {
		switch r.Ref.Name {
		case metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic:
			return apierrors.NewForbidden(k.GroupResource(), r.Ref.Name, fmt.Errorf("this namespace may not be deleted"))
		}
	}
	if r.Operation != Create || !k.Namespaced || r.Ref.Sub != "" || !k.Stored() && k.StoredAs == nil {
		return nil
	}
	ns := view.Get[*corev1.Namespace](p.view.Snapshot(), kinds.Namespace, "", r.Ref.Namespace)
	if ns == nil {
		return apierrors.NewNotFound(kinds.Namespace.GroupResource(), r.Ref.Namespace)
	}
	if ns.DeletionTimestamp == nil && ns.Status.Phase != corev1.NamespaceTerminating {
		return nil
	}
	err := apierrors.NewForbidden(k.GroupResource(), r.Ref.Name, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", ns.Name))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", ns.Name), Field: "metadata.namespace"})
	return err
}
