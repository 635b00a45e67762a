package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/event"
	"knarr.dev/knarr/internal/kubelet"
	"knarr.dev/knarr/internal/kubelet/cri"
	"knarr.dev/knarr/internal/network"
	"knarr.dev/knarr/internal/network/cni"
	"knarr.dev/knarr/internal/network/dns"
	"knarr.dev/knarr/internal/network/proxy"
	"knarr.dev/knarr/internal/network/route"
	"knarr.dev/knarr/internal/rmtree"
	"knarr.dev/knarr/internal/runtime/builtin"
	"knarr.dev/knarr/internal/runtime/containerd"
	"knarr.dev/knarr/internal/runtime/images"
	"knarr.dev/knarr/internal/runtime/registry"
	"knarr.dev/knarr/internal/runtime/supervisor"
	"knarr.dev/knarr/internal/view"
)

// sandboxImage is ours and always present: it is loaded at start.
const sandboxImage = "registry.knarr.dev/pause:1"

// node is everything that runs pods on this machine: the runtime, the kubelet,
// the proxy, DNS and the routes. How it reaches the API is the caller's choice.
type node struct {
	cfg     *Config
	log     *slog.Logger
	client  client.Client // as system:node:<name>
	view    *view.View    // pods of this node at least, nodes, services, slices
	objects kubelet.Objects
	cert    func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	clients *x509.CertPool       // who may call the kubelet
	metrics *prometheus.Registry // of the node; nil: a new one
	// pods is told the range of this node's pods; nil: plugins are.
	pods func(netip.Prefix) error
}

// runtimeOf is the private containerd of a data directory.
func runtimeOf(dataDir, runDir string, registries registry.Hosts, log *slog.Logger) (*containerd.Runtime, error) {
	return containerd.New(containerd.Config{
		Root: filepath.Join(dataDir, "agent", "containerd"), State: filepath.Join(runDir, "containerd"),
		CNIConfDir: filepath.Join(dataDir, "agent", "cni", "conf"), CNIBinDir: filepath.Join(dataDir, "agent", "cni", "bin"),
		SandboxImage: sandboxImage, Registries: registries, Log: log,
	})
}

func routeState(dataDir string) string { return filepath.Join(dataDir, "agent", "network.json") }

// cgroupRoot of a node: several on one machine must not share one.
func cgroupRoot(nodeName string) string { return "knarr-" + nodeName }

// onlyNode is held while a node runs, or is cleaned up after: service rules and
// links are one set for each network namespace, and so is an abstract socket.
func onlyNode() (io.Closer, error) {
	l, err := net.Listen("unix", "@knarr-node")
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, errOtherNode
	}
	return l, err
}

var errOtherNode = errors.New("another knarr runs a node on this machine, with another data directory: a machine is one node; stop that one with `knarr down --data-dir …`")

// cleanNetwork takes rules and links away, if they are not another node's.
func cleanNetwork(in *Instance) error {
	alone, err := onlyNode()
	if errors.Is(err, errOtherNode) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(network.Clean(network.CleanConfig{StateFile: routeState(in.DataDir)}), alone.Close())
}

// run runs the node; ready is called once it is Ready in the cluster.
func (n *node) run(ctx context.Context, ready func()) error {
	g, ctx := errgroup.WithContext(ctx)
	if n.metrics == nil {
		n.metrics = prometheus.NewRegistry()
	}
	endpoint, services, err := n.runtime(ctx, g)
	if err != nil {
		return errors.Join(err, g.Wait())
	}
	if err := n.network(ctx, g); err != nil {
		return errors.Join(err, g.Wait())
	}
	events, err := event.New(event.Config{Client: n.client, Component: "kubelet", Host: n.cfg.NodeName, Log: n.log})
	if err != nil {
		return errors.Join(err, g.Wait())
	}
	k, err := kubelet.New(kubelet.Config{
		NodeName: n.cfg.NodeName, NodeIP: n.cfg.NodeIP, Client: n.client, View: n.view, Objects: n.objects,
		RuntimeEndpoint: endpoint, Runtime: services, RootDir: n.cfg.Dir("agent", "kubelet"), PodLogDir: n.cfg.Dir("agent", "pod-logs"),
		ClusterDNS: n.cfg.ClusterDNS, ClusterDomain: n.cfg.ClusterDomain, Port: n.cfg.KubeletPort, MaxPods: n.cfg.MaxPods,
		TLS:        &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: n.cert, ClientCAs: n.clients, ClientAuth: tls.VerifyClientCertIfGiven},
		CgroupRoot: cgroupRoot(n.cfg.NodeName), Events: events, Log: n.log, Metrics: n.metrics, SandboxImage: n.sandboxImage(),
	})
	if err != nil {
		return errors.Join(err, g.Wait())
	}
	if err := kubelet.Link(n.cfg.Dir("agent", "kubelet")); err != nil {
		n.log.Info("plugins of nodes must be told where this node's kubelet is: the usual place is taken", "directory", n.cfg.Dir("agent", "kubelet"), "reason", err)
	}
	g.Go(func() error { return events.Run(ctx) })
	g.Go(func() error { return k.Run(ctx) })
	g.Go(func() error {
		select {
		case <-k.Ready():
			ready()
		case <-ctx.Done():
		}
		return nil
	})
	return g.Wait()
}

// sandboxImage is known of our own runtime only.
func (n *node) sandboxImage() string {
	switch n.cfg.RuntimeEndpoint {
	case runtimeBuiltin, runtimeContainerd:
		return sandboxImage
	}
	return ""
}

// runtime starts or adopts the container runtime, and loads the images that ship
// with knarr. What another ran at the last start ends: pods do not move.
func (n *node) runtime(ctx context.Context, g *errgroup.Group) (endpoint string, services cri.Services, err error) {
	if b := n.cfg.before; b != nil && b.RuntimeEndpoint != n.cfg.RuntimeEndpoint {
		n.cfg.Progress("ending the pods of the container runtime before")
		if err := stopRuntime(ctx, b); err != nil {
			return "", cri.Services{}, fmt.Errorf("the pods of the container runtime before (%s) do not end: %w", b.RuntimeEndpoint, err)
		}
	}
	switch n.cfg.RuntimeEndpoint {
	case runtimeContainerd:
		endpoint, err = n.containerd(ctx, g)
	case runtimeBuiltin:
		services, err = n.builtin(ctx, g)
	default:
		endpoint = n.cfg.RuntimeEndpoint
	}
	return endpoint, services, err
}

func builtinOf(dataDir, runDir string, hosts registry.Hosts, handlers []supervisor.Handler, log *slog.Logger) (*builtinRuntime, error) {
	return newBuiltin(filepath.Join(dataDir, "agent", "runtime"), filepath.Join(runDir, "runtime"), filepath.Join(dataDir, "agent", "cni", "data"), hosts, handlers, log)
}

func (n *node) builtin(ctx context.Context, g *errgroup.Group) (cri.Services, error) {
	n.cfg.Progress("starting the container runtime")
	b, err := builtinOf(n.cfg.DataDir, n.cfg.RunDir(), n.cfg.Registries, n.cfg.handlers, n.log)
	if err != nil {
		return cri.Services{}, err
	}
	if err := b.start(ctx, g); err != nil {
		return cri.Services{}, err
	}
	if n.cfg.ImagesDir != "" {
		n.cfg.Progress("loading images")
		if err := b.load(ctx, n.cfg.ImagesDir); err != nil {
			return cri.Services{}, err
		}
	}
	n.pods = b.network.SetRange
	g.Go(func() error { return builtin.Serve(ctx, filepath.Join(n.cfg.RunDir(), "cri", "cri.sock"), b, b.images) })
	return cri.Services{Runtime: b, Image: b.images}, nil
}

// containerd starts or adopts our own.
func (n *node) containerd(ctx context.Context, g *errgroup.Group) (endpoint string, err error) {
	n.cfg.Progress("starting containerd")
	r, err := runtimeOf(n.cfg.DataDir, n.cfg.RunDir(), n.cfg.Registries, n.log)
	if err != nil {
		return "", err
	}
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	if err := cni.Install(n.cfg.Dir("agent", "cni", "bin"), exe); err != nil {
		return "", err
	}
	failed := make(chan error, 1)
	g.Go(func() error {
		err := r.Run(ctx)
		failed <- err
		return err
	})
	select {
	case <-r.Ready():
	case err := <-failed:
		return "", fmt.Errorf("containerd does not start: %w", err)
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if n.cfg.ImagesDir != "" {
		n.cfg.Progress("loading images")
		if _, err := images.ImportDir(ctx, filepath.Join(n.cfg.RunDir(), "containerd", "containerd.sock"), n.cfg.ImagesDir); err != nil {
			return "", err
		}
	}
	return r.Endpoint(), nil
}

// network starts routes, service rules and DNS.
func (n *node) network(ctx context.Context, g *errgroup.Group) error {
	cluster, services := netip.MustParsePrefix(n.cfg.ClusterCIDR), netip.MustParsePrefix(n.cfg.ServiceCIDR)
	local := netip.MustParseAddr(n.cfg.ClusterDNS)
	confDir, cniData := n.cfg.Dir("agent", "cni", "conf"), n.cfg.Dir("agent", "cni", "data")
	if err := cni.Sweep(cniData); err != nil {
		return err
	}
	router, err := route.New(route.Config{View: n.view, NodeName: n.cfg.NodeName, ClusterCIDR: cluster, ServiceCIDR: services, DNS: local,
		StateFile: routeState(n.cfg.DataDir), Log: n.log,
		PodCIDR: func(p netip.Prefix) error {
			if n.pods != nil {
				return n.pods(p)
			}
			return cni.WriteConf(confDir, p.String(), cniData, 0)
		}})
	if err != nil {
		return err
	}
	rules, err := proxy.New(proxy.Config{View: n.view, NodeName: n.cfg.NodeName, ClusterCIDR: cluster, ServiceCIDR: services, Local: []netip.Addr{local}, Log: n.log, Metrics: n.metrics})
	if err != nil {
		return err
	}
	names, err := dns.New(dns.Config{View: n.view, Domain: n.cfg.ClusterDomain, Address: local, Reverse: []netip.Prefix{cluster, services}, Log: n.log})
	if err != nil {
		return err
	}
	g.Go(func() error { return router.Run(ctx) })
	g.Go(func() error { return rules.Run(ctx) })
	g.Go(func() error {
		// The address that DNS answers on is the router's to make.
		select {
		case <-router.Ready():
		case <-ctx.Done():
			return nil
		}
		return names.Run(ctx)
	})
	return nil
}

// StopNode ends every container of a node whose knarr has ended, and takes its
// rules and links away, so that nothing of it answers any more.
func StopNode(ctx context.Context, in *Instance) error {
	if !in.Agent {
		return nil
	}
	return errors.Join(stopRuntime(ctx, in), cleanNetwork(in))
}

// stopRuntime ends every container of our own runtimes.
func stopRuntime(ctx context.Context, in *Instance) error {
	switch in.RuntimeEndpoint {
	case runtimeBuiltin:
		b, err := builtinOf(in.DataDir, in.RunDir, registry.Hosts{}, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		return b.stop(ctx, true)
	case runtimeContainerd:
		r, err := runtimeOf(in.DataDir, in.RunDir, registry.Hosts{}, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		return r.Stop(ctx, true)
	}
	return nil
}

// Remove deletes everything that a stopped instance made.
func Remove(ctx context.Context, in *Instance) error {
	var errs []error
	if in.Agent {
		root := filepath.Join(in.DataDir, "agent", "kubelet")
		errs = append(errs, kubelet.Unlink(root), kubelet.Clean(root, cgroupRoot(in.NodeName)))
		// Of both: the node may have had either.
		b, err := builtinOf(in.DataDir, in.RunDir, registry.Hosts{}, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		r, err := runtimeOf(in.DataDir, in.RunDir, registry.Hosts{}, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		errs = append(errs, b.clean(ctx), r.Clean(ctx), cleanNetwork(in))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("not everything could be removed, the data are kept: %w", err)
	}
	return errors.Join(rmtree.Remove(in.RunDir), rmtree.Remove(in.DataDir))
}
