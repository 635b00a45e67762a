package authn

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Review answers a TokenReview.
func (a *Authenticator) Review(ctx context.Context, r *authenticationv1.TokenReview) error {
	token := r.Spec.Token
	r.Spec.Token = "" // it must not travel back, nor into a log
	if token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	r.Status = authenticationv1.TokenReviewStatus{}
	resp, err := a.token(ctx, token, r.Spec.Audiences)
	if err != nil {
		r.Status.Error = err.Error()
		return nil
	}
	u := resp.User
	r.Status.Authenticated, r.Status.Audiences = true, resp.Audiences
	r.Status.User = authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if r.Status.User.Extra == nil {
			r.Status.User.Extra = map[string]authenticationv1.ExtraValue{}
		}
		r.Status.User.Extra[k] = v
	}
	return nil
}
