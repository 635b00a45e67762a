// Package network joins what its parts leave on a machine: nftables' tables,
// links, routes, settings. Each part is a package of its own: cni wires pods,
// proxy plans and applies services' rules, dns answers names, route joins
// nodes.
package network

import (
	"errors"

	"github.com/google/nftables"

	"knarr.dev/knarr/internal/network/cni"
	"knarr.dev/knarr/internal/network/nft"
	"knarr.dev/knarr/internal/network/proxy"
	"knarr.dev/knarr/internal/network/route"
)

// CleanConfig says where things are.
type CleanConfig struct {
	StateFile string // as given to route.Config
}

// Clean leaves the current network namespace as it was before knarr: tables,
// links, routes, addresses, sysctls. Nothing
// of knarr may run. It is safe to call again, and where nothing is.
func Clean(cfg CleanConfig) error {
	return errors.Join(
		proxy.Clean(),
		nft.Delete(nftables.TableFamilyIPv4, cni.PortsTable),
		route.Clean(cfg.StateFile),
	)
}
