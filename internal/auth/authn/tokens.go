package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

const (
	// minTokenLife and maxTokenLife are upstream's bounds of expirationSeconds.
	minTokenLife     = 10 * time.Minute
	maxTokenLife     = time.Duration(1<<32) * time.Second
	defaultTokenLife = time.Hour
	// longestTokenLife is what is given at most, whatever is asked for.
	longestTokenLife = 365 * 24 * time.Hour

	// mountedTokenLife is asked for the token that every pod gets. A pod's
	// program may have read it once and never again: such a token works for
	// extendedTokenLife, as upstream, and says from when on it is overdue. It
	// still ends with its pod.
	mountedTokenLife  = 3607 * time.Second
	extendedTokenLife = 365 * 24 * time.Hour

	// tokenLeeway allows for clocks that differ a little.
	tokenLeeway = 10 * time.Second

	serviceAccountPrefix = "system:serviceaccount:"
)

var errTokensConfig = errors.New("authn: a P-256 key, an issuer and a view are needed")

// TokensConfig of the issuer.
type TokensConfig struct {
	Key *ecdsa.PrivateKey // P-256
	// Accepted are the public keys of former signing keys whose tokens are
	// still good.
	Accepted []*ecdsa.PublicKey
	Issuer   string // https://kubernetes.default.svc.cluster.local
	// Audiences of tokens that ask for none, and that the API accepts; default:
	// the issuer.
	Audiences []string
	// View holds service accounts, pods, secrets and nodes.
	View *view.View
	// Fresh waits until the view knows everything of the kind that was written
	// before the call; nil: the view is taken as it is.
	Fresh func(ctx context.Context, k *kinds.Kind) error
	// Strict gives pods' own tokens no longer life than they ask for.
	Strict bool
	Now    func() time.Time // nil: time.Now
}

// Tokens issues and checks service account tokens (JWT, ES256).
type Tokens struct {
	cfg   TokensConfig
	keyID string
	keys  map[string]*ecdsa.PublicKey // by key id
	// verified tokens by their hash.
	verified *remembered[*claims]
}

// NewTokens checks the configuration.
func NewTokens(cfg TokensConfig) (*Tokens, error) {
	if cfg.Key == nil || cfg.Key.Curve != elliptic.P256() || cfg.Issuer == "" || cfg.View == nil {
		return nil, errTokensConfig
	}
	if len(cfg.Audiences) == 0 {
		cfg.Audiences = []string{cfg.Issuer}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	t := &Tokens{cfg: cfg, keys: map[string]*ecdsa.PublicKey{}, verified: newRemembered[*claims]()}
	for _, k := range append([]*ecdsa.PublicKey{&cfg.Key.PublicKey}, cfg.Accepted...) {
		if k.Curve != elliptic.P256() {
			return nil, errTokensConfig
		}
		id, err := keyID(k)
		if err != nil {
			return nil, err
		}
		if t.keyID == "" {
			t.keyID = id
		}
		t.keys[id] = k
	}
	return t, nil
}

// keyID is the hash of the public key, as upstream's.
func keyID(k *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// claims of a token, in upstream's form.
type claims struct {
	jwt.RegisteredClaims
	Kubernetes bound `json:"kubernetes.io"`
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

// Issue completes a TokenRequest.
func (t *Tokens) Issue(ctx context.Context, namespace, name string, r *authenticationv1.TokenRequest) error {
	sa, err := look[*corev1.ServiceAccount](ctx, t, kinds.ServiceAccount, namespace, name)
	if err != nil {
		return err
	}
	if sa == nil {
		return apierrors.NewNotFound(kinds.ServiceAccount.GroupResource(), name)
	}
	life, err := lifeOf(r)
	if err != nil {
		return err
	}
	c := &claims{Kubernetes: bound{Namespace: namespace, ServiceAccount: reference{sa.Name, sa.UID}}}
	if ref := r.Spec.BoundObjectRef; ref != nil {
		if err := t.bind(ctx, &c.Kubernetes, sa, ref); err != nil {
			return err
		}
	}
	if len(r.Spec.Audiences) == 0 {
		r.Spec.Audiences = slices.Clone(t.cfg.Audiences)
	}
	now := t.cfg.Now()
	until := now.Add(life)
	r.Status.ExpirationTimestamp = metav1.NewTime(until)
	if !t.cfg.Strict && c.Kubernetes.Pod != nil && life == mountedTokenLife && slices.Equal(r.Spec.Audiences, t.cfg.Audiences) {
		c.Kubernetes.WarnAfter, until = jwt.NewNumericDate(until), now.Add(extendedTokenLife)
	}
	c.RegisteredClaims = jwt.RegisteredClaims{
		Issuer: t.cfg.Issuer, Subject: serviceAccountPrefix + namespace + ":" + name, Audience: r.Spec.Audiences,
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(until), ID: string(uuid.NewUUID()),
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, c)
	token.Header["kid"] = t.keyID
	r.Status.Token, err = token.SignedString(t.cfg.Key)
	return err
}

func lifeOf(r *authenticationv1.TokenRequest) (time.Duration, error) {
	path := field.NewPath("spec", "expirationSeconds")
	if r.Spec.ExpirationSeconds == nil {
		n := int64(defaultTokenLife / time.Second)
		r.Spec.ExpirationSeconds = &n
	}
	n := *r.Spec.ExpirationSeconds
	var why string
	switch {
	case n < int64(minTokenLife/time.Second):
		why = "may not specify a duration less than 10 minutes"
	case n > int64(maxTokenLife/time.Second):
		why = "may not specify a duration larger than 2^32 seconds"
	case n > int64(longestTokenLife/time.Second):
		n = int64(longestTokenLife / time.Second)
		r.Spec.ExpirationSeconds = &n
	}
	if why == "" {
		return time.Duration(n) * time.Second, nil
	}
	return 0, apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), r.Name, field.ErrorList{field.Invalid(path, n, why)})
}

// bind ties the token to the life of an object.
func (t *Tokens) bind(ctx context.Context, b *bound, sa *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) error {
	k := map[string]*kinds.Kind{"v1/Pod": kinds.Pod, "v1/Secret": kinds.Secret, "v1/Node": kinds.Node}[ref.APIVersion+"/"+ref.Kind]
	if k == nil {
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to object of type %q %q: must be v1 Pod, Secret or Node", sa.Name, ref.APIVersion, ref.Kind))
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
		return apierrors.NewConflict(k.GroupResource(), ref.Name, fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
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
