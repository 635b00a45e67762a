package apiserver

import (
	"context"
	"net/http"
	"slices"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/apiserver/pkg/authentication/user"

	propagate "knarr.dev/knarr/internal/tracing"
)

// tracing makes spans under upstream's names; nil makes none.
type tracing struct {
	provider trace.TracerProvider
	tracer   trace.Tracer
	handler  http.Handler // makes a span of a request and goes on with its rest
	through  func(http.RoundTripper) http.RoundTripper
}

const (
	tracerScope = "k8s.io/component-base/tracing" // upstream's
	// maxTracedID bounds a request's ID, which clients choose; upstream's figure.
	maxTracedID = 64
)

// rest is what follows in the pipeline once a request's span has begun.
type rest struct {
	in   *info
	user user.Info
	run  func(http.ResponseWriter, *http.Request)
}

type restKey struct{}

func restOf(r *http.Request) *rest {
	x, ok := r.Context().Value(restKey{}).(*rest)
	if !ok {
		panic("apiserver: a traced request without its rest")
	}
	return x
}

func newTracing(p trace.TracerProvider) *tracing {
	if p == nil {
		return nil
	}
	t := &tracing{provider: p, tracer: p.Tracer(tracerScope), through: propagate.Through(p)}
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { restOf(r).run(w, r) })
	t.handler = otelhttp.NewHandler(next, "KubernetesAPI", otelhttp.WithTracerProvider(p), otelhttp.WithPropagators(propagate.Propagators()),
		otelhttp.WithMeterProvider(noop.NewMeterProvider()),
		otelhttp.WithPublicEndpointFn(func(r *http.Request) bool { return !mayTrace(restOf(r).user) }),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return spanName(r.Method, restOf(r).in) }))
	return t
}

// mayTrace: only these may say that a request belongs to a span of theirs, and
// is sampled with it. For others that is no more than a link.
func mayTrace(u user.Info) bool {
	return slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) || slices.Contains(u.GetGroups(), user.MonitoringGroup)
}

// spanName has nothing in it that is of one object only.
func spanName(method string, in *info) string {
	if !in.resource {
		return method
	}
	name := "/api"
	if in.gvr.Group != "" {
		name = "/apis/" + in.gvr.Group
	}
	name += "/" + in.gvr.Version
	if in.ns != "" || in.gvr.Group == "" && in.gvr.Resource == "namespaces" && in.name != "" {
		name += "/namespaces/{:namespace}"
	}
	name += "/" + in.gvr.Resource
	if in.name != "" {
		name += "/{:name}"
	}
	if in.sub != "" {
		name += "/" + in.sub
	}
	return method + " " + name
}

// traced serves a request within a span. What it writes to is that of the
// library while it lasts.
func (s *Server) traced(w *recorder, r *http.Request, in *info, u user.Info, began time.Time) {
	direct := w.ResponseWriter
	defer func() { w.ResponseWriter = direct }()
	x := &rest{in: in, user: u, run: func(rw http.ResponseWriter, r *http.Request) {
		w.ResponseWriter = rw
		trace.SpanFromContext(r.Context()).SetAttributes(attribute.String("http.target", r.URL.RequestURI()), attribute.String("audit-id", shortID(in)))
		if err := s.answerTo(w, r, in, u, began); err != nil {
			s.fail(w, r, err)
		}
	}}
	ctx := context.WithValue(otelhttp.ContextWithStartTime(r.Context(), began), restKey{}, x)
	s.tracing.handler.ServeHTTP(direct, r.WithContext(ctx))
}

func shortID(in *info) string {
	id := in.audit.ID()
	return id[:min(len(id), maxTracedID)]
}

func noEnd(error) {}

// step makes a span within that of the request.
func (t *tracing) step(ctx context.Context, name string) (context.Context, func(error)) {
	if t == nil || !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, noEnd
	}
	ctx, span := t.tracer.Start(ctx, name)
	return ctx, ender(span)
}

func ender(s trace.Span) func(error) {
	return func(err error) {
		if err != nil {
			s.SetStatus(codes.Error, err.Error())
		}
		s.End()
	}
}

var verbSpans = map[string]string{"get": "Get", "list": "List", "create": "Create", "update": "Update", "patch": "Patch", "delete": "Delete", "deletecollection": "Delete"}

// verb makes the span of what is done with a resource; watches have none of
// their own.
func (t *tracing) verb(r *http.Request, in *info) (context.Context, func(error)) {
	name := verbSpans[in.verb]
	if t == nil || name == "" || !trace.SpanFromContext(r.Context()).IsRecording() {
		return r.Context(), noEnd
	}
	ctx, span := t.tracer.Start(r.Context(), name, trace.WithAttributes(
		attribute.String("audit-id", shortID(in)), attribute.String("api-group", in.gvr.Group), attribute.String("api-version", in.gvr.Version),
		attribute.String("resource", in.gvr.Resource), attribute.String("subresource", in.sub), attribute.String("namespace", in.ns), attribute.String("name", in.name),
		attribute.String("protocol", r.Proto), attribute.String("url", r.URL.Path), attribute.String("user-agent", r.UserAgent()), attribute.String("verb", r.Method)))
	return ctx, ender(span)
}

var methodOf = map[string]string{"create": http.MethodPost, "update": http.MethodPut, "patch": http.MethodPatch, "delete": http.MethodDelete, "deletecollection": http.MethodDelete}

// own makes the span of a component's request.
func (t *tracing) own(ctx context.Context, in *info) (context.Context, func(error)) {
	if t == nil {
		return ctx, noEnd
	}
	method := methodOf[in.verb]
	if method == "" {
		method = http.MethodGet
	}
	ctx, span := t.tracer.Start(ctx, spanName(method, in), trace.WithSpanKind(trace.SpanKindServer))
	return ctx, ender(span)
}

// outgoing is the transport of a hop. It says to the server behind which span
// it works for.
func (t *tracing) outgoing(rt http.RoundTripper) http.RoundTripper {
	if t == nil {
		return rt
	}
	return t.through(rt)
}

// upgrading makes the span of an upgrade, which goes by no transport, and says
// so in its header.
func (t *tracing) upgrading(r *http.Request) (*http.Request, func(error)) {
	if t == nil {
		return r, noEnd
	}
	ctx, span := t.tracer.Start(r.Context(), "HTTP "+r.Method, trace.WithSpanKind(trace.SpanKindClient))
	propagate.Propagators().Inject(ctx, propagation.HeaderCarrier(r.Header))
	return r.WithContext(ctx), ender(span)
}
