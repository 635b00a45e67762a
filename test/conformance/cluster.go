package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"
)

// The machines lie on RFC 5737's test net 2, which is never routed. The tests
// run on a machine of their own there, which is also the registry.
const (
	lanPrefix    = "198.51.100."
	testerIP     = lanPrefix + "254"
	registryHost = testerIP + ":5000"
	nodeCount    = 2 // as many as the conformance tests need
)

// cluster of knarr nodes, each in a network namespace of its own.
type cluster struct {
	bin   string // where knarr, kubectl and images are
	dir   string // data of the nodes
	lan   string // namespace of the wire, and of the tests
	nodes int

	undo []func() error
}

// startCluster returns a cluster that is up, or nothing.
func startCluster(ctx context.Context, bin, images string) (*cluster, error) {
	dir, err := os.MkdirTemp("", "knarr-conformance-")
	if err != nil {
		return nil, err
	}
	c := &cluster{bin: bin, dir: dir, lan: fmt.Sprintf("kc%d-lan", os.Getpid())}
	c.undo = append(c.undo, func() error { return os.RemoveAll(dir) })
	if err := c.start(ctx, images); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

func (c *cluster) start(ctx context.Context, images string) error {
	if err := c.netns(ctx, c.lan); err != nil {
		return err
	}
	for _, args := range []string{"link add br0 type bridge", "link set br0 up", "link set lo up", "addr add " + testerIP + "/24 dev br0"} {
		if err := c.ip(ctx, c.lan, args); err != nil {
			return err
		}
	}
	if err := c.serveImages(images); err != nil {
		return err
	}
	for range nodeCount {
		if err := c.addNode(ctx); err != nil {
			return err
		}
	}
	_, err := output(c.command(ctx, "kubectl", "wait", "--for=condition=Ready", "node", "--all", "--timeout=180s"))
	return err
}

func (c *cluster) netns(ctx context.Context, name string) error {
	if _, err := output(exec.CommandContext(ctx, "ip", "netns", "add", name)); err != nil {
		return err
	}
	c.undo = append(c.undo, func() error {
		_, err := output(exec.Command("ip", "netns", "del", name))
		return err
	})
	return nil
}

func (c *cluster) ip(ctx context.Context, netns, args string) error {
	_, err := output(exec.CommandContext(ctx, "ip", append([]string{"-n", netns}, strings.Fields(args)...)...))
	return err
}

// addNode starts the first machine as a server, the others as its agents.
func (c *cluster) addNode(ctx context.Context) error {
	c.nodes++
	i := c.nodes
	netns, data := c.nodeName(i), c.dataDir(i)
	if err := c.netns(ctx, netns); err != nil {
		return err
	}
	port := fmt.Sprintf("p%d", i)
	for _, step := range [][2]string{
		{c.lan, "link add " + port + " type veth peer name eth0 netns " + netns}, {c.lan, "link set " + port + " master br0 up"},
		{netns, "link set lo up"}, {netns, "link set eth0 up"}, {netns, fmt.Sprintf("addr add %s%d/24 dev eth0", lanPrefix, i)},
	} {
		if err := c.ip(ctx, step[0], step[1]); err != nil {
			return err
		}
	}
	args := []string{"up"}
	if i > 1 {
		token, err := output(c.on(ctx, 1, "token", "create", "--data-dir", c.dataDir(1)))
		if err != nil {
			return err
		}
		args = []string{"agent", "--server", "https://" + lanPrefix + "1:6443", "--token", strings.TrimSpace(string(token))}
	}
	c.undo = append(c.undo, func() error {
		_, err := output(c.on(context.Background(), i, "uninstall", "--yes", "--data-dir", data))
		return err
	})
	_, err := output(c.on(ctx, i, append(args, "--detach", "--data-dir", data, "--node-name", netns, "--images", filepath.Join(c.bin, "images"), "--insecure-registry", registryHost)...))
	return err
}

func (c *cluster) nodeName(i int) string { return fmt.Sprintf("kc%d-n%d", os.Getpid(), i) }
func (c *cluster) dataDir(i int) string  { return filepath.Join(c.dir, fmt.Sprint(i), "data") }
func (c *cluster) kubeconfig() string    { return filepath.Join(c.dataDir(1), "kubeconfig") }

// on is a knarr command on a machine.
func (c *cluster) on(ctx context.Context, node int, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/" + c.nodeName(node), filepath.Join(c.bin, "knarr")}, args...)...)
}

// command is one on the tests' machine; kubectl is the one we build.
func (c *cluster) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	if program == "kubectl" {
		program = filepath.Join(c.bin, program)
	}
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/" + c.lan, program}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.kubeconfig())
	return cmd
}

// stop ends and removes everything, last things first.
func (c *cluster) stop() error {
	var errs []error
	for len(c.undo) > 0 {
		last := len(c.undo) - 1
		errs = append(errs, c.undo[last]())
		c.undo = c.undo[:last]
	}
	return errors.Join(errs...)
}

// saveLogs copies what the nodes said to dir.
func (c *cluster) saveLogs(dir string) error {
	for i := range c.nodes {
		data, err := os.ReadFile(filepath.Join(c.dataDir(i+1), "knarr.log"))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("knarr-%d.log", i+1)), data, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// serveImages makes the tests' machine a registry of the images in the layout.
// Their blobs are served from there; pushing them only tells their names.
func (c *cluster) serveImages(dir string) error {
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithBlobHandler(registry.NewDiskBlobHandler(filepath.Join(dir, "blobs"))))
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	local := httptest.NewServer(handler)
	defer local.Close()
	for _, d := range manifest.Manifests {
		ref, err := name.ParseReference(strings.TrimPrefix(local.URL, "http://")+"/"+d.Annotations[refAnnotation], name.Insecure)
		if err != nil {
			return err
		}
		img, err := index.Image(d.Digest)
		if err != nil {
			return err
		}
		if err := remote.Write(ref, img); err != nil {
			return err
		}
	}
	l, err := listenIn(c.lan, registryHost)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(l) }() // ends with Close
	c.undo = append(c.undo, srv.Close)
	return nil
}

// listenIn opens a TCP port in a network namespace, served by this process.
func listenIn(netns, address string) (l net.Listener, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its network
		ns, openErr := os.Open("/run/netns/" + netns)
		if openErr != nil {
			err = openErr
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			l, err = net.Listen("tcp", address)
		}
	}()
	<-done
	return l, err
}

// repoList tells the suite where its images are. Registries that must not
// exist or ask for a password stay as they are.
func repoList() string {
	var b strings.Builder
	for key, path := range map[string]string{"promoterE2eRegistry": "/e2e-test-images", "buildImageRegistry": "/build-image", "gcEtcdRegistry": "", "gcRegistry": "",
		"sigStorageRegistry": "/sig-storage", "dockerLibraryRegistry": "/library", "cloudProviderGcpRegistry": "/cloud-provider-gcp"} {
		fmt.Fprintf(&b, "%s: %s%s\n", key, registryHost, path)
	}
	return b.String()
}
