package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/rmtree"
)

// shimSockets is where containerd 1.6's shims put their sockets, whatever
// state directory containerd has; the names are hashes of socket address,
// namespace and container, so instances do not collide.
const shimSockets = "/run/containerd/s"

// Clean stops the instance and removes everything that it ever made: the
// containers, their cgroups and network namespaces, mounts, shim sockets, and
// the directories Root and State. Run must have returned.
func (r *Runtime) Clean(ctx context.Context) error {
	for _, dir := range []string{r.cfg.Root, r.cfg.State} {
		if filepath.Clean(dir) == "/" {
			return errors.New("containerd: refusing to remove /")
		}
	}
	_, rootErr := os.Stat(r.cfg.Root)
	_, stateErr := os.Stat(r.cfg.State)
	if errors.Is(rootErr, fs.ErrNotExist) && errors.Is(stateErr, fs.ErrNotExist) {
		return nil
	}
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := r.stop(ctx, true); err != nil {
		return err
	}
	if err := unmountBelow(r.cfg.Root, r.cfg.State); err != nil {
		return err
	}
	// Shims made these; another containerd's make them again if need be.
	_ = os.Remove(shimSockets)
	_ = os.Remove(filepath.Dir(shimSockets))
	for _, s := range []string{r.cfg.Socket, r.cfg.Socket + ttrpcSuffix} {
		if err := os.Remove(s); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("containerd: %w", err)
		}
	}
	if err := rmtree.Remove(r.cfg.State); err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	if err := rmtree.Remove(r.cfg.Root); err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	return nil
}

// tasks are the bundle directories of all containers.
func (r *Runtime) tasks() []string {
	dirs, _ := filepath.Glob(filepath.Join(r.taskDir(), "*", "*"))
	return dirs
}

// cgroupPaths reads from the containers' OCI specs where they live.
func (r *Runtime) cgroupPaths() []string {
	var paths []string
	for _, dir := range r.tasks() {
		data, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil {
			continue
		}
		var spec struct {
			Linux struct {
				CgroupsPath string `json:"cgroupsPath"`
			} `json:"linux"`
		}
		if json.Unmarshal(data, &spec) == nil && spec.Linux.CgroupsPath != "" {
			paths = append(paths, spec.Linux.CgroupsPath)
		}
	}
	return paths
}

// removeCgroup removes a container's cgroup and its parents in every
// hierarchy, as far as they are empty: a parent with other pods stays.
func removeCgroup(path string) {
	if !strings.HasPrefix(path, "/") || path != filepath.Clean(path) {
		return
	}
	roots := []string{"/sys/fs/cgroup"}
	if entries, err := os.ReadDir("/sys/fs/cgroup"); err == nil {
		for _, e := range entries {
			if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", e.Name(), "cgroup.procs")); err == nil && e.IsDir() {
				roots = append(roots, filepath.Join("/sys/fs/cgroup", e.Name()))
			}
		}
	}
	for _, root := range roots {
		for p := path; p != "/"; p = filepath.Dir(p) {
			if err := os.Remove(filepath.Join(root, p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				break
			}
		}
	}
}

// shimSocketPaths are the sockets that the tasks' address files name.
func (r *Runtime) shimSocketPaths() []string {
	var paths []string
	for _, dir := range r.tasks() {
		data, err := os.ReadFile(filepath.Join(dir, "address"))
		if err != nil {
			continue
		}
		path := strings.TrimPrefix(strings.TrimSpace(string(data)), "unix://")
		if filepath.Dir(path) == shimSockets {
			paths = append(paths, path)
		}
	}
	return paths
}

// runcStart is the start time that runc recorded for a container's init.
func (r *Runtime) runcStart(namespace, id string) (uint64, error) {
	data, err := os.ReadFile(filepath.Join(r.cfg.State, "runc", namespace, id, "state.json"))
	if err != nil {
		return 0, err
	}
	var state struct {
		Start uint64 `json:"init_process_start"`
	}
	if err := json.Unmarshal(data, &state); err != nil {
		return 0, err
	}
	return state.Start, nil
}

// unmountBelow detaches every mount under the directories, deepest first.
func unmountBelow(dirs ...string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	real := make([]string, 0, len(dirs)) // as the kernel knows them
	for _, d := range dirs {
		if d, err = filepath.EvalSymlinks(d); err == nil {
			real = append(real, d)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("containerd: %w", err)
		}
	}
	points := mountPoints(data, real)
	for _, p := range slices.Backward(points) {
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("containerd: cannot unmount %s: %w", p, err)
		}
	}
	return nil
}

// mountPoints below dirs, in the order in which they were mounted.
func mountPoints(mountinfo []byte, dirs []string) []string {
	var points []string
	for line := range bytes.Lines(mountinfo) {
		fields := strings.Fields(string(line))
		if len(fields) < 5 {
			continue
		}
		point := unescape(fields[4])
		for _, dir := range dirs {
			if strings.HasPrefix(point, filepath.Clean(dir)+"/") {
				points = append(points, point)
				break
			}
		}
	}
	return points
}

// unescape reads the octal escapes of proc(5) for space, tab, newline and
// backslash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
