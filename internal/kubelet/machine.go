package kubelet

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kernel"
)

// machine is what the node is made of.
type machine struct {
	cpus     int
	memory   int64
	info     corev1.NodeSystemInfo
	apparmor bool
	mapped   bool // mounts of all that volumes are made of can have other IDs
	// oomFloor: without CAP_SYS_RESOURCE no score may be lower than our own.
	oomFloor bool
	oomScore int64
	// claimed is the size of the disk of a node that is not this machine.
	claimed int64
}

func readMachine() (machine, error) {
	m := machine{cpus: runtime.NumCPU()}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return m, fmt.Errorf("cannot read the memory's size: %w", err)
	}
	m.memory = int64(info.Totalram) * int64(info.Unit) //nolint:unconvert // types differ between architectures
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return m, err
	}
	m.info.KernelVersion = unix.ByteSliceToString(uts.Release[:])
	m.info.MachineID = firstLine("/etc/machine-id")
	m.info.SystemUUID = firstLine("/sys/class/dmi/id/product_uuid")
	m.info.BootID = firstLine("/proc/sys/kernel/random/boot_id")
	m.info.OSImage = osImage()
	_, err := os.Stat("/sys/kernel/security/apparmor")
	m.apparmor = err == nil && firstLine("/sys/module/apparmor/parameters/enabled") == "Y"
	m.mapped = kernel.AtLeast(6, 3) // the last of them was tmpfs
	m.oomFloor = !capResource()
	m.oomScore, _ = strconv.ParseInt(firstLine("/proc/self/oom_score_adj"), 10, 64)
	return m, nil
}

// capResource reports whether the kernel lets us lower OOM scores.
func capResource() bool {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err == nil && caps&(1<<unix.CAP_SYS_RESOURCE) != 0
		}
	}
	return false
}

func firstLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(line)
}

func osImage() string {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return "Linux"
}

// disk is the size of the file system below path.
func (m *machine) disk(path string) int64 {
	if m.claimed > 0 {
		return m.claimed
	}
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return 0
	}
	return int64(st.Blocks) * st.Bsize
}

// pressure is how much is free: of the disk below path and of the process
// numbers, as parts of 1.
func (m *machine) pressure(path string) (disk, pids float64) {
	disk, pids = 1, 1
	if m.claimed > 0 {
		return disk, pids
	}
	var st unix.Statfs_t
	if unix.Statfs(path, &st) == nil && st.Blocks > 0 {
		disk = float64(st.Bavail) / float64(st.Blocks)
	}
	var info unix.Sysinfo_t
	limit, err := strconv.ParseFloat(firstLine("/proc/sys/kernel/pid_max"), 64)
	if err == nil && limit > 0 && unix.Sysinfo(&info) == nil {
		pids = 1 - float64(info.Procs)/limit
	}
	return disk, pids
}

// available memory, without pushing anything out; 0 if unknown.
func (m *machine) available() int64 {
	if m.claimed > 0 {
		return m.memory
	}
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			fields := strings.Fields(v)
			if len(fields) == 0 {
				return 0
			}
			kib, err := strconv.ParseInt(fields[0], 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}

// sharedMount reports whether mounts below path are seen by others.
func sharedMount(path string) (bool, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	best, shared := -1, false
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 7 {
			continue
		}
		at := fields[4]
		if (at == "/" || path == at || strings.HasPrefix(path, at+"/")) && len(at) >= best {
			best, shared = len(at), strings.Contains(line, " shared:")
		}
	}
	if best < 0 {
		return false, errors.New("no mount found")
	}
	return shared, nil
}
