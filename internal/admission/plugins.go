package admission

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
	"knarr.dev/knarr/internal/webhook"
)

// accountPatience is how long a new pod waits for its namespace's default
// account, which a controller makes a moment after the namespace; upstream
// tries ten times in about as long.
const accountPatience = 2 * time.Second

var errConfig = errors.New("admission: view and authorizer are needed")

// Authorizer is what plugins ask: may this user, and which rules has it.
type Authorizer interface {
	authorizer.UnconditionalAuthorizer
	Rules(u user.Info, namespace string) []rbacv1.PolicyRule
	RoleRules(ref rbacv1.RoleRef, namespace string) (rules []rbacv1.PolicyRule, ok bool)
}

// Config of the built-in plugins.
type Config struct {
	// View holds namespaces, service accounts, pods, nodes, priority and
	// runtime classes; also limit ranges and classes of storage and ingresses,
	// if they are to count.
	View  *view.View
	Authz Authorizer
	// Fresh waits until the view knows everything of the kind that was written
	// before the call. It is called when an object is not in the view that may
	// have been created a moment ago. nil: the view is taken as it is.
	Fresh func(ctx context.Context, k *kinds.Kind) error
	// AccountPatience is how long a pod waits for a missing service account
	// "default". 0: 2 s; negative: not at all.
	AccountPatience time.Duration
	// Suffix returns five random characters for the name of a volume; nil:
	// from crypto/rand. The simulation seeds it.
	Suffix func() string
	Now    func() time.Time

	// PodSecurity holds where namespaces say nothing.
	PodSecurity PodSecurity
	// Self returns the API server, which writes what quotas have left; nil:
	// there are no quotas. With it the view holds them, and what they count.
	Self func() Self

	// Webhooks calls users' servers; nil: there are none. With it the view
	// holds the configurations, and Table has all kinds.
	Webhooks *webhook.Caller
	Table    *kinds.Table
	// Types knows the fields of all kinds: by it mutating policies apply
	// configurations. nil: they cannot.
	Types   managedfields.TypeConverter
	Log     *slog.Logger          // nil: nowhere
	Metrics prometheus.Registerer // of calls of webhooks and pod security; nil: nowhere

	calls *calls
}

// Default is the built-in plugins in the order in which they run. What
// completes an object stands before what judges it.
func Default(cfg Config) ([]Plugin, error) {
	if cfg.View == nil || cfg.Authz == nil {
		return nil, errConfig
	}
	if err := holds(cfg.View, kinds.Namespace, kinds.ServiceAccount, kinds.Pod, kinds.Node, kinds.PriorityClass, kinds.RuntimeClass); err != nil {
		return nil, err
	}
	if cfg.AccountPatience == 0 {
		cfg.AccountPatience = accountPatience
	}
	if cfg.Suffix == nil {
		cfg.Suffix = randomSuffix
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &cfg
	var err error
	if c.calls, err = newCalls(cfg.Metrics); err != nil {
		return nil, err
	}
	security, err := newPodSecurity(c)
	if err != nil {
		return nil, err
	}
	plugins := []Plugin{
		namespaceLifecycle{c},
		limitRanger{c},
		serviceAccount{c},
		nodeRestriction{c},
		taintNodes{},
		security,
		priority{c},
		defaultTolerations{},
		defaultStorageClass{c},
		storageInUse{},
		escalation{cfg.Authz},
		claimResize{c},
		runtimeClass{c},
		certificateApproval{cfg.Authz},
		certificateSigning{cfg.Authz},
		certificateSubject{},
		trustAttest{cfg.Authz},
		podCertificateSigning{c},
		defaultIngressClass{c},
		denyExternalIPs{},
		topologyLabels{c},
		declaredFeatures{c},
		podResize{c},
		deviceClaims{c},
	}
	others, err := webhooksAndPolicies(c)
	if err != nil {
		return nil, err
	}
	plugins = append(plugins, others...)
	if cfg.Self == nil {
		return plugins, nil
	}
	if err := holds(cfg.View, kinds.ResourceQuota, kinds.ResourceClaim, kinds.DeviceClass); err != nil {
		return nil, err
	}
	return append(plugins, newResourceQuota(c)), nil // the last: what is refused costs nothing
}

// holds reports what the view lacks.
func holds(v *view.View, needed ...*kinds.Kind) error {
	for _, k := range needed {
		if !v.Has(k) {
			return fmt.Errorf("admission: the view does not hold %s", k)
		}
	}
	return nil
}

// webhooksAndPolicies are what users add; they see what all others made.
func webhooksAndPolicies(c *Config) ([]Plugin, error) {
	cfg := *c
	if cfg.Webhooks == nil {
		return nil, nil
	}
	if err := holds(cfg.View, kinds.MutatingWebhookConfiguration, kinds.ValidatingWebhookConfiguration,
		kinds.MutatingAdmissionPolicy, kinds.MutatingAdmissionPolicyBinding, kinds.ValidatingAdmissionPolicy, kinds.ValidatingAdmissionPolicyBinding); err != nil {
		return nil, err
	}
	return []Plugin{
		mutatingPolicies{c,
			&ready[*mutatingPolicy]{make: mutatingPolicyOf, read: reading[*registrationv1.MutatingAdmissionPolicy](cfg.View, kinds.MutatingAdmissionPolicy)},
			&ready[*mutatingBinding]{make: mutatingBindingOf, read: reading[*registrationv1.MutatingAdmissionPolicyBinding](cfg.View, kinds.MutatingAdmissionPolicyBinding)}},
		mutatingWebhooks{c, &ready[[]*hook]{make: hooksOf, read: reading[*registrationv1.MutatingWebhookConfiguration](cfg.View, kinds.MutatingWebhookConfiguration)}},
		policyParams{c},
		validatingPolicies{c,
			&ready[*policy]{make: policyOf, read: reading[*registrationv1.ValidatingAdmissionPolicy](cfg.View, kinds.ValidatingAdmissionPolicy)},
			&ready[*binding]{make: bindingOf, read: reading[*registrationv1.ValidatingAdmissionPolicyBinding](cfg.View, kinds.ValidatingAdmissionPolicyBinding)}},
		validatingWebhooks{c, &ready[[]*hook]{make: hooksOf, read: reading[*registrationv1.ValidatingWebhookConfiguration](cfg.View, kinds.ValidatingWebhookConfiguration)}},
	}, nil
}

// find returns an object of the view, or nil. It looks twice if the view may
// lag behind.
func find[T interface {
	kinds.Object
	comparable
}](ctx context.Context, c *Config, k *kinds.Kind, namespace, name string) (T, error) {
	var none T
	if o := view.Now[T](c.View, k, namespace, name); o != none || c.Fresh == nil {
		return o, nil
	}
	if err := c.Fresh(ctx, k); err != nil {
		return none, err
	}
	return view.Now[T](c.View, k, namespace, name), nil
}

// forbid refuses the request's object.
func forbid(r *Request, err error) *apierrors.StatusError {
	name := r.Ref.Name
	if o, ok := r.Object.(kinds.Object); ok && name == "" {
		if name = o.GetName(); name == "" {
			name = o.GetGenerateName()
		}
	}
	return apierrors.NewForbidden(r.Ref.Kind.GroupResource(), name, err)
}

// created is the whole new object of a kind; false for anything else than its
// creation.
func created[T kinds.Object](r *Request, k *kinds.Kind) (T, bool) {
	var none T
	if r.Operation != Create || r.Ref.Kind != k || r.Ref.Sub != "" {
		return none, false
	}
	o, ok := r.Object.(T)
	return o, ok
}

// suffixAlphabet is upstream's: no vowels and nothing that looks like one.
const suffixAlphabet = "bcdfghjklmnpqrstvwxz2456789"

func randomSuffix() string {
	b := make([]byte, 5)
	_, _ = rand.Read(b) // never fails, crypto/rand
	for i := range b {
		b[i] = suffixAlphabet[int(b[i])%len(suffixAlphabet)]
	}
	return string(b)
}
