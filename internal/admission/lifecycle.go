package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

// lifecycle keeps objects out of namespaces that are not there or on their way
// out, and the namespaces alive that the cluster needs.
type lifecycle struct{ c Config }

func (*lifecycle) Name() string { return "NamespaceLifecycle" }

func immortal(name string) bool {
	return name == metav1.NamespaceDefault || name == metav1.NamespaceSystem || name == metav1.NamespacePublic
}

// Mutate does the checking: what is refused here need not be completed first.
func (p *lifecycle) Mutate(ctx context.Context, r *Request) error {
	if r.Ref.Kind == kinds.Namespace {
		if r.Operation == Delete && immortal(r.Ref.Name) {
			return forbid(r, fmt.Errorf("this namespace may not be deleted"))
		}
		return nil
	}
	if !r.Ref.Kind.Namespaced || r.Operation == Delete || r.Ref.Namespace == "" {
		return nil
	}
	if r.Ref.Kind == kinds.LocalSubjectAccessReview {
		return nil // only a question; it needs no namespace
	}
	ns, ok, err := object[*corev1.Namespace](ctx, &p.c, kinds.Ref{Kind: kinds.Namespace, Name: r.Ref.Namespace})
	if err != nil {
		return err
	}
	if !ok {
		return apierrors.NewNotFound(kinds.Namespace.GroupResource(), r.Ref.Namespace)
	}
	if r.Operation != Create || ns.DeletionTimestamp == nil && ns.Status.Phase != corev1.NamespaceTerminating {
		return nil // updates go on, so that finalizers can be taken away
	}
	refusal := forbid(r, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", r.Ref.Namespace))
	if st, ok := refusal.(*apierrors.StatusError); ok {
		st.ErrStatus.Details.Causes = append(st.ErrStatus.Details.Causes, metav1.StatusCause{
			Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", r.Ref.Namespace), Field: "metadata.namespace",
		})
	}
	return refusal
}

func (*lifecycle) Validate(context.Context, *Request) error { return nil }
