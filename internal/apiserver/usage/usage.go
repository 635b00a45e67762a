// Package usage measures what nodes and pods use, for metrics.k8s.io: it asks
// the kubelets, twice at least, since CPU is a rate between two samples. Nobody
// is asked while nobody asks.
package usage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

const (
	// every is metrics-server's resolution; autoscalers look as often.
	every = 15 * time.Second
	// first is how far apart the first two samples are, for which somebody waits:
	// the kernel counts CPU time by the nanosecond.
	first = time.Second
	// patience is how long sampling goes on after the last question.
	patience = 3 * time.Minute
	// oldest is when a node that does not answer any more is left out.
	oldest = time.Minute
	// scrapeLimit bounds one answer of a kubelet, roundLimit all of them, and
	// answerLimit how long a client waits for the first two rounds.
	scrapeLimit = 5 * time.Second
	roundLimit  = 12 * time.Second
	answerLimit = 2*scrapeLimit + 2*first
	// atOnce bounds the kubelets that are asked at the same time.
	atOnce = 32
	// maxAnswer bounds a kubelet's answer; a thousand containers take 0.6 MB.
	maxAnswer = 8 << 20
)

// Config of a Sampler. All of it is needed but Log and Now.
type Config struct {
	View *view.View // nodes and pods
	// Scrape opens /metrics/resource of a node's kubelet.
	Scrape func(ctx context.Context, node string) (io.ReadCloser, error)
	Log    *slog.Logger
	Now    func() time.Time
}

// Sampler keeps the last two samples of every node while somebody asks.
type Sampler struct {
	cfg   Config
	woken chan struct{} // capacity 1

	mu    sync.Mutex
	asked time.Time
	ready chan struct{}    // closed when there are two rounds
	pairs map[string]*pair // by node; replaced as a whole, never changed
}

// New makes a Sampler; it starts nothing.
func New(cfg Config) (*Sampler, error) {
	if cfg.View == nil || cfg.Scrape == nil {
		return nil, errors.New("usage: a view and a way to ask kubelets are needed")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Sampler{cfg: cfg, woken: make(chan struct{}, 1), ready: make(chan struct{})}, nil
}

// Run samples while somebody asks, until ctx ends.
func (s *Sampler) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.woken:
		}
		s.watch(ctx)
	}
}

// watch samples until nobody has asked for a while.
func (s *Sampler) watch(ctx context.Context) {
	for n, wait := 0, time.Duration(0); pause(ctx, wait); n++ {
		if s.rest() {
			return
		}
		begun := s.cfg.Now()
		s.round(ctx)
		switch n {
		case 0:
			wait = first
		case 1:
			s.mu.Lock()
			close(s.ready)
			s.mu.Unlock()
			fallthrough
		default:
			wait = max(first, every-s.cfg.Now().Sub(begun))
		}
	}
}

// rest forgets everything if nobody asks any more.
func (s *Sampler) rest() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.Now().Sub(s.asked) <= patience {
		return false
	}
	s.ready, s.pairs = make(chan struct{}), nil
	select {
	case <-s.woken: // by a question that was answered meanwhile
	default:
	}
	return true
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// round asks every node once. One that does not answer keeps its samples for a
// while, and does not hold up the others.
func (s *Sampler) round(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, roundLimit)
	defer cancel()
	old := s.current()
	var mu sync.Mutex
	next := map[string]*pair{}
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for node := range view.List[*corev1.Node](s.cfg.View.Snapshot(), kinds.Node, "") {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			p, was := (*pair)(nil), old[node.Name]
			switch now, err := s.scrape(ctx, node.Name); {
			case err != nil:
				s.cfg.Log.Debug("cannot measure a node", "node", node.Name, "error", err)
				if was != nil && s.cfg.Now().Sub(was.now.node.at) < oldest {
					p = was
				}
			case was != nil && now.node.at.Equal(was.now.node.at):
				p = was // it says the same once more
			case was != nil:
				p = &pair{was.now, now}
			default:
				p = &pair{nil, now}
			}
			if p != nil {
				mu.Lock()
				defer mu.Unlock()
				next[node.Name] = p
			}
		})
	}
	wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pairs = next
}

func (s *Sampler) scrape(ctx context.Context, node string) (*sample, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeLimit)
	defer cancel()
	body, err := s.cfg.Scrape(ctx, node)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	limited := &io.LimitedReader{R: body, N: maxAnswer}
	out, err := parse(limited)
	if err == nil && limited.N == 0 {
		err = fmt.Errorf("more than %d bytes", maxAnswer)
	}
	return out, err
}

func (s *Sampler) current() map[string]*pair {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pairs
}

// samples notes that somebody asks, and waits for the first two rounds.
func (s *Sampler) samples(ctx context.Context) (map[string]*pair, error) {
	s.mu.Lock()
	s.asked = s.cfg.Now()
	ready := s.ready
	s.mu.Unlock()
	select {
	case <-ready:
		return s.current(), nil
	default:
	}
	select {
	case s.woken <- struct{}{}:
	default:
	}
	t := time.NewTimer(answerLimit)
	defer t.Stop()
	select {
	case <-ready:
		return s.current(), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.C:
		return nil, apierrors.NewServiceUnavailable("metrics are not available yet")
	}
}

// Get is what one node or pod uses.
func (s *Sampler) Get(ctx context.Context, k *kinds.Kind, namespace, name string) (kinds.Object, error) {
	pairs, err := s.samples(ctx)
	if err != nil {
		return nil, err
	}
	snap, now := s.cfg.View.Snapshot(), metav1.NewTime(s.cfg.Now())
	if k == kinds.NodeMetrics {
		if n := view.Get[*corev1.Node](snap, kinds.Node, "", name); n != nil {
			if m := nodeMetrics(pairs, n, now); m != nil {
				return m, nil
			}
		}
	} else if p := view.Get[*corev1.Pod](snap, kinds.Pod, namespace, name); p != nil {
		if m := podMetrics(pairs, p, now); m != nil {
			return m, nil
		}
	}
	if namespace != "" {
		name = namespace + "/" + name
	}
	// As metrics-server calls them.
	return nil, apierrors.NewNotFound(schema.GroupResource{Group: k.GVK.Group, Resource: strings.ToLower(k.GVK.Kind)}, name)
}

// List is what all nodes, or the pods of a namespace, use; in order. Those of
// which it is not known yet are left out.
func (s *Sampler) List(ctx context.Context, k *kinds.Kind, namespace string) ([]kinds.Object, error) {
	pairs, err := s.samples(ctx)
	if err != nil {
		return nil, err
	}
	snap, now := s.cfg.View.Snapshot(), metav1.NewTime(s.cfg.Now())
	var out []kinds.Object
	if k == kinds.NodeMetrics {
		for n := range view.List[*corev1.Node](snap, kinds.Node, "") {
			if m := nodeMetrics(pairs, n, now); m != nil {
				out = append(out, m)
			}
		}
		return out, nil
	}
	for p := range view.List[*corev1.Pod](snap, kinds.Pod, namespace) {
		if m := podMetrics(pairs, p, now); m != nil {
			out = append(out, m)
		}
	}
	return out, nil
}

func metaOf(o kinds.Object, now metav1.Time) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: o.GetNamespace(), Name: o.GetName(), Labels: maps.Clone(o.GetLabels()), CreationTimestamp: now}
}

func nodeMetrics(pairs map[string]*pair, n *corev1.Node, now metav1.Time) *metricsv1beta1.NodeMetrics {
	p := pairs[n.Name]
	if p == nil {
		return nil
	}
	r, ok := p.nodeRate()
	if !ok {
		return nil
	}
	return &metricsv1beta1.NodeMetrics{ObjectMeta: metaOf(n, now), Timestamp: metav1.NewTime(r.at), Window: window(r.window), Usage: r.usage}
}

// podMetrics of a pod that runs; what is left of another one of its name does
// not count.
func podMetrics(pairs map[string]*pair, pod *corev1.Pod, now metav1.Time) *metricsv1beta1.PodMetrics {
	p := pairs[pod.Spec.NodeName]
	if p == nil || slices.Contains([]corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed}, pod.Status.Phase) {
		return nil
	}
	r, containers := p.podRates(podKey{pod.Namespace, pod.Name})
	if len(containers) == 0 || r.at.Before(pod.CreationTimestamp.Time) {
		return nil
	}
	return &metricsv1beta1.PodMetrics{ObjectMeta: metaOf(pod, now), Timestamp: metav1.NewTime(r.at), Window: window(r.window), Containers: containers}
}
