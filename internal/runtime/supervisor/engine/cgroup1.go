//go:build cgo

package engine

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// A container has a mount for each hierarchy of cgroup version 1. libcontainer makes
// them one by one by their paths, with some 150 system calls each; here the container
// is given them before its program begins, put together outside of it.

const (
	sysfsPath  = "/sys"
	cgroupPath = "/sys/fs/cgroup"
	// cgroupLabel tells that the container is still to be given its cgroups, and with
	// which flags.
	cgroupLabel = "knarr.dev/cgroups="
)

// takeCgroups takes the mount of cgroups out of a configuration, for showCgroups.
// It leaves it where that could not know what it would mount on, or with a kernel
// before Linux 5.12.
func takeCgroups(config *configs.Config) {
	if cgroups.IsCgroup2UnifiedMode() || !config.Namespaces.Contains(configs.NEWNS) || config.Namespaces.Contains(configs.NEWCGROUP) || !hasSetattr() {
		return
	}
	var mounts []*configs.Mount
	var taken, sysfs *configs.Mount
	for _, m := range config.Mounts {
		switch {
		case m.Device == "cgroup" && m.Destination == cgroupPath:
			taken = m
			continue
		case m.Destination == sysfsPath && (m.Device == "sysfs" || m.Source == sysfsPath):
			sysfs = m
		case m.Destination == sysfsPath, strings.HasPrefix(m.Destination, sysfsPath+"/"):
			return
		}
		mounts = append(mounts, m)
	}
	if taken == nil || sysfs == nil {
		return
	}
	config.Mounts = mounts
	config.Labels = append(config.Labels, cgroupLabel+strconv.Itoa(taken.Flags))
}

// hasSetattr tells whether there is mount_setattr(2), the youngest of those used here.
var hasSetattr = sync.OnceValue(func() bool {
	return !errors.Is(unix.MountSetattr(-1, "", 0, &unix.MountAttr{}), unix.ENOSYS)
})

// showCgroups mounts a container's cgroups. It has not become its program yet:
// nothing that is in its root has been run, and sysfs is there.
func showCgroups(state *libcontainer.State) error {
	i := slices.IndexFunc(state.Config.Labels, func(l string) bool { return strings.HasPrefix(l, cgroupLabel) })
	if i < 0 {
		return nil
	}
	flags, err := strconv.Atoi(strings.TrimPrefix(state.Config.Labels[i], cgroupLabel))
	if err != nil {
		return err
	}
	all, err := hierarchies(state.CgroupPaths)
	if err != nil {
		return err
	}
	top, err := cgroupTop(&state.Config)
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
	if flags&unix.MS_RDONLY != 0 {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", state.InitProcessPid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	return withMounts(ns, func() error {
		if err := unix.MoveMount(top, "", unix.AT_FDCWD, cgroupPath, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
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
	source string // what a container sees of it
	tree   int
}

// hierarchies are those of the machine, with a container's cgroups, or with ours
// where libcontainer does not know the controller.
func hierarchies(paths map[string]string) ([]hierarchy, error) {
	machine, err := machineCgroups()
	if err != nil {
		return nil, err
	}
	all := make([]hierarchy, len(machine))
	for i, m := range machine {
		all[i] = m.hierarchy
		for _, name := range m.controllers {
			if p := paths[name]; p != "" {
				all[i].source = p
			}
		}
	}
	return all, nil
}

type machineCgroup struct {
	hierarchy
	controllers []string // by libcontainer's names
}

// machineCgroups reads all mounts of the machine, which are more with every pod: once.
var machineCgroups = sync.OnceValues(func() ([]machineCgroup, error) {
	mounts, err := cgroups.GetCgroupMounts(false)
	if err != nil {
		return nil, err
	}
	ours, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	all := make([]machineCgroup, len(mounts))
	for i, m := range mounts {
		dir, err := m.GetOwnCgroup(ours)
		if err != nil {
			return nil, err
		}
		inner, err := filepath.Rel(m.Root, dir)
		if err != nil {
			return nil, err
		}
		all[i].hierarchy = hierarchy{name: filepath.Base(m.Mountpoint), source: filepath.Join(m.Mountpoint, inner)}
		for _, name := range m.Subsystems {
			all[i].controllers = append(all[i].controllers, name, cgroups.CgroupNamePrefix+name)
		}
	}
	return all, nil
})
