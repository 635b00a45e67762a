//go:build cgo

package engine

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// A container has a mount for each hierarchy of cgroup version 1. libcontainer makes
// them one by one by their paths, with some 150 system calls each; here the container
// is given them before its program begins, put together outside of it.

const (
	sysfsPath  = "/sys"
	cgroupPath = "/sys/fs/cgroup"
)

// takeCgroups takes the mount of cgroups out of a configuration, for showCgroups. It
// takes none where that would mount on something else than a fresh sysfs, or cover
// what is to be covered.
func takeCgroups(config *configs.Config) (taken *configs.Mount) {
	if cgroups.IsCgroup2UnifiedMode() || config.Namespaces.Contains(configs.NEWCGROUP) {
		return nil
	}
	for _, list := range [][]string{config.MaskPaths, config.ReadonlyPaths} {
		for _, p := range list {
			if p = filepath.Clean(p); below(cgroupPath, p) || below(p, cgroupPath) {
				return nil
			}
		}
	}
	var mounts []*configs.Mount
	fresh := false
	for _, m := range config.Mounts {
		switch to := filepath.Clean(m.Destination); {
		case m.Device == "cgroup" && to == cgroupPath && taken == nil:
			taken = m
			continue
		case m.Device == "sysfs" && to == sysfsPath && !fresh:
			fresh = true
		case below(to, sysfsPath):
			return nil
		}
		mounts = append(mounts, m)
	}
	if taken == nil || !fresh {
		return nil
	}
	config.Mounts = mounts
	return taken
}

// below tells whether a path is another one or lies below it.
func below(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// showCgroups mounts the cgroups of a container's first process, which waits to
// become its program: nothing has been run in the container.
func showCgroups(pid int, config *configs.Config, m *configs.Mount) error {
	all, err := hierarchies(pid)
	if err != nil {
		return err
	}
	top, err := cgroupTop(config)
	if err != nil {
		return err
	}
	defer unix.Close(top)
	for i := range all {
		h := &all[i]
		if h.tree, err = unix.OpenTree(unix.AT_FDCWD, h.source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err != nil {
			return fmt.Errorf("cgroup %s: %w", h.source, err)
		}
		defer unix.Close(h.tree)
		if err := unix.Mkdirat(top, h.name, 0o755); err != nil {
			return err
		}
		if !strings.Contains(h.name, ",") {
			continue
		}
		for one := range strings.SplitSeq(h.name, ",") { // as the machine has them
			if err := unix.Symlinkat(h.name, top, one); err != nil {
				return err
			}
		}
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if m.Flags&unix.MS_RDONLY != 0 {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	return withMounts(ns, func() error {
		at, err := unix.Openat2(unix.AT_FDCWD, cgroupPath, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
		if err != nil {
			return fmt.Errorf("cannot open %s: %w", cgroupPath, err)
		}
		defer unix.Close(at)
		if err := unix.MoveMount(top, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
			return fmt.Errorf("cannot mount on %s: %w", cgroupPath, err)
		}
		for _, h := range all {
			if err := unix.MoveMount(h.tree, "", top, h.name, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
				return fmt.Errorf("cannot mount cgroup %s: %w", h.name, err)
			}
		}
		return unix.MountSetattr(top, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr)
	})
}

// cgroupTop makes the directory of hierarchies, which is of the container's root.
func cgroupTop(config *configs.Config) (int, error) {
	uid, err := config.HostRootUID()
	if err != nil {
		return 0, err
	}
	gid, err := config.HostRootGID()
	if err != nil {
		return 0, err
	}
	return tmpfs(map[string]string{"mode": "755", "uid": strconv.Itoa(uid), "gid": strconv.Itoa(gid)})
}

// hierarchy is one of cgroup version 1.
type hierarchy struct {
	name   string // of its directory
	source string // a process's cgroup in it
	tree   int
}

// hierarchies are those of the machine with the cgroups of a process. The library
// has read the mounts of the machine once.
func hierarchies(pid int) ([]hierarchy, error) {
	mounts, err := cgroups.GetCgroupMounts(false)
	if err != nil {
		return nil, err
	}
	in, err := cgroups.ParseCgroupFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	all := make([]hierarchy, len(mounts))
	for i, m := range mounts {
		dir, err := m.GetOwnCgroup(in)
		if err != nil {
			return nil, err
		}
		inner, err := filepath.Rel(m.Root, dir)
		if err != nil {
			return nil, err
		}
		all[i] = hierarchy{name: filepath.Base(m.Mountpoint), source: filepath.Join(m.Mountpoint, inner)}
	}
	return all, nil
}
