package builtin

import (
	"context"
	"encoding/json"
	"fmt"

	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/runtime/supervisor"
)

// runBundle runs a sandbox's own process.
func (r *Runtime) runBundle(ctx context.Context, s *sandbox, sp *specs.Spec) error {
	id := s.rec().ID
	h, err := r.handler(s)
	if err != nil {
		return err
	}
	forHandler(s, sp)
	if err := r.writeBundle(id, sp); err != nil {
		return err
	}
	c, err := r.cfg.Supervisor.Client.Run(context.WithoutCancel(ctx), id, supervisor.Run{Bundle: r.bundleDir(id), Handler: h})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pids[id] = c.PID // the event may come later than who asks
	return nil
}

// kill ends a process of the runtime's own and takes away what is left of it.
func (r *Runtime) kill(ctx context.Context, id string) error {
	err := r.cfg.Supervisor.Signal(ctx, id, "", int(unix.SIGKILL))
	if supervisor.Is(err, supervisor.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	if _, err := r.cfg.Supervisor.Wait(wait, id, ""); err != nil {
		return err
	}
	return r.cfg.Supervisor.Delete(ctx, id)
}

// pidOf asks which process a container of the supervisor's is.
func (r *Runtime) pidOf(id string) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, ok := r.pids[id]
	if !ok {
		return 0, fmt.Errorf("the process that holds the PID namespace of sandbox %s is gone", id)
	}
	return pid, nil
}

// follow takes what the supervisor tells until that ends: everything that is
// there first.
func (r *Runtime) follow(ctx context.Context, ended <-chan struct{}, ready func()) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	for ctx.Err() == nil {
		seen, before := map[string]bool{}, r.live()
		err := r.cfg.Supervisor.Events(ctx, func(c supervisor.Container) {
			if seen != nil {
				seen[c.ID] = true
			}
			r.take(ctx, c)
		}, func() {
			r.missing(before, seen)
			r.strays(ctx, seen)
			seen = nil
			ready()
		})
		if ctx.Err() != nil {
			return
		}
		r.cfg.Log.Debug("the supervisor's events begin anew", "error", err)
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// take notes what the supervisor says of one container.
func (r *Runtime) take(ctx context.Context, s supervisor.Container) {
	r.mu.Lock()
	c, box := r.containers[s.ID], r.sandboxes[s.ID]
	if s.Gone || s.Exit != nil {
		delete(r.pids, s.ID)
	} else {
		r.pids[s.ID] = s.PID
	}
	r.mu.Unlock()
	switch {
	case s.Gone:
	case c != nil && s.Exit == nil && !c.rec().Ended.IsZero():
		// Its start was called a failure: the answer was lost.
		r.end(ctx, s.ID)
	case c != nil && s.Exit != nil:
		r.runs(c, s) // until now, which the caller of its start may not have noted yet
		// What it held is not needed any more; its record tells how it ended.
		go r.cfg.Supervisor.Delete(ctx, s.ID)
	case c != nil:
		r.runs(c, s)
	case box != nil && s.Exit != nil:
		r.stopped(box)
	}
}

// end kills what nobody is told of. What is left of it goes when it has ended.
func (r *Runtime) end(ctx context.Context, id string) {
	if err := r.cfg.Supervisor.Signal(ctx, id, "", int(unix.SIGKILL)); err != nil && !supervisor.Is(err, supervisor.NotFound) {
		r.cfg.Log.Error("cannot end a container that should not run", "container", id, "error", err)
	}
}

// strays ends what runs, or has, without a record: it was about to be removed.
func (r *Runtime) strays(ctx context.Context, seen map[string]bool) {
	r.mu.Lock()
	var l []string
	for id := range seen {
		if r.containers[id] == nil && r.sandboxes[id] == nil && !r.making[id] {
			l = append(l, id)
		}
	}
	r.mu.Unlock()
	for _, id := range l {
		go func() {
			if err := r.kill(ctx, id); err != nil && ctx.Err() == nil {
				r.cfg.Log.Error("cannot end a container that nobody knows", "container", id, "error", err)
			}
		}()
	}
}

// live are the containers, and sandboxes with a process, that should run.
func (r *Runtime) live() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := map[string]bool{}
	for id, c := range r.containers {
		if c.state() == runtimeapi.ContainerState_CONTAINER_RUNNING {
			ids[id] = true
		}
	}
	for id, s := range r.sandboxes {
		if s.rec().Pause && s.rec().Ready {
			ids[id] = true
		}
	}
	return ids
}

// missing ends, with an unknown code, what ran before the supervisor was asked and
// is not there any more: the machine was rebooted. What began since it may not
// have told yet.
func (r *Runtime) missing(before, seen map[string]bool) {
	now := r.live()
	r.mu.Lock()
	var lost []*container
	var boxes []*sandbox
	for id := range before {
		if seen[id] || !now[id] {
			continue
		}
		if c := r.containers[id]; c != nil {
			lost = append(lost, c)
		} else if s := r.sandboxes[id]; s != nil {
			boxes = append(boxes, s)
		}
	}
	r.mu.Unlock()
	for _, c := range lost {
		r.exited(c, supervisor.Exit{At: time.Now().UTC()})
	}
	for _, s := range boxes {
		r.stopped(s)
	}
}

// mergeResources puts what is said over what was.
func mergeResources(was, said *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{}
	if was != nil {
		out = proto.Clone(was).(*runtimeapi.LinuxContainerResources)
	}
	if said == nil {
		return out
	}
	proto.Merge(out, said)
	if len(said.HugepageLimits) > 0 {
		out.HugepageLimits = said.HugepageLimits // a list, which a merge would lengthen
	}
	return out
}

func withResources(c *runtimeapi.ContainerConfig, res *runtimeapi.LinuxContainerResources) *runtimeapi.ContainerConfig {
	c = proto.Clone(c).(*runtimeapi.ContainerConfig)
	if c.Linux == nil {
		c.Linux = &runtimeapi.LinuxContainerConfig{}
	}
	c.Linux.Resources = res
	return c
}

// info is what verbose answers have beside: for people and crictl.
func info(m map[string]any) map[string]string {
	b, err := json.Marshal(m)
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	return map[string]string{"info": string(b)}
}
