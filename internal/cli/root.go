// Package cli is knarr's command line, one file per command.
package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"knarr.dev/knarr/internal/version"
)

// New returns the command tree.
func New() *cobra.Command {
	root := &cobra.Command{
		Use:           "knarr",
		Short:         "Kubernetes in one binary",
		Long:          "knarr is Kubernetes in one binary: `knarr up` makes this machine a cluster.",
		Version:       version.GitVersion,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(upCommand(), serverCommand(), agentCommand(), downCommand(), uninstallCommand(),
		statusCommand(), kubeconfigCommand(), tokenCommand(), secretsCommand(), simCommand(), versionCommand())
	return root
}

// Main runs the command line and returns the exit code.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := New().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "knarr:", err)
		return 1
	}
	return 0
}

// noArgs refuses positional arguments with a hint instead of ignoring them.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, got %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return nil
}

// newLog writes text lines to stderr; level is debug, info, warn or error.
// subcommand refuses a command's arguments: they are none of its subcommands.
func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unknown command %q for %q; see %s --help", args[0], cmd.CommandPath(), cmd.CommandPath())
	}
	return nil
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			v := version.Info()
			fmt.Printf("knarr %s (commit %s, %s, %s)\n", v.GitVersion, v.GitCommit, v.GoVersion, v.Platform)
		},
	}
}

func newLog(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q is none of debug, info, warn, error", level)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}

const defaultDataDir = "/var/lib/knarr"

func dataDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "data-dir", defaultDataDir, "where knarr keeps everything")
}
