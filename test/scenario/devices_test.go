package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
)

const (
	deviceDriver = "devices.knarr.test"
	deviceCount  = 4
	cdiDir       = "/var/run/cdi"
)

// driver of devices that are names: a container finds its own in its
// environment. It is made with the library that real drivers are made with.
type driver struct {
	t    *testing.T
	pool string
}

// driven runs a driver with four devices on the host's node.
func driven(t *testing.T, h *host) {
	t.Helper()
	root := filepath.Join(h.dataDir, "agent", "kubelet")
	data := filepath.Join(root, "plugins", deviceDriver)
	for _, dir := range []string{data, cdiDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	conf := h.restConfig(t)
	conf.Dial = h.dial
	ctx, cancel := context.WithCancel(context.Background())
	helper, err := kubeletplugin.Start(ctx, driver{t, h.netns}, kubeletplugin.DriverName(deviceDriver), kubeletplugin.KubeClient(kubernetes.NewForConfigOrDie(conf)),
		kubeletplugin.NodeName(h.netns), kubeletplugin.RegistrarDirectoryPath(filepath.Join(root, "plugins_registry")), kubeletplugin.PluginDataDirectoryPath(data))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		helper.Stop()
		cancel()
		_ = os.Remove(cdiDir) // if nobody else has files there
	})
	slice := resourceslice.Slice{}
	for i := range deviceCount {
		slice.Devices = append(slice.Devices, resourcev1.Device{Name: fmt.Sprintf("dev-%d", i)})
	}
	if err := helper.PublishResources(ctx, resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{h.netns: {Slices: []resourceslice.Slice{slice}}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the driver is registered", func() (string, bool) {
		s := helper.RegistrationStatus()
		return s.String(), s != nil && s.PluginRegistered
	})
}

func (driver) file(uid types.UID) string {
	return filepath.Join(cdiDir, deviceDriver+"-"+string(uid)+".json")
}

func (d driver) PrepareResourceClaims(_ context.Context, claims []*resourcev1.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	out := map[types.UID]kubeletplugin.PrepareResult{}
	for _, c := range claims {
		var res kubeletplugin.PrepareResult
		var described []any
		for _, r := range c.Status.Allocation.Devices.Results {
			if r.Driver != deviceDriver {
				continue
			}
			name := string(c.UID) + "-" + r.Device
			described = append(described, map[string]any{"name": name, "containerEdits": map[string]any{"env": []string{"DEVICE_" + r.Request + "=" + r.Device}}})
			res.Devices = append(res.Devices, kubeletplugin.Device{Requests: []string{r.Request}, PoolName: r.Pool, DeviceName: r.Device,
				CDIDeviceIDs: []string{deviceDriver + "/device=" + name}})
		}
		data, err := json.Marshal(map[string]any{"cdiVersion": "0.6.0", "kind": deviceDriver + "/device", "devices": described})
		if err == nil {
			err = os.WriteFile(d.file(c.UID), data, 0o644)
		}
		res.Err = err
		out[c.UID] = res
	}
	return out, nil
}

func (d driver) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	out := map[types.UID]error{}
	for _, c := range claims {
		if err := os.Remove(d.file(c.UID)); err != nil && !errors.Is(err, os.ErrNotExist) {
			out[c.UID] = err
			continue
		}
		out[c.UID] = nil
	}
	return out, nil
}

func (d driver) HandleError(_ context.Context, err error, msg string) {
	d.t.Logf("driver of devices: %s: %v", msg, err)
}

func (d driver) WatchHealthStatus(ctx context.Context, reports chan<- kubeletplugin.DeviceHealthReport) error {
	var all kubeletplugin.DeviceHealthReport
	for i := range deviceCount {
		all.Devices = append(all.Devices, kubeletplugin.DeviceHealth{PoolName: d.pool, DeviceName: fmt.Sprintf("dev-%d", i),
			Health: kubeletplugin.HealthStatusHealthy, HealthCheckTimeout: time.Hour})
	}
	select {
	case reports <- all:
		<-ctx.Done()
	case <-ctx.Done():
	}
	return nil
}
