// Command knarr is Kubernetes in one binary. Called as knarr-cni it is the
// plugin that a container runtime runs to wire a pod.
package main

import (
	"os"
	"path/filepath"

	"knarr.dev/knarr/internal/cli"
	"knarr.dev/knarr/internal/network/cni"
)

func main() {
	if filepath.Base(os.Args[0]) == "knarr-cni" {
		os.Exit(cni.Main())
	}
	os.Exit(cli.Main())
}
