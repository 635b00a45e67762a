package scenario

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRefused: what cannot work ends with one line that names the remedy, and
// leaves nothing that was half started.
func TestRefused(t *testing.T) {
	l := newLAN(t)
	server, other := l.newHost(t), l.newHost(t)
	server.up(t, "--cluster-cidr", "10.8.0.0/16", "--service-cidr", "10.9.0.0/16", "--cluster-domain", "x.test")
	token := strings.TrimSpace(server.knarr(t, "token", "create", "--data-dir", server.dataDir))
	deleted := strings.TrimSpace(server.knarr(t, "token", "create", "--data-dir", server.dataDir))
	server.knarr(t, "token", "delete", deleted, "--data-dir", server.dataDir)

	refused := func(h *host, want string, args ...string) {
		t.Helper()
		out, err := run(filepath.Join(h.bin, "knarr"), args...)
		if err == nil || !strings.Contains(out, want) || strings.Contains(out, "goroutine ") || strings.Count(out, "knarr: ") != 1 {
			t.Errorf("knarr %s: %v\n%swant %q", strings.Join(args, " "), err, out, want)
		}
	}
	images := filepath.Join(binDir(t), "images")
	fresh := filepath.Join(filepath.Dir(other.dataDir), "fresh")
	agent := func(server, token, name string) []string {
		return []string{"agent", "--data-dir", fresh, "--images", images, "--server", server, "--token", token, "--node-name", name}
	}
	url := "https://" + server.ip + ":6443"
	refused(other, "the token is wrong", agent(url, deleted, other.netns)...)
	refused(other, "another cluster", agent(url, "knarr1."+strings.Repeat("a", 64)+".abcdef.0123456789abcdef", other.netns)...)
	refused(other, "does a knarr server run there", agent("https://"+server.ip+":1", token, other.netns)...)
	refused(other, "--server", agent("http://"+server.ip+":6443", token, other.netns)...)
	refused(other, "is there and ready: choose another name with --node-name", agent(url, token, server.netns)...)
	refused(other, "no interface of this machine", "up", "--data-dir", fresh, "--images", images, "--node-ip", server.ip)
	refused(other, "\"0\" for \"--api-port\" flag: not a number above 0", "up", "--data-dir", fresh, "--api-port", "0")
	refused(other, "--api-port 70000", "up", "--data-dir", fresh, "--api-port", "70000")
	if left, err := os.ReadDir(filepath.Dir(fresh)); err != nil || len(left) != 1 { // the wrappers
		t.Errorf("refused starts leave %v %v", left, err)
	}

	// On the server's own machine, and in its own data directory.
	fresh = filepath.Join(filepath.Dir(server.dataDir), "fresh")
	refused(server, "another knarr runs a node on this machine", "up", "--detach", "--data-dir", fresh, "--images", images, "--api-port", "7443", "--kubelet-port", "7250")
	if _, err := os.Lstat(fresh); !os.IsNotExist(err) {
		t.Errorf("a second node leaves its data directory: %v", err)
	}
	refused(server, "port 6443 for the API server is taken", "server", "--data-dir", fresh)
	refused(server, "stop it with `knarr down", "server", "--detach", "--data-dir", server.dataDir)
	refused(server, "another knarr runs with the data directory", "up", "--data-dir", server.dataDir)
	server.knarr(t, "down", "--data-dir", server.dataDir)
	refused(server, "--service-cidr is 10.9.0.0/16", "up", "--data-dir", server.dataDir, "--service-cidr", "10.96.0.0/16")
	refused(server, "start it with `knarr up`", "server", "--data-dir", server.dataDir)

	// A start without flags is as the first one was, and agents learn of it.
	server.knarr(t, "up", "--detach", "--data-dir", server.dataDir, "--images", images)
	if nodes := server.mustKubectl(t, "get", "nodes", "-o", "name"); nodes != "node/"+server.netns+"\n" {
		t.Errorf("after the second start: %s", nodes)
	}
	other.join(t, server)
	eventually(t, "the agent's pods have a range of the cluster's", func() (string, bool) {
		out, err := other.exec("ip", "-o", "route")
		return out, err == nil && strings.Contains(out, "10.8.")
	})
	log, err := os.ReadFile(filepath.Join(server.dataDir, "knarr.log"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		// That the machine is slow is true where it is.
		slow := strings.Contains(line, "too long") || strings.Contains(line, "slow")
		if strings.Contains(line, "level=WARN msg=\"etcd") && !slow || strings.Contains(line, "level=ERROR") || strings.Contains(line, strings.Split(token, ".")[3]) {
			t.Errorf("two healthy starts: %s", line)
		}
	}
}
