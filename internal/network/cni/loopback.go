package cni

import (
	"encoding/json"
	"net"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inPod calls fn with the pod's lo.
func inPod(path string, fn func(*netlink.Handle, netlink.Link) error) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "cannot open the network namespace "+path, err.Error())
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return linkError("cannot open netlink in the pod", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return linkError("cannot find the pod's lo", err)
	}
	return fn(h, lo)
}

// addLoopback sets lo up. It goes with its namespace, so DEL does nothing.
func addLoopback(args *skel.CmdArgs) error {
	var c types.PluginConf
	if err := json.Unmarshal(args.StdinData, &c); err != nil {
		return types.NewError(types.ErrDecodingFailure, "cannot read the network configuration", err.Error())
	}
	if err := setUp(args.Netns); err != nil {
		return err
	}
	index := 0
	return types.PrintResult(&current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{{Name: "lo", Mac: "00:00:00:00:00:00", Sandbox: args.Netns}},
		IPs:        []*current.IPConfig{{Interface: &index, Address: net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}}},
	}, c.CNIVersion)
}

// setUp sets a pod's lo up.
func setUp(netns string) error {
	return inPod(netns, func(h *netlink.Handle, lo netlink.Link) error {
		if err := h.LinkSetUp(lo); err != nil {
			return linkError("cannot set the pod's lo up", err)
		}
		return nil
	})
}

func checkLoopback(args *skel.CmdArgs) error {
	return inPod(args.Netns, func(_ *netlink.Handle, lo netlink.Link) error {
		if lo.Attrs().Flags&net.FlagUp == 0 {
			return types.NewError(types.ErrInternal, "the pod's lo is down", "")
		}
		return nil
	})
}
