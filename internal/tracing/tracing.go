// Package tracing sends spans to a collector, as a TracingConfiguration
// (apiserver.config.k8s.io) orders it.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	k8stracing "k8s.io/component-base/tracing"
	tracingv1 "k8s.io/component-base/tracing/api/v1"
)

const (
	// service is upstream's name for what sends the spans.
	service = "apiserver"
	// drain is how long the end of the server waits for spans that are not sent.
	drain = 2 * time.Second
	// quiet is how seldom the log tells that spans cannot be sent.
	quiet = time.Minute
)

// Read reads a TracingConfiguration, and refuses what is not understood.
func Read(path string) (*tracingv1.TracingConfiguration, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	obj, err := runtime.Decode(serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder(), data)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", path, strings.Join(strings.Fields(err.Error()), " ")) // YAML's errors have several lines
	}
	c, ok := obj.(*apiserver.TracingConfiguration)
	if !ok {
		return nil, fmt.Errorf("%s: expected a TracingConfiguration of apiserver.config.k8s.io, got %T", path, obj)
	}
	if errs := tracingv1.ValidateTracingConfiguration(&c.TracingConfiguration, nil, nil); len(errs) > 0 {
		return nil, fmt.Errorf("%s: %w", path, errs.ToAggregate())
	}
	return &c.TracingConfiguration, nil
}

// Provider makes tracers whose spans are sent.
type Provider struct {
	k8stracing.TracerProvider
}

// Open makes a provider for the server called instance. It connects when there
// is something to send.
func Open(c *tracingv1.TracingConfiguration, instance string) (*Provider, error) {
	p, err := k8stracing.NewProvider(context.Background(), c, nil, []resource.Option{
		resource.WithAttributes(semconv.ServiceNameKey.String(service), semconv.ServiceInstanceIDKey.String(instance))})
	if err != nil {
		return nil, err
	}
	return &Provider{p}, nil
}

// Close sends what is left, for a moment.
func (p *Provider) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("cannot send the last spans: %w", err)
	}
	return nil
}

// Propagators carry spans from one process to the other, as W3C Trace Context
// and Baggage have it.
func Propagators() propagation.TextMapPropagator { return k8stracing.Propagators() }

// Through returns what makes a span of each call of a transport, and tells it to
// the server that is called.
func Through(p trace.TracerProvider) func(http.RoundTripper) http.RoundTripper {
	return func(rt http.RoundTripper) http.RoundTripper {
		return otelhttp.NewTransport(rt, otelhttp.WithTracerProvider(p), otelhttp.WithPropagators(Propagators()), otelhttp.WithMeterProvider(noop.NewMeterProvider()))
	}
}

// Log has the libraries of OpenTelemetry say in log what they cannot do.
func Log(log *slog.Logger) {
	var mu sync.Mutex
	var told time.Time
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(told) >= quiet {
			told = now
			log.Warn("spans are lost", "error", err)
		}
	}))
}
