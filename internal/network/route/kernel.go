package route

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/network/cni"
)

// podLink reports whether a link is a pod's: the plugin's business, not ours.
func podLink(name string) bool { return strings.HasPrefix(name, cni.LinkPrefix) && name != LinkName }

// prepare brings forwarding, the link and its address about.
func prepare(cfg Config) error {
	if err := forward(cfg.StateFile); err != nil {
		return err
	}
	link, err := netlink.LinkByName(LinkName)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = LinkName
		// A bridge without ports: a dummy link would do, but not every kernel
		// has them.
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("cannot add link %s: %w", LinkName, err)
		}
		link, err = netlink.LinkByName(LinkName)
	}
	if err != nil {
		return fmt.Errorf("cannot find link %s: %w", LinkName, err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("there is a link %s of type %s that is not ours: rename it", LinkName, link.Type())
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("cannot set link %s up: %w", LinkName, err)
		}
	}
	return prepareAddress(link, cfg.DNS)
}

func prepareAddress(link netlink.Link, dns netip.Addr) error {
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("cannot list addresses of %s: %w", LinkName, err)
	}
	found := false
	for _, a := range have {
		if ip, _ := netip.AddrFromSlice(a.IP.To4()); dns.IsValid() && ip == dns {
			found = true
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("cannot remove address %s of %s: %w", a.IPNet, LinkName, err)
		}
	}
	if found || !dns.IsValid() {
		return nil
	}
	// Scope host: the kernel never chooses it as the source of anything.
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: dns.AsSlice(), Mask: net.CIDRMask(32, 32)}, Scope: int(netlink.SCOPE_HOST)}
	if err := netlink.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot add address %s to %s: %w", dns, LinkName, err)
	}
	return nil
}

// readRoutes returns the ranges that are on-link and the routes that are ours.
func readRoutes() (neighbours []OnLink, ours []netlink.Route, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list links: %w", err)
	}
	pods := map[int]bool{}
	for _, l := range links {
		pods[l.Attrs().Index] = podLink(l.Attrs().Name)
	}
	all, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list routes: %w", err)
	}
	for _, rt := range all {
		switch {
		case pods[rt.LinkIndex]:
		case rt.Protocol == cni.RouteProtocol:
			ours = append(ours, rt)
		case rt.Type == unix.RTN_UNICAST && rt.Scope == netlink.SCOPE_LINK && rt.Gw == nil && rt.Dst != nil:
			if p, ok := prefixOf(rt.Dst); ok {
				neighbours = append(neighbours, OnLink{Prefix: p, Link: rt.LinkIndex})
			}
		}
	}
	return neighbours, ours, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), ok
}

// apply adds what is missing and removes what is not wanted. A failure of one
// route does not keep the others from being set.
func apply(want []Route, have []netlink.Route) error {
	services, err := netlink.LinkByName(LinkName)
	if err != nil {
		return fmt.Errorf("cannot find link %s: %w", LinkName, err)
	}
	var errs []error
	keep := make([]bool, len(have))
	for _, w := range want {
		k := kernelRoute(w, services.Attrs().Index)
		i := slices.IndexFunc(have, func(h netlink.Route) bool { return same(h, k) })
		if i >= 0 {
			keep[i] = true
			continue
		}
		if err := netlink.RouteReplace(&k); err != nil {
			errs = append(errs, fmt.Errorf("cannot set route %s: %w", w, err))
		}
	}
	for i, h := range have {
		replaced := slices.ContainsFunc(want, func(w Route) bool {
			p, ok := prefixOf(h.Dst)
			return ok && p == w.Dst
		})
		if keep[i] || replaced {
			continue
		}
		if err := netlink.RouteDel(&h); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("cannot remove route %s: %w", h.Dst, err))
		}
	}
	return errors.Join(errs...)
}

func kernelRoute(r Route, services int) netlink.Route {
	k := netlink.Route{
		Dst: &net.IPNet{IP: r.Dst.Addr().AsSlice(), Mask: net.CIDRMask(r.Dst.Bits(), 32)}, Protocol: cni.RouteProtocol, Table: unix.RT_TABLE_MAIN,
	}
	switch r.Kind {
	case Unreachable:
		k.Type = unix.RTN_UNREACHABLE
	case ToServices:
		k.Type, k.LinkIndex, k.Scope = unix.RTN_UNICAST, services, netlink.SCOPE_LINK
	default:
		k.Type, k.LinkIndex, k.Gw = unix.RTN_UNICAST, r.Link, r.Via.AsSlice()
	}
	return k
}

func same(a, b netlink.Route) bool {
	pa, _ := prefixOf(a.Dst)
	pb, _ := prefixOf(b.Dst)
	// Unreachable routes are shown on lo by some kernels.
	return pa == pb && a.Type == b.Type && a.Gw.Equal(b.Gw) && (a.LinkIndex == b.LinkIndex || a.Type == unix.RTN_UNREACHABLE)
}

// sysctls below /proc/sys that are changed; forwarding of every single
// interface changes with the first.
const (
	procSys    = "/proc/sys"
	ipForward  = "net/ipv4/ip_forward"
	forwarding = "net/ipv4/conf/%s/forwarding"
)

// forward turns forwarding on and records what it was.
func forward(stateFile string) error {
	if readSysctl(ipForward) == "1" {
		return nil
	}
	if _, err := os.Stat(stateFile); errors.Is(err, fs.ErrNotExist) {
		saved := map[string]string{ipForward: readSysctl(ipForward)}
		names, err := filepath.Glob(filepath.Join(procSys, fmt.Sprintf(forwarding, "*")))
		if err != nil {
			return err
		}
		for _, n := range names {
			rel, err := filepath.Rel(procSys, n)
			if err != nil {
				return err
			}
			saved[rel] = readSysctl(rel)
		}
		data, err := json.MarshalIndent(saved, "", "  ")
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(stateFile), 0o700); err != nil {
			return fmt.Errorf("cannot record the machine's settings: %w", err)
		}
		if err := os.WriteFile(stateFile+".tmp", data, 0o600); err != nil {
			return fmt.Errorf("cannot record the machine's settings: %w", err)
		}
		if err := os.Rename(stateFile+".tmp", stateFile); err != nil {
			return fmt.Errorf("cannot record the machine's settings: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(procSys, ipForward), []byte("1"), 0); err != nil {
		return fmt.Errorf("cannot turn on forwarding (%s): %w", ipForward, err)
	}
	return nil
}

func readSysctl(name string) string {
	data, err := os.ReadFile(filepath.Join(procSys, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// Clean removes every route, link and address of ours, the pods' ones too, and
// restores the recorded settings.
func Clean(stateFile string) error {
	var errs []error
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("cannot list links: %w", err)
	}
	for _, l := range links {
		if !ourLink(l) {
			continue
		}
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("cannot delete link %s: %w", l.Attrs().Name, err))
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: cni.RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		errs = append(errs, fmt.Errorf("cannot list routes: %w", err))
	}
	for _, rt := range routes {
		if err := netlink.RouteDel(&rt); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("cannot remove route %s: %w", rt.Dst, err))
		}
	}
	return errors.Join(append(errs, restore(stateFile))...)
}

// ourLink: knarr0, or a pod's link with the hardware address that only we give.
func ourLink(l netlink.Link) bool {
	name := l.Attrs().Name
	if name == LinkName {
		return l.Type() == "bridge"
	}
	return podLink(name) && l.Type() == "veth" && cni.IsHostEnd(l.Attrs().HardwareAddr)
}

func restore(stateFile string) error {
	data, err := os.ReadFile(stateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot restore the machine's settings: %w", err)
	}
	var saved map[string]string
	if err := json.Unmarshal(data, &saved); err != nil {
		return fmt.Errorf("cannot restore the machine's settings from %s: %w", stateFile, err)
	}
	set := func(name, value string) error {
		err := os.WriteFile(filepath.Join(procSys, name), []byte(value), 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // an interface that has gone since
		}
		return err
	}
	var errs []error
	// First the one that changes all others.
	if v, ok := saved[ipForward]; ok && readSysctl(ipForward) != v {
		errs = append(errs, set(ipForward, v))
	}
	for name, v := range saved {
		known, err := filepath.Match(fmt.Sprintf(forwarding, "*"), name)
		if err != nil || !known { // the file is root's, but it names what is written
			continue
		}
		if readSysctl(name) != v {
			errs = append(errs, set(name, v))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot restore the machine's settings: %w", err)
	}
	return os.Remove(stateFile)
}
