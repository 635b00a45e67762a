package imagestore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// overlay is a mount to be made.
type overlay struct {
	target      string
	lower       []string // the topmost first, all below layers
	upper, work string   // "" for a read-only one
	layers      string   // the directory that all of lower lies in
	temp        string   // where another view of it may be mounted for a moment
	ids         mapping
}

// optionBytes is what mount(2) takes of options: a page, less what the kernel
// puts around them.
const optionBytes = 4096 - 64

// mount makes it. Overlayfs wants a layer below an upper directory and two
// without one: empty directories fill up.
func (o overlay) mount(empty []string) error {
	lower := append([]string(nil), o.lower...)
	if o.ids.set() && len(lower) > 0 {
		view, close, err := o.ids.view(o.layers, o.temp)
		if err != nil {
			return err
		}
		defer close()
		for i, dir := range lower {
			lower[i] = view + strings.TrimPrefix(dir, o.layers)
		}
	}
	want := 1
	if o.upper == "" {
		want = 2
	}
	if missing := want - len(lower); missing > 0 {
		lower = append(lower, empty[:missing]...)
	}
	return mountOverlay(o.target, lower, o.upper, o.work)
}

func mountOverlay(target string, lower []string, upper, work string) error {
	// An index would tie the directories to each other beyond the mount, as
	// containerd has found out; the writes of a container need not survive the
	// machine (volatile, Linux 5.10), so its end need not wait for the disk.
	options, flags := "index=off", uintptr(unix.MS_NODEV|unix.MS_RDONLY)
	if upper != "" {
		// Devices in it are the device cgroup's matter, as everywhere.
		options, flags = "index=off,volatile,upperdir="+upper+",workdir="+work, 0
	}
	list := strings.Join(lower, ":")
	if len(options)+len(",lowerdir=")+len(list) > optionBytes {
		short, close, err := byDescriptor(lower)
		if err != nil {
			return err
		}
		defer close()
		list = strings.Join(short, ":")
	}
	if err := unix.Mount("overlay", target, "overlay", flags, options+",lowerdir="+list); err != nil {
		return fmt.Errorf("cannot mount an overlay of %d layers: %w", len(lower), os.NewSyscallError("mount", err))
	}
	return nil
}

// byDescriptor gives directories short names, for as long as they are open.
func byDescriptor(dirs []string) (short []string, close func(), err error) {
	var fds []int
	close = func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	for _, dir := range dirs {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			close()
			return nil, nil, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		fds = append(fds, fd)
		short = append(short, fmt.Sprintf("/proc/self/fd/%d", fd))
	}
	return short, close, nil
}

// unmount takes off what is mounted on a path, if anything is. Who still uses
// it keeps it until he is done.
func unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil: // there may be another below
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return nil
		default:
			return &os.PathError{Op: "umount", Path: filepath.Clean(path), Err: err}
		}
	}
}
