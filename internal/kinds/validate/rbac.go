package validate

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Role judges a new role. Names of roles may hold colons.
func Role(r *rbacv1.Role) field.ErrorList {
	e := meta(&r.ObjectMeta, true, path.ValidatePathSegmentName)
	e.policyRules(r.Rules, true)
	return e.list
}

// RoleUpdate judges a changed role.
func RoleUpdate(r, old *rbacv1.Role) field.ErrorList {
	e := metaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	e.policyRules(r.Rules, true)
	return e.list
}

// ClusterRole judges a new cluster role.
func ClusterRole(r *rbacv1.ClusterRole) field.ErrorList {
	e := meta(&r.ObjectMeta, false, path.ValidatePathSegmentName)
	e.clusterRole(r)
	return e.list
}

// ClusterRoleUpdate judges a changed one.
func ClusterRoleUpdate(r, old *rbacv1.ClusterRole) field.ErrorList {
	e := metaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	e.clusterRole(r)
	return e.list
}

func (e *errors) clusterRole(r *rbacv1.ClusterRole) {
	e.policyRules(r.Rules, false)
	if r.AggregationRule == nil {
		return
	}
	p := field.NewPath("aggregationRule", "clusterRoleSelectors")
	if len(r.AggregationRule.ClusterRoleSelectors) == 0 {
		e.add(field.Required(p, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
	}
	for i := range r.AggregationRule.ClusterRoleSelectors {
		e.selector(p.Index(i), &r.AggregationRule.ClusterRoleSelectors[i])
	}
}

func (e *errors) policyRules(rules []rbacv1.PolicyRule, namespaced bool) {
	for i := range rules {
		r, p := &rules[i], field.NewPath("rules").Index(i)
		if len(r.Verbs) == 0 {
			e.add(field.Required(p.Child("verbs"), "verbs must contain at least one value"))
		}
		if len(r.NonResourceURLs) > 0 {
			at := p.Child("nonResourceURLs")
			if namespaced {
				e.invalid(at, r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs")
			}
			if len(r.APIGroups) > 0 || len(r.Resources) > 0 || len(r.ResourceNames) > 0 {
				e.invalid(at, r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs")
			}
			continue
		}
		if len(r.APIGroups) == 0 {
			e.add(field.Required(p.Child("apiGroups"), "resource rules must supply at least one api group"))
		}
		if len(r.Resources) == 0 {
			e.add(field.Required(p.Child("resources"), "resource rules must supply at least one resource"))
		}
	}
}

// RoleBinding judges a new binding.
func RoleBinding(rb *rbacv1.RoleBinding) field.ErrorList {
	e := meta(&rb.ObjectMeta, true, path.ValidatePathSegmentName)
	e.roleRef(&rb.RoleRef, "Role", "ClusterRole")
	e.subjects(rb.Subjects, true)
	return e.list
}

// RoleBindingUpdate judges a changed binding; the role stays, so that who may
// only change subjects cannot give away another role.
func RoleBindingUpdate(rb, old *rbacv1.RoleBinding) field.ErrorList {
	e := metaUpdate(&rb.ObjectMeta, &old.ObjectMeta)
	e.roleRef(&rb.RoleRef, "Role", "ClusterRole")
	e.subjects(rb.Subjects, true)
	e.sameRole(rb.RoleRef, old.RoleRef)
	return e.list
}

// ClusterRoleBinding judges a new binding.
func ClusterRoleBinding(rb *rbacv1.ClusterRoleBinding) field.ErrorList {
	e := meta(&rb.ObjectMeta, false, path.ValidatePathSegmentName)
	e.roleRef(&rb.RoleRef, "ClusterRole")
	e.subjects(rb.Subjects, false)
	return e.list
}

// ClusterRoleBindingUpdate judges a changed one.
func ClusterRoleBindingUpdate(rb, old *rbacv1.ClusterRoleBinding) field.ErrorList {
	e := metaUpdate(&rb.ObjectMeta, &old.ObjectMeta)
	e.roleRef(&rb.RoleRef, "ClusterRole")
	e.subjects(rb.Subjects, false)
	e.sameRole(rb.RoleRef, old.RoleRef)
	return e.list
}

func (e *errors) sameRole(ref, old rbacv1.RoleRef) {
	if ref != old {
		e.invalid(field.NewPath("roleRef"), ref, "cannot change roleRef")
	}
}

func (e *errors) roleRef(ref *rbacv1.RoleRef, kinds ...string) {
	p := field.NewPath("roleRef")
	oneOf(e, p.Child("apiGroup"), ref.APIGroup, rbacv1.GroupName)
	oneOf(e, p.Child("kind"), ref.Kind, kinds...)
	e.name(p.Child("name"), ref.Name, path.ValidatePathSegmentName)
}

func (e *errors) subjects(list []rbacv1.Subject, namespaced bool) {
	for i := range list {
		s, p := &list[i], field.NewPath("subjects").Index(i)
		if s.Name == "" {
			e.required(p.Child("name"))
		}
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
			if s.Name != "" {
				e.msgs(p.Child("name"), s.Name, subdomain(s.Name, false))
			}
			oneOf(e, p.Child("apiGroup"), s.APIGroup, "")
			if !namespaced && s.Namespace == "" {
				e.required(p.Child("namespace"))
			}
		case rbacv1.UserKind, rbacv1.GroupKind:
			oneOf(e, p.Child("apiGroup"), s.APIGroup, rbacv1.GroupName)
		default:
			oneOf(e, p.Child("kind"), s.Kind, rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind)
		}
	}
}
