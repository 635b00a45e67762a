package admission

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

var errImmortal = errors.New("this namespace may not be deleted")

// namespaceLifecycle lets nothing be created in a namespace that is not there
// or is going, and keeps the namespaces that the cluster needs.
type namespaceLifecycle struct{ c *Config }

func (namespaceLifecycle) Name() string { return "NamespaceLifecycle" }

// Mutate only looks, but first of all: an object in no namespace needs no
// completing, and the other plugins' complaints would hide the cause.
func (p namespaceLifecycle) Mutate(ctx context.Context, r *Request) error {
	k := r.Ref.Kind
	if k == kinds.Namespace {
		if r.Operation == Delete && r.Ref.Sub == "" && immortal(r.Ref.Name) {
			return forbid(r, errImmortal)
		}
		return nil
	}
	// A review is only a question; a deletion is always welcome; what is
	// already there may change until it is gone.
	if r.Operation != Create || !k.Namespaced || k == kinds.LocalSubjectAccessReview {
		return nil
	}
	ns, err := find[*corev1.Namespace](ctx, p.c, kinds.Namespace, "", r.Ref.Namespace)
	if err != nil {
		return err
	}
	if ns == nil {
		return apierrors.NewNotFound(kinds.Namespace.GroupResource(), r.Ref.Namespace)
	}
	if ns.DeletionTimestamp == nil && ns.Status.Phase != corev1.NamespaceTerminating {
		return nil
	}
	refusal := forbid(r, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", ns.Name))
	refusal.ErrStatus.Details.Causes = append(refusal.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", ns.Name), Field: "metadata.namespace"})
	return refusal
}

func (namespaceLifecycle) Validate(context.Context, *Request) error { return nil }

func immortal(name string) bool {
	return name == metav1.NamespaceDefault || name == metav1.NamespaceSystem || name == metav1.NamespacePublic
}
