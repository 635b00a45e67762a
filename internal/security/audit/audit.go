// Package audit writes down who asked the API server for what and how that
// ended, as an audit policy (audit.k8s.io/v1) orders it, to a log file and to a
// webhook. An event is encoded once, for all outputs. None is lost silently:
// what cannot be written is counted and logged.
package audit

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// MaxObject bounds, in bytes of JSON, the object of a request or an answer in
// an event; a longer one is left out, and the event says so. It is upstream's
// figure for a batch.
const MaxObject = 10 << 20

// ErrNotStored: an event could not be written, and an output is strict.
var ErrNotStored = errors.New("failed to store audit event")

// Config of an Auditor.
type Config struct {
	Policy  *Policy
	Outputs []Output
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now
	ID      func() string    // of a request that brings none
}

// Auditor makes records of requests.
type Auditor struct {
	cfg     Config
	now     func() time.Time
	metrics *metrics
	outputs []*output
	buffers sync.Pool // of *bytes.Buffer
}

// New checks the configuration; it starts nothing.
func New(cfg Config) (*Auditor, error) {
	if cfg.Policy == nil || len(cfg.Outputs) == 0 || cfg.Log == nil || cfg.ID == nil {
		return nil, errors.New("audit: policy, outputs, log and IDs are needed")
	}
	a := &Auditor{cfg: cfg, now: cfg.Now, metrics: newMetrics()}
	if a.now == nil {
		a.now = time.Now
	}
	for _, o := range cfg.Outputs {
		a.outputs = append(a.outputs, newOutput(o, a.metrics, cfg.Log))
	}
	return a, nil
}

// Run follows the policy and sends what is batched until ctx ends, and then
// what has gathered by then.
func (a *Auditor) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, o := range a.outputs {
		g.Go(func() error {
			o.run(ctx)
			return nil
		})
	}
	if err := a.cfg.Policy.Run(ctx); err != nil {
		a.cfg.Log.Warn("changes of the audit policy need a restart", "error", err)
	}
	return g.Wait()
}

// Metrics of the auditor; of one that has nothing to do if it is nil.
func (a *Auditor) Metrics() prometheus.Collector {
	if a == nil {
		return newMetrics()
	}
	return a.metrics
}

// emit hands an event to all outputs. It reports whether all took it.
func (a *Auditor) emit(e *auditv1.Event) bool {
	a.metrics.events.Inc()
	buf := a.buffer()
	defer a.buffers.Put(buf)
	if err := encode(buf, e); err != nil {
		a.outputs[0].lost("encode", 1, err)
		return false
	}
	all := true
	for _, o := range a.outputs {
		all = o.take(e, buf.Bytes()) && all
	}
	return all
}
