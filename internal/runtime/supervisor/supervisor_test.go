package supervisor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/runtime/supervisor"
)

// executable is built once for all tests.
var executable = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "supervisor")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "knarr-supervisor")
	cmd := exec.Command("make", "-C", "../../..", "supervisor", "BIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := executable(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// node is a supervisor with containers of busybox.
type node struct {
	*supervisor.Process
	t    testing.TB
	dir  string
	exe  string
	ctx  context.Context
	stop func()
	// handler runs the containers; nil is our own engine.
	handler *supervisor.Handler
}

// engines runs a test with our own engine, and with an executable.
func engines(t *testing.T, test func(t *testing.T, n *node)) {
	t.Run("own", func(t *testing.T) { test(t, start(t)) })
	t.Run("runc", func(t *testing.T) {
		path, err := exec.LookPath("runc")
		if err != nil {
			t.Skip(err)
		}
		n := start(t)
		n.handler = &supervisor.Handler{Name: "runc", Path: path}
		test(t, n)
	})
}

func start(t testing.TB) *node {
	t.Helper()
	if testing.Short() {
		t.Skip("starts containers")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	exe, err := executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "sup")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: dir, exe: exe}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "proc", "sys", "dev", "tmp"} {
		os.MkdirAll(filepath.Join(dir, "root", d), 0o755)
	}
	if err := os.WriteFile(filepath.Join(dir, "root/bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	os.Symlink("busybox", filepath.Join(dir, "root/bin/sh"))
	n.Process, err = supervisor.New(supervisor.Config{Executable: func() (*os.File, error) { return os.Open(exe) }, Dir: filepath.Join(dir, "run"), Logs: filepath.Join(dir, "log"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.ctx = ctx
	ready := make(chan struct{}, 16)
	done := make(chan error, 1)
	go func() {
		done <- n.Run(ctx, func(<-chan struct{}) {
			select {
			case ready <- struct{}{}:
			default:
			}
		})
	}()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pid := n.pid()
		n.removeAll()
		cancel()
		<-done
		unix.Kill(pid, unix.SIGTERM)
		out, _ := os.ReadFile(filepath.Join(dir, "log"))
		if len(out) > 0 {
			t.Logf("supervisor: %s", out)
		}
		os.RemoveAll(dir)
		for _, c := range cgroups(n.parent()) {
			os.Remove(c)
		}
	})
	return n
}

func (n *node) pid() int {
	n.t.Helper()
	for range 1000 {
		if h, err := n.Hello(n.ctx); err == nil {
			return h.PID
		}
		<-time.After(5 * time.Millisecond)
	}
	n.t.Fatal("no supervisor")
	return 0
}

// parent of the containers' cgroups.
func (n *node) parent() string { return "/" + filepath.Base(n.dir) }

func cgroups(path string) []string {
	found, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	more, _ := filepath.Glob("/sys/fs/cgroup" + path)
	return append(found, more...)
}

// spec is a small container with a shell command.
func (n *node) spec(id, script string) *specs.Spec {
	return &specs.Spec{
		Version: "1.2.0",
		Root:    &specs.Root{Path: filepath.Join(n.dir, "root"), Readonly: true},
		Process: &specs.Process{Args: []string{"/bin/sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: n.parent() + "/" + id,
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}},
		},
	}
}

func (n *node) bundle(id string, spec *specs.Spec) supervisor.Run {
	n.t.Helper()
	dir := filepath.Join(n.dir, "bundles", id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		n.t.Fatal(err)
	}
	b, err := json.Marshal(spec)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		n.t.Fatal(err)
	}
	return supervisor.Run{Bundle: dir, Log: filepath.Join(dir, "log"), Handler: n.handler}
}

func (n *node) run(id, script string) supervisor.Container {
	n.t.Helper()
	c, err := n.Run_(id, n.bundle(id, n.spec(id, script)))
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

// Run_ runs a container: Process.Run is the supervisor's.
func (n *node) Run_(id string, r supervisor.Run) (supervisor.Container, error) {
	return n.Client.Run(n.ctx, id, r)
}

func (n *node) exit(id, exec string) supervisor.Exit {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.ctx, time.Minute)
	defer cancel()
	e, err := n.Wait(ctx, id, exec)
	if err != nil {
		n.t.Fatal(err)
	}
	return e
}

// log of a container without the times.
func (n *node) log(id string) string {
	b, _ := os.ReadFile(filepath.Join(n.dir, "bundles", id, "log"))
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		at, text, _ := strings.Cut(line, " ")
		if _, err := time.Parse(time.RFC3339Nano, at); err != nil {
			n.t.Errorf("log of %s: line %q has no time", id, line)
		}
		out.WriteString(text)
	}
	return out.String()
}

func (n *node) list() map[string]supervisor.Container {
	n.t.Helper()
	all := map[string]supervisor.Container{}
	ctx, cancel := context.WithTimeout(n.ctx, 10*time.Second)
	defer cancel()
	n.Events(ctx, func(c supervisor.Container) { all[c.ID] = c }, cancel)
	return all
}

func (n *node) removeAll() {
	for id := range n.list() {
		n.Signal(n.ctx, id, "", int(unix.SIGKILL))
		n.exit(id, "")
		if err := n.Delete(n.ctx, id); err != nil {
			n.t.Errorf("cannot delete %s: %v", id, err)
		}
	}
	for _, c := range cgroups(n.parent() + "/*") {
		if info, err := os.Stat(c); err == nil && info.IsDir() {
			n.t.Errorf("cgroup %s is left", c)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(n.dir, "run/c/*")); len(left) > 0 {
		n.t.Errorf("left: %v", left)
	}
	for _, state := range []string{"run/oci/*", "run/handlers/*/*", "run/t/*"} {
		if left, _ := filepath.Glob(filepath.Join(n.dir, state)); len(left) > 0 {
			n.t.Errorf("left: %v", left)
		}
	}
}

func TestRun(t *testing.T) { engines(t, testRun) }

func testRun(t *testing.T, n *node) {
	c := n.run("one", "echo out; echo err >&2; printf unended; exit 3")
	if c.PID == 0 || c.Ticks == 0 || c.Started.IsZero() {
		t.Errorf("incomplete: %+v", c)
	}
	e := n.exit("one", "")
	if e.Code != 3 || !e.Known || e.OOM || e.At.Before(c.Started) {
		t.Errorf("exit %+v, want code 3", e)
	}
	log := n.log("one")
	for _, line := range []string{"stdout F out\n", "stderr F err\n", "stdout P unended\n"} {
		if !strings.Contains(log, line) {
			t.Errorf("log %q lacks %q", log, line)
		}
	}
	if got := n.list()["one"]; got.Exit == nil || got.Exit.Code != 3 {
		t.Errorf("listed as %+v", got)
	}
	if _, err := n.Run_("one", n.bundle("one", n.spec("one", "true"))); !supervisor.Is(err, supervisor.Exists) {
		t.Errorf("a second container of the name: %v", err)
	}
	n.run("killed", "while :; do /bin/busybox sleep 100; done")
	if err := n.Delete(n.ctx, "killed"); !supervisor.Is(err, supervisor.State) {
		t.Errorf("a container that runs was deleted: %v", err)
	}
	if err := n.Signal(n.ctx, "killed", "", int(unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	if e := n.exit("killed", ""); e.Code != 137 || !e.Known {
		t.Errorf("exit %+v, want code 137", e)
	}
}

// TestName: ps shows the supervisor by its name, not by that of its copy in memory.
func TestName(t *testing.T) {
	n := start(t)
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", n.pid()))
	if err != nil || string(comm) != "knarr-superviso\n" {
		t.Errorf("it is called %q, %v", comm, err)
	}
}

func TestRefused(t *testing.T) {
	n := start(t)
	good := n.spec("x", "true")
	for name, change := range map[string]func(*specs.Spec){
		"no such program":   func(s *specs.Spec) { s.Process.Args = []string{"/nothing"} },
		"no command":        func(s *specs.Spec) { s.Process.Args = nil },
		"relative cwd":      func(s *specs.Spec) { s.Process.Cwd = "tmp" },
		"relative root":     func(s *specs.Spec) { s.Root.Path = "root" },
		"no such root":      func(s *specs.Spec) { s.Root.Path = "/nothing/here" },
		"no such namespace": func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "/nothing" },
		"no such source": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "bind", Source: "/nothing", Options: []string{"bind"}})
		},
		"unknown limit": func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NONE"}} },
	} {
		t.Run(name, func(t *testing.T) {
			var s specs.Spec
			b, _ := json.Marshal(good)
			json.Unmarshal(b, &s)
			change(&s)
			if _, err := n.Run_("x", n.bundle("x", &s)); err == nil {
				t.Error("it runs")
			} else {
				t.Log(err)
			}
			if all := n.list(); len(all) != 0 {
				t.Errorf("left: %v", all)
			}
		})
	}
	n.run("x", "exit 0") // the name is free, and everything works
	n.exit("x", "")
	for name, err := range map[string]error{
		"id":      n.Signal(n.ctx, "../x", "", 9),
		"missing": n.Signal(n.ctx, "y", "", 9),
		"signal":  n.Signal(n.ctx, "x", "", 99),
		"exec":    n.Signal(n.ctx, "x", "e", 9),
		"update":  n.Update(n.ctx, "x", &specs.LinuxResources{}),
		"reopen":  n.Reopen(n.ctx, "x"),
		"resize":  n.Resize(n.ctx, "x", supervisor.Size{}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestExec(t *testing.T) { engines(t, testExec) }

func testExec(t *testing.T, n *node) {
	n.run("c", "/bin/busybox sleep 1000")
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	null, _ := os.Open(os.DevNull)
	pid, _, err := n.Exec(n.ctx, "c", "e1", &specs.Process{Args: []string{"/bin/sh", "-c", "echo $HELLO; exit 7"}, Cwd: "/", Env: []string{"HELLO=hi"}}, [3]*os.File{null, w, w})
	w.Close()
	if err != nil || pid == 0 {
		t.Fatal(pid, err)
	}
	b, _ := io.ReadAll(out)
	if string(b) != "hi\n" {
		t.Errorf("output %q", b)
	}
	if e := n.exit("c", "e1"); e.Code != 7 || !e.Known {
		t.Errorf("exit %+v, want 7", e)
	}
	if _, err := n.Wait(n.ctx, "c", "e1"); !supervisor.Is(err, supervisor.NotFound) {
		t.Errorf("the end was told twice: %v", err)
	}
	// With a terminal.
	_, console, err := n.Exec(n.ctx, "c", "e2", &specs.Process{Args: []string{"/bin/sh", "-c", "test -t 0 && read x && echo got $x"}, Cwd: "/", Terminal: true, ConsoleSize: &specs.Box{Width: 80, Height: 24}}, [3]*os.File{})
	if err != nil {
		t.Fatal(err)
	}
	console.WriteString("word\n")
	b, _ = io.ReadAll(console)
	console.Close()
	if !bytes.Contains(b, []byte("got word")) {
		t.Errorf("terminal shows %q", b)
	}
	n.exit("c", "e2")
}

// What a command has started ends with it when it is killed.
func TestExecKilled(t *testing.T) { engines(t, testExecKilled) }

func testExecKilled(t *testing.T, n *node) {
	c := n.run("c", "/bin/busybox sleep 1000")
	null, _ := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	pid, _, err := n.Exec(n.ctx, "c", "e", &specs.Process{Args: []string{"/bin/sh", "-c", "/bin/busybox sleep 2000; true"}, Cwd: "/"}, [3]*os.File{null, null, null})
	if err != nil {
		t.Fatal(err)
	}
	children := func() int {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		return len(strings.Fields(string(b)))
	}
	for children() == 0 {
		<-time.After(time.Millisecond)
	}
	if err := n.Signal(n.ctx, "c", "e", int(unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	if e := n.exit("c", "e"); e.Code != 137 {
		t.Errorf("exit %+v", e)
	}
	procs := func() string {
		b, _ := os.ReadFile("/sys/fs/cgroup/pids" + n.parent() + "/c/cgroup.procs")
		if b == nil {
			b, _ = os.ReadFile("/sys/fs/cgroup" + n.parent() + "/c/cgroup.procs")
		}
		return strings.TrimSpace(string(b))
	}
	for end := time.After(5 * time.Second); procs() != fmt.Sprint(c.PID); {
		select {
		case <-end:
			t.Fatalf("processes %q, want only %d", procs(), c.PID)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestAttach(t *testing.T) { engines(t, testAttach) }

func testAttach(t *testing.T, n *node) {
	r := n.bundle("c", n.spec("c", "while read x; do echo said $x; done; echo end"))
	r.Stdin, r.Once = true, true
	if _, err := n.Run_("c", r); err != nil {
		t.Fatal(err)
	}
	inR, inW, _ := os.Pipe()
	outR, outW, _ := os.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- n.Attach(n.ctx, "c", supervisor.Attach{Stdin: true, Stdout: true}, [3]*os.File{inR, outW, outW})
		outW.Close()
	}()
	inW.WriteString("this\n")
	inW.Close()
	b, _ := io.ReadAll(outR)
	if string(b) != "said this\nend\n" {
		t.Errorf("attached, and got %q", b)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if e := n.exit("c", ""); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	if got := n.log("c"); got != "stdout F said this\nstdout F end\n" {
		t.Errorf("log %q", got)
	}
}

// typed attaches, types a line and reads until the answer, or to the end.
func (n *node) typed(id, line, want string) {
	n.t.Helper()
	inR, inW, _ := os.Pipe()
	outR, outW, _ := os.Pipe()
	ctx, cancel := context.WithTimeout(n.ctx, time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- n.Attach(ctx, id, supervisor.Attach{Stdin: true, Stdout: true}, [3]*os.File{inR, outW, outW})
		outW.Close()
	}()
	inW.WriteString(line + "\n")
	var got strings.Builder
	for buf := make([]byte, 256); want == "" || !strings.Contains(got.String(), want); {
		k, err := outR.Read(buf)
		if err != nil && want == "" {
			break
		}
		if err != nil {
			n.t.Fatalf("%s answered %q, want %q (%v)", id, got.String(), want, <-done)
		}
		got.Write(buf[:k])
	}
	cancel()
	<-done
	inW.Close()
	outR.Close()
}

func (n *node) kill() {
	pid := n.pid()
	unix.Kill(pid, unix.SIGKILL)
	for n.pid() == pid {
		<-time.After(time.Millisecond)
	}
}

// TestTyped: terminals and standard inputs outlive the supervisor, and their
// holders end.
func TestTyped(t *testing.T) {
	n := start(t)
	for _, id := range []string{"terminal", "input", "once"} {
		spec := n.spec(id, "while read x; do echo said $x; done; exit 3")
		spec.Process.Terminal = id == "terminal"
		r := n.bundle(id, spec)
		r.Stdin, r.Once = true, id == "once"
		if _, err := n.Run_(id, r); err != nil {
			t.Fatal(err)
		}
	}
	holders := map[string]int{}
	for id := range n.list() {
		var r struct{ Holder struct{ PID int } }
		b, err := os.ReadFile(filepath.Join(n.dir, "run/c", id, "container.json"))
		if err != nil || json.Unmarshal(b, &r) != nil || r.Holder.PID == 0 {
			t.Fatalf("%s has no holder: %s %v", id, b, err)
		}
		holders[id] = r.Holder.PID
	}
	exe, err := os.Open(n.exe)
	if err != nil {
		t.Fatal(err)
	}
	for i, disturb := range []func(){func() {}, n.kill, n.kill, func() {
		if err := n.Replace(n.ctx, exe); err != nil {
			t.Fatal(err)
		}
	}, n.kill} {
		disturb()
		for _, id := range []string{"terminal", "input"} {
			n.typed(id, fmt.Sprint("line ", i), fmt.Sprint("said line ", i))
		}
	}
	n.typed("terminal", "\x04", "") // the end of what is typed
	n.typed("once", "last", "said last")
	if err := n.Signal(n.ctx, "input", "", int(unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	for id, code := range map[string]int{"terminal": 3, "once": 3, "input": 128 + 9} {
		if e := n.exit(id, ""); e.Known && e.Code != code || !e.Known && kernelTells() {
			t.Errorf("%s: exit %+v, want %d", id, e, code)
		}
		for {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", holders[id]))
			if err != nil || !strings.Contains(string(stat), "hold") {
				break
			}
			<-time.After(time.Millisecond)
		}
	}
}

// counting writes numbered lines, with a pause now and then, once all are let go.
func counting(lines, code int) string {
	return fmt.Sprintf("while ! [ -e /tmp/go ]; do /bin/busybox usleep 5000; done; i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); [ $((i%%50)) = 0 ] && /bin/busybox usleep 20000; done; exit %d", lines, code)
}

func (n *node) letGo() {
	if err := os.WriteFile(filepath.Join(n.dir, "root/tmp/go"), nil, 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// counted checks the log of a container that counted: all lines in their order.
// What a supervisor has read and not yet written is lost if it is killed: a few
// may be missing then.
func (n *node) counted(id string, lines, missing int) {
	n.t.Helper()
	next, lost := 0, 0
	for line := range strings.Lines(n.log(id)) {
		var i int
		if _, err := fmt.Sscanf(line, "stdout F line %d\n", &i); err != nil || i < next || i >= lines {
			n.t.Errorf("%s: %q where line %d should be", id, line, next)
			return
		}
		lost += i - next
		next = i + 1
	}
	if lost += lines - next; lost > missing {
		n.t.Errorf("%s: %d of %d lines are not in the log", id, lost, lines)
	}
}

func TestReplace(t *testing.T) { engines(t, testReplace) }

func testReplace(t *testing.T, n *node) {
	const many, lines = 20, 3000
	for i := range many {
		n.run(fmt.Sprintf("c%d", i), counting(lines, i))
	}
	null, _ := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if _, _, err := n.Exec(n.ctx, "c0", "e", &specs.Process{Args: []string{"/bin/sh", "-c", "while ! [ -e /tmp/go ]; do /bin/busybox usleep 5000; done; /bin/busybox usleep 500000; exit 9"}, Cwd: "/"}, [3]*os.File{null, null, null}); err != nil {
		t.Fatal(err)
	}
	n.letGo()
	before := n.pid()
	waited := make(chan supervisor.Exit, 1)
	go func() { waited <- n.exit("c0", "e") }()
	exe, err := os.Open(n.exe)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := n.Replace(n.ctx, exe); err != nil {
			t.Fatal(err)
		}
		<-time.After(50 * time.Millisecond)
	}
	// What is no executable changes nothing.
	broken, _ := os.Open("/etc/hostname")
	if err := n.Replace(n.ctx, broken); err == nil {
		t.Error("it became /etc/hostname")
	}
	if after := n.pid(); after != before {
		t.Errorf("process %d became %d", before, after)
	}
	for i := range many {
		id := fmt.Sprintf("c%d", i)
		if e := n.exit(id, ""); e.Code != i || !e.Known {
			t.Errorf("%s: exit %+v", id, e)
		}
		n.counted(id, lines, 0)
	}
	if e := <-waited; e.Code != 9 || !e.Known {
		t.Errorf("exec: exit %+v, want 9", e)
	}
}

func TestKilled(t *testing.T) { engines(t, testKilled) }

func testKilled(t *testing.T, n *node) {
	const many, lines = 20, 3000
	pids := map[string]int{}
	for i := range many {
		id := fmt.Sprintf("c%d", i)
		pids[id] = n.run(id, counting(lines, i)).PID
	}
	n.letGo()
	for range 3 {
		n.kill()
	}
	for id, c := range n.list() {
		if c.PID != pids[id] {
			t.Errorf("%s: process %d became %d", id, pids[id], c.PID)
		}
	}
	unknown := 0 // one that ended while there was no supervisor
	for i := range many {
		id := fmt.Sprintf("c%d", i)
		e := n.exit(id, "")
		if !e.Known {
			unknown++
		} else if e.Code != i {
			t.Errorf("%s: exit %+v", id, e)
		}
		n.counted(id, lines, lines/10)
	}
	if unknown > many/4 && kernelTells() {
		t.Errorf("%d of %d codes are not known", unknown, many)
	}
}

// TestTold: a supervisor that is killed after it has told a program to start, and
// before it has taken note, does not keep the next one from its work.
func TestTold(t *testing.T) {
	n := start(t)
	c := n.run("one", "while :; do /bin/busybox sleep 1; done")
	fifo := filepath.Join(n.dir, "run/oci/one/exec.fifo") // libcontainer's note
	if err := unix.Mkfifo(fifo, 0o622); err != nil {
		t.Fatal(err)
	}
	n.kill()
	if got := n.list()["one"]; got.PID != c.PID || got.Exit != nil {
		t.Errorf("listed as %+v, want process %d", got, c.PID)
	}
	if _, err := os.Lstat(fifo); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the note is still there: %v", err)
	}
	n.removeAll()
}

// kernelTells reports whether the kernel tells the exit code of a process that
// is no child (Linux 6.15).
func kernelTells() bool {
	var u unix.Utsname
	unix.Uname(&u)
	var major, minor int
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	return major > 6 || major == 6 && minor >= 15
}

func TestOutOfMemory(t *testing.T) { engines(t, testOutOfMemory) }

func testOutOfMemory(t *testing.T, n *node) {
	s := n.spec("c", "x=a; while :; do x=$x$x; done")
	limit := int64(16 << 20)
	s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
	if _, err := n.Run_("c", n.bundle("c", s)); err != nil {
		t.Fatal(err)
	}
	if e := n.exit("c", ""); e.Code != 137 || !e.OOM {
		t.Errorf("exit %+v, want 137 for want of memory", e)
	}
}

// What a container with the host's processes leaves comes to the supervisor, and
// does not stay as a zombie; who is waited for is not taken from him.
func TestOrphans(t *testing.T) { engines(t, testOrphans) }

func testOrphans(t *testing.T, n *node) {
	s := n.spec("c", "i=0; while [ $i -lt 50 ]; do (/bin/busybox true &); i=$((i+1)); done; echo done; exec /bin/busybox sleep 1000")
	s.Linux.Namespaces = s.Linux.Namespaces[1:]
	if _, err := n.Run_("c", n.bundle("c", s)); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		n.run(fmt.Sprintf("e%d", i), fmt.Sprintf("exit %d", i))
	}
	for i := range 10 {
		if e := n.exit(fmt.Sprintf("e%d", i), ""); e.Code != i || !e.Known {
			t.Errorf("exit %+v, want %d", e, i)
		}
	}
	within(t, "the container has made orphans", func() bool { return strings.Contains(n.log("c"), "done") })
	n.Signal(n.ctx, "c", "", int(unix.SIGKILL))
	if e := n.exit("c", ""); e.Code != 137 || !e.Known {
		t.Errorf("exit %+v, want 137", e)
	}
	within(t, "no zombie is left", func() bool { return zombies(n.pid()) == 0 })
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
	t.Errorf("not in time: %s", what)
}

// zombies among the children of a process.
func zombies(parent int) (n int) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])); len(fields) > 1 && fields[0] == "Z" && fields[1] == strconv.Itoa(parent) {
			n++
		}
	}
	return n
}

func BenchmarkRun(b *testing.B) {
	n := start(b)
	i := 0
	for b.Loop() {
		id := fmt.Sprintf("c%d", i)
		i++
		n.run(id, "exec /bin/busybox sleep 1000")
		b.StopTimer()
		n.Signal(n.ctx, id, "", int(unix.SIGKILL))
		n.exit(id, "")
		n.Delete(n.ctx, id)
		b.StartTimer()
	}
}
