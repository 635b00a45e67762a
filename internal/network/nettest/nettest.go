// Package nettest gives tests network namespaces with real traffic: hosts,
// wires between them, servers that say who they are. Only tests import it.
package nettest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// NeedRoot skips the test, with a message, where namespaces cannot be made.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
}

// Host is one network namespace.
type Host struct {
	Name string
	ns   netns.NsHandle
}

// New makes a host with lo up. It goes with the test.
func New(t testing.TB, name string) *Host {
	t.Helper()
	NeedRoot(t)
	h := &Host{Name: name}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.New()
		h.ns = ns
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("cannot make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = h.ns.Close() })
	h.Do(t, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return h
}

// Path of the namespace, for programs of this process.
func (h *Host) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(h.ns)) }

// Try runs fn in the namespace. Sockets and processes that it makes stay there.
func (h *Host) Try(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(h.ns); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

// Do is Try for what must not fail.
func (h *Host) Do(t testing.TB, fn func() error) {
	t.Helper()
	if err := h.Try(fn); err != nil {
		t.Fatalf("%s: %v", h.Name, err)
	}
}

// Wire connects two hosts by a link and waits until it carries. Addresses are
// prefixes, "" for none; the link has none of IPv6, which come late and by
// themselves.
func Wire(t testing.TB, a *Host, aLink, aAddr string, b *Host, bLink, bAddr string) {
	t.Helper()
	a.Do(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = aLink
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: bLink, PeerNamespace: netlink.NsFd(b.ns)})
	})
	a.Sysctl(t, "net/ipv6/conf/"+aLink+"/disable_ipv6", "1")
	b.Sysctl(t, "net/ipv6/conf/"+bLink+"/disable_ipv6", "1")
	a.Addr(t, aLink, aAddr)
	b.Addr(t, bLink, bAddr)
	Within(t, "the link is up", func() bool { return a.carries(t, aLink) && b.carries(t, bLink) })
}

// carries tells whether the kernel has taken note of a link's carrier, which
// it does in its own time.
func (h *Host) carries(t testing.TB, link string) (up bool) {
	t.Helper()
	h.Do(t, func() error {
		l, err := netlink.LinkByName(link)
		up = err == nil && l.Attrs().OperState == netlink.OperUp
		return err
	})
	return up
}

// Addr sets a link up and gives it an address.
func (h *Host) Addr(t testing.TB, link, addr string) {
	t.Helper()
	h.Do(t, func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		if addr != "" {
			a, err := netlink.ParseAddr(addr)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(l, a); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	})
}

// Route sends dst to via.
func (h *Host) Route(t testing.TB, dst, via string) {
	t.Helper()
	h.Do(t, func() error {
		_, n, err := net.ParseCIDR(dst)
		if err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{Dst: n, Gw: net.ParseIP(via)})
	})
}

// Sysctl sets a value below /proc/sys.
func (h *Host) Sysctl(t testing.TB, name, value string) {
	t.Helper()
	h.Do(t, func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0) })
}

// LeadLoopback makes the host send what is for 127.0.0.0/8 by a route.
func (h *Host) LeadLoopback(t testing.TB, route string) {
	t.Helper()
	h.Sysctl(t, "net/ipv4/conf/all/route_localnet", "1")
	h.Do(t, func() error {
		for _, args := range []string{"addr del 127.0.0.1/8 dev lo", "route replace 127.0.0.0/8 " + route} {
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %s: %w: %s", args, err, out)
			}
		}
		return nil
	})
}

// Serve answers each TCP connection and UDP packet at addr with
// "name peer-address\n", until the test ends or stop is called.
func (h *Host) Serve(t testing.TB, name, addr string) (stop func()) {
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	h.Do(t, func() (err error) {
		if l, err = net.Listen("tcp4", addr); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp4", addr)
		return err
	})
	stop = func() { _, _ = l.Close(), p.Close() }
	t.Cleanup(stop)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "%s %s\n", name, hostOf(c.RemoteAddr()))
				_, _ = bufio.NewReader(c).ReadString('\n') // the client closes first: no TIME_WAIT here
			}()
		}
	}()
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo([]byte(name+" "+hostOf(from)), from)
		}
	}()
	return stop
}

func hostOf(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	return ap.Addr().String()
}

const (
	// patience with who should answer, or with what should happen: nobody
	// waits so long but on a machine that is very busy.
	patience = time.Minute
	// glance is how long somebody is waited for who should not answer, or who
	// will be asked again.
	glance = 700 * time.Millisecond
)

// Ask opens a TCP connection from the host and returns who answered and under
// which address the server saw the client.
func (h *Host) Ask(addr string) (server, client string, err error) { return h.ask(addr, patience) }

func (h *Host) ask(addr string, d time.Duration) (server, client string, err error) {
	err = h.Try(func() error {
		c, err := net.DialTimeout("tcp4", addr, d)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(d)); err != nil {
			return err
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		server, client, _ = strings.Cut(strings.TrimSpace(line), " ")
		return err
	})
	return server, client, err
}

// Peek is Ask without patience, for those who should not answer, and for loops.
func (h *Host) Peek(addr string) (server, client string, err error) { return h.ask(addr, glance) }

// AskUDP is Ask by one packet from a port (0: any).
func (h *Host) AskUDP(addr string, port int) (server, client string, err error) {
	return h.askUDP(addr, port, patience)
}

// PeekUDP is Peek by one packet from a port (0: any).
func (h *Host) PeekUDP(addr string, port int) (server, client string, err error) {
	return h.askUDP(addr, port, glance)
}

func (h *Host) askUDP(addr string, port int, d time.Duration) (server, client string, err error) {
	err = h.Try(func() error {
		to, err := net.ResolveUDPAddr("udp4", addr)
		if err != nil {
			return err
		}
		c, err := net.DialUDP("udp4", &net.UDPAddr{Port: port}, to)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("?")); err != nil {
			return err
		}
		if err := c.SetDeadline(time.Now().Add(d)); err != nil {
			return err
		}
		buf := make([]byte, 256)
		n, err := c.Read(buf)
		server, client, _ = strings.Cut(string(buf[:n]), " ")
		return err
	})
	return server, client, err
}

// Silent reports whether err says that nobody answered at all.
func Silent(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// Within waits for a condition that other threads bring about.
func Within(t testing.TB, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > patience {
			t.Fatalf("not within %s: %s", patience, what)
		}
		<-tick.C
	}
	return time.Since(began)
}

// Dial connects from the host, for clients that take a dialer.
func (h *Host) Dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	err = h.Try(func() error {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}
