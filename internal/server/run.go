package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/pki"
	"knarr.dev/knarr/internal/version"
	"knarr.dev/knarr/internal/view"
)

// Run runs the roles of a completed configuration until ctx ends; ready is
// called once everything is up. Containers outlive it.
func Run(ctx context.Context, c Config, ready func()) error {
	began := time.Now()
	if c.Log == nil {
		c.Log = slog.Default()
	}
	quietLibraries(c.Log)
	if err := run(ctx, &c, began, ready); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func run(ctx context.Context, c *Config, began time.Time, ready func()) error {
	if err := needRoot(); err != nil {
		return err
	}
	lock, err := lockInstance(c.DataDir)
	if err != nil {
		return err
	}
	defer unlock(c.DataDir, lock)
	if err := c.Preflight(); err != nil {
		return err
	}
	if c.Agent {
		alone, err := onlyNode()
		if err != nil {
			return err
		}
		defer alone.Close()
	}
	if !c.Server {
		return runAgent(ctx, c, ready)
	}
	if err := begin(c); err != nil {
		return err
	}
	s, err := newControl(ctx, c)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	up := make(chan struct{})
	g.Go(func() error { return s.run(ctx, up) })
	g.Go(func() error {
		select {
		case <-up:
		case <-ctx.Done():
			return nil
		}
		c.Log.Info("control plane is ready", "after", time.Since(began).Round(time.Millisecond))
		c.Progress("control plane is ready")
		if !c.Agent {
			ready()
			return nil
		}
		return s.localNode().run(ctx, func() {
			c.Log.Info("node is ready", "after", time.Since(began).Round(time.Millisecond))
			ready()
		})
	})
	return g.Wait()
}

// begin says on disk that this instance is there: from here on there may be
// something to stop and to remove.
func begin(c *Config) error {
	if err := os.MkdirAll(c.RunDir(), 0o700); err != nil {
		return err
	}
	return writeInstance(c, version.GitVersion)
}

// localNode shares the server's view and speaks to the apiserver in process,
// as the node that it is.
func (s *control) localNode() *node {
	cl := s.as("system:node:"+s.cfg.NodeName, user.NodesGroup)
	cert := s.authority.Renewing(pki.Leaf{CommonName: "system:node:" + s.cfg.NodeName, Groups: []string{user.NodesGroup}, Server: true,
		DNSNames: []string{s.cfg.NodeName}, IPs: []net.IP{net.ParseIP(s.cfg.NodeIP)}}, time.Now)
	return &node{cfg: s.cfg, log: s.log, client: cl, view: s.view, objects: newLocalObjects(cl, s.view),
		cert: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return cert.GetCertificate(h) }, clients: s.authority.Pool()}
}

// localObjects reads through the node's own client, which is authorized, and
// hears of changes from the shared view.
type localObjects struct {
	client client.Client
	watch  *objectWatch
}

func newLocalObjects(c client.Client, v *view.View) *localObjects {
	w := newObjectWatch()
	v.Subscribe(func(ch view.Change) {
		if ch.Kind == kinds.Secret || ch.Kind == kinds.ConfigMap {
			o := ch.Object()
			w.changed(ch.Kind, o.GetNamespace(), o.GetName())
		}
	})
	return &localObjects{client: c, watch: w}
}

// Get implements kubelet.Objects.
func (l *localObjects) Get(ctx context.Context, k *kinds.Kind, namespace, name string) (kinds.Object, error) {
	return getObject(ctx, l.client, k, namespace, name)
}

// Watch implements kubelet.Objects.
func (l *localObjects) Watch(k *kinds.Kind, namespace, name string, changed func()) (stop func()) {
	return l.watch.add(k, namespace, name, changed)
}

func getObject(ctx context.Context, c client.Client, k *kinds.Kind, namespace, name string) (kinds.Object, error) {
	o, err := c.Get(ctx, kinds.Ref{Kind: k, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	obj, ok := o.(kinds.Object)
	if !ok {
		return nil, fmt.Errorf("the API server answered with a %T", o)
	}
	return obj, nil
}

var errNoToken = errors.New("this machine has not joined yet: give --token with what `knarr token create` prints on the server")
