package imagestore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	crierrors "k8s.io/cri-api/pkg/errors"

	"knarr.dev/knarr/internal/runtime/registry"
)

// source is a place that a repository can be fetched from: its registry, or a
// mirror of that.
type source struct {
	base *url.URL // of the registry API, without /v2/
	repo string   // library/busybox
	of   string   // the registry that a mirror stands for
	auth authn.Authenticator
	ca   string // file

	mu     sync.Mutex
	client *http.Client // once connected
	plain  *http.Transport
	open   atomic.Bool // the registry's root challenges nobody
	// challenge of the repository, if the root has none.
	challenge []string
}

// sources of an image, in the order in which they are asked. Credentials go to
// the registry that they are for and nowhere else: a mirror gets them only if
// they name it.
func sources(hosts registry.Hosts, named reference.Named, auth credentials) ([]*source, error) {
	host, repo := reference.Domain(named), reference.Path(named)
	var list []*source
	for _, base := range append(append([]string(nil), hosts.Mirrors[host]...), hosts.Home(host)) {
		u, err := url.Parse(base)
		if err != nil {
			return nil, fmt.Errorf("registry %s: %w", host, err)
		}
		u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/v2")
		src := &source{base: u, repo: repo, ca: hosts.CAs[u.Host], auth: authn.Anonymous}
		mirror := len(list) < len(hosts.Mirrors[host])
		if mirror {
			src.of = host
		} else if src.ca == "" {
			src.ca = hosts.CAs[host]
		}
		if auth.isFor(u.Host, mirror) {
			src.auth = authn.FromConfig(auth.config)
		}
		list = append(list, src)
	}
	return list, nil
}

func (src *source) close() {
	src.mu.Lock()
	defer src.mu.Unlock()
	if src.plain != nil {
		src.plain.CloseIdleConnections()
	}
}

// connect finds out how the registry wants to be spoken to, once.
func (src *source) connect(ctx context.Context, patience time.Duration) (*http.Client, error) {
	src.mu.Lock()
	defer src.mu.Unlock()
	if src.client != nil {
		return src.client, nil
	}
	if src.plain == nil {
		conf := &tls.Config{MinVersion: tls.VersionTLS12}
		if src.ca != "" {
			pem, err := os.ReadFile(src.ca)
			if err != nil {
				return nil, err
			}
			conf.RootCAs = x509.NewCertPool()
			if !conf.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("CA of %s: %s has no certificates in PEM", src.base.Host, src.ca)
			}
		}
		src.plain = &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
			TLSClientConfig: conf, TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
			ResponseHeaderTimeout: patience, MaxResponseHeaderBytes: 1 << 20, DisableCompression: true,
		}
	}
	opts := []name.Option{name.WeakValidation}
	if src.base.Scheme == "http" {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(src.base.Host, opts...)
	if err != nil {
		return nil, err
	}
	rt, err := transport.NewWithContext(ctx, reg, src.auth, pinned{src, src.challenge}, []string{"repository:" + src.repo + ":pull"})
	if err != nil {
		return nil, err
	}
	src.client = &http.Client{Transport: rt}
	return src.client, nil
}

// challenged says whether a request is to be made again with a token. The
// library asks for tokens if the registry's root wants one; some let everybody
// see the root and challenge at their repositories. A redirect's target has no
// say in where credentials go.
func (src *source) challenged(by *http.Client, resp *http.Response) bool {
	if resp.StatusCode != http.StatusUnauthorized || resp.Request.URL.Host != src.base.Host {
		return false
	}
	var bearer []string
	for _, c := range resp.Header.Values(wwwAuthenticate) {
		if scheme, _, _ := strings.Cut(c, " "); strings.EqualFold(scheme, "bearer") {
			bearer = append(bearer, c)
		}
	}
	src.mu.Lock()
	defer src.mu.Unlock()
	if src.client != by { // another request was faster
		return true
	}
	if bearer == nil || src.challenge != nil || !src.open.Load() {
		return false
	}
	src.challenge, src.client = bearer, nil
	return true
}

const wwwAuthenticate = "Www-Authenticate" // as net/http spells it

// pinned holds requests to the registry to the scheme that it was configured
// with (the library falls back to plain HTTP for names that look local), puts a
// mirror's prefix before the API's paths, and lets the repository's challenge
// stand for the root's.
type pinned struct {
	*source
	challenge []string
}

func (p pinned) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != p.base.Host {
		return p.plain.RoundTrip(r)
	}
	if r.URL.Scheme != p.base.Scheme {
		return nil, fmt.Errorf("%s is reached by %s only", p.base.Host, p.base.Scheme)
	}
	root := r.URL.Path == "/v2/"
	if root && p.challenge != nil {
		return &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{wwwAuthenticate: p.challenge}, Body: http.NoBody, Request: r}, nil
	}
	if p.base.Path != "" && strings.HasPrefix(r.URL.Path, "/v2/") {
		r = r.Clone(r.Context())
		r.URL.Path = p.base.Path + r.URL.Path
	}
	resp, err := p.plain.RoundTrip(r)
	if root && err == nil && resp.StatusCode == http.StatusOK {
		p.open.Store(true)
	}
	return resp, err
}

// get asks for something of the repository. A status that is not among ok is
// an error.
func (src *source) get(ctx context.Context, patience time.Duration, what string, header http.Header, ok ...int) (*http.Response, error) {
	u := url.URL{Scheme: src.base.Scheme, Host: src.base.Host, Path: "/v2/" + src.repo + "/" + what}
	if src.of != "" {
		u.RawQuery = url.Values{"ns": {src.of}}.Encode() // what proxies of several registries tell them apart by
	}
	for {
		client, err := src.connect(ctx, patience)
		if err != nil {
			return nil, withoutQuery(err)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return nil, err
		}
		req.Header = header.Clone() // the library adds credentials
		resp, err := client.Do(req)
		if err != nil {
			return nil, withoutQuery(err)
		}
		if src.challenged(client, resp) {
			resp.Body.Close()
			continue
		}
		if err := transport.CheckError(resp, ok...); err != nil {
			resp.Body.Close()
			return nil, err
		}
		return resp, nil
	}
}

// withoutQuery takes out of an error what a URL's query may hold: registries
// redirect to stores by URLs that are signed.
func withoutQuery(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		if u, perr := url.Parse(ue.URL); perr == nil && u.RawQuery != "" {
			u.RawQuery = ""
			ue.URL = u.String()
		}
	}
	return err
}

// errStalled: nothing came for too long.
var errStalled = errors.New("no data came")

// watched runs a transfer, which calls tick when data comes, and ends it when
// none comes.
func watched(ctx context.Context, patience time.Duration, transfer func(ctx context.Context, tick func()) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(patience, func() { cancel(errStalled) })
	defer timer.Stop()
	err := transfer(ctx, func() { timer.Reset(patience) })
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return fmt.Errorf("%w for %s", errStalled, patience)
	}
	return err
}

// ticking calls tick for each piece that is read.
type ticking struct {
	io.Reader
	tick func()
}

func (t ticking) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if n > 0 {
		t.tick()
	}
	return n, err
}

const attempts = 4

// retry tries again what may go better the next time, a little later each time.
func retry(ctx context.Context, try func() error) error {
	pause := 200 * time.Millisecond
	for n := 1; ; n++ {
		err := try()
		if err == nil || n == attempts || ctx.Err() != nil || !temporary(err) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
		pause *= 3
	}
}

// temporary says whether an error is the network's or an overloaded server's.
func temporary(err error) bool {
	if te := (*transport.Error)(nil); errors.As(err, &te) {
		return te.StatusCode == http.StatusTooManyRequests || te.StatusCode == http.StatusRequestTimeout || te.StatusCode >= 500
	}
	if _, ok := status.FromError(err); ok || errors.Is(err, errStalled) || noSpace(err) != nil {
		return false
	}
	var ne net.Error
	var ce *tls.CertificateVerificationError
	return !errors.As(err, &ce) && (errors.As(err, &ne) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF))
}

// denied is what the CRI's clients know.
const denied = "pull access denied, repository does not exist or may require authorization"

// public gives an error of a pull the code and the words that clients of the
// CRI tell apart.
func public(ref string, err error) error {
	say := func(code codes.Code, what string) error {
		return status.Errorf(code, "%s: pull of %s: %s", what, ref, brief(err.Error()))
	}
	if full := noSpace(err); full != nil {
		err = full
	}
	te := (*transport.Error)(nil)
	code := status.Code(err)
	switch {
	case errors.Is(err, errStopped):
		return unavailable(err)
	case errors.Is(err, context.Canceled):
		return status.Errorf(codes.Canceled, "pull of %s: %v", ref, err)
	case errors.Is(err, context.DeadlineExceeded):
		return status.Errorf(codes.DeadlineExceeded, "pull of %s: %v", ref, err)
	case errors.As(err, &te) && te.StatusCode == http.StatusNotFound:
		return say(codes.NotFound, "not found")
	case errors.As(err, &te) && (te.StatusCode == http.StatusUnauthorized || te.StatusCode == http.StatusForbidden):
		return say(codes.PermissionDenied, denied)
	case errors.As(err, &te), errors.Is(err, errStalled), temporary(err):
		return say(codes.Unavailable, crierrors.ErrRegistryUnavailable.Error())
	case code != codes.Unknown:
		return status.Errorf(code, "pull of %s: %s", ref, brief(status.Convert(err).Message()))
	}
	return status.Errorf(codes.Unknown, "pull of %s: %s", ref, brief(err.Error()))
}

// maxWords bounds what of a registry's answer goes into events.
const maxWords = 1 << 10

func brief(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= maxWords {
		return text
	}
	return strings.ToValidUTF8(text[:maxWords], "") + "…"
}
