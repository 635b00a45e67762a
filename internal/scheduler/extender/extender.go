// Package extender calls scheduler extenders: servers of the cluster's owner
// that are asked where pods may go. It only carries questions and answers; what
// they mean is the scheduler's matter.
package extender

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	configv1 "k8s.io/kube-scheduler/config/v1"

	"knarr.dev/knarr/internal/scheduler"
)

const (
	// defaultTimeout of one call is upstream's.
	defaultTimeout = 5 * time.Second
	// maxAnswer is enough for 5,000 whole nodes of 12 KiB.
	maxAnswer = 64 << 20
)

var (
	errTwoTrusts   = errors.New("specifying a root certificates file with the insecure flag is not allowed")
	errHalfCert    = errors.New("certificate and key go together")
	errNoAuthority = errors.New("no certificate in the authorities")
	errNoTLS       = errors.New("TLS settings, but the URL is not https")
)

// Open makes an extender as it is configured; it reads the files that are named
// and calls nobody yet. Connections are kept open, redirects are not followed.
func Open(c *configv1.Extender) (scheduler.Extender, error) { return openWith(c, maxAnswer) }

func openWith(c *configv1.Extender, most int64) (scheduler.Extender, error) {
	prefix, err := url.Parse(c.URLPrefix)
	if err != nil {
		return scheduler.Extender{}, err
	}
	if prefix.Scheme != "http" && prefix.Scheme != "https" || prefix.Host == "" {
		return scheduler.Extender{}, fmt.Errorf("%q is no http or https URL", c.URLPrefix)
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 16, IdleConnTimeout: 90 * time.Second, ForceAttemptHTTP2: true}
	switch {
	case prefix.Scheme == "https":
		if transport.TLSClientConfig, err = tlsOf(c.TLSConfig); err != nil {
			return scheduler.Extender{}, err
		}
	case c.EnableHTTPS || c.TLSConfig != nil:
		return scheduler.Extender{}, errNoTLS
	}
	timeout := c.HTTPTimeout.Duration
	if timeout == 0 {
		timeout = defaultTimeout
	}
	h := &caller{most: most, prefix: strings.TrimRight(c.URLPrefix, "/"), client: &http.Client{
		Transport: transport, Timeout: timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	return scheduler.Extender{Extender: *c, Call: h.call}, nil
}

// tlsOf: without authorities of its own a server is verified by the machine's,
// where upstream would not verify it at all.
func tlsOf(c *configv1.ExtenderTLSConfig) (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if c == nil {
		return out, nil
	}
	out.ServerName, out.InsecureSkipVerify = c.ServerName, c.Insecure
	ca, err := dataOr(c.CAData, c.CAFile)
	if err != nil {
		return nil, err
	}
	if len(ca) > 0 {
		if c.Insecure {
			return nil, errTwoTrusts
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errNoAuthority
		}
	}
	cert, err := dataOr(c.CertData, c.CertFile)
	if err != nil {
		return nil, err
	}
	key, err := dataOr(c.KeyData, c.KeyFile)
	if err != nil {
		return nil, err
	}
	if (len(cert) == 0) != (len(key) == 0) {
		return nil, errHalfCert
	}
	if len(cert) > 0 {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, err
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

func dataOr(data []byte, file string) ([]byte, error) {
	if len(data) > 0 || file == "" {
		return data, nil
	}
	return os.ReadFile(file)
}

type caller struct {
	most   int64 // bytes of an answer
	prefix string
	client *http.Client // its timeout bounds a call as a whole
}

func (h *caller) call(ctx context.Context, verb string, args, answer any) error {
	data, err := json.Marshal(args)
	if err != nil {
		return err
	}
	to := h.prefix + "/" + verb
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := h.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("failed %s with extender at URL %s, code %d", verb, to, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, h.most+1))
	if err != nil {
		return fmt.Errorf("failed %s with extender at URL %s: %w", verb, to, err)
	}
	if int64(len(body)) > h.most {
		return fmt.Errorf("failed %s with extender at URL %s: the answer is larger than %d bytes", verb, to, h.most)
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("failed %s with extender at URL %s: %w", verb, to, err)
	}
	return nil
}
