package builtin

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	continuity "github.com/containerd/continuity/fs"
	"github.com/moby/sys/mountinfo"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/runtime/imagestore"
)

// checkSource refuses a mount whose source is not there, or cannot propagate
// what is asked for.
func checkSource(m *runtimeapi.Mount) error {
	if !path.IsAbs(m.HostPath) {
		return nil // said by the specification
	}
	real, err := filepath.EvalSymlinks(m.HostPath)
	if err != nil {
		return fmt.Errorf("mount at %s: %w", m.ContainerPath, err)
	}
	if m.Propagation == runtimeapi.MountPropagation_PROPAGATION_PRIVATE {
		return nil
	}
	on, err := mountOf(real)
	if err != nil {
		return fmt.Errorf("mount at %s: %w", m.ContainerPath, err)
	}
	shared, slave := strings.Contains(on.Optional, "shared:"), strings.Contains(on.Optional, "master:")
	switch {
	case m.Propagation == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL && !shared:
		return fmt.Errorf("mount at %s: path %q is mounted on %q but it is not a shared mount", m.ContainerPath, m.HostPath, on.Mountpoint)
	case m.Propagation == runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER && !shared && !slave:
		return fmt.Errorf("mount at %s: path %q is mounted on %q but it is not a shared or slave mount", m.ContainerPath, m.HostPath, on.Mountpoint)
	}
	return nil
}

// mountOf finds the mount that a path is on: the last of the deepest.
func mountOf(file string) (*mountinfo.Info, error) {
	all, err := mountinfo.GetMounts(mountinfo.ParentsFilter(file))
	if err != nil {
		return nil, err
	}
	var on *mountinfo.Info
	for _, m := range all {
		if on == nil || len(m.Mountpoint) >= len(on.Mountpoint) {
			on = m
		}
	}
	if on == nil {
		return nil, errors.New("it is on no mount")
	}
	return on, nil
}

func (r *Runtime) volumeDir(id string) string { return filepath.Join(r.cfg.Root, "volumes", id) }

// volumes makes a directory for each path that the image declares to be a
// volume, with what the image has there. They go with the container.
func (r *Runtime) volumes(c *container, rootfs string, im imagestore.Image) (map[string]string, error) {
	out := map[string]string{}
	i := 0
	for v := range im.Config.Config.Volumes {
		to := path.Clean("/" + v)
		if to == "/" {
			continue
		}
		dir := filepath.Join(r.volumeDir(c.rec().ID), strconv.Itoa(i))
		i++
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
		from, err := continuity.RootPath(rootfs, to)
		if err != nil {
			return nil, fmt.Errorf("volume %s of the image: %w", v, err)
		}
		if info, err := os.Stat(from); err == nil && info.IsDir() {
			if err := continuity.CopyDir(dir, from); err != nil {
				return nil, fmt.Errorf("volume %s of the image: %w", v, err)
			}
		} else if err := os.Chmod(dir, 0o755); err != nil {
			return nil, err
		}
		out[to] = dir
	}
	return out, nil
}
