package network_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/nftables"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/network"
	"knarr.dev/knarr/internal/network/cni"
	"knarr.dev/knarr/internal/network/nettest"
	"knarr.dev/knarr/internal/network/proxy"
	"knarr.dev/knarr/internal/network/route"
	"knarr.dev/knarr/internal/view"
)

func TestMain(m *testing.M) {
	if cni.Called(os.Args[0]) {
		os.Exit(cni.Main())
	}
	os.Exit(m.Run())
}

// picture of everything on a host that the network may touch.
func picture(t *testing.T, h *nettest.Host) string {
	t.Helper()
	var b strings.Builder
	h.Do(t, func() error {
		for _, line := range []string{"ip -o link show", "ip -o addr show", "ip route show table all", "ip neigh show nud permanent", "ip rule show", "nft list ruleset", "sysctl -n net.ipv4.ip_forward"} {
			args := strings.Fields(line)
			out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s: %w: %s", line, err, out)
			}
			fmt.Fprintf(&b, "%s:\n%s", line, out)
		}
		return nil
	})
	return b.String()
}

// TestClean: with pods, hostPorts, services and routes in place, Clean leaves
// the host as it was, somebody else's rules included.
func TestClean(t *testing.T) {
	h, pod, peer := nettest.New(t, "node"), nettest.New(t, "pod"), nettest.New(t, "peer")
	nettest.Wire(t, h, "eth0", "192.0.2.1/24", peer, "eth0", "192.0.2.2/24")
	h.Do(t, func() error { // somebody else's
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "theirs"})
		return c.Flush()
	})
	before := picture(t, h)

	dir := t.TempDir()
	state := filepath.Join(dir, "network.json")
	v := view.New([]*kinds.Kind{kinds.Node, kinds.Service, kinds.EndpointSlice}, view.SlicesByService)
	node := func(name, ip, cidr string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}}}
	}
	v.Replace(kinds.Node, []kinds.Object{node("a", "192.0.2.1", "10.244.0.0/24"), node("b", "192.0.2.2", "10.244.1.0/24")}, 1)
	v.Replace(kinds.Service, []kinds.Object{&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "y"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 80}}}}}, 1)
	v.Replace(kinds.EndpointSlice, nil, 1)
	cluster, services := netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.96.0.0/16")
	confDir := filepath.Join(dir, "conf")
	configured := make(chan struct{})
	r, err := route.New(route.Config{View: v, NodeName: "a", ClusterCIDR: cluster, ServiceCIDR: services, DNS: netip.MustParseAddr("10.96.0.10"), StateFile: state,
		PodCIDR: func(p netip.Prefix) error {
			defer close(configured)
			return cni.WriteConf(confDir, p.String(), filepath.Join(dir, "data"), 0)
		}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := proxy.New(proxy.Config{View: v, NodeName: "a", ClusterCIDR: cluster, ServiceCIDR: services})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- h.Try(func() error { return r.Run(ctx) }) }()
	go func() { done <- h.Try(func() error { return p.Run(ctx) }) }()
	<-r.Ready()
	<-p.Ready()
	<-configured
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := cni.Install(filepath.Join(dir, "bin"), exe); err != nil {
		t.Fatal(err)
	}
	h.Do(t, func() error {
		c := exec.Command(filepath.Join(dir, "bin", cni.Plugin))
		c.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_NETNS=" + pod.Path(), "CNI_IFNAME=eth0", "CNI_PATH=" + dir}
		c.Stdin = strings.NewReader(`{"cniVersion":"1.0.0","name":"knarr","type":"knarr-cni","podCIDR":"10.244.0.0/24","dataDir":"` + filepath.Join(dir, "data") +
			`","runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}}`)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("ADD: %w: %s", err, out)
		}
		return nil
	})
	during := picture(t, h)
	for _, want := range []string{"knarr0", "10.244.0.1", "unreachable 10.244.0.0/16", "table ip knarr ", "table ip knarr-hostports", "10.96.0.10", "table ip theirs"} {
		if !strings.Contains(during, want) {
			t.Errorf("no %s in\n%s", want, during)
		}
	}
	cancel()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for range 2 { // again is fine
		h.Do(t, func() error { return network.Clean(network.CleanConfig{StateFile: state}) })
	}
	if after := picture(t, h); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}
