package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Resources translates limits. What is zero is not said.
func Resources(r *runtimeapi.LinuxContainerResources, m Machine) (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{}
	if r == nil {
		return out, nil
	}
	cpu := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CpuShares != 0 {
		cpu.Shares = new(uint64(max(r.CpuShares, 2)))
	}
	if r.CpuQuota != 0 {
		cpu.Quota = new(r.CpuQuota)
	}
	if r.CpuPeriod != 0 {
		cpu.Period = new(uint64(r.CpuPeriod))
	}
	if *cpu != (specs.LinuxCPU{}) {
		out.CPU = cpu
	}
	if r.MemoryLimitInBytes != 0 {
		out.Memory = &specs.LinuxMemory{Limit: new(r.MemoryLimitInBytes)}
		if m.Swap {
			// Without a word on swap, none: as much in both is the limit.
			swap := r.MemoryLimitInBytes
			if r.MemorySwapLimitInBytes != 0 {
				swap = r.MemorySwapLimitInBytes
			}
			out.Memory.Swap = &swap
		}
	}
	for _, h := range r.HugepageLimits {
		if !m.HugeTLB {
			continue // containers cannot have any then
		}
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.PageSize, Limit: h.Limit})
	}
	if len(r.Unified) > 0 {
		if !m.CgroupV2 {
			return nil, fmt.Errorf("unified resources need cgroup v2, and this machine has v1")
		}
		out.Unified = maps.Clone(r.Unified)
	}
	return out, nil
}

// defaults are what a container's root may do if nothing is said: what the
// field's runtimes agree on.
var defaults = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// Capabilities that a container has: the defaults, with what it adds and drops.
func Capabilities(security *runtimeapi.LinuxContainerSecurityContext, known []string) (*specs.LinuxCapabilities, error) {
	if security.GetPrivileged() {
		return &specs.LinuxCapabilities{Bounding: known, Effective: known, Permitted: known}, nil
	}
	c := security.GetCapabilities()
	have := slices.Clone(defaults)
	add, err := capNames(c.GetAddCapabilities(), known)
	if err != nil {
		return nil, err
	}
	drop, err := capNames(c.GetDropCapabilities(), known)
	if err != nil {
		return nil, err
	}
	ambient, err := capNames(c.GetAddAmbientCapabilities(), known)
	if err != nil {
		return nil, err
	}
	// All comes before single ones: "drop all, add this" is what is meant.
	if slices.Contains(add, "ALL") {
		have = slices.Clone(known)
	}
	if slices.Contains(drop, "ALL") {
		have = nil
	}
	for _, l := range [][]string{add, ambient} {
		for _, n := range l {
			if n != "ALL" && !slices.Contains(have, n) {
				have = append(have, n)
			}
		}
	}
	have = slices.DeleteFunc(have, func(n string) bool { return slices.Contains(drop, n) })
	out := &specs.LinuxCapabilities{Bounding: have, Effective: have, Permitted: have}
	if len(ambient) > 0 {
		out.Inheritable, out.Ambient = ambient, ambient
	}
	return out, nil
}

func capNames(l, known []string) ([]string, error) {
	var out []string
	for _, n := range l {
		n = strings.ToUpper(n)
		if n != "ALL" {
			n = "CAP_" + strings.TrimPrefix(n, "CAP_")
			if !slices.Contains(known, n) {
				return nil, fmt.Errorf("unknown capability %q", n)
			}
		}
		out = append(out, n)
	}
	return out, nil
}

// devices that a container has, and the rules of what it may open.
func devices(in Input, security *runtimeapi.LinuxContainerSecurityContext) ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup, error) {
	if security.GetPrivileged() {
		return in.Machine.Devices, []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}, nil
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	var l []specs.LinuxDevice
	for _, d := range in.Config.Devices {
		found := in.Devices[d.HostPath]
		if len(found) == 0 {
			return nil, nil, fmt.Errorf("device %q: there is none on the host", d.HostPath)
		}
		if d.Permissions == "" || strings.Trim(d.Permissions, "rwm") != "" {
			return nil, nil, fmt.Errorf("device %q: permissions %q are not of r, w and m", d.HostPath, d.Permissions)
		}
		for _, o := range found {
			o.Path = inRoot(d.ContainerPath + strings.TrimPrefix(o.Path, d.HostPath))
			l = append(l, o)
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: o.Type, Major: new(o.Major), Minor: new(o.Minor), Access: d.Permissions})
		}
	}
	return l, rules, nil
}
