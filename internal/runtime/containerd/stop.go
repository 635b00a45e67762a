package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// lock makes this process the only one that handles the instance. The kernel
// releases it when the process dies.
func (r *Runtime) lock() (unlock func(), err error) {
	if err := privateDir(r.cfg.Root); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(r.cfg.Root, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("containerd: %w: %s", ErrBusy, r.cfg.Root)
		}
		return nil, fmt.Errorf("containerd: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

// Stop ends all containers of this instance, politely first, and then
// containerd; with removeContainers their records and writable layers go as
// well, otherwise the next start finds them as exited. Run must have returned.
func (r *Runtime) Stop(ctx context.Context, removeContainers bool) error {
	if _, err := os.Stat(r.cfg.Root); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return r.stop(ctx, removeContainers)
}

func (r *Runtime) stop(ctx context.Context, remove bool) error {
	p, err := r.running()
	if err != nil {
		return err
	}
	groups, sockets := r.cgroupPaths(), r.shimSocketPaths()
	if p == nil && len(r.tasks()) > 0 {
		// containerd died alone: a new one knows its containers' shims.
		if p, err = r.revive(ctx); err != nil {
			r.cfg.Log.Warn("containerd cannot be started to stop its containers; they are killed", "error", err)
		}
	}
	if p != nil {
		if err := r.stopSandboxes(ctx, remove); err != nil {
			r.cfg.Log.Warn("not all pods could be stopped through containerd; they are killed", "error", err)
		}
		if err := p.end(ctx); err != nil {
			return err
		}
	}
	if err := r.killShims(ctx); err != nil {
		return err
	}
	for _, g := range groups {
		removeCgroup(g)
	}
	for _, path := range append(sockets, r.recordFile()) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("containerd: %w", err)
		}
	}
	return nil
}

func (r *Runtime) taskDir() string {
	return filepath.Join(r.cfg.State, "state", "io.containerd.runtime.v2.task")
}

func (r *Runtime) revive(ctx context.Context) (*process, error) {
	programs, err := findPrograms()
	if err != nil {
		return nil, err
	}
	machine, err := detect("/", r.cfg.Root)
	if err != nil {
		return nil, err
	}
	conf := r.cfg.render(machine, programs)
	if err := r.writeFiles(conf); err != nil {
		return nil, err
	}
	return r.start(ctx, programs, conf)
}

// stopSandboxes ends every pod through the CRI, so that its network is torn
// down too.
func (r *Runtime) stopSandboxes(ctx context.Context, remove bool) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	conn, err := dial(r.cfg.Socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	cri := runtimeapi.NewRuntimeServiceClient(conn)
	if err := stopContainers(ctx, cri); err != nil {
		return err
	}
	list, err := cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(8)
	for _, s := range list.Items {
		g.Go(func() error {
			if s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
				if _, err := cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.Id}); err != nil {
					return fmt.Errorf("cannot stop pod %s/%s: %w", s.Metadata.GetNamespace(), s.Metadata.GetName(), err)
				}
			}
			if !remove {
				return nil
			}
			if _, err := cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil {
				return fmt.Errorf("cannot remove pod %s/%s: %w", s.Metadata.GetNamespace(), s.Metadata.GetName(), err)
			}
			return nil
		})
	}
	return g.Wait()
}

// grace that containers get when the node goes down, in seconds.
const grace = 5

func stopContainers(ctx context.Context, cri runtimeapi.RuntimeServiceClient) error {
	list, err := cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(32) // they wait for their grace side by side
	for _, c := range list.Containers {
		g.Go(func() error {
			_, err := cri.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.Id, Timeout: grace})
			return err
		})
	}
	return g.Wait()
}

// shim is one containerd-shim of this instance.
type shim struct {
	*process
	namespace, id string
}

// shims finds ours by the socket address on their command line, whatever
// directory state was lost.
func (r *Runtime) shims() []shim {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []shim
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		args := commandLine(pid)
		if len(args) == 0 || !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") {
			continue
		}
		if flag(args, "-address") != r.cfg.Socket {
			continue
		}
		p, err := openProcess(pid)
		if err != nil {
			continue
		}
		// The pid may have changed hands before it was opened.
		if flag(commandLine(pid), "-address") != r.cfg.Socket {
			p.close()
			continue
		}
		found = append(found, shim{process: p, namespace: flag(args, "-namespace"), id: flag(args, "-id")})
	}
	return found
}

func commandLine(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
}

func flag(args []string, name string) string {
	for i, a := range args {
		if a == name && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// killShims ends what containerd could not: the containers' first processes,
// then the shims, which reap them and go.
func (r *Runtime) killShims(ctx context.Context) error {
	shims := r.shims()
	if len(shims) == 0 {
		return nil
	}
	for _, c := range r.inits() {
		_ = c.signal(unix.SIGKILL) // gone already is as good
		wait, cancel := context.WithTimeout(ctx, stopTimeout)
		c.wait(wait)
		cancel()
		c.close()
	}
	var errs []error
	for _, s := range shims {
		if err := s.signal(unix.SIGKILL); err != nil {
			errs = append(errs, err)
		}
		wait, cancel := context.WithTimeout(ctx, stopTimeout)
		if !s.wait(wait) {
			errs = append(errs, fmt.Errorf("containerd: shim %d of container %s does not end", s.PID, s.id))
		}
		cancel()
		s.close()
	}
	return errors.Join(errs...)
}

// inits are the first processes of all containers, from the runtime's own
// records. runc's state holds the start time too, but a container's init is
// also recognised by its parent: a shim of ours, or whoever adopted it.
func (r *Runtime) inits() []*process {
	files, _ := filepath.Glob(filepath.Join(r.taskDir(), "*", "*", "init.pid"))
	var out []*process
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil || pid <= 1 {
			continue
		}
		p, err := openProcess(pid)
		if err != nil {
			continue
		}
		started, err := r.runcStart(filepath.Base(filepath.Dir(filepath.Dir(f))), filepath.Base(filepath.Dir(f)))
		if err != nil || started != p.StartTime {
			p.close() // not the process that runc started
			continue
		}
		out = append(out, p)
	}
	return out
}
