// Package probe asks containers how they are: by a command, HTTP, TCP or gRPC,
// at their own pace, and keeps each one's outcome after its thresholds.
package probe

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kubelet/plan"
)

// Target of one probe.
type Target struct {
	plan.Probing
	Pod   *corev1.Pod
	Spec  *corev1.Container
	Probe *corev1.Probe
	IP    string    // of the pod
	Since time.Time // when the container started
	// Changed is called when the outcome has changed; Failed for each failed
	// attempt, with what was seen.
	Changed func()
	Failed  func(kind plan.Kind, message string)
}

// Config of a prober.
type Config struct {
	Log *slog.Logger
	// Exec runs a command in a container: output, and whether it succeeded.
	Exec func(ctx context.Context, id string, command []string, timeout time.Duration) (output string, ok bool, err error)
}

// Prober runs the probes of all pods. It is a prometheus.Collector of them.
type Prober struct {
	cfg Config

	mu       sync.Mutex
	running  map[string]map[plan.Probing]context.CancelFunc // by pod
	outcomes map[string]plan.Probes                         // by container ID
	owners   map[string]string                              // container ID to pod
	metrics  *metrics
	group    sync.WaitGroup
}

// New makes one; it starts nothing.
func New(c Config) *Prober {
	return &Prober{cfg: c, running: map[string]map[plan.Probing]context.CancelFunc{}, outcomes: map[string]plan.Probes{}, owners: map[string]string{}, metrics: newMetrics()}
}

// Outcomes of a container's probes.
func (p *Prober) Outcomes(id string) plan.Probes {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.outcomes[id]
}

// Want makes the pod's probes run that are listed, and no others.
func (p *Prober) Want(pod string, targets []Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	have := p.running[pod]
	want := map[plan.Probing]bool{}
	for _, t := range targets {
		want[t.Probing] = true
		if have[t.Probing] != nil {
			continue
		}
		if have == nil {
			have = map[plan.Probing]context.CancelFunc{}
			p.running[pod] = have
		}
		ctx, cancel := context.WithCancel(context.Background())
		have[t.Probing] = cancel
		p.owners[t.ID] = pod
		p.group.Add(1)
		go func() {
			defer p.group.Done()
			p.run(ctx, t)
		}()
	}
	for k, cancel := range have {
		if !want[k] {
			cancel()
			delete(have, k)
		}
	}
}

// Remove ends a pod's probes and forgets their outcomes.
func (p *Prober) Remove(pod string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, cancel := range p.running[pod] {
		cancel()
	}
	delete(p.running, pod)
	p.metrics.forget(pod)
	for id, owner := range p.owners {
		if owner == pod {
			delete(p.outcomes, id)
			delete(p.owners, id)
		}
	}
}

// Stop ends all and waits.
func (p *Prober) Stop() {
	p.mu.Lock()
	for _, m := range p.running {
		for _, cancel := range m {
			cancel()
		}
	}
	p.running = map[string]map[plan.Probing]context.CancelFunc{}
	p.mu.Unlock()
	p.group.Wait()
}

// run one probe until ctx ends.
func (p *Prober) run(ctx context.Context, t Target) {
	period := max(time.Second, time.Duration(t.Probe.PeriodSeconds)*time.Second)
	first := time.Until(t.Since.Add(time.Duration(t.Probe.InitialDelaySeconds) * time.Second))
	// An adopted container was probed before; spread those, so that a restart
	// of the kubelet does not ask all containers at once.
	if first < -period {
		first = rand.N(period)
	}
	timer := time.NewTimer(max(0, first))
	defer timer.Stop()
	streak, last := 0, plan.NoOutcome
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		got, message := p.once(ctx, t)
		if !p.count(ctx, &t, got, time.Since(began)) {
			return
		}
		if got == plan.NoOutcome {
			timer.Reset(max(time.Millisecond, period-time.Since(began)))
			continue
		}
		if got != last {
			streak, last = 0, got
		}
		streak++
		if got == plan.Failure && t.Failed != nil {
			t.Failed(t.Kind, message)
		}
		if threshold(t.Probe, got) <= streak {
			p.record(t, got)
		}
		timer.Reset(max(time.Millisecond, period-time.Since(began)))
	}
}

// count a probe, unless its result is no longer wanted. Once a pod is removed
// nothing counts for it any more.
func (p *Prober) count(ctx context.Context, t *Target, o plan.Outcome, took time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil {
		return false
	}
	p.metrics.probed(t, o, took)
	return true
}

func threshold(p *corev1.Probe, o plan.Outcome) int {
	n := p.FailureThreshold
	if o == plan.Success {
		n = p.SuccessThreshold
	}
	return max(1, int(n))
}

// record an outcome and wake the pod if it is news.
func (p *Prober) record(t Target, o plan.Outcome) {
	p.mu.Lock()
	now := p.outcomes[t.ID]
	before := now
	switch t.Kind {
	case plan.Startup:
		now.Startup = o
	case plan.Liveness:
		now.Liveness = o
	case plan.Readiness:
		now.Readiness = o
	}
	if _, ok := p.owners[t.ID]; ok {
		p.outcomes[t.ID] = now
	}
	p.mu.Unlock()
	if now != before {
		t.Changed()
	}
}
