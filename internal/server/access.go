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
	"knarr.dev/knarr/internal/auth/podrefs"
	"knarr.dev/knarr/internal/controller/clusterauthentication"
	"knarr.dev/knarr/internal/controller/legacytoken"
	"knarr.dev/knarr/internal/controller/serviceaccounttoken"
	"knarr.dev/knarr/internal/controller/tokencleaner"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile"
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

func (s *control) wireAccess() error {
	opened, err := pki.OpenSigningKeys(s.cfg.signingKeys())
	if err != nil {
		return err
	}
	keys, err := authn.NewKeys(opened...)
	if err != nil {
		return err
	}
	a := &s.access
	a.tokens, err = authn.NewTokens(authn.TokensConfig{
		Keys: keys, Issuers: []string{"https://kubernetes.default.svc." + s.cfg.ClusterDomain},
		KeysURI: "https://" + net.JoinHostPort(s.cfg.NodeIP, strconv.Itoa(s.cfg.APIPort)) + authn.KeysPath,
		View:    s.view, Fresh: s.fresh, Used: s.tokenUsed,
	})
	if err != nil {
		return err
	}
	a.authn, err = authn.New(authn.Config{Roots: s.authority.Pool, Front: s.frontProxies(), View: s.view, Tokens: a.tokens})
	return err
}

// frontProxies are believed when they say for whom they ask: this server is one
// for other API servers, and these may be one for it.
func (s *control) frontProxies() *authn.Front {
	return &authn.Front{Roots: s.front.Pool, Names: []string{frontProxyClient}, Users: []string{"X-Remote-User"}, UIDs: []string{"X-Remote-Uid"},
		Groups: []string{"X-Remote-Group"}, ExtraPrefixes: []string{"X-Remote-Extra-"}}
}

// published is what other API servers are told about authentication.
func (s *control) published() map[string]string {
	f := s.frontProxies()
	list := func(v []string) string {
		data, err := json.Marshal(v)
		if err != nil {
			panic("server: " + err.Error()) // strings always marshal
		}
		return string(data)
	}
	return map[string]string{
		"client-ca-file": string(s.authority.PEM), "requestheader-client-ca-file": string(s.front.PEM),
		"requestheader-allowed-names": list(f.Names), "requestheader-username-headers": list(f.Users), "requestheader-uid-headers": list(f.UIDs),
		"requestheader-group-headers": list(f.Groups), "requestheader-extra-headers-prefix": list(f.ExtraPrefixes),
	}
}

// accessLoops are the controllers of credentials.
func (s *control) accessLoops() []reconcile.Controller {
	return append(legacytoken.Controllers(legacytoken.Config{Mounts: func(p *corev1.Pod, secret string) bool { return podrefs.Has(p, kinds.Secret, secret) }}),
		serviceaccounttoken.Controller(serviceaccounttoken.Config{Token: s.access.tokens.Legacy, Bundle: func() []byte { return s.authority.PEM }}),
		tokencleaner.Controller(),
		clusterauthentication.Controller(s.published),
	)
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
