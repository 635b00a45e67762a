package server

import (
	"fmt"
	"net/url"
	"slices"
	"time"
)

// AccessConfig is who besides this server itself says whose credentials are
// whose, and who may do what. Paths may be relative to the working directory.
type AccessConfig struct {
	// Authentication and Authorization are files of an
	// AuthenticationConfiguration and an AuthorizationConfiguration; changes are
	// taken while running. Empty: none, and Node and RBAC.
	Authentication, Authorization string

	// TokenWebhook is a kubeconfig of who is asked about unknown tokens, in
	// TokenWebhookVersion (default v1beta1, as upstream); its answers are
	// remembered for TokenWebhookTTL (default 2 minutes).
	TokenWebhook        string
	TokenWebhookVersion string
	TokenWebhookTTL     time.Duration

	// Issuers of service account tokens; the first one's name stands in new
	// ones. Default: https://kubernetes.default.svc.<cluster domain>.
	Issuers []string
	// KeysURI is where others find their keys; default: this server.
	KeysURI string
	// Audiences that this server accepts; default: Issuers.
	Audiences []string

	// FrontCA is a file of authorities, besides knarr's own, of proxies that say
	// for whom they ask, FrontNames the names that their certificates may have.
	FrontCA    string
	FrontNames []string
}

func (c *AccessConfig) complete(domain string) error {
	for _, f := range []struct {
		flag string
		file *string
	}{{"--authentication-config", &c.Authentication}, {"--authorization-config", &c.Authorization},
		{"--authentication-token-webhook-config-file", &c.TokenWebhook}, {"--requestheader-client-ca-file", &c.FrontCA}} {
		if *f.file == "" {
			continue
		}
		if err := absolute(f.flag, f.file); err != nil {
			return err
		}
	}
	defaultTo(&c.TokenWebhookVersion, "v1beta1")
	defaultTo(&c.TokenWebhookTTL, 2*time.Minute)
	if c.TokenWebhookTTL < 0 {
		return fmt.Errorf("--authentication-token-webhook-cache-ttl %s is negative", c.TokenWebhookTTL)
	}
	if c.FrontCA == "" && len(c.FrontNames) > 0 {
		return fmt.Errorf("--requestheader-allowed-names goes with --requestheader-client-ca-file")
	}
	if len(c.Issuers) == 0 {
		c.Issuers = []string{defaultIssuer(domain)}
	}
	for i, iss := range c.Issuers {
		// As OpenID Connect Discovery 1.0, 3 wants it.
		u, err := url.Parse(iss)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Errorf("--service-account-issuer %q is not a URL of the form https://HOST/PATH", iss)
		}
		if slices.Contains(c.Issuers[:i], iss) {
			return fmt.Errorf("--service-account-issuer %q is given twice", iss)
		}
	}
	if u, err := url.Parse(c.KeysURI); c.KeysURI != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		return fmt.Errorf("--service-account-jwks-uri %q is not a URL of the form https://HOST/PATH", c.KeysURI)
	}
	return nil
}
