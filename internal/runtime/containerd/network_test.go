package containerd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/network/cni"
	"knarr.dev/knarr/internal/network/nettest"
	"knarr.dev/knarr/internal/runtime/images"
)

// TestPodNetwork: containerd, in a node that is a network namespace, wires a
// pod by our plugin; nothing of it stays in the node or on the machine.
func TestPodNetwork(t *testing.T) {
	needRoot(t)
	h := nettest.New(t, "node")
	h.Sysctl(t, "net/ipv4/ip_forward", "1")
	h.Addr(t, "lo", "192.0.2.1/32")
	h.Serve(t, "node", "192.0.2.1:81")
	cfg := config(t, "a")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := cni.Install(cfg.CNIBinDir, exe); err != nil {
		t.Fatal(err)
	}
	in := runIn(t, cfg, h.Try)
	if _, err := images.ImportDir(t.Context(), in.socket(), archives(t)); err != nil {
		t.Fatal(err)
	}
	cri, _ := in.cri(t)
	networkReady := func() bool {
		st, err := cri.Status(t.Context(), &runtimeapi.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range st.Status.Conditions {
			if c.Type == runtimeapi.NetworkReady {
				return c.Status
			}
		}
		return false
	}
	if networkReady() {
		t.Error("the network is ready without a configuration")
	}
	if err := cni.WriteConf(cfg.CNIConfDir, "10.244.3.0/24", filepath.Join(cfg.Root, "cni"), 0); err != nil {
		t.Fatal(err)
	}
	within(t, "the network is ready", networkReady)

	pod := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Uid: "p", Namespace: "default"}, LogDirectory: filepath.Join(cfg.Root, "logs"), Hostname: "p",
		PortMappings: []*runtimeapi.PortMapping{{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 80, HostPort: 8080}},
		Linux:        &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/knarr-test-" + filepath.Base(filepath.Dir(cfg.Root)) + "/pod-p"},
	}
	s, err := cri.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: pod})
	if err != nil {
		t.Fatal(err)
	}
	st, err := cri.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: s.PodSandboxId})
	if err != nil || !strings.HasPrefix(st.Status.Network.GetIp(), "10.244.3.") {
		t.Fatalf("%v %v", st, err)
	}
	c, err := cri.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: s.PodSandboxId, SandboxConfig: pod, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: busybox}, LogPath: "c.log",
		Command: []string{"/bin/sh", "-c", "while true; do echo pod | nc -l -p 80; done"}, Linux: &runtimeapi.LinuxContainerConfig{},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cri.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		t.Fatal(err)
	}
	if got := in.exec(t, c.ContainerId, "/bin/sh", "-c", "nc 192.0.2.1 81 </dev/null"); got != "node "+st.Status.Network.Ip+"\n" {
		t.Errorf("the pod to its node: %q", got)
	}
	for _, addr := range []string{st.Status.Network.Ip + ":80", "192.0.2.1:8080"} {
		within(t, "the pod answers at "+addr, func() bool { who, _, err := h.Peek(addr); return err == nil && who == "pod" })
	}
	if binds, _ := filepath.Glob(filepath.Join(cfg.State, "state", "*", "netns", "cni-*")); len(binds) != 1 {
		t.Errorf("network namespaces in our state: %v", binds)
	}
	in.stop()
	if err := h.Try(func() error { return in.Stop(t.Context(), true) }); err != nil {
		t.Fatal(err)
	}
	h.Do(t, func() error {
		out, err := exec.Command("ip", "-o", "link", "show", "type", "veth").CombinedOutput()
		if err == nil && len(out) > 0 {
			err = fmt.Errorf("left: %s", out)
		}
		return err
	})
}
