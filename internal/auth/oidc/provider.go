// Package oidc authenticates by the tokens of OpenID Connect providers: it
// finds their keys, checks what they have signed, and makes a user of the
// claims as an AuthenticationConfiguration says.
package oidc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	discoveryPath = "/.well-known/openid-configuration"

	// maxDocument bounds what a provider may answer.
	maxDocument = 1 << 20
	fetchLimit  = 30 * time.Second
	// fetchPause keeps tokens with made-up key ids from becoming a stream of
	// requests to the provider.
	fetchPause = time.Second
	// retryPause is how long a provider that cannot be reached is left alone.
	retryPause = 10 * time.Second
	// leeway of a token's beginning, for clocks that differ.
	leeway = time.Minute
)

// algorithms that providers may sign with. None of them works with a shared
// secret.
var algorithms = []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"}

var (
	errNotReady  = errors.New("oidc: authenticator not initialized")
	errNoKey     = errors.New("no key of the provider has signed the token")
	errMalformed = errors.New("oidc: malformed jwt")
	errWeakKey   = errors.New("a key that is too weak")
)

// provider is one issuer and its keys.
type provider struct {
	issuer    string
	discovery string // where its document is
	client    *http.Client
	now       func() time.Time
	up        chan struct{} // closed once it is ready

	mu      sync.Mutex
	keysURI string // empty: its document has not been read
	keys    map[string][]crypto.PublicKey
	fetched time.Time
	fetch   chan struct{} // closed when the fetch that runs has ended
	err     error         // why it is not ready
}

func newProvider(issuer, discovery string, client *http.Client, now func() time.Time) *provider {
	if discovery == "" {
		discovery = strings.TrimSuffix(issuer, "/") + discoveryPath
	}
	return &provider{issuer: issuer, discovery: discovery, client: client, now: now, up: make(chan struct{}), err: errNotReady}
}

// newClient trusts the authorities in PEM, or those of the machine.
func newClient(authorities string) (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if authorities != "" {
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM([]byte(authorities)) {
			return nil, errors.New("oidc: no certificate in the certificate authority")
		}
	}
	return &http.Client{Transport: t, Timeout: fetchLimit}, nil
}

// run reads the provider's document, however long that takes.
func (p *provider) run(ctx context.Context) {
	for p.learn(ctx) != nil {
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return
		}
	}
}

func (p *provider) learn(ctx context.Context) error {
	var doc struct {
		Issuer  string `json:"issuer"`
		KeysURI string `json:"jwks_uri"`
	}
	err := p.get(ctx, p.discovery, &doc)
	switch {
	case err != nil:
	case doc.Issuer != p.issuer:
		err = fmt.Errorf("oidc: issuer did not match the issuer returned by provider, expected %q got %q", p.issuer, doc.Issuer)
	case doc.KeysURI == "":
		err = errors.New("oidc: provider did not return JWKS URL")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err = err; err == nil {
		p.keysURI = doc.KeysURI
		close(p.up)
	}
	return err
}

// ready tells why the provider cannot be used yet.
func (p *provider) ready() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *provider) get(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	data, err := read(p.client, req)
	if err != nil {
		return fmt.Errorf("oidc: cannot read %s: %w", url, err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("oidc: %s is not JSON", url)
	}
	return nil
}

// read returns a short body; what a failure says stays with the provider.
func read(c *http.Client, req *http.Request) ([]byte, error) {
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err == nil && len(data) > maxDocument {
		err = fmt.Errorf("longer than %d bytes", maxDocument)
	}
	return data, err
}

// verify checks signature, issuer, audience and times, and returns the claims.
func (p *provider) verify(ctx context.Context, token string, audiences []string) (claims, error) {
	if p.ready() != nil {
		return nil, errNotReady
	}
	parser := jwt.NewParser(jwt.WithValidMethods(algorithms), jwt.WithoutClaimsValidation())
	var std jwt.RegisteredClaims
	parse := func() error {
		std = jwt.RegisteredClaims{}
		_, err := parser.ParseWithClaims(token, &std, p.candidates)
		return err
	}
	unsigned := func(err error) bool { return errors.Is(err, errNoKey) || errors.Is(err, jwt.ErrTokenSignatureInvalid) }
	err := parse()
	if unsigned(err) {
		if ferr := p.refresh(ctx); ferr != nil {
			return nil, ferr
		}
		err = parse()
	}
	switch now := p.now(); {
	case unsigned(err):
		return nil, errors.New("failed to verify signature: " + errNoKey.Error())
	case err != nil:
		return nil, errMalformed // the library's text may quote the token
	case fullIssuer(std.Issuer) != p.issuer:
		return nil, fmt.Errorf("oidc: id token issued by a different provider, expected %q got %q", p.issuer, std.Issuer)
	case std.ExpiresAt == nil || now.After(std.ExpiresAt.Time):
		return nil, fmt.Errorf("oidc: token is expired (Token Expiry: %v)", std.ExpiresAt)
	case std.NotBefore != nil && now.Add(leeway).Before(std.NotBefore.Time):
		return nil, fmt.Errorf("oidc: current time %v before the nbf (not before) time: %v", now, std.NotBefore)
	}
	if !slices.ContainsFunc(std.Audience, func(a string) bool { return slices.Contains(audiences, a) }) {
		return nil, fmt.Errorf("oidc: expected audience in %q got %q", audiences, []string(std.Audience))
	}
	return decodeClaims(token)
}

// candidates are the keys that the token may be signed with.
func (p *provider) candidates(j *jwt.Token) (any, error) {
	id, _ := j.Header["kid"].(string)
	p.mu.Lock()
	defer p.mu.Unlock()
	var set jwt.VerificationKeySet
	for name, keys := range p.keys {
		if id != "" && name != id {
			continue
		}
		for _, k := range keys {
			switch k.(type) {
			case *rsa.PublicKey:
				if alg := j.Method.Alg(); alg[0] == 'R' || alg[0] == 'P' {
					set.Keys = append(set.Keys, k)
				}
			case *ecdsa.PublicKey:
				if j.Method.Alg()[0] == 'E' {
					set.Keys = append(set.Keys, k)
				}
			}
		}
	}
	if len(set.Keys) == 0 {
		return nil, errNoKey
	}
	return set, nil
}

// refresh reads the keys anew, unless that was done a moment ago; who comes
// while they are read waits for them.
func (p *provider) refresh(ctx context.Context) error {
	p.mu.Lock()
	if running := p.fetch; running != nil {
		p.mu.Unlock()
		select {
		case <-running:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if p.now().Sub(p.fetched) < fetchPause {
		p.mu.Unlock()
		return nil
	}
	done, uri := make(chan struct{}), p.keysURI
	p.fetch, p.fetched = done, p.now()
	p.mu.Unlock()
	// Others wait for this answer: it must not end with the one request.
	fetching, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchLimit)
	defer cancel()
	var set struct{ Keys []jwk }
	err := p.get(fetching, uri, &set)
	p.mu.Lock()
	defer p.mu.Unlock()
	close(done)
	p.fetch = nil
	if err != nil {
		return err
	}
	p.keys = map[string][]crypto.PublicKey{}
	for _, k := range set.Keys {
		if public, err := k.public(); err == nil && (k.Use == "" || k.Use == "sig") {
			p.keys[k.ID] = append(p.keys[k.ID], public)
		}
	}
	return nil
}

// jwk is a key as RFC 7517 and RFC 7518, 6 write it.
type jwk struct {
	Type  string `json:"kty"`
	Use   string `json:"use"`
	ID    string `json:"kid"`
	Curve string `json:"crv"`
	N     string `json:"n"`
	E     string `json:"e"`
	X     string `json:"x"`
	Y     string `json:"y"`
}

func (k *jwk) public() (crypto.PublicKey, error) {
	number := func(s string) (*big.Int, error) {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
		return new(big.Int).SetBytes(b), err
	}
	switch k.Type {
	case "RSA":
		n, nerr := number(k.N)
		e, eerr := number(k.E)
		if nerr != nil || eerr != nil || n.BitLen() < 2048 || !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 {
			return nil, errWeakKey
		}
		return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
	case "EC":
		curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[k.Curve]
		x, xerr := number(k.X)
		y, yerr := number(k.Y)
		if curve == nil || xerr != nil || yerr != nil {
			return nil, errWeakKey
		}
		size := (curve.Params().BitSize + 7) / 8
		if x.BitLen() > 8*size || y.BitLen() > 8*size {
			return nil, errWeakKey
		}
		point := append([]byte{4}, x.FillBytes(make([]byte, size))...)
		return ecdsa.ParseUncompressedPublicKey(curve, append(point, y.FillBytes(make([]byte, size))...))
	}
	return nil, fmt.Errorf("a key of type %q", k.Type)
}
