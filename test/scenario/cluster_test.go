// Package scenario tests knarr as a user meets it: the real binary, real
// kubectl, real containers, in network namespaces of its own. It needs root,
// what hack/deps.sh installs for tests, and what `make build` leaves in bin.
package scenario

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const lanPrefix = "198.51.100." // RFC 5737, test net 2: never routed

// lan is a network namespace with a bridge: the wire between test hosts.
type lan struct {
	name  string
	hosts int
}

// host is a machine of a test: a network namespace and data directories.
type host struct {
	lan     *lan
	netns   string
	ip      string
	dataDir string
	bin     string // directory with wrappers that run in this host's network
}

// binDir is where make build puts the programs.
func binDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"knarr", "kubectl", "images"} {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			t.Fatalf("%s is missing: run make build first", filepath.Join(dir, f))
		}
	}
	return dir
}

// needsRoot skips on a machine that cannot run containers.
func needsRoot(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("real containers: not in a short run")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces, mounts and containers")
	}
}

func must(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := run(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func newLAN(t testing.TB) *lan {
	t.Helper()
	needsRoot(t)
	l := &lan{name: fmt.Sprintf("kt%d-lan", os.Getpid())}
	must(t, "ip", "netns", "add", l.name)
	t.Cleanup(func() { _, _ = run("ip", "netns", "del", l.name) })
	must(t, "ip", "-n", l.name, "link", "add", "br0", "type", "bridge")
	must(t, "ip", "-n", l.name, "link", "set", "br0", "up")
	return l
}

// newHost makes a machine on the LAN; its wrappers are kubectl and knarr.
func (l *lan) newHost(t testing.TB) *host {
	t.Helper()
	l.hosts++
	h := &host{lan: l, netns: fmt.Sprintf("kt%d-h%d", os.Getpid(), l.hosts), ip: lanPrefix + fmt.Sprint(l.hosts)}
	must(t, "ip", "netns", "add", h.netns)
	t.Cleanup(func() { _, _ = run("ip", "netns", "del", h.netns) })
	port := fmt.Sprintf("p%d", l.hosts)
	must(t, "ip", "-n", l.name, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", h.netns)
	must(t, "ip", "-n", l.name, "link", "set", port, "master", "br0", "up")
	for _, dev := range []string{"lo", "eth0"} {
		must(t, "ip", "-n", h.netns, "link", "set", dev, "up")
	}
	must(t, "ip", "-n", h.netns, "addr", "add", h.ip+"/24", "dev", "eth0")
	// The kernel takes note of the carrier in its own time, and changes routes.
	eventually(t, "the link of "+h.netns+" is up", func() (string, bool) {
		out, err := run("ip", "-n", h.netns, "-o", "link", "show", "eth0")
		return out, err == nil && strings.Contains(out, "state UP")
	})
	dir, err := os.MkdirTemp("", "knarr-scenario-")
	if err != nil {
		t.Fatal(err)
	}
	h.dataDir, h.bin = filepath.Join(dir, "data"), filepath.Join(dir, "bin")
	t.Cleanup(func() {
		if t.Failed() {
			h.dumpLog(t)
		}
		if out, err := run(filepath.Join(h.bin, "knarr"), "uninstall", "--yes", "--data-dir", h.dataDir); err != nil {
			t.Errorf("uninstall: %v\n%s", err, out)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(h.bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, prog := range []string{"kubectl", "knarr"} {
		script := fmt.Sprintf("#!/bin/sh\nexport KUBECONFIG=%s/kubeconfig\nexec nsenter --net=/run/netns/%s %s/%s \"$@\"\n", h.dataDir, h.netns, binDir(t), prog)
		if err := os.WriteFile(filepath.Join(h.bin, prog), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// runDir is where the host's knarr keeps its sockets (server.Config.RunDir).
func (h *host) runDir() string {
	sum := sha256.Sum256([]byte(h.dataDir))
	return "/run/knarr-" + hex.EncodeToString(sum[:4])
}

func (h *host) dumpLog(t testing.TB) {
	data, err := os.ReadFile(filepath.Join(h.dataDir, "knarr.log"))
	if err != nil {
		return
	}
	if len(data) > 16<<10 {
		data = data[len(data)-16<<10:]
	}
	t.Logf("log of %s:\n%s", h.netns, data)
}

// knarr runs the command on the host and fails the test if it fails.
func (h *host) knarr(t testing.TB, args ...string) string {
	t.Helper()
	return must(t, filepath.Join(h.bin, "knarr"), args...)
}

// up starts a one-machine cluster on the host.
func (h *host) up(t testing.TB, extra ...string) {
	t.Helper()
	h.start(t, "up", extra...)
}

func (h *host) start(t testing.TB, command string, extra ...string) {
	t.Helper()
	args := []string{command, "--detach", "--data-dir", h.dataDir, "--node-name", h.netns, "--images", filepath.Join(binDir(t), "images")}
	// KNARR_RUNTIME=containerd runs the same scenarios on another runtime.
	if r := os.Getenv("KNARR_RUNTIME"); r != "" {
		args = append(args, "--container-runtime-endpoint", r)
	}
	h.knarr(t, append(args, extra...)...)
}

// join makes the host an agent of the server.
func (h *host) join(t testing.TB, server *host) {
	t.Helper()
	token := strings.TrimSpace(server.knarr(t, "token", "create", "--data-dir", server.dataDir))
	h.start(t, "agent", "--server", "https://"+server.ip+":6443", "--token", token)
}

// kubectl runs it against the host's cluster.
func (h *host) kubectl(args ...string) (string, error) {
	return run(filepath.Join(h.bin, "kubectl"), args...)
}

func (h *host) mustKubectl(t testing.TB, args ...string) string {
	t.Helper()
	return must(t, filepath.Join(h.bin, "kubectl"), args...)
}

// exec runs a program in the host's network.
func (h *host) exec(args ...string) (string, error) {
	return run("nsenter", append([]string{"--net=/run/netns/" + h.netns}, args...)...)
}

// apply feeds a manifest to kubectl apply.
func (h *host) apply(t testing.TB, manifest string) {
	t.Helper()
	f := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(f, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	h.mustKubectl(t, "apply", "-f", f)
}

// patience is for a machine that is slow and busy; kubectl's --timeout=180s in
// the scenarios is the same.
const patience = 3 * time.Minute

// eventually polls until ok says true; what it returns last is shown if not.
func eventually(t testing.TB, what string, ok func() (string, bool)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		out, good := ok()
		if good {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s\n%s", patience, what, out)
		}
		<-time.After(50 * time.Millisecond)
	}
}
