// Package route joins nodes: it routes other nodes' pod ranges to their
// addresses, turns on forwarding, holds the cluster DNS address on a link of
// this node and keeps what belongs to the cluster from leaking to the default
// gateway. Every route carries our own protocol number, and what is changed on
// the machine is recorded, so that Clean leaves it as it was.
package route

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/vishvananda/netlink"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// LinkName is the link that holds the cluster DNS address.
const LinkName = "knarr0"

// Config of one node.
type Config struct {
	View     *view.View // nodes
	NodeName string

	ClusterCIDR, ServiceCIDR netip.Prefix
	// DNS is held by LinkName; the zero Addr: none.
	DNS netip.Addr

	// StateFile records the settings as they were before us.
	StateFile string

	// PodCIDR is called with this node's range once it is known and whenever
	// it changes; an error is logged and the call repeated at the next change
	// of anything. May be nil.
	PodCIDR func(netip.Prefix) error
	// Problems is called whenever the set of unreachable nodes changes. May be
	// nil; they are logged anyway.
	Problems func([]Problem)

	Log *slog.Logger
}

// Router keeps a node's routes.
type Router struct {
	cfg   Config
	ready chan struct{}
	kick  chan struct{}

	podCIDR  netip.Prefix // last told to cfg.PodCIDR
	problems []Problem
}

// New checks the configuration. It touches nothing.
func New(cfg Config) (*Router, error) {
	if cfg.View == nil || !cfg.View.Has(kinds.Node) {
		return nil, errors.New("route: a view of nodes is needed")
	}
	if cfg.NodeName == "" || cfg.StateFile == "" {
		return nil, errors.New("route: node name and state file are needed")
	}
	for _, p := range []netip.Prefix{cfg.ClusterCIDR, cfg.ServiceCIDR} {
		if !p.IsValid() || !p.Addr().Is4() {
			return nil, fmt.Errorf("route: %s is not an IPv4 prefix", p)
		}
	}
	if cfg.ClusterCIDR.Overlaps(cfg.ServiceCIDR) {
		return nil, fmt.Errorf("route: cluster CIDR %s and service CIDR %s overlap", cfg.ClusterCIDR, cfg.ServiceCIDR)
	}
	if cfg.DNS.IsValid() && !cfg.ServiceCIDR.Contains(cfg.DNS) {
		return nil, fmt.Errorf("route: cluster DNS address %s lies outside of %s", cfg.DNS, cfg.ServiceCIDR)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Router{cfg: cfg, ready: make(chan struct{}), kick: make(chan struct{}, 1)}, nil
}

// Ready is closed once forwarding, link and addresses stand; routes to other
// nodes follow as they become known.
func (r *Router) Ready() <-chan struct{} { return r.ready }

// settle is how long changes are gathered before they are applied: a link that
// comes up sends a burst of them.
const settle = 5 * time.Millisecond

// retry is the pause after a failure, which has no event of its own end.
const retry = 2 * time.Second

// Run keeps the routes right until ctx ends. They stay when it returns: pods
// go on without knarr. Clean removes them.
func (r *Router) Run(ctx context.Context) error {
	// Watch before the first look, so that no change is missed.
	stop, err := r.watchKernel(ctx)
	if err != nil {
		return err
	}
	defer stop()
	unsubscribe := r.cfg.View.Subscribe(func(c view.Change) {
		if c.Kind == kinds.Node && relevant(c) || c.Kind == kinds.ServiceCIDR {
			r.wake()
		}
	})
	defer unsubscribe()
	if err := prepare(r.cfg); err != nil {
		return err
	}
	close(r.ready)
	if err := r.cfg.View.WaitSynced(ctx); err != nil {
		return nil // only ctx ends it
	}
	r.wake()
	for {
		select {
		case <-r.kick:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(settle):
		case <-ctx.Done():
			return nil
		}
		if err := r.sync(); err != nil {
			r.cfg.Log.Error("cannot set routes", "error", err, "retry", retry)
			time.AfterFunc(retry, r.wake)
		}
	}
}

func (r *Router) wake() {
	select {
	case r.kick <- struct{}{}:
	default: // somebody has
	}
}

// relevant keeps heartbeats from waking us: nodes change all the time, their
// ranges and addresses hardly ever.
func relevant(c view.Change) bool {
	if c.Old == nil || c.New == nil {
		return true
	}
	old, now := c.Old.(*corev1.Node), c.New.(*corev1.Node)
	return !slices.Equal(PodCIDRs(old), PodCIDRs(now)) || address(old) != address(now)
}

// sync makes the kernel's routes those of the plan.
func (r *Router) sync() error {
	if err := prepare(r.cfg); err != nil { // somebody may have taken the link away
		return err
	}
	neighbours, have, err := readRoutes()
	if err != nil {
		return err
	}
	o := Observed{Self: r.cfg.NodeName, Neighbours: neighbours, ClusterCIDR: r.cfg.ClusterCIDR, ServiceCIDR: r.cfg.ServiceCIDR}
	snapshot := r.cfg.View.Snapshot()
	o.Services = view.ServiceRanges(snapshot, r.cfg.ServiceCIDR)
	for n := range view.List[*corev1.Node](snapshot, kinds.Node, "") {
		o.Nodes = append(o.Nodes, n)
	}
	want, problems := Plan(o)
	r.report(problems)
	err = apply(want, have)
	if self := view.Get[*corev1.Node](snapshot, kinds.Node, "", r.cfg.NodeName); self != nil && r.cfg.PodCIDR != nil {
		if own := PodCIDRs(self); len(own) > 0 && own[0] != r.podCIDR {
			if cerr := r.cfg.PodCIDR(own[0]); cerr != nil {
				return errors.Join(err, cerr)
			}
			r.podCIDR = own[0]
		}
	}
	return err
}

func (r *Router) report(problems []Problem) {
	if slices.Equal(problems, r.problems) {
		return
	}
	for _, p := range problems {
		if !slices.Contains(r.problems, p) {
			r.cfg.Log.Warn("pods of a node cannot be reached", "node", p.Node, "reason", p.Message)
		}
	}
	r.problems = problems
	if r.cfg.Problems != nil {
		r.cfg.Problems(problems)
	}
}

// watchKernel wakes on links and addresses that come and go: the kernel drops
// routes with them and does not always say so.
func (r *Router) watchKernel(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	links, addrs := make(chan netlink.LinkUpdate), make(chan netlink.AddrUpdate)
	if err := netlink.LinkSubscribe(links, ctx.Done()); err != nil {
		cancel()
		return nil, fmt.Errorf("route: cannot watch links: %w", err)
	}
	if err := netlink.AddrSubscribe(addrs, ctx.Done()); err != nil {
		cancel()
		return nil, fmt.Errorf("route: cannot watch addresses: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for links != nil || addrs != nil {
			select {
			case u, ok := <-links:
				if !ok {
					links = nil
				} else if !podLink(u.Attrs().Name) {
					r.wake()
				}
			case _, ok := <-addrs:
				if !ok {
					addrs = nil
				} else {
					r.wake()
				}
			}
		}
	}()
	return func() { cancel(); <-done }, nil
}
