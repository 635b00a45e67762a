package builtin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/runtime/thread"
	"knarr.dev/knarr/internal/runtime/userns"
)

// A sandbox's namespaces are held by bind mounts on files: no process is
// needed for them.

// kinds of namespaces that are held, by the names of their files in /proc/PID/ns.
var kinds = []struct {
	name string
	flag int
}{{"net", unix.CLONE_NEWNET}, {"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}}

// hold makes the namespaces that flags names, in the user namespace of o if
// that is the pod's own, and holds them by files in dir.
func hold(dir string, flags int, o *runtimeapi.UserNamespace, hostname string) error {
	if o.GetMode() == runtimeapi.NamespaceMode_POD && len(o.GetUids()) > 0 {
		return holdOwned(dir, flags, o, hostname)
	}
	return thread.Run(func() error {
		if err := unix.Unshare(flags); err != nil {
			return fmt.Errorf("cannot make namespaces: %w", err)
		}
		if flags&unix.CLONE_NEWUTS != 0 && hostname != "" {
			if err := unix.Sethostname([]byte(hostname)); err != nil {
				return fmt.Errorf("cannot set the host name %q: %w", hostname, err)
			}
		}
		return pin(dir, fmt.Sprintf("/proc/self/task/%d/ns", unix.Gettid()), flags)
	})
}

// holdOwned lets a process in a new user namespace make the others, which that
// one owns then. A thread cannot: a user namespace is a whole process's.
func holdOwned(dir string, flags int, o *runtimeapi.UserNamespace, hostname string) error {
	ids := func(l []*runtimeapi.IDMapping) []syscall.SysProcIDMap {
		var out []syscall.SysProcIDMap
		for _, m := range l {
			out = append(out, syscall.SysProcIDMap{ContainerID: int(m.ContainerId), HostID: int(m.HostId), Size: int(m.Length)})
		}
		return out
	}
	return userns.Make(uintptr(flags), ids(o.Uids), ids(o.Gids), func(ns string) error {
		if err := pinOne(filepath.Join(dir, "user"), filepath.Join(ns, "user")); err != nil {
			return err
		}
		if err := pin(dir, ns, flags); err != nil {
			return err
		}
		if flags&unix.CLONE_NEWUTS == 0 || hostname == "" {
			return nil
		}
		return inside(dir, unix.CLONE_NEWUTS, func() error { return unix.Sethostname([]byte(hostname)) })
	})
}

func pin(dir, from string, flags int) error {
	for _, k := range kinds {
		if flags&k.flag == 0 {
			continue
		}
		if err := pinOne(filepath.Join(dir, k.name), filepath.Join(from, k.name)); err != nil {
			return err
		}
	}
	return nil
}

func pinOne(file, from string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDONLY, 0o400)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount(from, file, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot hold namespace %s: %w", filepath.Base(file), err)
	}
	return nil
}

// inside runs fn on a thread in the namespaces that flags names, of those that
// dir holds.
func inside(dir string, flags int, fn func() error) error {
	return thread.Run(func() error {
		for _, k := range kinds {
			if flags&k.flag == 0 {
				continue
			}
			f, err := os.Open(filepath.Join(dir, k.name))
			if err != nil {
				return err
			}
			err = unix.Setns(int(f.Fd()), k.flag)
			f.Close()
			if err != nil {
				return fmt.Errorf("cannot enter namespace %s: %w", k.name, err)
			}
		}
		return fn()
	})
}

// held reports whether a file holds a namespace: after a reboot it is a file.
func held(file string) bool {
	var s unix.Statfs_t
	return unix.Statfs(file, &s) == nil && s.Type == unix.NSFS_MAGIC
}

// letGo undoes hold and what else is mounted below dir, and deletes it.
func letGo(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		// Not mounted, or gone: both are as wanted.
		if err := unix.Unmount(filepath.Join(dir, e.Name()), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cannot unmount %s: %w", e.Name(), err)
		}
	}
	return os.RemoveAll(dir)
}

// setSysctls sets what a pod asks for in its namespaces. Only what a namespace
// has of its own can be set: the rest would be the node's.
func setSysctls(dir string, flags int, sysctls map[string]string) error {
	for name := range sysctls {
		if err := namespaced(name, flags); err != nil {
			return err
		}
	}
	if len(sysctls) == 0 {
		return nil
	}
	return inside(dir, flags, func() error {
		for name, value := range sysctls {
			path := filepath.Join("/proc/sys", strings.ReplaceAll(strings.ReplaceAll(name, "/", "\x00"), ".", "/"))
			path = strings.ReplaceAll(path, "\x00", ".")
			if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
				return fmt.Errorf("cannot set sysctl %s to %q: %w", name, value, errors.Unwrap(err))
			}
		}
		return nil
	})
}

// namespaced refuses sysctls that are the node's. A name may have slashes for
// dots (sysctl.d(5)).
func namespaced(name string, flags int) error {
	dotted := strings.ReplaceAll(name, "/", ".")
	if strings.Contains(dotted, "..") || strings.HasPrefix(dotted, ".") {
		return fmt.Errorf("sysctl %q: not a name", name)
	}
	switch {
	case strings.HasPrefix(dotted, "net."):
		if flags&unix.CLONE_NEWNET == 0 {
			return fmt.Errorf("sysctl %q is not allowed with the host's network", name)
		}
	case strings.HasPrefix(dotted, "kernel.shm"), strings.HasPrefix(dotted, "kernel.msg"), dotted == "kernel.sem", strings.HasPrefix(dotted, "fs.mqueue."):
		if flags&unix.CLONE_NEWIPC == 0 {
			return fmt.Errorf("sysctl %q is not allowed with the host's IPC", name)
		}
	default:
		return fmt.Errorf("sysctl %q is not in a namespace of the pod's", name)
	}
	return nil
}

// shmSize is what containers of a pod share at /dev/shm: the field's usual.
const shmSize = "size=65536k"

// mountShm gives a pod its shared memory.
func mountShm(dir string, o *runtimeapi.UserNamespace) error {
	path := filepath.Join(dir, "shm")
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	opts := "mode=1777," + shmSize
	if o.GetMode() == runtimeapi.NamespaceMode_POD && len(o.GetUids()) > 0 && len(o.GetGids()) > 0 {
		opts += fmt.Sprintf(",uid=%d,gid=%d", o.Uids[0].HostId, o.Gids[0].HostId)
	}
	if err := unix.Mount("shm", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, opts); err != nil {
		return fmt.Errorf("cannot mount shared memory: %w", err)
	}
	return nil
}
