package builtin

import (
	"slices"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// streamed is how many objects one message of a streamed list holds: with all
// their labels and annotations they stay far below gRPC's 4 MiB.
const streamed = 100

// StreamPodSandboxes implements the CRI: a list without the bound of a message.
func (r *Runtime) StreamPodSandboxes(req *runtimeapi.StreamPodSandboxesRequest, out grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	l, err := r.ListPodSandbox(out.Context(), &runtimeapi.ListPodSandboxRequest{Filter: req.GetFilter()})
	return parts(l.GetItems(), err, func(p []*runtimeapi.PodSandbox) error {
		return out.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: p})
	})
}

// StreamContainers implements the CRI.
func (r *Runtime) StreamContainers(req *runtimeapi.StreamContainersRequest, out grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	l, err := r.ListContainers(out.Context(), &runtimeapi.ListContainersRequest{Filter: req.GetFilter()})
	return parts(l.GetContainers(), err, func(p []*runtimeapi.Container) error {
		return out.Send(&runtimeapi.StreamContainersResponse{Containers: p})
	})
}

// StreamContainerStats implements the CRI.
func (r *Runtime) StreamContainerStats(req *runtimeapi.StreamContainerStatsRequest, out grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	l, err := r.ListContainerStats(out.Context(), &runtimeapi.ListContainerStatsRequest{Filter: req.GetFilter()})
	return parts(l.GetStats(), err, func(p []*runtimeapi.ContainerStats) error {
		return out.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: p})
	})
}

// StreamPodSandboxStats implements the CRI.
func (r *Runtime) StreamPodSandboxStats(req *runtimeapi.StreamPodSandboxStatsRequest, out grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	l, err := r.ListPodSandboxStats(out.Context(), &runtimeapi.ListPodSandboxStatsRequest{Filter: req.GetFilter()})
	return parts(l.GetStats(), err, func(p []*runtimeapi.PodSandboxStats) error {
		return out.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: p})
	})
}

// parts sends a list in messages of a bounded length.
func parts[T any](list []T, err error, send func([]T) error) error {
	if err != nil {
		return err
	}
	for p := range slices.Chunk(list, streamed) {
		if err := send(p); err != nil {
			return err
		}
	}
	return nil
}
