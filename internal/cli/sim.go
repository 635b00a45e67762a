package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"knarr.dev/knarr/internal/hollow"
	"knarr.dev/knarr/internal/server"
)

// simOptions are the flags of sim.
type simOptions struct {
	sim        hollow.SimConfig
	dataDir    string
	port       int
	wait       bool
	kubeconfig string
	logLevel   string
}

func simCommand() *cobra.Command {
	o := &simOptions{}
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "Try a control plane with thousands of nodes that are not there",
		Long: `sim runs a control plane and hollow nodes in this process: each is the node
agent as it is, over a runtime that keeps books and runs nothing. It makes
deployments, churns them as a seed says, and prints figures. It needs no root
and listens on loopback alone; what it wrote is removed at its end.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.IntVar(&o.sim.Fleet.Nodes, "nodes", 100, "hollow nodes")
	f.IntVar(&o.sim.Pods, "pods", 1000, "pods, of deployments")
	f.IntVar(&o.sim.Size, "deployment-size", 1000, "replicas of one deployment; each has a namespace of its own")
	f.Float64Var(&o.sim.Churn, "churn", 0, "actions each second, out of the seed: deployments scaled, pods deleted, nodes lost and returned")
	f.DurationVar(&o.sim.Duration, "duration", 30*time.Second, "how long the churn lasts")
	f.Uint64Var(&o.sim.Seed, "seed", 1, "the same seed gives the same actions")
	f.DurationVar(&o.sim.Until, "until", 30*time.Minute, "how long nodes, pods or their end are waited for")
	f.DurationVar(&o.sim.Idle, "idle", 10*time.Second, "how long the quiet cluster is measured; 0: not at all")
	f.DurationVar(&o.sim.Fleet.Start, "start-delay", 0, "what a container takes to start")
	f.DurationVar(&o.sim.Fleet.Stop, "stop-delay", 0, "what a container takes to end")
	f.DurationVar(&o.sim.Fleet.Run, "run-time", 5*time.Second, "how long a container lives that is to end: one of a job, an init container")
	f.BoolVar(&o.wait, "wait", false, "stay up with the pods until a signal, for kubectl and other clients")
	f.StringVar(&o.kubeconfig, "kubeconfig-out", "", "link the administrator's kubeconfig from this path")
	f.StringVar(&o.dataDir, "data-dir", "", "where the control plane keeps everything: a path that is not there yet (default: a temporary one)")
	f.IntVar(&o.port, "api-port", 0, "port on 127.0.0.1 (default: one that is free)")
	f.StringVar(&o.logLevel, "log-level", "error", "debug, info, warn or error")
	return cmd
}

func (o *simOptions) run(ctx context.Context) (err error) {
	log, err := newLog(o.logLevel)
	if err != nil {
		return err
	}
	if o.port < 0 || o.port > 65535 {
		return fmt.Errorf("--api-port %d is not a port: give one from 1 to 65535", o.port)
	}
	dir, err := o.directory()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return server.RunPlane(ctx, server.PlaneConfig{Dir: dir, Port: o.port, Log: log}, func(ctx context.Context, p *server.Plane) error {
		c := o.sim
		c.Fleet.Cluster, c.Fleet.Log = hollow.Cluster{View: p.View, As: p.As, Objects: p.Objects}, log
		c.Revision, c.Out = p.Revision, os.Stdout
		if o.kubeconfig != "" {
			if err := os.Symlink(p.Kubeconfig(), o.kubeconfig); err != nil {
				return fmt.Errorf("--kubeconfig-out: %w", err)
			}
			defer os.Remove(o.kubeconfig)
		}
		if o.wait {
			c.Stay = func(ctx context.Context) {
				fmt.Printf("# it stays up until a signal: export KUBECONFIG=%s\n", p.Kubeconfig())
				<-ctx.Done()
			}
		}
		s, err := hollow.NewSim(c)
		if err != nil {
			return err
		}
		return s.Run(ctx)
	})
}

// directory for everything, which nobody else uses: it is removed at the end.
func (o *simOptions) directory() (string, error) {
	if o.dataDir == "" {
		return os.MkdirTemp("", "knarr-sim-")
	}
	dir, err := filepath.Abs(o.dataDir)
	if err != nil {
		return "", err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("--data-dir: %w", err)
	}
	return dir, nil
}
