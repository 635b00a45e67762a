package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/server"
)

func downCommand() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop knarr and every container of this node; data is kept",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, _, err := server.ReadInstance(dataDir)
			if errors.Is(err, server.ErrNotInstalled) {
				fmt.Println("nothing to stop:", err)
				return nil
			}
			if err != nil {
				return err
			}
			if err := stop(cmd.Context(), in); err != nil {
				return err
			}
			fmt.Printf("stopped; `knarr %s%s` starts it again with all its data\n", role(in), dataDirArg(in))
			return nil
		},
	}
	dataDirFlag(cmd, &dataDir)
	return cmd
}

func uninstallCommand() *cobra.Command {
	var dataDir string
	var yes bool
	cmd := &cobra.Command{
		Use:   "uninstall --yes",
		Short: "Stop knarr and remove everything that it made on this machine, data included",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, _, err := server.ReadInstance(dataDir)
			if errors.Is(err, server.ErrNotInstalled) {
				fmt.Println("nothing to remove:", err)
				return nil
			}
			if err != nil {
				return err
			}
			if !yes {
				return fmt.Errorf("this deletes the cluster's data in %s: say so with --yes", in.DataDir)
			}
			if err := stop(cmd.Context(), in); err != nil {
				return err
			}
			if err := server.Remove(cmd.Context(), in); err != nil {
				return err
			}
			fmt.Printf("removed %s and all links, routes, rules, mounts and cgroups of this node\n", in.DataDir)
			if in.Etcd != nil {
				fmt.Printf("the cluster's objects and keys stay in etcd (%s), below %s and /knarr.dev/\n", strings.Join(in.Etcd.Endpoints, ", "), in.Etcd.Prefix)
			}
			if !in.Server {
				fmt.Printf("the cluster still knows the node: `kubectl delete node %s` there\n", in.NodeName)
			}
			return nil
		},
	}
	dataDirFlag(cmd, &dataDir)
	cmd.Flags().BoolVar(&yes, "yes", false, "really delete the data")
	return cmd
}

// role is the command that started an instance.
func role(in *server.Instance) string {
	switch {
	case in.Server && in.Agent:
		return "up"
	case in.Server:
		return "server"
	}
	return "agent"
}

// dataDirArg is what a command about this instance has to add.
func dataDirArg(in *server.Instance) string {
	if in.DataDir == defaultDataDir {
		return ""
	}
	return " --data-dir " + in.DataDir
}

// stop ends the process, if it lives, and then the node's containers.
func stop(ctx context.Context, in *server.Instance) error {
	if err := endProcess(ctx, in); err != nil {
		return err
	}
	return server.StopNode(ctx, in)
}

// endProcess asks the process to end and waits for its lock; after a while it
// no longer asks. The pid is ours as long as the lock is held.
func endProcess(ctx context.Context, in *server.Instance) error {
	deadline := time.Now().Add(20 * time.Second)
	asked := false
	for {
		now, running, err := server.ReadInstance(in.DataDir)
		if err != nil || !running {
			return err
		}
		signal := unix.SIGTERM
		if time.Now().After(deadline) {
			signal = unix.SIGKILL
		}
		if !asked || signal == unix.SIGKILL {
			if err := unix.Kill(now.PID, signal); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("cannot stop knarr (pid %d): %w", now.PID, err)
			}
			asked = true
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
