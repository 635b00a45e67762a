package authn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/audit"
	"knarr.dev/knarr/internal/view"
)

const (
	defaultTokenLife = time.Hour

	// mountedTokenLife is asked for the token that every pod gets. A pod's
	// program may have read it once and never again: such a token works for
	// extendedTokenLife, as upstream, and says from when on it is overdue. It
	// still ends with its pod.
	mountedTokenLife  = 3607 * time.Second
	extendedTokenLife = 365 * 24 * time.Hour

	// tokenLeeway allows for clocks that differ; upstream's figure.
	tokenLeeway = time.Minute

	serviceAccountPrefix = "system:serviceaccount:"
)

var errTokensConfig = errors.New("authn: keys, an issuer and a view are needed")

// TokensConfig of the issuer.
type TokensConfig struct {
	Keys *Keys
	// Issuers of tokens: the first one's name stands in what is issued, the
	// tokens of all are accepted. https://kubernetes.default.svc.cluster.local
	Issuers []string
	// KeysURI is where others find the keys, as the OIDC document tells them.
	KeysURI string
	// Audiences of tokens that ask for none, and that the API accepts; default:
	// the issuers.
	Audiences []string
	// View holds service accounts, pods, secrets and nodes.
	View *view.View
	// Fresh waits until the view knows everything of the kind that was written
	// before the call; nil: the view is taken as it is.
	Fresh func(ctx context.Context, k *kinds.Kind) error
	// Used notes on a Secret the day when its token was used last (label
	// LastUsed); nil: it is not noted.
	Used func(ctx context.Context, s *corev1.Secret, day string)
	// Strict gives pods' own tokens no longer life than they ask for.
	Strict bool
	Now    func() time.Time // nil: time.Now
}

// Tokens issues and checks service account tokens (JWT).
type Tokens struct {
	cfg  TokensConfig
	keys atomic.Pointer[keyring]
}

// keyring is one set of keys, and which tokens it was seen to have signed.
type keyring struct {
	keys     *Keys
	verified *remembered[*claims]
}

// NewTokens checks the configuration.
func NewTokens(cfg TokensConfig) (*Tokens, error) {
	if cfg.Keys == nil || len(cfg.Issuers) == 0 || slices.Contains(cfg.Issuers, "") || cfg.View == nil {
		return nil, errTokensConfig
	}
	if len(cfg.Audiences) == 0 {
		cfg.Audiences = cfg.Issuers
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	t := &Tokens{cfg: cfg}
	t.Rotate(cfg.Keys)
	return t, nil
}

// Rotate takes other keys, at once: what they have not signed is refused.
func (t *Tokens) Rotate(keys *Keys) {
	t.keys.Store(&keyring{keys, newRemembered[*claims]()})
}

// Audiences that the API accepts.
func (t *Tokens) Audiences() []string { return t.cfg.Audiences }

// claims of a token, in upstream's form.
type claims struct {
	jwt.RegisteredClaims
	Kubernetes *bound `json:"kubernetes.io,omitempty"`
	legacy
}

type bound struct {
	Namespace      string           `json:"namespace,omitempty"`
	ServiceAccount reference        `json:"serviceaccount"`
	Pod            *reference       `json:"pod,omitempty"`
	Secret         *reference       `json:"secret,omitempty"`
	Node           *reference       `json:"node,omitempty"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

type reference struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid"`
}

// Issue completes a TokenRequest that has been defaulted and validated.
func (t *Tokens) Issue(ctx context.Context, namespace, name string, r *authenticationv1.TokenRequest) error {
	sa, err := look[*corev1.ServiceAccount](ctx, t, kinds.ServiceAccount, namespace, name)
	if err != nil {
		return err
	}
	if sa == nil {
		return apierrors.NewNotFound(kinds.ServiceAccount.GroupResource(), name)
	}
	if r.UID != "" && r.UID != sa.UID {
		audit.Annotate(ctx, "authentication.k8s.io/token-request-uid-mismatch",
			fmt.Sprintf("the UID in the token request (%s) does not match the UID of the service account (%s)", r.UID, sa.UID))
		return apierrors.NewConflict(schema.GroupResource{Group: authenticationv1.GroupName, Resource: "TokenRequest"}, name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", r.UID, sa.UID))
	}
	r.Name, r.Namespace, r.UID = sa.Name, sa.Namespace, sa.UID
	b := &bound{Namespace: namespace, ServiceAccount: reference{sa.Name, sa.UID}}
	if ref := r.Spec.BoundObjectRef; ref != nil {
		if err := t.bind(ctx, b, sa, ref); err != nil {
			return err
		}
	}
	if len(r.Spec.Audiences) == 0 {
		r.Spec.Audiences = slices.Clone(t.cfg.Audiences)
	}
	life := defaultTokenLife
	if s := r.Spec.ExpirationSeconds; s != nil {
		life = time.Duration(*s) * time.Second
	}
	now := t.cfg.Now()
	until := now.Add(life)
	r.Status.ExpirationTimestamp = metav1.NewTime(until)
	if !t.cfg.Strict && b.Pod != nil && life == mountedTokenLife && sameElements(r.Spec.Audiences, t.cfg.Audiences) {
		b.WarnAfter, until = jwt.NewNumericDate(until), now.Add(extendedTokenLife)
	}
	id := string(uuid.NewUUID())
	audit.Annotate(ctx, serviceaccount.IssuedCredentialIDAuditAnnotationKey, "JTI="+id)
	r.Status.Token, err = t.keys.Load().keys.sign(&claims{Kubernetes: b, RegisteredClaims: jwt.RegisteredClaims{
		Issuer: t.cfg.Issuers[0], Subject: serviceAccountPrefix + namespace + ":" + name, Audience: r.Spec.Audiences,
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(until), ID: id,
	}})
	return err
}

func sameElements(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// bind ties the token to the life of an object.
func (t *Tokens) bind(ctx context.Context, b *bound, sa *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) error {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	k := map[schema.GroupKind]*kinds.Kind{{Kind: "Pod"}: kinds.Pod, {Kind: "Secret"}: kinds.Secret, {Kind: "Node"}: kinds.Node}[gvk.GroupKind()]
	if k == nil {
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk))
	}
	namespace := sa.Namespace
	if !k.Namespaced {
		namespace = ""
	}
	obj, err := look[kinds.Object](ctx, t, k, namespace, ref.Name)
	if err != nil {
		return err
	}
	if obj == nil {
		return apierrors.NewNotFound(k.GroupResource(), ref.Name)
	}
	if ref.UID != "" && ref.UID != obj.GetUID() {
		return apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, ref.Name, fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	to := &reference{obj.GetName(), obj.GetUID()}
	switch o := obj.(type) {
	case *corev1.Pod:
		if o.Spec.ServiceAccountName != sa.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", sa.Name))
		}
		b.Pod = to
		if o.Spec.NodeName != "" {
			b.Node = &reference{Name: o.Spec.NodeName}
			if n := view.Now[*corev1.Node](t.cfg.View, kinds.Node, "", o.Spec.NodeName); n != nil {
				b.Node.UID = n.UID
			}
		}
	case *corev1.Secret:
		b.Secret = to
	case *corev1.Node:
		b.Node = to
	}
	return nil
}

// look reads an object of the view, twice if it is not there and the view may
// lag behind.
func look[T interface {
	kinds.Object
	comparable
}](ctx context.Context, t *Tokens, k *kinds.Kind, namespace, name string) (T, error) {
	var none T
	if o := view.Now[T](t.cfg.View, k, namespace, name); o != none || t.cfg.Fresh == nil {
		return o, nil
	}
	if err := t.cfg.Fresh(ctx, k); err != nil {
		return none, err
	}
	return view.Now[T](t.cfg.View, k, namespace, name), nil
}
