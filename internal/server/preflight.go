package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// minFree is what a start needs on disk: etcd refuses to work on a full one.
const minFree = 512 << 20

// Preflight reports everything that would keep this machine from running the
// roles, each with its remedy, before anything is touched.
func (c *Config) Preflight() error {
	var missing []error
	fail := func(format string, args ...any) { missing = append(missing, fmt.Errorf(format, args...)) }

	if err := needRoot(); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(existing(c.DataDir), &st); err == nil {
		if free := st.Bavail * uint64(st.Bsize); free < minFree {
			fail("the disk of %s has %d MiB free, knarr needs %d: free some, or choose another place with --data-dir", c.DataDir, free>>20, minFree>>20)
		}
	}
	if !ownAddress(c.NodeIP) {
		fail("no interface of this machine has the address %s: give one that it has with --node-ip", c.NodeIP)
	}
	if c.Server {
		if err := portFree(c.APIPort); err != nil {
			fail("port %d for the API server is taken: end what uses it, or choose another with --api-port (%w)", c.APIPort, err)
		}
	}
	if c.Agent {
		c.preflightNode(fail)
	}
	return errors.Join(missing...)
}

func (c *Config) preflightNode(fail func(string, ...any)) {
	if err := portFree(c.KubeletPort); err != nil {
		fail("port %d for the kubelet is taken: end what uses it, or choose another with --kubelet-port (%w)", c.KubeletPort, err)
	}
	if alone, err := onlyNode(); err != nil {
		fail("%w", err)
	} else {
		_ = alone.Close()
	}
	if !cgroupsMounted() {
		fail("no cgroup controllers are mounted below /sys/fs/cgroup: mount cgroup2 there (mount -t cgroup2 none /sys/fs/cgroup), or boot with them enabled")
	}
	if !filesystem("overlay") {
		fail("the kernel has no overlayfs: load it (modprobe overlay) or use a kernel with CONFIG_OVERLAY_FS")
	}
	if fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER); err != nil {
		fail("the kernel has no netfilter netlink: load nf_tables (modprobe nf_tables) or use a kernel with CONFIG_NF_TABLES (%w)", err)
	} else {
		_ = unix.Close(fd)
	}
	switch c.RuntimeEndpoint {
	case runtimeContainerd:
	case runtimeBuiltin:
		if _, _, _, err := findSupervisor(); err != nil {
			fail("the supervisor of containers is not here: build knarr with `make build`, or copy %s from beside knarr where it was built (%w)", supervisorName, err)
		}
		if _, err := os.Stat(c.Dir("agent", "runtime", "images")); err != nil && c.ImagesDir == "" {
			fail("the images that pods need are not here: copy the directory `images` that lies beside knarr where it was built, or name it with --images")
		}
		return
	default:
		path := strings.TrimPrefix(c.RuntimeEndpoint, "unix://")
		if _, err := os.Stat(path); err != nil {
			fail("there is no container runtime at %s: start it, or leave --container-runtime-endpoint away (%w)", c.RuntimeEndpoint, err)
		}
		return
	}
	if _, err := os.Stat(c.Dir("agent", "containerd", "root")); err != nil && c.ImagesDir == "" {
		fail("the images that every pod needs are not here: copy the directory `images` that lies beside knarr where it was built, or name it with --images")
	}
	for _, tool := range []string{"containerd", "runc"} {
		if _, err := exec.LookPath(tool); err != nil {
			fail("%s is not installed: apt-get install containerd runc (or your distribution's packages of that name)", tool)
		}
	}
}

func needRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("knarr sets up namespaces, mounts and firewall rules: run it as root (sudo)")
	}
	return nil
}

// existing is the part of a path that is there.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

func ownAddress(ip string) bool {
	addrs, err := net.InterfaceAddrs()
	return err != nil || slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.String() == ip
	})
}

func portFree(port int) error {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	return l.Close()
}

// cgroupsMounted: a v2 hierarchy with controllers, or the v1 ones that pods need.
func cgroupsMounted() bool {
	if data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return strings.Contains(string(data), "memory")
	}
	for _, controller := range []string{"cpu", "memory", "pids"} {
		if _, err := os.Stat("/sys/fs/cgroup/" + controller); err != nil {
			return false
		}
	}
	return true
}

// filesystem reports whether the kernel knows it, after asking it to load it.
func filesystem(name string) bool {
	known := func() bool {
		data, err := os.ReadFile("/proc/filesystems")
		return err == nil && strings.Contains(string(data), "\t"+name+"\n")
	}
	if known() {
		return true
	}
	cmd := exec.Command("modprobe", name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd.Run() == nil && known()
}
