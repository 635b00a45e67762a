// Package containerd runs a private containerd with runc: its own root, state
// and socket, a configuration generated for this machine, supervised but not
// owned. containerd lives in a session of its own, so it survives the death
// of knarr and is adopted by the next start; containers survive the death of
// containerd, because each has a shim that is nobody's child.
//
// Everything is found again by what lies below Root and State, so several
// instances with different directories share a machine without meeting.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"knarr.dev/knarr/internal/runtime/registry"
)

// Config of one instance. Paths are absolute.
type Config struct {
	Root  string // persistent: images, snapshots, metadata
	State string // lost at reboot: socket, tasks, network namespaces
	// Socket of the CRI; default State/containerd.sock. The kernel allows 107
	// bytes, and containerd appends ".ttrpc" for the second one.
	Socket string

	CNIConfDir string // where the network's configuration will appear
	CNIBinDir  string // where its plugins are

	SandboxImage string // must be present: it is never pulled
	Registries   registry.Hosts

	Log *slog.Logger
}

// Errors that callers tell apart.
var (
	// ErrMissing: a program that the runtime needs is not installed.
	ErrMissing = errors.New("program not found")
	// ErrBusy: another process supervises the same root.
	ErrBusy = errors.New("another knarr uses this containerd")
)

const (
	// socketLimit is sizeof(sun_path) less the closing zero (unix(7)).
	socketLimit = 107
	// startTimeout bounds the first answer of a new containerd; on a slow disk
	// with many snapshots it replays its database first.
	startTimeout = 60 * time.Second
	// adoptTimeout bounds the answer of one that should be up already.
	adoptTimeout = 10 * time.Second
	// stopTimeout is how long containerd may take to end after SIGTERM.
	stopTimeout = 10 * time.Second
	// stable is how long containerd must have run for its next death to be
	// answered by an immediate restart.
	stable     = 10 * time.Second
	maxBackoff = 20 * time.Second
)

// Runtime is one instance.
type Runtime struct {
	cfg   Config
	ready chan struct{}
}

// New checks the configuration. It touches nothing.
func New(cfg Config) (*Runtime, error) {
	if cfg.Socket == "" {
		cfg.Socket = filepath.Join(cfg.State, "containerd.sock")
	}
	for name, path := range map[string]string{
		"root": cfg.Root, "state": cfg.State, "socket": cfg.Socket, "CNI configuration": cfg.CNIConfDir, "CNI plugins": cfg.CNIBinDir,
	} {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("containerd: %s path %q is not absolute", name, path)
		}
	}
	if filepath.Clean(cfg.Root) == filepath.Clean(cfg.State) {
		return nil, fmt.Errorf("containerd: root and state are both %s", cfg.Root)
	}
	if n := len(cfg.Socket + ttrpcSuffix); n > socketLimit {
		return nil, fmt.Errorf("containerd: socket path %s is %d bytes too long for a unix socket: choose a shorter directory", cfg.Socket, n-socketLimit)
	}
	if cfg.SandboxImage == "" {
		return nil, errors.New("containerd: no sandbox image")
	}
	if err := cfg.Registries.Check(); err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Runtime{cfg: cfg, ready: make(chan struct{})}, nil
}

// ttrpcSuffix is what containerd appends to its address for shims' events.
const ttrpcSuffix = ".ttrpc"

// Endpoint is the CRI address, as the kubelet takes it.
func (r *Runtime) Endpoint() string { return "unix://" + r.cfg.Socket }

// Ready is closed once the CRI has answered for the first time.
func (r *Runtime) Ready() <-chan struct{} { return r.ready }

// LogFile is where containerd writes.
func (r *Runtime) LogFile() string { return filepath.Join(r.cfg.Root, "containerd.log") }

// Run starts containerd, or adopts the one that a former knarr left, and
// restarts it when it dies, until ctx ends. It then returns and leaves
// containerd and its containers running: Stop ends them.
func (r *Runtime) Run(ctx context.Context) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	programs, err := findPrograms()
	if err != nil {
		return err
	}
	machine, err := detect("/", r.cfg.Root)
	if err != nil {
		return err
	}
	conf := r.cfg.render(machine, programs)
	if err := r.writeFiles(conf); err != nil {
		return err
	}
	logs, err := newLogFile(r.LogFile())
	if err != nil {
		return err
	}
	var bounding sync.WaitGroup
	bounded, unbound := context.WithCancel(ctx)
	defer bounding.Wait()
	defer unbound()
	bounding.Go(func() { logs.bound(bounded, r.cfg.Log) })

	p, err := r.adopt(ctx, conf)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	return r.supervise(ctx, p, programs, conf)
}

// supervise keeps one containerd alive; p is an adopted one or nil.
func (r *Runtime) supervise(ctx context.Context, p *process, programs programs, conf []byte) error {
	var backoff time.Duration
	first := true
	for {
		began := time.Now()
		if p == nil {
			var err error
			p, err = r.start(ctx, programs, conf)
			if err != nil {
				if ctx.Err() != nil {
					return nil
				}
				if first {
					return err // a wrong set-up, not an accident: tell the user
				}
				r.cfg.Log.Error("containerd does not start", "error", err, "retry", backoff)
			}
		}
		if p != nil {
			if first {
				close(r.ready)
				first = false
			}
			ended := p.wait(ctx)
			p.close()
			if !ended {
				return nil
			}
			r.cfg.Log.Warn("containerd ended; starting it again", "pid", p.PID, "ran", time.Since(began).Round(time.Millisecond), "log", r.LogFile())
			p = nil
		}
		if time.Since(began) >= stable {
			backoff = 0
			continue
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return nil
		}
		backoff = min(max(2*backoff, 250*time.Millisecond), maxBackoff)
	}
}

// writeFiles lays out directories and configuration; nobody but root may look
// into them: a socket of containerd is root's shell.
func (r *Runtime) writeFiles(conf []byte) error {
	for _, dir := range []string{r.cfg.Root, r.cfg.State, filepath.Dir(r.cfg.Socket)} {
		if err := privateDir(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{r.cfg.CNIConfDir, r.cfg.CNIBinDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("containerd: %w", err)
		}
	}
	if err := r.writeHosts(); err != nil {
		return err
	}
	return writeFile(r.configFile(), conf)
}

func (r *Runtime) configFile() string { return filepath.Join(r.cfg.Root, "config.toml") }
func (r *Runtime) hostsDir() string   { return filepath.Join(r.cfg.Root, "hosts") }

// privateDir makes dir, and makes it root's alone if it was there.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	return nil
}

// writeFile replaces path in one step, so that a crash leaves the old or the
// new content, and leaves an equal file alone.
func writeFile(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(data) {
		return nil
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	return nil
}
