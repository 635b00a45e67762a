// Package cni is knarr's CNI plugin: the knarr binary called under the name
// knarr-cni. A pod gets one address on a veth whose host end is routed to:
// there is no bridge, so every packet between pods passes the node's routing,
// connection tracking and rules like any other (docs/adr/0002).
//
// Runtimes start it for every pod, so it imports no API types and keeps its
// records in file names.
package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	// Plugin is the name under which the binary is the plugin, and the type
	// in the network configuration.
	Plugin = "knarr-cni"
	// Loopback is the other name: containerd sets a pod's lo up by a plugin
	// that is called so, before ours.
	Loopback = "loopback"
	// RouteProtocol marks every route that knarr makes (ip route: proto 107),
	// so that leaving removes exactly those. No number of
	// /etc/iproute2/rt_protos; 107 is 'k'.
	RouteProtocol = 107
	// LinkPrefix starts the names of host ends; the rest is a hash.
	LinkPrefix = "knarr"
	// gateway is the next hop that pods see. Nobody has it: a permanent
	// neighbour entry leads to the host end (RFC 3927 keeps it off the wire).
	gateway = "169.254.1.1"
)

// supported versions of the specification.
var supported = version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0")

// Conf is the plugin's part of a network configuration.
type Conf struct {
	types.PluginConf
	// PodCIDR is the range of this node's pods.
	PodCIDR string `json:"podCIDR"`
	// DataDir holds the records of given addresses.
	DataDir string `json:"dataDir"`
	// MTU of pods' links; 0: that of the interface with the default route.
	MTU int `json:"mtu,omitempty"`

	RuntimeConfig struct {
		PortMappings []PortMapping `json:"portMappings,omitempty"`
	} `json:"runtimeConfig,omitempty"`

	prefix netip.Prefix
}

// PortMapping is one hostPort.
type PortMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// Called reports whether a process with this first argument is to be a plugin
// and not knarr.
func Called(arg0 string) bool {
	name := filepath.Base(arg0)
	return name == Plugin || name == Loopback
}

// Main runs the plugin as the specification says: parameters in environment
// and standard input, result or error on standard output. It returns the
// process's exit code.
func Main() int {
	funcs, about := skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status}, "knarr-cni: routed pods"
	if filepath.Base(os.Args[0]) == Loopback {
		nothing := func(*skel.CmdArgs) error { return nil }
		funcs, about = skel.CNIFuncs{Add: addLoopback, Del: nothing, Check: checkLoopback, GC: nothing, Status: nothing}, "knarr's loopback"
	}
	err := skel.PluginMainFuncsWithError(funcs, supported, about)
	if err == nil {
		return 0
	}
	if perr := err.Print(); perr != nil {
		fmt.Fprintln(os.Stderr, "knarr-cni:", perr)
	}
	return 1
}

// parse reads and checks the configuration.
func parse(stdin []byte) (*Conf, error) {
	var c Conf
	if err := json.Unmarshal(stdin, &c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "cannot read the network configuration", err.Error())
	}
	if !filepath.IsAbs(c.DataDir) {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "dataDir is not an absolute path", c.DataDir)
	}
	p, err := netip.ParsePrefix(c.PodCIDR)
	if err != nil || !p.Addr().Is4() || p.Bits() > 30 {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "podCIDR is not an IPv4 prefix of at most 30 bits", c.PodCIDR)
	}
	c.prefix = p.Masked()
	return &c, nil
}

func add(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	addr, mac, err := c.attach(args.ContainerID, args.IfName, args.Netns)
	if err != nil {
		return err
	}
	w := wire{container: args.ContainerID, ifName: args.IfName}
	index := 1
	result := &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{
			{Name: w.hostName(), Mac: hostMAC.String()},
			{Name: args.IfName, Mac: mac.String(), Sandbox: args.Netns},
		},
		IPs:    []*current.IPConfig{{Interface: &index, Address: ipNet(netip.PrefixFrom(addr, addr.BitLen())), Gateway: gatewayAddr().AsSlice()}},
		Routes: []*types.Route{{Dst: ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0)), GW: gatewayAddr().AsSlice()}},
	}
	return types.PrintResult(result, c.CNIVersion)
}

// attach gives a network namespace an address and its ports.
func (c *Conf) attach(container, ifName, netns string) (netip.Addr, net.HardwareAddr, error) {
	pool := pool{dir: c.DataDir, prefix: c.prefix}
	addr, err := pool.allocate(container, ifName)
	if err != nil {
		return netip.Addr{}, nil, err
	}
	w := wire{container: container, ifName: ifName, netns: netns, addr: addr, mtu: c.MTU}
	mac, err := w.up()
	if err == nil {
		err = mapPorts(c.RuntimeConfig.PortMappings, addr, w.hostName())
	}
	if err != nil {
		return netip.Addr{}, nil, errors.Join(err, undo(pool, w))
	}
	return addr, mac, nil
}

// undo takes back a half-made attachment, so that a failed ADD leaves nothing
// even if the runtime does not send DEL.
func undo(p pool, w wire) error {
	return errors.Join(w.down(), unmapPorts(w.addr), p.release(w.container, w.ifName))
}

// del must succeed for what is gone, in part or as a whole, and without a
// network namespace.
func del(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	return c.detach(args.ContainerID, args.IfName)
}

func (c *Conf) detach(container, ifName string) error {
	p := pool{dir: c.DataDir, prefix: c.prefix}
	w := wire{container: container, ifName: ifName}
	if err := w.down(); err != nil {
		return err
	}
	addr, err := p.find(container, ifName)
	if err != nil || !addr.IsValid() {
		return err
	}
	if err := unmapPorts(addr); err != nil {
		return err
	}
	return p.release(container, ifName)
}

func check(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	p := pool{dir: c.DataDir, prefix: c.prefix}
	addr, err := p.find(args.ContainerID, args.IfName)
	if err != nil {
		return err
	}
	if !addr.IsValid() {
		return types.NewError(types.ErrUnknownContainer, "the container has no address", args.ContainerID)
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return types.NewError(types.ErrDecodingFailure, "cannot read prevResult", err.Error())
	}
	if c.PrevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "CHECK needs prevResult", "")
	}
	prev, err := current.NewResultFromResult(c.PrevResult)
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "cannot read prevResult", err.Error())
	}
	if len(prev.IPs) != 1 || !prev.IPs[0].Address.IP.Equal(addr.AsSlice()) {
		return types.NewError(types.ErrInvalidNetworkConfig, "the container's address is not that of prevResult", addr.String())
	}
	w := wire{container: args.ContainerID, ifName: args.IfName, netns: args.Netns, addr: addr, mtu: c.MTU}
	return w.check()
}

// gc removes attachments that the runtime no longer knows.
func gc(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	valid := map[owner]bool{}
	for _, a := range c.ValidAttachments {
		valid[owner{a.ContainerID, a.IfName}] = true
	}
	return pool{dir: c.DataDir, prefix: c.prefix}.collect(func(o owner) bool { return valid[o] })
}

// status answers whether an ADD could succeed.
func status(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	free, err := pool{dir: c.DataDir, prefix: c.prefix}.free()
	if err != nil {
		return err
	}
	if free == 0 {
		return types.NewError(types.ErrTryAgainLater, "no address is free", c.PodCIDR)
	}
	return nil
}

// Install makes the plugins in binDir links to the knarr executable.
func Install(binDir, executable string) error {
	if err := os.MkdirAll(binDir, 0o755); err != nil {
		return fmt.Errorf("cannot install %s: %w", Plugin, err)
	}
	for _, name := range []string{Plugin, Loopback} {
		if err := link(filepath.Join(binDir, name), executable); err != nil {
			return fmt.Errorf("cannot install %s: %w", name, err)
		}
	}
	return nil
}

// link replaces path in one step: a runtime may be about to execute it.
func link(path, executable string) error {
	if old, err := os.Readlink(path); err == nil && old == executable {
		return nil
	}
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(executable, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// ConfFile is the name of the network configuration; runtimes take the first
// in alphabetical order.
const ConfFile = "10-knarr.conflist"

// WriteConf writes the network configuration that makes runtimes call the
// plugin. It is written in one step: runtimes watch the directory.
func WriteConf(confDir, podCIDR, dataDir string, mtu int) error {
	plugin := map[string]any{
		"type": Plugin, "podCIDR": podCIDR, "dataDir": dataDir,
		"capabilities": map[string]bool{"portMappings": true},
	}
	if mtu > 0 {
		plugin["mtu"] = mtu
	}
	data, err := json.MarshalIndent(map[string]any{"cniVersion": "1.0.0", "name": "knarr", "plugins": []any{plugin}}, "", "  ")
	if err != nil {
		return err
	}
	if _, err := parse(mustPlugin(plugin)); err != nil {
		return fmt.Errorf("cannot configure the pod network: %w", err)
	}
	if err := os.MkdirAll(confDir, 0o755); err != nil {
		return fmt.Errorf("cannot configure the pod network: %w", err)
	}
	path := filepath.Join(confDir, ConfFile)
	if old, err := os.ReadFile(path); err == nil && string(old) == string(data) {
		return nil
	}
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return fmt.Errorf("cannot configure the pod network: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("cannot configure the pod network: %w", err)
	}
	return nil
}

func mustPlugin(plugin map[string]any) []byte {
	data, err := json.Marshal(plugin)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return data
}

func gatewayAddr() netip.Addr { return netip.MustParseAddr(gateway) }
