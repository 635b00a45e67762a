package serviceaccounttoken

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// resync bounds how long a Secret holds a former authority's certificate, whose
// rotation no object tells.
const resync = 10 * time.Minute

// Config of the controller.
type Config struct {
	// Token makes the token of an account for the Secret of that name.
	Token func(sa *corev1.ServiceAccount, secret string) (string, error)
	// Bundle returns the cluster's certificates, PEM encoded. Both must be quick.
	Bundle func() []byte
}

// Controller fills the Secrets.
func Controller(c Config) reconcile.Controller {
	return reconcile.Controller{
		Name: "serviceaccount-token-controller", For: kinds.Secret, Resync: resync,
		Watches: []reconcile.Watch{{Kind: kinds.ServiceAccount, Keys: secretsOf}},
		Writes:  []reconcile.Write{{Kind: kinds.Secret, Verbs: []plan.Verb{plan.Update, plan.Delete}}},
		Plan:    c.plan,
	}
}

// secretsOf an account that has come or gone.
func secretsOf(s *view.Snapshot, c view.Change) []reconcile.Key {
	if c.Old != nil && c.New != nil && c.Old.GetUID() == c.New.GetUID() {
		return nil
	}
	var out []reconcile.Key
	sa := c.Object()
	for secret := range view.List[*corev1.Secret](s, kinds.Secret, sa.GetNamespace()) {
		if name, _ := accountOf(secret); secret.Type == corev1.SecretTypeServiceAccountToken && name == sa.GetName() {
			out = append(out, reconcile.KeyOf(secret))
		}
	}
	return out
}

func (c Config) plan(in reconcile.Input) plan.Result {
	s := view.Get[*corev1.Secret](in.View, kinds.Secret, in.Key.Namespace, in.Key.Name)
	if s == nil || s.Type != corev1.SecretTypeServiceAccountToken {
		return plan.Result{}
	}
	o := Observed{Secret: s, CA: c.Bundle()}
	name, uid := accountOf(s)
	if sa := view.Get[*corev1.ServiceAccount](in.View, kinds.ServiceAccount, s.Namespace, name); sa != nil && (uid == "" || uid == sa.UID) {
		o.Account = sa
	}
	if o.Account != nil && len(s.Data[corev1.ServiceAccountTokenKey]) == 0 {
		var err error
		if o.Token, err = c.Token(o.Account, s.Name); err != nil {
			return plan.Result{Events: []plan.Event{{Regarding: kinds.RefTo(kinds.Secret, s), UID: s.UID, Type: corev1.EventTypeWarning,
				Reason: "TokenFailed", Message: "cannot make a token: " + err.Error()}}}
		}
	}
	return Plan(o)
}
