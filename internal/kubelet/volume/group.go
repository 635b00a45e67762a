package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

const (
	groupFile = 0o660
	groupDir  = unix.S_ISGID | 0o110 | groupFile
)

// give a volume and all that is in it to a group, which may then read and
// write it. If the policy allows that and its root is the group's already,
// that is enough. Names are looked up beneath the volume only, so that links in
// it lead nowhere else.
func give(root string, group int, policy *corev1.PodFSGroupChangePolicy) error {
	top, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(top)
	var st unix.Stat_t
	if err := unix.Fstat(top, &st); err != nil {
		return err
	}
	if policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch && int(st.Gid) == group && st.Mode&groupDir == groupDir {
		return nil
	}
	dirs := []string{"."}
	for i := 0; i < len(dirs); i++ {
		below, err := giveEntries(top, dirs[i], group)
		if err != nil {
			return err
		}
		dirs = append(dirs, below...)
	}
	for i := len(dirs) - 1; i >= 0; i-- { // the root last: until then it does not look done
		if err := giveDir(top, dirs[i], group); err != nil {
			return err
		}
	}
	return nil
}

// openBeneath opens a directory of the volume; one that is gone, or is a link
// by now, is none.
func openBeneath(top int, dir string) (*os.File, error) {
	fd, err := unix.Openat2(top, dir, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open %s in the volume: %w", dir, err)
	}
	return os.NewFile(uintptr(fd), dir), nil
}

func giveDir(top int, dir string, group int) error {
	f, err := openBeneath(top, dir)
	if f == nil {
		return err
	}
	defer f.Close()
	return giveOpen(int(f.Fd()), group, groupDir)
}

// giveEntries gives what lies in a directory, and returns its directories.
func giveEntries(top int, dir string, group int) (below []string, err error) {
	f, err := openBeneath(top, dir)
	if f == nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case e.IsDir():
			below = append(below, filepath.Join(dir, name))
			continue
		case e.Type()&os.ModeSymlink != 0:
			err = unix.Fchownat(int(f.Fd()), name, -1, group, unix.AT_SYMLINK_NOFOLLOW)
		default:
			err = giveFile(int(f.Fd()), name, group)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("cannot give %s in the volume to its group: %w", filepath.Join(dir, name), err)
		}
	}
	return below, nil
}

// giveFile opens nothing for reading: it may be a pipe.
func giveFile(dir int, name string, group int) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return giveOpen(fd, group, groupFile)
}

func giveOpen(fd, group int, mode uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	at := fmt.Sprintf("/proc/self/fd/%d", fd) // an O_PATH descriptor knows no fchmod
	if err := unix.Fchownat(unix.AT_FDCWD, at, -1, group, 0); err != nil {
		return err
	}
	return unix.Fchmodat(unix.AT_FDCWD, at, st.Mode&0o7777|mode, 0)
}
