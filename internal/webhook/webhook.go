// Package webhook calls the HTTPS servers by which users extend the API:
// admission and conversion webhooks. It knows nothing of what is said, only how
// to reach them safely: the certificate is verified, redirects are refused, the
// answer is bounded and stands in no error, so that nobody can read by way of
// this server what only it can reach (CVE-2020-8561).
package webhook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

const (
	// maxAnswer bounds what a webhook may answer of which nothing else is said: a
	// converted list of objects, each below 3 MiB, is the longest that is asked for.
	maxAnswer = 64 << 20
	// maxTransports bounds the certificates and servers for which connections
	// are kept; upstream keeps clients for as many configurations.
	maxTransports = 200
	// defaultPort of a service reference that names none.
	defaultPort = 443
	// userAgent is what upstream's server calls itself here.
	userAgent = "kube-apiserver-admission"
)

var (
	errNowhere  = errors.New("webhook configuration must have either service or URL")
	errRedirect = errors.New("the webhook answered with a redirect, which is not followed")
	errBundle   = errors.New("unable to load root certificates: no PEM encoded certificates found")
)

// Hook says where a webhook is: a URL or a service.
type Hook struct {
	URL     string
	Service *Service
	// CABundle verifies the webhook's certificate; empty: the system's roots do.
	CABundle []byte
	// Longest answer that is read, in bytes; 0: 64 MiB.
	Longest int64
}

// Service of the cluster that is a webhook. Its certificate is for
// <name>.<namespace>.svc.
type Service struct {
	Namespace, Name, Path string
	Port                  int32 // 0: 443
}

func (s *Service) port() int32 {
	if s.Port == 0 {
		return defaultPort
	}
	return s.Port
}

// Resolve finds "address:port" of a pod behind a service's port.
type Resolve func(namespace, name string, port int32) (string, error)

// Caller calls webhooks, and keeps connections to them.
type Caller struct {
	resolve Resolve
	through func(http.RoundTripper) http.RoundTripper

	mu         sync.Mutex
	transports map[identity]*http.Transport
}

// identity is what a connection may be used again for.
type identity struct{ bundle, server string }

// New makes a Caller; it starts nothing.
func New(resolve Resolve) *Caller {
	return &Caller{resolve: resolve, through: func(rt http.RoundTripper) http.RoundTripper { return rt }, transports: map[identity]*http.Transport{}}
}

// Through has all calls go through what wrap returns; it comes before the first
// call.
func (c *Caller) Through(wrap func(http.RoundTripper) http.RoundTripper) { c.through = wrap }

// StatusError: the webhook answered, but not with 200.
type StatusError struct{ Code int }

func (e *StatusError) Error() string {
	return fmt.Sprintf("the webhook answered with status code %d", e.Code)
}

// Call posts a JSON document and returns the answer. It blocks until that is
// read, at most for timeout, which the webhook is told as well. Errors are
// fit for clients.
func (c *Caller) Call(ctx context.Context, h Hook, timeout time.Duration, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	shown, t, err := c.locate(h)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	seconds := math.Ceil(timeout.Seconds())
	shown.RawQuery = url.Values{"timeout": {strconv.Itoa(int(max(seconds, 1))) + "s"}}.Encode()
	answer, err := c.post(ctx, h, shown, c.through(t), body)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, &url.Error{Op: "Post", URL: shown.String(), Err: err}
	}
	return answer, nil
}

// locate returns the URL as users know it, and the connections to use.
func (c *Caller) locate(h Hook) (shown *url.URL, t *http.Transport, err error) {
	switch {
	case h.Service != nil:
		s := h.Service
		server := s.Name + "." + s.Namespace + ".svc"
		shown = &url.URL{Scheme: "https", Host: net.JoinHostPort(server, strconv.Itoa(int(s.port()))), Path: s.Path}
		t, err = c.transport(identity{string(h.CABundle), server})
		return shown, t, err
	case h.URL != "":
		if shown, err = url.Parse(h.URL); err != nil {
			return nil, nil, err
		}
		t, err = c.transport(identity{bundle: string(h.CABundle)})
		return shown, t, err
	}
	return nil, nil, errNowhere
}

// transport keeps connections by address, so that none is used for a pod that
// is no longer behind the service.
func (c *Caller) transport(id identity) (*http.Transport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.transports[id]; t != nil {
		return t, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: id.server}
	if bundle := bytes.TrimSpace([]byte(id.bundle)); len(bundle) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(bundle) {
			return nil, errBundle
		}
	}
	// HTTP/1.1, as upstream: one HTTP/2 connection would send all to one pod.
	t := &http.Transport{TLSClientConfig: conf, DisableCompression: true, MaxIdleConnsPerHost: 25, IdleConnTimeout: 90 * time.Second}
	if id.server == "" {
		t.Proxy = http.ProxyFromEnvironment
	}
	for old, x := range c.transports { // any: configurations change seldom
		if len(c.transports) < maxTransports {
			break
		}
		x.CloseIdleConnections()
		delete(c.transports, old)
	}
	c.transports[id] = t
	return t, nil
}

// post asks a service at the address of one of its pods.
func (c *Caller) post(ctx context.Context, h Hook, to *url.URL, t http.RoundTripper, body []byte) ([]byte, error) {
	address := ""
	if s := h.Service; s != nil {
		var err error
		if address, err = c.resolve(s.Namespace, s.Name, s.port()); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if address != "" {
		req.Host, req.URL.Host = to.Host, address
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, */*")
	req.Header.Set("User-Agent", userAgent)
	resp, err := t.RoundTrip(req) // not http.Client, which follows redirects
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code >= 300 && code < 400:
		return nil, errRedirect
	case code != http.StatusOK:
		return nil, &StatusError{Code: code}
	}
	longest := cmp.Or(h.Longest, maxAnswer)
	answer, err := io.ReadAll(io.LimitReader(resp.Body, longest+1))
	if err == nil && int64(len(answer)) > longest {
		err = fmt.Errorf("the webhook's answer is longer than %d bytes", longest)
	}
	return answer, err
}
