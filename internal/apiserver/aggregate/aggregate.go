// Package aggregate lets other API servers answer for groups and versions of
// their own (APIService): it finds out whether they can, keeps what they serve
// for discovery, and says where to send a request. Sending it is the
// apiserver's.
package aggregate

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"knarr.dev/knarr/internal/apiserver/discovery"
	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

const (
	// recheck is how often a backend is asked whether it still answers, as
	// upstream. Nothing is asked while nobody has registered one.
	recheck = 30 * time.Second
	// A backend that does not answer is asked again soon, then less often.
	minRetry = time.Second
	// atOnce bounds the checks that run at the same time.
	atOnce = 8
)

// Config of an Aggregator.
type Config struct {
	View *view.View // API services, services and endpoint slices
	// Client writes conditions.
	Client client.Client
	// Resolve finds "address:port" behind a service's port; nil: in the view.
	Resolve func(namespace, name string, port int32) (string, error)
	// Certificate is how backends know that it is us who tell them the user.
	Certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	Log         *slog.Logger
	Now         func() time.Time // optional
}

// Aggregator knows the API servers besides this one.
type Aggregator struct {
	cfg   Config
	woken chan struct{}
	// backends by group and version; replaced as a whole, never changed.
	backends atomic.Pointer[map[schema.GroupVersion]*Backend]
	remotes  atomic.Pointer[discovery.Remotes]
	services atomic.Pointer[map[string]bool] // namespace/name of services whose changes matter
	specs    specs
}

// New makes an Aggregator; it starts nothing.
func New(cfg Config) (*Aggregator, error) {
	if cfg.View == nil || cfg.Client == nil || cfg.Certificate == nil {
		return nil, errors.New("aggregate: view, client and certificate are needed")
	}
	for _, k := range []*kinds.Kind{kinds.APIService, kinds.Service, kinds.EndpointSlice} {
		if !cfg.View.Has(k) {
			return nil, errors.New("aggregate: the view does not hold " + k.String())
		}
	}
	if cfg.Resolve == nil {
		cfg.Resolve = func(namespace, name string, port int32) (string, error) {
			return view.ServiceAddress(cfg.View.Snapshot(), namespace, name, port)
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	a := &Aggregator{cfg: cfg, woken: make(chan struct{}, 1)}
	a.backends.Store(&map[schema.GroupVersion]*Backend{})
	a.services.Store(&map[string]bool{})
	return a, nil
}

// Backend that answers for the group and version, or nil if nobody else does.
func (a *Aggregator) Backend(gv schema.GroupVersion) *Backend { return (*a.backends.Load())[gv] }

// Remotes for discovery, or nil if there are none.
func (a *Aggregator) Remotes() *discovery.Remotes { return a.remotes.Load() }

// describe makes the remotes of the backends, in the order of their groups' and
// versions' priorities.
func describe(backends map[schema.GroupVersion]*Backend) *discovery.Remotes {
	if len(backends) == 0 {
		return nil
	}
	out := &discovery.Remotes{}
	for _, b := range sorted(backends) {
		gv := schema.GroupVersion{Group: b.APIService.Spec.Group, Version: b.APIService.Spec.Version}
		out.Versions = append(out.Versions, discovery.Remote{GV: gv, Resources: b.discovery()})
	}
	return out
}

// sorted by the priority of their groups and versions.
func sorted(backends map[schema.GroupVersion]*Backend) []*Backend {
	return slices.SortedFunc(maps.Values(backends), func(x, y *Backend) int { return order(x.APIService, y.APIService) })
}

// Run keeps backends and conditions current until ctx ends.
func (a *Aggregator) Run(ctx context.Context) error {
	defer a.cfg.View.Subscribe(a.hear)()
	defer a.specs.run(ctx)()
	defer func() {
		for _, b := range *a.backends.Load() {
			b.Transport.CloseIdleConnections()
		}
	}()
	a.wake()
	timer := time.NewTimer(recheck)
	defer timer.Stop()
	retry := minRetry
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.woken:
		case <-timer.C:
		}
		wait := a.sync(ctx, &retry)
		timer.Stop()
		if wait > 0 {
			timer.Reset(wait)
		}
	}
}

// hear wakes on what can change availability. It must be quick.
func (a *Aggregator) hear(c view.Change) {
	switch c.Kind {
	case kinds.APIService:
		if o, ok := c.New.(*apiregistrationv1.APIService); ok && c.Old != nil {
			old := c.Old.(*apiregistrationv1.APIService)
			if o.Spec.Service == nil && old.Spec.Service == nil || sameSpec(&o.Spec, &old.Spec) {
				return // a condition, mostly our own
			}
		}
	case kinds.Service:
		if o := c.Object(); !(*a.services.Load())[o.GetNamespace()+"/"+o.GetName()] {
			return
		}
	case kinds.EndpointSlice:
		if o := c.Object(); !(*a.services.Load())[o.GetNamespace()+"/"+o.GetLabels()[discoveryv1.LabelServiceName]] {
			return
		}
	default:
		return
	}
	a.wake()
}

func (a *Aggregator) wake() {
	select {
	case a.woken <- struct{}{}:
	default:
	}
}

// sync checks every backend once and returns when to check again; 0: when
// something changes.
func (a *Aggregator) sync(ctx context.Context, retry *time.Duration) time.Duration {
	snap := a.cfg.View.Snapshot()
	old := *a.backends.Load()
	next, names := map[schema.GroupVersion]*Backend{}, map[string]bool{}
	var remote []*apiregistrationv1.APIService
	for s := range view.List[*apiregistrationv1.APIService](snap, kinds.APIService, "") {
		if s.Spec.Service == nil || s.DeletionTimestamp != nil {
			continue
		}
		remote = append(remote, s)
		names[s.Spec.Service.Namespace+"/"+s.Spec.Service.Name] = true
	}
	a.services.Store(&names)
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	failing, changed := false, len(old) != len(remote)
	var checked []*Backend
	for _, s := range remote {
		gv := schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			b := a.check(ctx, snap, s, old[gv])
			mu.Lock()
			defer mu.Unlock()
			next[gv] = b
			checked = append(checked, b)
			failing = failing || b.Problem != nil
			changed = changed || b.differs(old[gv])
		})
	}
	wg.Wait()
	a.backends.Store(&next)
	a.specs.forget(next)
	for gv, b := range old {
		if n := next[gv]; n == nil || n.Transport != b.Transport {
			b.Transport.CloseIdleConnections()
		}
	}
	if changed {
		a.remotes.Store(describe(next))
	}
	// Whoever waits for the condition finds that what it says is true.
	for _, b := range checked {
		a.tell(ctx, b)
	}
	switch {
	case len(remote) == 0:
		return 0
	case failing:
		wait := *retry
		*retry = min(2*wait, recheck)
		return wait
	}
	*retry = minRetry
	return recheck
}

// check finds out whether the API can be asked.
func (a *Aggregator) check(ctx context.Context, snap *view.Snapshot, s *apiregistrationv1.APIService, old *Backend) *Backend {
	b := a.backend(s, old)
	o := Observed{APIService: s, Service: view.Get[*corev1.Service](snap, kinds.Service, s.Spec.Service.Namespace, s.Spec.Service.Name)}
	o.Slices = slices.Collect(view.By[*discoveryv1.EndpointSlice](snap, view.SlicesByService, s.Spec.Service.Namespace+"/"+s.Spec.Service.Name))
	c := Judge(o)
	if c == nil {
		if err := b.discover(ctx); err != nil {
			c = condition(apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck", err.Error())
		}
	}
	if ctx.Err() != nil {
		return b
	}
	b.Problem, b.checked = c, true
	return b
}

// tell writes what was found out into the API service's condition.
func (a *Aggregator) tell(ctx context.Context, b *Backend) {
	if !b.checked || ctx.Err() != nil {
		return
	}
	s, c := b.APIService, b.Problem
	if c == nil {
		c = condition(apiregistrationv1.ConditionTrue, "Passed", "all checks passed")
	}
	if changed := withCondition(s, *c, metav1.NewTime(a.cfg.Now())); changed != nil {
		_, err := a.cfg.Client.Update(ctx, kinds.RefTo(kinds.APIService, s).WithSub("status"), changed)
		if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			a.cfg.Log.Warn("cannot tell the availability of an API", "apiservice", s.Name, "error", err)
		}
	}
}

// unavailable is what a client of an API reads that cannot be asked.
func unavailable() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusServiceUnavailable,
		Reason: metav1.StatusReasonServiceUnavailable, Message: "service unavailable"}}
}
