// Package proxy makes services reachable on a node: a pure plan turns
// services and endpoint slices into the elements of a few nftables maps, and
// an applier writes the changed ones through netlink, in one transaction, in
// the table knarr and nowhere else.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// Config of one node's proxy.
type Config struct {
	// View of services, endpoint slices and nodes, with view.SlicesByService;
	// with ServiceCIDRs, if there may be others than the configured one.
	View     *view.View
	NodeName string

	ClusterCIDR, ServiceCIDR netip.Prefix
	// Local addresses of the service range are answered by this node itself
	// (cluster DNS): services that have them are left alone.
	Local []netip.Addr

	Log *slog.Logger
	// Metrics take those of the proxy; nil: nobody asks for them.
	Metrics prometheus.Registerer
}

// Proxy of a node.
type Proxy struct {
	cfg     Config
	ready   chan struct{}
	metrics *metrics
	began   time.Time

	mu    sync.Mutex
	dirty map[string]bool // services, namespace/name
	redo  bool            // everything: the node itself changed
	kick  chan struct{}

	// Changes since the last pass, for the metrics; guarded by mu.
	pendingServices, pendingSlices int
	triggers                       []time.Time
}

// New checks the configuration. It touches nothing.
func New(cfg Config) (*Proxy, error) {
	if cfg.View == nil || !cfg.View.Has(kinds.Service) || !cfg.View.Has(kinds.EndpointSlice) || !cfg.View.Has(kinds.Node) {
		return nil, errors.New("proxy: a view of services, endpoint slices and nodes is needed")
	}
	if cfg.NodeName == "" {
		return nil, errors.New("proxy: no node name")
	}
	for _, p := range []netip.Prefix{cfg.ClusterCIDR, cfg.ServiceCIDR} {
		if !p.IsValid() || !p.Addr().Is4() {
			return nil, fmt.Errorf("proxy: %s is not an IPv4 prefix", p)
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{cfg: cfg, ready: make(chan struct{}), dirty: map[string]bool{}, kick: make(chan struct{}, 1), began: time.Now()}
	p.metrics = newMetrics(p)
	if cfg.Metrics != nil {
		for _, c := range p.metrics.all {
			if err := cfg.Metrics.Register(c); err != nil {
				return nil, fmt.Errorf("proxy: cannot register metrics: %w", err)
			}
		}
	}
	return p, nil
}

// Ready is closed once the first table is in the kernel.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

const (
	// settle is how long changes are collected: a rollout changes a slice many
	// times within milliseconds.
	settle = 3 * time.Millisecond
	// retry is the pause after a failed transaction.
	retry = time.Second
)

// Run keeps the rules right until ctx ends. They stay when it returns, so that
// services go on without knarr; Clean removes them.
func (p *Proxy) Run(ctx context.Context) error {
	defer p.cfg.View.Subscribe(p.note)()
	if err := p.cfg.View.WaitSynced(ctx); err != nil {
		return nil // only ctx ends it
	}
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.close()
	w := &work{cfg: p.cfg, kernel: k, table: NewTable()}
	w.health = newHealth(p.cfg.Log)
	defer w.health.close()
	p.again(true)
	first := true
	var triggers []time.Time // of passes that failed too
	for {
		select {
		case <-p.kick:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(settle):
		case <-ctx.Done():
			return nil
		}
		dirty, redo, news := p.take()
		if triggers = append(triggers, news...); len(triggers) > maxTriggers {
			triggers = triggers[:maxTriggers]
		}
		began := time.Now()
		full, err := w.sync(dirty, redo)
		p.metrics.synced(began, full, err, triggers)
		if err != nil {
			p.cfg.Log.Error("cannot set service rules", "error", err, "retry", retry)
			time.AfterFunc(retry, func() { p.again(true) })
			continue
		}
		triggers = nil
		if first {
			close(p.ready)
			first = false
		}
	}
}

// note collects what a change makes dirty. It runs under the view's lock.
func (p *Proxy) note(c view.Change) {
	var keys []string
	redo := false
	services, slicesChanged, trigger, timed := 0, 0, time.Time{}, false
	switch c.Kind {
	case kinds.Service:
		services = 1
		keys = append(keys, c.Object().GetNamespace()+"/"+c.Object().GetName())
	case kinds.EndpointSlice:
		slicesChanged = 1
		trigger, timed = p.trigger(c)
		for _, o := range []kinds.Object{c.Old, c.New} {
			if o == nil {
				continue
			}
			if svc := o.GetLabels()[discoveryv1.LabelServiceName]; svc != "" {
				keys = append(keys, o.GetNamespace()+"/"+svc)
			}
		}
	case kinds.Node:
		redo = c.Object().GetName() == p.cfg.NodeName && nodeChanged(c)
	case kinds.ServiceCIDR:
		old, _ := c.Old.(*networkingv1.ServiceCIDR)
		now, _ := c.New.(*networkingv1.ServiceCIDR)
		redo = old == nil || now == nil || !slices.Equal(old.Spec.CIDRs, now.Spec.CIDRs)
	}
	if keys == nil && !redo {
		return
	}
	p.metrics.serviceChanges.Add(float64(services))
	p.metrics.endpointChanges.Add(float64(slicesChanged))
	p.mu.Lock()
	for _, k := range keys {
		p.dirty[k] = true
	}
	p.redo = p.redo || redo
	p.pendingServices, p.pendingSlices = p.pendingServices+services, p.pendingSlices+slicesChanged
	if timed && len(p.triggers) < maxTriggers {
		p.triggers = append(p.triggers, trigger)
	}
	p.mu.Unlock()
	p.wake()
}

// trigger of a slice's change; one that is removed was not triggered when it
// says.
func (p *Proxy) trigger(c view.Change) (time.Time, bool) {
	if c.New == nil {
		return time.Time{}, false
	}
	var old map[string]string
	if c.Old != nil {
		old = c.Old.GetAnnotations()
	}
	return triggered(old, c.New.GetAnnotations(), p.began)
}

func (p *Proxy) again(redo bool) {
	p.mu.Lock()
	p.redo = p.redo || redo
	p.mu.Unlock()
	p.wake()
}

func (p *Proxy) wake() {
	p.metrics.queuedAt.Set(seconds(time.Now()))
	select {
	case p.kick <- struct{}{}:
	default: // somebody has
	}
}

func (p *Proxy) take() (dirty map[string]bool, redo bool, triggers []time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	dirty, redo, triggers = p.dirty, p.redo, p.triggers
	p.dirty, p.redo, p.triggers = map[string]bool{}, false, nil
	p.pendingServices, p.pendingSlices = 0, 0
	return dirty, redo, triggers
}

// nodeChanged: of all that changes on a node, the plan knows these.
func nodeChanged(c view.Change) bool {
	if c.Old == nil || c.New == nil {
		return true
	}
	old, now := c.Old.(*corev1.Node), c.New.(*corev1.Node)
	return old.Labels[corev1.LabelTopologyZone] != now.Labels[corev1.LabelTopologyZone] || !slices.Equal(podRanges(old), podRanges(now))
}

func podRanges(n *corev1.Node) []netip.Prefix {
	if n == nil {
		return nil
	}
	list := n.Spec.PodCIDRs
	if len(list) == 0 {
		list = []string{n.Spec.PodCIDR}
	}
	var out []netip.Prefix
	for _, s := range list {
		if r, err := netip.ParsePrefix(s); err == nil && r.Addr().Is4() {
			out = append(out, r.Masked())
		}
	}
	return out
}

// work is the state of a running proxy.
type work struct {
	cfg    Config
	kernel *kernel
	table  *Table
	health *health
	owed   Delta // of passes that failed: its aftermath is still to come
	began  bool  // one pass has succeeded
}

// sync plans what is dirty and applies what changed; full: all was written anew.
// After a failure the next call must redo.
func (w *work) sync(dirty map[string]bool, redo bool) (full bool, err error) {
	s := w.cfg.View.Snapshot()
	self := view.Get[*corev1.Node](s, kinds.Node, "", w.cfg.NodeName)
	node := Node{Name: w.cfg.NodeName}
	if self != nil {
		node.Zone = self.Labels[corev1.LabelTopologyZone]
	}
	if redo {
		return true, w.all(s, node, podRanges(self))
	}
	for key := range dirty {
		w.plan(s, key, node)
	}
	d := w.changes()
	if !d.Empty() {
		if err := w.kernel.update(d); err != nil {
			// Somebody else changed the table, or removed it.
			w.cfg.Log.Warn("service rules are written anew", "reason", err)
			full = true
			if err := w.kernel.replace(w.table, w.ranges(s, podRanges(self))); err != nil {
				return full, err
			}
		}
	}
	w.aftermath()
	return full, nil
}

// changes that are to be applied; they are owed an aftermath.
func (w *work) changes() Delta {
	d := w.table.Changes()
	w.owed.Del, w.owed.Add = append(w.owed.Del, d.Del...), append(w.owed.Add, d.Add...)
	return d
}

func (w *work) ranges(s *view.Snapshot, pods []netip.Prefix) ranges {
	return ranges{pods: pods, cluster: w.cfg.ClusterCIDR.Masked(), services: view.ServiceRanges(s, w.cfg.ServiceCIDR)}
}

// all plans every service anew and replaces the table.
func (w *work) all(s *view.Snapshot, node Node, pods []netip.Prefix) error {
	gone := map[string]bool{}
	for key := range w.table.services {
		gone[key] = true
	}
	for svc := range view.List[*corev1.Service](s, kinds.Service, "") {
		key := svc.Namespace + "/" + svc.Name
		delete(gone, key)
		w.plan(s, key, node)
	}
	for key := range gone {
		w.plan(s, key, node)
	}
	w.changes()
	if err := w.kernel.replace(w.table, w.ranges(s, pods)); err != nil {
		return err
	}
	w.aftermath()
	return nil
}

// plan one service; one that is gone claims nothing.
func (w *work) plan(s *view.Snapshot, key string, node Node) {
	namespace, name := splitKey(key)
	svc := view.Get[*corev1.Service](s, kinds.Service, namespace, name)
	if svc == nil || slices.ContainsFunc(w.cfg.Local, func(a netip.Addr) bool { return a.String() == svc.Spec.ClusterIP }) {
		w.table.Put(key, nil)
		w.health.set(key, nil)
		return
	}
	r := Plan(svc, slices.Collect(view.By[*discoveryv1.EndpointSlice](s, view.SlicesByService, key)), node)
	w.table.Put(key, r.Elements())
	w.health.set(key, r.Health)
}

// aftermath ends what the change made wrong and the kernel would keep. The
// rules are right already, so a failure is logged and not retried.
func (w *work) aftermath() {
	f, lost := affected(w.table, w.owed)
	f.all = !w.began // whatever happened while no proxy ran
	w.owed, w.began = Delta{}, true
	if err := f.end(); err != nil {
		w.cfg.Log.Error("old flows stay", "error", err)
	}
	if lost {
		if err := w.kernel.forget(w.table); err != nil {
			w.cfg.Log.Error("old affinities stay", "error", err)
		}
	}
	w.health.apply()
}
