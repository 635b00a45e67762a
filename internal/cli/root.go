// Package cli is knarr's command line, one file per command.
package cli

import (
	"context"
	"errors"
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
		statusCommand(), whyCommand(), runtimeCommand(), kubeconfigCommand(), tokenCommand(), secretsCommand(), simCommand(), versionCommand())
	return root
}

// Main runs the command line and returns the exit code.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := New().ExecuteContext(ctx)
	var e *exit
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &e):
		e = &exit{code: 1, err: err}
	}
	if e.err != nil {
		fmt.Fprintln(os.Stderr, "knarr:", e.err)
	}
	return e.code
}

// exit ends the program with a code of its own; without an error it has said
// already what there is to say.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

// noArgs refuses positional arguments with a hint instead of ignoring them.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, got %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return nil
}

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

// newLog writes text lines to stderr; level is debug, info, warn or error.
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
