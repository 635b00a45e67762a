package spec

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func mounts(in Input, security *runtimeapi.LinuxContainerSecurityContext) ([]specs.Mount, error) {
	mode := "ro"
	if security.GetPrivileged() {
		mode = "rw"
	}
	l := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		sysfs(in.Sandbox, mode),
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", mode}},
	}
	shm := filepath.Join(in.Sandbox.Dir, "shm")
	if in.Sandbox.IPC == "" {
		shm = "/dev/shm"
	}
	given := func(path string) bool {
		return slices.ContainsFunc(in.Config.Mounts, func(m *runtimeapi.Mount) bool { return inRoot(m.ContainerPath) == path })
	}
	if !given("/dev/shm") {
		l = append(l, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rprivate", "rw", "nosuid", "noexec", "nodev"}})
	}
	files := "rw"
	if security.GetReadonlyRootfs() {
		files = "ro"
	}
	for _, name := range []string{"hostname", "hosts", "resolv.conf"} {
		if p := "/etc/" + name; !given(p) {
			l = append(l, specs.Mount{Destination: p, Type: "bind", Source: filepath.Join(in.Sandbox.Dir, name), Options: []string{"rbind", "rprivate", files}})
		}
	}
	for _, p := range slices.Sorted(maps.Keys(in.Volumes)) {
		if !given(p) {
			l = append(l, specs.Mount{Destination: p, Type: "bind", Source: in.Volumes[p], Options: []string{"rbind", "rprivate", "rw"}})
		}
	}
	for _, m := range in.Config.Mounts {
		s, err := mount(m, in.Images)
		if err != nil {
			return nil, err
		}
		// What the container brings takes the place of what we would mount.
		l = slices.DeleteFunc(l, func(o specs.Mount) bool { return o.Destination == s.Destination })
		l = append(l, s)
	}
	// A mount below another one comes after it, ours too: who mounts /etc keeps
	// /etc/hosts.
	slices.SortStableFunc(l, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	return l, nil
}

// sysfs shows the devices of a network namespace: it cannot be mounted by who
// does not own that.
func sysfs(s Sandbox, mode string) specs.Mount {
	if s.User != "" && s.Network == "" {
		return specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev", mode}}
	}
	return specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", mode}}
}

func mount(m *runtimeapi.Mount, images map[string]string) (specs.Mount, error) {
	to := inRoot(m.ContainerPath)
	if m.ContainerPath == "" || to == "/" {
		return specs.Mount{}, fmt.Errorf("mount of %q: container path %q cannot be mounted on", m.HostPath, m.ContainerPath)
	}
	s := specs.Mount{Destination: to, Type: "bind", Source: m.HostPath, Options: []string{"rbind"}}
	if m.GetImage().GetImage() != "" {
		s.Source = images[m.ContainerPath]
		// The image's mount is read-only, and nothing in it is run with more
		// rights than its user has.
		s.Options = append(s.Options, "rprivate", "ro", "nosuid", "nodev")
		s.Options = append(s.Options, m.MountOptions...)
		return s, nil
	}
	if !filepath.IsAbs(s.Source) {
		return specs.Mount{}, fmt.Errorf("mount of %q at %s: the host's path is not absolute", m.HostPath, to)
	}
	switch m.Propagation {
	case runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		s.Options = append(s.Options, "rprivate")
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		s.Options = append(s.Options, "rslave")
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		s.Options = append(s.Options, "rshared")
	default:
		return specs.Mount{}, fmt.Errorf("mount of %q at %s: unknown propagation %d", m.HostPath, to, m.Propagation)
	}
	switch {
	case m.RecursiveReadOnly && !m.Readonly:
		return specs.Mount{}, fmt.Errorf("mount of %q at %s: recursive read-only without read-only", m.HostPath, to)
	case m.RecursiveReadOnly && m.Propagation != runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		return specs.Mount{}, fmt.Errorf("mount of %q at %s: recursive read-only with propagation", m.HostPath, to)
	case m.RecursiveReadOnly:
		s.Options = append(s.Options, "rro")
	case m.Readonly:
		s.Options = append(s.Options, "ro")
	default:
		s.Options = append(s.Options, "rw")
	}
	s.Options = append(s.Options, m.MountOptions...)
	if len(m.UidMappings) > 0 || len(m.GidMappings) > 0 {
		s.UIDMappings, s.GIDMappings = mappings(m.UidMappings), mappings(m.GidMappings)
		s.Options = append(s.Options, "ridmap")
	}
	return s, nil
}

// rootPropagation is the strongest that a mount asks for: a mount cannot
// receive or send through a private root.
func rootPropagation(l []*runtimeapi.Mount) string {
	out := ""
	for _, m := range l {
		switch m.Propagation {
		case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
			return "rshared"
		case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
			out = "rslave"
		}
	}
	return out
}
