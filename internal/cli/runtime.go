package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"knarr.dev/knarr/internal/server"
)

const handlerUsage = "NAME=PATH, and arguments: containers of the runtime class's handler NAME are run by this executable with OCI's command line (runc, crun), by the built-in runtime; repeatable"

func runtimeCommand() *cobra.Command {
	var cfg server.RuntimeConfig
	cmd := &cobra.Command{
		Use:   "runtime",
		Short: "Serve the built-in container runtime at a socket, for another kubelet or for crictl",
		Long: `Serve the container runtime interface (CRI v1) at a unix socket, without a cluster. Containers outlive
the command: started again with the same directories it finds them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for name, path := range map[string]string{"--data-dir": cfg.DataDir, "--run-dir": cfg.RunDir, "--socket": cfg.Socket} {
				if !filepath.IsAbs(path) {
					return fmt.Errorf("%s: %q is not an absolute path", name, path)
				}
			}
			if cfg.PodCIDR == "" {
				return errors.New("--pod-cidr: which addresses pods have must be given")
			}
			cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			return server.RunRuntime(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", "/var/lib/knarr-runtime", "images and records")
	f.StringVar(&cfg.RunDir, "run-dir", "/run/knarr-runtime", "what is lost at reboot; short, for the sake of sockets in it")
	f.StringVar(&cfg.Socket, "socket", "/run/knarr-runtime/cri.sock", "unix socket to serve")
	f.StringVar(&cfg.PodCIDR, "pod-cidr", "", "IPv4 range of pods' addresses")
	f.StringArrayVar(&cfg.Handlers, "runtime-handler", nil, handlerUsage)
	f.StringVar(&cfg.ImagesDir, "images", "", "directory of image archives to load at the start")
	f.StringSliceVar(&cfg.Registries.Insecure, "insecure-registry", nil, "registry to speak to over plain HTTP")
	return cmd
}
