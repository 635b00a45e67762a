package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// traces is what a node can leave on a machine besides files of its own.
func traces(t *testing.T, h *host) map[string]string {
	t.Helper()
	in := func(args ...string) string {
		out, err := h.exec(args...)
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return out
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, filepath.Dir(h.dataDir)) || strings.Contains(line, h.runDir()+"/") {
			ours = append(ours, line)
		}
	}
	var cgroups []string
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, h.netns) {
			cgroups = append(cgroups, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	run := ""
	if _, err := os.Stat(h.runDir()); err == nil {
		run = h.runDir()
	}
	forward, err := h.exec("cat", "/proc/sys/net/ipv4/ip_forward")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"links": withoutCounters(in("ip", "-o", "link")), "addresses": in("ip", "-4", "-o", "addr"), "routes": in("ip", "-4", "route", "show", "table", "all"),
		"rules": in("ip", "-4", "rule"), "nftables": in("nft", "list", "tables"), "ip_forward": forward,
		"mounts": strings.Join(ours, ""), "cgroups": strings.Join(cgroups, "\n"), "run": run,
	}
}

// withoutCounters drops what changes by itself: the state of a carrier.
func withoutCounters(links string) string {
	var out []string
	for line := range strings.Lines(links) {
		f := strings.Fields(line)
		out = append(out, f[0]+" "+f[1])
	}
	return strings.Join(out, "\n")
}

// TestNodes: two machines join one that is up; pods and services span them; a
// node that dies loses its pods to others; uninstalling leaves nothing.
func TestNodes(t *testing.T) {
	l := newLAN(t)
	hosts := []*host{l.newHost(t), l.newHost(t), l.newHost(t)}
	before := make([]map[string]string, len(hosts))
	for i, h := range hosts {
		before[i] = traces(t, h)
	}
	server := hosts[0]
	server.up(t)
	for _, h := range hosts[1:] {
		h.join(t, server)
	}
	eventually(t, "three nodes are ready", func() (string, bool) {
		out, _ := server.kubectl("get", "nodes", "--no-headers")
		return out, strings.Count(out, " Ready ") == 3
	})
	server.apply(t, fmt.Sprintf(webManifest, 6))
	server.mustKubectl(t, "rollout", "status", "deployment/web", "--timeout=180s")
	server.mustKubectl(t, "wait", "--for=condition=Ready", "pod/tool", "pod/asker", "--timeout=180s")
	if used := nodesOf(t, server); len(used) != 3 {
		t.Errorf("the pods run on %v only", used)
	}
	eventually(t, "the service answers from the pods of all nodes", func() (string, bool) {
		seen, out := podsAnswering(server, "http://web/", 60)
		return out, len(seen) == 6
	})
	for _, h := range hosts {
		eventually(t, "the node port of "+h.netns, func() (string, bool) {
			out, err := server.exec("wget", "-q", "-T", "20", "-O-", "http://"+h.ip+":30080/")
			return out, err == nil
		})
	}
	out := server.mustKubectl(t, "logs", "-l", "app=web", "--tail=1", "--prefix")
	if strings.Count(out, "demo answers") != 6 {
		t.Errorf("logs from all nodes: %s", out)
	}
	testNodeLoss(t, server, hosts[2])
	for i, h := range slices.Backward(hosts) {
		h.knarr(t, "uninstall", "--yes", "--data-dir", h.dataDir)
		if _, err := os.Stat(h.dataDir); !os.IsNotExist(err) {
			t.Errorf("%s: the data directory is still there: %v", h.netns, err)
		}
		after := traces(t, h)
		for what, was := range before[i] {
			if after[what] != was {
				t.Errorf("%s: %s\nbefore:\n%s\nafter:\n%s", h.netns, what, was, after[what])
			}
		}
	}
}

func nodesOf(t *testing.T, h *host) []string {
	t.Helper()
	names := strings.Fields(h.mustKubectl(t, "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}"))
	slices.Sort(names)
	return slices.Compact(names)
}

// testNodeLoss kills a node's processes and waits for its pods to move; the
// pods' toleration of an absent node is shortened from five minutes.
func testNodeLoss(t *testing.T, server, lost *host) {
	t.Helper()
	server.mustKubectl(t, "patch", "deployment", "web", "-p", `{"spec":{"template":{"spec":{"tolerations":[
		{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":1},
		{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":1}]}}}}`)
	server.mustKubectl(t, "rollout", "status", "deployment/web", "--timeout=180s")
	kill(t, pidOf(t, lost), syscall.SIGKILL)
	eventually(t, "the pods have moved", func() (string, bool) {
		out, _ := server.kubectl("get", "pods", "-l", "app=web", "-o", "wide", "--no-headers")
		moved := 0
		for line := range strings.Lines(out) {
			if strings.Contains(line, " 1/1 ") && strings.Contains(line, " Running ") && !strings.Contains(line, lost.netns) {
				moved++
			}
		}
		return out, moved == 6
	})
}
