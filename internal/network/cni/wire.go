package cni

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// hostMAC is the hardware address of every host end: each has its own link, so
// nothing can confuse them, and a pod's neighbour entry is the same everywhere.
// Locally administered; the last four bytes are the gateway's address.
var hostMAC = net.HardwareAddr{0x0a, 0x58, 169, 254, 1, 1}

// wire is a pod's link: eth0 in its namespace, the other end on the node.
type wire struct {
	container, ifName string
	netns             string
	addr              netip.Addr
	mtu               int
}

func (w wire) hostName() string { return hostName(w.container, w.ifName) }

// hostName of a pod's link: 15 bytes are allowed (IFNAMSIZ).
func hostName(container, ifName string) string {
	sum := sha256.Sum256([]byte(container + "\x00" + ifName))
	return LinkPrefix + hex.EncodeToString(sum[:5])
}

// podMAC is derived from the address, so that a pod that comes back with it is
// known to its neighbours.
func podMAC(a netip.Addr) net.HardwareAddr {
	return append(net.HardwareAddr{0x0a, 0x58}, a.AsSlice()...)
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func linkError(what string, err error) error {
	return types.NewError(types.ErrInternal, what, err.Error())
}

// up makes the link and both ends' routes and neighbours.
func (w wire) up() (net.HardwareAddr, error) {
	ns, err := netns.GetFromPath(w.netns)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "cannot open the network namespace "+w.netns, err.Error())
	}
	defer ns.Close()
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, linkError("cannot open netlink", err)
	}
	defer host.Close()
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, linkError("cannot open netlink in the pod", err)
	}
	defer pod.Close()
	if w.mtu == 0 {
		w.mtu = inheritedMTU(host)
	}
	if err := w.down(); err != nil { // of an attempt that was interrupted
		return nil, err
	}
	mac := podMAC(w.addr)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = w.hostName(), w.mtu, hostMAC
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: w.ifName, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(ns), PeerMTU: uint32(w.mtu)}
	if err := host.LinkAdd(veth); err != nil {
		return nil, linkError("cannot add a link", err)
	}
	if err := w.podSide(pod); err != nil {
		return nil, err
	}
	return mac, w.hostSide(host)
}

// podSide gives the pod its address and the way out.
func (w wire) podSide(h *netlink.Handle) error {
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		return linkError("cannot set the pod's lo up", err)
	}
	eth, err := h.LinkByName(w.ifName)
	if err != nil {
		return linkError("cannot find the pod's "+w.ifName, err)
	}
	addr := ipNet(netip.PrefixFrom(w.addr, w.addr.BitLen()))
	if err := h.AddrAdd(eth, &netlink.Addr{IPNet: &addr}); err != nil {
		return linkError("cannot add the pod's address", err)
	}
	if err := h.LinkSetUp(eth); err != nil {
		return linkError("cannot set the pod's link up", err)
	}
	gw := net.IP(gatewayAddr().AsSlice())
	if err := h.NeighSet(&netlink.Neigh{LinkIndex: eth.Attrs().Index, State: netlink.NUD_PERMANENT, IP: gw, HardwareAddr: hostMAC}); err != nil {
		return linkError("cannot set the pod's neighbour", err)
	}
	toGW := ipNet(netip.PrefixFrom(gatewayAddr(), 32))
	if err := h.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: &toGW, Scope: netlink.SCOPE_LINK}); err != nil {
		return linkError("cannot add the pod's route to its gateway", err)
	}
	all := ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	if err := h.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: &all, Gw: gw, Src: w.addr.AsSlice()}); err != nil {
		return linkError("cannot add the pod's default route", err)
	}
	return nil
}

// hostSide leads the pod's address to the link. Strict reverse path filtering
// keeps the pod from sending under another's address.
func (w wire) hostSide(h *netlink.Handle) error {
	name := w.hostName()
	for _, s := range [][2]string{
		{"ipv4/conf/" + name + "/rp_filter", "1"},
		{"ipv4/conf/" + name + "/send_redirects", "0"},
		{"ipv6/conf/" + name + "/disable_ipv6", "1"},
	} {
		path := filepath.Join("/proc/sys/net", s[0])
		if err := os.WriteFile(path, []byte(s[1]), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return linkError("cannot set "+path, err)
		}
	}
	link, err := h.LinkByName(name)
	if err != nil {
		return linkError("cannot find the link", err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return linkError("cannot set the link up", err)
	}
	if err := h.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: w.addr.AsSlice(), HardwareAddr: podMAC(w.addr)}); err != nil {
		return linkError("cannot set the node's neighbour", err)
	}
	if err := h.RouteReplace(w.hostRoute(link)); err != nil {
		return linkError("cannot add the node's route", err)
	}
	return nil
}

func (w wire) hostRoute(link netlink.Link) *netlink.Route {
	dst := ipNet(netip.PrefixFrom(w.addr, w.addr.BitLen()))
	return &netlink.Route{LinkIndex: link.Attrs().Index, Dst: &dst, Scope: netlink.SCOPE_LINK, Protocol: RouteProtocol}
}

// down removes the link, and with it both ends' routes and neighbours.
func (w wire) down() error {
	link, err := netlink.LinkByName(w.hostName())
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return linkError("cannot delete the link "+w.hostName(), err)
	}
	return nil
}

// check compares the link with what up made.
func (w wire) check() error {
	link, err := netlink.LinkByName(w.hostName())
	if err != nil {
		return linkError("the node's end of the link is missing", err)
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, w.hostRoute(link), netlink.RT_FILTER_DST|netlink.RT_FILTER_OIF)
	if err != nil {
		return linkError("cannot list routes", err)
	}
	if len(routes) == 0 {
		return types.NewError(types.ErrInternal, "the node has no route to the pod", w.addr.String())
	}
	ns, err := netns.GetFromPath(w.netns)
	if err != nil {
		return linkError("cannot open the network namespace "+w.netns, err)
	}
	defer ns.Close()
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return linkError("cannot open netlink in the pod", err)
	}
	defer pod.Close()
	eth, err := pod.LinkByName(w.ifName)
	if err != nil {
		return linkError("the pod's end of the link is missing", err)
	}
	addrs, err := pod.AddrList(eth, netlink.FAMILY_V4)
	if err != nil {
		return linkError("cannot list the pod's addresses", err)
	}
	for _, a := range addrs {
		if a.IP.Equal(w.addr.AsSlice()) {
			return nil
		}
	}
	return types.NewError(types.ErrInternal, fmt.Sprintf("the pod's %s has lost its address", w.ifName), w.addr.String())
}

// defaultMTU is Ethernet's, for a node without a default route.
const defaultMTU = 1500

// outside is an address that hardly any network has (RFC 1112: reserved): a packet
// to it goes the way that packets leave the node.
var outside = net.IPv4(240, 0, 0, 1)

// inheritedMTU is that of the link that leads out. The kernel is asked for the one
// route: there are as many as pods. All are looked at where it has none.
func inheritedMTU(h *netlink.Handle) int {
	routes, err := h.RouteGet(outside)
	if err == nil {
		if mtu := mtuOf(h, routes); mtu > 0 {
			return mtu
		}
	}
	if routes, err = h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST); err != nil {
		return defaultMTU
	}
	return cmp.Or(mtuOf(h, routes), defaultMTU)
}

// mtuOf the first link of routes that leads somewhere.
func mtuOf(h *netlink.Handle, routes []netlink.Route) int {
	for _, r := range routes {
		if link, err := h.LinkByIndex(r.LinkIndex); err == nil && link.Attrs().Flags&net.FlagLoopback == 0 && link.Attrs().MTU > 0 {
			return link.Attrs().MTU
		}
	}
	return 0
}

// IsHostEnd reports whether a link with this hardware address is one that the
// plugin made.
func IsHostEnd(a net.HardwareAddr) bool { return a.String() == hostMAC.String() }
