package validate

import (
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// noMeta: what is only asked for has no identity. The namespace comes with the
// URL, managed fields with every write.
func (e *errors) noMeta(o metav1.ObjectMeta, namespaced bool) {
	rest, why := o, "must be empty"
	rest.ManagedFields = nil
	if namespaced {
		rest.Namespace, why = "", "must be empty except for namespace"
	}
	if !same(rest, metav1.ObjectMeta{}) {
		e.invalid(metaPath, o, why)
	}
}

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
	if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
		e.invalid(specPath.Child("resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace")
	}
	if n := r.Spec.NonResourceAttributes; n != nil {
		e.invalid(specPath.Child("nonResourceAttributes"), n, "disallowed on this kind of request")
	}
	return e.list
}

// SelfSubjectAccessReview judges a question about one's own rights.
func SelfSubjectAccessReview(r *authorizationv1.SelfSubjectAccessReview) field.ErrorList {
	e := &errors{}
	e.oneAttributes(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	e.attributes(r.Spec.ResourceAttributes)
	e.noMeta(r.ObjectMeta, false)
	return e.list
}

func (e *errors) accessSpec(spec *authorizationv1.SubjectAccessReviewSpec) {
	e.oneAttributes(spec.ResourceAttributes, spec.NonResourceAttributes)
	if spec.User == "" && len(spec.Groups) == 0 {
		e.invalid(specPath.Child("user"), spec.User, "at least one of user or group must be specified")
	}
	e.attributes(spec.ResourceAttributes)
}

func (e *errors) oneAttributes(r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) {
	if (r == nil) == (n == nil) {
		e.invalid(specPath, n, "exactly one of nonResourceAttributes or resourceAttributes must be specified")
	}
}

// attributes: operators that are not known yet are let pass, because what a
// selector leaves out makes the question wider, not narrower.
func (e *errors) attributes(r *authorizationv1.ResourceAttributes) {
	if r == nil {
		return
	}
	if f := r.FieldSelector; f != nil {
		p := specPath.Child("resourceAttributes", "fieldSelector")
		e.selectorForm(p, f.RawSelector, len(f.Requirements))
		for i, r := range f.Requirements {
			e.all(metavalidation.ValidateFieldSelectorRequirement(r, metavalidation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, p.Child("requirements").Index(i)))
		}
	}
	if l := r.LabelSelector; l != nil {
		p := specPath.Child("resourceAttributes", "labelSelector")
		e.selectorForm(p, l.RawSelector, len(l.Requirements))
		for i, r := range l.Requirements {
			e.all(metavalidation.ValidateLabelSelectorRequirement(r, metavalidation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, p.Child("requirements").Index(i)))
		}
	}
}

func (e *errors) selectorForm(p *field.Path, raw string, requirements int) {
	switch {
	case raw != "" && requirements > 0:
		e.invalid(p.Child("rawSelector"), raw, "may not specified at the same time as requirements")
	case raw == "" && requirements == 0:
		e.add(field.Required(p.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", p)))
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
	if a := r.Spec.Attestations; len(a) > 0 { // of webhooks' tokens, which upstream issues behind a gate that is off
		e.invalid(specPath.Child("attestations"), a, "attestations may only be specified with a webhook bound object reference")
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
