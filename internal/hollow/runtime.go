// Package hollow has nodes without machines: the node agent as it is, over a
// runtime that keeps books and runs nothing. Thousands of them fit into one
// process, so that a control plane can be tried at the size of a real cluster.
package hollow

import (
	"context"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/cri"
)

// End of a container that ends by itself.
type End struct {
	After time.Duration
	Code  int32
}

// RuntimeConfig of one node's runtime.
type RuntimeConfig struct {
	// PodCIDR is where pods' addresses come from; while it is not valid, the
	// network is not ready.
	PodCIDR func() netip.Prefix
	// Start is how long it takes to start a container, Stop to end one.
	Start, Stop time.Duration
	// Ends says how a container of a pod ends by itself; false: it runs until it
	// is stopped. May be nil.
	Ends func(pod *runtimeapi.PodSandboxMetadata, c *runtimeapi.ContainerConfig) (End, bool)
}

// Runtime of one node: a CRI that keeps books. It tells of what ends, as CRI's
// container events do.
type Runtime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer
	cfg RuntimeConfig

	mu    sync.Mutex
	last  uint64
	lease uint32 // of the last address
	pods  map[string]*pod
	of    map[string]string // pods of sandboxes and containers, by their IDs
	hears map[*hearer]bool
}

type pod struct {
	boxes      []*box
	containers []*container
}

type box struct {
	id          string
	metadata    *runtimeapi.PodSandboxMetadata
	labels      map[string]string
	annotations map[string]string
	created     int64
	ready       bool
	ip          string
}

type container struct {
	id, box           string
	metadata          *runtimeapi.ContainerMetadata
	image             *runtimeapi.ImageSpec
	labels            map[string]string
	annotations       map[string]string
	created, started  int64
	finished          int64
	code              int32
	state             runtimeapi.ContainerState
	end               *End
	timer             *time.Timer
	cpuShares, memory int64
}

type hearer struct {
	send func(*runtimeapi.ContainerEventResponse)
}

// NewRuntime makes one.
func NewRuntime(c RuntimeConfig) *Runtime {
	return &Runtime{cfg: c, pods: map[string]*pod{}, of: map[string]string{}, hears: map[*hearer]bool{}}
}

// Services are what a kubelet in this process uses.
func (r *Runtime) Services() cri.Services { return cri.Services{Runtime: r, Image: r} }

// Close ends what waits for its end.
func (r *Runtime) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pods {
		for _, c := range p.containers {
			if c.timer != nil {
				c.timer.Stop()
			}
		}
	}
}

func (r *Runtime) id() string {
	r.last++
	return strconv.FormatUint(r.last, 36)
}

func missing(what, id string) error {
	return status.Errorf(codes.NotFound, "%s %q not found", what, id)
}

// Version implements the CRI.
func (r *Runtime) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "hollow", RuntimeVersion: "1", RuntimeApiVersion: "v1"}, nil
}

// Status implements the CRI: the network needs to know the node's addresses.
func (r *Runtime) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: r.cfg.PodCIDR().IsValid()}
	if !network.Status {
		network.Reason, network.Message = "NetworkPluginNotReady", "the node has no addresses for pods yet"
	}
	return &runtimeapi.StatusResponse{
		Status:          &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{{Type: runtimeapi.RuntimeReady, Status: true}, network}},
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Features: &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: true, UserNamespaces: true}}},
	}, nil
}

// address of the next pod; they are used again only when all have been.
func (r *Runtime) address() (string, error) {
	p := r.cfg.PodCIDR()
	if !p.IsValid() || !p.Addr().Is4() {
		return "", status.Error(codes.Unavailable, "the node has no addresses for pods yet")
	}
	taken := map[string]bool{}
	for _, p := range r.pods {
		for _, b := range p.boxes {
			taken[b.ip] = b.ready
		}
	}
	size := uint32(1) << (32 - p.Bits())
	base := p.Masked().Addr().As4()
	first := uint32(base[0])<<24 | uint32(base[1])<<16 | uint32(base[2])<<8 | uint32(base[3])
	for range size {
		r.lease = (r.lease + 1) % size
		if r.lease < 2 || r.lease == size-1 { // the network, its gateway, broadcast
			continue
		}
		n := first + r.lease
		ip := netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}).String()
		if !taken[ip] {
			return ip, nil
		}
	}
	return "", status.Errorf(codes.ResourceExhausted, "no address is free in %s", p)
}

// RunPodSandbox implements the CRI.
func (r *Runtime) RunPodSandbox(_ context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	c := req.GetConfig()
	if req.RuntimeHandler != "" {
		return nil, status.Errorf(codes.InvalidArgument, "no runtime handler %q", req.RuntimeHandler)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b := &box{id: r.id(), metadata: c.Metadata, labels: c.Labels, annotations: c.Annotations, created: time.Now().UnixNano(), ready: true}
	if c.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() != runtimeapi.NamespaceMode_NODE {
		var err error
		if b.ip, err = r.address(); err != nil {
			return nil, err
		}
	}
	uid := c.Metadata.Uid
	p := r.pods[uid]
	if p == nil {
		p = &pod{}
		r.pods[uid] = p
	}
	p.boxes = append(p.boxes, b)
	r.of[b.id] = uid
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: b.id}, nil
}

// box by its ID; the caller holds the lock.
func (r *Runtime) box(id string) *box {
	if p := r.pods[r.of[id]]; p != nil {
		for _, b := range p.boxes {
			if b.id == id {
				return b
			}
		}
	}
	return nil
}

// container by its ID; the caller holds the lock.
func (r *Runtime) container(id string) *container {
	if p := r.pods[r.of[id]]; p != nil {
		for _, c := range p.containers {
			if c.id == id {
				return c
			}
		}
	}
	return nil
}

// StopPodSandbox implements the CRI: what still runs in it ends.
func (r *Runtime) StopPodSandbox(_ context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	r.mu.Lock()
	var ended []*container
	if b := r.box(req.PodSandboxId); b != nil {
		b.ready = false
		for _, c := range r.pods[r.of[b.id]].containers {
			if c.box == b.id && c.finish(137) {
				ended = append(ended, c)
			}
		}
	}
	r.mu.Unlock()
	for _, c := range ended {
		r.tell(c)
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox implements the CRI.
func (r *Runtime) RemovePodSandbox(_ context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	uid := r.of[req.PodSandboxId]
	p := r.pods[uid]
	if p == nil {
		return &runtimeapi.RemovePodSandboxResponse{}, nil
	}
	for i := len(p.containers) - 1; i >= 0; i-- {
		if p.containers[i].box == req.PodSandboxId {
			r.drop(p, p.containers[i].id)
		}
	}
	for i, b := range p.boxes {
		if b.id == req.PodSandboxId {
			p.boxes = append(p.boxes[:i:i], p.boxes[i+1:]...)
			break
		}
	}
	delete(r.of, req.PodSandboxId)
	if len(p.boxes)+len(p.containers) == 0 {
		delete(r.pods, uid)
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// drop a container of p; the caller holds the lock.
func (r *Runtime) drop(p *pod, id string) {
	for i, c := range p.containers {
		if c.id == id {
			c.finish(137)
			p.containers = append(p.containers[:i:i], p.containers[i+1:]...)
			break
		}
	}
	delete(r.of, id)
}

// PodSandboxStatus implements the CRI.
func (r *Runtime) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.box(req.PodSandboxId)
	if b == nil {
		return nil, missing("sandbox", req.PodSandboxId)
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: b.status()}, nil
}

func (b *box) state() runtimeapi.PodSandboxState {
	if b.ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func (b *box) status() *runtimeapi.PodSandboxStatus {
	return &runtimeapi.PodSandboxStatus{Id: b.id, Metadata: b.metadata, State: b.state(), CreatedAt: b.created,
		Network: &runtimeapi.PodSandboxNetworkStatus{Ip: b.ip}, Labels: b.labels, Annotations: b.annotations}
}

func matches(have, want map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

// selected are the pods that a selector can mean; the caller holds the lock.
func (r *Runtime) selected(labels map[string]string) map[string]*pod {
	uid := labels[cri.LabelPodUID]
	if uid == "" {
		return r.pods
	}
	if p := r.pods[uid]; p != nil {
		return map[string]*pod{uid: p}
	}
	return nil
}

// ListPodSandbox implements the CRI.
func (r *Runtime) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	want := req.GetFilter().GetLabelSelector()
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, p := range r.selected(want) {
		for _, b := range p.boxes {
			if matches(b.labels, want) {
				out.Items = append(out.Items, &runtimeapi.PodSandbox{Id: b.id, Metadata: b.metadata, State: b.state(), CreatedAt: b.created, Labels: b.labels, Annotations: b.annotations})
			}
		}
	}
	return out, nil
}

// CreateContainer implements the CRI.
func (r *Runtime) CreateContainer(_ context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.box(req.PodSandboxId)
	if b == nil || !b.ready {
		return nil, missing("running sandbox", req.PodSandboxId)
	}
	conf := req.GetConfig()
	res := conf.GetLinux().GetResources()
	c := &container{id: r.id(), box: b.id, metadata: conf.Metadata, image: conf.Image, labels: conf.Labels, annotations: conf.Annotations,
		created: time.Now().UnixNano(), state: runtimeapi.ContainerState_CONTAINER_CREATED, cpuShares: res.GetCpuShares(), memory: res.GetMemoryLimitInBytes()}
	if r.cfg.Ends != nil {
		if end, ok := r.cfg.Ends(b.metadata, conf); ok {
			c.end = &end
		}
	}
	uid := r.of[b.id]
	r.of[c.id] = uid
	r.pods[uid].containers = append(r.pods[uid].containers, c)
	return &runtimeapi.CreateContainerResponse{ContainerId: c.id}, nil
}

// pause for what a real runtime would take.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// StartContainer implements the CRI.
func (r *Runtime) StartContainer(ctx context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	if err := pause(ctx, r.cfg.Start); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.container(req.ContainerId)
	if c == nil {
		return nil, missing("container", req.ContainerId)
	}
	if c.state != runtimeapi.ContainerState_CONTAINER_CREATED {
		return nil, status.Errorf(codes.FailedPrecondition, "container %q was started before", c.id)
	}
	c.state, c.started = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	if c.end != nil {
		c.timer = time.AfterFunc(c.end.After, func() { r.over(c, c.end.Code) })
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

// finish a container that runs; the caller holds the lock.
func (c *container) finish(code int32) bool {
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.state != runtimeapi.ContainerState_CONTAINER_RUNNING && c.state != runtimeapi.ContainerState_CONTAINER_CREATED {
		return false
	}
	c.state, c.code, c.finished = runtimeapi.ContainerState_CONTAINER_EXITED, code, time.Now().UnixNano()
	return true
}

// over ends a container and tells so.
func (r *Runtime) over(c *container, code int32) {
	r.mu.Lock()
	ended := c.finish(code)
	r.mu.Unlock()
	if ended {
		r.tell(c)
	}
}

// Kill ends every running container of that name in a pod, as if its program
// had ended with that code. It returns how many there were.
func (r *Runtime) Kill(uid, name string, code int32) int {
	r.mu.Lock()
	var found []*container
	if p := r.pods[uid]; p != nil {
		for _, c := range p.containers {
			if c.metadata.Name == name && c.state == runtimeapi.ContainerState_CONTAINER_RUNNING {
				found = append(found, c)
			}
		}
	}
	r.mu.Unlock()
	for _, c := range found {
		r.over(c, code)
	}
	return len(found)
}

// tell everybody who listens that a container has ended.
func (r *Runtime) tell(c *container) {
	r.mu.Lock()
	ev := &runtimeapi.ContainerEventResponse{ContainerId: c.id, ContainerEventType: runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, CreatedAt: c.finished}
	if b := r.box(c.box); b != nil {
		ev.PodSandboxStatus = b.status()
	}
	to := make([]*hearer, 0, len(r.hears))
	for h := range r.hears {
		to = append(to, h)
	}
	r.mu.Unlock()
	for _, h := range to {
		h.send(ev)
	}
}

// GetContainerEvents implements the CRI.
func (r *Runtime) GetContainerEvents(_ *runtimeapi.GetEventsRequest, s grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	h := &hearer{send: func(ev *runtimeapi.ContainerEventResponse) { _ = s.Send(ev) }} // an error is the end of its context
	r.mu.Lock()
	r.hears[h] = true
	r.mu.Unlock()
	<-s.Context().Done()
	r.mu.Lock()
	delete(r.hears, h)
	r.mu.Unlock()
	return status.FromContextError(s.Context().Err()).Err()
}

// StopContainer implements the CRI: programs here end when they are asked to.
func (r *Runtime) StopContainer(ctx context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	if err := pause(ctx, min(r.cfg.Stop, time.Duration(req.Timeout)*time.Second)); err != nil {
		return nil, err
	}
	r.mu.Lock()
	c := r.container(req.ContainerId)
	r.mu.Unlock()
	if c != nil {
		r.over(c, 0)
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

// RemoveContainer implements the CRI.
func (r *Runtime) RemoveContainer(_ context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.pods[r.of[req.ContainerId]]; p != nil {
		r.drop(p, req.ContainerId)
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}

// ListContainers implements the CRI.
func (r *Runtime) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	want := req.GetFilter().GetLabelSelector()
	out := &runtimeapi.ListContainersResponse{}
	for _, p := range r.selected(want) {
		for _, c := range p.containers {
			if matches(c.labels, want) {
				out.Containers = append(out.Containers, &runtimeapi.Container{Id: c.id, PodSandboxId: c.box, Metadata: c.metadata, Image: c.image, ImageRef: c.image.GetImage(),
					State: c.state, CreatedAt: c.created, Labels: c.labels, Annotations: c.annotations})
			}
		}
	}
	return out, nil
}

// ContainerStatus implements the CRI.
func (r *Runtime) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.container(req.ContainerId)
	if c == nil {
		return nil, missing("container", req.ContainerId)
	}
	reason := ""
	if c.state == runtimeapi.ContainerState_CONTAINER_EXITED {
		reason = "Completed"
		if c.code != 0 {
			reason = "Error"
		}
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{Id: c.id, Metadata: c.metadata, State: c.state, CreatedAt: c.created, StartedAt: c.started,
		FinishedAt: c.finished, ExitCode: c.code, Image: &runtimeapi.ImageSpec{Image: c.image.GetUserSpecifiedImage()}, ImageRef: c.image.GetImage(), Reason: reason, Labels: c.labels, Annotations: c.annotations,
		Resources: &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: c.cpuShares, MemoryLimitInBytes: c.memory}}}}, nil
}

// UpdateContainerResources implements the CRI.
func (r *Runtime) UpdateContainerResources(_ context.Context, req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.container(req.ContainerId)
	if c == nil {
		return nil, missing("container", req.ContainerId)
	}
	if l := req.Linux; l != nil {
		if l.CpuShares > 0 {
			c.cpuShares = l.CpuShares
		}
		if l.MemoryLimitInBytes > 0 {
			c.memory = l.MemoryLimitInBytes
		}
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// ExecSync implements the CRI: every command succeeds and says nothing.
func (r *Runtime) ExecSync(_ context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.container(req.ContainerId); c == nil || c.state != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil, missing("running container", req.ContainerId)
	}
	return &runtimeapi.ExecSyncResponse{}, nil
}

// ListContainerStats implements the CRI: nothing is used.
func (r *Runtime) ListContainerStats(context.Context, *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	return &runtimeapi.ListContainerStatsResponse{}, nil
}

// ImageStatus implements the CRI: every image is there.
func (r *Runtime) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	name := req.GetImage().GetImage()
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: name, RepoTags: []string{name}, Size: 1 << 20, Uid: &runtimeapi.Int64Value{Value: 65534}}}, nil
}

// PullImage implements the CRI.
func (r *Runtime) PullImage(_ context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	return &runtimeapi.PullImageResponse{ImageRef: req.GetImage().GetImage()}, nil
}

// ListImages implements the CRI: there are none to be collected.
func (r *Runtime) ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	return &runtimeapi.ListImagesResponse{}, nil
}

// ImageFsInfo implements the CRI.
func (r *Runtime) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{}, nil
}
