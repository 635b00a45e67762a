package server

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/network/cni"
	"knarr.dev/knarr/internal/runtime/builtin"
	"knarr.dev/knarr/internal/runtime/imagestore"
	"knarr.dev/knarr/internal/runtime/registry"
	"knarr.dev/knarr/internal/runtime/supervisor"
	"knarr.dev/knarr/internal/version"
)

// Runtimes that are no socket's.
const (
	runtimeBuiltin    = "builtin"
	runtimeContainerd = "containerd"
)

// supervisorName is the section of knarr's executable that holds the
// supervisor's (Makefile), or else the executable that lies beside it.
const supervisorName = "knarr-supervisor"

// findSupervisor says which file its executable is, or which part of ours; the
// size of a whole file is 0.
func findSupervisor() (path string, offset, size int64, err error) {
	if path, err = os.Executable(); err != nil {
		return "", 0, 0, err
	}
	self, err := elf.Open(path)
	if err != nil {
		return "", 0, 0, err
	}
	defer self.Close()
	if section := self.Section(supervisorName); section != nil {
		return path, int64(section.Offset), int64(section.FileSize), nil
	}
	path = filepath.Join(filepath.Dir(path), supervisorName)
	_, err = os.Stat(path)
	return path, 0, 0, err
}

// openSupervisor opens its executable. What is a part of ours has no name in
// the file system, where it might not be executable.
func openSupervisor() (*os.File, error) {
	path, offset, size, err := findSupervisor()
	if err != nil {
		return nil, err
	}
	exe, err := os.Open(path)
	if err != nil || size == 0 {
		return exe, err
	}
	defer exe.Close()
	fd, err := unix.MemfdCreate(supervisorName, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), supervisorName)
	defer f.Close() // what is open for writing is not executed
	if _, err := io.Copy(f, io.NewSectionReader(exe, offset, size)); err != nil {
		return nil, fmt.Errorf("cannot take the supervisor out of %s: %w", path, err)
	}
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// podNetwork wires the built-in runtime's sandboxes.
type podNetwork struct{ *cni.Network }

// Attach implements builtin.Network.
func (n podNetwork) Attach(_ context.Context, id, netns string, ports []*runtimeapi.PortMapping) ([]netip.Addr, error) {
	var mapped []cni.PortMapping
	for _, p := range ports {
		if p.HostPort != 0 {
			mapped = append(mapped, cni.PortMapping{HostPort: int(p.HostPort), ContainerPort: int(p.ContainerPort),
				Protocol: strings.ToLower(p.Protocol.String()), HostIP: p.HostIp})
		}
	}
	addr, err := n.Network.Attach(id, netns, mapped)
	if err != nil {
		return nil, err
	}
	return []netip.Addr{addr}, nil
}

// Detach implements builtin.Network.
func (n podNetwork) Detach(_ context.Context, id, _ string) error { return n.Network.Detach(id) }

// builtinRuntime is the container runtime in this process, and its network.
type builtinRuntime struct {
	*builtin.Runtime
	images    *imagestore.Store
	network   *cni.Network
	process   *supervisor.Process
	root, run string
}

// newBuiltin makes a runtime of directories; nothing is started.
func newBuiltin(root, run, cniData string, hosts registry.Hosts, handlers []supervisor.Handler, log *slog.Logger) (*builtinRuntime, error) {
	b := &builtinRuntime{network: cni.InProcess(cniData, 0), root: root, run: run}
	var err error
	if b.images, err = imagestore.New(imagestore.Config{Root: filepath.Join(root, "images"), Registries: hosts, Log: log}); err != nil {
		return nil, err
	}
	b.process, err = supervisor.New(supervisor.Config{Executable: openSupervisor, Dir: filepath.Join(run, "sup"), Logs: filepath.Join(root, "supervisor.log"), Log: log})
	if err != nil {
		return nil, err
	}
	b.Runtime, err = builtin.New(builtin.Config{Root: filepath.Join(root, "records"), Run: filepath.Join(run, "pods"),
		PauseImage: sandboxImage, Images: b.images, Network: podNetwork{b.network}, Supervisor: b.process, Handlers: handlers, Version: version.GitVersion, Log: log})
	return b, err
}

// start runs everything in g and returns once calls are answered.
func (b *builtinRuntime) start(ctx context.Context, g *errgroup.Group) error {
	for _, dir := range []string{b.root, b.run} {
		// Not listed by others, and passed through by the root of user
		// namespaces.
		if err := errors.Join(os.MkdirAll(dir, 0o711), os.Chmod(dir, 0o711)); err != nil {
			return err
		}
	}
	failed := make(chan error, 2)
	for _, run := range []func(context.Context) error{b.images.Run, b.Run} {
		g.Go(func() error {
			err := run(ctx)
			failed <- err
			return err
		})
	}
	for _, ready := range []<-chan struct{}{b.images.Ready(), b.Ready()} {
		select {
		case <-ready:
		case err := <-failed:
			return fmt.Errorf("the container runtime does not start: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return b.Sweep()
}

// load loads every archive of a directory, and keeps the pause image.
func (b *builtinRuntime) load(ctx context.Context, dir string) error {
	archives, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil || dir == "" {
		return err
	}
	slices.Sort(archives)
	for _, a := range archives {
		if _, err := b.images.Import(ctx, a); err != nil {
			return fmt.Errorf("cannot load %s: %w", a, err)
		}
	}
	err = b.images.Pin(sandboxImage, true)
	if errors.Is(err, imagestore.ErrNoImage) {
		return nil // pods that share a process namespace will say so
	}
	return err
}

// stop ends all pods, and the supervisor; remove takes what they were away,
// too. Nothing else may use the runtime.
func (b *builtinRuntime) stop(ctx context.Context, remove bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, gctx := errgroup.WithContext(ctx)
	if err := b.start(gctx, g); err != nil {
		cancel()
		return errors.Join(err, g.Wait())
	}
	err := b.StopAll(ctx, remove)
	cancel()
	return errors.Join(err, g.Wait(), b.process.Stop())
}

// clean deletes everything, once all is stopped.
func (b *builtinRuntime) clean(ctx context.Context) error {
	if _, err := os.Stat(b.root); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return b.stop(ctx, true)
}

// RuntimeConfig of the built-in container runtime without a kubelet.
type RuntimeConfig struct {
	DataDir, RunDir string
	Socket          string
	PodCIDR         string
	ImagesDir       string
	Registries      registry.Hosts
	// Handlers of sandboxes, as NAME=PATH.
	Handlers []string
	Log      *slog.Logger
}

// RunRuntime serves the built-in runtime at a socket until ctx ends.
func RunRuntime(ctx context.Context, cfg RuntimeConfig) error {
	prefix, err := netip.ParsePrefix(cfg.PodCIDR)
	if err != nil {
		return fmt.Errorf("the range of pods: %w", err)
	}
	handlers, err := supervisor.ParseHandlers(cfg.Handlers)
	if err != nil {
		return fmt.Errorf("--runtime-handler: %w", err)
	}
	b, err := newBuiltin(cfg.DataDir, cfg.RunDir, filepath.Join(cfg.DataDir, "cni"), cfg.Registries, handlers, cfg.Log)
	if err != nil {
		return err
	}
	if err := b.network.SetRange(prefix); err != nil {
		return err
	}
	// Pods are routed to; with a node that is the routes' part.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("cannot let packets of pods through: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	if err := b.start(ctx, g); err != nil {
		return errors.Join(err, g.Wait())
	}
	g.Go(func() error {
		if err := b.load(ctx, cfg.ImagesDir); err != nil {
			return err
		}
		return builtin.Serve(ctx, cfg.Socket, b, b.images)
	})
	return g.Wait()
}
