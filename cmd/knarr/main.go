// Command knarr is Kubernetes in one binary. Called as knarr-cni or loopback it
// is the plugin that a container runtime runs to wire a pod.
package main

import (
	"os"
	"runtime"

	"knarr.dev/knarr/internal/cli"
	"knarr.dev/knarr/internal/network/cni"
)

func main() {
	// The first thread runs no goroutine but this: those that enter a pod's
	// namespaces leave their thread to Go to end, and the first one cannot end.
	runtime.LockOSThread()
	if cni.Called(os.Args[0]) {
		os.Exit(cni.Main())
	}
	code := make(chan int)
	go func() { code <- cli.Main() }()
	os.Exit(<-code)
}
