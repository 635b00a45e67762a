//go:build cgo

// Package engine runs OCI bundles with runc's libcontainer. Its C code enters
// namespaces before Go's runtime starts: only the supervisor is built with it.
package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // device rules on cgroup v2
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // see Init
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/runtime/supervisor"
	"knarr.dev/knarr/internal/runtime/supervisor/server"
)

// Init is what the executable does when it is called as "init": it becomes a
// container's first process. It does not return.
func Init() { libcontainer.Init() }

// Engine keeps libcontainer's state in a directory's oci.
type Engine struct {
	root  string
	stage func() *stage // nil if the machine can have none

	mu   sync.Mutex
	made map[string]int // first processes of what is created and not started
}

// New makes one. Nothing of the directory is read or written yet.
func New(dir string, log *slog.Logger) *Engine {
	memlock() // before anything is run
	root := filepath.Join(dir, "oci")
	return &Engine{root: root, made: map[string]int{}, stage: sync.OnceValue(func() *stage {
		s, err := newStage(filepath.Join(dir, "stage"), root)
		if err != nil {
			log.Warn("Containers start from all mounts of the machine", "err", err)
			return nil
		}
		return s
	})}
}

// Create implements server.Engine.
func (e *Engine) Create(id, bundle string, spec *specs.Spec, stdio server.Stdio) (server.Created, error) {
	if err := check(spec.Process); err != nil {
		return server.Created{}, err
	}
	config, err := configOf(id, spec)
	if err != nil {
		return server.Created{}, supervisor.Errorf(supervisor.Invalid, "%v", err)
	}
	// It took the working directory for the bundle, which hooks are told.
	for i, l := range config.Labels {
		if strings.HasPrefix(l, "bundle=") {
			config.Labels[i] = "bundle=" + bundle
		}
	}
	joinCalls(config.Seccomp)
	if err := os.MkdirAll(e.root, 0o700); err != nil {
		return server.Created{}, err
	}
	s := e.stage()
	var taken *configs.Mount
	if s != nil && !fits(config) {
		s = nil
	} else if s != nil {
		taken = takeCgroups(config)
	}
	var c *libcontainer.Container
	var created server.Created
	create := func() (err error) {
		if c, err = libcontainer.Create(e.root, id, config); err != nil {
			return err
		}
		if created, err = run(c, spec.Process, stdio, true); err != nil || taken == nil {
			return err
		}
		if err := showCgroups(created.PID, config, taken); err != nil {
			return fmt.Errorf("cannot give the container its cgroups: %w", err)
		}
		return nil
	}
	if s != nil {
		err = s.with(config, create)
	} else {
		err = create()
	}
	if err != nil && c != nil {
		err = errors.Join(err, e.Destroy(id, nil))
	}
	if err != nil {
		if created.Console != nil {
			created.Console.Close()
		}
		return server.Created{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.made[id] = created.PID
	return created, nil
}

// run starts a process in a container: its first, which then waits for Start,
// or a further one.
func run(c *libcontainer.Container, p *specs.Process, stdio server.Stdio, first bool) (created server.Created, err error) {
	// libcontainer is made for a process of one container, which its panics end:
	// a slow mount of one is not to end the parent of all.
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("libcontainer: %v", v)
		}
	}()
	lp, err := process(p)
	if err != nil {
		return server.Created{}, err
	}
	lockedMemory(lp)
	lp.Init = first
	var console *os.File
	if p.Terminal {
		parent, child, err := utils.NewSockPair("console")
		if err != nil {
			return server.Created{}, err
		}
		defer parent.Close()
		defer child.Close()
		lp.ConsoleSocket = child
		console = parent
	} else {
		// A nil *os.File in an interface is not nil.
		if stdio.In != nil {
			lp.Stdin = stdio.In
		}
		if stdio.Out != nil {
			lp.Stdout = stdio.Out
		}
		if stdio.Err != nil {
			lp.Stderr = stdio.Err
		}
	}
	if err := c.Start(lp); err != nil {
		return server.Created{}, err
	}
	pid, err := lp.Pid()
	if err != nil {
		return server.Created{}, err
	}
	created.PID = pid
	if console != nil {
		if created.Console, err = utils.RecvFile(console); err != nil {
			return server.Created{}, fmt.Errorf("the container sent no terminal: %w", err)
		}
	}
	return created, nil
}

// memlock is the limit that we were started with. libcontainer lifts its process's
// once it has loaded a device program, on cgroup v2, and all that is started
// after that would inherit it.
var memlock = sync.OnceValue(func() *configs.Rlimit {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return nil
	}
	return &configs.Rlimit{Type: unix.RLIMIT_MEMLOCK, Hard: l.Max, Soft: l.Cur}
})

// RestoreLimits is for before this process becomes another version of itself, which
// is started with what it has.
func RestoreLimits() {
	if l := memlock(); l != nil {
		unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: l.Soft, Max: l.Hard})
	}
}

func lockedMemory(p *libcontainer.Process) {
	named := slices.ContainsFunc(p.Rlimits, func(r configs.Rlimit) bool { return r.Type == unix.RLIMIT_MEMLOCK })
	if l := memlock(); l != nil && !named && cgroups.IsCgroup2UnifiedMode() {
		p.Rlimits = append(p.Rlimits, *l)
	}
}

// Start implements server.Engine.
func (e *Engine) Start(id string) error {
	e.mu.Lock()
	pid, made := e.made[id]
	delete(e.made, id)
	e.mu.Unlock()
	if !made {
		c, err := libcontainer.Load(e.root, id)
		if err != nil {
			return err
		}
		if status, err := c.Status(); err != nil || status == libcontainer.Running {
			return errors.Join(server.ErrStarted, err)
		}
		state, err := c.State()
		if err != nil {
			return err
		}
		pid = state.InitProcessPid
	}
	return e.tell(id, pid)
}

const (
	// startLook is between looks whether a program runs that was told to start.
	startLook = 50 * time.Millisecond
	// execFIFO is libcontainer's, in a container's directory: its first process
	// waits for a reader, writes a byte and becomes the program.
	execFIFO = "exec.fifo"
)

// tell lets a container's first process become its program. libcontainer's own
// way leaves a thread behind if that process has ended, and waits for ever if it
// was told by a supervisor that was killed before it took the pipe away.
func (e *Engine) tell(id string, pid int) error {
	ours, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	// Both ends, for it does not wait then.
	fifo, err := os.OpenFile(filepath.Join(e.root, id, execFIFO), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer fifo.Close()
	for {
		exe, gone := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err := fifo.SetReadDeadline(time.Now().Add(startLook)); err != nil {
			return err
		}
		n, err := fifo.Read(make([]byte, 1))
		switch {
		case n > 0:
			err := os.Remove(fifo.Name())
			server.AwaitProgram(pid, ours)
			return err
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case gone != nil:
			return errors.New("the container's first process has ended before its program")
		case exe != ours: // its byte would have come before
			return errors.Join(server.ErrStarted, os.Remove(fifo.Name()))
		}
	}
}

// Exec implements server.Engine.
func (e *Engine) Exec(id string, p *specs.Process, stdio server.Stdio) (server.Created, error) {
	if err := check(p); err != nil {
		return server.Created{}, err
	}
	c, err := libcontainer.Load(e.root, id)
	if err != nil {
		return server.Created{}, err
	}
	return run(c, p, stdio, false)
}

// Update implements server.Engine.
func (e *Engine) Update(id string, r *specs.LinuxResources) error {
	c, err := libcontainer.Load(e.root, id)
	if err != nil {
		return err
	}
	config := c.Config()
	set(&config, r)
	return c.Set(config)
}

// Ended implements server.Engine.
func (e *Engine) Ended(id string) bool {
	c, err := libcontainer.Load(e.root, id)
	if err != nil {
		return false
	}
	config := c.Config()
	if !config.Namespaces.IsPrivate(configs.NEWPID) {
		c.Signal(unix.SIGKILL) // all of its cgroup; the kernel does it otherwise
	}
	state, err := c.State()
	if err != nil {
		return false
	}
	m, err := manager.NewWithPaths(config.Cgroups, state.CgroupPaths)
	if err != nil {
		return false
	}
	kills, err := m.OOMKillCount()
	return err == nil && kills > 0
}

// endTime is for processes to die of SIGKILL: more is the kernel's trouble.
const endTime = 10 * time.Second

// Destroy implements server.Engine.
func (e *Engine) Destroy(id string, spec *specs.Spec) error {
	e.mu.Lock()
	delete(e.made, id)
	e.mu.Unlock()
	c, err := libcontainer.Load(e.root, id)
	if errors.Is(err, libcontainer.ErrNotExist) {
		// It was being made: its first process ends with its parent.
		return errors.Join(sweep(id, spec), os.RemoveAll(filepath.Join(e.root, id)))
	}
	if err != nil {
		return err
	}
	deadline := time.Now().Add(endTime)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := c.Destroy()
		if !errors.Is(err, libcontainer.ErrRunning) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("container %s does not end: %w", id, err)
		}
		if err := c.Signal(unix.SIGKILL); err != nil && !errors.Is(err, libcontainer.ErrNotRunning) {
			return err
		}
		<-time.After(pause)
	}
}

// defaults are the devices of every container, as libcontainer has them.
var defaults = struct {
	sync.Mutex
	devices []*devices.Device
}{devices: specconv.AllowedDevices}

// configOf translates a specification. libcontainer, which expects to do so once
// in a process, makes the root of a user namespace the owner of the devices
// themselves that it gives to every container: each gets a copy.
func configOf(id string, spec *specs.Spec) (*configs.Config, error) {
	defaults.Lock()
	defer defaults.Unlock()
	specconv.AllowedDevices = make([]*devices.Device, len(defaults.devices))
	for i, d := range defaults.devices {
		specconv.AllowedDevices[i] = new(*d)
	}
	return specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: id, Spec: spec})
}

// sweep removes the cgroups of a container that has no state.
func sweep(id string, spec *specs.Spec) error {
	if spec == nil {
		return nil
	}
	config, err := configOf(id, spec)
	if err != nil {
		return nil // it was refused for that
	}
	m, err := manager.New(config.Cgroups)
	if err != nil {
		return err
	}
	pids, err := m.GetAllPids()
	if err == nil {
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	return m.Destroy()
}

// check refuses what libcontainer would trip over.
func check(p *specs.Process) error {
	switch {
	case len(p.Args) == 0:
		return supervisor.Errorf(supervisor.Invalid, "no command")
	case !filepath.IsAbs(p.Cwd):
		return supervisor.Errorf(supervisor.Invalid, "working directory %q is not absolute", p.Cwd)
	case p.SelinuxLabel != "" && !selinux.GetEnabled():
		return supervisor.Errorf(supervisor.Invalid, "an SELinux label is given, and SELinux is not enabled")
	}
	return nil
}
