package kubelet_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// paperRuntime is a CRI that keeps books and runs nothing: what a kubelet does
// can be watched without containers.
type paperRuntime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	mu         sync.Mutex
	last       int
	boxes      map[string]*runtimeapi.PodSandbox
	containers map[string]*runtimeapi.ContainerStatus
	of         map[string]string   // sandboxes of containers
	gave       map[string][]string // devices, by name of the container
	images     map[string]bool
	refuse     map[string]error // by what is asked: "RunPodSandbox" and the like
}

func newPaperRuntime(t *testing.T) (r *paperRuntime, endpoint string) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	r = &paperRuntime{boxes: map[string]*runtimeapi.PodSandbox{}, containers: map[string]*runtimeapi.ContainerStatus{}, of: map[string]string{},
		gave: map[string][]string{}, images: map[string]bool{}, refuse: map[string]error{}}
	srv := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(srv, r)
	runtimeapi.RegisterImageServiceServer(srv, r)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	return r, "unix://" + l.Addr().String()
}

func (r *paperRuntime) begin(call string) (id string, err error) {
	r.mu.Lock()
	r.last++
	return fmt.Sprintf("id-%d", r.last), r.refuse[call]
}

func (r *paperRuntime) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "paper", RuntimeVersion: "1"}, nil
}

func (r *paperRuntime) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{{Type: "RuntimeReady", Status: true}, {Type: "NetworkReady", Status: true}}}}, nil
}

func (r *paperRuntime) RunPodSandbox(_ context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	id, err := r.begin("RunPodSandbox")
	defer r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	r.boxes[id] = &runtimeapi.PodSandbox{Id: id, Metadata: req.Config.Metadata, Labels: req.Config.Labels, Annotations: req.Config.Annotations,
		State: runtimeapi.PodSandboxState_SANDBOX_READY, CreatedAt: time.Now().UnixNano()}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (r *paperRuntime) StopPodSandbox(_ context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.boxes[req.PodSandboxId]; b != nil {
		b.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

func (r *paperRuntime) RemovePodSandbox(_ context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.boxes, req.PodSandboxId)
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

func (r *paperRuntime) PodSandboxStatus(context.Context, *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.2"}}}, nil
}

func matches(have, want map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

func (r *paperRuntime) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, b := range r.boxes {
		if matches(b.Labels, req.GetFilter().GetLabelSelector()) {
			out.Items = append(out.Items, &runtimeapi.PodSandbox{Id: b.Id, Metadata: b.Metadata, State: b.State, CreatedAt: b.CreatedAt, Labels: b.Labels, Annotations: b.Annotations})
		}
	}
	return out, nil
}

func (r *paperRuntime) CreateContainer(_ context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	id, err := r.begin("CreateContainer")
	defer r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	r.of[id] = req.PodSandboxId
	r.gave[req.Config.Metadata.Name] = nil
	for _, d := range req.Config.CDIDevices {
		r.gave[req.Config.Metadata.Name] = append(r.gave[req.Config.Metadata.Name], d.Name)
	}
	r.containers[id] = &runtimeapi.ContainerStatus{Id: id, Metadata: req.Config.Metadata, Labels: req.Config.Labels, Annotations: req.Config.Annotations,
		Image: req.Config.Image, ImageRef: req.Config.Image.Image, State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano()}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

func (r *paperRuntime) StartContainer(_ context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	_, err := r.begin("StartContainer")
	defer r.mu.Unlock()
	c := r.containers[req.ContainerId]
	if err != nil {
		c.State, c.ExitCode, c.Reason, c.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, 128, "StartError", time.Now().UnixNano()
		return nil, err
	}
	c.State, c.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	return &runtimeapi.StartContainerResponse{}, nil
}

// devices that the last container of that name was given.
func (r *paperRuntime) devices(name string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gave[name]
}

// runs reports whether a container of that name does.
func (r *paperRuntime) runs(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if c.Metadata.Name == name && c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			return true
		}
	}
	return false
}

// refusing a call from now on; nil: no longer.
func (r *paperRuntime) refusing(call string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse[call] = err
}

// forget all of a pod.
func (r *paperRuntime) forget(pod string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, b := range r.boxes {
		if b.Metadata.Name != pod {
			continue
		}
		delete(r.boxes, id)
		for c, of := range r.of {
			if of == id {
				delete(r.containers, c)
			}
		}
	}
}

// end containers of that name with a code, as their programs would.
func (r *paperRuntime) end(name string, code int32, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if c.Metadata.Name == name && c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			c.State, c.ExitCode, c.Reason, c.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, code, reason, time.Now().UnixNano()
		}
	}
}

func (r *paperRuntime) StopContainer(_ context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[req.ContainerId]; c != nil && c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
		c.State, c.ExitCode, c.Reason, c.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, 137, "Error", time.Now().UnixNano()
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

func (r *paperRuntime) RemoveContainer(_ context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, req.ContainerId)
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (r *paperRuntime) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListContainersResponse{}
	for id, c := range r.containers {
		if matches(c.Labels, req.GetFilter().GetLabelSelector()) {
			out.Containers = append(out.Containers, &runtimeapi.Container{Id: id, PodSandboxId: r.of[id], Metadata: c.Metadata, Image: c.Image, ImageRef: c.ImageRef,
				State: c.State, CreatedAt: c.CreatedAt, Labels: c.Labels, Annotations: c.Annotations})
		}
	}
	return out, nil
}

func (r *paperRuntime) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[req.ContainerId]
	if c == nil {
		return nil, status.Error(codes.NotFound, "no such container")
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{Id: c.Id, Metadata: c.Metadata, State: c.State, CreatedAt: c.CreatedAt, StartedAt: c.StartedAt,
		FinishedAt: c.FinishedAt, ExitCode: c.ExitCode, Image: c.Image, ImageRef: c.ImageRef, Reason: c.Reason, Labels: c.Labels, Annotations: c.Annotations}}, nil
}

// ListContainerStats says of every container that it took two seconds of CPU
// and a megabyte.
func (r *paperRuntime) ListContainerStats(context.Context, *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListContainerStatsResponse{}
	for id, c := range r.containers {
		out.Stats = append(out.Stats, &runtimeapi.ContainerStats{Attributes: &runtimeapi.ContainerAttributes{Id: id, Labels: c.Labels},
			Cpu:    &runtimeapi.CpuUsage{UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: uint64(2 * time.Second)}},
			Memory: &runtimeapi.MemoryUsage{WorkingSetBytes: &runtimeapi.UInt64Value{Value: 1 << 20}}})
	}
	return out, nil
}

func (r *paperRuntime) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.images[req.Image.Image] {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: req.Image.Image, Size: 50 << 20}}, nil
}

func (r *paperRuntime) PullImage(_ context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	_, err := r.begin("PullImage")
	defer r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	r.images[req.Image.Image] = true
	return &runtimeapi.PullImageResponse{ImageRef: req.Image.Image}, nil
}

func (r *paperRuntime) ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	return &runtimeapi.ListImagesResponse{}, nil
}
