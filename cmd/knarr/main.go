// Command knarr is Kubernetes in one binary. Called as knarr-cni or loopback it
// is the plugin that a container runtime runs to wire a pod.
package main

import (
	"os"

	"knarr.dev/knarr/internal/cli"
	"knarr.dev/knarr/internal/network/cni"
)

func main() {
	if cni.Called(os.Args[0]) {
		os.Exit(cni.Main())
	}
	os.Exit(cli.Main())
}
