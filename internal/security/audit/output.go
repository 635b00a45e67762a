package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

const (
	// maxQueued bounds the bytes of the events that wait or are being sent: their
	// number alone bounds little, an event may hold two objects of MaxObject.
	maxQueued = 256 << 20
	// maxSending is how many batches may be sent at once; with upstream's rate
	// of 10 a second that allows three seconds for each.
	maxSending = 32
	// drain is how long the end of the server waits for what is still to be sent.
	drain = 5 * time.Second
	// quiet is how seldom the log tells that events are lost.
	quiet = 10 * time.Second
)

// Mode says what a request waits for.
type Mode string

const (
	// Batch: for nothing; events are gathered.
	Batch Mode = "batch"
	// Blocking: until the event is written; it goes on if that fails.
	Blocking Mode = "blocking"
	// BlockingStrict: as Blocking, but a request whose reception cannot be
	// written is refused.
	BlockingStrict Mode = "blocking-strict"
)

// Batching of an output in mode Batch.
type Batching struct {
	Buffer int           // events that may wait
	Size   int           // events that are sent at once
	Wait   time.Duration // before fewer are sent
	// Throttle limits the batches per second to QPS, Burst at once.
	Throttle bool
	QPS      float64
	Burst    int
}

// Truncation of long events. In bytes of JSON.
type Truncation struct {
	Enabled            bool
	MaxEvent, MaxBatch int
}

// Output is where events go. Send must not keep what it is given; several
// may run at a time.
type Output struct {
	Name     string // in metrics and the log
	Mode     Mode
	Batching Batching
	Truncate Truncation
	Legacy   bool // lines of text instead of JSON
	Parallel bool // batches may overtake each other
	Send     func(ctx context.Context, events [][]byte) error
}

type output struct {
	Output
	metrics *metrics
	log     *slog.Logger

	queue   chan []byte
	waiting atomic.Int64 // bytes that wait or are being sent
	unsent  atomic.Int64 // the events that they are
	limit   *rate.Limiter
	sending chan struct{}

	mu     sync.Mutex // guards what follows
	closed bool
	told   time.Time
	since  int // events lost since then
}

func newOutput(o Output, m *metrics, log *slog.Logger) *output {
	out := &output{Output: o, metrics: m, log: log}
	if o.Mode == Batch {
		out.queue = make(chan []byte, o.Batching.Buffer)
		out.sending = make(chan struct{}, maxSending)
		out.limit = rate.NewLimiter(rate.Inf, 0)
		if o.Batching.Throttle {
			out.limit = rate.NewLimiter(rate.Limit(o.Batching.QPS), o.Batching.Burst)
		}
	}
	return out
}

// take writes an event, or sees to it that it will be. It reports whether the
// request may go on. line is the event as JSON, which is not kept.
func (o *output) take(e *auditv1.Event, line []byte) bool {
	if o.Truncate.Enabled && len(line) > o.Truncate.MaxEvent {
		var short bytes.Buffer
		err := encode(&short, without(e))
		if line = short.Bytes(); err == nil && len(line) > o.Truncate.MaxEvent {
			err = errors.New("event is too large even after truncating")
		}
		if err != nil {
			o.lost("truncate", 1, err)
			return true // as upstream: no other output would do better
		}
	}
	if o.Legacy {
		var err error
		if line, err = legacy(e); err != nil {
			o.lost(o.Name, 1, err)
			return o.Mode != BlockingStrict
		}
	}
	if o.Mode == Batch {
		o.enqueue(line)
		return true
	}
	if err := o.Send(context.Background(), [][]byte{line}); err != nil {
		o.lost(o.Name, 1, err)
		return o.Mode != BlockingStrict
	}
	return true
}

func (o *output) enqueue(line []byte) {
	o.mu.Lock()
	var err error
	switch {
	case o.closed:
		err = errors.New("audit backend shut down")
	case o.waiting.Load()+int64(len(line)) > maxQueued:
		err = errFull
	default:
		select {
		case o.queue <- bytes.Clone(line):
			o.waiting.Add(int64(len(line)))
			o.unsent.Add(1)
		default:
			err = errFull
		}
	}
	o.mu.Unlock()
	if err != nil {
		o.lost("buffered", 1, err)
	}
}

var errFull = errors.New("audit buffer queue blocked")

// lost counts events that nobody will ever read, and tells of them now and then.
func (o *output) lost(plugin string, n int, err error) {
	o.metrics.errors.WithLabelValues(plugin).Add(float64(n))
	o.mu.Lock()
	o.since += n
	n = o.since
	now := time.Now()
	tell := now.Sub(o.told) >= quiet
	if tell {
		o.told, o.since = now, 0
	}
	o.mu.Unlock()
	if tell {
		o.log.Error("audit events are lost", "output", o.Name, "plugin", plugin, "events", n, "error", err)
	}
}

// run sends batches until ctx ends, and then the rest.
func (o *output) run(ctx context.Context) {
	if o.Mode != Batch {
		return
	}
	var all sync.WaitGroup
	for ctx.Err() == nil {
		if batch := o.gather(ctx); len(batch) > 0 {
			_ = o.limit.Wait(ctx) // at the end nothing is throttled
			o.dispatch(ctx, &all, batch)
		}
	}
	o.mu.Lock()
	o.closed = true
	close(o.queue)
	o.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for batch := o.gather(context.Background()); len(batch) > 0; batch = o.gather(context.Background()) {
			o.dispatch(ctx, &all, batch)
		}
		all.Wait()
	}()
	select {
	case <-done:
	case <-time.After(drain):
		o.log.Error("audit events are lost: they could not be sent before the end", "output", o.Name, "events", o.unsent.Load())
	}
}

// gather waits for a batch.
func (o *output) gather(ctx context.Context) [][]byte {
	var batch [][]byte
	var late <-chan time.Time
	if o.Batching.Size > 1 {
		t := time.NewTimer(o.Batching.Wait)
		defer t.Stop()
		late = t.C
	}
	for size := 0; len(batch) < o.Batching.Size; {
		select {
		case line, ok := <-o.queue:
			if !ok {
				return batch
			}
			batch = append(batch, line)
			if size += len(line); o.Truncate.Enabled && size >= o.Truncate.MaxBatch {
				return batch
			}
		case <-late:
			return batch
		case <-ctx.Done():
			return batch
		}
	}
	return batch
}

// dispatch sends a batch, beside others if the output may: as many as there
// are, once ctx has ended.
func (o *output) dispatch(ctx context.Context, all *sync.WaitGroup, batch [][]byte) {
	send := func() {
		size := 0
		for _, line := range batch {
			size += len(line)
		}
		defer func() {
			o.waiting.Add(-int64(size))
			o.unsent.Add(-int64(len(batch)))
		}()
		if err := o.Send(context.Background(), batch); err != nil {
			o.lost(o.Name, len(batch), fmt.Errorf("cannot send a batch: %w", err))
		}
	}
	if !o.Parallel {
		send()
		return
	}
	done := func() {}
	select {
	case o.sending <- struct{}{}:
		done = func() { <-o.sending }
	case <-ctx.Done():
	}
	all.Go(func() {
		defer done()
		send()
	})
}
