// Package dratest has a driver of devices that does as it is told, for tests of
// what asks drivers.
package dratest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	drahealthv1 "k8s.io/kubelet/pkg/apis/dra-health/v1"
	drahealthv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	drav1beta1 "k8s.io/kubelet/pkg/apis/dra/v1beta1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Driver is a plugin on the sockets of a kubelet's root directory.
type Driver struct {
	drav1.UnimplementedDRAPluginServer
	drahealthv1.UnimplementedDRAResourceHealthServer
	registration.UnimplementedRegistrationServer

	Name, Type string // default type: DRAPlugin
	Services   []string
	Root       string

	mu      sync.Mutex
	calls   []string
	status  []*registration.RegistrationStatus
	answers map[string]Answer // by call
	health  chan []*drahealthv1.DeviceHealth
	servers []*grpc.Server
}

// Answer to a call: Wait is waited for first, unless the caller gives up.
type Answer struct {
	Wait    <-chan struct{}
	Err     error  // of the call
	Refusal string // of each claim
	Skip    bool   // leave claims out
	Strange bool   // answer for one that nobody asked about
}

// New driver, not started.
func New(root, name string) *Driver {
	return &Driver{Name: name, Type: registration.DRAPlugin, Services: []string{"v1.DRAPlugin", "v1beta1.DRAPlugin"}, Root: root,
		answers: map[string]Answer{}, health: make(chan []*drahealthv1.DeviceHealth, 10)}
}

// RegistrySocket is where the driver registers.
func (d *Driver) RegistrySocket() string {
	return filepath.Join(d.Root, "plugins_registry", d.Name+"-reg.sock")
}

func (d *Driver) endpoint() string { return filepath.Join(d.Root, "plugins", d.Name, "dra.sock") }

// Start serving; the test's end stops it.
func (d *Driver) Start(t *testing.T) {
	t.Helper()
	d.serve(t, d.endpoint(), func(s *grpc.Server) {
		drav1.RegisterDRAPluginServer(s, d)
		drav1beta1.RegisterDRAPluginServer(s, drav1beta1.V1ServerWrapper{DRAPluginServer: d})
		drahealthv1.RegisterDRAResourceHealthServer(s, d)
		drahealthv1alpha1.RegisterDRAResourceHealthServer(s, drahealthv1.V1ServerWrapper{Server: d})
	})
	d.serve(t, d.RegistrySocket(), func(s *grpc.Server) { registration.RegisterRegistrationServer(s, d) })
	t.Cleanup(d.Stop)
}

func (d *Driver) serve(t *testing.T, path string, register func(*grpc.Server)) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(filepath.Dir(path)) // the path may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // that path is no longer there by then
	s := grpc.NewServer()
	register(s)
	d.mu.Lock()
	d.servers = append(d.servers, s)
	d.mu.Unlock()
	go func() { _ = s.Serve(l) }()
}

// Stop serving and remove the sockets.
func (d *Driver) Stop() {
	d.mu.Lock()
	servers := d.servers
	d.servers = nil
	d.mu.Unlock()
	for _, s := range servers {
		s.Stop()
	}
	_ = os.Remove(d.RegistrySocket())
	_ = os.Remove(d.endpoint())
}

// Answer to a call from now on, as "NodePrepareResources".
func (d *Driver) Answer(call string, a Answer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answers[call] = a
}

// Calls so far, each for one claim, as "NodePrepareResources default/a".
func (d *Driver) Calls() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

// Count of one such call.
func (d *Driver) Count(call string) (n int) {
	for _, c := range d.Calls() {
		if c == call {
			n++
		}
	}
	return n
}

// Status that the kubelet told, in order.
func (d *Driver) Status() []*registration.RegistrationStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.status)
}

// Health to report.
func (d *Driver) Health(devices ...*drahealthv1.DeviceHealth) { d.health <- devices }

// GetInfo implements the registration service.
func (d *Driver) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: d.Type, Name: d.Name, Endpoint: d.endpoint(), SupportedVersions: d.Services}, nil
}

// NotifyRegistrationStatus implements the registration service.
func (d *Driver) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status = append(d.status, s)
	return &registration.RegistrationStatusResponse{}, nil
}

func (d *Driver) called(ctx context.Context, call string, claims []*drav1.Claim) (Answer, error) {
	d.mu.Lock()
	for _, c := range claims {
		d.calls = append(d.calls, call+" "+c.Namespace+"/"+c.Name)
	}
	a := d.answers[call]
	d.mu.Unlock()
	if a.Wait != nil {
		select {
		case <-a.Wait:
		case <-ctx.Done():
			return a, ctx.Err()
		}
	}
	return a, a.Err
}

// NodePrepareResources gives each claim two devices of the pool "pool": "a" for
// request "a", "b" for request "b".
func (d *Driver) NodePrepareResources(ctx context.Context, in *drav1.NodePrepareResourcesRequest) (*drav1.NodePrepareResourcesResponse, error) {
	a, err := d.called(ctx, "NodePrepareResources", in.Claims)
	if err != nil {
		return nil, err
	}
	out := &drav1.NodePrepareResourcesResponse{Claims: map[string]*drav1.NodePrepareResourceResponse{}}
	if a.Strange {
		out.Claims["strange"] = &drav1.NodePrepareResourceResponse{}
	}
	for _, c := range in.Claims {
		if a.Skip {
			continue
		}
		one := &drav1.NodePrepareResourceResponse{Error: a.Refusal}
		for _, name := range []string{"a", "b"} {
			one.Devices = append(one.Devices, &drav1.Device{RequestNames: []string{name}, PoolName: "pool", DeviceName: name,
				CdiDeviceIds: []string{d.Name + "/class=" + c.Name + "-" + name}})
		}
		out.Claims[c.Uid] = one
	}
	return out, nil
}

// NodeUnprepareResources implements the service.
func (d *Driver) NodeUnprepareResources(ctx context.Context, in *drav1.NodeUnprepareResourcesRequest) (*drav1.NodeUnprepareResourcesResponse, error) {
	a, err := d.called(ctx, "NodeUnprepareResources", in.Claims)
	if err != nil {
		return nil, err
	}
	out := &drav1.NodeUnprepareResourcesResponse{Claims: map[string]*drav1.NodeUnprepareResourceResponse{}}
	for _, c := range in.Claims {
		if !a.Skip {
			out.Claims[c.Uid] = &drav1.NodeUnprepareResourceResponse{Error: a.Refusal}
		}
	}
	return out, nil
}

// NodeWatchResources reports what Health was told.
func (d *Driver) NodeWatchResources(_ *drahealthv1.NodeWatchResourcesRequest, s grpc.ServerStreamingServer[drahealthv1.NodeWatchResourcesResponse]) error {
	for {
		select {
		case <-s.Context().Done():
			return s.Context().Err()
		case devices := <-d.health:
			if err := s.Send(&drahealthv1.NodeWatchResourcesResponse{Devices: devices}); err != nil {
				return err
			}
		}
	}
}
