package server

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/auth/authn"
	"knarr.dev/knarr/internal/auth/config"
	"knarr.dev/knarr/internal/auth/podrefs"
	"knarr.dev/knarr/internal/auth/webhook"
	"knarr.dev/knarr/internal/controller/clusterauthentication"
	"knarr.dev/knarr/internal/controller/legacytoken"
	"knarr.dev/knarr/internal/controller/serviceaccounttoken"
	"knarr.dev/knarr/internal/controller/tokencleaner"
	"knarr.dev/knarr/internal/filewatch"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/security/pki"
)

// access is who may ask the API server: the parts of authentication and
// authorization that the rest of the control plane needs.
type access struct {
	tokens  *authn.Tokens
	authn   *authn.Authenticator
	front   *authn.Front
	frontCA []byte // the authorities of front, PEM
	// run follows files, each until ctx ends.
	run []func(ctx context.Context) error
}

// signingKeys is the file of the keys of service account tokens.
func (c *Config) signingKeys() string { return c.Dir("server", "pki", "service-account.key") }

func (s *control) wireAccess() (err error) {
	a, c := &s.access, &s.cfg.Access
	if err := s.wireTokens(); err != nil {
		return err
	}
	if err := s.wireFront(); err != nil {
		return err
	}
	who := authn.Config{Roots: s.authority.Pool, Front: a.front, View: s.view, Tokens: a.tokens, Anonymous: authn.Health}
	if c.Authentication != "" {
		live, err := config.NewAuthentication(c.Authentication, c.Issuers, authn.Health, s.log, time.Now)
		if err != nil {
			return fmt.Errorf("--authentication-config: %w", err)
		}
		live.Reloads = s.reloads("authentication_config_controller")
		who.Anonymous = live.Anonymous
		who.Others = append(who.Others, authn.ForAPI(live, a.tokens.Audiences()))
		a.run = append(a.run, live.Run)
	}
	if c.TokenWebhook != "" {
		hook, err := s.tokenWebhook()
		if err != nil {
			return fmt.Errorf("--authentication-token-webhook-config-file: %w", err)
		}
		who.Others = append(who.Others, hook)
	}
	if c.Authorization != "" {
		live, err := config.NewAuthorization(c.Authorization, s.authz, s.log)
		if err != nil {
			return fmt.Errorf("--authorization-config: %w", err)
		}
		live.Reloads = s.reloads("authorization_config_controller")
		a.run = append(a.run, live.Run)
	}
	a.authn, err = authn.New(who)
	return err
}

// reloads of a configuration file are counted in the control plane's metrics.
func (s *control) reloads(controller string) *filewatch.Reloads {
	r := filewatch.NewReloads(controller, s.cfg.NodeName)
	s.metrics.MustRegister(r)
	return r
}

func (s *control) wireTokens() error {
	file, c := s.cfg.signingKeys(), &s.cfg.Access
	opened, err := pki.OpenSigningKeys(file)
	if err != nil {
		return err
	}
	keys, err := authn.NewKeys(opened...)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	uri := c.KeysURI
	if uri == "" {
		uri = s.cfg.APIURL() + authn.KeysPath
	}
	s.access.tokens, err = authn.NewTokens(authn.TokensConfig{
		Keys: keys, Issuers: c.Issuers, KeysURI: uri, Audiences: c.Audiences, View: s.view, Fresh: s.fresh, Used: s.tokenUsed})
	s.access.run = append(s.access.run, func(ctx context.Context) error { return filewatch.Run(ctx, s.rotate(ctx, keys), file) })
	if s.share != nil {
		s.access.run = append(s.access.run, s.share.follow)
	}
	return err
}

// rotate takes the keys of the file when they are others than before. Of several
// servers none signs with a key that is not known to all of them.
func (s *control) rotate(ctx context.Context, have *authn.Keys) func() {
	return func() {
		var keys *authn.Keys
		opened, err := pki.ReadSigningKeys(s.cfg.signingKeys())
		if err == nil {
			keys, err = authn.NewKeys(opened...)
		}
		if err == nil && s.share != nil && !keys.Same(have) {
			if err = s.share.publishFile(ctx, signingFile); err != nil {
				err = fmt.Errorf("they cannot be told to the other servers, write the file again once etcd answers: %w", err)
			}
		}
		switch {
		case err != nil:
			s.log.Error("the changed keys of service account tokens are not taken; the former ones hold", "error", err)
		case !keys.Same(have):
			have = keys
			s.access.tokens.Rotate(keys)
			s.log.Info("the changed keys of service account tokens hold", "keys", len(opened))
		}
	}
}

// wireFront says which proxies are believed when they say for whom they ask:
// this server is one for other API servers, and these may be one for it.
func (s *control) wireFront() error {
	a, c := &s.access, &s.cfg.Access
	pool := s.front.Pool().Clone()
	a.frontCA = s.front.PEM
	if c.FrontCA != "" {
		data, err := os.ReadFile(c.FrontCA)
		if err != nil {
			return fmt.Errorf("--requestheader-client-ca-file: %w", err)
		}
		if !pool.AppendCertsFromPEM(data) {
			return fmt.Errorf("--requestheader-client-ca-file: %s holds no PEM certificate", c.FrontCA)
		}
		a.frontCA = slices.Concat(a.frontCA, data)
	}
	a.front = &authn.Front{Roots: func() *x509.CertPool { return pool }, Users: []string{"X-Remote-User"}, UIDs: []string{"X-Remote-Uid"},
		Groups: []string{"X-Remote-Group"}, ExtraPrefixes: []string{"X-Remote-Extra-"}}
	if c.FrontCA == "" || len(c.FrontNames) > 0 { // else any name of those authorities will do, as upstream
		a.front.Names = append([]string{frontProxyClient}, c.FrontNames...)
	}
	return nil
}

func (s *control) tokenWebhook() (authenticator.Token, error) {
	c := &s.cfg.Access
	client, err := webhook.Open(c.TokenWebhook, tokenWebhookLimit)
	if err != nil {
		return nil, err
	}
	hook, err := webhook.NewToken(client, c.TokenWebhookVersion, s.access.tokens.Audiences())
	if err != nil {
		return nil, err
	}
	return cache.New(hook, false, c.TokenWebhookTTL, c.TokenWebhookTTL), nil
}

// tokenWebhookLimit of one call; upstream's figure.
const tokenWebhookLimit = 30 * time.Second

// published is what other API servers are told about authentication.
func (s *control) published() map[string]string {
	f := s.access.front
	list := func(v []string) string {
		data, err := json.Marshal(v)
		if err != nil {
			panic("server: " + err.Error()) // strings always marshal
		}
		return string(data)
	}
	return map[string]string{
		"client-ca-file": string(s.authority.PEM), "requestheader-client-ca-file": string(s.access.frontCA),
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
