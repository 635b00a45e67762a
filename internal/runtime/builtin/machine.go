package builtin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/profiles/apparmor"
	"github.com/moby/profiles/seccomp"
	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/runtime/builtin/spec"
)

// appArmorProfile is the name of the profile that containers have by default.
const appArmorProfile = "knarr-default"

// machine looks at what there is, and loads the AppArmor profile.
func machine(log *slog.Logger) (spec.Machine, error) {
	var m spec.Machine
	var s unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &s); err != nil {
		return m, fmt.Errorf("no cgroups: %w", err)
	}
	m.CgroupV2 = s.Type == unix.CGROUP2_SUPER_MAGIC
	if m.CgroupV2 {
		b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return m, err
		}
		m.HugeTLB = strings.Contains(string(b), "hugetlb")
		m.Swap = exists("/proc/swaps")
	} else {
		m.HugeTLB = exists("/sys/fs/cgroup/hugetlb")
		m.Swap = exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	}
	known, err := capability.ListSupported()
	if err != nil {
		return m, err
	}
	own, err := capability.NewPid2(0)
	if err == nil {
		err = own.Load()
	}
	if err != nil {
		return m, err
	}
	for _, c := range known {
		// What knarr itself lacks it cannot give.
		if own.Get(capability.BOUNDING, c) {
			m.Capabilities = append(m.Capabilities, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	if !own.Get(capability.BOUNDING, capability.CAP_SYS_RESOURCE) {
		if m.MinScore, err = strconv.Atoi(readTrimmed("/proc/self/oom_score_adj")); err != nil {
			return m, err
		}
	} else {
		m.MinScore = -1000
	}
	m.AppArmor = readTrimmed("/sys/module/apparmor/parameters/enabled") == "Y"
	if m.AppArmor {
		if err := loadAppArmor(); err != nil {
			log.Warn("containers have no AppArmor profile by default", "error", err)
		} else {
			m.AppArmorProfile = appArmorProfile
		}
	}
	m.SELinux = exists("/sys/fs/selinux/enforce")
	return m, nil
}

// loadAppArmor gives the profile to the kernel, which keeps it until it ends; that
// takes apparmor_parser.
func loadAppArmor() error {
	loaded, err := apparmor.IsLoaded(appArmorProfile)
	if err != nil || loaded {
		return err
	}
	return apparmor.InstallDefault(appArmorProfile)
}

// hasProfile refuses an AppArmor profile that the kernel does not have; its own it
// gives back to a kernel that somebody has told to drop it. Where the kernel cannot be
// asked, the start of the container shows it.
func hasProfile(name string) error {
	if name == "" || strings.Contains(name, " ") { // lists of profiles end a name there
		return nil
	}
	if loaded, err := apparmor.IsLoaded(name); err != nil || loaded {
		return nil
	}
	if name != appArmorProfile {
		return fmt.Errorf("the AppArmor profile %q is not loaded on this machine", name)
	}
	return apparmor.InstallDefault(name)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func readTrimmed(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

// notForAll are those below /dev that belong to a container's own mounts.
var notForAll = map[string]bool{"pts": true, "shm": true, "fd": true, "mqueue": true, ".lxc": true, ".lxd-mounts": true, ".udev": true}

// devicesAt lists the device nodes at a path, and below it if it is a
// directory.
func devicesAt(path string) ([]specs.LinuxDevice, error) {
	name := path
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	var out []specs.LinuxDevice
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path == "/dev" && notForAll[d.Name()] {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type()&fs.ModeDevice == 0 || p == "/dev/console" {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return nil // gone meanwhile
		}
		kind := "b"
		if st.Mode&unix.S_IFMT == unix.S_IFCHR {
			kind = "c"
		}
		mode := fs.FileMode(st.Mode & 0o777)
		out = append(out, specs.LinuxDevice{Path: name + strings.TrimPrefix(p, path), Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)), FileMode: &mode, UID: &st.Uid, GID: &st.Gid})
		return nil
	})
	return out, err
}

// profile is one that is given in either of two ways: a field, or the name
// that older kubelets send.
func profile(p *runtimeapi.SecurityProfile, name string) *runtimeapi.SecurityProfile {
	if p != nil || name == "" {
		return p
	}
	switch name {
	case "runtime/default", "docker/default":
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	case "unconfined":
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: name}
}

// maxProfile bounds a seccomp profile of a node's.
const maxProfile = 4 << 20

// seccomp is the profile that a container asks for. Without a word there is
// none, as with the field's other runtimes: the kubelet says which.
func (r *Runtime) seccomp(sc *runtimeapi.LinuxContainerSecurityContext) (*specs.LinuxSeccomp, error) {
	if sc.GetPrivileged() {
		return nil, nil
	}
	p := profile(sc.GetSeccomp(), sc.GetSeccompProfilePath())
	if p == nil {
		return nil, nil
	}
	switch p.ProfileType {
	case runtimeapi.SecurityProfile_Unconfined:
		return nil, nil
	case runtimeapi.SecurityProfile_Localhost:
		path := strings.TrimPrefix(p.LocalhostRef, "localhost/")
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("seccomp profile %q is not an absolute path", p.LocalhostRef)
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("cannot load seccomp profile: %w", err)
		}
		if !info.Mode().IsRegular() || info.Size() > maxProfile {
			return nil, fmt.Errorf("seccomp profile %s is no file of at most %d bytes", path, maxProfile)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("cannot load seccomp profile: %w", err)
		}
		out := new(specs.LinuxSeccomp)
		if err := json.Unmarshal(b, out); err != nil {
			return nil, fmt.Errorf("cannot decode seccomp profile %s: %w", path, err)
		}
		return out, nil
	case runtimeapi.SecurityProfile_RuntimeDefault:
	default:
		return nil, fmt.Errorf("unknown seccomp profile type %v", p.ProfileType)
	}
	// What is allowed depends on the capabilities.
	caps, err := spec.Capabilities(sc, r.machine.Capabilities)
	if err != nil {
		return nil, err
	}
	return r.profiles.of(caps)
}

// profiles are default profiles by capabilities. They are shared: nobody
// changes one.
type profiles struct {
	mu sync.Mutex
	by map[string]*specs.LinuxSeccomp
}

// maxProfiles bounds them: who makes pods chooses the capabilities.
const maxProfiles = 64

func (p *profiles) of(caps *specs.LinuxCapabilities) (*specs.LinuxSeccomp, error) {
	key := strings.Join(slices.Sorted(slices.Values(caps.Bounding)), " ")
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.by[key]; known != nil {
		return known, nil
	}
	made, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: caps}})
	if err != nil {
		return nil, err
	}
	if p.by == nil || len(p.by) >= maxProfiles {
		p.by = map[string]*specs.LinuxSeccomp{}
	}
	p.by[key] = made
	return made, nil
}
