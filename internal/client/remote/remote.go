// Package remote is client.Client over HTTPS, in protobuf: how a component on
// another machine, or a command, talks to the apiserver.
package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/transport"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/version"
)

const (
	protobufType = "application/vnd.kubernetes.protobuf"
	// maxAnswer bounds what a list may bring: the server is trusted, but a
	// runaway answer must not take the agent down.
	maxAnswer = 1 << 30
)

// Config of a Client.
type Config struct {
	Server string // https://host:port
	TLS    *tls.Config
	// Transport, if set, takes requests instead of one made of TLS, and
	// authenticates them.
	Transport http.RoundTripper
	// Token returns the bearer token of each request; nil: none.
	Token func() (string, error)
	// UserAgent names the component.
	UserAgent string
	// Timeout of a request that is not a watch or a stream; 0: 30 s.
	Timeout time.Duration
	// Requests counts them; nil: nobody asks.
	Requests *Requests
}

// Client implements client.Client.
type Client struct {
	cfg  Config
	base *url.URL
	http *http.Client
}

// New checks the configuration; it does not connect.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(cfg.Server)
	if err != nil || base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("server %q is not of the form https://host:port", cfg.Server)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "knarr"
	}
	cfg.UserAgent += "/" + version.GitVersion
	through := cfg.Transport
	if through == nil {
		through = &http.Transport{
			TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
			IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 4,
			// A dead server is noticed although a watch only reads.
			HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
		}
	}
	if cfg.Requests != nil {
		through = cfg.Requests.through(through)
	}
	return &Client{cfg: cfg, base: base, http: &http.Client{
		Transport: through,
		// An apiserver never redirects; following one would hand it our credentials.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// CloseIdle ends connections that nobody uses, for instance after the client
// certificate has changed.
func (c *Client) CloseIdle() { c.http.CloseIdleConnections() }

// As is the client of another user, whom this one may impersonate, over the
// same connections.
func (c *Client) As(name string, groups ...string) *Client {
	as, own := *c, *c.http
	own.Transport = transport.NewImpersonatingRoundTripper(transport.ImpersonationConfig{UserName: name, Groups: groups}, own.Transport)
	as.http = &own
	return &as
}

// Path of a reference below the server's root; of the collection if it has no
// name.
func Path(ref kinds.Ref) string {
	var b strings.Builder
	if ref.Kind.GVK.Group == "" {
		b.WriteString("/api/")
	} else {
		b.WriteString("/apis/" + ref.Kind.GVK.Group + "/")
	}
	b.WriteString(ref.Kind.GVK.Version)
	if ref.Kind.Namespaced && ref.Namespace != "" {
		b.WriteString("/namespaces/" + url.PathEscape(ref.Namespace))
	}
	b.WriteString("/" + ref.Kind.Resource)
	if ref.Name != "" {
		b.WriteString("/" + url.PathEscape(ref.Name))
	}
	if ref.Sub != "" {
		b.WriteString("/" + ref.Sub)
	}
	return b.String()
}

// Get implements client.Client.
func (c *Client) Get(ctx context.Context, ref kinds.Ref) (runtime.Object, error) {
	return c.call(ctx, http.MethodGet, ref, nil, "", nil)
}

// List implements client.Client.
func (c *Client) List(ctx context.Context, k *kinds.Kind, namespace string, o metav1.ListOptions) (runtime.Object, error) {
	return c.call(ctx, http.MethodGet, kinds.Ref{Kind: k, Namespace: namespace}, ListQuery(o), "", nil)
}

// Create implements client.Client.
func (c *Client) Create(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	body, err := codec.Encode(codec.Protobuf, obj)
	if err != nil {
		return nil, err
	}
	if ref.Sub == "" {
		ref.Name = ""
	}
	return c.call(ctx, http.MethodPost, ref, nil, protobufType, body)
}

// Update implements client.Client.
func (c *Client) Update(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	body, err := codec.Encode(codec.Protobuf, obj)
	if err != nil {
		return nil, err
	}
	return c.call(ctx, http.MethodPut, ref, nil, protobufType, body)
}

// Patch implements client.Client.
func (c *Client) Patch(ctx context.Context, ref kinds.Ref, t types.PatchType, data []byte) (runtime.Object, error) {
	return c.call(ctx, http.MethodPatch, ref, nil, string(t), data)
}

// Delete implements client.Client.
func (c *Client) Delete(ctx context.Context, ref kinds.Ref, o metav1.DeleteOptions) (runtime.Object, error) {
	o.TypeMeta = metav1.TypeMeta{Kind: "DeleteOptions", APIVersion: "v1"}
	body, err := json.Marshal(&o)
	if err != nil {
		return nil, err
	}
	return c.call(ctx, http.MethodDelete, ref, nil, "application/json", body)
}

func (c *Client) call(ctx context.Context, method string, ref kinds.Ref, query url.Values, contentType string, body []byte) (runtime.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	resp, err := c.Do(ctx, method, Path(ref), query, contentType, protobufType+",application/json", body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("cannot read the answer to %s %s: %w", method, ref, err)
	}
	return codec.Decode(formatOf(resp), data)
}

// Do sends one request and returns the answer if its status is below 300;
// otherwise the error is an *apierrors.StatusError, or says that no server
// was reached. The caller closes the body.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, contentType, accept string, body []byte) (*http.Response, error) {
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + path
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if c.cfg.Token != nil {
		token, err := c.cfg.Token()
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, statusError(resp, method, path)
}

// statusError makes of a failed answer the error that the server meant.
func statusError(resp *http.Response, method, path string) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil {
		if obj, err := codec.Decode(formatOf(resp), data); err == nil {
			if s, ok := obj.(*metav1.Status); ok {
				return &apierrors.StatusError{ErrStatus: *s}
			}
		}
	}
	retry, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	return apierrors.NewGenericServerResponse(resp.StatusCode, strings.ToLower(method),
		schema.GroupResource{}, path, strings.TrimSpace(string(data)), retry, true)
}

func formatOf(resp *http.Response) codec.Format {
	if strings.HasPrefix(resp.Header.Get("Content-Type"), protobufType) {
		return codec.Protobuf
	}
	return codec.JSON
}

// ListQuery writes list or watch options as a query string.
func ListQuery(o metav1.ListOptions) url.Values {
	q := url.Values{}
	set := func(key, value string) {
		if value != "" {
			q.Set(key, value)
		}
	}
	set("labelSelector", o.LabelSelector)
	set("fieldSelector", o.FieldSelector)
	set("resourceVersion", o.ResourceVersion)
	set("resourceVersionMatch", string(o.ResourceVersionMatch))
	set("continue", o.Continue)
	if o.Limit > 0 {
		q.Set("limit", strconv.FormatInt(o.Limit, 10))
	}
	if o.Watch {
		q.Set("watch", "true")
	}
	if o.AllowWatchBookmarks {
		q.Set("allowWatchBookmarks", "true")
	}
	if o.SendInitialEvents != nil {
		q.Set("sendInitialEvents", strconv.FormatBool(*o.SendInitialEvents))
	}
	if o.TimeoutSeconds != nil {
		q.Set("timeoutSeconds", strconv.FormatInt(*o.TimeoutSeconds, 10))
	}
	return q
}

// IsUnreachable reports whether err means that no server answered.
func IsUnreachable(err error) bool {
	var status *apierrors.StatusError
	return err != nil && !errors.As(err, &status)
}
