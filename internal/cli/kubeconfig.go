package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"knarr.dev/knarr/internal/server"
)

func kubeconfigCommand() *cobra.Command {
	var dataDir string
	var path bool
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the administrator's kubeconfig",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			in, err := serverInstance(dataDir)
			if err != nil {
				return err
			}
			file := filepath.Join(in.DataDir, "kubeconfig")
			if path {
				fmt.Println(file)
				return nil
			}
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			_, err = os.Stdout.Write(data)
			return err
		},
	}
	dataDirFlag(cmd, &dataDir)
	cmd.Flags().BoolVar(&path, "path", false, "print the file's path instead: export KUBECONFIG=$(knarr kubeconfig --path)")
	return cmd
}

// serverInstance is the instance of a machine that runs a control plane.
func serverInstance(dataDir string) (*server.Instance, error) {
	in, _, err := server.ReadInstance(dataDir)
	if err != nil {
		return nil, err
	}
	if !in.Server {
		return nil, fmt.Errorf("this machine is an agent of %s: run this on the server", in.APIURL)
	}
	return in, nil
}
