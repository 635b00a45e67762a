package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/hollow"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet"
	"knarr.dev/knarr/internal/server"
	"knarr.dev/knarr/internal/view"
	viewremote "knarr.dev/knarr/internal/view/remote"
)

// simOptions are the flags of sim.
type simOptions struct {
	sim        hollow.SimConfig
	dataDir    string
	port       int
	wait       bool
	kubeconfig string
	access     access // if its kubeconfig is set: the control plane to try
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
and listens on loopback alone; what it wrote is removed at its end. With
--kubeconfig the nodes join the control plane that this leads to instead.`,
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
	f.StringVar(&o.access.kubeconfig, "kubeconfig", "", "try the control plane that this leads to, of any make, as somebody who may impersonate users")
	f.StringVar(&o.access.kubeContext, "context", "", "the kubeconfig's context")
	f.StringVar(&o.kubeconfig, "kubeconfig-out", "", "link the administrator's kubeconfig from this path")
	f.StringVar(&o.dataDir, "data-dir", "", "where the control plane keeps everything: a path that is not there yet (default: a temporary one)")
	f.Var(positive{&o.port}, "api-port", "port on 127.0.0.1 (default: one that is free)")
	f.StringVar(&o.logLevel, "log-level", "error", "debug, info, warn or error")
	return cmd
}

func (o *simOptions) run(ctx context.Context) (err error) {
	log, err := newLog(o.logLevel)
	if err != nil {
		return err
	}
	if o.port > 65535 {
		return fmt.Errorf("--api-port %d is not a port: give one from 1 to 65535", o.port)
	}
	if o.access.kubeconfig != "" {
		return o.runAgainst(ctx, log)
	}
	dir, err := o.directory()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return server.RunPlane(ctx, server.PlaneConfig{Dir: dir, Port: o.port, Log: log}, func(ctx context.Context, p *server.Plane) error {
		c := o.sim
		c.Fleet.Cluster = hollow.Cluster{View: p.View, As: p.As, Objects: p.Objects}
		c.Revision = p.Revision
		if o.kubeconfig != "" {
			if err := os.Symlink(p.Kubeconfig(), o.kubeconfig); err != nil {
				return fmt.Errorf("--kubeconfig-out: %w", err)
			}
			defer os.Remove(o.kubeconfig)
		}
		s, err := o.newSim(c, p.Kubeconfig(), log)
		if err != nil {
			return err
		}
		return s.Run(ctx)
	})
}

func (o *simOptions) newSim(c hollow.SimConfig, kubeconfig string, log *slog.Logger) (*hollow.Sim, error) {
	c.Fleet.Log, c.Out = log, os.Stdout
	if o.wait {
		c.Stay = func(ctx context.Context) {
			fmt.Printf("# it stays up until a signal: export KUBECONFIG=%s\n", kubeconfig)
			<-ctx.Done()
		}
	}
	return hollow.NewSim(c)
}

// runAgainst has the nodes join a control plane that is there, each as the user
// that it would be.
func (o *simOptions) runAgainst(ctx context.Context, log *slog.Logger) error {
	if o.dataDir != "" || o.port != 0 || o.kubeconfig != "" {
		return errors.New("--data-dir, --api-port and --kubeconfig-out are of a control plane of its own, which --kubeconfig makes unnecessary")
	}
	api, _, err := o.access.connect()
	if err != nil {
		return err
	}
	seen := []*kinds.Kind{kinds.Pod, kinds.Node, kinds.Service, kinds.Namespace, kinds.ClusterTrustBundle, kinds.PodCertificateRequest}
	v := view.New(seen, view.PodsByNode)
	sources := make([]viewremote.Source, 0, len(seen))
	for _, k := range seen {
		sources = append(sources, viewremote.Source{Kind: k})
	}
	feed, err := viewremote.New(viewremote.Config{Client: api, View: v, Log: log, Sources: sources})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	objects := viewremote.NewObjects(ctx, api, log)
	g.Go(func() error { return feed.Run(ctx) })
	g.Go(func() error {
		defer cancel()
		if err := v.WaitSynced(ctx); err != nil {
			return nil // ctx has ended
		}
		c := o.sim
		c.Fleet.Cluster = hollow.Cluster{View: v,
			As:      func(name string, groups ...string) client.Client { return api.As(name, groups...) },
			Objects: func(client.Client) kubelet.Objects { return objects }}
		c.Revision = func(ctx context.Context) (int64, error) { return revision(ctx, api) }
		s, err := o.newSim(c, o.access.kubeconfig, log)
		if err != nil {
			return err
		}
		err = s.Run(ctx)
		return errors.Join(err, s.Leave(context.WithoutCancel(ctx)))
	})
	err = g.Wait()
	objects.Wait()
	return err
}

// revision of a server's store, as one of its lists has it.
func revision(ctx context.Context, api client.Client) (int64, error) {
	list, err := api.List(ctx, kinds.Namespace, "", metav1.ListOptions{Limit: 1})
	if err != nil {
		return 0, err
	}
	m, err := meta.ListAccessor(list)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(m.GetResourceVersion(), 10, 64)
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
