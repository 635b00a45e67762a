package dra

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	drahealthv1 "k8s.io/kubelet/pkg/apis/dra-health/v1"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"

	"knarr.dev/knarr/internal/kubelet/plugins"
)

// callTimeout is how long a driver may take for the claims of a pod (upstream's
// figure).
const callTimeout = 45 * time.Second

// services that the kubelet uses, by the name that a plugin registers them with,
// and where gRPC finds them. The messages of v1beta1 and v1alpha1 are those of v1
// without what came later, so that one set of types speaks all of them.
var (
	services = map[string]string{
		drav1.DRAPluginService: "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/",
		"v1beta1.DRAPlugin":    "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/",
	}
	// The newest first.
	healthServices = []string{drahealthv1.DRAResourceHealthService, "v1alpha1.DRAResourceHealth"}
)

var errNoServices = errors.New("empty list of supported gRPC services (aka supported versions)")

// plugin of a driver. While a driver is replaced by a newer one, both have one.
type plugin struct {
	driver, endpoint string
	conn             *grpc.ClientConn
	service          string // where its methods are

	// Guarded by the lock of Claims.
	connected bool
	health    map[deviceName]report
}

// Register implements plugins.Handler for those of type DRAPlugin, whose name is
// the driver's.
func (c *Claims) Register(info plugins.Info) (gone func(), err error) {
	if info.Name == "" {
		return nil, errors.New("DRA driver name is empty")
	}
	service, err := choose(info.Services)
	if err != nil {
		return nil, fmt.Errorf("invalid supported gRPC versions of DRA driver plugin %s at endpoint %s: %w", info.Name, info.Endpoint, err)
	}
	p := &plugin{driver: info.Name, endpoint: info.Endpoint, service: service}
	if p.conn, err = plugins.Dial(info.Endpoint); err != nil {
		return nil, err
	}
	if err := c.add(p); err != nil {
		return nil, errors.Join(err, p.conn.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	loops.Go(func() { c.follow(ctx, p) })
	if i := slices.IndexFunc(healthServices, func(s string) bool { return slices.Contains(info.Services, s) }); i >= 0 {
		loops.Go(func() { c.followHealth(ctx, p, "/"+healthServices[i]+"/NodeWatchResources") })
	}
	c.cfg.Log.Info("a driver of devices has registered", "driver", p.driver, "endpoint", p.endpoint, "service", service)
	return func() {
		cancel()
		if err := p.conn.Close(); err != nil {
			c.cfg.Log.Warn("cannot close a connection", "driver", p.driver, "error", err)
		}
		loops.Wait()
		c.remove(p)
		c.cfg.Log.Info("a driver of devices is gone", "driver", p.driver, "endpoint", p.endpoint)
	}, nil
}

// choose the first service of a plugin that the kubelet knows.
func choose(offered []string) (string, error) {
	if len(offered) == 0 {
		return "", errNoServices
	}
	for _, s := range offered {
		if at := services[s]; at != "" {
			return at, nil
		}
	}
	return "", fmt.Errorf("none of services supported by the plugin (%q) are supported by the kubelet (%q)", offered, []string{"v1.DRAPlugin", "v1beta1.DRAPlugin"})
}

func (c *Claims) add(p *plugin) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.ContainsFunc(c.drivers[p.driver], func(o *plugin) bool { return o.endpoint == p.endpoint }) {
		return fmt.Errorf("endpoint %s already registered for DRA driver plugin %s", p.endpoint, p.driver)
	}
	c.drivers[p.driver] = append(c.drivers[p.driver], p)
	c.settle(p.driver)
	return nil
}

func (c *Claims) remove(p *plugin) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drivers[p.driver] = slices.DeleteFunc(c.drivers[p.driver], func(o *plugin) bool { return o == p })
	if len(c.drivers[p.driver]) == 0 {
		delete(c.drivers, p.driver)
	}
	c.settle(p.driver)
}

// follow whether the plugin can be reached; it is connected to all the time, so
// that its end is noticed.
func (c *Claims) follow(ctx context.Context, p *plugin) {
	for {
		state := p.conn.GetState()
		if state == connectivity.Idle {
			p.conn.Connect()
		}
		c.mu.Lock()
		came := !p.connected && state == connectivity.Ready
		p.connected = state == connectivity.Ready
		c.settle(p.driver)
		c.mu.Unlock()
		if came {
			c.cfg.Came()
		}
		if !p.conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// driver is its plugin that is asked: the newest that can be reached, else the
// newest.
func (c *Claims) driver(name string) (*plugin, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.drivers[name]
	if len(list) == 0 {
		return nil, fmt.Errorf("DRA driver %s is not registered", name)
	}
	for _, p := range slices.Backward(list) {
		if p.connected {
			return p, nil
		}
	}
	return list[len(list)-1], nil
}

func (p *plugin) prepare(ctx context.Context, claims []*drav1.Claim) (map[string]*drav1.NodePrepareResourceResponse, error) {
	out := &drav1.NodePrepareResourcesResponse{}
	err := p.call(ctx, "NodePrepareResources", &drav1.NodePrepareResourcesRequest{Claims: claims}, out)
	return out.Claims, err
}

func (p *plugin) unprepare(ctx context.Context, claims []*drav1.Claim) (map[string]*drav1.NodeUnprepareResourceResponse, error) {
	out := &drav1.NodeUnprepareResourcesResponse{}
	err := p.call(ctx, "NodeUnprepareResources", &drav1.NodeUnprepareResourcesRequest{Claims: claims}, out)
	return out.Claims, err
}

func (p *plugin) call(ctx context.Context, method string, in, out any) error {
	return p.conn.Invoke(ctx, p.service+method, in, out)
}
