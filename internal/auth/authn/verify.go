package authn

import (
	"crypto/sha256"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// goneAfter is how long the token of a deleted object may still be of use, to
// shut down in order; upstream's figure.
const goneAfter = time.Minute

// verify checks the signature, the claims, and that what the token is bound to
// still stands. audiences nil means the API's own. It returns those that match.
// All refusals are the same error: a reason could hold parts of the token.
func (t *Tokens) verify(token string, audiences []string) (*user.DefaultInfo, []string, error) {
	if len(audiences) == 0 {
		audiences = t.cfg.Audiences
	}
	c, err := t.parse(token)
	if err != nil {
		return nil, nil, errCredentials
	}
	var matching []string
	for _, a := range c.Audience {
		if slices.Contains(audiences, a) {
			matching = append(matching, a)
		}
	}
	b := &c.Kubernetes
	if len(matching) == 0 || b.Namespace == "" || b.ServiceAccount.Name == "" || c.Subject != serviceAccountPrefix+b.Namespace+":"+b.ServiceAccount.Name {
		return nil, nil, errCredentials
	}
	if !t.stands(kinds.ServiceAccount, b.Namespace, &b.ServiceAccount) {
		return nil, nil, errCredentials
	}
	u := &user.DefaultInfo{Name: c.Subject, UID: string(b.ServiceAccount.UID),
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + b.Namespace, authenticated},
		Extra:  map[string][]string{credentialID: {"JTI=" + c.ID}}}
	if !t.boundStands(b, u) {
		return nil, nil, errCredentials
	}
	return u, matching, nil
}

// parse checks everything that the token alone decides.
func (t *Tokens) parse(token string) (*claims, error) {
	options := []jwt.ParserOption{jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(t.cfg.Issuer),
		jwt.WithExpirationRequired(), jwt.WithLeeway(tokenLeeway), jwt.WithTimeFunc(t.cfg.Now)}
	key := sha256.Sum256([]byte(token))
	if c, ok := t.verified.get(key); ok {
		return c, jwt.NewValidator(options...).Validate(c)
	}
	c := &claims{}
	_, err := jwt.NewParser(options...).ParseWithClaims(token, c, func(j *jwt.Token) (any, error) {
		id, ok := j.Header["kid"].(string)
		if k := t.keys[id]; ok && k != nil {
			return k, nil
		}
		return nil, errCredentials
	})
	if err != nil {
		return nil, err
	}
	t.verified.put(key, c)
	return c, nil
}

// boundStands checks the bound objects, and tells what the token is bound to.
func (t *Tokens) boundStands(b *bound, u *user.DefaultInfo) bool {
	if b.Pod != nil {
		if !t.stands(kinds.Pod, b.Namespace, b.Pod) {
			return false
		}
		u.Extra["authentication.kubernetes.io/pod-name"] = []string{b.Pod.Name}
		u.Extra["authentication.kubernetes.io/pod-uid"] = []string{string(b.Pod.UID)}
	}
	if b.Secret != nil && !t.stands(kinds.Secret, b.Namespace, b.Secret) {
		return false
	}
	if b.Node != nil {
		// A pod's token outlives its Node object, as the pod may: there the node
		// is told, not relied on. One that is bound to the node itself does not.
		if b.Pod == nil && !t.stands(kinds.Node, "", b.Node) {
			return false
		}
		u.Extra["authentication.kubernetes.io/node-name"] = []string{b.Node.Name}
		if b.Node.UID != "" {
			u.Extra["authentication.kubernetes.io/node-uid"] = []string{string(b.Node.UID)}
		}
	}
	return true
}

// stands: the object is there, is the same one, and is not gone.
func (t *Tokens) stands(k *kinds.Kind, namespace string, ref *reference) bool {
	obj := view.Now[kinds.Object](t.cfg.View, k, namespace, ref.Name)
	if obj == nil || obj.GetUID() != ref.UID {
		return false
	}
	deleted := obj.GetDeletionTimestamp()
	return deleted == nil || t.cfg.Now().Before(deleted.Add(goneAfter))
}
