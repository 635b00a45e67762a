package builtin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/cdi"
	"knarr.dev/knarr/internal/runtime/builtin/spec"
	"knarr.dev/knarr/internal/runtime/imagestore"
	"knarr.dev/knarr/internal/runtime/supervisor"
)

// container of a sandbox.
type container struct {
	// op is held by what starts, stops or removes the container.
	op sync.Mutex
	// file is held from a change of the record until it is written, so that
	// files follow each other as records do; it is taken before Runtime.mu.
	file   sync.Mutex
	record atomic.Pointer[containerRecord] // replaced as a whole, under Runtime.mu
	ended  chan struct{}                   // closed when it has ended; nil before it was started
	gone   bool                            // removed

	last sample // of CPU time
	rate uint64 // nanoseconds of it per second
}

type containerRecord struct {
	ID      string                               `json:"id"`
	Sandbox string                               `json:"sandbox"`
	Config  message[*runtimeapi.ContainerConfig] `json:"config"`
	Image   string                               `json:"image"`    // its ID
	Ref     string                               `json:"imageRef"` // as the CRI wants it told
	Created time.Time                            `json:"created"`
	Started time.Time                            `json:"started,omitzero"`
	Ended   time.Time                            `json:"ended,omitzero"`
	PID     int                                  `json:"pid,omitempty"`
	Code    int32                                `json:"code,omitempty"`
	Reason  string                               `json:"reason,omitempty"`
	Message string                               `json:"message,omitempty"`
	User    spec.User                            `json:"user"`
	Stop    string                               `json:"stop,omitempty"` // signal
	Log     string                               `json:"log,omitempty"`
	Process *specs.Process                       `json:"process,omitempty"` // what execs begin with
	// Volumes are names of mounted images, to be released.
	Volumes []string `json:"volumes,omitempty"`
}

// Reasons that the kubelet and people know.
const (
	reasonCompleted  = "Completed"
	reasonError      = "Error"
	reasonOOM        = "OOMKilled"
	reasonStartError = "StartError"
	reasonUnknown    = "Unknown"

	startErrorCode = 128
	unknownCode    = 255
)

func (c *container) rec() *containerRecord { return c.record.Load() }

func (c *container) config() *runtimeapi.ContainerConfig { return c.rec().Config.m }

func (c *container) name() string {
	m := c.config().GetMetadata()
	return strings.Join([]string{"container", m.Name, c.rec().Sandbox, strconv.Itoa(int(m.Attempt))}, "_")
}

func (c *container) state() runtimeapi.ContainerState {
	switch {
	case !c.rec().Ended.IsZero():
		return runtimeapi.ContainerState_CONTAINER_EXITED
	case !c.rec().Started.IsZero():
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return runtimeapi.ContainerState_CONTAINER_CREATED
}

func (r *Runtime) bundleDir(id string) string { return filepath.Join(r.cfg.Run, "bundles", id) }

// CreateContainer implements the CRI.
func (r *Runtime) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	s, err := r.sandbox(req.PodSandboxId)
	if err != nil {
		return nil, err
	}
	config := req.GetConfig()
	switch {
	case config == nil:
		return nil, status.Error(codes.InvalidArgument, "a container without a configuration")
	case config.GetMetadata().GetName() == "":
		return nil, status.Error(codes.InvalidArgument, "container metadata: a name is needed")
	case config.GetImage().GetImage() == "":
		return nil, status.Error(codes.InvalidArgument, "a container without an image")
	}
	s.op.Lock()
	defer s.op.Unlock()
	if !s.rec().Ready {
		return nil, status.Errorf(codes.FailedPrecondition, "sandbox %s is not running", s.rec().ID)
	}
	image, err := r.cfg.Images.Get(config.Image.Image)
	if err != nil {
		return nil, failed(err, "image %q", config.Image.Image)
	}
	c := &container{}
	c.record.Store(&containerRecord{ID: newID(), Sandbox: s.rec().ID, Config: message[*runtimeapi.ContainerConfig]{config},
		Image: image.ID, Ref: imageRef(image), Created: time.Now().UTC(), Stop: stopSignal(config, image)})
	if dir := s.config().LogDirectory; dir != "" && config.LogPath != "" {
		c.rec().Log = filepath.Join(dir, config.LogPath)
	}
	id := c.rec().ID
	if err := r.checkContainer(s, config); err != nil {
		return nil, err
	}
	if err := r.reserve(c.name(), id); err != nil {
		return nil, err
	}
	// The record comes first: whatever is made after it is found again.
	if err = save(r.containerFile(id), c.rec()); err == nil {
		err = r.makeContainer(ctx, s, c, image)
	}
	if err == nil {
		err = save(r.containerFile(id), c.rec())
	}
	if err != nil {
		r.unreserve(c.name())
		return nil, failed(errors.Join(err, r.unmakeContainer(c)), "cannot create container %s", config.Metadata.Name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.containers[id] = c
	r.tell(id, c.rec().Sandbox, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

// checkContainer refuses what does not fit its sandbox.
func (r *Runtime) checkContainer(s *sandbox, c *runtimeapi.ContainerConfig) error {
	sc, box := c.GetLinux().GetSecurityContext(), s.config().GetLinux().GetSecurityContext()
	invalid := func(format string, args ...any) error { return status.Errorf(codes.InvalidArgument, format, args...) }
	if sc.GetPrivileged() && !box.GetPrivileged() {
		return invalid("a privileged container in a sandbox that is not privileged")
	}
	want, have := sc.GetNamespaceOptions().GetUsernsOptions(), box.GetNamespaceOptions().GetUsernsOptions()
	same := func(a, b *runtimeapi.IDMapping) bool {
		return a.HostId == b.HostId && a.ContainerId == b.ContainerId && a.Length == b.Length
	}
	if len(want.GetUids())+len(want.GetGids()) > 0 && (!slices.EqualFunc(want.GetUids(), have.GetUids(), same) || !slices.EqualFunc(want.GetGids(), have.GetGids(), same)) {
		return invalid("the container's user namespace is not its sandbox's")
	}
	for _, m := range c.Mounts {
		if m.RecursiveReadOnly && !r.can[s.rec().Handler].GetRecursiveReadOnlyMounts() {
			return invalid("mount at %s: runtime handler %q has no recursive read-only mounts", m.ContainerPath, s.rec().Handler)
		}
		if m.GetImage().GetImage() == "" {
			continue
		}
		switch {
		case m.HostPath != "":
			return invalid("mount at %s: an image and a path of the host", m.ContainerPath)
		case !m.Readonly:
			return invalid("mount at %s: an image can only be mounted read-only", m.ContainerPath)
		}
	}
	return nil
}

// imageRef is how the CRI tells which image a container has: by digest if there
// is one.
func imageRef(im imagestore.Image) string {
	if len(im.Digests) > 0 {
		return im.Digests[0]
	}
	return im.ID
}

func stopSignal(c *runtimeapi.ContainerConfig, im imagestore.Image) string {
	if c.StopSignal != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return strings.TrimPrefix(c.StopSignal.String(), "SIGNAL_")
	}
	return im.Config.Config.StopSignal
}

func rootfsOptions(o *runtimeapi.UserNamespace) imagestore.RootfsOptions {
	if o.GetMode() != runtimeapi.NamespaceMode_POD {
		return imagestore.RootfsOptions{}
	}
	return imagestore.RootfsOptions{UIDs: o.GetUids(), GIDs: o.GetGids()}
}

func (r *Runtime) makeContainer(ctx context.Context, s *sandbox, c *container, image imagestore.Image) error {
	id, config := c.rec().ID, c.config()
	root, err := r.cfg.Images.Prepare(ctx, id, image, rootfsOptions(s.options().GetUsernsOptions()))
	if err != nil {
		return err
	}
	security := config.GetLinux().GetSecurityContext()
	if c.rec().User, err = resolveUser(root.Path, security, image.Config.Config.User); err != nil {
		return err
	}
	profile, err := r.seccomp(security)
	if err != nil {
		return err
	}
	in := spec.Input{ID: id, Config: config, Image: image.Config.Config, Sandbox: r.specSandbox(s), User: c.rec().User,
		Machine: r.machine, Rootfs: root.Path, Seccomp: profile, Images: map[string]string{}, Devices: map[string][]specs.LinuxDevice{}}
	if in.Sandbox.PID, err = r.pidNamespace(s, security.GetNamespaceOptions()); err != nil {
		return err
	}
	for i, m := range config.Mounts {
		if ref := m.GetImage().GetImage(); ref != "" {
			volume := fmt.Sprintf("%s.%d", id, i)
			im, err := r.cfg.Images.Get(ref)
			if err != nil {
				return fmt.Errorf("image volume %s: %w", m.ContainerPath, err)
			}
			c.rec().Volumes = append(c.rec().Volumes, volume)
			m.Image = proto.Clone(m.Image).(*runtimeapi.ImageSpec)
			m.Image.ImageRef = im.ID
			if in.Images[m.ContainerPath], err = r.cfg.Images.MountImage(ctx, volume, im, m.ImageSubPath, rootfsOptions(s.options().GetUsernsOptions())); err != nil {
				return fmt.Errorf("image volume %s: %w", m.ContainerPath, err)
			}
			continue
		}
		if err := checkSource(m); err != nil {
			return err
		}
	}
	if in.Volumes, err = r.volumes(c, root.Path, image); err != nil {
		return err
	}
	for _, d := range config.Devices {
		if in.Devices[d.HostPath], err = devicesAt(d.HostPath); err != nil {
			return fmt.Errorf("device %s: %w", d.HostPath, err)
		}
	}
	if security.GetPrivileged() {
		if in.Machine.Devices, err = devicesAt("/dev"); err != nil {
			return fmt.Errorf("devices of the host: %w", err)
		}
	}
	out, err := spec.Container(in)
	if err != nil {
		return err
	}
	if err := hasProfile(out.Process.ApparmorProfile); err != nil {
		return err
	}
	devices, err := devicesOf(config)
	if err != nil {
		return err
	}
	if err := cdi.Inject(out, devices, cdi.Dirs...); err != nil {
		return err
	}
	c.rec().User.Additional = out.Process.User.AdditionalGids
	c.rec().Process = out.Process
	forHandler(s, out)
	return r.writeBundle(id, out)
}

// devicesOf are the names of CDI devices that a container gets: in the CRI's
// field, or in annotations, as before there was one.
func devicesOf(c *runtimeapi.ContainerConfig) ([]string, error) {
	var ids []string
	for _, d := range c.CDIDevices {
		ids = append(ids, d.GetName())
	}
	more, err := cdi.FromAnnotations(c.Annotations)
	return append(ids, more...), err
}

// pidNamespace is the file of the PID namespace that a container joins.
func (r *Runtime) pidNamespace(s *sandbox, o *runtimeapi.NamespaceOption) (string, error) {
	id := ""
	switch o.GetPid() {
	case runtimeapi.NamespaceMode_POD:
		id = s.rec().ID
	case runtimeapi.NamespaceMode_TARGET:
		target, err := r.container(o.TargetId)
		if err != nil {
			return "", fmt.Errorf("target: %w", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if target.rec().Sandbox != s.rec().ID {
			return "", fmt.Errorf("target container %s is in another sandbox", o.TargetId)
		}
		if target.state() != runtimeapi.ContainerState_CONTAINER_RUNNING {
			return "", fmt.Errorf("target container %s is not running", o.TargetId)
		}
		return fmt.Sprintf("/proc/%d/ns/pid", target.rec().PID), nil
	default:
		return "", nil
	}
	pid, err := r.pidOf(id)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/%d/ns/pid", pid), nil
}

func (r *Runtime) writeBundle(id string, s *specs.Spec) error {
	dir := r.bundleDir(id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600)
}

// unmakeContainer takes everything of a container that is not running away.
func (r *Runtime) unmakeContainer(c *container) error {
	id := c.rec().ID
	errs := []error{r.cfg.Images.Release(id), os.RemoveAll(r.bundleDir(id)), os.RemoveAll(r.volumeDir(id))}
	for _, v := range c.rec().Volumes {
		errs = append(errs, r.cfg.Images.Release(v))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(r.containerFile(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// StartContainer implements the CRI.
func (r *Runtime) StartContainer(ctx context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	c, err := r.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	c.op.Lock()
	defer c.op.Unlock()
	r.mu.Lock()
	state, gone := c.state(), c.gone
	r.mu.Unlock()
	id := c.rec().ID
	switch {
	case gone:
		return nil, status.Errorf(codes.NotFound, "no container %q", id)
	case state != runtimeapi.ContainerState_CONTAINER_CREATED:
		return nil, status.Errorf(codes.FailedPrecondition, "container %s is in state %s", id, state)
	}
	s, err := r.sandbox(c.rec().Sandbox)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	ready := s.rec().Ready
	r.mu.Unlock()
	if !ready {
		return nil, status.Errorf(codes.FailedPrecondition, "sandbox %s of container %s is not running", s.rec().ID, id)
	}
	h, err := r.handler(s)
	if err != nil {
		return nil, err
	}
	if c.rec().Log != "" {
		if err := os.MkdirAll(filepath.Dir(c.rec().Log), 0o755); err != nil {
			return nil, failed(err, "log of container %s", id)
		}
	}
	config := c.config()
	// Once begun it is not given up half-way: the caller's end does not leave
	// a container that nobody knows of.
	started, err := r.cfg.Supervisor.Client.Run(context.WithoutCancel(ctx), id, supervisor.Run{Bundle: r.bundleDir(id), Handler: h, Log: c.rec().Log, Stdin: config.Stdin, Once: config.StdinOnce})
	if err != nil {
		r.change(c, func(rec *containerRecord) []runtimeapi.ContainerEventType {
			now := time.Now().UTC()
			rec.Started, rec.Ended = time.Time{}, now
			rec.Code, rec.Reason, rec.Message = startErrorCode, reasonStartError, fmt.Sprintf("failed to start the container: %v", err)
			return nil
		})
		return nil, failed(err, "cannot start container %s", config.Metadata.Name)
	}
	r.runs(c, started)
	return &runtimeapi.StartContainerResponse{}, nil
}

// runs notes that a container runs, once; it may have ended already.
func (r *Runtime) runs(c *container, s supervisor.Container) {
	r.mu.Lock()
	if c.ended == nil {
		c.ended = make(chan struct{})
	}
	noted := func(rec *containerRecord) bool { return !rec.Started.IsZero() || !rec.Ended.IsZero() }
	done := noted(c.rec())
	r.mu.Unlock()
	if !done {
		r.change(c, func(rec *containerRecord) []runtimeapi.ContainerEventType {
			if noted(rec) {
				return nil // another call was quicker
			}
			rec.Started, rec.PID = s.Started, s.PID
			return []runtimeapi.ContainerEventType{runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT}
		})
	}
	if s.Exit != nil {
		r.exited(c, *s.Exit)
	}
}

// change replaces a container's record, in memory and in its file, and tells the
// events that fn returns in the same step: they come in the order of what they
// are about.
func (r *Runtime) change(c *container, fn func(*containerRecord) []runtimeapi.ContainerEventType) {
	c.file.Lock()
	defer c.file.Unlock()
	r.mu.Lock()
	rec, gone := *c.rec(), c.gone
	events := fn(&rec)
	c.record.Store(&rec)
	for _, kind := range events {
		r.tell(rec.ID, rec.Sandbox, kind)
	}
	r.mu.Unlock()
	if gone {
		return
	}
	if err := save(r.containerFile(rec.ID), rec); err != nil {
		// The supervisor knows it still: what is lost is lost with both.
		r.cfg.Log.Error("cannot keep what a container does", "container", rec.ID, "error", err)
	}
}

// exited notes how a container ended, once.
func (r *Runtime) exited(c *container, e supervisor.Exit) {
	r.mu.Lock()
	done := !c.rec().Ended.IsZero()
	r.mu.Unlock()
	if done {
		return
	}
	r.change(c, func(rec *containerRecord) []runtimeapi.ContainerEventType {
		if !rec.Ended.IsZero() {
			return nil // another call was quicker
		}
		rec.Ended, rec.Code = e.At, int32(e.Code)
		switch {
		case !e.Known:
			rec.Code, rec.Reason = unknownCode, reasonUnknown
			rec.Message = "how the container ended is not known: nobody could be told"
			if e.OOM {
				rec.Reason = reasonOOM
			}
		case e.OOM:
			rec.Reason = reasonOOM
		case e.Code == 0:
			rec.Reason = reasonCompleted
		default:
			rec.Reason = reasonError
		}
		return []runtimeapi.ContainerEventType{runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT}
	})
	r.mu.Lock()
	if c.ended == nil {
		c.ended = make(chan struct{})
	}
	select {
	case <-c.ended:
	default:
		close(c.ended)
	}
	r.mu.Unlock()
}

// StopContainer implements the CRI.
func (r *Runtime) StopContainer(ctx context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	c, err := r.container(req.ContainerId)
	if status.Code(err) == codes.NotFound && req.ContainerId != "" {
		return &runtimeapi.StopContainerResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if req.Timeout < 0 {
		return nil, status.Errorf(codes.InvalidArgument, "a timeout of %d seconds", req.Timeout)
	}
	if err := r.stop(ctx, c, time.Duration(req.Timeout)*time.Second); err != nil {
		return nil, failed(err, "cannot stop container %s", c.rec().ID)
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

// killTime is for the kernel to end a process after SIGKILL.
const killTime = 30 * time.Second

// stop ends a container that runs: kindly first, if there is time.
func (r *Runtime) stop(ctx context.Context, c *container, grace time.Duration) error {
	r.mu.Lock()
	running, ended, sig := c.state() == runtimeapi.ContainerState_CONTAINER_RUNNING, c.ended, c.rec().Stop
	r.mu.Unlock()
	if !running {
		return nil
	}
	id := c.rec().ID
	if grace > 0 {
		n, err := signalNumber(sig)
		if err != nil {
			r.cfg.Log.Warn("a container is stopped by SIGTERM", "container", id, "error", err)
			n = unix.SIGTERM
		}
		if err := r.cfg.Supervisor.Signal(ctx, id, "", int(n)); err != nil && !supervisor.Is(err, supervisor.NotFound) {
			return err
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-ended:
			return nil
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := r.cfg.Supervisor.Signal(ctx, id, "", int(unix.SIGKILL)); err != nil && !supervisor.Is(err, supervisor.NotFound) {
		return err
	}
	timer := time.NewTimer(killTime)
	defer timer.Stop()
	select {
	case <-ended:
		return nil
	case <-timer.C:
		return fmt.Errorf("container %s does not end %s after SIGKILL", id, killTime)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// signalNumber knows SIGTERM, TERM and 15; nothing is SIGTERM.
func signalNumber(s string) (unix.Signal, error) {
	if s == "" {
		return unix.SIGTERM, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if n := unix.SignalNum(name); n != 0 {
		return n, nil
	}
	// Real-time signals, as kill(1) writes them: the C library keeps two.
	for prefix, base := range map[string]int{"SIGRTMIN": 34, "SIGRTMAX": 64} {
		if rest, ok := strings.CutPrefix(strings.ReplaceAll(name, "MINUS", "-"), prefix); ok {
			rest = strings.ReplaceAll(rest, "PLUS", "+")
			off, err := strconv.Atoi(rest)
			if rest == "" {
				off, err = 0, nil
			}
			if n := base + off; err == nil && n >= 34 && n <= 64 {
				return unix.Signal(n), nil
			}
		}
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}

// RemoveContainer implements the CRI.
func (r *Runtime) RemoveContainer(ctx context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	c, err := r.container(req.ContainerId)
	if status.Code(err) == codes.NotFound && req.ContainerId != "" {
		return &runtimeapi.RemoveContainerResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := r.remove(ctx, c); err != nil {
		return nil, failed(err, "cannot remove container %s", c.rec().ID)
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (r *Runtime) remove(ctx context.Context, c *container) error {
	c.op.Lock()
	defer c.op.Unlock()
	if c.gone {
		return nil
	}
	if err := r.stop(ctx, c, 0); err != nil {
		return err
	}
	id := c.rec().ID
	if err := r.cfg.Supervisor.Delete(ctx, id); err != nil {
		return err
	}
	c.file.Lock() // nobody writes it again once it is removed
	defer c.file.Unlock()
	if err := r.unmakeContainer(c); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c.gone = true
	delete(r.containers, id)
	delete(r.names, c.name())
	r.tell(id, c.rec().Sandbox, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	return nil
}

// ListContainers implements the CRI.
func (r *Runtime) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	f := req.GetFilter()
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListContainersResponse{}
	box := f.GetPodSandboxId()
	if box != "" {
		s, ok := find(r.sandboxes, box)
		if !ok {
			return out, nil
		}
		box = s.rec().ID
	}
	for _, c := range selected(r.containers, f.GetId()) {
		config := c.config()
		if f.GetState() != nil && f.GetState().State != c.state() || box != "" && c.rec().Sandbox != box || !matches(config.Labels, f.GetLabelSelector()) {
			continue
		}
		out.Containers = append(out.Containers, &runtimeapi.Container{Id: c.rec().ID, PodSandboxId: c.rec().Sandbox, Metadata: config.Metadata,
			Image: config.Image, ImageRef: c.rec().Ref, ImageId: c.rec().Image, State: c.state(), CreatedAt: c.rec().Created.UnixNano(),
			Labels: config.Labels, Annotations: config.Annotations})
	}
	return out, nil
}

// ContainerStatus implements the CRI.
func (r *Runtime) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := r.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ContainerStatusResponse{Status: c.status()}
	if req.Verbose {
		out.Info = info(map[string]any{"sandboxID": c.rec().Sandbox, "pid": c.rec().PID, "config": c.rec().Config, "bundle": r.bundleDir(c.rec().ID)})
	}
	return out, nil
}

// status of a container; Runtime.mu is held.
func (c *container) status() *runtimeapi.ContainerStatus {
	config, rec := c.config(), c.rec()
	nanos := func(t time.Time) int64 {
		if t.IsZero() {
			return 0
		}
		return t.UnixNano()
	}
	groups := make([]int64, 0, len(rec.User.Additional))
	for _, g := range rec.User.Additional {
		groups = append(groups, int64(g))
	}
	return &runtimeapi.ContainerStatus{Id: rec.ID, Metadata: config.Metadata, State: c.state(),
		CreatedAt: nanos(rec.Created), StartedAt: nanos(rec.Started), FinishedAt: nanos(rec.Ended), ExitCode: rec.Code,
		Image: config.Image, ImageRef: rec.Ref, ImageId: rec.Image, Reason: rec.Reason, Message: rec.Message,
		Labels: config.Labels, Annotations: config.Annotations, Mounts: config.Mounts, LogPath: rec.Log,
		Resources:  &runtimeapi.ContainerResources{Linux: config.GetLinux().GetResources()},
		StopSignal: cmp.Or(config.StopSignal, runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+rec.Stop])),
		User:       &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{Uid: int64(rec.User.UID), Gid: int64(rec.User.GID), SupplementalGroups: groups}},
	}
}

// UpdateContainerResources implements the CRI.
func (r *Runtime) UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	c, err := r.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	c.op.Lock()
	defer c.op.Unlock()
	r.mu.Lock()
	state := c.state()
	r.mu.Unlock()
	id := c.rec().ID
	merged := mergeResources(c.config().GetLinux().GetResources(), req.GetLinux())
	limits, err := spec.Resources(merged, r.machine)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	switch state {
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		if err := r.cfg.Supervisor.Update(ctx, id, limits); err != nil {
			return nil, failed(err, "cannot change the resources of container %s", id)
		}
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		if err := r.rewriteBundle(id, limits); err != nil {
			return nil, failed(err, "cannot change the resources of container %s", id)
		}
	default:
		return nil, status.Errorf(codes.FailedPrecondition, "container %s has ended", id)
	}
	r.change(c, func(rec *containerRecord) []runtimeapi.ContainerEventType {
		rec.Config = message[*runtimeapi.ContainerConfig]{withResources(rec.Config.m, merged)}
		return nil
	})
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// rewriteBundle changes what a container will be started with.
func (r *Runtime) rewriteBundle(id string, limits *specs.LinuxResources) error {
	b, err := os.ReadFile(filepath.Join(r.bundleDir(id), "config.json"))
	if err != nil {
		return err
	}
	var s specs.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	limits.Devices = s.Linux.Resources.Devices
	s.Linux.Resources = limits
	return r.writeBundle(id, &s)
}

// ReopenContainerLog implements the CRI.
func (r *Runtime) ReopenContainerLog(ctx context.Context, req *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	c, err := r.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	if err := r.cfg.Supervisor.Reopen(ctx, c.rec().ID); err != nil {
		return nil, failed(err, "cannot reopen the log of container %s", c.rec().ID)
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}
