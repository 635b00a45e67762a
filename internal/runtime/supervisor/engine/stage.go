//go:build cgo

package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/runtime/thread"
)

// A container's mount namespace begins as a copy of its parent's, and a machine has
// some mounts more with every pod. So the parent of containers is a thread in a
// namespace with few: what the kernel shows of itself, and what one container is made
// of. Nothing else is mounted where a container is made.

// stage is such a namespace, which each container gets a copy of.
type stage struct {
	ns   *os.File
	path string // where a container is put together, in the copy
}

// rootDir is a container's root there.
const rootDir = "0"

// newStage makes one, in which path is where containers are put together and dir is
// what it is here. It lives as long as this process has it open.
func newStage(path, dir string) (*stage, error) {
	s := &stage{path: path}
	// Here too: a further process of a container starts at its root's path, before
	// it enters the container.
	if err := os.MkdirAll(filepath.Join(path, rootDir), 0o700); err != nil {
		return nil, err
	}
	// From its first use on the library has the directory of cgroups open that it
	// sees then: not one that goes with a container's stage.
	cgroups.ReadFile(cgroupPath, "cgroup.procs")
	err := thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			return err
		}
		unix.Umask(0) // of this thread, now: a user namespace's root passes
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		top, err := tmpfs(map[string]string{"mode": "711"})
		if err != nil {
			return err
		}
		defer unix.Close(top)
		trees, err := clone([]source{{path: "/proc"}, {path: "/sys", all: true}, {path: "/dev", all: true}, {path: dir}})
		defer closeAll(trees)
		if err != nil {
			return err
		}
		if err := unix.MoveMount(top, "", unix.AT_FDCWD, "/proc", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return err
		}
		if err := unix.Fchdir(top); err != nil {
			return err
		}
		for _, t := range trees {
			at := strings.TrimPrefix(t.path, "/")
			if err := os.MkdirAll(at, 0o711); err != nil {
				return err
			}
			if err := unix.MoveMount(t.fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(strings.TrimPrefix(path, "/"), 0o711); err != nil {
			return err
		}
		if err := unix.PivotRoot(".", "."); err != nil { // the old root is on top of the new one
			return fmt.Errorf("pivot_root: %w", err)
		}
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return err
		}
		if err := unix.Chdir("/"); err != nil {
			return err
		}
		s.ns, err = os.Open("/proc/thread-self/ns/mnt")
		return err
	})
	return s, err
}

// fits tells that all that libcontainer looks for by a path while it makes a
// container is on the stage: no hook's program, no socket that listens to seccomp's
// notifications, no file system that is made of other paths.
func fits(config *configs.Config) bool {
	switch {
	case config.HasHook(configs.Prestart, configs.CreateRuntime, configs.CreateContainer, configs.StartContainer, configs.Poststart),
		config.Seccomp != nil && config.Seccomp.ListenerPath != "",
		config.IntelRdt != nil,
		!config.Namespaces.IsPrivate(configs.NEWNS),
		slices.ContainsFunc(config.Devices, func(d *devices.Device) bool { return !below(filepath.Clean(d.Path), "/dev") }):
		return false
	}
	return !slices.ContainsFunc(config.Mounts, func(m *configs.Mount) bool {
		plain := m.IsBind() || slices.Contains([]string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup"}, m.Device)
		return !plain || m.Extensions&configs.EXT_COPYUP != 0 || m.IDMapping != nil && m.IDMapping.UserNSPath != ""
	})
}

// with runs fn on a thread from where a container sees what config names, and
// nothing else: the paths in config become those of the stage. What is mounted
// there ends with the namespace, and nothing is unmounted: the machine may have the
// same mounts below a source.
func (s *stage) with(config *configs.Config, fn func() error) error {
	sources := []source{{path: config.Rootfs, all: true}}
	targets := []*string{&config.Rootfs}
	for _, m := range config.Mounts {
		if m.IsBind() {
			sources = append(sources, source{path: m.Source, all: m.Flags&unix.MS_REC != 0, peer: !slices.ContainsFunc(m.PropagationFlags, func(f int) bool { return f&unix.MS_PRIVATE != 0 })})
			targets = append(targets, &m.Source)
		}
	}
	trees, err := clone(sources)
	defer closeAll(trees)
	if err != nil {
		return err
	}
	// Namespaces are files that are mounted.
	machine := fmt.Sprintf("/proc/%d/root", os.Getpid())
	for i, n := range config.Namespaces {
		if n.Path != "" && !strings.HasPrefix(n.Path, "/proc/") {
			config.Namespaces[i].Path = machine + n.Path
		}
	}
	names := []string{machine, ""}
	for i, t := range slices.Backward(targets) { // 10 before 1, which it begins with
		here := filepath.Join(s.path, strconv.Itoa(i))
		names = append(names, here, *t)
		*t = here
	}
	err = withMounts(int(s.ns.Fd()), func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", s.path, "tmpfs", 0, "mode=711"); err != nil {
			return err
		}
		for i, t := range trees {
			if err := t.put(filepath.Join(s.path, strconv.Itoa(i))); err != nil {
				return fmt.Errorf("cannot mount %s: %w", t.path, err)
			}
		}
		return fn()
	})
	if err == nil {
		return nil
	}
	if text := strings.NewReplacer(names...).Replace(err.Error()); text != err.Error() {
		return errors.New(text) // of paths that somebody knows
	}
	return err
}

// source is something of the machine that is mounted in a container.
type source struct {
	path string
	all  bool // with what is mounted below
	peer bool // with what will be mounted below
}

// tree is a copy of a source's mounts that is mounted nowhere.
type tree struct {
	source
	fd int
}

// clone returns what it has copied, with an error too.
func clone(sources []source) ([]tree, error) {
	var trees []tree
	for _, s := range sources {
		var recursive uint
		if s.all {
			recursive = unix.AT_RECURSIVE
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, s.path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|recursive)
		if err != nil {
			return trees, &os.PathError{Op: "mount", Path: s.path, Err: err}
		}
		trees = append(trees, tree{s, fd})
		if s.peer {
			continue
		}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
			return trees, &os.PathError{Op: "mount_setattr", Path: s.path, Err: err}
		}
	}
	return trees, nil
}

// put mounts a tree at a path that is not there yet.
func (t tree) put(at string) error {
	var st unix.Stat_t
	if err := unix.Fstat(t.fd, &st); err != nil {
		return err
	}
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = unix.Mkdir(at, 0o700)
	} else {
		err = unix.Mknod(at, unix.S_IFREG|0o600, 0)
	}
	if err != nil {
		return err
	}
	return unix.MoveMount(t.fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func closeAll(trees []tree) {
	for _, t := range trees {
		unix.Close(t.fd)
	}
}

// tmpfs makes one that is mounted nowhere.
func tmpfs(options map[string]string) (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fs)
	for name, value := range options {
		if err := unix.FsconfigSetString(fs, name, value); err != nil {
			return 0, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return 0, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
}

// withMounts runs fn on a thread of its own in a mount namespace, which it leaves
// then: the thread may end later, and what is mounted there would be in use.
func withMounts(ns int, fn func() error) error {
	home, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	defer home.Close()
	return thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
			return err
		}
		return errors.Join(fn(), unix.Setns(int(home.Fd()), unix.CLONE_NEWNS))
	})
}
