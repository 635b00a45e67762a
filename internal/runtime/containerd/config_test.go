package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"knarr.dev/knarr/internal/runtime/registry"
)

func valid() Config {
	return Config{Root: "/r", State: "/s", CNIConfDir: "/n", CNIBinDir: "/b", SandboxImage: "registry.knarr.dev/pause:1"}
}

func TestNew(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"relative root":   func(c *Config) { c.Root = "r" },
		"no state":        func(c *Config) { c.State = "" },
		"root is state":   func(c *Config) { c.State = "/r/" },
		"long socket":     func(c *Config) { c.State = "/" + strings.Repeat("s", 90) },
		"no image":        func(c *Config) { c.SandboxImage = "" },
		"mirror of what":  func(c *Config) { c.Registries.Mirrors = map[string][]string{"../x": {"https://m"}} },
		"mirror scheme":   func(c *Config) { c.Registries.Mirrors = map[string][]string{"docker.io": {"ftp://m"}} },
		"mirror password": func(c *Config) { c.Registries.Mirrors = map[string][]string{"docker.io": {"https://u:p@m"}} },
		"insecure path":   func(c *Config) { c.Registries.Insecure = []string{"host/path"} },
		"insecure quote":  func(c *Config) { c.Registries.Insecure = []string{"a\"\nb"} },
		"CA of what":      func(c *Config) { c.Registries.CAs = map[string]string{"a/b": "/etc/passwd"} },
		"CA that is none": func(c *Config) { c.Registries.CAs = map[string]string{"a": "/etc/passwd"} },
		"CA is not there": func(c *Config) { c.Registries.CAs = map[string]string{"a": "/nothing"} },
	} {
		c := valid()
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	c := valid()
	c.State, c.Socket = "/"+strings.Repeat("s", 120), "/run/k.sock"
	c.Registries.Mirrors, c.Registries.Insecure = map[string][]string{"docker.io": {"https://mirror.example:5000/v2"}}, []string{"localhost:5000", "[::1]:5000"}
	if r, err := New(c); err != nil || r.Endpoint() != "unix:///run/k.sock" {
		t.Errorf("a short socket beside a long state: %v", err)
	}
}

// TestRender: what a user configured stays a string, whatever is in it.
func TestRender(t *testing.T) {
	c := valid()
	c.SandboxImage = "x\"\n[plugins.evil]\n\\"
	out := string(c.render(machine{snapshotter: "overlayfs"}, programs{runc: "/usr/sbin/runc"}))
	if strings.Contains(out, "\n[plugins.evil]") || !strings.Contains(out, `sandbox_image = "x\"\u000A[plugins.evil]\u000A\\"`) {
		t.Errorf("%s", out)
	}
	for facts, want := range map[machine][]string{
		{snapshotter: "overlayfs"}: {"oom_score = 0", "restrict_oom_score_adj = true", "disable_apparmor = true", "disable_hugetlb_controller = true", "SystemdCgroup = false"},
		{snapshotter: "native", capResource: true, oomScore: -999, apparmor: true, hugetlb: true}: {"oom_score = -999", "restrict_oom_score_adj = false",
			"disable_apparmor = false", "disable_hugetlb_controller = false", `snapshotter = "native"`},
	} {
		out := string(valid().render(facts, programs{}))
		for _, w := range append(want, "netns_mounts_under_state_dir = true", `stream_server_address = "127.0.0.1"`) {
			if !strings.Contains(out, w) {
				t.Errorf("%+v: no %s", facts, w)
			}
		}
	}
}

func TestHostsToml(t *testing.T) {
	r := registry.Hosts{
		Mirrors:  map[string][]string{"docker.io": {"https://m1", "http://m2/x"}},
		Insecure: []string{"r:5000"}, CAs: map[string]string{"m1": "/ca1", "own": "/ca2"},
	}
	for host, want := range map[string]string{
		"docker.io": "server = \"https://registry-1.docker.io\"\n[host.\"https://m1\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"/ca1\"\n[host.\"http://m2/x\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
		"r:5000":    "server = \"http://r:5000\"\n[host.\"http://r:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
		"r":         "server = \"https://r\"\n",
		"own":       "server = \"https://own\"\n[host.\"https://own\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"/ca2\"\n",
	} {
		if got := string(hostsToml(r, host)); got != want {
			t.Errorf("%s: %s", host, got)
		}
	}
}

// fakeMachine lays out what detect reads.
func fakeMachine(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		path, content, _ := strings.Cut(f, "=")
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDetect(t *testing.T) {
	var v1 []string
	for _, c := range []string{"cpu,cpuacct", "memory", "pids", "devices", "freezer"} {
		v1 = append(v1, "sys/fs/cgroup/"+c+"/cgroup.procs=")
	}
	root := t.TempDir()
	m, err := detect(fakeMachine(t, append(v1, "proc/self/status=CapEff:\t000001fffeffffff\n")...), root)
	if err != nil || m.cgroupV2 || m.hugetlb || m.capResource || m.oomScore != 0 {
		t.Errorf("v1 without CAP_SYS_RESOURCE: %+v %v", m, err)
	}
	m, err = detect(fakeMachine(t, "sys/fs/cgroup/cgroup.controllers=cpu memory pids hugetlb\n", "proc/self/status=CapEff:\t000001ffffffffff\n"), root)
	if err != nil || !m.cgroupV2 || !m.hugetlb || !m.capResource || m.oomScore != -999 {
		t.Errorf("v2: %+v %v", m, err)
	}
	for name, files := range map[string][]string{"none": nil, "v1 without memory": v1[:1], "v2 without pids": {"sys/fs/cgroup/cgroup.controllers=cpu memory"}} {
		if _, err := detect(fakeMachine(t, files...), root); err == nil || !strings.Contains(err.Error(), "cgroup controller") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMissingPrograms(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := Find("no-such-program"); !errors.Is(err, ErrMissing) {
		t.Errorf("%v", err)
	}
}

func TestMountPoints(t *testing.T) {
	info := "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:1 / /data/c rw - tmpfs x rw\n3 2 0:1 / /data/c/a\\040b rw - tmpfs x rw\n4 1 0:1 / /data/cc/x rw - tmpfs x rw\n5 3 0:1 / /data/c/a\\040b/deep rw - tmpfs x rw\n"
	got := mountPoints([]byte(info), []string{"/data/c/"})
	if fmt.Sprint(got) != "[/data/c/a b /data/c/a b/deep]" {
		t.Errorf("%q", got)
	}
}

// TestLogBound: a log that grew too long is cut to its end while the writer
// holds it open.
func TestLogBound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	l, err := newLogFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.bound(ctx, slog.New(slog.DiscardHandler)) }()
	line := bytes.Repeat([]byte("x"), 1<<20)
	line[len(line)-1] = '\n'
	for range 3 * maxLog / len(line) {
		if _, err := w.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	<-done
	if err := l.cut(maxLog); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("the end\n"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, path + ".1"} {
		if st, err := os.Stat(p); err != nil || st.Size() > maxLog+1<<20 {
			t.Errorf("%s: %v %v", p, st, err)
		}
	}
	if got := lastLine(path); got != "the end" {
		t.Errorf("last line %q", got)
	}
}
