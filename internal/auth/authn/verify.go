package authn

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/audit"
	"knarr.dev/knarr/internal/view"
)

// goneAfter is how long the token of a deleted object may still be of use, to
// shut down in order; upstream's figure.
const goneAfter = time.Minute

// Why a token is refused, in upstream's words: who asks in a TokenReview reads
// them. They hold nothing of the token but names.
var (
	errNoKey       = errors.New("invalid signature, no keys found")
	errSignature   = errors.New("invalid signature")
	errExpired     = errors.New("service account token has expired")
	errNotYet      = errors.New("service account token is not valid yet")
	errFuture      = errors.New("service account token is issued in the future")
	errInvalidated = errors.New("service account token has been invalidated")
	// errForeign: somebody else may know the token.
	errForeign = errors.New("the token names another issuer")
)

// verify checks the signature, the claims, and that what the token is bound to
// still stands. audiences nil means the API's own. It returns those that match.
func (t *Tokens) verify(ctx context.Context, token string, audiences []string) (*user.DefaultInfo, []string, error) {
	if len(audiences) == 0 {
		audiences = t.cfg.Audiences
	}
	c, err := t.parse(token)
	if err != nil {
		return nil, nil, err
	}
	has := []string(c.Audience)
	if c.Issuer == legacyIssuer && len(has) == 0 {
		has = t.cfg.Audiences
		audit.Annotate(ctx, "authentication.k8s.io/legacy-token", c.Subject)
	}
	matching := intersect(has, audiences)
	if len(matching) == 0 {
		return nil, nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", has, audiences)
	}
	if c.Issuer == legacyIssuer {
		u, err := t.verifyLegacy(ctx, token, c)
		return u, matching, err
	}
	u, err := t.verifyBound(c)
	if err == nil && c.Kubernetes.WarnAfter != nil {
		if late := t.cfg.Now().Unix() - c.Kubernetes.WarnAfter.Unix(); late > 0 {
			audit.Annotate(ctx, "authentication.k8s.io/stale-token", fmt.Sprintf("subject: %s, seconds after warning threshold: %d", c.Subject, late))
		}
	}
	return u, matching, err
}

// parse checks the signature, or finds the token among those whose held.
func (t *Tokens) parse(token string) (*claims, error) {
	ring := t.keys.Load()
	hash := sha256.Sum256([]byte(token))
	if c, ok := ring.verified.get(hash); ok {
		return c, nil
	}
	if iss := untrustedIssuer(token); iss != legacyIssuer && !slices.Contains(t.cfg.Issuers, iss) {
		return nil, errForeign
	}
	c := &claims{}
	_, err := jwt.NewParser(jwt.WithoutClaimsValidation()).ParseWithClaims(token, c, ring.keys.candidates)
	switch {
	case errors.Is(err, errNoKey):
		return nil, errNoKey
	case errors.Is(err, jwt.ErrTokenMalformed):
		return nil, errCredentials // the library's text may quote it
	case err != nil:
		return nil, errSignature
	}
	ring.verified.put(hash, c)
	return c, nil
}

// untrustedIssuer is who says to have issued a token whose signature nobody has
// checked yet.
func untrustedIssuer(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(data, &c) != nil {
		return ""
	}
	return c.Issuer
}

// verifyBound judges the claims of a token of a TokenRequest.
func (t *Tokens) verifyBound(c *claims) (*user.DefaultInfo, error) {
	now := t.cfg.Now()
	switch {
	case c.Kubernetes == nil || c.ExpiresAt == nil:
		return nil, errCredentials
	case now.Add(-tokenLeeway).After(c.ExpiresAt.Time):
		return nil, errExpired
	case c.NotBefore != nil && now.Add(tokenLeeway).Before(c.NotBefore.Time):
		return nil, errNotYet
	case c.IssuedAt != nil && now.Add(tokenLeeway).Before(c.IssuedAt.Time):
		return nil, errFuture
	}
	b := c.Kubernetes
	if b.Namespace == "" || b.ServiceAccount.Name == "" || c.Subject != serviceAccountPrefix+b.Namespace+":"+b.ServiceAccount.Name {
		return nil, errCredentials
	}
	if err := t.accountStands(b.Namespace, b.ServiceAccount, goneAfter); err != nil {
		return nil, err
	}
	u := accountUser(b.Namespace, b.ServiceAccount)
	u.Extra = map[string][]string{}
	if c.ID != "" {
		u.Extra[credentialID] = []string{"JTI=" + c.ID}
	}
	return u, t.boundStands(b, u)
}

func accountUser(namespace string, sa reference) *user.DefaultInfo {
	return &user.DefaultInfo{Name: serviceAccountPrefix + namespace + ":" + sa.Name, UID: string(sa.UID),
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, authenticated}}
}

// accountStands: the account is there, is the same one, and is not deleted for
// longer than grace.
func (t *Tokens) accountStands(namespace string, ref reference, grace time.Duration) error {
	sa := view.Now[kinds.Object](t.cfg.View, kinds.ServiceAccount, namespace, ref.Name)
	switch {
	case sa == nil:
		return fmt.Errorf("serviceaccounts %q not found", ref.Name)
	case sa.GetUID() != ref.UID:
		return fmt.Errorf("service account UID (%s) does not match claim (%s)", sa.GetUID(), ref.UID)
	case gone(sa, t.cfg.Now(), grace):
		return fmt.Errorf("service account %s/%s has been deleted", namespace, ref.Name)
	}
	return nil
}

// boundStands checks the bound objects, and tells what the token is bound to.
func (t *Tokens) boundStands(b *bound, u *user.DefaultInfo) error {
	if b.Secret != nil {
		if err := t.stands(kinds.Secret, b.Namespace, b.Secret); err != nil {
			return err
		}
	}
	if b.Pod != nil {
		if err := t.stands(kinds.Pod, b.Namespace, b.Pod); err != nil {
			return err
		}
		u.Extra[serviceaccount.PodNameKey] = []string{b.Pod.Name}
		u.Extra[serviceaccount.PodUIDKey] = []string{string(b.Pod.UID)}
	}
	if b.Node == nil {
		return nil
	}
	// A pod's token outlives its Node object, as the pod may: there the node is
	// told, not relied on. One that is bound to the node itself does not.
	if b.Pod == nil {
		if err := t.stands(kinds.Node, "", b.Node); err != nil {
			return err
		}
	}
	u.Extra[serviceaccount.NodeNameKey] = []string{b.Node.Name}
	if b.Node.UID != "" {
		u.Extra[serviceaccount.NodeUIDKey] = []string{string(b.Node.UID)}
	}
	return nil
}

// stands: the object is there, is the same one, and is not gone.
func (t *Tokens) stands(k *kinds.Kind, namespace string, ref *reference) error {
	obj := view.Now[kinds.Object](t.cfg.View, k, namespace, ref.Name)
	switch {
	case obj == nil || gone(obj, t.cfg.Now(), goneAfter):
		return errInvalidated
	case obj.GetUID() != ref.UID:
		return fmt.Errorf("%s UID (%s) does not match service account %s ref claim (%s)", k.Singular, obj.GetUID(), k.Singular, ref.UID)
	}
	return nil
}

func gone(o kinds.Object, now time.Time, grace time.Duration) bool {
	deleted := o.GetDeletionTimestamp()
	return deleted != nil && !now.Before(deleted.Add(grace))
}
