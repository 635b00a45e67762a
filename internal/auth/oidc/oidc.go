package oidc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	celgo "github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/lazy"
)

// maxOthers bounds the providers that distributed claims come from.
const maxOthers = 16

// Authenticator knows the tokens of one issuer. It implements
// authenticator.Token.
type Authenticator struct {
	cfg      apiserver.JWTAuthenticator
	mapper   authenticationcel.CELMapper
	provider *provider

	mu     sync.Mutex
	ctx    context.Context      // of Run
	others map[string]*provider // of distributed claims, by issuer
}

// Compiler of the expressions; one serves all issuers.
func Compiler() authenticationcel.Compiler { return authenticationcel.NewDefaultCompiler() }

// New checks the configuration of an issuer that is none of disallowed. now may
// be nil.
func New(compiler authenticationcel.Compiler, cfg apiserver.JWTAuthenticator, disallowed []string, now func() time.Time) (*Authenticator, error) {
	mapper, errs := validation.CompileAndValidateJWTAuthenticator(compiler, cfg, disallowed)
	if len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	if cfg.Issuer.EgressSelectorType != "" {
		return nil, fmt.Errorf("oidc: egress lookup required with egress selector type %q", cfg.Issuer.EgressSelectorType)
	}
	client, err := newClient(cfg.Issuer.CertificateAuthority)
	if err != nil {
		return nil, err
	}
	if now == nil {
		now = time.Now
	}
	return &Authenticator{cfg: cfg, mapper: mapper, others: map[string]*provider{}, provider: newProvider(cfg.Issuer.URL, cfg.Issuer.DiscoveryURL, client, now)}, nil
}

// Run asks the issuer what has to be known of it, until that is known or ctx
// ends, with which the Authenticator must not be used any more.
func (a *Authenticator) Run(ctx context.Context) {
	a.mu.Lock()
	a.ctx = ctx
	a.mu.Unlock()
	a.provider.run(ctx)
}

// Ready is closed once the issuer's tokens can be checked.
func (a *Authenticator) Ready() <-chan struct{} { return a.provider.up }

// Health tells why they cannot be checked yet.
func (a *Authenticator) Health() error {
	if err := a.provider.ready(); err != nil {
		return fmt.Errorf("oidc: authenticator for issuer %q is not healthy: %w", a.cfg.Issuer.URL, err)
	}
	return nil
}

// AuthenticateToken implements authenticator.Token.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	if untrustedIssuer(token) != a.cfg.Issuer.URL {
		return nil, false, nil
	}
	c, err := a.provider.verify(ctx, token, a.cfg.Issuer.Audiences)
	if err != nil {
		if errors.Is(err, errNotReady) {
			return nil, false, err
		}
		return nil, false, fmt.Errorf("oidc: verify token: %w", err)
	}
	if err := a.distributed(ctx, c); err != nil {
		return nil, false, fmt.Errorf("oidc: could not expand distributed claims: %w", err)
	}
	u, err := a.user(ctx, c)
	if err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: u}, true, nil
}

// user makes one of the claims, and judges both.
func (a *Authenticator) user(ctx context.Context, c claims) (*user.DefaultInfo, error) {
	value := c.value()
	u := &user.DefaultInfo{}
	var err error
	if u.Name, err = a.username(ctx, c, value); err != nil {
		return nil, err
	}
	if u.Groups, err = a.groups(ctx, c, value); err != nil {
		return nil, err
	}
	if u.UID, err = a.uid(ctx, c, value); err != nil {
		return nil, err
	}
	if u.Extra, err = a.extra(ctx, c, value); err != nil {
		return nil, err
	}
	for _, rule := range a.cfg.ClaimValidationRules {
		if rule.Claim == "" {
			continue
		}
		if !c.has(rule.Claim) {
			return nil, fmt.Errorf("oidc: required claim %s not present in ID token", rule.Claim)
		}
		got, err := c.text(rule.Claim)
		if err != nil {
			return nil, fmt.Errorf("oidc: parse claim %s: %w", rule.Claim, err)
		}
		if got != rule.RequiredValue {
			return nil, fmt.Errorf("oidc: required claim %s value does not match. Got = %s, want = %s", rule.Claim, got, rule.RequiredValue)
		}
	}
	if m := a.mapper.ClaimValidationRules; m != nil {
		results, err := m.EvalClaimMappings(ctx, value)
		if err == nil {
			err = holds(results)
		}
		if err != nil {
			return nil, fmt.Errorf("oidc: error evaluating claim validation expression: %w", err)
		}
	}
	if m := a.mapper.UserValidationRules; m != nil {
		results, err := m.EvalUser(ctx, userValue(u))
		if err == nil {
			err = holds(results)
		}
		if err != nil {
			return nil, fmt.Errorf("oidc: error evaluating user info validation rule: %w", err)
		}
	}
	return u, nil
}

// holds wants true of every rule.
func holds(results []authenticationcel.EvaluationResult) error {
	for _, r := range results {
		if r.EvalResult.Type() != celgo.BoolType {
			return errors.New("validation expression must return a boolean")
		}
		if r.EvalResult == types.True {
			continue
		}
		var message string
		switch rule := r.ExpressionAccessor.(type) {
		case *authenticationcel.ClaimValidationCondition:
			message = rule.Message
		case *authenticationcel.UserValidationCondition:
			message = rule.Message
		}
		return fmt.Errorf("validation expression '%s' failed: %s", r.ExpressionAccessor.GetExpression(), message)
	}
	return nil
}

// userValue is what expressions see as `user`.
func userValue(u user.Info) *lazy.MapValue {
	m := lazy.NewMapValue(types.NewObjectType("kubernetes.UserInfo"))
	for name, v := range map[string]any{"username": u.GetName(), "uid": u.GetUID(), "groups": u.GetGroups(), "extra": u.GetExtra()} {
		m.Append(name, func(*lazy.MapValue) ref.Val { return native(v) })
	}
	return m
}

func (a *Authenticator) username(ctx context.Context, c claims, value *lazy.MapValue) (string, error) {
	if m := a.mapper.Username; m != nil {
		name, err := evalText(ctx, m, value, "username")
		if err == nil && name == "" {
			err = errors.New("oidc: empty username via CEL expression is not allowed")
		}
		return name, err
	}
	claim := a.cfg.ClaimMappings.Username.Claim
	name, err := c.text(claim)
	if err != nil {
		return "", fmt.Errorf("oidc: parse username claims %q: %w", claim, err)
	}
	if claim == "email" && c.has("email_verified") {
		var verified bool
		if err := c.decode("email_verified", &verified); err != nil {
			return "", fmt.Errorf("oidc: parse 'email_verified' claim: %w", err)
		}
		if !verified {
			return "", errors.New("oidc: email not verified")
		}
	}
	if p := a.cfg.ClaimMappings.Username.Prefix; p != nil {
		name = *p + name
	}
	return name, nil
}

func evalText(ctx context.Context, m authenticationcel.ClaimsMapper, value *lazy.MapValue, what string) (string, error) {
	r, err := m.EvalClaimMapping(ctx, value)
	if err != nil {
		return "", fmt.Errorf("oidc: error evaluating %s claim expression: %w", what, err)
	}
	s, ok := r.EvalResult.Value().(string)
	if !ok {
		return "", fmt.Errorf("oidc: error evaluating %s claim expression: %s claim expression must return a string", what, what)
	}
	return s, nil
}

func (a *Authenticator) groups(ctx context.Context, c claims, value *lazy.MapValue) ([]string, error) {
	if claim := a.cfg.ClaimMappings.Groups.Claim; claim != "" && c.has(claim) {
		groups, err := c.texts(claim)
		if err != nil {
			return nil, fmt.Errorf("oidc: parse groups claim %q: %w", claim, err)
		}
		if p := a.cfg.ClaimMappings.Groups.Prefix; p != nil {
			for i := range groups {
				groups[i] = *p + groups[i]
			}
		}
		return groups, nil
	}
	m := a.mapper.Groups
	if m == nil {
		return nil, nil
	}
	r, err := m.EvalClaimMapping(ctx, value)
	var groups []string
	if err == nil {
		groups, err = stringsOf(r.EvalResult)
	}
	if err != nil {
		return nil, fmt.Errorf("oidc: error evaluating group claim expression: %w", err)
	}
	return groups, nil
}

func (a *Authenticator) uid(ctx context.Context, c claims, value *lazy.MapValue) (string, error) {
	if claim := a.cfg.ClaimMappings.UID.Claim; claim != "" {
		uid, err := c.text(claim)
		if err != nil {
			return "", fmt.Errorf("oidc: parse uid claim %q: %w", claim, err)
		}
		return uid, nil
	}
	if a.mapper.UID == nil {
		return "", nil
	}
	return evalText(ctx, a.mapper.UID, value, "uid")
}

func (a *Authenticator) extra(ctx context.Context, c claims, value *lazy.MapValue) (map[string][]string, error) {
	out := map[string][]string{}
	if id, err := c.text("jti"); err == nil && id != "" {
		out[user.CredentialIDKey] = []string{"JTI=" + id}
	}
	if a.mapper.Extra == nil {
		return out, nil
	}
	results, err := a.mapper.Extra.EvalClaimMappings(ctx, value)
	if err != nil {
		return nil, err
	}
	for _, r := range results {
		m, ok := r.ExpressionAccessor.(*authenticationcel.ExtraMappingExpression)
		if !ok {
			return nil, fmt.Errorf("oidc: error evaluating extra claim expression: unexpected %T", r.ExpressionAccessor)
		}
		values, err := stringsOf(r.EvalResult)
		if err != nil {
			return nil, fmt.Errorf("oidc: error evaluating extra claim expression: %s: %w", m.Expression, err)
		}
		if len(values) > 0 {
			out[m.Key] = values
		}
	}
	return out, nil
}

// distributed fetches the groups from where the token says that they are
// (OpenID Connect Core 1.0, 5.6.2): providers do so when they are many.
func (a *Authenticator) distributed(ctx context.Context, c claims) error {
	claim := a.cfg.ClaimMappings.Groups.Claim
	if claim == "" || c.has(claim) || !c.has("_claim_names") {
		return nil
	}
	var names map[string]string
	if err := c.decode("_claim_names", &names); err != nil {
		return fmt.Errorf("oidc: error parsing distributed claim names: %w", err)
	}
	var sources map[string]struct {
		URL         string `json:"endpoint"`
		AccessToken string `json:"access_token"`
	}
	if !c.has("_claim_sources") {
		return errors.New("oidc: no claim sources")
	}
	if err := c.decode("_claim_sources", &sources); err != nil {
		return fmt.Errorf("oidc: could not parse claim sources: %w", err)
	}
	name, ok := names[claim]
	if !ok {
		return nil
	}
	source, ok := sources[name]
	if !ok {
		return fmt.Errorf("id token _claim_names contained a source %s missing in _claims_sources", name)
	}
	if source.URL == "" {
		return nil // the claims are in the token itself: not supported, as upstream
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, source.URL, nil)
	if err != nil {
		return err
	}
	if source.AccessToken != "" {
		req.Header.Set("Authorization", "Bearer "+source.AccessToken)
	}
	data, err := read(a.provider.client, req)
	if err != nil {
		return fmt.Errorf("while getting distributed claim %q: %w", claim, err)
	}
	more, err := a.other(untrustedIssuer(string(data))).verify(ctx, string(data), a.cfg.Issuer.Audiences)
	if err != nil {
		return fmt.Errorf("verify distributed claim token: %w", err)
	}
	if !more.has(claim) {
		return fmt.Errorf("jwt returned by distributed claim endpoint %q did not contain claim: %s", source.URL, claim)
	}
	c[claim] = more[claim]
	return nil
}

// other is the provider of a distributed claim. At first it is not ready.
func (a *Authenticator) other(issuer string) *provider {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.others[issuer]
	if p == nil && (len(a.others) >= maxOthers || a.ctx == nil) {
		return newProvider(issuer, "", a.provider.client, a.provider.now) // never ready
	}
	if p == nil {
		p = newProvider(issuer, "", a.provider.client, a.provider.now)
		a.others[issuer] = p
		go p.run(a.ctx)
	}
	return p
}
