package authn

import (
	"crypto/subtle"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// Bootstrap tokens are Secrets of kube-system, in upstream's form.
const (
	bootstrapType   = "bootstrap.kubernetes.io/token"
	bootstrapSecret = "bootstrap-token-"
	bootstrapUser   = "system:bootstrap:"
	bootstrapGroup  = "system:bootstrappers"
)

var (
	bootstrapPattern      = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
	bootstrapGroupPattern = regexp.MustCompile(`^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$`)
)

func bootstrapToken(token string) (id, secret string, ok bool) {
	m := bootstrapPattern.FindStringSubmatch(token)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// bootstrap checks a token against its Secret. All refusals look alike.
func (a *Authenticator) bootstrap(id, secret string) (user.Info, error) {
	s := view.Now[*corev1.Secret](a.cfg.View, kinds.Secret, metav1.NamespaceSystem, bootstrapSecret+id)
	if s == nil || s.DeletionTimestamp != nil || s.Type != bootstrapType {
		return nil, errCredentials
	}
	if subtle.ConstantTimeCompare(s.Data["token-secret"], []byte(secret)) != 1 || string(s.Data["token-id"]) != id {
		return nil, errCredentials
	}
	if until := string(s.Data["expiration"]); until != "" {
		at, err := time.Parse(time.RFC3339, until)
		if err != nil || !a.cfg.Now().Before(at) {
			return nil, errCredentials
		}
	}
	if string(s.Data["usage-bootstrap-authentication"]) != "true" {
		return nil, errCredentials
	}
	groups := []string{bootstrapGroup}
	for g := range strings.SplitSeq(string(s.Data["auth-extra-groups"]), ",") {
		if g = strings.TrimSpace(g); g == "" {
			continue
		}
		if !bootstrapGroupPattern.MatchString(g) {
			return nil, errCredentials
		}
		groups = append(groups, g)
	}
	return &user.DefaultInfo{Name: bootstrapUser + id, Groups: groups}, nil
}
