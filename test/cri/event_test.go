package cri_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// watch collects the events of some identifiers.
type watch struct {
	mu     sync.Mutex
	events []*runtimeapi.ContainerEventResponse
	err    error
}

func (t *T) watch() *watch {
	ctx, cancel := context.WithCancel(t.ctx)
	t.cleanup(cancel)
	s, err := t.runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.fatalf("GetContainerEvents: %v", err)
	}
	w := &watch{}
	go func() {
		for {
			e, err := s.Recv()
			w.mu.Lock()
			if err != nil {
				w.err = err
				w.mu.Unlock()
				return
			}
			w.events = append(w.events, e)
			w.mu.Unlock()
		}
	}()
	// A stream is open once it has been told of something, or when the runtime
	// has refused it: nothing says so before.
	t.within("the stream of events is open", func() bool {
		p := t.pod()
		t.must(p.stop())
		t.must(p.remove())
		w.mu.Lock()
		defer w.mu.Unlock()
		if status.Code(w.err) == codes.Unimplemented {
			t.fatalf("GetContainerEvents: %v", w.err)
		}
		return len(w.events) > 0
	})
	return w
}

// of an identifier, in order.
func (w *watch) of(id string) (kinds []string, events []*runtimeapi.ContainerEventResponse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.ContainerId == id {
			kinds = append(kinds, e.ContainerEventType.String())
			events = append(events, e)
		}
	}
	return kinds, events
}

var eventCases = []testCase{
	{"events/the life of a container", func(t *T) {
		w := t.watch()
		began := time.Now()
		p := t.pod()
		c := p.start(shell("exit 3"))
		c.wait()
		t.must(c.remove())
		want := []string{"CONTAINER_CREATED_EVENT", "CONTAINER_STARTED_EVENT", "CONTAINER_STOPPED_EVENT", "CONTAINER_DELETED_EVENT"}
		t.within(fmt.Sprintf("events of the container: %v", want), func() bool { kinds, _ := w.of(c.id); return slices.Equal(kinds, want) })
		_, events := w.of(c.id)
		for _, e := range events {
			t.since("time", e.CreatedAt, began, time.Now())
		}
		if len(events) < 3 {
			return
		}
		e := events[2]
		t.equal("sandbox", e.GetPodSandboxStatus().GetId(), p.id)
		t.equal("metadata", e.GetPodSandboxStatus().GetMetadata(), p.config.Metadata)
		i := slices.IndexFunc(e.ContainersStatuses, func(s *runtimeapi.ContainerStatus) bool { return s.Id == c.id })
		if i < 0 {
			t.fatalf("no status of the container: %v", e)
		}
		t.equal("state and exit code", []any{e.ContainersStatuses[i].State, e.ContainersStatuses[i].ExitCode}, []any{exited, 3})
	}},
	{"events/the life of a sandbox", func(t *T) {
		w := t.watch()
		p := t.pod()
		t.must(p.stop())
		t.must(p.remove())
		want := []string{"CONTAINER_CREATED_EVENT", "CONTAINER_STARTED_EVENT", "CONTAINER_STOPPED_EVENT", "CONTAINER_DELETED_EVENT"}
		t.within(fmt.Sprintf("events of the sandbox: %v", want), func() bool { kinds, _ := w.of(p.id); return slices.Equal(kinds, want) })
	}},
	{"events/a container killed from outside", func(t *T) {
		w := t.watch()
		c := t.pod().start()
		kill(t, c.pid())
		t.within("it is told", func() bool { kinds, _ := w.of(c.id); return slices.Contains(kinds, "CONTAINER_STOPPED_EVENT") })
	}},
	{"events/two listeners", func(t *T) {
		a, b := t.watch(), t.watch()
		c := t.pod().start()
		for _, w := range []*watch{a, b} {
			t.within("each is told", func() bool { kinds, _ := w.of(c.id); return slices.Contains(kinds, "CONTAINER_STARTED_EVENT") })
		}
	}},
}
