package authn

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Review answers a TokenReview.
func (a *Authenticator) Review(_ context.Context, r *authenticationv1.TokenReview) error {
	token := r.Spec.Token
	r.Spec.Token = "" // it must not travel back, nor into a log
	if token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	r.Status = authenticationv1.TokenReviewStatus{}
	u, audiences, err := a.review(token, r.Spec.Audiences)
	if err != nil {
		r.Status.Error = err.Error()
		return nil
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

// review: a bootstrap token is for the API and for nobody else.
func (a *Authenticator) review(token string, audiences []string) (user.Info, []string, error) {
	if len(token) > maxToken {
		return nil, nil, errCredentials
	}
	id, secret, ok := bootstrapToken(token)
	if !ok {
		u, matching, err := a.cfg.Tokens.verify(token, audiences)
		if err != nil {
			return nil, nil, err
		}
		return known(u), matching, nil
	}
	matching := a.cfg.Tokens.cfg.Audiences
	if len(audiences) > 0 {
		matching = intersect(matching, audiences)
	}
	if len(matching) == 0 {
		return nil, nil, errCredentials
	}
	u, err := a.bootstrap(id, secret)
	return u, matching, err
}

func intersect(a, b []string) []string {
	var out []string
	for _, x := range a {
		for _, y := range b {
			if x == y {
				out = append(out, x)
				break
			}
		}
	}
	return out
}
