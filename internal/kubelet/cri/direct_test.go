package cri_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/cri"
)

// inProcess is a runtime of one sandbox.
type inProcess struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer
	asked *runtimeapi.ListPodSandboxRequest
}

func (r *inProcess) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	r.asked = req
	return &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{{Id: "box", Labels: map[string]string{cri.LabelPodUID: "u"}}}}, nil
}

func (*inProcess) ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{}, nil
}

func (*inProcess) RunPodSandbox(context.Context, *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	return nil, errors.New("no room")
}

func (*inProcess) RemovePodSandbox(context.Context, *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	return nil, status.Error(codes.NotFound, "no such sandbox")
}

func (*inProcess) PullImage(context.Context, *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	return &runtimeapi.PullImageResponse{ImageRef: "image"}, nil
}

func (*inProcess) GetContainerEvents(_ *runtimeapi.GetEventsRequest, s grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	for s.Send(&runtimeapi.ContainerEventResponse{ContainerId: "c"}) == nil {
	}
	return status.FromContextError(s.Context().Err()).Err()
}

// silent is a runtime that does not tell.
type silent struct{ inProcess }

func (silent) GetContainerEvents(*runtimeapi.GetEventsRequest, grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	return status.Error(codes.Unimplemented, "no")
}

func TestDirect(t *testing.T) {
	r, ops := &inProcess{}, cri.NewOperations()
	c := cri.Direct(cri.Services{Runtime: r, Image: r}, "node", ops)
	pods, err := c.Pods(t.Context())
	if err != nil || len(pods["u"].Sandboxes) != 1 || pods["u"].Sandboxes[0].Id != "box" {
		t.Errorf("got %v, %v", pods, err)
	}
	if got := r.asked.GetFilter().GetLabelSelector()[cri.LabelNode]; got != "node" {
		t.Errorf("the runtime was asked for the sandboxes of %q", got)
	}
	if res, err := c.Image.PullImage(t.Context(), &runtimeapi.PullImageRequest{}); err != nil || res.ImageRef != "image" {
		t.Errorf("got %v, %v", res, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	deadline, stop := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer stop()
	for _, tt := range []struct {
		name string
		call func() error
		want codes.Code
	}{
		{"a plain error", func() error {
			_, err := c.Runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{})
			return err
		}, codes.Unknown},
		{"an error with a code", func() error {
			_, err := c.Runtime.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{})
			return err
		}, codes.NotFound},
		{"what the runtime does not do", func() error {
			_, err := c.Runtime.Attach(t.Context(), &runtimeapi.AttachRequest{})
			return err
		}, codes.Unimplemented},
		{"a caller that has gone", func() error {
			_, err := c.Image.PullImage(ended, &runtimeapi.PullImageRequest{})
			return err
		}, codes.Canceled},
		{"a caller that is late", func() error {
			_, err := c.Image.PullImage(deadline, &runtimeapi.PullImageRequest{})
			return err
		}, codes.DeadlineExceeded},
	} {
		if err := tt.call(); status.Code(err) != tt.want {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(ops)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == "kubelet_runtime_operations_total" {
				calls[m.Label[0].GetValue()] += m.GetCounter().GetValue()
			}
		}
	}
	if calls["list_podsandbox"] != 1 || calls["pull_image"] != 3 || calls["run_podsandbox"] != 1 {
		t.Errorf("counted %v", calls)
	}
}

func TestEvents(t *testing.T) {
	r := &inProcess{}
	c := cri.Direct(cri.Services{Runtime: r, Image: r}, "node", cri.NewOperations())
	ctx, cancel := context.WithCancel(t.Context())
	heard := 0
	err := c.Events(ctx, func(ev *runtimeapi.ContainerEventResponse) {
		if heard++; heard == 3 {
			cancel()
		}
		if ev.ContainerId != "c" {
			t.Errorf("heard of %q", ev.ContainerId)
		}
	})
	if heard != 3 || status.Code(err) != codes.Canceled || !c.Tells() {
		t.Errorf("heard %d, %v", heard, err)
	}
	s := &silent{}
	if err := cri.Direct(cri.Services{Runtime: s, Image: s}, "node", cri.NewOperations()).Events(t.Context(), nil); status.Code(err) != codes.Unimplemented {
		t.Errorf("a runtime that does not tell: %v", err)
	}
	far, err := cri.New("unix:///nowhere", "node", cri.NewOperations())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if err := far.Events(t.Context(), nil); far.Tells() || status.Code(err) != codes.Unimplemented {
		t.Errorf("a runtime behind a socket: %v", err)
	}
}
