// Package rmtree removes directory trees without ever entering a mount: what
// is mounted below (a host path bound into a pod, a secret's tmpfs) belongs to
// somebody else. Paths are not compared with the mount table, which a symbolic
// link would deceive: each directory is asked which mount it is on.
package rmtree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Remove deletes path and all below it. If something is mounted there, nothing
// of the mount is touched, and the error names it; the rest may be gone.
// A path that is not there is fine.
func Remove(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return os.Remove(path)
	}
	parent, err := mountOf(filepath.Dir(path))
	if err != nil {
		return err
	}
	return remove(path, parent)
}

// remove deletes a directory that has to be on the mount.
func remove(dir string, mount uint64) error {
	own, err := mountOf(dir)
	if err != nil {
		return err
	}
	if own != mount {
		return fmt.Errorf("%s is a mount point: unmount it first", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			errs = append(errs, remove(path, mount))
		} else if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			// A file that something is bound on says EBUSY and stays.
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.Remove(dir)
}

// mountOf is the kernel's number of the mount that a directory lies on
// (statx(2), Linux 5.8).
func mountOf(dir string) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &st); err != nil {
		return 0, &fs.PathError{Op: "statx", Path: dir, Err: err}
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return 0, errors.New("the kernel does not tell mounts apart: Linux 5.8 is needed")
	}
	return st.Mnt_id, nil
}
