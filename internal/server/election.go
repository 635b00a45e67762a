package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/event"
	"knarr.dev/knarr/internal/leader"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/scheduler"
	"knarr.dev/knarr/internal/security/pki"
)

// Who the elected are, and the names of their leases, which are upstream's.
const (
	manager       = "kube-controller-manager"
	schedulerName = "kube-scheduler"
)

// identity of this server among those that stand for election. It is the data
// directory's, of which one process at a time can be: a server that comes back
// takes up its lease at once.
func (s *control) identity() (string, error) {
	file := s.cfg.Dir("server", "identity")
	data, err := os.ReadFile(file)
	id := strings.TrimSpace(string(data))
	if errors.Is(err, fs.ErrNotExist) || err == nil && id == "" {
		id = string(uuid.NewUUID())
		err = pki.WriteFile(file, []byte(id+"\n"))
	}
	if err != nil {
		return "", fmt.Errorf("cannot tell this server from others: %w", err)
	}
	return s.cfg.NodeName + "_" + id, nil
}

// runElections has the controllers and the scheduler run, each while this server
// is elected for it.
func (s *control) runElections(ctx context.Context, g *errgroup.Group) error {
	id, err := s.identity()
	if err != nil {
		return err
	}
	for _, office := range []struct {
		name  string
		event event.Config
		lead  func(context.Context, *leader.Term, *event.Recorder) error
	}{
		{manager, event.Config{Component: "knarr", Host: s.cfg.NodeName}, s.runControllers},
		{schedulerName, event.Config{Component: "default-scheduler"}, s.runScheduler},
	} {
		c := s.as("system:" + office.name)
		office.event.Client, office.event.Log = c, s.log
		events, err := event.New(office.event)
		if err != nil {
			return err
		}
		elector, err := leader.New(leader.Config{
			Lease: types.NamespacedName{Namespace: metav1.NamespaceSystem, Name: office.name}, Identity: id,
			View: s.view, Client: c, Revision: s.store.Revision, Reach: s.cache.WaitRev,
			Events: events.As(office.name), Log: s.log, Metrics: s.metrics})
		if err != nil {
			return err
		}
		g.Go(func() error { return events.Run(ctx) })
		g.Go(func() error {
			return elector.Run(ctx, func(ctx context.Context, t *leader.Term) error { return office.lead(ctx, t, events) })
		})
	}
	return nil
}

// runControllers for a term, each with its own identity.
func (s *control) runControllers(ctx context.Context, t *leader.Term, events *event.Recorder) error {
	counts := prometheus.NewRegistry() // they end with the term
	loops, err := s.loops()
	if err != nil {
		return err
	}
	runtime, err := reconcile.New(reconcile.Config{
		Controllers: loops, View: s.view, Log: s.log, Metrics: counts,
		Client: func(name string) client.Client { return t.Client(s.asController(name)) },
		Events: func(name string) reconcile.Emitter { return events.As(name) },
	})
	if err != nil {
		return err
	}
	if err := s.metrics.Register(counts); err != nil {
		return err
	}
	defer s.metrics.Unregister(counts)
	return runtime.Run(ctx)
}

// runScheduler for a term.
func (s *control) runScheduler(ctx context.Context, t *leader.Term, events *event.Recorder) error {
	counts := prometheus.NewRegistry()
	sched, err := scheduler.New(scheduler.Config{View: s.view, Client: t.Client(s.as("system:" + schedulerName)), Events: events, Log: s.log, Metrics: counts,
		Rand:     rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		Profiles: s.cfg.scheduling.Profiles, Extenders: s.cfg.scheduling.Extenders,
		MinBackoff: s.cfg.scheduling.MinBackoff, MaxBackoff: s.cfg.scheduling.MaxBackoff,
		EventsOf: func(profile string) scheduler.Emitter { return events.As(profile) }})
	if err != nil {
		return err
	}
	if err := s.metrics.Register(counts); err != nil {
		return err
	}
	defer s.metrics.Unregister(counts)
	return sched.Run(ctx)
}
