package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/kubelet/spec"
)

// logPath of a container.
func (k *Kubelet) logPath(w *worker, c *plan.Container) string {
	pod, _ := w.current()
	return filepath.Join(spec.LogDir(k.cfg.PodLogDir, pod), c.Name, fmt.Sprintf("%d.log", c.Attempt))
}

// rotateLogs bounds what running containers have written.
func (k *Kubelet) rotateLogs(ctx context.Context) {
	for _, w := range k.list() {
		w.mu.Lock()
		list := slices.Clone(w.containers)
		w.mu.Unlock()
		for i := range list {
			if list[i].State != plan.Running {
				continue
			}
			path := k.logPath(w, &list[i])
			info, err := os.Stat(path)
			if err != nil || info.Size() < k.cfg.LogMaxBytes {
				continue
			}
			if err := k.rotate(ctx, list[i].ID, path); err != nil && ctx.Err() == nil {
				w.log.Warn("cannot rotate a log", "file", path, "error", err)
			}
		}
	}
}

// rotate renames the log with the time in its name, has the runtime open a new
// one and removes the oldest.
func (k *Kubelet) rotate(ctx context.Context, id, path string) error {
	aside := path + "." + k.cfg.Now().UTC().Format("20060102-150405")
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := k.cri.Runtime.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		// The runtime still writes to the renamed file: give it its name back.
		if back := os.Rename(aside, path); back != nil {
			return fmt.Errorf("%w; and %w", err, back)
		}
		return err
	}
	old, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	slices.Sort(old)
	for len(old) > k.cfg.LogMaxFiles-1 {
		if err := os.Remove(old[0]); err != nil {
			return err
		}
		old = old[1:]
	}
	return nil
}
