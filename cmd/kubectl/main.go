// Command kubectl is upstream's client, unchanged, built from k8s.io/kubectl so
// that a machine with knarr needs nothing else. It is a binary of its own
// because it would add 45 MB to knarr.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	command := cmd.NewDefaultKubectlCommand()
	if err := cli.RunNoErrOutput(command); err != nil {
		util.CheckErr(err)
		os.Exit(1)
	}
}
