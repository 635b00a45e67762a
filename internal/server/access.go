package server

import (
	"context"
	"encoding/json"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/auth/authn"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/pki"
)

// access is who may ask the API server: the parts of authentication that the
// rest of the control plane needs.
type access struct {
	tokens *authn.Tokens
	authn  *authn.Authenticator
}

// signingKeys is the file of the keys of service account tokens.
func (c *Config) signingKeys() string { return c.Dir("server", "pki", "service-account.key") }

func (s *control) wireAccess() (*access, error) {
	opened, err := pki.OpenSigningKeys(s.cfg.signingKeys())
	if err != nil {
		return nil, err
	}
	keys, err := authn.NewKeys(opened...)
	if err != nil {
		return nil, err
	}
	a := &access{}
	a.tokens, err = authn.NewTokens(authn.TokensConfig{
		Keys: keys, Issuers: []string{"https://kubernetes.default.svc." + s.cfg.ClusterDomain},
		KeysURI: "https://" + net.JoinHostPort(s.cfg.NodeIP, strconv.Itoa(s.cfg.APIPort)) + authn.KeysPath,
		View:    s.view, Fresh: s.fresh, Used: s.tokenUsed,
	})
	if err != nil {
		return nil, err
	}
	a.authn, err = authn.New(authn.Config{Roots: s.authority.Pool, Front: s.frontProxies(), View: s.view, Tokens: a.tokens})
	return a, err
}

// frontProxies are believed when they say for whom they ask: this server is one
// for other API servers, and these may be one for it.
func (s *control) frontProxies() *authn.Front {
	return &authn.Front{Roots: s.front.Pool, Names: []string{frontProxyClient}, Users: []string{"X-Remote-User"}, UIDs: []string{"X-Remote-Uid"},
		Groups: []string{"X-Remote-Group"}, ExtraPrefixes: []string{"X-Remote-Extra-"}}
}

// tokenUsed notes on a Secret when its token was used last.
func (s *control) tokenUsed(ctx context.Context, secret *corev1.Secret, day string) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": secret.UID, "labels": map[string]string{authn.LastUsed: day}}})
	if err == nil {
		_, err = s.as("system:apiserver", user.SystemPrivilegedGroup).Patch(ctx, kinds.RefTo(kinds.Secret, secret), types.MergePatchType, patch)
	}
	if err != nil {
		s.log.Warn("cannot note the use of a service account token", "secret", secret.Namespace+"/"+secret.Name, "error", err)
	}
}
