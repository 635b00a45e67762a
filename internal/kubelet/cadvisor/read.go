package cadvisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Interface is what a network interface has counted.
type Interface struct {
	Name              string
	Receive, Transmit Traffic
}

// Traffic in one direction.
type Traffic struct{ Bytes, Packets, Errors, Dropped uint64 }

// Interfaces reads /proc/PID/net/dev (proc_pid_net(5)) without the loopback.
func Interfaces(text string) []Interface {
	var out []Interface
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		name = strings.TrimSpace(name)
		if !ok || len(fields) < 16 || name == "lo" {
			continue
		}
		of := func(from int) Traffic {
			var n [4]uint64
			for i := range n {
				n[i], _ = strconv.ParseUint(fields[from+i], 10, 64) // the kernel's own numbers
			}
			return Traffic{n[0], n[1], n[2], n[3]}
		}
		out = append(out, Interface{name, of(0), of(8)})
	}
	return out
}

// Device is the name of major:minor; that itself if the kernel has no other.
func Device(sys, number string) string {
	data, err := os.ReadFile(filepath.Join(sys, "dev/block", number, "uevent"))
	if err != nil {
		return number
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			return "/dev/" + name
		}
	}
	return number
}

// Disk that something lies on, in bytes and inodes.
type Disk struct {
	Device             string
	Used               uint64 // by what was measured
	Size               uint64
	Inodes, InodesFree uint64
}

// DiskOf what lies at path, with all that is in use of it; nil if it cannot be
// told.
func DiskOf(sys, path string) *Disk {
	var at unix.Stat_t
	var fs unix.Statfs_t
	if unix.Stat(path, &at) != nil || unix.Statfs(path, &fs) != nil {
		return nil
	}
	unit := uint64(fs.Bsize)
	return &Disk{Device: Device(sys, fmt.Sprintf("%d:%d", unix.Major(at.Dev), unix.Minor(at.Dev))),
		Used: (fs.Blocks - fs.Bfree) * unit, Size: fs.Blocks * unit, Inodes: fs.Files, InodesFree: fs.Ffree}
}

// Files that processes have open.
type Files struct{ Descriptors, Sockets uint64 }

// FilesOf processes; nil if nothing can be told of any.
func FilesOf(proc string, pids []int) *Files {
	var out *Files
	for _, pid := range pids {
		at := filepath.Join(proc, strconv.Itoa(pid), "fd")
		dir, err := os.Open(at)
		if err != nil {
			continue // it has ended
		}
		names, err := dir.Readdirnames(-1)
		dir.Close()
		if err != nil {
			continue
		}
		if out == nil {
			out = &Files{}
		}
		for _, name := range names {
			out.Descriptors++
			if to, err := os.Readlink(filepath.Join(at, name)); err == nil && strings.HasPrefix(to, "socket:") {
				out.Sockets++
			}
		}
	}
	return out
}
