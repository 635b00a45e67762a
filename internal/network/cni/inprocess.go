package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
)

// Network wires pods from within knarr, as the plugin does and with its
// records: a node may change from one to the other.
type Network struct {
	dataDir string
	mtu     int
	prefix  atomic.Pointer[netip.Prefix]
}

// InProcess makes a network whose range is not known yet.
func InProcess(dataDir string, mtu int) *Network { return &Network{dataDir: dataDir, mtu: mtu} }

// ifName of pods' links.
const ifName = "eth0"

var errNoRange = errors.New("the range of this node's pods is not known yet")

// SetRange says which addresses pods have from now on.
func (n *Network) SetRange(p netip.Prefix) error {
	if !p.Addr().Is4() || p.Bits() > 30 {
		return fmt.Errorf("cannot configure the pod network: %s is not an IPv4 prefix of at most 30 bits", p)
	}
	p = p.Masked()
	n.prefix.Store(&p)
	return nil
}

// Ready is nil once pods can be wired.
func (n *Network) Ready() error {
	if n.prefix.Load() == nil {
		return errNoRange
	}
	return nil
}

func (n *Network) conf() *Conf {
	c := &Conf{DataDir: n.dataDir, MTU: n.mtu}
	if p := n.prefix.Load(); p != nil {
		c.prefix = *p
	}
	return c
}

// Attach gives a network namespace its address and ports.
func (n *Network) Attach(id, netns string, ports []PortMapping) (netip.Addr, error) {
	if err := n.Ready(); err != nil {
		return netip.Addr{}, err
	}
	if err := setUp(netns); err != nil {
		return netip.Addr{}, err
	}
	c := n.conf()
	c.RuntimeConfig.PortMappings = ports
	addr, _, err := c.attach(id, ifName, netns)
	return addr, err
}

// Detach takes back what Attach gave; that there is nothing is fine.
func (n *Network) Detach(id string) error { return n.conf().detach(id, ifName) }
