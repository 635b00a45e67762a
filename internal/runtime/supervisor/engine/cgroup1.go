//go:build cgo

package engine

import (
	"cmp"
	"path/filepath"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// spreadCgroups replaces the mount of cgroup version 1 by a mount for each of its
// hierarchies. libcontainer would find them in each container anew, by reading all
// mounts of the machine, which are more with every pod; here they were read once.
func spreadCgroups(config *configs.Config) error {
	if cgroups.IsCgroup2UnifiedMode() || config.Namespaces.Contains(configs.NEWCGROUP) {
		return nil
	}
	var mounts []*configs.Mount
	for _, m := range config.Mounts {
		if m.Device != "cgroup" {
			mounts = append(mounts, m)
			continue
		}
		more, err := hierarchies(config, m)
		if err != nil {
			return err
		}
		mounts = append(mounts, more...)
	}
	config.Mounts = mounts
	return nil
}

func hierarchies(config *configs.Config, at *configs.Mount) ([]*configs.Mount, error) {
	all, err := cgroups.GetCgroupMounts(false)
	if err != nil {
		return nil, err
	}
	m, err := manager.New(config.Cgroups)
	if err != nil {
		return nil, err
	}
	ours, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mounts := []*configs.Mount{{Source: "tmpfs", Device: "tmpfs", Destination: at.Destination, Data: "mode=755",
		Flags: unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV | at.Flags&unix.MS_RDONLY}}
	for _, h := range all {
		// The container's own, or ours if libcontainer does not know the controller.
		source := ""
		for _, name := range h.Subsystems {
			source = cmp.Or(source, m.Path(name), m.Path(cgroups.CgroupNamePrefix+name))
		}
		if source == "" {
			dir, err := h.GetOwnCgroup(ours)
			if err != nil {
				return nil, err
			}
			inner, err := filepath.Rel(h.Root, dir)
			if err != nil {
				return nil, err
			}
			source = filepath.Join(h.Mountpoint, inner)
		}
		names := []string{filepath.Base(h.Mountpoint)}
		if strings.Contains(names[0], ",") {
			names = append(names, strings.Split(names[0], ",")...) // as the machine's links
		}
		for _, name := range names {
			mounts = append(mounts, &configs.Mount{Source: source, Device: "bind", Destination: filepath.Join(at.Destination, name), Flags: unix.MS_BIND | at.Flags})
		}
	}
	return mounts, nil
}
