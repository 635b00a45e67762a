package validate

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// noMeta: what is only asked for has no identity. The namespace comes with the
// URL, managed fields with every write.
func (e *errors) noMeta(o metav1.ObjectMeta, namespaced bool) {
	o.ManagedFields = nil
	if namespaced {
		o.Namespace = ""
	}
	if !same(o, metav1.ObjectMeta{}) {
		e.invalid(metaPath, "<metadata>", "must be empty")
	}
}

// TokenReview judges a request to tell whose token it is.
func TokenReview(r *authenticationv1.TokenReview) field.ErrorList {
	e := &errors{}
	if r.Spec.Token == "" {
		e.add(field.Required(specPath.Child("token"), "token is required for TokenReview in authentication"))
	}
	return e.list
}

// SelfSubjectReview asks who one is; nothing can be wrong with it.
func SelfSubjectReview(*authenticationv1.SelfSubjectReview) field.ErrorList { return nil }

// SubjectAccessReview judges a question about somebody's rights.
func SubjectAccessReview(r *authorizationv1.SubjectAccessReview) field.ErrorList {
	e := &errors{}
	e.accessSpec(&r.Spec)
	e.noMeta(r.ObjectMeta, false)
	return e.list
}

// LocalSubjectAccessReview is about one namespace.
func LocalSubjectAccessReview(r *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
	e := &errors{}
	e.accessSpec(&r.Spec)
	e.noMeta(r.ObjectMeta, true)
	p := specPath.Child("resourceAttributes")
	if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
		e.invalid(p.Child("namespace"), a.Namespace, "must match metadata.namespace")
	}
	if r.Spec.NonResourceAttributes != nil {
		e.invalid(specPath.Child("nonResourceAttributes"), "<attributes>", "disallowed on this kind of request")
	}
	return e.list
}

// SelfSubjectAccessReview judges a question about one's own rights.
func SelfSubjectAccessReview(r *authorizationv1.SelfSubjectAccessReview) field.ErrorList {
	e := &errors{}
	e.attributes(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	e.noMeta(r.ObjectMeta, false)
	return e.list
}

// SelfSubjectRulesReview judges a question about all of one's rights.
func SelfSubjectRulesReview(r *authorizationv1.SelfSubjectRulesReview) field.ErrorList {
	e := &errors{}
	if r.Spec.Namespace == "" {
		e.add(field.Required(specPath.Child("namespace"), "no namespace on request"))
	}
	return e.list
}

func (e *errors) accessSpec(spec *authorizationv1.SubjectAccessReviewSpec) {
	e.attributes(spec.ResourceAttributes, spec.NonResourceAttributes)
	if spec.User == "" && len(spec.Groups) == 0 {
		e.invalid(specPath.Child("user"), spec.User, "at least one of user or group must be specified")
	}
}

func (e *errors) attributes(r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) {
	switch {
	case r != nil && n != nil:
		e.invalid(specPath.Child("nonResourceAttributes"), "<attributes>", "cannot be specified in combination with resourceAttributes")
	case r == nil && n == nil:
		e.invalid(specPath.Child("resourceAttributes"), "<attributes>", "exactly one of nonResourceAttributes or resourceAttributes must be specified")
	}
	if r == nil {
		return
	}
	p := specPath.Child("resourceAttributes")
	if f := r.FieldSelector; f != nil && f.RawSelector != "" && len(f.Requirements) > 0 {
		e.invalid(p.Child("fieldSelector", "rawSelector"), f.RawSelector, "may not specified at the same time as requirements")
	}
	if l := r.LabelSelector; l != nil && l.RawSelector != "" && len(l.Requirements) > 0 {
		e.invalid(p.Child("labelSelector", "rawSelector"), l.RawSelector, "may not specified at the same time as requirements")
	}
}

// TokenRequest judges how long a service account's token is to live.
func TokenRequest(r *authenticationv1.TokenRequest) field.ErrorList {
	e := &errors{}
	const shortest, longest = 10 * 60, 1 << 32 // seconds
	p := specPath.Child("expirationSeconds")
	switch s := r.Spec.ExpirationSeconds; {
	case s == nil:
		e.required(p)
	case *s < shortest:
		e.invalid(p, *s, "may not specify a duration less than 10 minutes")
	case *s > longest:
		e.invalid(p, *s, "may not specify a duration larger than 2^32 seconds")
	}
	return e.list
}

// Eviction names the pod in its metadata, if at all.
func Eviction(ev *policyv1.Eviction) field.ErrorList {
	e := &errors{}
	if ev.Name != "" {
		e.msgs(metaPath.Child("name"), ev.Name, subdomain(ev.Name, false))
	}
	if o := ev.DeleteOptions; o != nil && o.GracePeriodSeconds != nil && *o.GracePeriodSeconds < 0 {
		e.invalid(field.NewPath("deleteOptions", "gracePeriodSeconds"), *o.GracePeriodSeconds, "must be greater than or equal to 0")
	}
	return e.list
}

// Scale judges a wanted number of replicas.
func Scale(s *autoscalingv1.Scale) field.ErrorList {
	e := &errors{}
	if s.Name != "" {
		e.msgs(metaPath.Child("name"), s.Name, subdomain(s.Name, false))
	}
	e.notNegative(specPath.Child("replicas"), int64(s.Spec.Replicas))
	return e.list
}
