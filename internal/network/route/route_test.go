package route

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/network/nettest"
	"knarr.dev/knarr/internal/view"
)

func node(name, ip string, cidrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u-" + metav1.ObjectMeta{Name: name}.UID}}
	n.Spec.PodCIDRs = cidrs
	if len(cidrs) > 0 {
		n.Spec.PodCIDR = cidrs[0]
	}
	if ip != "" {
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: ip}}
	}
	return n
}

var (
	cluster  = netip.MustParsePrefix("10.244.0.0/16")
	services = netip.MustParsePrefix("10.96.0.0/16")
)

func TestPlan(t *testing.T) {
	lan := []OnLink{{netip.MustParsePrefix("192.0.2.0/24"), 2}, {netip.MustParsePrefix("192.0.0.0/16"), 3}}
	for _, c := range []struct {
		name     string
		nodes    []*corev1.Node
		routes   []string
		problems []string
	}{
		{name: "alone", nodes: []*corev1.Node{node("a", "192.0.2.1", "10.244.0.0/24")}},
		{name: "neighbours", nodes: []*corev1.Node{node("c", "192.0.2.3", "10.244.2.0/24"), node("b", "192.0.2.2", "10.244.1.0/24"), node("a", "192.0.2.1", "10.244.0.0/24")},
			routes: []string{"10.244.1.0/24 via 192.0.2.2 link 2", "10.244.2.0/24 via 192.0.2.3 link 2"}},
		{name: "narrowest", nodes: []*corev1.Node{node("b", "192.0.3.2", "10.244.1.0/24")}, routes: []string{"10.244.1.0/24 via 192.0.3.2 link 3"}},
		{name: "young", nodes: []*corev1.Node{node("b", "", "10.244.1.0/24"), node("c", "192.0.2.3")}},
		{name: "far", nodes: []*corev1.Node{node("b", "198.51.100.2", "10.244.1.0/24")}, problems: []string{"b: its address 198.51.100.2 is not on a network"}},
		{name: "foreign range", nodes: []*corev1.Node{node("b", "192.0.2.2", "172.16.0.0/24")}, problems: []string{"b: its pod range 172.16.0.0/24 lies outside"}},
		{name: "everything", nodes: []*corev1.Node{node("b", "192.0.2.2", "0.0.0.0/0")}, problems: []string{"b: its pod range 0.0.0.0/0 lies outside"}},
		{name: "twice", nodes: []*corev1.Node{node("b", "192.0.2.2", "10.244.1.0/24"), node("c", "192.0.2.3", "10.244.1.0/24")},
			routes: []string{"10.244.1.0/24 via 192.0.2.2 link 2"}, problems: []string{"c: its pod range 10.244.1.0/24 is node b's"}},
		{name: "mine", nodes: []*corev1.Node{node("a", "192.0.2.1", "10.244.0.0/24"), node("b", "192.0.2.2", "10.244.0.0/24")}, problems: []string{"b: its pod range 10.244.0.0/24 is node a's"}},
		{name: "loopback", nodes: []*corev1.Node{node("b", "127.0.0.1", "10.244.1.0/24")}},
		{name: "IPv6 only", nodes: []*corev1.Node{node("b", "fd00::2", "fd01::/64")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			routes, problems := Plan(Observed{Nodes: c.nodes, Self: "a", Neighbours: lan, ClusterCIDR: cluster, ServiceCIDR: services})
			var got []string
			for _, r := range routes {
				got = append(got, r.String())
			}
			want := append([]string{"10.96.0.0/16 dev knarr0", "unreachable 10.244.0.0/16"}, c.routes...)
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if len(problems) != len(c.problems) {
				t.Fatalf("problems %v, want %v", problems, c.problems)
			}
			for i, p := range problems {
				if !strings.HasPrefix(p.Node+": "+p.Message, c.problems[i]) {
					t.Errorf("problem %v, want %s", p, c.problems[i])
				}
			}
		})
	}
}

// TestPlanProperties: order does not matter, no range is led to two places,
// and nothing outside of the cluster's ranges is touched.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) *corev1.Node {
			return node(rapid.StringMatching("[a-f]{1,2}").Draw(t, "name"), fmt.Sprintf("192.0.%d.%d", rapid.IntRange(2, 3).Draw(t, "net"), rapid.IntRange(1, 9).Draw(t, "host")),
				fmt.Sprintf("10.%d.%d.0/24", rapid.IntRange(243, 245).Draw(t, "wide"), rapid.IntRange(0, 5).Draw(t, "range")))
		}), 0, 8, func(n *corev1.Node) string { return n.Name }).Draw(t, "nodes")
		o := Observed{Nodes: nodes, Self: "a", Neighbours: []OnLink{{netip.MustParsePrefix("192.0.2.0/24"), 2}}, ClusterCIDR: cluster, ServiceCIDR: services}
		routes, problems := Plan(o)
		o.Nodes = rapid.Permutation(nodes).Draw(t, "order")
		again, pagain := Plan(o)
		if !slices.Equal(routes, again) || !slices.Equal(problems, pagain) {
			t.Fatalf("order matters: %v %v, %v %v", routes, problems, again, pagain)
		}
		seen := map[netip.Prefix]bool{}
		for _, r := range routes {
			if seen[r.Dst] {
				t.Fatalf("two routes to %s", r.Dst)
			}
			seen[r.Dst] = true
			if !within(cluster, r.Dst) && r.Dst != services {
				t.Fatalf("a route to %s", r.Dst)
			}
		}
	})
}

// running is a Router in a host.
type running struct {
	view *view.View
	rev  int64
	stop func()
}

func (r *running) set(nodes ...*corev1.Node) {
	var objs []kinds.Object
	r.rev++
	for _, n := range nodes {
		n = n.DeepCopy()
		n.ResourceVersion = fmt.Sprint(r.rev)
		objs = append(objs, n)
	}
	r.view.Replace(kinds.Node, objs, r.rev)
}

func start(t *testing.T, h *nettest.Host, cfg Config) *running {
	t.Helper()
	v := view.New([]*kinds.Kind{kinds.Node})
	cfg.View, cfg.ClusterCIDR, cfg.ServiceCIDR, cfg.DNS = v, cluster, services, netip.MustParseAddr("10.96.0.10")
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Try(func() error { return r.Run(ctx) }) }()
	out := &running{view: v}
	out.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		done <- nil
	}
	t.Cleanup(out.stop)
	select {
	case <-r.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("Run: %v", err)
	}
	return out
}

// picture of everything that Clean must restore.
func picture(t *testing.T, h *nettest.Host) string {
	t.Helper()
	var b strings.Builder
	h.Do(t, func() error {
		for _, args := range []string{"-o link show", "-o addr show", "route show table all", "rule show"} {
			out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("ip %s: %w: %s", args, err, out)
			}
			b.Write(out)
		}
		names, err := filepath.Glob("/proc/sys/net/ipv4/conf/*/*")
		if err != nil {
			return err
		}
		for _, n := range append(names, "/proc/sys/net/ipv4/ip_forward") {
			if data, err := os.ReadFile(n); err == nil {
				fmt.Fprintf(&b, "%s=%s", n, data)
			}
		}
		return nil
	})
	// Whether a carrier was seen since the test switched the link is luck.
	return regexp.MustCompile(`<[A-Z_,-]*>|state [A-Z]+|linkdown ?`).ReplaceAllString(b.String(), "")
}

func (r *running) has(h *nettest.Host, dst, via string) bool {
	found := false
	_ = h.Try(func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		for _, rt := range routes {
			found = found || (rt.Dst != nil && rt.Dst.String() == dst && rt.Gw.Equal(net.ParseIP(via)))
		}
		return err
	})
	return found
}

func TestTwoNodes(t *testing.T) {
	a, b, gw := nettest.New(t, "a"), nettest.New(t, "b"), nettest.New(t, "gateway")
	nettest.Wire(t, a, "eth0", "192.0.2.1/24", b, "eth0", "192.0.2.2/24")
	nettest.Wire(t, a, "eth1", "198.51.100.1/24", gw, "eth0", "198.51.100.9/24")
	a.Route(t, "0.0.0.0/0", "198.51.100.9")
	a.Do(t, func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/eth1/forwarding", []byte("1"), 0) }) // somebody's own setting
	before := picture(t, a)

	state := filepath.Join(t.TempDir(), "machine.json")
	ranges := make(chan netip.Prefix, 8)
	problems := make(chan []Problem, 8)
	r := start(t, a, Config{NodeName: "a", StateFile: state,
		PodCIDR: func(p netip.Prefix) error { ranges <- p; return nil }, Problems: func(p []Problem) { problems <- p }})
	na, nb := node("a", "192.0.2.1", "10.244.0.0/24"), node("b", "192.0.2.2", "10.244.1.0/24")
	r.set(na, nb)
	if p := <-ranges; p.String() != "10.244.0.0/24" {
		t.Errorf("own range %s", p)
	}
	nettest.Within(t, "a route to b", func() bool { return r.has(a, "10.244.1.0/24", "192.0.2.2") })

	// Traffic to b's pods arrives; what is unknown does not leave the machine.
	rb := start(t, b, Config{NodeName: "b", StateFile: filepath.Join(t.TempDir(), "machine.json")})
	rb.set(na, nb)
	nettest.Within(t, "a route to a", func() bool { return rb.has(b, "10.244.0.0/24", "192.0.2.1") })
	b.Addr(t, "lo", "10.244.1.5/32")
	b.Serve(t, "pod", "10.244.1.5:80")
	if got, seen, err := a.Ask("10.244.1.5:80"); err != nil || got != "pod" || seen != "192.0.2.1" {
		t.Errorf("to b's pod: %q seen as %s: %v", got, seen, err)
	}
	if _, _, err := a.Ask("10.244.77.1:80"); !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("to no node's pod: %v", err)
	}
	gw.Addr(t, "lo", "10.96.3.3/32")
	gw.Serve(t, "leak", "10.96.3.3:80")
	if got, _, err := a.Peek("10.96.3.3:80"); err == nil {
		t.Errorf("a service address without a service was answered by %q", got)
	}
	// The DNS address is local, and nobody's source.
	a.Serve(t, "dns", "10.96.0.10:53")
	if got, _, err := a.Ask("10.96.0.10:53"); err != nil || got != "dns" {
		t.Errorf("DNS address: %q %v", got, err)
	}

	// b moves; then it is far away; then it is gone.
	nb.Status.Addresses[1].Address = "192.0.2.22"
	r.set(na, nb)
	nettest.Within(t, "the new address of b", func() bool { return r.has(a, "10.244.1.0/24", "192.0.2.22") })
	nb.Status.Addresses[1].Address = "203.0.113.2"
	r.set(na, nb)
	if p := <-problems; len(p) != 1 || p[0].Node != "b" {
		t.Errorf("problems: %v", p)
	}
	nb.Status.Addresses[1].Address = "192.0.2.2"
	r.set(na, nb)
	if p := <-problems; len(p) != 0 {
		t.Errorf("problems stay: %v", p)
	}
	// The link goes down and up: its routes come back.
	for _, up := range []bool{false, true} {
		a.Do(t, func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			if up {
				return netlink.LinkSetUp(l)
			}
			return netlink.LinkSetDown(l)
		})
		nettest.Within(t, fmt.Sprintf("route after link up=%t", up), func() bool { return r.has(a, "10.244.1.0/24", "192.0.2.2") == up })
	}
	r.set(na)
	nettest.Within(t, "no route to b", func() bool { return !r.has(a, "10.244.1.0/24", "192.0.2.2") })

	r.stop()
	for range 2 {
		a.Do(t, func() error { return Clean(state) })
	}
	if after := picture(t, a); after != before {
		t.Errorf("before and after differ:\n%s", diff(before, after))
	}
}

func diff(a, b string) string {
	var out strings.Builder
	al, bl := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, l := range al {
		if !slices.Contains(bl, l) {
			out.WriteString("-" + l + "\n")
		}
	}
	for _, l := range bl {
		if !slices.Contains(al, l) {
			out.WriteString("+" + l + "\n")
		}
	}
	return out.String()
}

// TestServiceRanges: further ranges of services get routes, but never one that
// leads others' traffic astray.
func TestServiceRanges(t *testing.T) {
	o := Observed{Self: "a", ClusterCIDR: cluster, ServiceCIDR: services, Neighbours: []OnLink{{netip.MustParsePrefix("192.0.2.0/24"), 2}},
		Nodes: []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "198.51.100.7"}}}}}}
	for text, want := range map[string]bool{
		"203.0.113.0/24": true, "0.0.0.0/0": false, "192.0.2.128/25": false, "192.0.0.0/8": false, "198.51.100.0/24": false, cluster.String(): false, services.String(): false, "fd00::/64": false,
	} {
		p := netip.MustParsePrefix(text)
		o.Services = []netip.Prefix{p}
		routes, problems := Plan(o)
		got := 0
		for _, r := range routes {
			if r.Dst == p && r.Kind == ToServices {
				got++
			}
		}
		if (got == 1 && p != services) != want || len(problems) > 0 {
			t.Errorf("%s: %v", text, routes)
		}
	}
}
