// Package cdi gives containers the devices that drivers describe in files (the
// Container Device Interface, CNCF), for runtimes that do not know such files
// themselves: containerd before 1.7. What such a runtime cannot do is refused.
package cdi

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"
)

// Dirs are where the specification has the files; what is in a later one
// replaces what is in an earlier one.
var Dirs = []string{"/etc/cdi", "/var/run/cdi"}

// Bounds of what drivers write.
const (
	maxFile  = 8 << 20
	maxFiles = 4096
)

type spec struct {
	Kind    string   `json:"kind"`
	Devices []device `json:"devices"`
	Edits   edits    `json:"containerEdits"`
}

type device struct {
	Name  string `json:"name"`
	Edits edits  `json:"containerEdits"`
}

type edits struct {
	Env        []string `json:"env"`
	Nodes      []node   `json:"deviceNodes"`
	Mounts     []mount  `json:"mounts"`
	Groups     []int64  `json:"additionalGids"`
	Hooks      []any    `json:"hooks"`
	NetDevices []any    `json:"netDevices"`
	RDT        any      `json:"intelRdt"`
}

type node struct {
	Path        string  `json:"path"`
	HostPath    string  `json:"hostPath"`
	Permissions string  `json:"permissions"`
	Mode        *uint32 `json:"fileMode"`
	UID         *uint32 `json:"uid"`
	GID         *uint32 `json:"gid"`
}

type mount struct {
	HostPath      string   `json:"hostPath"`
	ContainerPath string   `json:"containerPath"`
	Options       []string `json:"options"`
	Type          string   `json:"type"`
}

// found is a device with the file that it stands in.
type found struct {
	spec   *spec
	device *device
}

// Apply edits a container by the devices of these IDs, as in
// "vendor.com/class=name".
func Apply(c *runtimeapi.ContainerConfig, ids []string, dirs ...string) error {
	known, broken, err := read(dirs)
	if err != nil {
		return err
	}
	whole := map[*spec]bool{}
	for _, id := range ids {
		d, ok := known[id]
		if !ok {
			return errors.Join(fmt.Errorf("unresolvable CDI device %s", id), broken)
		}
		if !whole[d.spec] {
			whole[d.spec] = true
			if err := d.spec.Edits.apply(c); err != nil {
				return fmt.Errorf("CDI device %s: %w", id, err)
			}
		}
		if err := d.device.Edits.apply(c); err != nil {
			return fmt.Errorf("CDI device %s: %w", id, err)
		}
	}
	return nil
}

// read all devices. Files that cannot be read matter to those only whose device
// is missing.
func read(dirs []string) (known map[string]found, broken error, err error) {
	known = map[string]found{}
	for _, dir := range dirs {
		here := map[string]found{}
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if len(entries) > maxFiles {
			return nil, nil, fmt.Errorf("%s has more than %d files", dir, maxFiles)
		}
		for _, e := range entries {
			ext := filepath.Ext(e.Name())
			if e.IsDir() || ext != ".json" && ext != ".yaml" && ext != ".yml" {
				continue
			}
			s, err := readFile(filepath.Join(dir, e.Name()))
			if err != nil {
				broken = errors.Join(broken, err)
				continue
			}
			for i := range s.Devices {
				id := s.Kind + "=" + s.Devices[i].Name
				if _, twice := here[id]; twice {
					return nil, nil, fmt.Errorf("conflicting CDI device %s: %s has it twice", id, dir)
				}
				here[id] = found{s, &s.Devices[i]}
			}
		}
		for id, d := range here {
			known[id] = d
		}
	}
	return known, broken, nil
}

func readFile(path string) (*spec, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	var s spec
	if err := yaml.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &s, nil
}

func (e *edits) apply(c *runtimeapi.ContainerConfig) error {
	switch {
	case len(e.Hooks) > 0:
		return lacks("hooks")
	case len(e.NetDevices) > 0:
		return lacks("network devices")
	case e.RDT != nil:
		return lacks("intelRdt")
	}
	for _, kv := range e.Env {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || name == "" {
			return fmt.Errorf("invalid environment variable %q", kv)
		}
		c.Envs = slices.DeleteFunc(c.Envs, func(o *runtimeapi.KeyValue) bool { return o.Key == name })
		c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: name, Value: []byte(value)})
	}
	for _, n := range e.Nodes {
		if n.Mode != nil || n.UID != nil || n.GID != nil {
			return lacks("owners and modes of device nodes")
		}
		d := &runtimeapi.Device{ContainerPath: n.Path, HostPath: n.HostPath, Permissions: n.Permissions}
		if d.HostPath == "" {
			d.HostPath = n.Path
		}
		if d.Permissions == "" {
			d.Permissions = "rwm"
		}
		c.Devices = append(c.Devices, d)
	}
	for _, m := range e.Mounts {
		out, err := m.cri()
		if err != nil {
			return err
		}
		c.Mounts = append(c.Mounts, out)
	}
	if len(e.Groups) > 0 {
		c.Linux.SecurityContext.SupplementalGroups = append(c.Linux.SecurityContext.SupplementalGroups, e.Groups...)
	}
	return nil
}

func (m *mount) cri() (*runtimeapi.Mount, error) {
	if m.Type != "" && m.Type != "bind" && m.Type != "none" {
		return nil, lacks("mounts of type " + m.Type)
	}
	out := &runtimeapi.Mount{HostPath: m.HostPath, ContainerPath: m.ContainerPath}
	for _, o := range m.Options {
		switch o {
		case "ro":
			out.Readonly = true
		case "rw", "bind", "rbind", "private", "rprivate":
		case "slave", "rslave":
			out.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		case "shared", "rshared":
			out.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		default:
			return nil, lacks("the mount option " + o)
		}
	}
	return out, nil
}

func lacks(what string) error {
	return fmt.Errorf("it needs %s, which takes a container runtime with CDI (containerd 1.7 or newer)", what)
}
