package cni

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/network/nft"
)

// PortsTable holds hostPorts. It is the plugin's own and not the proxy's: the
// proxy may replace its table as a whole, while these entries live as long as
// their pods, with or without a running knarr.
const PortsTable = "knarr-hostports"

const family = nftables.TableFamilyIPv4

// ports are the table's maps: hostPorts on every address of the node, those on
// one address, and which pods may meet themselves through their own.
type ports struct {
	table              *nftables.Table
	any, byAddr, loops *nftables.Set
}

// hairpinBefore is the priority of the masquerading chain.
const afterServices = -99

func portsTable() ports {
	t := &nftables.Table{Family: family, Name: PortsTable}
	target := nft.Concat(nftables.TypeIPAddr, nftables.TypeInetService)
	set := func(name string, key nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: t, Name: name, Concatenation: true, KeyType: key, KeyByteOrder: binaryutil.BigEndian}
	}
	p := ports{
		table:  t,
		any:    set("ports", nft.Concat(nftables.TypeInetProto, nftables.TypeInetService)),
		byAddr: set("addrports", nft.Concat(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)),
		loops:  set("hairpin", nft.Concat(nftables.TypeIPAddr, nftables.TypeIPAddr)),
	}
	for _, m := range []*nftables.Set{p.any, p.byAddr} {
		m.IsMap, m.DataType = true, target
	}
	return p
}

// guardChain is what opens the node's loopback to its pods' links without
// opening it to pods: the kernel's own guard is off there (route_localnet).
const guardChain = "guard"

// ensure makes the table in one transaction if it is not there.
func (p ports) ensure(c *nftables.Conn) error {
	ok, err := nft.TableExists(c, family, PortsTable)
	if err != nil {
		return err
	}
	if ok { // maybe by an older version
		chains, err := c.ListChainsOfTableFamily(family)
		if err != nil || slices.ContainsFunc(chains, func(ch *nftables.Chain) bool { return ch.Table.Name == PortsTable && ch.Name == guardChain }) {
			return err
		}
		p.guard(c)
		return p.flush(c)
	}
	c.AddTable(p.table)
	for _, s := range []*nftables.Set{p.any, p.byAddr, p.loops} {
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	dispatch := c.AddChain(&nftables.Chain{Table: p.table, Name: "dispatch"})
	rule := func(chain *nftables.Chain, exprs ...expr.Any) {
		c.AddRule(&nftables.Rule{Table: p.table, Chain: chain, Exprs: exprs})
	}
	rule(dispatch, nft.DestAddr(family, 0), nft.Proto(1), nft.DestPort(2), nft.Map(0, p.byAddr, 4), nft.DNAT(family, 4, 5))
	rule(dispatch, append(nft.Local(), nft.Proto(0), nft.DestPort(1), nft.Map(0, p.any, 4), nft.DNAT(family, 4, 5))...)
	for _, hook := range []struct {
		name string
		num  *nftables.ChainHook
	}{{"prerouting", nftables.ChainHookPrerouting}, {"output", nftables.ChainHookOutput}} {
		base := c.AddChain(&nftables.Chain{Table: p.table, Name: hook.name, Type: nftables.ChainTypeNAT, Hooknum: hook.num, Priority: nftables.ChainPriorityRef(afterServices)})
		rule(base, nft.Jump(dispatch.Name))
	}
	post := c.AddChain(&nftables.Chain{Table: p.table, Name: "postrouting", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	rule(post, nft.SourceAddr(family, 0), nft.DestAddr(family, 1), nft.In(0, p.loops), &expr.Masq{})
	p.guard(c)
	return p.flush(c)
}

func (p ports) flush(c *nftables.Conn) error {
	if err := c.Flush(); err != nil {
		if exists, _ := nft.TableExists(c, family, PortsTable); exists {
			return nil // another pod's ADD was quicker
		}
		return fmt.Errorf("cannot create table %s: %w", PortsTable, err)
	}
	return nil
}

// guard adds what hostPorts on loopback addresses take: what goes from there to
// a pod has an address that the pod can answer to, and what comes to or from
// there by a link is dropped (CVE-2020-8558).
func (p ports) guard(c *nftables.Conn) {
	loopback := func(offset uint32, op expr.CmpOp) []expr.Any { // by an address's first byte
		return []expr.Any{&expr.Payload{DestRegister: nft.R(0), Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 1},
			&expr.Cmp{Op: op, Register: nft.R(0), Data: []byte{127}}}
	}
	const source, dest = 12, 16 // in the header of IPv4
	guard := c.AddChain(&nftables.Chain{Table: p.table, Name: guardChain, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
	for _, offset := range []uint32{source, dest} {
		exprs := []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: nft.R(0)},
			nft.NotEqual(0, binary.NativeEndian.AppendUint16(nil, unix.ARPHRD_LOOPBACK))}
		c.AddRule(&nftables.Rule{Table: p.table, Chain: guard, Exprs: slices.Concat(exprs, loopback(offset, expr.CmpOpEq), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})})
	}
	post := c.AddChain(&nftables.Chain{Table: p.table, Name: "loopback", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	c.AddRule(&nftables.Rule{Table: p.table, Chain: post, Exprs: slices.Concat(loopback(source, expr.CmpOpEq), loopback(dest, expr.CmpOpNeq), []expr.Any{&expr.Masq{}})})
}

// protocols by their name in port mappings.
var protocols = map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}

// entry of one mapping: the map and the element.
type entry struct {
	set  *nftables.Set
	elem nftables.SetElement
}

func (p ports) entries(mappings []PortMapping, pod netip.Addr) ([]entry, error) {
	var out []entry
	for _, m := range mappings {
		if m.HostPort == 0 {
			continue // only declared, not asked for
		}
		proto, ok := protocols[m.Protocol]
		if m.HostPort < 0 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535 || !ok {
			return nil, types.NewError(types.ErrInvalidNetworkConfig, "malformed port mapping", fmt.Sprintf("%+v", m))
		}
		val := nft.AppendPort(nft.AppendAddr(nil, pod), uint16(m.ContainerPort))
		set, key := p.any, []byte(nil)
		if m.HostIP != "" {
			ip, err := netip.ParseAddr(m.HostIP)
			if err != nil {
				return nil, types.NewError(types.ErrInvalidNetworkConfig, "malformed host address", m.HostIP)
			}
			switch {
			case ip.Is6() && ip.IsLoopback():
				return nil, types.NewError(types.ErrInvalidNetworkConfig, "a hostPort cannot be on an IPv6 address of loopback", m.HostIP)
			case ip.Is4() && !ip.IsUnspecified():
				set, key = p.byAddr, nft.AppendAddr(nil, ip)
			case !ip.Is4() && !ip.IsUnspecified():
				continue // the pod has no IPv6 address that it could lead to
			}
		}
		key = nft.AppendPort(nft.AppendProto(key, proto), uint16(m.HostPort))
		out = append(out, entry{set, nftables.SetElement{Key: key, Val: val}})
	}
	return out, nil
}

// mapPorts leads the hostPorts to the pod behind a link.
func mapPorts(mappings []PortMapping, pod netip.Addr, link string) error {
	if len(mappings) == 0 {
		return nil
	}
	p := portsTable()
	entries, err := p.entries(mappings, pod)
	if err != nil || len(entries) == 0 {
		return err
	}
	c, err := nft.Open()
	if err != nil {
		return linkError("cannot map ports", err)
	}
	defer func() { _ = c.CloseLasting() }()
	if err := p.ensure(c); err != nil {
		return linkError("cannot map ports", err)
	}
	for _, e := range entries {
		if err := c.SetAddElements(e.set, []nftables.SetElement{e.elem}); err != nil {
			return linkError("cannot map ports", err)
		}
	}
	if err := c.SetAddElements(p.loops, []nftables.SetElement{{Key: nft.AppendAddr(nft.AppendAddr(nil, pod), pod)}}); err != nil {
		return linkError("cannot map ports", err)
	}
	if err := c.Flush(); err != nil {
		if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) {
			return types.NewError(types.ErrTryAgainLater, "another pod has the hostPort", err.Error())
		}
		return linkError("cannot map ports", err)
	}
	// What the node itself sends from loopback may leave by that link; the
	// guard stands by now.
	path := filepath.Join("/proc/sys/net/ipv4/conf", link, "route_localnet")
	if err := os.WriteFile(path, []byte("1"), 0); err != nil {
		return linkError("cannot set "+path, err)
	}
	return forgetFlows(entries)
}

// forgetFlows ends UDP flows to the ports that began before they were mapped,
// and would go on to nowhere.
func forgetFlows(entries []entry) error {
	var keys []string
	for _, e := range entries {
		if k := string(e.elem.Key); len(k) >= 8 && k[len(k)-8] == unix.IPPROTO_UDP {
			keys = append(keys, k[len(k)-8:])
		}
	}
	if keys == nil {
		return nil
	}
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, flowFilter(func(f *netlink.ConntrackFlow) bool {
		return slices.Contains(keys, string(nft.AppendPort(nft.AppendProto(nil, f.Forward.Protocol), f.Forward.DstPort)))
	}))
	if err != nil {
		return linkError("cannot end old UDP flows", err)
	}
	return nil
}

// flowFilter picks conntrack entries.
type flowFilter func(*netlink.ConntrackFlow) bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool { return f(flow) }

// unmapPorts removes every mapping that leads to the pod.
func unmapPorts(pod netip.Addr) error {
	c, err := nft.Open()
	if err != nil {
		return linkError("cannot unmap ports", err)
	}
	defer func() { _ = c.CloseLasting() }()
	if ok, err := nft.TableExists(c, family, PortsTable); err != nil || !ok {
		return err
	}
	p := portsTable()
	var gone []entry
	for _, s := range []*nftables.Set{p.any, p.byAddr, p.loops} {
		elems, err := c.GetSetElements(s)
		if err != nil {
			return linkError("cannot list mapped ports", err)
		}
		for _, e := range elems {
			own := e.Val
			if s == p.loops {
				own = e.Key
			}
			if len(own) >= 4 && netip.AddrFrom4([4]byte(own)) == pod {
				gone = append(gone, entry{s, nftables.SetElement{Key: e.Key, Val: e.Val}})
			}
		}
	}
	if len(gone) == 0 {
		return nil
	}
	for _, e := range gone {
		if err := c.SetDeleteElements(e.set, []nftables.SetElement{e.elem}); err != nil {
			return linkError("cannot unmap ports", err)
		}
	}
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return linkError("cannot unmap ports", err)
	}
	return forgetFlows(gone)
}
