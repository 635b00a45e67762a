package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/controller/nodelifecycle"
	"knarr.dev/knarr/internal/kubelet"
	"knarr.dev/knarr/internal/view"
)

// PlaneConfig of a control plane for nodes in its own process. It needs no
// root, writes nothing outside of its directory and listens on loopback alone.
type PlaneConfig struct {
	Dir string // absolute
	// Port on 127.0.0.1; 0: one that is free.
	Port int
	// NodeGrace is how long a node may be silent before it counts as lost;
	// default: as in every cluster.
	NodeGrace time.Duration
	Log       *slog.Logger
}

// Networks that nodes and pods of such a cluster have: as many nodes as fit
// into 10.0.0.0/8, a /24 each.
const (
	planePods     = "10.0.0.0/8"
	planeServices = "172.20.0.0/16"
	// planeAddress stands for the server where an address is needed that others
	// could reach; it is one for documentation (RFC 5737), and nobody asks there.
	planeAddress = "192.0.2.1"
)

type planeConfig struct {
	listener  net.Listener
	nodeGrace time.Duration
}

// Plane is such a control plane, running.
type Plane struct {
	View *view.View // of everything, shared

	control *control
	objects *objectWatch
}

// RunPlane runs one until ctx ends; use is called once it is up, and its end
// ends the control plane too.
func RunPlane(ctx context.Context, pc PlaneConfig, use func(context.Context, *Plane) error) error {
	c := &Config{Server: true, DataDir: pc.Dir, NodeName: "knarr-sim", NodeIP: planeAddress, ClusterCIDR: planePods, ServiceCIDR: planeServices, Log: pc.Log}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(pc.Dir, 0o700); err != nil {
		return err
	}
	if err := c.Complete(); err != nil {
		return err
	}
	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", fmt.Sprint(pc.Port)))
	if err != nil {
		return fmt.Errorf("cannot listen on loopback: %w", err)
	}
	c.APIPort = l.Addr().(*net.TCPAddr).Port
	c.plane = &planeConfig{listener: l, nodeGrace: pc.NodeGrace}
	lock, err := lockInstance(c.DataDir)
	if err != nil {
		_ = l.Close()
		return err
	}
	defer unlock(c.DataDir, lock)
	quietLibraries(c.Log)
	if err := os.MkdirAll(c.RunDir(), 0o700); err != nil {
		_ = l.Close()
		return err
	}
	s, err := newControl(ctx, c)
	if err != nil {
		return err
	}
	return s.runFor(ctx, use)
}

// runFor runs the control plane as long as use does.
func (s *control) runFor(ctx context.Context, use func(context.Context, *Plane) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The control plane outlasts its users, so that they can take their leave.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g, life := errgroup.WithContext(life)
	up := make(chan struct{})
	g.Go(func() error {
		defer cancel()
		return s.run(life, up)
	})
	g.Go(func() error {
		defer end()
		select {
		case <-up:
		case <-ctx.Done():
			return nil
		}
		return use(ctx, newPlane(s))
	})
	return g.Wait()
}

func newPlane(s *control) *Plane {
	admin := s.as("system:apiserver")
	return &Plane{View: s.view, control: s, objects: newLocalObjects(admin, s.view).watch}
}

// As is the in-process client of a user.
func (p *Plane) As(name string, groups ...string) client.Client { return p.control.as(name, groups...) }

// Objects reads as a node's client is authorized to; all nodes share what hears
// of changes.
func (p *Plane) Objects(as client.Client) kubelet.Objects {
	return &localObjects{client: as, watch: p.objects}
}

// Kubeconfig is the path of the administrator's.
func (p *Plane) Kubeconfig() string { return p.control.cfg.Kubeconfig() }

// Revision of the store: one more for every write.
func (p *Plane) Revision(ctx context.Context) (int64, error) { return p.control.store.Revision(ctx) }

// nodeLifecycle of the cluster's nodes.
func (c *Config) nodeLifecycle() nodelifecycle.Config {
	if c.plane == nil {
		return nodelifecycle.Config{}
	}
	return nodelifecycle.Config{GracePeriod: c.plane.nodeGrace}
}
