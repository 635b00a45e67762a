package builtin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/runtime/builtin/spec"
)

// sandbox is a pod's surroundings.
type sandbox struct {
	// op is held by what changes the sandbox, so that two calls do not meet.
	op sync.Mutex
	// file is held from the end of the sandbox until it is written: it may be noticed
	// twice, and a file must not be written after it was removed.
	file   sync.Mutex
	record atomic.Pointer[sandboxRecord] // replaced as a whole, under Runtime.mu
}

type sandboxRecord struct {
	ID      string                                `json:"id"`
	Config  message[*runtimeapi.PodSandboxConfig] `json:"config"`
	Created time.Time                             `json:"created"`
	Ready   bool                                  `json:"ready"`
	IPs     []netip.Addr                          `json:"ips,omitempty"`
	// Handler that runs its containers; none is our own engine.
	Handler string `json:"handler,omitempty"`
	// Pause is set if a process holds the PID namespace.
	Pause bool `json:"pause,omitempty"`
}

func (s *sandbox) rec() *sandboxRecord { return s.record.Load() }

func (s *sandbox) config() *runtimeapi.PodSandboxConfig { return s.rec().Config.m }

func (s *sandbox) options() *runtimeapi.NamespaceOption {
	return s.config().GetLinux().GetSecurityContext().GetNamespaceOptions()
}

// name is what no two sandboxes share.
func (s *sandbox) name() string {
	m := s.config().GetMetadata()
	return strings.Join([]string{"sandbox", m.Name, m.Namespace, m.Uid, strconv.Itoa(int(m.Attempt))}, "_")
}

func (r *Runtime) sandboxDir(id string) string { return filepath.Join(r.cfg.Run, "sandboxes", id) }

// flags are the namespaces that a sandbox has of its own.
func (s *sandbox) flags() int {
	o, flags := s.options(), 0
	if o.GetNetwork() != runtimeapi.NamespaceMode_NODE {
		flags |= unix.CLONE_NEWNET | unix.CLONE_NEWUTS // the host's network has the host's name
	}
	if o.GetIpc() != runtimeapi.NamespaceMode_NODE {
		flags |= unix.CLONE_NEWIPC
	}
	return flags
}

func (r *Runtime) checkSandbox(req *runtimeapi.RunPodSandboxRequest) error {
	c := req.GetConfig()
	m := c.GetMetadata()
	invalid := func(format string, args ...any) error { return status.Errorf(codes.InvalidArgument, format, args...) }
	switch {
	case c == nil:
		return invalid("a sandbox without a configuration")
	case m == nil || m.Name == "" || m.Namespace == "" || m.Uid == "":
		return invalid("sandbox metadata: name, namespace and uid are needed")
	case r.can[req.RuntimeHandler] == nil:
		return invalid("no runtime for %q is configured", req.RuntimeHandler)
	case c.GetWindows() != nil:
		return invalid("a sandbox for Windows")
	case len(c.Hostname) > 64:
		return invalid("host name %q is longer than 64 characters", c.Hostname)
	}
	if sc := c.GetLinux().GetSecurityContext(); sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil {
		return invalid("a group to run as is given without a user")
	}
	d := c.GetDnsConfig()
	for _, word := range slices.Concat(d.GetServers(), d.GetSearches(), d.GetOptions()) {
		if strings.ContainsFunc(word, unicode.IsSpace) {
			return invalid("DNS: %q has white space", word)
		}
	}
	o := c.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if o.GetPid() == runtimeapi.NamespaceMode_TARGET || o.GetNetwork() == runtimeapi.NamespaceMode_CONTAINER || o.GetIpc() == runtimeapi.NamespaceMode_CONTAINER {
		return invalid("namespace options %v are not those of a sandbox", o)
	}
	if u := o.GetUsernsOptions(); u != nil {
		switch u.Mode {
		case runtimeapi.NamespaceMode_NODE:
			if len(u.Uids) > 0 || len(u.Gids) > 0 {
				return invalid("the node's user namespace has no mappings")
			}
		case runtimeapi.NamespaceMode_POD:
			if !r.can[req.RuntimeHandler].UserNamespaces {
				return invalid("runtime handler %q has no user namespaces", req.RuntimeHandler)
			}
			if len(u.Uids) != 1 || len(u.Gids) != 1 || u.Uids[0].Length == 0 || u.Gids[0].Length == 0 {
				return invalid("a user namespace needs one mapping of users and one of groups")
			}
			if u.Uids[0].ContainerId != 0 || u.Gids[0].ContainerId != 0 {
				return invalid("a user namespace needs a mapping of root")
			}
			if o.GetNetwork() == runtimeapi.NamespaceMode_NODE || o.GetPid() == runtimeapi.NamespaceMode_NODE || o.GetIpc() == runtimeapi.NamespaceMode_NODE {
				return invalid("a user namespace with one of the host's other namespaces is not supported")
			}
		default:
			return invalid("user namespace mode %v is not supported", u.Mode)
		}
	}
	for _, p := range c.PortMappings {
		if p.HostPort < 0 || p.HostPort > 65535 || p.ContainerPort < 0 || p.ContainerPort > 65535 || p.HostPort > 0 && p.ContainerPort == 0 {
			return invalid("port mapping %d to %d: ports are 1 to 65535, and 0 of the host is none", p.HostPort, p.ContainerPort)
		}
	}
	return nil
}

// RunPodSandbox implements the CRI.
func (r *Runtime) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	if err := r.checkSandbox(req); err != nil {
		return nil, err
	}
	s := &sandbox{}
	s.record.Store(&sandboxRecord{ID: newID(), Config: message[*runtimeapi.PodSandboxConfig]{req.Config}, Created: time.Now().UTC(), Handler: req.RuntimeHandler})
	id := s.rec().ID
	if err := r.reserve(s.name(), id); err != nil {
		return nil, err
	}
	s.op.Lock()
	defer s.op.Unlock()
	r.mu.Lock()
	r.making[id] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.making, id)
	}()
	// The record comes first: whatever is made after it is found again.
	err := save(r.sandboxFile(id), s.rec())
	if err == nil {
		err = r.makeSandbox(ctx, s)
	}
	if err != nil {
		// Not with the caller's context: that may be what has ended.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		if uerr := r.unmakeSandbox(undo, s); uerr != nil {
			// It stays in the list, not ready, and is stopped and removed again.
			r.put(s)
			return nil, failed(err, "cannot make the sandbox of pod %s/%s (%v)", req.Config.Metadata.Namespace, req.Config.Metadata.Name, uerr)
		}
		r.unreserve(s.name())
		return nil, failed(errors.Join(err, os.Remove(r.sandboxFile(id))), "cannot make the sandbox of pod %s/%s", req.Config.Metadata.Namespace, req.Config.Metadata.Name)
	}
	r.put(s)
	r.tellSandbox(s, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	r.tellSandbox(s, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// undoTime bounds the taking back of what failed.
const undoTime = 30 * time.Second

func (r *Runtime) put(s *sandbox) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sandboxes[s.rec().ID] = s
}

func (r *Runtime) makeSandbox(ctx context.Context, s *sandbox) error {
	id, c, o := s.rec().ID, s.config(), s.options()
	dir := r.sandboxDir(id)
	if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
		return err
	}
	// Containers' root may be another user, who must reach the files.
	if err := os.Mkdir(dir, 0o711); err != nil {
		return err
	}
	if err := writeFiles(dir, c, o); err != nil {
		return err
	}
	flags := s.flags()
	if flags != 0 {
		if err := hold(dir, flags, o.GetUsernsOptions(), c.Hostname); err != nil {
			return err
		}
	}
	if flags&unix.CLONE_NEWIPC != 0 {
		if err := mountShm(dir, o.GetUsernsOptions()); err != nil {
			return err
		}
	}
	if flags&unix.CLONE_NEWNET != 0 {
		ips, err := r.cfg.Network.Attach(ctx, id, filepath.Join(dir, "net"), c.PortMappings)
		if err != nil {
			return fmt.Errorf("network: %w", err)
		}
		s.rec().IPs = ips
	}
	// What the field's runtimes set for a pod, and it may set otherwise.
	sysctls := map[string]string{}
	if flags&unix.CLONE_NEWNET != 0 {
		sysctls["net.ipv4.ip_unprivileged_port_start"] = "0"
		sysctls["net.ipv4.ping_group_range"] = pingGroups(o.GetUsernsOptions())
	}
	for k, v := range c.GetLinux().GetSysctls() {
		sysctls[strings.ReplaceAll(k, "/", ".")] = v
	}
	if err := setSysctls(dir, flags, sysctls); err != nil {
		return err
	}
	if o.GetPid() == runtimeapi.NamespaceMode_POD && r.cfg.PauseImage != "" {
		if err := r.pause(ctx, s); err != nil {
			return fmt.Errorf("pause: %w", err)
		}
	}
	s.rec().Ready = true
	return save(r.sandboxFile(id), s.rec())
}

// pingGroups are all groups that there are in the pod.
func pingGroups(o *runtimeapi.UserNamespace) string {
	last := uint32(2147483647)
	if o.GetMode() == runtimeapi.NamespaceMode_POD && len(o.GetGids()) > 0 {
		last = o.Gids[0].Length - 1
	}
	return fmt.Sprintf("0 %d", last)
}

// pauseScore is the OOM score of what holds a pod: the last to be killed.
const pauseScore = -998

// pause runs the process that holds the PID namespace of a pod.
func (r *Runtime) pause(ctx context.Context, s *sandbox) error {
	id := s.rec().ID
	image, err := r.cfg.Images.Get(r.cfg.PauseImage)
	if err != nil {
		return err
	}
	s.rec().Pause = true
	if err := save(r.sandboxFile(id), s.rec()); err != nil {
		return err
	}
	o := s.options().GetUsernsOptions()
	root, err := r.cfg.Images.Prepare(ctx, id, image, rootfsOptions(o))
	if err != nil {
		return err
	}
	sb := r.specSandbox(s)
	sb.PID = ""
	config := &runtimeapi.ContainerConfig{
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{CpuShares: 2, OomScoreAdj: pauseScore},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NoNewPrivs: true, ReadonlyRootfs: true,
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				Capabilities:     &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}},
		},
	}
	os, err := spec.Container(spec.Input{ID: id, Config: config, Image: image.Config.Config, Sandbox: sb, Machine: r.machine, Rootfs: root.Path})
	if err != nil {
		return err
	}
	if err := hasProfile(os.Process.ApparmorProfile); err != nil {
		return err
	}
	// It reads nothing: it has no /etc to mount on.
	os.Mounts = slices.DeleteFunc(os.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/etc/") })
	return r.runBundle(ctx, s, os)
}

// specSandbox is what a specification must know of a sandbox.
func (r *Runtime) specSandbox(s *sandbox) spec.Sandbox {
	dir, flags := r.sandboxDir(s.rec().ID), s.flags()
	out := spec.Sandbox{Config: s.config(), Dir: dir}
	for _, k := range kinds {
		if flags&k.flag == 0 {
			continue
		}
		path := filepath.Join(dir, k.name)
		switch k.name {
		case "net":
			out.Network = path
		case "ipc":
			out.IPC = path
		case "uts":
			out.UTS = path
		}
	}
	if s.options().GetUsernsOptions().GetMode() == runtimeapi.NamespaceMode_POD && len(s.options().GetUsernsOptions().GetUids()) > 0 {
		out.User = filepath.Join(dir, "user")
	}
	return out
}

// writeFiles writes what a container without files of its own sees in /etc.
func writeFiles(dir string, c *runtimeapi.PodSandboxConfig, o *runtimeapi.NamespaceOption) error {
	name := c.Hostname
	if o.GetNetwork() == runtimeapi.NamespaceMode_NODE || name == "" {
		host, err := os.Hostname()
		if err != nil {
			return err
		}
		name = host
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	resolv := []byte(nil)
	if d := c.GetDnsConfig(); d == nil {
		if resolv, err = os.ReadFile("/etc/resolv.conf"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	} else {
		var b strings.Builder
		if len(d.Searches) > 0 {
			fmt.Fprintf(&b, "search %s\n", strings.Join(d.Searches, " "))
		}
		for _, s := range d.Servers {
			fmt.Fprintf(&b, "nameserver %s\n", s)
		}
		if len(d.Options) > 0 {
			fmt.Fprintf(&b, "options %s\n", strings.Join(d.Options, " "))
		}
		resolv = []byte(b.String())
	}
	for file, data := range map[string][]byte{"hostname": []byte(name + "\n"), "hosts": hosts, "resolv.conf": resolv} {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// StopPodSandbox implements the CRI.
func (r *Runtime) StopPodSandbox(ctx context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	s, err := r.sandbox(req.PodSandboxId)
	if status.Code(err) == codes.NotFound && req.PodSandboxId != "" {
		return &runtimeapi.StopPodSandboxResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	s.op.Lock()
	defer s.op.Unlock()
	if err := r.stopSandbox(ctx, s); err != nil {
		return nil, failed(err, "cannot stop sandbox %s", s.rec().ID)
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

func (r *Runtime) stopSandbox(ctx context.Context, s *sandbox) error {
	for _, c := range r.of(s.rec().ID) {
		if err := r.stop(ctx, c, 0); err != nil {
			return err
		}
	}
	if err := r.unmakeSandbox(ctx, s); err != nil {
		return err
	}
	r.stopped(s)
	return nil
}

// stopped notes that a sandbox holds nothing any more, once: it was stopped, or the
// process that held its PID namespace is gone.
func (r *Runtime) stopped(s *sandbox) {
	s.file.Lock()
	defer s.file.Unlock()
	r.mu.Lock()
	rec := *s.rec()
	was := rec.Ready
	rec.Ready = false
	s.record.Store(&rec)
	r.mu.Unlock()
	if !was {
		return
	}
	if err := save(r.sandboxFile(rec.ID), rec); err != nil {
		// On a full disk it has to go on. After a restart it is taken for ready until
		// somebody stops it once more.
		r.cfg.Log.Error("cannot keep the state of a sandbox", "sandbox", rec.ID, "error", err)
	}
	r.tellSandbox(s, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// unmakeSandbox takes back what makeSandbox made. It may be called again.
func (r *Runtime) unmakeSandbox(ctx context.Context, s *sandbox) error {
	id := s.rec().ID
	dir := r.sandboxDir(id)
	if s.rec().Pause {
		if err := r.kill(ctx, id); err != nil {
			return err
		}
		if err := errors.Join(r.cfg.Images.Release(id), os.RemoveAll(r.bundleDir(id))); err != nil {
			return err
		}
	}
	if s.flags()&unix.CLONE_NEWNET != 0 {
		netns := filepath.Join(dir, "net")
		if !held(netns) {
			netns = ""
		}
		if err := r.cfg.Network.Detach(ctx, id, netns); err != nil {
			return fmt.Errorf("network: %w", err)
		}
	}
	return letGo(dir)
}

// of lists the containers of a sandbox.
func (r *Runtime) of(sandbox string) []*container {
	r.mu.Lock()
	defer r.mu.Unlock()
	var l []*container
	for _, c := range r.containers {
		if c.rec().Sandbox == sandbox {
			l = append(l, c)
		}
	}
	return l
}

// RemovePodSandbox implements the CRI.
func (r *Runtime) RemovePodSandbox(ctx context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	s, err := r.sandbox(req.PodSandboxId)
	if status.Code(err) == codes.NotFound && req.PodSandboxId != "" {
		return &runtimeapi.RemovePodSandboxResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	s.op.Lock()
	defer s.op.Unlock()
	id := s.rec().ID
	if err := r.stopSandbox(ctx, s); err != nil {
		return nil, failed(err, "cannot stop sandbox %s", id)
	}
	for _, c := range r.of(id) {
		if err := r.remove(ctx, c); err != nil {
			return nil, failed(err, "cannot remove container %s", c.rec().ID)
		}
	}
	if err := os.Remove(r.sandboxFile(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, failed(err, "cannot remove sandbox %s", id)
	}
	r.mu.Lock()
	_, had := r.sandboxes[id]
	delete(r.sandboxes, id)
	delete(r.names, s.name())
	r.mu.Unlock()
	if had {
		r.tellSandbox(s, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// Sweep releases root file systems of nobody's: a process died between making
// one and keeping it, or removing its owner and it. The images must be ready,
// and nothing else may go on.
func (r *Runtime) Sweep() error {
	r.mu.Lock()
	known := map[string]bool{}
	for id := range r.sandboxes {
		known[id] = true
	}
	for id, c := range r.containers {
		known[id] = true
		for _, v := range c.rec().Volumes {
			known[v] = true
		}
	}
	r.mu.Unlock()
	var errs []error
	for _, name := range r.cfg.Images.Roots() {
		if !known[name] {
			errs = append(errs, r.cfg.Images.Release(name))
		}
	}
	return errors.Join(errs...)
}

// recheck looks whether a sandbox that was ready is still held: not after a
// reboot.
func (r *Runtime) recheck(s *sandbox) {
	for _, k := range kinds {
		if s.flags()&k.flag != 0 && !held(filepath.Join(r.sandboxDir(s.rec().ID), k.name)) {
			s.rec().Ready = false
		}
	}
}

func (s *sandbox) state() runtimeapi.PodSandboxState {
	if s.rec().Ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

// ListPodSandbox implements the CRI.
func (r *Runtime) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	f := req.GetFilter()
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, s := range selected(r.sandboxes, f.GetId()) {
		c := s.config()
		if f.GetState() != nil && f.GetState().State != s.state() || !matches(c.Labels, f.GetLabelSelector()) {
			continue
		}
		out.Items = append(out.Items, &runtimeapi.PodSandbox{Id: s.rec().ID, Metadata: c.Metadata, State: s.state(),
			CreatedAt: s.rec().Created.UnixNano(), Labels: c.Labels, Annotations: c.Annotations, RuntimeHandler: s.rec().Handler})
	}
	return out, nil
}

// PodSandboxStatus implements the CRI.
func (r *Runtime) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	s, err := r.sandbox(req.PodSandboxId)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.PodSandboxStatusResponse{Status: s.status(), Timestamp: time.Now().UnixNano()}
	for _, c := range r.containers {
		if c.rec().Sandbox == s.rec().ID {
			out.ContainersStatuses = append(out.ContainersStatuses, c.status())
		}
	}
	if req.Verbose {
		out.Info = info(map[string]any{"config": s.rec().Config, "runDir": r.sandboxDir(s.rec().ID), "pause": s.rec().Pause})
	}
	return out, nil
}

// status of a sandbox; Runtime.mu is held.
func (s *sandbox) status() *runtimeapi.PodSandboxStatus {
	c := s.config()
	st := &runtimeapi.PodSandboxStatus{Id: s.rec().ID, Metadata: c.Metadata, State: s.state(), CreatedAt: s.rec().Created.UnixNano(),
		Network: &runtimeapi.PodSandboxNetworkStatus{}, Labels: c.Labels, Annotations: c.Annotations, RuntimeHandler: s.rec().Handler,
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: s.options()}}}
	for i, ip := range s.rec().IPs {
		if i == 0 {
			st.Network.Ip = ip.String()
			continue
		}
		st.Network.AdditionalIps = append(st.Network.AdditionalIps, &runtimeapi.PodIP{Ip: ip.String()})
	}
	return st
}
