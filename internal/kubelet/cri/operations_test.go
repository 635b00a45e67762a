package cri

import (
	"context"
	"maps"
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/metricstest"
)

func TestOperationName(t *testing.T) {
	for method, want := range map[string]string{
		"/runtime.v1.RuntimeService/RunPodSandbox": "run_podsandbox", "/runtime.v1.RuntimeService/PodSandboxStatus": "podsandbox_status",
		"/runtime.v1.RuntimeService/ListContainers": "list_containers", "/runtime.v1.ImageService/PullImage": "pull_image",
		"/runtime.v1.RuntimeService/Version": "version", "/runtime.v1.RuntimeService/ExecSync": "exec_sync", "/runtime.v1.ImageService/ImageFsInfo": "image_fs_info",
		"/runtime.v1.RuntimeService/ReopenContainerLog": "reopen_container_log", "/runtime.v1.RuntimeService/PortForward": "port_forward",
	} {
		if got := operationName(method); got != want {
			t.Errorf("%s: %s, want %s", method, got, want)
		}
	}
}

// halfRuntime knows its version and nothing else.
type halfRuntime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
}

func (halfRuntime) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "half"}, nil
}

func TestOperations(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(srv, halfRuntime{})
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	ops := NewOperations()
	c, err := New("unix://"+l.Addr().String(), "node", ops)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 {
		if _, err := c.Runtime.Version(t.Context(), &runtimeapi.VersionRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{RuntimeHandler: "vm"}); err == nil {
		t.Fatal("a sandbox out of nothing")
	}
	got := metricstest.Values(t, ops)
	want := map[string]float64{
		"kubelet_runtime_operations_total version": 2, "kubelet_runtime_operations_errors_total version": 0, "kubelet_runtime_operations_duration_seconds version": 2,
		"kubelet_runtime_operations_total run_podsandbox": 1, "kubelet_runtime_operations_errors_total run_podsandbox": 1, "kubelet_runtime_operations_duration_seconds run_podsandbox": 1,
		"kubelet_run_podsandbox_duration_seconds vm": 1, "kubelet_run_podsandbox_errors_total vm": 1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}
