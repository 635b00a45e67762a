//go:build tools

// Package oracle pins the containerd and runc that the CRI suite is also run against:
// its own module, so that nothing of it enters knarr's.
package oracle

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/opencontainers/runc"
)
