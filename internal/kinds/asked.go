package kinds

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds/validate"
)

// The kinds that are only asked for: a client posts one and the answer is the
// same object, completed. They have no name and no place in the store.
var (
	Binding = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("Binding"), Resource: "bindings", Singular: "binding",
		Namespaced: true, Verbs: []string{"create"},
		NewBody:  func() runtime.Object { return &corev1.Binding{} },
		Validate: check(validate.Binding),
	}
	TokenReview = &Kind{
		GVK: authenticationv1.SchemeGroupVersion.WithKind("TokenReview"), Resource: "tokenreviews", Singular: "tokenreview",
		Verbs:   []string{"create"},
		NewBody: func() runtime.Object { return &authenticationv1.TokenReview{} },
	}
	SelfSubjectReview = &Kind{
		GVK: authenticationv1.SchemeGroupVersion.WithKind("SelfSubjectReview"), Resource: "selfsubjectreviews", Singular: "selfsubjectreview",
		Verbs:   []string{"create"},
		NewBody: func() runtime.Object { return &authenticationv1.SelfSubjectReview{} },
	}
	SubjectAccessReview = &Kind{
		GVK: authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview"), Resource: "subjectaccessreviews", Singular: "subjectaccessreview",
		Verbs:    []string{"create"},
		NewBody:  func() runtime.Object { return &authorizationv1.SubjectAccessReview{} },
		Validate: check(validate.SubjectAccessReview),
	}
	LocalSubjectAccessReview = &Kind{
		GVK: authorizationv1.SchemeGroupVersion.WithKind("LocalSubjectAccessReview"), Resource: "localsubjectaccessreviews", Singular: "localsubjectaccessreview",
		Namespaced: true, Verbs: []string{"create"},
		NewBody:  func() runtime.Object { return &authorizationv1.LocalSubjectAccessReview{} },
		Validate: check(validate.LocalSubjectAccessReview),
	}
	SelfSubjectAccessReview = &Kind{
		GVK: authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview"), Resource: "selfsubjectaccessreviews", Singular: "selfsubjectaccessreview",
		Verbs:    []string{"create"},
		NewBody:  func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} },
		Validate: check(validate.SelfSubjectAccessReview),
	}
	SelfSubjectRulesReview = &Kind{
		GVK: authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectRulesReview"), Resource: "selfsubjectrulesreviews", Singular: "selfsubjectrulesreview",
		Verbs:   []string{"create"},
		NewBody: func() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} },
	}
)

var asked = []*Kind{
	Binding,
	TokenReview,
	SelfSubjectReview,
	SubjectAccessReview,
	LocalSubjectAccessReview,
	SelfSubjectAccessReview,
	SelfSubjectRulesReview,
}
