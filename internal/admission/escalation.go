package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/component-helpers/auth/rbac/validation"

	"knarr.dev/knarr/internal/kinds"
)

// escalation lets nobody grant what they do not have, unless they may escalate
// (roles) or bind (bindings) explicitly.
type escalation struct{ authz Authorizer }

func (escalation) Name() string { return "RBACEscalation" }

func (escalation) Mutate(context.Context, *Request) error { return nil }

func (p escalation) Validate(ctx context.Context, r *Request) error {
	if r.Ref.Sub != "" || r.Operation != Create && r.Operation != Update || slices.Contains(r.User.GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	switch o := r.Object.(type) {
	case *rbacv1.Role:
		old, _ := r.Old.(*rbacv1.Role)
		if old != nil && sameRules(o.Rules, old.Rules) {
			return nil
		}
		return p.covers(ctx, r, o.Rules, "escalate", r.Ref.Name)
	case *rbacv1.ClusterRole:
		old, _ := r.Old.(*rbacv1.ClusterRole)
		if old != nil && sameRules(o.Rules, old.Rules) && aggregationText(o) == aggregationText(old) {
			return nil
		}
		rules := o.Rules
		if o.AggregationRule != nil && (old == nil || aggregationText(o) != aggregationText(old)) {
			// What it will hold is open: only who has everything may say so.
			rules = append(slices.Clone(rules), rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
				rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}})
		}
		return p.covers(ctx, r, rules, "escalate", r.Ref.Name)
	case *rbacv1.RoleBinding:
		if old, ok := r.Old.(*rbacv1.RoleBinding); ok && sameSubjects(o.Subjects, old.Subjects) {
			return nil
		}
		return p.binding(ctx, r, o.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		if old, ok := r.Old.(*rbacv1.ClusterRoleBinding); ok && sameSubjects(o.Subjects, old.Subjects) {
			return nil
		}
		return p.binding(ctx, r, o.RoleRef)
	}
	return nil
}

func aggregationText(r *rbacv1.ClusterRole) string { return r.AggregationRule.String() }

func sameRules(a, b []rbacv1.PolicyRule) bool {
	return slices.EqualFunc(a, b, func(x, y rbacv1.PolicyRule) bool { return x.String() == y.String() })
}

func sameSubjects(a, b []rbacv1.Subject) bool { return slices.Equal(a, b) }

func (p escalation) binding(ctx context.Context, r *Request, ref rbacv1.RoleRef) error {
	k := kinds.ClusterRole
	if ref.Kind == "Role" {
		k = kinds.Role
	}
	if p.may(ctx, r, "bind", k, ref.Name) {
		return nil
	}
	rules, ok := p.authz.RoleRules(ref, r.Ref.Namespace)
	if !ok {
		return apierrors.NewNotFound(k.GroupResource(), ref.Name)
	}
	return p.covers(ctx, r, rules, "", ref.Name)
}

// covers compares the rules with what the user has.
func (p escalation) covers(ctx context.Context, r *Request, rules []rbacv1.PolicyRule, verb, name string) error {
	if verb != "" && p.may(ctx, r, verb, r.Ref.Kind, name) {
		return nil
	}
	ok, missing := validation.Covers(p.authz.Rules(r.User, r.Ref.Namespace), rules)
	if ok {
		return nil
	}
	var text []string
	for _, m := range missing {
		text = append(text, compact(m))
	}
	slices.Sort(text)
	return apierrors.NewForbidden(r.Ref.Kind.GroupResource(), r.Ref.Name, fmt.Errorf(
		"user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s", r.User.GetName(), r.User.GetGroups(), strings.Join(text, "\n")))
}

// compact writes a rule in one line.
func compact(r rbacv1.PolicyRule) string {
	var parts []string
	add := func(name string, list []string) {
		if len(list) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", name, list))
		}
	}
	add("APIGroups", r.APIGroups)
	add("Resources", r.Resources)
	add("ResourceNames", r.ResourceNames)
	add("NonResourceURLs", r.NonResourceURLs)
	add("Verbs", r.Verbs)
	return "{" + strings.Join(parts, ", ") + "}"
}

func (p escalation) may(ctx context.Context, r *Request, verb string, k *kinds.Kind, name string) bool {
	return may(ctx, p.authz, r.User, verb, k.GVK.Group, k.Resource, "", r.Ref.Namespace, name)
}

func may(ctx context.Context, a authorizer.UnconditionalAuthorizer, u user.Info, verb, group, resource, sub, namespace, name string) bool {
	d, _, err := a.Authorize(ctx, authorizer.AttributesRecord{User: u, Verb: verb, APIGroup: group, APIVersion: "v1", Resource: resource,
		Subresource: sub, Namespace: namespace, Name: name, ResourceRequest: true})
	return err == nil && d == authorizer.DecisionAllow
}

// certificates guards signing requests: who asks is written by the server, who
// approves or signs needs the signer's permission, and nobody asks for masters.
type certificates struct{ authz Authorizer }

func (certificates) Name() string { return "CertificateApproval" }

func (certificates) Mutate(_ context.Context, r *Request) error {
	csr, ok := r.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || r.Operation != Create {
		return nil
	}
	csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups, csr.Spec.Extra = r.User.GetName(), r.User.GetUID(), r.User.GetGroups(), nil
	for k, v := range r.User.GetExtra() {
		if csr.Spec.Extra == nil {
			csr.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		csr.Spec.Extra[k] = v
	}
	return nil
}

func (p certificates) Validate(ctx context.Context, r *Request) error {
	csr, ok := r.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return apierrors.NewForbidden(kinds.CertificateSigningRequest.GroupResource(), r.Ref.Name, fmt.Errorf(format, args...))
	}
	switch {
	case r.Operation == Create && csr.Spec.SignerName == certificatesv1.KubeAPIServerClientSignerName && asksForMasters(csr.Spec.Request):
		return refuse("use of %s signer with system:masters group is not allowed", csr.Spec.SignerName)
	case r.Operation == Update && r.Ref.Sub == "approval" && !p.signer(ctx, r, "approve", csr.Spec.SignerName):
		return refuse("user not permitted to approve requests with signerName %q", csr.Spec.SignerName)
	case r.Operation == Update && r.Ref.Sub == "status" && len(csr.Status.Certificate) > 0 && !p.signer(ctx, r, "sign", csr.Spec.SignerName):
		return refuse("user not permitted to sign requests with signerName %q", csr.Spec.SignerName)
	}
	return nil
}

// signer asks for the verb on the signer, or on all of its domain.
func (p certificates) signer(ctx context.Context, r *Request, verb, name string) bool {
	domain, _, _ := strings.Cut(name, "/")
	return may(ctx, p.authz, r.User, verb, certificatesv1.GroupName, "signers", "", "", name) ||
		may(ctx, p.authz, r.User, verb, certificatesv1.GroupName, "signers", "", "", domain+"/*")
}
