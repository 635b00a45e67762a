package cdi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	oci "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"tags.cncf.io/container-device-interface/specs-go"
)

// Inject edits what is about to be run by the devices of these IDs.
func Inject(s *oci.Spec, ids []string, dirs ...string) error {
	if len(ids) == 0 {
		return nil
	}
	if err := resolve(ids, dirs, func(e *specs.ContainerEdits) error { return inject(s, e) }); err != nil {
		return err
	}
	// A mount below another one comes after it.
	slices.SortStableFunc(s.Mounts, func(a, b oci.Mount) int {
		return strings.Count(filepath.Clean(a.Destination), "/") - strings.Count(filepath.Clean(b.Destination), "/")
	})
	return nil
}

func inject(s *oci.Spec, e *specs.ContainerEdits) error {
	for _, kv := range e.Env {
		name, _, _ := strings.Cut(kv, "=")
		s.Process.Env = slices.DeleteFunc(s.Process.Env, func(o string) bool { return strings.HasPrefix(o, name+"=") })
		s.Process.Env = append(s.Process.Env, kv)
	}
	for _, n := range e.DeviceNodes {
		if err := addNode(s, n); err != nil {
			return err
		}
	}
	for _, m := range e.Mounts {
		addMount(s, m)
	}
	for _, h := range e.Hooks {
		addHook(s, h)
	}
	for _, g := range e.AdditionalGIDs {
		// Root's group is none that a device gives.
		if u := &s.Process.User; g != 0 && !slices.Contains(u.AdditionalGids, g) {
			u.AdditionalGids = append(u.AdditionalGids, g)
		}
	}
	if err := addNetDevices(s, e.NetDevices); err != nil {
		return err
	}
	if r := e.IntelRdt; r != nil {
		if _, err := os.Stat(resctrl); err != nil {
			return errors.New("it needs intelRdt, and this machine has no resource control: " + resctrl + " is not there")
		}
		s.Linux.IntelRdt = &oci.LinuxIntelRdt{ClosID: r.ClosID, L3CacheSchema: r.L3CacheSchema, MemBwSchema: r.MemBwSchema, Schemata: r.Schemata, EnableMonitoring: r.EnableMonitoring}
	}
	return nil
}

// resctrl is there where a kernel controls caches and memory bandwidth, and
// somebody has mounted it.
const resctrl = "/sys/fs/resctrl/schemata"

// addNode adds a device node. What is not said of it is as on the host, and its
// owner the container's user.
func addNode(s *oci.Spec, n *specs.DeviceNode) error {
	d := oci.LinuxDevice{Path: n.Path, Type: n.Type, Major: n.Major, Minor: n.Minor, FileMode: n.FileMode, UID: n.UID, GID: n.GID}
	from := n.HostPath
	if from == "" {
		from = n.Path
	}
	// A driver may say everything, and then there need not be one here.
	whole := n.Type == "p" || n.Type != "" && n.Major != 0
	var st unix.Stat_t
	switch err := unix.Lstat(from, &st); {
	case err != nil && !whole:
		return fmt.Errorf("device node %s: %w", n.Path, &fs.PathError{Op: "stat", Path: from, Err: err})
	case err == nil:
		if d.FileMode == nil {
			mode := fs.FileMode(st.Mode & 0o7777)
			d.FileMode = &mode
		}
		if whole {
			break
		}
		here := map[uint32]string{unix.S_IFBLK: "b", unix.S_IFCHR: "c", unix.S_IFIFO: "p"}[st.Mode&unix.S_IFMT]
		if here == "" || n.Type != "" && n.Type != here && (n.Type != "u" || here != "c") {
			return fmt.Errorf("device node %s: %s is not of type %q", n.Path, from, n.Type)
		}
		if d.Type == "" {
			d.Type = here
		}
		d.Major, d.Minor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	if u := s.Process.User.UID; d.UID == nil && u != 0 {
		d.UID = &u
	}
	if g := s.Process.User.GID; d.GID == nil && g != 0 {
		d.GID = &g
	}
	s.Linux.Devices = slices.DeleteFunc(s.Linux.Devices, func(o oci.LinuxDevice) bool { return o.Path == d.Path })
	s.Linux.Devices = append(s.Linux.Devices, d)
	if d.Type == "p" {
		return nil
	}
	rule := oci.LinuxDeviceCgroup{Allow: true, Type: strings.Replace(d.Type, "u", "c", 1), Major: &d.Major, Minor: &d.Minor, Access: n.Permissions}
	if rule.Access == "" {
		rule.Access = "rwm"
	}
	if s.Linux.Resources == nil {
		s.Linux.Resources = &oci.LinuxResources{}
	}
	s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, rule)
	return nil
}

func addMount(s *oci.Spec, m *specs.Mount) {
	out := oci.Mount{Source: m.HostPath, Destination: m.ContainerPath, Type: m.Type, Options: slices.Clone(m.Options)}
	if out.Type == "" || out.Type == "none" {
		out.Type = "bind"
	}
	if out.Type == "bind" && !slices.Contains(out.Options, "bind") && !slices.Contains(out.Options, "rbind") {
		out.Options = append(out.Options, "rbind")
	}
	s.Mounts = slices.DeleteFunc(s.Mounts, func(o oci.Mount) bool {
		return filepath.Clean(o.Destination) == filepath.Clean(out.Destination)
	})
	s.Mounts = append(s.Mounts, out)
}

func addHook(s *oci.Spec, h *specs.Hook) {
	if s.Hooks == nil {
		s.Hooks = &oci.Hooks{}
	}
	to := map[string]*[]oci.Hook{"prestart": &s.Hooks.Prestart, "createRuntime": &s.Hooks.CreateRuntime, "createContainer": &s.Hooks.CreateContainer,
		"startContainer": &s.Hooks.StartContainer, "poststart": &s.Hooks.Poststart, "poststop": &s.Hooks.Poststop}[h.HookName]
	*to = append(*to, oci.Hook{Path: h.Path, Args: h.Args, Env: h.Env, Timeout: h.Timeout})
}

// addNetDevices moves interfaces of the host into the pod's network, which it
// must have of its own: the host's would only get them renamed.
func addNetDevices(s *oci.Spec, l []*specs.LinuxNetDevice) error {
	if len(l) == 0 {
		return nil
	}
	if !slices.ContainsFunc(s.Linux.Namespaces, func(n oci.LinuxNamespace) bool { return n.Type == oci.NetworkNamespace }) {
		return errors.New("it needs network devices, and the container has the host's network")
	}
	if s.Linux.NetDevices == nil {
		s.Linux.NetDevices = map[string]oci.LinuxNetDevice{}
	}
	for _, d := range l {
		for host, o := range s.Linux.NetDevices {
			if host == d.HostInterfaceName || o.Name == d.Name {
				return fmt.Errorf("network device %s as %s: %s is %s already", d.HostInterfaceName, d.Name, host, o.Name)
			}
		}
		s.Linux.NetDevices[d.HostInterfaceName] = oci.LinuxNetDevice{Name: d.Name}
	}
	return nil
}
