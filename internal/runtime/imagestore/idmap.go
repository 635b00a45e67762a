package imagestore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/runtime/userns"
)

// mapping of a user namespace's IDs to the host's.
type mapping struct{ uids, gids []syscall.SysProcIDMap }

func (m mapping) set() bool { return len(m.uids) > 0 }

func newMapping(uids, gids []*runtimeapi.IDMapping) (m mapping, err error) {
	if (len(uids) == 0) != (len(gids) == 0) {
		return m, errors.New("a user namespace maps both user and group IDs, or none")
	}
	if m.uids, err = kernelMap(uids); err != nil {
		return m, err
	}
	if m.gids, err = kernelMap(gids); err != nil {
		return m, err
	}
	if m.set() && (m.hostOf(m.uids) < 0 || m.hostOf(m.gids) < 0) {
		return m, errors.New("the user namespace has no ID 0")
	}
	return m, nil
}

func kernelMap(list []*runtimeapi.IDMapping) ([]syscall.SysProcIDMap, error) {
	var out []syscall.SysProcIDMap
	for _, m := range list {
		if m.GetLength() == 0 {
			return nil, errors.New("a mapping of no ID")
		}
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.GetContainerId()), HostID: int(m.GetHostId()), Size: int(m.GetLength())})
	}
	return out, nil
}

// hostOf is what ID 0 is on the host; -1 if it is not mapped.
func (m mapping) hostOf(list []syscall.SysProcIDMap) int {
	for _, r := range list {
		if r.ContainerID == 0 {
			return r.HostID
		}
	}
	return -1
}

func (m mapping) rootUID() int { return m.hostOf(m.uids) }
func (m mapping) rootGID() int { return m.hostOf(m.gids) }

// view mounts dir once more, read-only and with the IDs mapped, in a directory
// of temp. Overlays keep what they took of it, so it can go once they are
// mounted. It needs to be attached: overlayfs takes layers of detached mounts
// only from Linux 6.15 on.
func (m mapping) view(dir, temp string) (path string, close func(), err error) {
	ns, err := m.namespace()
	if err != nil {
		return "", nil, fmt.Errorf("cannot make a user namespace: %w", err)
	}
	defer ns.Close()
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return "", nil, os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(fd)
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_RDONLY, Userns_fd: uint64(ns.Fd()), Propagation: unix.MS_PRIVATE})
	if err != nil {
		return "", nil, fmt.Errorf("the file system of %s cannot map IDs (mount_setattr: %w); user namespaces need one that can, such as ext4, xfs or btrfs", dir, err)
	}
	if path, err = os.MkdirTemp(temp, "ids-"); err != nil {
		return "", nil, err
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "", nil, errors.Join(os.NewSyscallError("move_mount", err), os.Remove(path))
	}
	return path, func() {
		if unmount(path) == nil { // else the next start sweeps it
			os.Remove(path)
		}
	}, nil
}

// namespace makes a user namespace with these mappings.
func (m mapping) namespace() (f *os.File, err error) {
	err = userns.Make(0, m.uids, m.gids, func(ns string) error {
		f, err = os.Open(filepath.Join(ns, "user"))
		return err
	})
	return f, err
}
