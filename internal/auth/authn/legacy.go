package authn

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/golang-jwt/jwt/v5"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/warning"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

const (
	// legacyIssuer is what the tokens of Secrets say.
	legacyIssuer = "kubernetes/serviceaccount"

	// LastUsed is the label by which a Secret tells the day when its token was
	// used last, InvalidSince that it is to be used no more.
	LastUsed     = "kubernetes.io/legacy-token-last-used"
	InvalidSince = "kubernetes.io/legacy-token-invalid-since"
)

// legacy are the claims of a token that lives in a Secret until that is
// deleted.
type legacy struct {
	Account   string    `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	UID       types.UID `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`
	Secret    string    `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	Namespace string    `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
}

// Legacy is the token that a Secret of type kubernetes.io/service-account-token
// holds. It does not expire: it ends with the Secret or the account.
func (t *Tokens) Legacy(sa *corev1.ServiceAccount, secret string) (string, error) {
	return t.keys.Load().keys.sign(&claims{
		RegisteredClaims: jwt.RegisteredClaims{Issuer: legacyIssuer, Subject: serviceAccountPrefix + sa.Namespace + ":" + sa.Name},
		legacy:           legacy{Account: sa.Name, UID: sa.UID, Secret: secret, Namespace: sa.Namespace},
	})
}

// verifyLegacy checks a token against the Secret that holds it.
func (t *Tokens) verifyLegacy(ctx context.Context, token string, c *claims) (*user.DefaultInfo, error) {
	l := &c.legacy
	if l.Namespace == "" || l.Secret == "" || l.Account == "" || l.UID == "" || c.Subject != serviceAccountPrefix+l.Namespace+":"+l.Account {
		return nil, errCredentials
	}
	s := view.Now[*corev1.Secret](t.cfg.View, kinds.Secret, l.Namespace, l.Secret)
	switch {
	case s == nil || s.DeletionTimestamp != nil:
		return nil, errors.New("Token has been invalidated")
	case subtle.ConstantTimeCompare(s.Data[corev1.ServiceAccountTokenKey], []byte(token)) != 1:
		return nil, errors.New("Token does not match server's copy")
	}
	if err := t.accountStands(l.Namespace, reference{l.Account, l.UID}, 0); err != nil {
		return nil, err
	}
	if s.Labels[InvalidSince] != "" {
		t.used(ctx, s)
		return nil, fmt.Errorf("the token in secret %s/%s for service account %s/%s has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '%s' label from the secret to temporarily allow use of this token",
			l.Namespace, l.Secret, l.Namespace, l.Account, InvalidSince)
	}
	if sa := view.Now[*corev1.ServiceAccount](t.cfg.View, kinds.ServiceAccount, l.Namespace, l.Account); sa != nil && names(sa.Secrets, l.Secret) {
		warning.AddWarning(ctx, "", "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens.")
	}
	t.used(ctx, s)
	return accountUser(l.Namespace, reference{l.Account, l.UID}), nil
}

func names(refs []corev1.ObjectReference, name string) bool {
	for _, r := range refs {
		if r.Name == name {
			return true
		}
	}
	return false
}

// used notes the day, once. Another server's clock may already be a day ahead.
func (t *Tokens) used(ctx context.Context, s *corev1.Secret) {
	now := t.cfg.Now().UTC()
	day, last := now.Format("2006-01-02"), s.Labels[LastUsed]
	if t.cfg.Used == nil || last == day || last == now.AddDate(0, 0, 1).Format("2006-01-02") {
		return
	}
	t.cfg.Used(ctx, s, day)
}
