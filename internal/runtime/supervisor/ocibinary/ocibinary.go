// Package ocibinary runs OCI bundles with an executable that has OCI's command
// line: runc, crun, youki. What that starts and leaves is the supervisor's child,
// for that is the parent of orphans; so it is watched, and signalled, like a
// container of the supervisor's own engine.
package ocibinary

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // device rules on cgroup v2
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/runtime/supervisor"
	"knarr.dev/knarr/internal/runtime/supervisor/server"
)

const (
	// commandTime is for one command, hooks included: as long as a kubelet waits.
	commandTime = 2 * time.Minute
	// maxLog bounds what is read of a command's log.
	maxLog = 64 << 10
)

// Engine of one container. It implements server.Engine.
type Engine struct {
	handler supervisor.Handler
	bundle  string
	root    string // of the executable's own state
	tmp     string // of files that live as long as a command
}

// New makes the engine of a container; dir is the supervisor's.
func New(dir string, h supervisor.Handler, bundle string) *Engine {
	return &Engine{handler: h, bundle: bundle, root: filepath.Join(dir, "handlers", h.Name), tmp: tmpDir(dir)}
}

// tmpDir has a short name: sockets are made in it.
func tmpDir(dir string) string { return filepath.Join(dir, "t") }

// Clean removes what a supervisor that was killed has left of its commands.
func Clean(dir string) error { return os.RemoveAll(tmpDir(dir)) }

// Create implements server.Engine.
func (e *Engine) Create(id, bundle string, spec *specs.Spec, stdio server.Stdio) (server.Created, error) {
	return e.begin(spec.Process, stdio, func(string) ([]string, error) { return []string{"create", "--bundle", bundle}, nil }, id)
}

// Exec implements server.Engine.
func (e *Engine) Exec(id string, p *specs.Process, stdio server.Stdio) (server.Created, error) {
	return e.begin(p, stdio, func(tmp string) ([]string, error) {
		data, err := json.Marshal(p)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(tmp, "process.json")
		return []string{"exec", "--detach", "--process", file}, os.WriteFile(file, data, 0o600)
	}, id)
}

// begin runs a command that leaves a process.
func (e *Engine) begin(p *specs.Process, stdio server.Stdio, command func(tmp string) ([]string, error), id string) (server.Created, error) {
	var created server.Created
	tmp, err := e.mkdir()
	if err != nil {
		return created, err
	}
	defer os.RemoveAll(tmp)
	args, err := command(tmp)
	if err != nil {
		return created, err
	}
	pidFile := filepath.Join(tmp, "pid")
	args = append(args, "--pid-file", pidFile)
	var console <-chan terminal
	if p.Terminal {
		var stop func()
		if console, stop, err = listen(filepath.Join(tmp, "c")); err != nil {
			return created, err
		}
		defer stop()
		args = append(args, "--console-socket", filepath.Join(tmp, "c"))
		stdio = server.Stdio{}
	}
	if _, err := e.command(tmp, stdio, nil, append(args, id)...); err != nil {
		return created, err
	}
	text, err := os.ReadFile(pidFile)
	if err == nil {
		created.PID, err = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if err != nil {
		return created, fmt.Errorf("%s does not say which process it made: %w", e.handler.Path, err)
	}
	if console != nil {
		t := <-console
		if created.Console, err = t.f, t.err; err != nil {
			return created, fmt.Errorf("%s sent no terminal: %w", e.handler.Path, err)
		}
	}
	return created, nil
}

type terminal struct {
	f   *os.File
	err error
}

// listen takes one terminal at a socket.
func listen(path string) (<-chan terminal, func(), error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	l.SetDeadline(time.Now().Add(commandTime))
	got := make(chan terminal, 1)
	go func() {
		conn, err := l.AcceptUnix()
		if err != nil {
			got <- terminal{err: err}
			return
		}
		defer conn.Close()
		f, err := conn.File()
		if err != nil {
			got <- terminal{err: err}
			return
		}
		defer f.Close()
		// The descriptor shares its mode with the connection: it would not wait.
		if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
			got <- terminal{err: err}
			return
		}
		master, err := utils.RecvFile(f)
		got <- terminal{master, err}
	}()
	stop := func() {
		l.Close()
		select {
		case t := <-got: // of a command that failed
			if t.f != nil {
				t.f.Close()
			}
		default:
		}
	}
	return got, stop, nil
}

// Start implements server.Engine.
func (e *Engine) Start(id string) error {
	st, err := e.state(id)
	if err != nil {
		return err
	}
	if st.Status != specs.StateCreated {
		return server.ErrStarted
	}
	before, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", st.Pid))
	if err != nil {
		return err
	}
	if _, err := e.run(nil, "start", id); err != nil {
		return err
	}
	server.AwaitProgram(st.Pid, before)
	return nil
}

func (e *Engine) state(id string) (specs.State, error) {
	var st specs.State
	out, err := e.run(nil, "state", id)
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(out, &st); err != nil {
		return st, fmt.Errorf("%s state: %w", e.handler.Path, err)
	}
	return st, nil
}

// Update implements server.Engine.
func (e *Engine) Update(id string, r *specs.LinuxResources) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = e.run(data, "update", "--resources", "-", id)
	return err
}

// Ended implements server.Engine. It runs no command: the supervisor reaps
// children meanwhile.
func (e *Engine) Ended(string) bool {
	spec, err := e.spec()
	if err != nil {
		return false
	}
	m, err := group(spec)
	if err != nil {
		return false
	}
	if !ownPIDs(spec) {
		killAll(m) // the kernel does it otherwise
	}
	kills, err := m.OOMKillCount()
	return err == nil && kills > 0
}

// Destroy implements server.Engine.
func (e *Engine) Destroy(id string, spec *specs.Spec) error {
	if spec == nil {
		var err error
		if spec, err = e.spec(); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if _, err := os.Stat(e.root); errors.Is(err, os.ErrNotExist) {
		return nil // nothing was ever made
	}
	var errs error
	// Of one that is not there some say that, and some nothing.
	if _, err := e.run(nil, "delete", "--force", id); err != nil && !strings.Contains(err.Error(), "does not exist") {
		errs = err
	}
	if spec == nil {
		return errs
	}
	m, err := group(spec)
	if err != nil {
		return errors.Join(errs, err)
	}
	killAll(m)
	if err := m.Destroy(); err != nil {
		return errors.Join(errs, err)
	}
	if errs == nil {
		errs = os.RemoveAll(filepath.Join(e.root, id)) // its making was cut off
	}
	return errs
}

func (e *Engine) spec() (*specs.Spec, error) {
	data, err := os.ReadFile(filepath.Join(e.bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	spec := new(specs.Spec)
	return spec, json.Unmarshal(data, spec)
}

func ownPIDs(spec *specs.Spec) bool {
	return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace && n.Path == "" })
}

// group is the container's control group, where the specification says.
func group(spec *specs.Spec) (cgroups.Manager, error) {
	return manager.New(&cgroups.Cgroup{Path: spec.Linux.CgroupsPath, Resources: &cgroups.Resources{}})
}

func killAll(m cgroups.Manager) {
	pids, err := m.GetAllPids()
	if err != nil {
		return // it is gone
	}
	for _, pid := range pids {
		unix.Kill(pid, unix.SIGKILL)
	}
}

func (e *Engine) mkdir() (string, error) {
	if err := errors.Join(os.MkdirAll(e.root, 0o700), os.MkdirAll(e.tmp, 0o700)); err != nil {
		return "", err
	}
	return os.MkdirTemp(e.tmp, "")
}

// run runs a command that makes no process, and returns what it prints.
func (e *Engine) run(stdin []byte, args ...string) ([]byte, error) {
	tmp, err := e.mkdir()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	return e.command(tmp, server.Stdio{}, stdin, args...)
}

// command runs one. Its streams are stdio, and so the container's, if there are
// any: what went wrong stands in its log then.
func (e *Engine) command(tmp string, stdio server.Stdio, stdin []byte, args ...string) ([]byte, error) {
	log := filepath.Join(tmp, "log")
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	all := slices.Concat(e.handler.Args, []string{"--root", e.root, "--log", log, "--log-format", "json"}, args)
	cmd := exec.CommandContext(ctx, e.handler.Path, all...)
	cmd.Dir = "/"
	var out bytes.Buffer
	makes := args[0] == "create" || args[0] == "exec"
	if makes {
		// A nil *os.File in an interface is not nil.
		if stdio.In != nil {
			cmd.Stdin = stdio.In
		}
		if stdio.Out != nil {
			cmd.Stdout = stdio.Out
		}
		if stdio.Err != nil {
			cmd.Stderr = stdio.Err
		}
	} else {
		cmd.Stdin, cmd.Stdout = bytes.NewReader(stdin), &out
	}
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w", e.handler.Path, args[0], errors.Join(complaint(log), err))
	}
	return out.Bytes(), nil
}

// complaint is the last error of a log.
func complaint(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return nil // it may write none
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLog)
	var last error
	for lines.Scan() {
		var line struct{ Level, Msg string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && (line.Level == "error" || line.Level == "fatal") {
			last = errors.New(line.Msg)
		}
	}
	return last
}
