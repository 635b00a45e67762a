// Package webhook asks servers that somebody else runs whose a token is and
// what a user may do, and tells them what is done. Where they are, and how this server shows who it is,
// stands in files of the form of a kubeconfig.
package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

const (
	maxAnswer = 1 << 20
	// Upstream's retries of a call: five tries, half a second between the first
	// two, half as much more each time.
	tries       = 5
	firstPause  = 500 * time.Millisecond
	pauseFactor = 1.5
)

var errRedirect = errors.New("the webhook answered with a redirect, which is not followed")

// config is what a kubeconfig may say of a webhook. Decoding is strict: what
// is not understood is refused.
type config struct {
	APIVersion     string         `json:"apiVersion"`
	Kind           string         `json:"kind"`
	Preferences    map[string]any `json:"preferences"`
	Extensions     []any          `json:"extensions"`
	CurrentContext string         `json:"current-context"`
	Clusters       []struct {
		Name    string  `json:"name"`
		Cluster cluster `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		Name string     `json:"name"`
		User credential `json:"user"`
	} `json:"users"`
	Contexts []struct {
		Name    string `json:"name"`
		Context struct {
			Cluster   string `json:"cluster"`
			User      string `json:"user"`
			Namespace string `json:"namespace"`
		} `json:"context"`
	} `json:"contexts"`
}

type cluster struct {
	Server        string `json:"server"`
	CAFile        string `json:"certificate-authority"`
	CAData        string `json:"certificate-authority-data"`
	Insecure      bool   `json:"insecure-skip-tls-verify"`
	TLSServerName string `json:"tls-server-name"`
	ProxyURL      string `json:"proxy-url"`
}

type credential struct {
	CertFile  string `json:"client-certificate"`
	CertData  string `json:"client-certificate-data"`
	KeyFile   string `json:"client-key"`
	KeyData   string `json:"client-key-data"`
	Token     string `json:"token"`
	TokenFile string `json:"tokenFile"`
	Username  string `json:"username"`
	Password  string `json:"password"`
}

// Client calls one webhook.
type Client struct {
	url       string
	http      *http.Client
	token     string
	tokenFile string
	username  string
	password  string
	pause     time.Duration // before the second try; shortened by tests
}

// Open reads a kubeconfig: the cluster of its current context is the webhook,
// its user is how this server shows who it is. Paths are relative to the file.
func Open(file string, timeout time.Duration) (*Client, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var c config
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	cl, user, err := c.chosen()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	u, err := url.Parse(cl.Server)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("%s: server %q is not a URL", file, cl.Server)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	if t.TLSClientConfig, err = tlsConfig(filepath.Dir(file), cl, user); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if cl.ProxyURL != "" {
		proxy, err := url.Parse(cl.ProxyURL)
		if err != nil {
			return nil, fmt.Errorf("%s: proxy-url %q is not a URL", file, cl.ProxyURL)
		}
		t.Proxy = http.ProxyURL(proxy)
	}
	return &Client{url: cl.Server, token: user.Token, tokenFile: beside(filepath.Dir(file), user.TokenFile), username: user.Username, password: user.Password, pause: firstPause,
		http: &http.Client{Transport: t, Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return errRedirect }}}, nil
}

func (c *config) chosen() (*cluster, *credential, error) {
	var clusterName, userName string
	for _, x := range c.Contexts {
		if x.Name == c.CurrentContext {
			clusterName, userName = x.Context.Cluster, x.Context.User
		}
	}
	if clusterName == "" {
		return nil, nil, fmt.Errorf("current-context %q names no cluster", c.CurrentContext)
	}
	var cl *cluster
	user := &credential{}
	for i := range c.Clusters {
		if c.Clusters[i].Name == clusterName {
			cl = &c.Clusters[i].Cluster
		}
	}
	found := userName == ""
	for i := range c.Users {
		if c.Users[i].Name == userName {
			user, found = &c.Users[i].User, true
		}
	}
	switch {
	case cl == nil:
		return nil, nil, fmt.Errorf("there is no cluster %q", clusterName)
	case !found:
		return nil, nil, fmt.Errorf("there is no user %q", userName)
	}
	return cl, user, nil
}

func beside(dir, file string) string {
	if file == "" || filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}

// material is what stands in the file itself, or in one beside it.
func material(dir, data, file string) ([]byte, error) {
	if data != "" {
		return base64.StdEncoding.DecodeString(data)
	}
	if file == "" {
		return nil, nil
	}
	return os.ReadFile(beside(dir, file))
}

func tlsConfig(dir string, cl *cluster, user *credential) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cl.TLSServerName, InsecureSkipVerify: cl.Insecure}
	ca, err := material(dir, cl.CAData, cl.CAFile)
	if err != nil {
		return nil, fmt.Errorf("certificate-authority: %w", err)
	}
	if len(ca) > 0 {
		if cl.Insecure {
			return nil, errors.New("specifying a root certificates file with the insecure flag is not allowed")
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("certificate-authority: no PEM certificate")
		}
	}
	cert, err := material(dir, user.CertData, user.CertFile)
	if err != nil {
		return nil, fmt.Errorf("client-certificate: %w", err)
	}
	key, err := material(dir, user.KeyData, user.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("client-key: %w", err)
	}
	if len(cert) == 0 && len(key) == 0 {
		return conf, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("client-certificate: %w", err)
	}
	conf.Certificates = []tls.Certificate{pair}
	return conf, nil
}

// statusError is an answer that is none.
type statusError struct{ code int }

func (e *statusError) Error() string {
	return fmt.Sprintf("the webhook answered with status code %d", e.code)
}

// call posts a JSON document and decodes the answer. It tries again where that
// may help.
func (c *Client) call(ctx context.Context, ask, answer any) error {
	body, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	pause := c.pause
	for n := 1; ; n++ {
		err = c.once(ctx, body, answer)
		if err == nil || n == tries || !mayPass(ctx, err) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = time.Duration(float64(pause) * pauseFactor)
	}
}

// Post sends a JSON document once and wants no answer but that it was taken.
func (c *Client) Post(ctx context.Context, body []byte) error { return c.once(ctx, body, nil) }

// mayPass: connections break, servers are busy; a refusal stays one.
func mayPass(ctx context.Context, err error) bool {
	if ctx.Err() != nil || errors.Is(err, errRedirect) {
		return false
	}
	if s := (*statusError)(nil); errors.As(err, &s) {
		return s.code == http.StatusInternalServerError || s.code == http.StatusTooManyRequests
	}
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return !u.Timeout() && (errors.Is(err, io.EOF) || strings.Contains(err.Error(), "connection reset"))
	}
	return false
}

func (c *Client) once(ctx context.Context, body []byte, answer any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, */*")
	token := c.token
	if c.tokenFile != "" { // it may be renewed by others
		data, err := os.ReadFile(c.tokenFile)
		if err != nil {
			return err
		}
		token = strings.TrimSpace(string(data))
	}
	switch {
	case token != "":
		req.Header.Set("Authorization", "Bearer "+token)
	case c.username != "":
		req.SetBasicAuth(c.username, c.password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return &statusError{resp.StatusCode}
	}
	if answer == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // so that the connection can be used again
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return err
	}
	if len(data) > maxAnswer {
		return fmt.Errorf("the webhook's answer is longer than %d bytes", maxAnswer)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return errors.New("the webhook's answer is not of the form that was asked for")
	}
	return nil
}
