package admission

import (
	"context"
	"fmt"
	"slices"

	registrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// policyParams lets nobody name objects as the parameters of a policy who may
// not read them: messages could tell what is in them.
type policyParams struct{ c *Config }

func (policyParams) Name() string { return "PolicyParams" } // upstream: part of the registry

func (policyParams) Mutate(context.Context, *Request) error { return nil }

func (p policyParams) Validate(ctx context.Context, r *Request) error {
	if r.Ref.Sub != "" || r.Operation != Create && r.Operation != Update || slices.Contains(r.User.GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	switch o := r.Object.(type) {
	case *registrationv1.ValidatingAdmissionPolicy:
		old, _ := r.Old.(*registrationv1.ValidatingAdmissionPolicy)
		return p.kind(ctx, r, o.Spec.ParamKind, old != nil && equality.Semantic.DeepEqual(old.Spec.ParamKind, o.Spec.ParamKind))
	case *registrationv1.MutatingAdmissionPolicy:
		old, _ := r.Old.(*registrationv1.MutatingAdmissionPolicy)
		return p.kind(ctx, r, o.Spec.ParamKind, old != nil && equality.Semantic.DeepEqual(old.Spec.ParamKind, o.Spec.ParamKind))
	case *registrationv1.ValidatingAdmissionPolicyBinding:
		old, _ := r.Old.(*registrationv1.ValidatingAdmissionPolicyBinding)
		same := old != nil && old.Spec.PolicyName == o.Spec.PolicyName && equality.Semantic.DeepEqual(old.Spec.ParamRef, o.Spec.ParamRef)
		var known **registrationv1.ParamKind
		if named := view.Now[*registrationv1.ValidatingAdmissionPolicy](p.c.View, kinds.ValidatingAdmissionPolicy, "", o.Spec.PolicyName); named != nil {
			known = &named.Spec.ParamKind
		}
		return p.object(ctx, r, o.Spec.PolicyName, o.Spec.ParamRef, known, same)
	case *registrationv1.MutatingAdmissionPolicyBinding:
		old, _ := r.Old.(*registrationv1.MutatingAdmissionPolicyBinding)
		same := old != nil && old.Spec.PolicyName == o.Spec.PolicyName && equality.Semantic.DeepEqual(old.Spec.ParamRef, o.Spec.ParamRef)
		var known **registrationv1.ParamKind
		if named := view.Now[*registrationv1.MutatingAdmissionPolicy](p.c.View, kinds.MutatingAdmissionPolicy, "", o.Spec.PolicyName); named != nil {
			known = &named.Spec.ParamKind
		}
		return p.object(ctx, r, o.Spec.PolicyName, o.Spec.ParamRef, known, same)
	}
	return nil
}

// kind: whoever names a kind may read all its objects, unless it stands as it was.
func (p policyParams) kind(ctx context.Context, r *Request, k *registrationv1.ParamKind, same bool) error {
	if k == nil || same {
		return nil
	}
	a := p.readOf(k)
	a.Verb, a.Namespace, a.Name = "get", "*", "*"
	return p.require(ctx, r, a, "paramKind", fmt.Sprintf(`user %v must have "get" permission on all objects of the referenced paramKind (kind=%s, apiVersion=%s)`,
		r.User, k.Kind, k.APIVersion))
}

// object: whoever names objects may read them. known is the kind of the
// parameters of the policy; nil: there is no such policy yet.
func (p policyParams) object(ctx context.Context, r *Request, policy string, ref *registrationv1.ParamRef, known **registrationv1.ParamKind, same bool) error {
	if ref == nil || same {
		return nil
	}
	a := p.readOf(nil)
	a.Verb, a.Namespace, a.Name = "get", ref.Namespace, ref.Name
	if ref.Name == "" {
		a.Verb = "list"
	}
	why := fmt.Sprintf(`user %v does not have "%v" permission on the object referenced by paramRef`, r.User, a.Verb)
	switch {
	case known == nil:
		why = fmt.Sprintf(`unable to get policy %s to determine minimum required permissions and user %v does not have "%v" permission for all groups, versions and resources`, policy, r.User, a.Verb)
	case *known != nil:
		exact := p.readOf(*known)
		a.APIGroup, a.APIVersion, a.Resource = exact.APIGroup, exact.APIVersion, exact.Resource
	}
	return p.require(ctx, r, a, "paramRef", why)
}

// readOf is the permission for the objects of a kind; for all, if it is not
// known.
func (p policyParams) readOf(k *registrationv1.ParamKind) authorizer.AttributesRecord {
	a := authorizer.AttributesRecord{APIGroup: "*", APIVersion: "*", Resource: "*", ResourceRequest: true}
	if k == nil {
		return a
	}
	gvk := schema.FromAPIVersionAndKind(k.APIVersion, k.Kind)
	a.APIGroup, a.APIVersion = gvk.Group, gvk.Version
	if known := p.c.Table.ByGVK(gvk); known != nil {
		a.Resource = known.Resource
	}
	return a
}

func (p policyParams) require(ctx context.Context, r *Request, a authorizer.AttributesRecord, name, why string) error {
	a.User = r.User
	if d, _, err := p.c.Authz.Authorize(ctx, a); err == nil && d == authorizer.DecisionAllow {
		return nil
	}
	return apierrors.NewInvalid(r.Ref.Kind.GVK.GroupKind(), r.Ref.Name, field.ErrorList{field.Forbidden(field.NewPath("spec", name), why)})
}
