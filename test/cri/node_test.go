package cri_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/network/cni"
	"knarr.dev/knarr/internal/network/nettest"
	"knarr.dev/knarr/internal/runtime/containerd"
	"knarr.dev/knarr/internal/runtime/images"
)

// node is a target that serves, and where the cases find what they need.
type node struct {
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
	conn    *grpc.ClientConn
	// in runs fn in the network in which the runtime is: what it listens on is
	// reached from there, and its sockets stay there.
	in func(fn func() error) error

	dir      string // of the suite: logs, volumes
	cgroup   string // above all pods
	handler  string // of pods, if a case does not say another
	registry *registryServer

	mu      sync.Mutex
	ids     map[string]bool // of sandboxes and containers, ever made
	pulls   map[string]*pull
	base    []string // traces of the runtime itself
	links   map[string]bool
	counter atomic.Int64
}

// dial connects to a runtime and waits until it answers.
func dial(ctx context.Context, endpoint string, in func(func() error) error) (*node, error) {
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20))) // the kubelet's limit: an answer above is lost
	if err != nil {
		return nil, err
	}
	n := &node{
		runtime: runtimeapi.NewRuntimeServiceClient(conn), images: runtimeapi.NewImageServiceClient(conn), conn: conn,
		in: in, ids: map[string]bool{}, pulls: map[string]*pull{},
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := n.runtime.Version(ctx, &runtimeapi.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return n, nil
}

func (n *node) close() error { return n.conn.Close() }

// setUp gives the node a registry with the suite's images and takes note of
// what is there before the cases.
func (n *node) setUp(t *testing.T, dir string) {
	t.Helper()
	n.dir, n.cgroup = dir, "/"+filepath.Base(dir)
	n.registry = newRegistry(t, n.in)
	if err := n.registry.publish("base", baseImage(t)); err != nil {
		t.Fatal(err)
	}
	n.base = traces(dir)
	n.links = n.interfaces(t)
}

func (n *node) tearDown(t *testing.T) {
	t.Helper()
	n.registry.close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, p := range n.pulls {
		if _, err := n.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: p.ref}}); err != nil {
			t.Errorf("RemoveImage: %v", err)
		}
	}
	removeCgroups(n.cgroup)
}

func (n *node) unique(prefix string) string {
	return prefix + "-" + strconv.FormatInt(n.counter.Add(1), 10)
}

func (n *node) made(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ids[id] = true
}

func (n *node) interfaces(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	err := n.in(func() error {
		list, err := net.Interfaces()
		for _, l := range list {
			names[l.Name] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// leftovers of the cases while the runtime still runs.
func (n *node) leftovers(t *testing.T) []string {
	t.Helper()
	var left []string
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pods, err := n.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		if n.ids[p.Id] {
			left = append(left, "a sandbox: "+p.String())
		}
	}
	containers, err := n.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range containers.Containers {
		if n.ids[c.Id] {
			left = append(left, "a container: "+c.String())
		}
	}
	// What runs when a container ends may still be about to.
	var more []string
	for end := time.After(10 * time.Second); ; {
		more = nil
		for l := range n.interfaces(t) {
			if !n.links[l] {
				more = append(more, "a network interface: "+l)
			}
		}
		known := map[string]bool{}
		for _, b := range n.base {
			known[b] = true
		}
		for _, l := range traces(append(keys(n.ids), n.dir)...) {
			if !known[l] {
				more = append(more, l)
			}
		}
		if more == nil {
			return left
		}
		select {
		case <-end:
			return append(left, more...)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func keys(m map[string]bool) []string {
	var out []string
	for k := range maps.Keys(m) {
		out = append(out, k)
	}
	return out
}

func hasContainerd() error {
	for _, p := range []string{"containerd", "runc"} {
		if _, err := containerd.Find(p); err != nil {
			return fmt.Errorf("%w: apt-get install containerd runc", err)
		}
	}
	return nil
}

// oracleDir is where `make cri` builds a newer containerd than the
// distribution's.
const oracleDir = "../../bin/oracle"

func hasOracle() error {
	if _, err := os.Stat(filepath.Join(oracleDir, "containerd")); err != nil {
		return fmt.Errorf("no second containerd: make cri builds one: %w", err)
	}
	return nil
}

func startOracle(t *testing.T, dir string) (*node, func() error) {
	bin, err := filepath.Abs(oracleDir)
	if err != nil {
		t.Fatal(err)
	}
	// Not t.Setenv: the cases are parallel. The runtime looks for its programs
	// when it starts.
	path := os.Getenv("PATH")
	if err := os.Setenv("PATH", bin+":"+path); err != nil {
		t.Fatal(err)
	}
	defer os.Setenv("PATH", path)
	return startContainerd(t, dir)
}

// startContainerd starts a private containerd with knarr's pod network, in a
// network namespace of its own.
func startContainerd(t *testing.T, dir string) (*node, func() error) {
	host := nettest.New(t, "node")
	host.Sysctl(t, "net/ipv4/ip_forward", "1")
	host.Addr(t, "lo", nodeAddress+"/32")
	cfg := containerd.Config{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"),
		CNIConfDir: filepath.Join(dir, "net.d"), CNIBinDir: filepath.Join(dir, "bin"), SandboxImage: "registry.knarr.dev/pause:1",
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(cni.Install(cfg.CNIBinDir, exe), cni.WriteConf(cfg.CNIConfDir, "10.244.3.0/24", filepath.Join(dir, "cni"), 0)); err != nil {
		t.Fatal(err)
	}
	r, err := containerd.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- host.Try(func() error { return r.Run(ctx) }) }()
	stopped := false
	stop := func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return errors.Join(<-done, host.Try(func() error { return r.Stop(context.Background(), true) }), r.Clean(context.Background()))
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	select {
	case <-r.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("containerd: %v", err)
	}
	if _, err := images.Import(ctx, filepath.Join(cfg.State, "containerd.sock"), filepath.Join(archives(t), "pause.tar")); err != nil {
		t.Fatal(err)
	}
	// Only root gets at what is inside, but the root of a user namespace has to
	// pass on its way to its own files.
	for _, d := range []string{dir, cfg.State} {
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	n, err := dial(ctx, r.Endpoint(), host.Try)
	if err != nil {
		t.Fatal(err)
	}
	n.within(t, "the network is ready", func() bool {
		st, err := n.runtime.Status(ctx, &runtimeapi.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return condition(st, runtimeapi.NetworkReady)
	})
	return n, func() error { return errors.Join(n.close(), stop()) }
}

// nodeAddress is one that pods can reach the node at (RFC 5737).
const nodeAddress = "192.0.2.1"

func (n *node) within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.After(patience); !ok(); {
		select {
		case <-end:
			t.Fatalf("not within %s: %s", patience, what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func condition(st *runtimeapi.StatusResponse, name string) bool {
	for _, c := range st.GetStatus().GetConditions() {
		if c.Type == name {
			return c.Status
		}
	}
	return false
}

// dialNode opens a connection from the node's network.
func (n *node) dialNode(network, addr string) (conn net.Conn, err error) {
	err = n.in(func() error {
		conn, err = net.DialTimeout(network, addr, patience)
		return err
	})
	return conn, err
}

// reachable leads to a streaming server of the node: clients of client-go dial
// from goroutines of their own, which are not in its network.
func (t *T) reachable(address string) *url.URL {
	u, err := url.Parse(address)
	t.must(err)
	if u.Host == "" {
		t.fatalf("%q is no URL of a streaming server", address)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	t.must(err)
	t.cleanup(func() { _ = l.Close() })
	to := u.Host
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				s, err := t.dialNode("tcp", to)
				if err != nil {
					return
				}
				defer s.Close()
				go func() {
					_, _ = io.Copy(s, c)
					_ = s.(*net.TCPConn).CloseWrite()
				}()
				_, _ = io.Copy(c, s)
			}()
		}
	}()
	u.Host = l.Addr().String()
	return u
}
