// Package client is how components write: one interface, implemented in
// process by the apiserver (the same pipeline, no HTTP, no codec) and over
// HTTPS by client/remote. Errors are *apierrors.StatusError in both.
package client

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
)

// Client reads and writes objects as one identity. What it returns may be
// shared with caches: treat it as immutable. What it is given it does not keep
// or change.
type Client interface {
	Get(ctx context.Context, ref kinds.Ref) (runtime.Object, error)
	List(ctx context.Context, k *kinds.Kind, namespace string, o metav1.ListOptions) (runtime.Object, error)
	// Create posts obj. ref.Name is set only for subresources (pods/binding,
	// pods/eviction, serviceaccounts/token); the answer is the subresource's.
	Create(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error)
	// Update puts obj, whose resourceVersion, if set, must be the current one.
	Update(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error)
	Patch(ctx context.Context, ref kinds.Ref, t types.PatchType, data []byte) (runtime.Object, error)
	Delete(ctx context.Context, ref kinds.Ref, o metav1.DeleteOptions) (runtime.Object, error)
}
