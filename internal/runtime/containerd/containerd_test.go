package containerd_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/network/cni"
	"knarr.dev/knarr/internal/runtime/containerd"
	"knarr.dev/knarr/internal/runtime/images"
)

const (
	pause   = "registry.knarr.dev/pause:1"
	busybox = "registry.knarr.dev/busybox:1"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it runs containers")
	}
	if testing.Short() {
		t.Skip("runs containers; not in -short")
	}
	for _, p := range []string{"containerd", "runc"} {
		if _, err := containerd.Find(p); err != nil {
			t.Fatalf("%v: apt-get install containerd runc", err)
		}
	}
}

// imageDir holds the images' archives; built makes them once per test run.
var imageDir string

var built = sync.OnceValue(func() error {
	cmd := exec.Command("go", "run", "-tags", "grpcnotrace", "knarr.dev/knarr/images/build", "-out", imageDir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("images: %w: %s", err, out)
	}
	return nil
})

func TestMain(m *testing.M) {
	if cni.Called(os.Args[0]) {
		os.Exit(cni.Main())
	}
	dir, err := os.MkdirTemp("", "knarr-images")
	if err != nil {
		panic(err)
	}
	imageDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func archives(t *testing.T) string {
	t.Helper()
	if err := built(); err != nil {
		t.Fatal(err)
	}
	return imageDir
}

// instance is a runtime under test with its supervisor.
type instance struct {
	*containerd.Runtime
	cfg  containerd.Config
	stop func() // ends the supervisor, as the death of knarr would
}

func config(t *testing.T, name string) containerd.Config {
	t.Helper()
	// Short, for the socket's sake; t.TempDir has long names.
	dir, err := os.MkdirTemp("", "knarr-"+name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return containerd.Config{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"),
		CNIConfDir: filepath.Join(dir, "net.d"), CNIBinDir: filepath.Join(dir, "bin"),
		SandboxImage: pause, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Helper()
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// run starts a supervisor. Whatever the test does, everything is cleaned.
func run(t *testing.T, cfg containerd.Config) *instance {
	t.Helper()
	return runIn(t, cfg, func(fn func() error) error { return fn() })
}

// runIn is run in whatever place in calls a function in.
func runIn(t *testing.T, cfg containerd.Config, in func(func() error) error) *instance {
	t.Helper()
	r, err := containerd.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- in(func() error { return r.Run(ctx) }) }()
	inst := &instance{Runtime: r, cfg: cfg}
	stopped := false
	inst.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
	}
	t.Cleanup(func() {
		inst.stop()
		if err := r.Clean(context.Background()); err != nil {
			t.Errorf("Clean: %v", err)
		}
	})
	select {
	case <-r.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("Run: %v", err)
	case <-time.After(90 * time.Second):
		t.Fatal("containerd does not become ready")
	}
	return inst
}

func (in *instance) cri(t *testing.T) (runtimeapi.RuntimeServiceClient, runtimeapi.ImageServiceClient) {
	t.Helper()
	conn, err := grpc.NewClient(in.Endpoint(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
}

func (in *instance) socket() string { return strings.TrimPrefix(in.Endpoint(), "unix://") }

// pod starts a sandbox on the host's network and a busybox container in it,
// which sleeps; it returns their IDs.
func (in *instance) pod(t *testing.T, name string) (sandbox, container string) {
	t.Helper()
	cri, _ := in.cri(t)
	ctx := t.Context()
	pod := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default"}, LogDirectory: filepath.Join(in.cfg.Root, "logs"),
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: "/knarr-test-" + filepath.Base(filepath.Dir(in.cfg.Root)) + "/pod-" + name,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{
				Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER,
			}},
		},
	}
	s, err := cri.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pod})
	if err != nil {
		t.Fatalf("RunPodSandbox: %v", err)
	}
	c, err := cri.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: s.PodSandboxId, SandboxConfig: pod, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: busybox},
		Command: []string{"/bin/sleep", "1000000"}, LogPath: "c.log",
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: pod.Linux.SecurityContext.NamespaceOptions}},
	}})
	if err != nil {
		t.Fatalf("CreateContainer: %v", err)
	}
	if _, err := cri.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		t.Fatalf("StartContainer: %v", err)
	}
	return s.PodSandboxId, c.ContainerId
}

func (in *instance) state(t *testing.T, container string) *runtimeapi.ContainerStatus {
	t.Helper()
	cri, _ := in.cri(t)
	st, err := cri.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: container})
	if err != nil {
		t.Fatalf("ContainerStatus: %v", err)
	}
	return st.Status
}

func (in *instance) exec(t *testing.T, container string, args ...string) string {
	t.Helper()
	cri, _ := in.cri(t)
	out, err := cri.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: container, Cmd: args, Timeout: 60})
	if err != nil {
		t.Fatalf("ExecSync %v: %v", args, err)
	}
	return string(out.Stdout)
}

// pid of the instance's containerd, from its record.
func (in *instance) pid(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(in.cfg.State, "containerd.json"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscanf(string(data), `{"pid":%d`, &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// within polls a condition that another process brings about; the limit is for
// a machine that is very busy.
func within(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	const limit = time.Minute
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
		<-tick.C
	}
	return time.Since(began)
}

func TestContainersOutliveKnarrAndContainerd(t *testing.T) {
	needRoot(t)
	dir := archives(t)
	in := run(t, config(t, "a"))
	// The second time nothing is to be done: the beginnings of the archives are
	// enough.
	for _, dir := range []string{dir, beginnings(t, dir)} {
		list, err := images.ImportDir(t.Context(), in.socket(), dir)
		if err != nil || len(list) != 3 {
			t.Fatalf("import: %v %v", list, err)
		}
	}
	_, c := in.pod(t, "one")
	if got := in.exec(t, c, "/bin/echo", "hello"); got != "hello\n" {
		t.Errorf("exec: %q", got)
	}
	started := in.state(t, c).StartedAt

	// containerd dies.
	pid := in.pid(t)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	back := within(t, "containerd comes back", func() bool {
		return in.pid(t) != pid && answers(t, in)
	})
	t.Logf("containerd back after %s", back)
	if st := in.state(t, c); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING || st.StartedAt != started {
		t.Errorf("after containerd's death: %v", st)
	}

	// knarr dies: its supervisor ends, a new one adopts.
	pid = in.pid(t)
	in.stop()
	next := run(t, in.cfg)
	if next.pid(t) != pid {
		t.Errorf("containerd %d was not adopted: now %d", pid, next.pid(t))
	}
	if got := next.exec(t, c, "/bin/cat", "/proc/1/comm"); got != "sleep\n" {
		t.Errorf("exec after adoption: %q", got)
	}
	// And an adopted one is restarted as well.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	within(t, "adopted containerd comes back", func() bool { return next.pid(t) != pid && answers(t, next) })

	// A changed configuration restarts containerd, not the container.
	next.stop()
	changed := next.cfg
	changed.SandboxImage = "registry.knarr.dev/pause:2"
	pid = next.pid(t)
	third := run(t, changed)
	if third.pid(t) == pid {
		t.Error("containerd was adopted although its configuration changed")
	}
	if st := third.state(t, c); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING || st.StartedAt != started {
		t.Errorf("after a change of configuration: %v", st)
	}

	// Nobody but root gets at the socket, and only one knarr at the instance.
	for path, mode := range map[string]fs.FileMode{third.socket(): 0o600, third.cfg.Root: 0o700, third.cfg.State: 0o700} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, want mode %o", path, st.Mode(), err, mode)
		}
	}
	if err := third.Stop(t.Context(), false); !errors.Is(err, containerd.ErrBusy) {
		t.Errorf("Stop beside Run: %v", err)
	}

	third.stop()
	sockets := third.shimSockets(t)
	if err := third.Stop(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if answers(t, third) {
		t.Error("containerd answers after Stop")
	}
	if err := third.Clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := third.leftovers(t, sockets); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

func answers(t *testing.T, in *instance) bool {
	cri, _ := in.cri(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := cri.Version(ctx, &runtimeapi.VersionRequest{})
	return err == nil
}

// beginnings copies the first kilobytes of archives, which cannot be loaded.
func beginnings(t *testing.T, dir string) string {
	t.Helper()
	out := t.TempDir()
	files, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(out, filepath.Base(f)), data[:32<<10], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// shimSockets of an instance; they lie where every containerd's do.
func (in *instance) shimSockets(t *testing.T) []string {
	t.Helper()
	var out []string
	files, _ := filepath.Glob(filepath.Join(in.cfg.State, "state", "io.containerd.runtime.v2.task", "*", "*", "address"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		path := strings.TrimPrefix(strings.TrimSpace(string(data)), "unix://")
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
		out = append(out, path)
	}
	if len(out) == 0 {
		t.Fatal("no shim has a socket")
	}
	return out
}

// leftovers lists what an uninstalled runtime must not leave behind: mounts,
// cgroups, shims, sockets.
func (in *instance) leftovers(t *testing.T, sockets []string) string {
	t.Helper()
	var b strings.Builder
	own := filepath.Dir(in.cfg.Root)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, own+"/") {
			b.WriteString(line)
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/knarr-test-" + filepath.Base(own))
	for _, path := range append(groups, sockets...) {
		if _, err := os.Lstat(path); err == nil {
			fmt.Fprintln(&b, path)
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if data, err := os.ReadFile(p); err == nil && strings.Contains(string(data), own+"/") {
			fmt.Fprintf(&b, "%s: %q\n", p, data)
		}
	}
	return b.String()
}

// TestTwoInstances shows that cleaning one leaves the other alone, also when
// containerd was killed before.
func TestTwoInstances(t *testing.T) {
	needRoot(t)
	dir := archives(t)
	a, b := run(t, config(t, "a")), run(t, config(t, "b"))
	for _, in := range []*instance{a, b} {
		if _, err := images.ImportDir(t.Context(), in.socket(), dir); err != nil {
			t.Fatal(err)
		}
	}
	a.pod(t, "one")
	_, keep := b.pod(t, "one")
	pid := a.pid(t)
	a.stop()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := a.Clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(a.cfg.Root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("root is still there: %v", err)
	}
	if st := b.state(t, keep); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the other instance's container: %v", st)
	}
	if got := b.exec(t, keep, "/bin/echo", "alive"); got != "alive\n" {
		t.Errorf("exec in the other instance: %q", got)
	}
	if err := a.Clean(t.Context()); err != nil {
		t.Errorf("cleaning twice: %v", err)
	}
}

// TestWrongSetup: what cannot start says why, with containerd's own words.
func TestWrongSetup(t *testing.T) {
	needRoot(t)
	cfg := config(t, "a")
	r, err := containerd.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	// Something else sits where containerd wants its directory.
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Root, "root"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("Run: %v", err)
	}
}

func TestListener(t *testing.T) {
	needRoot(t)
	in := run(t, config(t, "a"))
	pid := in.pid(t)
	// Sockets of the process, against the table of TCP listeners.
	tcp, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		t.Fatal(err)
	}
	tcp6, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp6", pid))
	if err != nil {
		t.Fatal(err)
	}
	inodes := map[string]string{}
	for line := range strings.Lines(string(tcp) + string(tcp6)) {
		if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" {
			inodes["socket:["+f[9]+"]"] = f[1]
		}
	}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		link, _ := os.Readlink(fd)
		if addr, ok := inodes[link]; ok && !strings.HasPrefix(addr, "0100007F:") {
			t.Errorf("containerd listens on %s", addr)
		}
	}
	abstract, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", pid))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(abstract), "@"+in.cfg.State) || strings.Contains(string(abstract), "@/containerd-shim") {
		t.Error("an abstract socket is open")
	}
	if _, err := net.Dial("unix", in.socket()); err != nil {
		t.Error(err)
	}
}
