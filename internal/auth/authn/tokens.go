package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
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
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

const (
	// minTokenLife and maxTokenLife are upstream's bounds of expirationSeconds.
	minTokenLife     = 10 * time.Minute
	maxTokenLife     = time.Duration(1<<32) * time.Second
	defaultTokenLife = time.Hour
	// tokenLeeway allows for clocks that differ a little.
	tokenLeeway = 10 * time.Second

	serviceAccountPrefix = "system:serviceaccount:"
)

// TokensConfig of the issuer.
type TokensConfig struct {
	Key    *ecdsa.PrivateKey // P-256
	Issuer string            // https://kubernetes.default.svc.cluster.local
	// Audiences of tokens that ask for none, and that the API accepts.
	Audiences []string
	View      *view.View
	Now       func() time.Time
}

// Tokens issues and checks service account tokens (JWT, ES256).
type Tokens struct {
	cfg   TokensConfig
	keyID string
}

// NewTokens checks the configuration.
func NewTokens(cfg TokensConfig) (*Tokens, error) {
	if cfg.Key == nil || cfg.Issuer == "" || cfg.View == nil {
		return nil, errors.New("authn: key, issuer and view are needed")
	}
	if len(cfg.Audiences) == 0 {
		cfg.Audiences = []string{cfg.Issuer}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	der, err := x509.MarshalPKIXPublicKey(cfg.Key.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return &Tokens{cfg: cfg, keyID: base64.RawURLEncoding.EncodeToString(sum[:])}, nil
}

// claims of a token, in upstream's form.
type claims struct {
	jwt.RegisteredClaims
	Kubernetes bound `json:"kubernetes.io"`
}

type bound struct {
	Namespace      string     `json:"namespace,omitempty"`
	ServiceAccount reference  `json:"serviceaccount"`
	Pod            *reference `json:"pod,omitempty"`
	Secret         *reference `json:"secret,omitempty"`
	Node           *reference `json:"node,omitempty"`
}

type reference struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid"`
}

// Issue completes a TokenRequest.
func (t *Tokens) Issue(_ context.Context, namespace, name string, r *authenticationv1.TokenRequest) error {
	s := t.cfg.View.Snapshot()
	sa := view.Get[*corev1.ServiceAccount](s, kinds.ServiceAccount, namespace, name)
	if sa == nil {
		return apierrors.NewNotFound(kinds.ServiceAccount.GroupResource(), name)
	}
	life, err := lifeOf(r)
	if err != nil {
		return err
	}
	c := claims{Kubernetes: bound{Namespace: namespace, ServiceAccount: reference{sa.Name, sa.UID}}}
	if ref := r.Spec.BoundObjectRef; ref != nil {
		if err := t.bind(s, &c.Kubernetes, sa, ref); err != nil {
			return err
		}
	}
	if len(r.Spec.Audiences) == 0 {
		r.Spec.Audiences = t.cfg.Audiences
	}
	now := t.cfg.Now()
	until := now.Add(life)
	c.RegisteredClaims = jwt.RegisteredClaims{
		Issuer: t.cfg.Issuer, Subject: serviceAccountPrefix + namespace + ":" + name, Audience: r.Spec.Audiences,
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(until), ID: string(uuid.NewUUID()),
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, c)
	token.Header["kid"] = t.keyID
	if r.Status.Token, err = token.SignedString(t.cfg.Key); err != nil {
		return err
	}
	r.Status.ExpirationTimestamp = metav1.NewTime(until)
	return nil
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
	default:
		return time.Duration(n) * time.Second, nil
	}
	return 0, apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), r.Name, field.ErrorList{field.Invalid(path, n, why)})
}

// bind ties the token to the life of an object.
func (t *Tokens) bind(s *view.Snapshot, b *bound, sa *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) error {
	var k *kinds.Kind
	var obj kinds.Object
	switch ref.Kind {
	case "Pod":
		k = kinds.Pod
		pod := view.Get[*corev1.Pod](s, k, sa.Namespace, ref.Name)
		if pod == nil {
			break
		}
		if pod.Spec.ServiceAccountName != sa.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", sa.Name))
		}
		obj, b.Pod = pod, &reference{pod.Name, pod.UID}
		if node := view.Get[*corev1.Node](s, kinds.Node, "", pod.Spec.NodeName); pod.Spec.NodeName != "" && node != nil {
			b.Node = &reference{node.Name, node.UID}
		}
	case "Secret":
		k = kinds.Secret
		if secret := view.Get[*corev1.Secret](s, k, sa.Namespace, ref.Name); secret != nil {
			obj, b.Secret = secret, &reference{secret.Name, secret.UID}
		}
	case "Node":
		k = kinds.Node
		if node := view.Get[*corev1.Node](s, k, "", ref.Name); node != nil {
			obj, b.Node = node, &reference{node.Name, node.UID}
		}
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to object of kind %q: must be Pod, Node or Secret", sa.Name, ref.Kind))
	}
	if obj == nil {
		return apierrors.NewNotFound(k.GroupResource(), ref.Name)
	}
	if ref.UID != "" && ref.UID != obj.GetUID() {
		return apierrors.NewConflict(k.GroupResource(), ref.Name, fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}

// verify checks the signature, the claims, and that what the token is bound to
// still stands. audiences nil means the API's own. It returns those that match.
func (t *Tokens) verify(token string, audiences []string) (*user.DefaultInfo, []string, error) {
	if audiences == nil {
		audiences = t.cfg.Audiences
	}
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return t.cfg.Key.Public(), nil },
		jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(t.cfg.Issuer), jwt.WithExpirationRequired(), jwt.WithLeeway(tokenLeeway), jwt.WithTimeFunc(t.cfg.Now))
	if err != nil {
		return nil, nil, errCredentials // the reason could hold parts of the token
	}
	var matching []string
	for _, a := range c.Audience {
		if slices.Contains(audiences, a) {
			matching = append(matching, a)
		}
	}
	b := c.Kubernetes
	if len(matching) == 0 || c.Subject != serviceAccountPrefix+b.Namespace+":"+b.ServiceAccount.Name {
		return nil, nil, errCredentials
	}
	s := t.cfg.View.Snapshot()
	sa := view.Get[*corev1.ServiceAccount](s, kinds.ServiceAccount, b.Namespace, b.ServiceAccount.Name)
	if sa == nil || sa.UID != b.ServiceAccount.UID || gone(sa, t.cfg.Now()) {
		return nil, nil, errCredentials
	}
	u := &user.DefaultInfo{Name: c.Subject, UID: string(sa.UID),
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + b.Namespace},
		Extra:  map[string][]string{"authentication.kubernetes.io/credential-id": {"JTI=" + c.ID}}}
	if err := t.stands(s, b, u); err != nil {
		return nil, nil, err
	}
	return u, matching, nil
}

// stands checks the bound objects, and tells what the token is bound to.
func (t *Tokens) stands(s *view.Snapshot, b bound, u *user.DefaultInfo) error {
	now := t.cfg.Now()
	if b.Pod != nil {
		pod := view.Get[*corev1.Pod](s, kinds.Pod, b.Namespace, b.Pod.Name)
		if pod == nil || pod.UID != b.Pod.UID || gone(pod, now) {
			return errCredentials
		}
		u.Extra["authentication.kubernetes.io/pod-name"] = []string{b.Pod.Name}
		u.Extra["authentication.kubernetes.io/pod-uid"] = []string{string(b.Pod.UID)}
	}
	if b.Secret != nil {
		secret := view.Get[*corev1.Secret](s, kinds.Secret, b.Namespace, b.Secret.Name)
		if secret == nil || secret.UID != b.Secret.UID || gone(secret, now) {
			return errCredentials
		}
	}
	if b.Node != nil {
		node := view.Get[*corev1.Node](s, kinds.Node, "", b.Node.Name)
		// A pod's token outlives its Node object, as the pod may; one that is
		// bound to the node itself does not.
		if b.Pod == nil && (node == nil || node.UID != b.Node.UID || gone(node, now)) {
			return errCredentials
		}
		u.Extra["authentication.kubernetes.io/node-name"] = []string{b.Node.Name}
		u.Extra["authentication.kubernetes.io/node-uid"] = []string{string(b.Node.UID)}
	}
	return nil
}

// gone: deleted for longer than a token may still be of use to shut down.
func gone(o kinds.Object, now time.Time) bool {
	return o.GetDeletionTimestamp() != nil && now.After(o.GetDeletionTimestamp().Add(time.Minute))
}

// Review answers a TokenReview.
func (a *Authenticator) Review(_ context.Context, r *authenticationv1.TokenReview) error {
	token := r.Spec.Token
	r.Spec.Token = "" // it must not travel back, nor into a log
	if token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	r.Status = authenticationv1.TokenReviewStatus{}
	var u user.Info
	var audiences []string
	if id, secret, ok := bootstrapToken(token); ok {
		b, err := a.bootstrap(id, secret)
		if err != nil {
			r.Status.Error = err.Error()
			return nil
		}
		u = b
	} else {
		info, match, err := a.cfg.Tokens.verify(token, r.Spec.Audiences)
		if err != nil {
			r.Status.Error = err.Error()
			return nil
		}
		u, audiences = known(info), match
	}
	r.Status.Authenticated, r.Status.Audiences = true, audiences
	r.Status.User = authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if r.Status.User.Extra == nil {
			r.Status.User.Extra = map[string]authenticationv1.ExtraValue{}
		}
		r.Status.User.Extra[k] = v
	}
	return nil
}

// Discovery serves the OIDC documents by which others check our tokens.
func (t *Tokens) Discovery() (map[string]http.Handler, error) {
	pub := t.cfg.Key.PublicKey
	coordinate := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.FillBytes(make([]byte, 32))) }
	jwks, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"use": "sig", "kty": "EC", "kid": t.keyID, "crv": "P-256", "alg": "ES256", "x": coordinate(pub.X), "y": coordinate(pub.Y)}}})
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"issuer": t.cfg.Issuer, "jwks_uri": t.cfg.Issuer + "/openid/v1/jwks", "response_types_supported": []string{"id_token"},
		"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"ES256"}})
	if err != nil {
		return nil, err
	}
	serve := func(contentType string, data []byte) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Cache-Control", "public, max-age=3600")
			_, _ = w.Write(data)
		})
	}
	return map[string]http.Handler{
		"/openid/v1/jwks":                   serve("application/jwk-set+json", jwks),
		"/.well-known/openid-configuration": serve("application/json", config),
	}, nil
}
