package containerd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is what the configuration depends on.
type machine struct {
	cgroupV2    bool
	hugetlb     bool // the hugetlb controller can be used
	apparmor    bool
	capResource bool // CAP_SYS_RESOURCE: OOM scores may be lowered
	oomScore    int  // of containerd itself
	snapshotter string
}

// capSysResource is the bit of CAP_SYS_RESOURCE (linux/capability.h).
const capSysResource = 24

// detect reads the machine below fsRoot ("/" but in tests); root is where
// snapshots will lie.
func detect(fsRoot, root string) (machine, error) {
	m := machine{snapshotter: "overlayfs"}
	controllers, v2, err := cgroups(fsRoot)
	if err != nil {
		return m, err
	}
	m.cgroupV2 = v2
	m.hugetlb = slices.Contains(controllers, "hugetlb")
	enabled, _ := os.ReadFile(filepath.Join(fsRoot, "sys/module/apparmor/parameters/enabled"))
	if strings.HasPrefix(string(enabled), "Y") {
		_, err := exec.LookPath("apparmor_parser") // containerd loads its profile with it
		m.apparmor = err == nil
	}
	if m.capResource = hasCapability(filepath.Join(fsRoot, "proc/self/status"), capSysResource); m.capResource {
		m.oomScore = -999 // as upstream's units: the last but the init to go
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(existing(root), &fs); err == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		m.snapshotter = "native" // an overlay cannot be the upper layer of another
	}
	return m, nil
}

// cgroups lists the usable controllers. A hybrid machine (v1 with an empty v2
// mount beside it) counts as v1, as runc does.
func cgroups(fsRoot string) (controllers []string, v2 bool, err error) {
	dir := filepath.Join(fsRoot, "sys/fs/cgroup")
	if data, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers")); err == nil {
		controllers, v2 = strings.Fields(string(data)), true
	} else if entries, err := os.ReadDir(dir); err == nil {
		for _, e := range entries {
			if _, err := os.Stat(filepath.Join(dir, e.Name(), "cgroup.procs")); err == nil {
				controllers = append(controllers, strings.Split(e.Name(), ",")...)
			}
		}
	}
	need := []string{"cpu", "memory", "pids"}
	if !v2 {
		need = append(need, "devices", "freezer")
	}
	for _, c := range need {
		if !slices.Contains(controllers, c) {
			return nil, false, fmt.Errorf("containerd: the cgroup controller %q is not available in %s: mount cgroups (v2: mount -t cgroup2 none /sys/fs/cgroup), or enable it on the kernel's command line", c, dir)
		}
	}
	return controllers, v2, nil
}

func hasCapability(statusFile string, bit uint) bool {
	data, err := os.ReadFile(statusFile)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			return err == nil && set&(1<<bit) != 0
		}
	}
	return false
}

// existing is the nearest directory above path that exists.
func existing(path string) string {
	for path != "/" {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		path = filepath.Dir(path)
	}
	return path
}

// programs that the runtime consists of.
type programs struct {
	containerd, shim, runc string
}

// searchDirs is looked through after PATH: sudo and cron give root short ones.
var searchDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

func findPrograms() (programs, error) {
	var p programs
	var missing []string
	for _, want := range []struct {
		name string
		to   *string
	}{{"containerd", &p.containerd}, {"containerd-shim-runc-v2", &p.shim}, {"runc", &p.runc}} {
		path, err := Find(want.name)
		if err != nil {
			missing = append(missing, want.name)
		}
		*want.to = path
	}
	if missing != nil {
		return p, fmt.Errorf("containerd: %w: %s; install them: apt-get install containerd runc", ErrMissing, strings.Join(missing, ", "))
	}
	return p, nil
}

// Find looks for a program in PATH and in the usual directories.
func Find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range searchDirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", errors.Join(ErrMissing, fmt.Errorf("%s is neither in PATH nor in the usual directories", name))
}
