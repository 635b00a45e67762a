package admission

import (
	"context"
	"errors"
	"slices"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

var errConfig = errors.New("admission: a view, an authorizer and its rules are needed")

// Rules is what the escalation check asks of RBAC.
type Rules interface {
	// Rules of a user in a namespace, cluster-wide ones included.
	Rules(u user.Info, namespace string) []rbacv1.PolicyRule
	// RoleRules of the role that a binding in namespace refers to; false: there
	// is none.
	RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, bool)
}

// Config of the built-in plugins.
type Config struct {
	// View holds namespaces, service accounts, pods (with view.PodsByNode),
	// nodes, priority classes, limit ranges and roles.
	View  *view.View
	Authz authorizer.UnconditionalAuthorizer
	Rules Rules
	// Live reads an object from the store, past the view: for decisions on
	// something that was created a moment ago. It returns an error that
	// apierrors.IsNotFound recognizes when there is none. nil: the view decides.
	Live func(ctx context.Context, ref kinds.Ref) (kinds.Object, error)
	// ServiceCIDR and the like are not here: addresses are the allocator's.

	// Suffix returns five random characters for names of volumes. nil: random.
	Suffix func() string
	Now    func() time.Time // nil: time.Now
}

// Default is the ordered list of built-in plugins. Those that complete objects
// come before those that judge what the others made.
func Default(c Config) ([]Plugin, error) {
	if c.View == nil || c.Authz == nil || c.Rules == nil {
		return nil, errConfig
	}
	if c.Suffix == nil {
		c.Suffix = randomSuffix
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return []Plugin{
		&lifecycle{c},
		&limitRanger{c},
		&serviceAccount{c},
		&nodeRestriction{c},
		taintNodes{},
		&priority{c},
		defaultTolerations{},
		denyExternalIPs{},
		&escalation{c},
		&certificateApproval{c},
		&certificateSigning{c},
		certificateSubject{},
		&ownerReferences{c},
	}, nil
}

// object reads one object: from the view, and if it is not there live.
func object[T kinds.Object](ctx context.Context, c *Config, ref kinds.Ref) (T, bool, error) {
	var none T
	s := c.View.Snapshot()
	if s.Has(ref.Kind) {
		if o, ok := any(view.Get[kinds.Object](s, ref.Kind, ref.Namespace, ref.Name)).(T); ok {
			return o, true, nil
		}
	}
	if c.Live == nil {
		return none, false, nil
	}
	obj, err := c.Live(ctx, ref)
	if apierrors.IsNotFound(err) {
		return none, false, nil
	}
	if err != nil {
		return none, false, err
	}
	o, ok := obj.(T)
	return o, ok, nil
}

// as returns the request's object of a kind for these operations; false when
// the request is about anything else, or about a subresource.
func as[T runtime.Object](r *Request, k *kinds.Kind, ops ...Operation) (T, bool) {
	var none T
	if r.Ref.Kind != k || r.Ref.Sub != "" || !slices.Contains(ops, r.Operation) {
		return none, false
	}
	o, ok := r.Object.(T)
	return o, ok
}

// forbid answers 403 for the object of the request.
func forbid(r *Request, err error) error {
	name := r.Ref.Name
	if o, ok := r.Object.(kinds.Object); ok && name == "" && o != nil {
		if name = o.GetName(); name == "" {
			name = o.GetGenerateName()
		}
	}
	return apierrors.NewForbidden(r.Ref.Kind.GroupResource(), name, err)
}
