package supervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Config of a supervisor's process, as knarr keeps it.
type Config struct {
	// Executable opens knarr-supervisor.
	Executable func() (*os.File, error)
	// Dir is root's own, and lost at reboot.
	Dir string
	// Logs is a file that the process writes to.
	Logs string
	Log  *slog.Logger
}

const (
	// socketLimit is sizeof(sun_path) less the closing zero (unix(7)).
	socketLimit = 107
	// answerTime is for a new process to answer.
	answerTime = 10 * time.Second
	// lookTime is between questions whether it answers now.
	lookTime = 5 * time.Millisecond
)

// Process is a node's supervisor, seen from knarr.
type Process struct {
	cfg Config
	*Client
	pipes map[string][]*os.File // by container; only Run's goroutine touches them
}

// New makes one; nothing is started.
func New(cfg Config) (*Process, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("supervisor: the directory %q must be an absolute path", cfg.Dir)
	}
	socket := filepath.Join(cfg.Dir, "s")
	if n := len(socket); n > socketLimit {
		return nil, fmt.Errorf("supervisor: socket path %s is %d bytes too long for a unix socket: choose a shorter directory", socket, n-socketLimit)
	}
	return &Process{cfg, NewClient(socket), map[string][]*os.File{}}, nil
}

// Run keeps the supervisor alive until ctx ends, and leaves it running then:
// its containers are its children. ready is called each time that one answers,
// with a channel that is closed when it has ended.
func (p *Process) Run(ctx context.Context, ready func(ended <-chan struct{})) error {
	defer func() {
		for _, held := range p.pipes {
			for _, f := range held {
				f.Close()
			}
		}
		clear(p.pipes)
	}()
	for first := true; ; first = false {
		pid, err := p.ensure(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if first && !killed(err) {
				return err // a wrong set-up, not an accident
			}
			p.cfg.Log.Error("the supervisor of containers does not start", "error", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return nil
			}
			continue
		}
		ended := make(chan struct{})
		ready(ended)
		err = p.await(ctx)
		close(ended)
		if ctx.Err() != nil {
			return nil
		}
		p.cfg.Log.Warn("the supervisor of containers ended; starting it again", "pid", pid, "error", err)
	}
}

// killed says whether a process has ended by a signal.
func killed(err error) bool {
	exit := (*exec.ExitError)(nil)
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled()
}

// Stop ends the supervisor, if there is one: its containers should have ended
// before.
func (p *Process) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	hello, err := p.Hello(ctx)
	if err != nil {
		return nil
	}
	if err := syscall.Kill(hello.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("cannot stop the supervisor of containers: %w", err)
	}
	for {
		if _, err := p.Hello(ctx); err != nil {
			return nil
		}
		select {
		case <-time.After(lookTime):
		case <-ctx.Done():
			return errors.New("the supervisor of containers does not end")
		}
	}
}

// await returns when the supervisor is gone: its stream of events ends with it.
// A replacement by execve ends the stream too; it answers again at once.
func (p *Process) await(ctx context.Context) error {
	for {
		seen := map[string]bool{}
		err := p.Events(ctx, func(c Container) {
			if seen != nil {
				seen[c.ID] = true
			}
			p.hold(c)
		}, func() {
			for id := range p.pipes {
				if !seen[id] {
					p.hold(Container{ID: id, Gone: true}) // while we did not listen
				}
			}
			seen = nil
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, herr := p.Hello(ctx); herr != nil {
			return errors.Join(err, herr)
		}
	}
}

// hold keeps the pipes of a container that runs open. The container holds them
// too; but if it ends while there is no supervisor, what it wrote last is read
// by the next one only if somebody else does.
func (p *Process) hold(c Container) {
	ended := c.Exit != nil || c.Gone
	switch held := p.pipes[c.ID]; {
	case ended:
		for _, f := range held {
			f.Close()
		}
		delete(p.pipes, c.ID)
	case held == nil:
		for _, name := range []string{"stdout", "stderr"} {
			// One with a terminal has none.
			if f, err := os.OpenFile(filepath.Join(p.cfg.Dir, "c", c.ID, name), os.O_RDONLY|syscall.O_NONBLOCK, 0); err == nil {
				p.pipes[c.ID] = append(p.pipes[c.ID], f)
			}
		}
	}
}

// ensure adopts the supervisor that is there, as this version of itself, or
// starts one.
func (p *Process) ensure(ctx context.Context) (pid int, err error) {
	exe, err := p.cfg.Executable()
	if err != nil {
		return 0, fmt.Errorf("cannot start the supervisor of containers: %w", err)
	}
	defer exe.Close()
	hello, err := p.Hello(ctx)
	if err != nil {
		return p.start(ctx, exe)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, exe); err != nil {
		return 0, err
	}
	if build := hex.EncodeToString(sum.Sum(nil)); build != hello.Build {
		if err := p.Replace(ctx, exe); err != nil {
			// The old one goes on with its containers.
			p.cfg.Log.Error("cannot replace the supervisor of containers by the version of this knarr", "pid", hello.PID, "error", err)
		}
	}
	return hello.PID, nil
}

func (p *Process) start(ctx context.Context, exe *os.File) (int, error) {
	if err := os.MkdirAll(p.cfg.Dir, 0o700); err != nil {
		return 0, err
	}
	if err := os.Chmod(p.cfg.Dir, 0o700); err != nil {
		return 0, err
	}
	logs, err := os.OpenFile(p.cfg.Logs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer logs.Close()
	// By our descriptor, which is not passed on: it may have no other name.
	cmd := exec.Command(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), exe.Fd()), "--dir", p.cfg.Dir, "--socket", p.socket)
	cmd.Args[0] = "knarr-supervisor"
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = logs, logs
	// It needs nothing of our environment, and containers see none of it.
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("cannot start the supervisor of containers: %w", err)
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	deadline := time.After(answerTime)
	for {
		if h, err := p.Hello(ctx); err == nil {
			return h.PID, nil
		}
		select {
		case err := <-gone:
			return 0, fmt.Errorf("the supervisor of containers ended at once: %w; see %s", err, p.cfg.Logs)
		case <-deadline:
			return 0, fmt.Errorf("the supervisor of containers does not answer after %s; see %s", answerTime, p.cfg.Logs)
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(lookTime):
		}
	}
}
