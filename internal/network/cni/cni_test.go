package cni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/network/nettest"
)

// TestMain lets the test binary be the plugin, as the knarr binary is.
func TestMain(m *testing.M) {
	if Called(os.Args[0]) {
		os.Exit(Main())
	}
	os.Exit(m.Run())
}

// node is a host with the plugin installed.
type node struct {
	*nettest.Host
	bin, conf, data string
}

func newNode(t *testing.T, podCIDR string) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{Host: nettest.New(t, "node"), bin: filepath.Join(dir, "bin"), data: filepath.Join(dir, "data")}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // installing twice is fine
		if err := Install(n.bin, exe); err != nil {
			t.Fatal(err)
		}
	}
	confDir := filepath.Join(dir, "net.d")
	if err := WriteConf(confDir, podCIDR, n.data, 0); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(confDir, ConfFile))
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		CNIVersion, Name string
		Plugins          []map[string]any
	}
	if err := json.Unmarshal(data, &list); err != nil || len(list.Plugins) != 1 {
		t.Fatalf("%s: %v", data, err)
	}
	list.Plugins[0]["cniVersion"], list.Plugins[0]["name"] = list.CNIVersion, list.Name
	delete(list.Plugins[0], "capabilities")
	data, err = json.Marshal(list.Plugins[0])
	if err != nil {
		t.Fatal(err)
	}
	n.conf = string(data)
	n.Sysctl(t, "net/ipv4/ip_forward", "1")
	return n
}

// with adds fields to the configuration, as a runtime does.
func (n *node) with(t *testing.T, fields map[string]any) string {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal([]byte(n.conf), &c); err != nil {
		t.Fatal(err)
	}
	for k, v := range fields {
		c[k] = v
	}
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// call executes the plugin in the node's namespace.
func (n *node) call(cmd, container, netns, conf string) (string, error) {
	var out bytes.Buffer
	err := n.Try(func() error {
		c := exec.Command(filepath.Join(n.bin, Plugin))
		c.Env = []string{"CNI_COMMAND=" + cmd, "CNI_CONTAINERID=" + container, "CNI_NETNS=" + netns, "CNI_IFNAME=eth0", "CNI_PATH=" + n.bin}
		c.Stdin, c.Stdout, c.Stderr = strings.NewReader(conf), &out, &out
		return c.Run()
	})
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out.String())
	}
	return out.String(), err
}

func (n *node) add(t *testing.T, pod *nettest.Host, conf string) netip.Addr {
	t.Helper()
	out, err := n.call("ADD", pod.Name, pod.Path(), conf)
	if err != nil {
		t.Fatalf("ADD %s: %v", pod.Name, err)
	}
	var r current.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.IPs) != 1 || len(r.Interfaces) != 2 {
		t.Fatalf("ADD %s: %s: %v", pod.Name, out, err)
	}
	a, _ := netip.AddrFromSlice(r.IPs[0].Address.IP.To4())
	return a
}

// state is all that the plugin may leave on a node.
func (n *node) state(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	n.Do(t, func() error {
		for _, args := range []string{"-o link show", "route show table all", "neigh show nud permanent"} {
			out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("ip %s: %w: %s", args, err, out)
			}
			b.Write(out)
		}
		return nil
	})
	files, _ := filepath.Glob(filepath.Join(n.data, "addresses", "*"))
	fmt.Fprintln(&b, len(files))
	return b.String()
}

func TestTwoPods(t *testing.T) {
	n := newNode(t, "10.244.7.0/24")
	world := nettest.New(t, "world")
	nettest.Wire(t, n.Host, "eth0", "192.0.2.1/24", world, "eth0", "192.0.2.9/24")
	n.Route(t, "0.0.0.0/0", "192.0.2.9")
	n.Do(t, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1380)
	})
	before := n.state(t)
	a, b := nettest.New(t, "pod-a"), nettest.New(t, "pod-b")
	ipA, ipB := n.add(t, a, n.conf), n.add(t, b, n.conf)
	if ipA == ipB || !netip.MustParsePrefix("10.244.7.0/24").Contains(ipA) {
		t.Fatalf("addresses %s and %s", ipA, ipB)
	}
	a.Serve(t, "a", ":80")
	b.Serve(t, "b", ":80")
	n.Serve(t, "node", ":81")
	for _, c := range []struct {
		from *nettest.Host
		to   string
		want string
		seen netip.Addr
	}{
		{a, ipB.String() + ":80", "b", ipA}, {b, ipA.String() + ":80", "a", ipB}, {a, ipA.String() + ":80", "a", ipA},
		{n.Host, ipA.String() + ":80", "a", netip.MustParseAddr("192.0.2.1")}, {a, "192.0.2.1:81", "node", ipA}, {a, "127.0.0.1:80", "a", netip.MustParseAddr("127.0.0.1")},
	} {
		if got, seen, err := c.from.Ask(c.to); err != nil || got != c.want || seen != c.seen.String() {
			t.Errorf("%s to %s: answered by %q, seen as %s, %v", c.from.Name, c.to, got, seen, err)
		}
		if got, _, err := c.from.AskUDP(c.to, 0); err != nil || got != c.want {
			t.Errorf("%s to %s by UDP: answered by %q, %v", c.from.Name, c.to, got, err)
		}
	}
	a.Do(t, func() error {
		l, err := netlink.LinkByName("eth0")
		if err == nil && l.Attrs().MTU != 1380 {
			err = fmt.Errorf("MTU %d was not inherited", l.Attrs().MTU)
		}
		return err
	})
	// A pod cannot send under another's address.
	a.Addr(t, "eth0", ipB.String()+"/32")
	var sink net.PacketConn
	n.Do(t, func() (err error) { sink, err = net.ListenPacket("udp4", "192.0.2.1:82"); return err })
	defer sink.Close()
	for _, from := range []netip.Addr{ipB, ipA} { // in this order
		a.Do(t, func() error {
			c, err := net.DialUDP("udp4", &net.UDPAddr{IP: from.AsSlice()}, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 82})
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("x"))
			return err
		})
	}
	if err := sink.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, from, err := sink.ReadFrom(make([]byte, 9)); err != nil || !strings.HasPrefix(from.String(), ipA.String()+":") {
		t.Errorf("the first packet to arrive is from %v, not %s: %v", from, ipA, err)
	}

	// ADD again, as after a lost answer, gives the same; CHECK agrees.
	out, err := n.call("ADD", b.Name, b.Path(), n.conf)
	if err != nil || !strings.Contains(out, ipB.String()+"/32") {
		t.Errorf("second ADD: %s %v", out, err)
	}
	var prev map[string]any
	if err := json.Unmarshal([]byte(out), &prev); err != nil {
		t.Fatal(err)
	}
	checked := n.with(t, map[string]any{"prevResult": prev})
	if _, err := n.call("CHECK", b.Name, b.Path(), checked); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	for range 2 { // DEL of what is gone succeeds
		for _, p := range []*nettest.Host{a, b} {
			if _, err := n.call("DEL", p.Name, "", n.conf); err != nil {
				t.Errorf("DEL: %v", err)
			}
		}
	}
	if _, err := n.call("CHECK", b.Name, b.Path(), checked); err == nil {
		t.Error("CHECK of a deleted pod succeeds")
	}
	if after := n.state(t); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}

func TestHostPorts(t *testing.T) {
	n := newNode(t, "10.244.7.0/24")
	world := nettest.New(t, "world")
	nettest.Wire(t, n.Host, "eth0", "192.0.2.1/24", world, "eth0", "192.0.2.9/24")
	n.Addr(t, "eth0", "192.0.2.2/24")
	web, other := nettest.New(t, "web"), nettest.New(t, "other")
	ports := n.with(t, map[string]any{"runtimeConfig": map[string]any{"portMappings": []PortMapping{
		{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}, {HostPort: 8080, ContainerPort: 80, Protocol: "udp"},
		{HostPort: 8081, ContainerPort: 80, Protocol: "tcp", HostIP: "192.0.2.2"}, {HostPort: 8082, ContainerPort: 80, Protocol: "tcp", HostIP: "127.0.0.1"}, {HostPort: 0, ContainerPort: 99, Protocol: "tcp"},
	}}})
	webIP := n.add(t, web, ports)
	otherIP := n.add(t, other, n.conf)
	web.Serve(t, "web", ":80")
	for _, c := range []struct {
		from *nettest.Host
		to   string
		ok   bool
		seen string
	}{
		{world, "192.0.2.1:8080", true, "192.0.2.9"}, {other, "192.0.2.1:8080", true, otherIP.String()}, {n.Host, "192.0.2.1:8080", true, "192.0.2.1"},
		{web, "192.0.2.1:8080", true, ""}, // to itself: only works masqueraded
		{world, "192.0.2.2:8081", true, "192.0.2.9"}, {world, "192.0.2.1:8081", false, ""}, {n.Host, "127.0.0.1:8080", true, ""},
		{n.Host, "127.0.0.1:8082", true, ""}, {world, "192.0.2.1:8082", false, ""}, {n.Host, "192.0.2.1:8082", false, ""},
	} {
		ask := c.from.Ask
		if !c.ok {
			ask = c.from.Peek
		}
		got, seen, err := ask(c.to)
		if (err == nil) != c.ok || (c.ok && got != "web") || (c.seen != "" && seen != c.seen) {
			t.Errorf("%s to %s: %q seen as %s, %v", c.from.Name, c.to, got, seen, err)
		}
	}
	if got, _, err := world.AskUDP("192.0.2.1:8080", 4000); err != nil || got != "web" {
		t.Errorf("UDP: %q %v", got, err)
	}
	// Only the node itself has its loopback: CVE-2020-8558.
	n.Serve(t, "secret", "127.0.0.1:99")
	web.LeadLoopback(t, "via "+gatewayAddr().String()+" dev eth0 src "+webIP.String())
	world.LeadLoopback(t, "via 192.0.2.1 dev eth0 src 192.0.2.9")
	for _, from := range []*nettest.Host{web, world} {
		for _, port := range []string{"99", "8082"} {
			if got, _, err := from.Peek("127.0.0.1:" + port); err == nil {
				t.Errorf("%s reached %s on the node's loopback", from.Name, got)
			}
		}
	}
	// The port is taken.
	third := nettest.New(t, "third")
	if out, err := n.call("ADD", third.Name, third.Path(), ports); err == nil || !strings.Contains(err.Error(), "hostPort") {
		t.Errorf("taken hostPort: %s %v", out, err)
	}
	// nft can print what the plugin wrote.
	n.Do(t, func() error {
		out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "tcp . 8080 : "+webIP.String()+" . 80") {
			return fmt.Errorf("nft list: %w: %s", err, out)
		}
		return nil
	})
	if _, err := n.call("DEL", web.Name, web.Path(), ports); err != nil {
		t.Fatal(err)
	}
	if _, _, err := world.Peek("192.0.2.1:8080"); err == nil {
		t.Error("the hostPort still answers after DEL")
	}
	// The next pod gets the port, and a UDP client that goes on from the same
	// port reaches it.
	next := nettest.New(t, "next")
	n.add(t, next, ports)
	next.Serve(t, "next", ":80")
	if got, _, err := world.AskUDP("192.0.2.1:8080", 4000); err != nil || got != "next" {
		t.Errorf("UDP after the pod was replaced: %q %v", got, err)
	}
}

// TestMany: concurrent pods get different addresses; a full range says so, and
// addresses whose pods vanished without DEL come back.
func TestMany(t *testing.T) {
	n := newNode(t, "10.244.7.0/28")
	pods := make([]*nettest.Host, 14)
	for i := range pods {
		pods[i] = nettest.New(t, fmt.Sprintf("pod-%d", i))
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	seen := map[netip.Addr]bool{}
	for _, p := range pods {
		wg.Go(func() {
			out, err := n.call("ADD", p.Name, p.Path(), n.conf)
			var r current.Result
			if err == nil {
				err = json.Unmarshal([]byte(out), &r)
			}
			if err != nil || len(r.IPs) != 1 {
				t.Errorf("%s: %v", p.Name, err)
				return
			}
			a, _ := netip.AddrFromSlice(r.IPs[0].Address.IP.To4())
			mu.Lock()
			defer mu.Unlock()
			seen[a] = true
		})
	}
	wg.Wait()
	if len(seen) != len(pods) {
		t.Fatalf("%d addresses for %d pods", len(seen), len(pods))
	}
	extra := nettest.New(t, "extra")
	if _, err := n.call("ADD", extra.Name, extra.Path(), n.conf); err == nil || !strings.Contains(err.Error(), "no address is free") {
		t.Fatalf("a full range: %v", err)
	}
	if _, err := n.call("STATUS", "", "", n.with(t, map[string]any{"cniVersion": "1.1.0"})); err == nil {
		t.Error("STATUS of a full range succeeds")
	}
	// Two pods vanish as after a crash: link gone, no DEL; long ago.
	for _, p := range pods[:2] {
		n.Do(t, wire{container: p.Name, ifName: "eth0"}.down)
		files, _ := filepath.Glob(filepath.Join(n.data, "addresses", "*@"+p.Name+"@eth0"))
		if len(files) != 1 {
			t.Fatal(files)
		}
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(files[0], old, old); err != nil {
			t.Fatal(err)
		}
	}
	n.add(t, extra, n.conf)
	if _, err := n.call("STATUS", "", "", n.with(t, map[string]any{"cniVersion": "1.1.0"})); err != nil {
		t.Errorf("STATUS with a free address: %v", err)
	}
	// GC keeps the valid ones only.
	gc := n.with(t, map[string]any{"cniVersion": "1.1.0", "cni.dev/valid-attachments": []map[string]string{{"containerID": "extra", "ifname": "eth0"}}})
	if _, err := n.call("GC", "", "", gc); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(n.data, "addresses", "*"))
	if len(files) != 1 || !strings.Contains(files[0], "@extra@") {
		t.Errorf("after GC: %v", files)
	}
}

func TestBadInput(t *testing.T) {
	for name, conf := range map[string]string{
		"no CIDR": `{"dataDir":"/x"}`, "IPv6": `{"dataDir":"/x","podCIDR":"fd00::/64"}`, "tiny": `{"dataDir":"/x","podCIDR":"10.0.0.0/31"}`,
		"relative": `{"dataDir":"x","podCIDR":"10.0.0.0/24"}`, "no JSON": `{`,
	} {
		if _, err := parse([]byte(conf)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, m := range []PortMapping{
		{HostPort: 70000, ContainerPort: 80, Protocol: "tcp"}, {HostPort: 80, ContainerPort: 0, Protocol: "tcp"}, {HostPort: 80, ContainerPort: 80, Protocol: "icmp"},
		{HostPort: 80, ContainerPort: 80, Protocol: "tcp", HostIP: "::1"}, {HostPort: 80, ContainerPort: 80, Protocol: "tcp", HostIP: "x"},
	} {
		if _, err := portsTable().entries([]PortMapping{m}, netip.MustParseAddr("10.0.0.2")); err == nil {
			t.Errorf("accepted %+v", m)
		}
	}
}

// TestPool: whatever the order of calls, nobody shares an address, and
// everybody who has one keeps it.
func TestPool(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		p := pool{dir: dir, prefix: netip.MustParsePrefix("10.1.2.16/29")}
		have := map[string]netip.Addr{}
		t.Repeat(map[string]func(*rapid.T){
			"allocate": func(t *rapid.T) {
				c := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h"}).Draw(t, "container")
				a, err := p.allocate(c, "eth0")
				if err != nil {
					if len(have) != 6 {
						t.Fatalf("refused with %d of 6 given: %v", len(have), err)
					}
					return
				}
				if old, ok := have[c]; ok && old != a {
					t.Fatalf("%s had %s, now %s", c, old, a)
				}
				for other, addr := range have {
					if other != c && addr == a {
						t.Fatalf("%s and %s share %s", c, other, a)
					}
				}
				if !p.prefix.Contains(a) || a == p.prefix.Addr() || a == lastAddr(p.prefix) {
					t.Fatalf("gave %s", a)
				}
				have[c] = a
			},
			"release": func(t *rapid.T) {
				c := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h"}).Draw(t, "container")
				if err := p.release(c, "eth0"); err != nil {
					t.Fatal(err)
				}
				delete(have, c)
			},
			"": func(t *rapid.T) {
				if n, err := p.free(); err != nil || n != 6-len(have) {
					t.Fatalf("free says %d with %d of 6 given: %v", n, len(have), err)
				}
			},
		})
	})
}
