package admission

import (
	"errors"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/view"
)

// Authorizer is what plugins ask: may this user, and which rules has it.
type Authorizer interface {
	authorizer.UnconditionalAuthorizer
	Rules(u user.Info, namespace string) []rbacv1.PolicyRule
	RoleRules(ref rbacv1.RoleRef, namespace string) (rules []rbacv1.PolicyRule, ok bool)
}

// Config of the built-in plugins.
type Config struct {
	View  *view.View
	Authz Authorizer
	Now   func() time.Time
}

// Default is the built-in plugins in the order in which they run.
func Default(cfg Config) ([]Plugin, error) {
	if cfg.View == nil || cfg.Authz == nil {
		return nil, errors.New("admission: view and authorizer are needed")
	}
	return []Plugin{
		namespaceLifecycle{cfg.View},
		serviceAccount{cfg.View},
		nodeRestriction{cfg.View},
		taintNodes{},
		priority{cfg.View},
		defaultTolerations{},
		escalation{cfg.Authz},
		certificates{cfg.Authz},
	}, nil
}
