package aggregate

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

const (
	// checkTimeout is upstream's for the discovery check.
	checkTimeout = 5 * time.Second
	// maxDiscovery bounds what a backend may answer there; a hundred resources
	// take 30 kB.
	maxDiscovery = 4 << 20
	// self is who the aggregator is to backends when it asks for itself.
	self = "system:kube-aggregator"
)

// Backend is an API server that answers for one group and version. It is not
// changed once it is known.
type Backend struct {
	APIService *apiregistrationv1.APIService
	// Transport presents our client certificate and verifies the backend's.
	Transport *http.Transport
	// Problem is why it cannot be asked; nil: it can.
	Problem *apiregistrationv1.APIServiceCondition
	// Resources that it serves, as of its last answer.
	Resources *metav1.APIResourceList

	checked bool // that it was found out, not that it is well
	resolve func(namespace, name string, port int32) (string, error)
}

// backend makes one for s, with the connections of old if they still fit.
func (a *Aggregator) backend(s *apiregistrationv1.APIService, old *Backend) *Backend {
	b := &Backend{APIService: s, resolve: a.cfg.Resolve}
	if old != nil {
		b.Resources = old.Resources
		if sameSpec(&s.Spec, &old.APIService.Spec) {
			b.Transport = old.Transport
			return b
		}
	}
	ref := s.Spec.Service
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: ref.Name + "." + ref.Namespace + ".svc", GetClientCertificate: a.cfg.Certificate}
	if len(s.Spec.CABundle) > 0 {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM(s.Spec.CABundle) // validation saw a certificate in it
	}
	conf.InsecureSkipVerify = s.Spec.InsecureSkipTLSVerify
	b.Transport = &http.Transport{TLSClientConfig: conf, TLSHandshakeTimeout: checkTimeout, MaxIdleConnsPerHost: 25,
		IdleConnTimeout: 90 * time.Second, ForceAttemptHTTP2: true}
	return b
}

// URL of the backend, at an endpoint that is ready, without a path.
func (b *Backend) URL() (*url.URL, error) {
	if b.Problem != nil {
		return nil, unavailable()
	}
	return b.anyURL()
}

func (b *Backend) anyURL() (*url.URL, error) {
	ref := b.APIService.Spec.Service
	port := int32(443)
	if ref.Port != nil {
		port = *ref.Port
	}
	host, err := b.resolve(ref.Namespace, ref.Name, port)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", unavailable(), err)
	}
	return &url.URL{Scheme: "https", Host: host}, nil
}

// path below which the API is served.
func (b *Backend) path() string {
	return "/apis/" + b.APIService.Spec.Group + "/" + b.APIService.Spec.Version
}

// discover asks which resources there are; an answer at all shows that the
// backend is well. Redirects are not followed.
func (b *Backend) discover(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	at, err := b.anyURL()
	if err != nil {
		return err
	}
	at.Path = b.path()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	SetUser(req.Header, self, "", []string{"system:masters"}, nil)
	resp, err := b.Transport.RoundTrip(req)
	if err != nil {
		b.Transport.CloseIdleConnections()
		return fmt.Errorf("failing or missing response from %v: %w", at, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("failing or missing response from %v: bad status from %v: %d", at, at, resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxDiscovery+1))
	if err != nil {
		return fmt.Errorf("failing or missing response from %v: %w", at, err)
	}
	list := &metav1.APIResourceList{}
	if len(data) > maxDiscovery {
		return fmt.Errorf("failing or missing response from %v: more than %d bytes", at, maxDiscovery)
	}
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(list); err != nil {
		return fmt.Errorf("failing or missing response from %v: it is not an APIResourceList: %w", at, err)
	}
	b.Resources = list
	return nil
}

// differs reports whether clients see something else than with old.
func (b *Backend) differs(old *Backend) bool {
	return old == nil || !sameSpec(&b.APIService.Spec, &old.APIService.Spec) || (b.Problem == nil) != (old.Problem == nil) ||
		!equality.Semantic.DeepEqual(b.Resources, old.Resources)
}

func sameSpec(a, b *apiregistrationv1.APIServiceSpec) bool { return equality.Semantic.DeepEqual(a, b) }

// discovery of the version in the aggregated form; stale if the backend does
// not answer at present.
func (b *Backend) discovery() apidiscoveryv2.APIVersionDiscovery {
	v := apidiscoveryv2.APIVersionDiscovery{Version: b.APIService.Spec.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
	if b.Problem != nil {
		v.Freshness = apidiscoveryv2.DiscoveryFreshnessStale
	}
	if b.Resources == nil {
		return v
	}
	at := map[string]int{}
	for _, r := range b.Resources.APIResources {
		if name, _, sub := strings.Cut(r.Name, "/"); sub || at[name] > 0 {
			continue
		}
		scope := apidiscoveryv2.ScopeCluster
		if r.Namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		v.Resources = append(v.Resources, apidiscoveryv2.APIResourceDiscovery{
			Resource: r.Name, ResponseKind: b.kindOf(r), Scope: scope, SingularResource: r.SingularName,
			Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
		})
		at[r.Name] = len(v.Resources)
	}
	for _, r := range b.Resources.APIResources {
		name, sub, ok := strings.Cut(r.Name, "/")
		if i := at[name]; ok && i > 0 {
			v.Resources[i-1].Subresources = append(v.Resources[i-1].Subresources,
				apidiscoveryv2.APISubresourceDiscovery{Subresource: sub, ResponseKind: b.kindOf(r), Verbs: r.Verbs})
		}
	}
	return v
}

func (b *Backend) kindOf(r metav1.APIResource) *metav1.GroupVersionKind {
	gvk := &metav1.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
	if gvk.Version == "" {
		gvk.Group, gvk.Version = b.APIService.Spec.Group, b.APIService.Spec.Version
	}
	return gvk
}

// order of two API services in discovery: groups of higher priority first, then
// by name; within a group versions of higher priority first, then newer ones.
func order(x, y *apiregistrationv1.APIService) int {
	if x.Spec.Group != y.Spec.Group {
		return cmp.Or(cmp.Compare(y.Spec.GroupPriorityMinimum, x.Spec.GroupPriorityMinimum), cmp.Compare(x.Spec.Group, y.Spec.Group))
	}
	return cmp.Or(cmp.Compare(y.Spec.VersionPriority, x.Spec.VersionPriority), version.CompareKubeAwareVersionStrings(y.Spec.Version, x.Spec.Version))
}

// SetUser tells a backend on whose behalf it is asked, in the headers of the
// request header authentication; nothing that a client sent there may be left.
func SetUser(h http.Header, name, uid string, groups []string, extra map[string][]string) {
	for k := range h {
		if strings.HasPrefix(http.CanonicalHeaderKey(k), "X-Remote-") {
			delete(h, k)
		}
	}
	h.Set("X-Remote-User", name)
	if uid != "" {
		h.Set("X-Remote-Uid", uid)
	}
	for _, g := range groups {
		h.Add("X-Remote-Group", g)
	}
	for k, values := range extra {
		for _, v := range values {
			h.Add("X-Remote-Extra-"+escapeKey(k), v)
		}
	}
}

// escapeKey percent-encodes what a header's name cannot hold.
func escapeKey(k string) string {
	var out strings.Builder
	for i := range len(k) {
		if c := k[i]; c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$&'*+-.^_`|~", c) >= 0 {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}
