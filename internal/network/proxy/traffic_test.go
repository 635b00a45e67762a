package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/network/nettest"
	"knarr.dev/knarr/internal/view"
)

// world is a node with three pods, a neighbour on its network that runs one
// more, and a client outside of the cluster.
type world struct {
	node, other, client *nettest.Host
	pods                []*nettest.Host // a, b, c: 10.244.0.2 to .4
	view                *view.View
	rev                 int64
	metrics             prometheus.Registerer
	stop                func()
}

var (
	clusterCIDR = netip.MustParsePrefix("10.244.0.0/16")
	serviceCIDR = netip.MustParsePrefix("10.96.0.0/16")
)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{node: nettest.New(t, "node"), other: nettest.New(t, "other"), client: nettest.New(t, "client")}
	w.node.Sysctl(t, "net/ipv4/ip_forward", "1")
	nettest.Wire(t, w.node, "eth0", "192.0.2.1/24", w.other, "eth0", "192.0.2.2/24")
	nettest.Wire(t, w.node, "eth1", "198.51.100.1/24", w.client, "eth0", "198.51.100.9/24")
	w.client.Route(t, "0.0.0.0/0", "198.51.100.1")
	w.other.Route(t, "0.0.0.0/0", "192.0.2.1")
	w.node.Route(t, "0.0.0.0/0", "198.51.100.9") // what leaks, leaks to the client
	w.node.Route(t, "10.244.1.0/24", "192.0.2.2")
	for i, name := range []string{"a", "b", "c"} {
		p := nettest.New(t, name)
		// A routed veth, as the plugin makes it, with a simpler gateway.
		nettest.Wire(t, w.node, "pod-"+name, "", p, "eth0", fmt.Sprintf("10.244.0.%d/32", i+2))
		w.node.Addr(t, "pod-"+name, fmt.Sprintf("169.254.%d.1/32", i))
		w.node.Do(t, func() error {
			l, err := netlink.LinkByName("pod-" + name)
			if err != nil {
				return err
			}
			dst, err := netlink.ParseIPNet(fmt.Sprintf("10.244.0.%d/32", i+2))
			if err != nil {
				return err
			}
			return netlink.RouteReplace(&netlink.Route{Dst: dst, LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK})
		})
		p.Do(t, func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			gw, err := netlink.ParseIPNet(fmt.Sprintf("169.254.%d.1/32", i))
			if err != nil {
				return err
			}
			if err := netlink.RouteReplace(&netlink.Route{Dst: gw, LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK}); err != nil {
				return err
			}
			_, all, err := parseDefault()
			if err != nil {
				return err
			}
			return netlink.RouteReplace(&netlink.Route{Dst: all, Gw: gw.IP})
		})
		p.Serve(t, name, ":80")
		w.pods = append(w.pods, p)
	}
	w.other.Addr(t, "lo", "10.244.1.2/32")
	w.other.Serve(t, "far", "10.244.1.2:80")
	w.view = view.New([]*kinds.Kind{kinds.Service, kinds.EndpointSlice, kinds.Node}, view.SlicesByService)
	for _, k := range w.view.Kinds() {
		w.rev++
		w.view.Replace(k, nil, w.rev)
	}
	return w
}

func parseDefault() (string, *net.IPNet, error) {
	n, err := netlink.ParseIPNet("0.0.0.0/0")
	return "", n, err
}

// run starts a proxy in the node.
func (w *world) run(t *testing.T) {
	t.Helper()
	p, err := New(Config{View: w.view, NodeName: "node", ClusterCIDR: clusterCIDR, ServiceCIDR: serviceCIDR,
		Local: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, Log: slog.New(slog.NewTextHandler(logTo{t}, nil)), Metrics: w.metrics})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.node.Try(func() error { return p.Run(ctx) }) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(w.stop)
	select {
	case <-p.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("Run: %v", err)
	}
}

type logTo struct{ t *testing.T }

func (l logTo) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "level=ERROR") {
		l.t.Errorf("logged: %s", p)
	}
	return len(p), nil
}

func (w *world) apply(k *kinds.Kind, o kinds.Object) {
	w.rev++
	o.SetResourceVersion(fmt.Sprint(w.rev))
	w.view.Apply(view.Change{Kind: k, New: o, Rev: w.rev})
}

func (w *world) remove(k *kinds.Kind, o kinds.Object) {
	w.rev++
	w.view.Apply(view.Change{Kind: k, Old: o, Rev: w.rev})
}

// svc makes a service web in the namespace default with TCP and UDP ports.
func svc(name, ip string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec.Type, s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ServiceTypeClusterIP, ip, []string{ip}
	s.Spec.Ports = []corev1.ServicePort{
		{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: 8080, TargetPort: intstr.FromInt32(80)},
		{Name: "udp", Protocol: corev1.ProtocolUDP, Port: 8080, TargetPort: intstr.FromInt32(80)},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func nodePort(port int32) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = port
		}
	}
}

func local(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func stickyFor(seconds int32) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
}

// slice of a service: an address with "!" is not ready; 10.244.0.x is here.
func slice(service string, addrs ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: service + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, name := range []string{"tcp", "udp"} {
		proto := corev1.Protocol(strings.ToUpper(name))
		port := int32(80)
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &name, Protocol: &proto, Port: &port})
	}
	for _, a := range addrs {
		addr, notReady := strings.CutPrefix(a, "!")
		on := "other"
		if strings.HasPrefix(addr, "10.244.0.") {
			on = "node"
		}
		ok := !notReady
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{addr}, NodeName: &on, Conditions: discoveryv1.EndpointConditions{Ready: &ok}})
	}
	return s
}

const (
	podA, podB, podC = "10.244.0.2", "10.244.0.3", "10.244.0.4"
	far              = "10.244.1.2"
)

// answers counts who answers n connections.
func answers(t *testing.T, from *nettest.Host, addr string, n int) map[string]int {
	t.Helper()
	got := map[string]int{}
	for range n {
		who, _, err := from.Ask(addr)
		if err != nil {
			t.Fatalf("%s to %s: %v", from.Name, addr, err)
		}
		got[who]++
	}
	return got
}

// eventually waits until the answer is who; "" means refused.
func eventually(t *testing.T, from *nettest.Host, addr, who string) time.Duration {
	t.Helper()
	return nettest.Within(t, fmt.Sprintf("%s answers at %s", who, addr), func() bool {
		got, _, err := from.Peek(addr)
		if who == "" {
			return errors.Is(err, unix.ECONNREFUSED)
		}
		return err == nil && got == who
	})
}

// TestClusterIP is also the proof that maps written by netlink carry traffic.
func TestClusterIP(t *testing.T) {
	w := newWorld(t)
	w.apply(kinds.Node, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/24"}}})
	w.run(t)
	s := svc("web", "10.96.0.80")
	w.apply(kinds.Service, s)
	w.apply(kinds.EndpointSlice, slice("web", podA, podB, far))
	eventually(t, w.pods[2], "10.96.0.80:8080", "far")

	// Spread evenly; from a pod, from the node itself, by TCP and UDP.
	const n = 300
	for _, from := range []*nettest.Host{w.pods[2], w.node} {
		for who, c := range answers(t, from, "10.96.0.80:8080", n) {
			if c < n/3-60 || c > n/3+60 { // more than 6 sigma
				t.Errorf("%s: %s answered %d of %d", from.Name, who, c, n)
			}
		}
	}
	if got, seen, err := w.pods[2].AskUDP("10.96.0.80:8080", 0); err != nil || seen != podC || got == "" {
		t.Errorf("UDP: %q seen as %s: %v", got, seen, err)
	}
	// A pod is seen under its own address by others, and reaches itself too.
	hairpinned := false
	for range 40 {
		got, seen, err := w.pods[0].Ask("10.96.0.80:8080")
		if err != nil {
			t.Fatalf("a to the service: %v", err)
		}
		if got == "a" {
			hairpinned = true
			if seen == podA {
				t.Errorf("hairpin was not masqueraded")
			}
		} else if seen != podA {
			t.Errorf("a is seen as %s by %s", seen, got)
		}
	}
	if !hairpinned {
		t.Error("a never reached itself in 40 connections")
	}
	// Readiness takes an endpoint out and in quickly.
	w.apply(kinds.EndpointSlice, slice("web", "!"+podA, podB, "!"+far))
	took := nettest.Within(t, "only b is left", func() bool {
		return answers(t, w.pods[2], "10.96.0.80:8080", 8)["b"] == 8
	})
	t.Logf("readiness took effect after %s", took)
	// No endpoint: refused at once, TCP and UDP; another port of the address
	// and an unknown address too.
	w.apply(kinds.EndpointSlice, slice("web", "!"+podA, "!"+podB))
	for _, from := range []*nettest.Host{w.pods[2], w.node} {
		eventually(t, from, "10.96.0.80:8080", "")
		for _, addr := range []string{"10.96.0.80:9999", "10.96.7.7:80"} {
			if _, _, err := from.Ask(addr); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s to %s: %v", from.Name, addr, err)
			}
		}
		// A packet that is rejected on its way out fails in the sender's call.
		if _, _, err := from.AskUDP("10.96.0.80:8080", 0); !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EPERM) {
			t.Errorf("%s by UDP: %v", from.Name, err)
		}
	}
	// Nothing of the service range leaks to the default gateway.
	w.client.Addr(t, "lo", "10.96.7.7/32")
	w.client.Serve(t, "leak", "10.96.7.7:80")
	if got, _, err := w.pods[0].Peek("10.96.7.7:80"); err == nil {
		t.Errorf("leaked to %s", got)
	}
	// Pods leave the cluster as their node.
	w.client.Serve(t, "client", ":81")
	if got, seen, err := w.pods[0].Ask("198.51.100.9:81"); err != nil || got != "client" || seen != "198.51.100.1" {
		t.Errorf("out of the cluster: %q seen as %s: %v", got, seen, err)
	}
	if _, seen, err := w.pods[0].Ask(far + ":80"); err != nil || seen != podA {
		t.Errorf("to a pod of another node: seen as %s: %v", seen, err)
	}
	w.listable(t)
	w.remove(kinds.Service, s)
	eventually(t, w.pods[2], "10.96.0.80:8080", "") // the range refuses
	w.gone(t)
}

// listable: nft prints the whole ruleset, whatever is in it.
func (w *world) listable(t *testing.T) string {
	t.Helper()
	var text string
	w.node.Do(t, func() error {
		out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
		text = string(out)
		if err != nil {
			return fmt.Errorf("nft list ruleset: %w: %s", err, out)
		}
		return nil
	})
	return text
}

// gone: after Clean nothing is left.
func (w *world) gone(t *testing.T) {
	t.Helper()
	w.stop()
	for range 2 {
		w.node.Do(t, Clean)
	}
	if text := w.listable(t); strings.TrimSpace(text) != "" {
		t.Errorf("left: %s", text)
	}
}

func TestNodePort(t *testing.T) {
	w := newWorld(t)
	w.apply(kinds.Node, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/24"}}})
	w.run(t)
	w.apply(kinds.Service, svc("web", "10.96.0.80", nodePort(30080)))
	w.apply(kinds.EndpointSlice, slice("web", podA, far))
	eventually(t, w.client, "198.51.100.1:30080", "a")
	eventually(t, w.client, "198.51.100.1:30080", "far") // masqueraded, or the answer would take another way
	for _, c := range []struct {
		from *nettest.Host
		addr string
	}{{w.client, "192.0.2.1:30080"}, {w.other, "192.0.2.1:30080"}, {w.pods[1], "192.0.2.1:30080"}, {w.node, "192.0.2.1:30080"}} {
		if _, _, err := c.from.Ask(c.addr); err != nil {
			t.Errorf("%s to %s: %v", c.from.Name, c.addr, err)
		}
		if _, _, err := c.from.AskUDP(c.addr, 0); err != nil {
			t.Errorf("%s to %s by UDP: %v", c.from.Name, c.addr, err)
		}
	}
	if _, seen, err := w.client.Ask("198.51.100.1:30080"); err != nil || seen == "198.51.100.9" {
		t.Errorf("the client is seen as %s: %v", seen, err)
	}
	t.Run("CVE2020_8558", func(t *testing.T) { loopbackIsNobodys(t, w) })
	w.listable(t)
}

// loopbackIsNobodys, from inside or from the wire.
func loopbackIsNobodys(t *testing.T, w *world) {
	if _, _, err := w.node.Peek("127.0.0.1:30080"); err == nil {
		t.Error("the node port answers on loopback")
	}
	w.node.Serve(t, "secret", "127.0.0.1:99")
	w.client.LeadLoopback(t, "via 198.51.100.1 dev eth0 src 198.51.100.9")
	if got, _, err := w.client.Peek("127.0.0.1:99"); err == nil {
		t.Errorf("a neighbour reached %s on the node's loopback", got)
	}
}

func TestLocalPolicy(t *testing.T) {
	w := newWorld(t)
	w.apply(kinds.Node, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/24"}}})
	w.run(t)
	s := svc("web", "10.96.0.80", nodePort(30080), local, func(s *corev1.Service) {
		s.Spec.Type, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, 32000
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.7"}}
	})
	w.apply(kinds.Service, s)
	w.apply(kinds.EndpointSlice, slice("web", podA, far))
	eventually(t, w.client, "198.51.100.1:30080", "a")
	// Only the local endpoint, and the client's own address.
	for _, addr := range []string{"198.51.100.1:30080", "203.0.113.7:8080"} {
		for range 20 {
			if got, seen, err := w.client.Ask(addr); err != nil || got != "a" || seen != "198.51.100.9" {
				t.Fatalf("%s: %q seen as %s: %v", addr, got, seen, err)
			}
		}
	}
	// From inside the cluster any endpoint serves.
	eventually(t, w.pods[1], "203.0.113.7:8080", "far")
	eventually(t, w.node, "192.0.2.1:30080", "far")
	health := func(want int) (body string) {
		t.Helper()
		nettest.Within(t, fmt.Sprint("health ", want), func() bool {
			c := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DialContext: w.client.Dial, DisableKeepAlives: true}}
			resp, err := c.Get("http://198.51.100.1:32000/healthz")
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			data, err := io.ReadAll(resp.Body)
			body = string(data)
			return err == nil && resp.StatusCode == want
		})
		return body
	}
	if body := health(http.StatusOK); !strings.Contains(body, `"localEndpoints":1`) {
		t.Errorf("health: %s", body)
	}
	// Without a local endpoint nobody answers outside; inside goes on.
	w.apply(kinds.EndpointSlice, slice("web", far))
	nettest.Within(t, "dropped", func() bool {
		_, _, err := w.client.Peek("198.51.100.1:30080")
		return nettest.Silent(err)
	})
	eventually(t, w.pods[1], "203.0.113.7:8080", "far")
	health(http.StatusServiceUnavailable)
	// Source ranges.
	s = s.DeepCopy()
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24", "192.0.2.128/25"}
	w.apply(kinds.Service, s)
	eventually(t, w.client, "198.51.100.1:30080", "far") // node ports are not guarded
	if _, _, err := w.client.Peek("203.0.113.7:8080"); !nettest.Silent(err) {
		t.Errorf("a source outside of the ranges: %v", err)
	}
	eventually(t, w.other, "203.0.113.7:8080", "far")
	w.listable(t)

	// internalTrafficPolicy Local.
	i := corev1.ServiceInternalTrafficPolicyLocal
	w.apply(kinds.Service, svc("in", "10.96.0.81", func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &i }))
	w.apply(kinds.EndpointSlice, slice("in", podB, far))
	eventually(t, w.pods[0], "10.96.0.81:8080", "b")
	if got := answers(t, w.pods[0], "10.96.0.81:8080", 20); got["b"] != 20 {
		t.Errorf("internalTrafficPolicy Local: %v", got)
	}
	w.apply(kinds.EndpointSlice, slice("in", far))
	nettest.Within(t, "dropped", func() bool {
		_, _, err := w.pods[0].Peek("10.96.0.81:8080")
		return nettest.Silent(err)
	})
}

func TestAffinity(t *testing.T) {
	w := newWorld(t)
	w.apply(kinds.Node, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/24"}}})
	w.run(t)
	w.apply(kinds.Service, svc("web", "10.96.0.80", nodePort(30080), stickyFor(3600)))
	w.apply(kinds.EndpointSlice, slice("web", podA, podB, far))
	nettest.Within(t, "an answer", func() bool { _, _, err := w.pods[2].Peek("10.96.0.80:8080"); return err == nil })
	first, _, err := w.pods[2].Ask("10.96.0.80:8080")
	if err != nil {
		t.Fatal(err)
	}
	if got := answers(t, w.pods[2], "10.96.0.80:8080", 30); got[first] != 30 {
		t.Errorf("the client moved from %s: %v", first, got)
	}
	if got := answers(t, w.client, "198.51.100.1:30080", 30); len(got) != 1 {
		t.Errorf("the client of the node port moved: %v", got)
	}
	w.listable(t)
	// A new proxy, as after a restart of knarr, remembers.
	w.stop()
	w.run(t)
	if got := answers(t, w.pods[2], "10.96.0.80:8080", 10); got[first] != 10 {
		t.Errorf("after a restart the client moved from %s: %v", first, got)
	}
	// Its endpoint goes: it gets another, and stays there.
	rest := map[string]string{"a": podA, "b": podB, "far": far}
	delete(rest, first)
	var left []string
	for _, a := range rest {
		left = append(left, a)
	}
	w.apply(kinds.EndpointSlice, slice("web", left...))
	nettest.Within(t, "another endpoint", func() bool {
		got, _, err := w.pods[2].Peek("10.96.0.80:8080")
		return err == nil && got != first
	})
	second, _, _ := w.pods[2].Ask("10.96.0.80:8080")
	if got := answers(t, w.pods[2], "10.96.0.80:8080", 30); got[second] != 30 {
		t.Errorf("the client moved from %s: %v", second, got)
	}
	// After the timeout without a connection anybody may answer.
	w.apply(kinds.Service, svc("web", "10.96.0.80", nodePort(30080), stickyFor(1)))
	nettest.Within(t, "a move after the timeout", func() bool {
		pause := time.NewTimer(1100 * time.Millisecond)
		<-pause.C
		got, _, err := w.pods[2].Peek("10.96.0.80:8080")
		return err == nil && got != second
	})
	w.gone(t)
}

func TestUDPFollowsEndpoints(t *testing.T) {
	w := newWorld(t)
	w.apply(kinds.Node, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/24"}}})
	w.run(t)
	w.apply(kinds.Service, svc("web", "10.96.0.80", nodePort(30080)))
	w.apply(kinds.EndpointSlice, slice("web", podA))
	// The same client port all the time, as a resolver or a game uses it.
	ask := func(from *nettest.Host, addr, want string) {
		t.Helper()
		nettest.Within(t, want+" answers at "+addr, func() bool {
			got, _, err := from.PeekUDP(addr, 5000)
			return err == nil && got == want
		})
	}
	ask(w.pods[2], "10.96.0.80:8080", "a")
	ask(w.client, "198.51.100.1:30080", "a")
	w.apply(kinds.EndpointSlice, slice("web", podB))
	ask(w.pods[2], "10.96.0.80:8080", "b")
	ask(w.client, "198.51.100.1:30080", "b")
	// Also what changed while no proxy ran.
	w.stop()
	w.apply(kinds.EndpointSlice, slice("web", far))
	w.run(t)
	ask(w.pods[2], "10.96.0.80:8080", "far")
	ask(w.client, "198.51.100.1:30080", "far")
}

// TestNoGap: replacing the table under load drops nothing.
func TestNoGap(t *testing.T) {
	w := newWorld(t)
	w.apply(kinds.Node, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/24"}}})
	w.run(t)
	w.apply(kinds.Service, svc("web", "10.96.0.80"))
	w.apply(kinds.EndpointSlice, slice("web", podA, podB))
	nettest.Within(t, "an answer", func() bool { _, _, err := w.pods[2].Peek("10.96.0.80:8080"); return err == nil })
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error, 1)
	asked := 0
	go func() {
		for ctx.Err() == nil {
			if _, _, err := w.pods[2].Ask("10.96.0.80:8080"); err != nil {
				failed <- err
				return
			}
			asked++
		}
		failed <- nil
	}()
	for range 5 {
		w.stop()
		w.run(t)
	}
	// Somebody deletes the table: the next change brings everything back.
	cancel()
	if err := <-failed; err != nil {
		t.Errorf("after %d connections: %v", asked, err)
	}
	w.node.Do(t, Clean)
	w.apply(kinds.EndpointSlice, slice("web", podB))
	eventually(t, w.pods[2], "10.96.0.80:8080", "b")
}

func TestDNSAddressIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.run(t)
	w.node.Addr(t, "lo", "10.96.0.10/32")
	w.node.Serve(t, "dns", "10.96.0.10:8080")
	w.apply(kinds.Service, svc("kube-dns", "10.96.0.10")) // without endpoints
	w.apply(kinds.Service, svc("other", "10.96.0.11"))
	eventually(t, w.pods[0], "10.96.0.11:8080", "")
	for _, from := range []*nettest.Host{w.pods[0], w.node} {
		if got, _, err := from.Ask("10.96.0.10:8080"); err != nil || got != "dns" {
			t.Errorf("%s: %q %v", from.Name, got, err)
		}
	}
}
