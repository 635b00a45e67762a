package cdi

import (
	"fmt"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"tags.cncf.io/container-device-interface/specs-go"
)

// Apply edits what is asked of a runtime by the devices of these IDs.
func Apply(c *runtimeapi.ContainerConfig, ids []string, dirs ...string) error {
	return resolve(ids, dirs, func(e *specs.ContainerEdits) error { return apply(c, e) })
}

func apply(c *runtimeapi.ContainerConfig, e *specs.ContainerEdits) error {
	switch {
	case len(e.Hooks) > 0:
		return lacks("hooks")
	case len(e.NetDevices) > 0:
		return lacks("network devices")
	case e.IntelRdt != nil:
		return lacks("intelRdt")
	}
	for _, kv := range e.Env {
		name, value, _ := strings.Cut(kv, "=")
		c.Envs = slices.DeleteFunc(c.Envs, func(o *runtimeapi.KeyValue) bool { return o.Key == name })
		c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: name, Value: []byte(value)})
	}
	for _, n := range e.DeviceNodes {
		if n.FileMode != nil || n.UID != nil || n.GID != nil {
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
		out, err := criMount(m)
		if err != nil {
			return err
		}
		c.Mounts = append(c.Mounts, out)
	}
	for _, g := range e.AdditionalGIDs {
		c.Linux.SecurityContext.SupplementalGroups = append(c.Linux.SecurityContext.SupplementalGroups, int64(g))
	}
	return nil
}

func criMount(m *specs.Mount) (*runtimeapi.Mount, error) {
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
	return fmt.Errorf("it needs %s, which takes a container runtime with CDI (containerd 1.7 or newer, or the built-in one)", what)
}
