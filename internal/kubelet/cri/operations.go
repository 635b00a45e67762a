package cri

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Operations counts the calls of the runtime, under upstream's names.
type Operations struct {
	total, errors *prometheus.CounterVec
	seconds       *prometheus.HistogramVec
	sandboxes     *prometheus.HistogramVec // of those calls, by runtime handler
	sandboxErrors *prometheus.CounterVec

	known sync.Map // *operation, by the method that gRPC names
}

type operation struct {
	total, errors prometheus.Counter
	seconds       prometheus.Observer
}

// NewOperations makes counters of nothing yet.
func NewOperations() *Operations {
	kind, handler := []string{"operation_type"}, []string{"runtime_handler"}
	return &Operations{
		total:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_runtime_operations_total", Help: "Calls of the runtime, by operation."}, kind),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_runtime_operations_errors_total", Help: "Those that failed."}, kind),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kubelet_runtime_operations_duration_seconds", Help: "Time that they took.",
			Buckets: prometheus.ExponentialBuckets(.005, 2.5, 14)}, kind),
		sandboxes:     prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kubelet_run_podsandbox_duration_seconds", Help: "Time that making a sandbox took, by the handler of the runtime class."}, handler),
		sandboxErrors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_run_podsandbox_errors_total", Help: "Sandboxes that could not be made."}, handler),
	}
}

func (o *Operations) all() []prometheus.Collector {
	return []prometheus.Collector{o.total, o.errors, o.seconds, o.sandboxes, o.sandboxErrors}
}

// Describe implements prometheus.Collector.
func (o *Operations) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range o.all() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (o *Operations) Collect(ch chan<- prometheus.Metric) {
	for _, c := range o.all() {
		c.Collect(ch)
	}
}

// intercept is a grpc.UnaryClientInterceptor.
func (o *Operations) intercept(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	began := time.Now()
	err := call(ctx, method, req, reply, conn, opts...)
	o.count(method, req, time.Since(began), err)
	return err
}

// count one call.
func (o *Operations) count(method string, req any, d time.Duration, err error) {
	took := d.Seconds()
	v, ok := o.known.Load(method)
	if !ok {
		name := operationName(method)
		v, _ = o.known.LoadOrStore(method, &operation{o.total.WithLabelValues(name), o.errors.WithLabelValues(name), o.seconds.WithLabelValues(name)})
	}
	op := v.(*operation)
	op.total.Inc()
	op.seconds.Observe(took)
	if err != nil {
		op.errors.Inc()
	}
	if run, ok := req.(*runtimeapi.RunPodSandboxRequest); ok {
		o.sandboxes.WithLabelValues(run.RuntimeHandler).Observe(took)
		if err != nil {
			o.sandboxErrors.WithLabelValues(run.RuntimeHandler).Inc()
		}
	}
}

// operationName turns /runtime.v1.RuntimeService/RunPodSandbox into upstream's
// run_podsandbox.
func operationName(method string) string {
	method = method[strings.LastIndexByte(method, '/')+1:]
	method = strings.ReplaceAll(method, "PodSandbox", "Podsandbox") // one word there
	var b strings.Builder
	for i, c := range method {
		if c >= 'A' && c <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}
