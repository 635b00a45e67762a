package proxy

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/network/nft"
)

// flows says which tracked UDP connections a change may have made wrong. TCP
// notices by itself; a UDP client that goes on sending keeps its entry alive
// for ever, and with it an endpoint that is gone, or the way to nowhere from
// before the service was there.
type flows struct {
	table *Table
	front map[string]bool // frontends to look at
	all   bool            // look at every served one
}

// affected reads a delta; lost reports whether a frontend of any protocol lost
// an endpoint.
func affected(t *Table, d Delta) (f flows, lost bool) {
	f = flows{table: t, front: map[string]bool{}}
	for _, e := range d.Del {
		if e.Set != endpoints && e.Set != nodeEndpoints {
			continue
		}
		front := e.Key[:len(e.Key)-4]
		if t.leads(front, e.Set == nodeEndpoints, e.Val) {
			continue // only its slot changed
		}
		lost = true
		f.front[front] = f.front[front] || protoOf(front) == udp
	}
	for _, e := range d.Add {
		if e.Set == services || e.Set == nodePorts {
			f.front[e.Key] = f.front[e.Key] || protoOf(e.Key) == udp
		}
	}
	return f, lost
}

// protoOf a frontend's key: its last two fields are protocol and port.
func protoOf(front string) uint8 { return front[len(front)-8] }

func (f flows) empty() bool {
	for _, isUDP := range f.front {
		if isUDP {
			return false
		}
	}
	return !f.all
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter: true for
// connections to a frontend that are answered by none of its endpoints.
func (f flows) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	if c.Forward.Protocol != udp {
		return false
	}
	dst, ok1 := netip.AddrFromSlice(c.Forward.DstIP)
	src, ok2 := netip.AddrFromSlice(c.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	answering := target(netip.AddrPortFrom(src.Unmap(), c.Reverse.SrcPort))
	node := string(nft.AppendPort(nft.AppendProto(nil, udp), c.Forward.DstPort))
	addressed := string(dst.Unmap().AsSlice()) + node
	if _, served := f.table.get(elementID{set: services, key: addressed}); served || f.front[addressed] {
		return (f.all || f.front[addressed]) && !f.table.leads(addressed, false, answering)
	}
	_, served := f.table.get(elementID{set: nodePorts, key: node})
	return ((f.all && served) || f.front[node]) && !f.table.leads(node, true, answering)
}

// end deletes the connections.
func (f flows) end() error {
	if f.empty() {
		return nil
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f); err != nil {
		return fmt.Errorf("cannot end UDP flows of endpoints that are gone: %w", err)
	}
	return nil
}
