package webhook

import (
	"context"
	"fmt"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Token asks a webhook whose a token is, by a TokenReview. It implements
// authenticator.Token.
type Token struct {
	client  *Client
	version string // of the review
	own     []string
}

// NewToken asks in v1 or v1beta1, whose reviews have the same form. own are
// the audiences that a webhook means which names none.
func NewToken(c *Client, version string, own []string) (*Token, error) {
	if version != "v1" && version != "v1beta1" {
		return nil, fmt.Errorf("unsupported webhook authenticator version %q, supported versions are v1 and v1beta1", version)
	}
	return &Token{client: c, version: version, own: own}, nil
}

// AuthenticateToken implements authenticator.Token.
func (t *Token) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	wanted, _ := authenticator.AudiencesFrom(ctx)
	ask := &authenticationv1.TokenReview{
		TypeMeta: metav1.TypeMeta{APIVersion: authenticationv1.GroupName + "/" + t.version, Kind: "TokenReview"},
		Spec:     authenticationv1.TokenReviewSpec{Token: token, Audiences: wanted},
	}
	r := &authenticationv1.TokenReview{}
	if err := t.client.call(ctx, ask, r); err != nil {
		return nil, false, fmt.Errorf("webhook: %w", err)
	}
	audiences := wanted
	if len(wanted) > 0 {
		// A webhook that knows nothing of audiences means this server.
		meant := r.Status.Audiences
		if len(meant) == 0 {
			meant = t.own
		}
		audiences = slices.DeleteFunc(slices.Clone(meant), func(a string) bool { return !slices.Contains(wanted, a) })
		if len(audiences) == 0 {
			return nil, false, nil
		}
	}
	if !r.Status.Authenticated {
		if r.Status.Error != "" {
			return nil, false, fmt.Errorf("%s", r.Status.Error)
		}
		return nil, false, nil
	}
	u := &user.DefaultInfo{Name: r.Status.User.Username, UID: r.Status.User.UID, Groups: r.Status.User.Groups}
	for k, v := range r.Status.User.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[k] = v
	}
	return &authenticator.Response{User: u, Audiences: audiences}, true, nil
}
