package kinds

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/kinds/prepare"
	"knarr.dev/knarr/internal/kinds/validate"
)

// writable are the verbs of a subresource whose body is a whole object.
var writable = []string{"get", "patch", "update"}

// status is the usual status subresource.
func status[T Object](prepare func(obj, old T), validate func(obj, old T) field.ErrorList) Subresource {
	return Subresource{Verbs: writable, PrepareUpdate: doBoth(prepare), ValidateUpdate: checkBoth(validate)}
}

// ScaleSubresource is the scale subresource of a kind with replicas.
func ScaleSubresource(s *Scale) Subresource {
	return Subresource{
		GVK:   autoscalingv1.SchemeGroupVersion.WithKind("Scale"),
		New:   func() runtime.Object { return &autoscalingv1.Scale{} },
		Verbs: writable, Scale: s, ValidateBody: checkBody(validate.Scale),
	}
}

// connect is a stream to the kubelet, reachable by GET (WebSocket) and POST
// (SPDY); kind names its options in discovery.
func connect(kind string) Subresource {
	return Subresource{GVK: corev1.SchemeGroupVersion.WithKind(kind), Verbs: []string{"create", "get"}, Connect: true}
}

// proxied takes any HTTP method.
func proxied(kind string) Subresource {
	return Subresource{
		GVK:     corev1.SchemeGroupVersion.WithKind(kind),
		Verbs:   []string{"create", "delete", "get", "patch", "update"},
		Connect: true,
	}
}

// posted has a body and an answer of its own.
func posted[T runtime.Object](gvk schema.GroupVersionKind, body func() runtime.Object, validate func(T) field.ErrorList) Subresource {
	return Subresource{GVK: gvk, New: body, Verbs: []string{"create"}, ValidateBody: checkBody(validate)}
}

func bindingSub() Subresource {
	return posted(corev1.SchemeGroupVersion.WithKind("Binding"), func() runtime.Object { return &corev1.Binding{} }, validate.Binding)
}

func evictionSub() Subresource {
	return posted(policyv1.SchemeGroupVersion.WithKind("Eviction"), func() runtime.Object { return &policyv1.Eviction{} }, validate.Eviction)
}

func tokenSub() Subresource {
	s := posted(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"), func() runtime.Object { return &authenticationv1.TokenRequest{} }, validate.TokenRequest)
	s.DefaultBody = func(o runtime.Object) { defaults.TokenRequest(o.(*authenticationv1.TokenRequest)) }
	return s
}

// finalizeSub is how the namespace controller takes its finalizer away.
func finalizeSub() Subresource {
	return Subresource{Verbs: []string{"update"}, PrepareUpdate: doBoth(prepare.NamespaceFinalizeUpdate), ValidateUpdate: checkBoth(validate.NamespaceFinalizeUpdate)}
}
