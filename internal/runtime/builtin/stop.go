package builtin

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// stopGrace that containers get when a node goes down, in seconds.
	stopGrace = 5
	// atOnce is how many are stopped side by side: they wait.
	atOnce = 32
)

// StopAll ends every container and pod; with remove there is nothing left of
// them.
func (r *Runtime) StopAll(ctx context.Context, remove bool) error {
	running, err := r.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}})
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, c := range running.Containers {
		g.Go(func() error {
			_, err := r.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.Id, Timeout: stopGrace})
			return err
		})
	}
	err = g.Wait()
	boxes, lerr := r.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err = errors.Join(err, lerr); lerr != nil {
		return err
	}
	var pods errgroup.Group
	pods.SetLimit(atOnce)
	for _, s := range boxes.Items {
		pods.Go(func() (err error) {
			if remove {
				_, err = r.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id})
			} else {
				_, err = r.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.Id})
			}
			if err != nil {
				return fmt.Errorf("pod %s/%s: %w", s.Metadata.GetNamespace(), s.Metadata.GetName(), err)
			}
			return nil
		})
	}
	return errors.Join(err, pods.Wait())
}
