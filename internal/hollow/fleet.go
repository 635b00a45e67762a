package hollow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/event"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet"
	"knarr.dev/knarr/internal/kubelet/dra"
	"knarr.dev/knarr/internal/kubelet/volume"
	"knarr.dev/knarr/internal/view"
)

const (
	// maxNodes have addresses of their own below 127.64.0.0/10.
	maxNodes = 1 << 16
	// startAtOnce bounds the nodes that register at the same time.
	startAtOnce = 64
	// rememberedEvents and queuedEvents bound what one node keeps of what it
	// tells: it has few pods.
	rememberedEvents, queuedEvents = 32, 256
	// lookEvery is rarer than a real node's minute: nothing here changes without
	// telling, and a token is replaced twelve minutes before it ends.
	lookEvery = 10 * time.Minute
)

// Cluster is the control plane that nodes belong to.
type Cluster struct {
	View *view.View // of everything, shared
	// As is a client of that user; Objects reads what nodes look up one by one.
	As      func(name string, groups ...string) client.Client
	Objects func(client.Client) kubelet.Objects
}

// Config of a fleet.
type Config struct {
	Cluster Cluster
	Nodes   int
	MaxPods int // of each node; default 110
	// CPUs and Memory of each node, which has that much disk too; default 32 and
	// 128 GiB.
	CPUs   int
	Memory int64
	// Start is how long a container takes to start, Stop to end, and Run how long
	// one lives that is to end: an init container, or one of a pod that is not
	// always restarted.
	Start, Stop, Run time.Duration
	Log              *slog.Logger
}

// Fleet of hollow nodes.
type Fleet struct {
	cfg      Config
	hub      *hub
	counters *kubelet.Counters
	metrics  *prometheus.Registry

	mu    sync.Mutex
	nodes []*node
	group sync.WaitGroup
	ready chan struct{}
}

// node of a fleet. Its runtime outlives its kubelet.
type node struct {
	name    string
	ip      netip.Addr
	runtime *Runtime
	stop    context.CancelFunc // of the kubelet; nil: it is lost
	ended   chan struct{}
}

// New makes a fleet; it starts nothing.
func New(c Config) (*Fleet, error) {
	if c.Nodes < 1 || c.Nodes > maxNodes {
		return nil, fmt.Errorf("hollow: %d nodes: from 1 to %d are possible", c.Nodes, maxNodes)
	}
	if c.Cluster.View == nil || c.Cluster.As == nil || c.Cluster.Objects == nil {
		return nil, errors.New("hollow: a cluster is needed")
	}
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if c.CPUs == 0 {
		c.CPUs = 32
	}
	if c.Memory == 0 {
		c.Memory = 128 << 30
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	f := &Fleet{cfg: c, hub: newHub(), metrics: prometheus.NewRegistry(), ready: make(chan struct{})}
	var err error
	if f.counters, err = kubelet.NewCounters(f.metrics); err != nil {
		return nil, err
	}
	ip := netip.AddrFrom4([4]byte{127, 64, 0, 0})
	for i := range c.Nodes {
		ip = ip.Next()
		n := &node{name: Name(i), ip: ip}
		n.runtime = NewRuntime(RuntimeConfig{PodCIDR: func() netip.Prefix { return f.podCIDR(n.name) }, Start: c.Start, Stop: c.Stop, Ends: f.ends})
		f.nodes = append(f.nodes, n)
	}
	return f, nil
}

// Name of the node with that number.
func Name(i int) string { return fmt.Sprintf("hollow-%05d", i) }

// Metrics of all kubelets together.
func (f *Fleet) Metrics() *prometheus.Registry { return f.metrics }

// Ready is closed once every node has been Ready.
func (f *Fleet) Ready() <-chan struct{} { return f.ready }

// Runtime of the node with that number.
func (f *Fleet) Runtime(i int) *Runtime { return f.nodes[i].runtime }

func (f *Fleet) podCIDR(name string) netip.Prefix {
	n := view.Get[*corev1.Node](f.cfg.Cluster.View.Snapshot(), kinds.Node, "", name)
	if n == nil || n.Spec.PodCIDR == "" {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(n.Spec.PodCIDR)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// ends says how a container ends by itself: as its command says, if that is one
// of the three that are understood; else it runs on, or for a while if it is to
// end.
func (f *Fleet) ends(p *runtimeapi.PodSandboxMetadata, c *runtimeapi.ContainerConfig) (End, bool) {
	if e, ok := commanded(c.Command); ok {
		return e, true
	}
	pod := view.Get[*corev1.Pod](f.cfg.Cluster.View.Snapshot(), kinds.Pod, p.Namespace, p.Name)
	if pod == nil || string(pod.UID) != p.Uid {
		return End{}, false
	}
	for i := range pod.Spec.InitContainers {
		ic := &pod.Spec.InitContainers[i]
		if ic.Name == c.Metadata.Name {
			return End{After: f.cfg.Run}, ic.RestartPolicy == nil || *ic.RestartPolicy != corev1.ContainerRestartPolicyAlways
		}
	}
	return End{After: f.cfg.Run}, pod.Spec.RestartPolicy != corev1.RestartPolicyAlways
}

// commanded is the end of true, false and sleep SECONDS.
func commanded(command []string) (End, bool) {
	switch {
	case len(command) == 1 && command[0] == "true":
		return End{}, true
	case len(command) == 1 && command[0] == "false":
		return End{Code: 1}, true
	case len(command) == 2 && command[0] == "sleep":
		s, err := strconv.ParseFloat(command[1], 64)
		if err == nil && s >= 0 && s < 1e9 {
			return End{After: time.Duration(s * float64(time.Second))}, true
		}
	}
	return End{}, false
}

// Run runs the nodes until ctx ends and all have ended.
func (f *Fleet) Run(ctx context.Context) error {
	stop := f.cfg.Cluster.View.Subscribe(f.hub.changed)
	defer stop()
	failed := make(chan error, 1)
	slots := make(chan struct{}, startAtOnce)
	var starting sync.WaitGroup
	for i := range f.nodes {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		ready, err := f.start(ctx, i)
		if err != nil {
			failed <- err
			break
		}
		starting.Go(func() {
			select {
			case <-ready:
			case <-ctx.Done():
			}
			<-slots
		})
	}
	starting.Wait()
	var err error
	select {
	case err = <-failed:
	default:
		if ctx.Err() == nil {
			close(f.ready)
			<-ctx.Done()
		}
	}
	f.loseAll()
	for _, n := range f.nodes {
		n.runtime.Close()
	}
	f.group.Wait()
	return err
}

// start a node's kubelet; ready is closed once the node is.
func (f *Fleet) start(ctx context.Context, i int) (ready <-chan struct{}, err error) {
	n := f.nodes[i]
	as := f.cfg.Cluster.As("system:node:"+n.name, user.NodesGroup)
	log := f.cfg.Log.With("node", n.name)
	events, err := event.New(event.Config{Client: as, Component: "kubelet", Host: n.name, Log: log, Remembered: rememberedEvents, Queued: queuedEvents})
	if err != nil {
		return nil, err
	}
	k, err := kubelet.New(kubelet.Config{
		NodeName: n.name, NodeIP: n.ip.String(), Client: as, View: f.cfg.Cluster.View, Objects: f.cfg.Cluster.Objects(as),
		Runtime: n.runtime.Services(), RootDir: "/hollow", PodLogDir: "/hollow/logs", MaxPods: f.cfg.MaxPods,
		Below: kubelet.Below{Machine: f.machine(n), Volumes: func(s volume.Source) kubelet.Volumes { return newVolumes(s) },
			Devices: func(claim dra.Getter) kubelet.Devices { return devices{claim} },
			Files:   noFiles{}, Prober: newProber(), NoCgroups: true},
		Subscribe: f.hub.subscribe(n.name), LookEvery: lookEvery, Counters: f.counters, Events: events, Log: log,
	})
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	own, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	n.stop, n.ended = stop, ended
	var parts sync.WaitGroup
	f.group.Add(1)
	parts.Go(func() { _ = events.Run(own) }) // best effort, as everywhere
	parts.Go(func() {
		if err := k.Run(own); err != nil && own.Err() == nil {
			log.Error("a hollow node has ended", "error", err)
		}
		stop()
	})
	go func() {
		defer f.group.Done()
		parts.Wait()
		close(ended)
	}()
	return k.Ready(), nil
}

func (f *Fleet) machine(n *node) *kubelet.Machine {
	return &kubelet.Machine{CPUs: f.cfg.CPUs, Memory: f.cfg.Memory, Disk: f.cfg.Memory, Info: corev1.NodeSystemInfo{
		MachineID: n.name, SystemUUID: n.name, BootID: n.name, KernelVersion: "hollow", OSImage: "hollow"}}
}

// Lose a node: its kubelet ends and says nothing more, its containers run on.
// It is false if it is lost already. It waits for the kubelet's end.
func (f *Fleet) Lose(i int) bool {
	n := f.nodes[i]
	f.mu.Lock()
	stop, ended := n.stop, n.ended
	n.stop = nil
	f.mu.Unlock()
	if stop == nil {
		return false
	}
	stop()
	<-ended
	return true
}

// Return a lost node: a new kubelet finds what its runtime has. It is false if
// it is not lost. ctx is the one that Run has.
func (f *Fleet) Return(ctx context.Context, i int) (bool, error) {
	f.mu.Lock()
	lost := f.nodes[i].stop == nil
	f.mu.Unlock()
	if !lost || ctx.Err() != nil {
		return false, nil
	}
	_, err := f.start(ctx, i)
	return err == nil, err
}

// loseAll nodes at once, and wait.
func (f *Fleet) loseAll() {
	var ends []chan struct{}
	f.mu.Lock()
	for _, n := range f.nodes {
		if n.stop != nil {
			n.stop()
			n.stop = nil
			ends = append(ends, n.ended)
		}
	}
	f.mu.Unlock()
	for _, ended := range ends {
		<-ended
	}
}
