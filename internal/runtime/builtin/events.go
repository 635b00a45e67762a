package builtin

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxBehind is how far who follows events may lag before it is sent away: it
// lists and begins anew.
const maxBehind = 4096

// GetContainerEvents implements the CRI.
func (r *Runtime) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	queue := make(chan *runtimeapi.ContainerEventResponse, maxBehind)
	r.mu.Lock()
	r.subs[queue] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.subs, queue)
	}()
	for {
		select {
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case e, ok := <-queue:
			if !ok {
				return status.Error(codes.ResourceExhausted, "events were not taken in time")
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

func (r *Runtime) tellSandbox(s *sandbox, kind runtimeapi.ContainerEventType) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tell(s.rec().ID, s.rec().ID, kind)
}

// tell tells all who follow; Runtime.mu is held.
func (r *Runtime) tell(id, box string, kind runtimeapi.ContainerEventType) {
	if len(r.subs) == 0 {
		return
	}
	e := &runtimeapi.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano()}
	if s := r.sandboxes[box]; s != nil {
		e.PodSandboxStatus = s.status()
		for _, c := range r.containers {
			if c.rec().Sandbox == box {
				e.ContainersStatuses = append(e.ContainersStatuses, c.status())
			}
		}
	}
	for q := range r.subs {
		select {
		case q <- e:
		default:
			close(q)
			delete(r.subs, q)
		}
	}
}
