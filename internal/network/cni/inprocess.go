package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
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
func (n *Network) Attach(_ context.Context, id, netns string, ports []*runtimeapi.PortMapping) ([]netip.Addr, error) {
	if err := n.Ready(); err != nil {
		return nil, err
	}
	if err := setUp(netns); err != nil {
		return nil, err
	}
	c := n.conf()
	for _, p := range ports {
		if p.HostPort == 0 {
			continue
		}
		c.RuntimeConfig.PortMappings = append(c.RuntimeConfig.PortMappings, PortMapping{HostPort: int(p.HostPort), ContainerPort: int(p.ContainerPort),
			Protocol: map[runtimeapi.Protocol]string{runtimeapi.Protocol_UDP: "udp", runtimeapi.Protocol_SCTP: "sctp"}[p.Protocol], HostIP: p.HostIp})
	}
	for i := range c.RuntimeConfig.PortMappings {
		if m := &c.RuntimeConfig.PortMappings[i]; m.Protocol == "" {
			m.Protocol = "tcp"
		}
	}
	addr, _, err := c.attach(id, ifName, netns)
	if err != nil {
		return nil, err
	}
	return []netip.Addr{addr}, nil
}

// Detach takes back what Attach gave.
func (n *Network) Detach(_ context.Context, id, _ string) error { return n.conf().detach(id, ifName) }
