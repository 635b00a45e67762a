package apiserver_test

import (
	"context"
	"encoding/hex"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	tracingv1 "k8s.io/component-base/tracing/api/v1"

	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/store/traced"
	"knarr.dev/knarr/internal/tracing"
)

// collected is an OTLP collector in this process.
type collected struct {
	collector.UnimplementedTraceServiceServer
	mu       sync.Mutex
	spans    []*spans.Span
	services []string
}

func (c *collected) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range r.ResourceSpans {
		for _, a := range rs.Resource.Attributes {
			if a.Key == "service.name" {
				c.services = append(c.services, a.Value.GetStringValue())
			}
		}
		for _, ss := range rs.ScopeSpans {
			c.spans = append(c.spans, ss.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// collect starts a collector and a provider that sends to it.
func collect(t *testing.T, perMillion int32) (*collected, *tracing.Provider) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, srv, done := &collected{}, grpc.NewServer(), make(chan error, 1)
	collector.RegisterTraceServiceServer(srv, c)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		<-done
	})
	endpoint := l.Addr().String()
	p, err := tracing.Open(&tracingv1.TracingConfiguration{Endpoint: &endpoint, SamplingRatePerMillion: &perMillion}, "n1")
	if err != nil {
		t.Fatal(err)
	}
	return c, p
}

// end sends everything, once all requests are over.
func (c *collected) end(t *testing.T, w *world, p *tracing.Provider) {
	t.Helper()
	w.http.Close()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// named is the only span of that name.
func (c *collected) named(t *testing.T, name string) *spans.Span {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*spans.Span
	var all []string
	for _, s := range c.spans {
		all = append(all, s.Name)
		if s.Name == name {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d spans %q among %q", len(found), name, all)
	}
	return found[0]
}

func attributeOf(s *spans.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

const traceOfClient = "0af7651916cd43dd8448eb211c80319c"

// TestSpans: a write's spans, from the client's own to the store's and a
// webhook's.
func TestSpans(t *testing.T) {
	c, p := collect(t, 0) // only what clients want sampled
	_, on := audited(t, "blocking", "rules: [{level: Metadata}]")
	h := newHooked(t, on, func(cfg *apiserver.Config) { cfg.Store, cfg.Tracer = traced.New(cfg.Store), p })
	h.caller.Through(tracing.Through(p))
	h.add(t, validating, "v", "/v", `"rules":[`+configMaps+`]`)
	h.says("/v", allows)
	h.must(t, 201, "POST", cmURL, `{"metadata":{"name":"c"}}`, "Traceparent", "00-"+traceOfClient+"-b7ad6b7169203331-01", "Audit-ID", "mine")
	c.end(t, h.world, p)
	root := c.named(t, "POST /api/v1/namespaces/{:namespace}/configmaps")
	if hex.EncodeToString(root.TraceId) != traceOfClient || hex.EncodeToString(root.ParentSpanId) != "b7ad6b7169203331" || root.Kind != spans.Span_SPAN_KIND_SERVER ||
		attributeOf(root, "http.target") != cmURL || attributeOf(root, "audit-id") != "mine" {
		t.Errorf("%v", root)
	}
	parents := map[string]string{"authorization": root.Name, "priorityandfairness": root.Name, "Create": root.Name, "Create etcd3": "Create",
		"Call validating webhook": "Create", "HTTP POST": "Call validating webhook"}
	for name, parent := range parents {
		s, up := c.named(t, name), c.named(t, parent)
		if string(s.ParentSpanId) != string(up.SpanId) || string(s.TraceId) != string(root.TraceId) {
			t.Errorf("%s is not within %s: %v", name, parent, s)
		}
	}
	if s := c.named(t, "Create etcd3"); attributeOf(s, "key") != "/registry/configmaps/default/c" {
		t.Errorf("%v", s)
	}
	if !slices.Contains(c.services, "apiserver") {
		t.Errorf("%q", c.services)
	}
}

// plainUser is nobody special.
type plainUser struct{}

func (plainUser) AuthenticateRequest(*http.Request) (*authenticator.Response, bool, error) {
	return &authenticator.Response{User: &user.DefaultInfo{Name: "jane"}}, true, nil
}

// TestSpansOfOthers: whoever is not trusted does not decide what is sampled, nor
// extend a trace; it is linked.
func TestSpansOfOthers(t *testing.T) {
	parent := []string{"Traceparent", "00-" + traceOfClient + "-b7ad6b7169203331-01"}
	c, p := collect(t, 0)
	w := newWorld(t, func(cfg *apiserver.Config) { cfg.Tracer, cfg.Authn = p, plainUser{} })
	w.must(t, 200, "GET", cmURL, "", parent...)
	c.end(t, w, p)
	if len(c.spans) > 0 {
		t.Errorf("%v", c.spans)
	}
	c, p = collect(t, 1e6)
	w = newWorld(t, func(cfg *apiserver.Config) { cfg.Tracer, cfg.Authn = p, plainUser{} })
	w.must(t, 200, "GET", cmURL, "", parent...)
	w.must(t, 200, "GET", "/version", "")
	if _, err := w.server.Client(admin).Get(t.Context(), refOf("pods", "x")); err == nil {
		t.Error("found")
	}
	c.end(t, w, p)
	root := c.named(t, "GET /api/v1/namespaces/{:namespace}/configmaps")
	if hex.EncodeToString(root.TraceId) == traceOfClient || len(root.ParentSpanId) > 0 || len(root.Links) != 1 || hex.EncodeToString(root.Links[0].TraceId) != traceOfClient {
		t.Errorf("%v", root)
	}
	c.named(t, "List")
	c.named(t, "GET")
	if own := c.named(t, "GET /api/v1/namespaces/{:namespace}/pods/{:name}"); own.Status.GetCode() != spans.Status_STATUS_CODE_ERROR {
		t.Errorf("%v", own)
	}
}

// TestSpansToKubelets: the node hears behind which span it works.
func TestSpansToKubelets(t *testing.T) {
	c, p := collect(t, 1e6)
	w, n := newWorldWithNode(t, func(cfg *apiserver.Config) { cfg.Tracer = p })
	for path, proto := range map[string]string{podURL + "/a/log?container=c": "", podURL + "/a/exec?container=c&command=x&stdout=1": "websocket"} {
		var header []string
		if proto != "" {
			header = []string{"Connection", "Upgrade", "Upgrade", proto}
		}
		w.do(t, "GET", path, "", header...)
		n.mu.Lock()
		got := n.header.Get("Traceparent")
		n.mu.Unlock()
		if !strings.HasPrefix(got, "00-") {
			t.Errorf("%s: %q", path, got)
		}
	}
	c.end(t, w, p)
	c.named(t, "GET /api/v1/namespaces/{:namespace}/pods/{:name}/log")
	c.named(t, "GET /api/v1/namespaces/{:namespace}/pods/{:name}/exec")
}
