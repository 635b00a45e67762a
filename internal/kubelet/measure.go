package kubelet

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kubelet/cadvisor"
	"knarr.dev/knarr/internal/kubelet/cgroup"
	"knarr.dev/knarr/internal/kubelet/plan"
)

// measured is one cgroup with what it belongs to: the machine, a class of
// pods, a pod, its sandbox or a container.
type measured struct {
	path             string // below the hierarchies
	namespace, pod   string
	container, image string
	id               string // of a container or sandbox
	cadvisor.Measured
}

// measure reads the cgroups of everything that runs, and returns besides which
// containers' could not be found. It is done when somebody asks and at no other
// time.
func (k *Kubelet) measure() (out, missing []measured) {
	if k.cgroups == nil {
		return nil, nil // it has not begun yet
	}
	now := k.cfg.Now()
	read := func(m measured) {
		ok := false
		if m.path != "" {
			m.Usage, ok = k.cgroups.Read(m.path, now)
		}
		if m.path == "/" && ok && m.Usage.Memory == nil { // the root of version 2 has none
			m.Usage.Memory = machineMemoryOf(meminfo(k.proc))
		}
		switch {
		case ok:
			out = append(out, m)
		case m.container != "":
			missing = append(missing, m)
		}
	}
	read(measured{path: "/"})
	read(measured{path: k.cgroups.Root()})
	for _, at := range k.cgroups.Classes() {
		read(measured{path: at})
	}
	for _, w := range k.list() {
		w.mu.Lock()
		pod, boxes, containers := w.pod, w.sandboxes, w.containers
		w.mu.Unlock()
		k.measurePod(pod, boxes, containers, read)
	}
	return out, missing
}

// meminfo is /proc/meminfo in bytes.
func meminfo(proc string) map[string]uint64 {
	out := map[string]uint64{}
	data, err := os.ReadFile(filepath.Join(proc, "meminfo"))
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(data)) {
		name, rest, _ := strings.Cut(line, ":")
		if fields := strings.Fields(rest); len(fields) > 0 {
			if kib, err := strconv.ParseUint(fields[0], 10, 54); err == nil {
				out[name] = kib << 10
			}
		}
	}
	return out
}

// machineMemoryOf puts the machine's memory in the terms of a cgroup.
func machineMemoryOf(info map[string]uint64) *cgroup.Memory {
	swap := info["SwapTotal"] - min(info["SwapTotal"], info["SwapFree"])
	m := &cgroup.Memory{Usage: info["MemTotal"] - min(info["MemTotal"], info["MemFree"]), RSS: info["AnonPages"], Cache: info["Cached"], Mapped: info["Mapped"],
		Kernel: info["Slab"] + info["KernelStack"] + info["PageTables"], ActiveFile: info["Active(file)"], InactiveFile: info["Inactive(file)"], Swap: &swap}
	m.WorkingSet = m.Usage - min(m.Usage, m.InactiveFile)
	return m
}

// measurePod reads a pod's cgroup and those in it.
func (k *Kubelet) measurePod(pod *corev1.Pod, boxes []plan.Sandbox, containers []plan.Container, read func(measured)) {
	of := measured{namespace: pod.Namespace, pod: pod.Name}
	var inside []measured
	i := slices.IndexFunc(boxes, func(b plan.Sandbox) bool { return b.Ready })
	if i < 0 {
		return // nothing of it runs
	}
	box := of
	box.path, box.id, box.image, box.Started = k.cgroups.ContainerPath(pod, boxes[i].ID), boxes[i].ID, k.cfg.SandboxImage, boxes[i].Created
	inside = append(inside, box)
	for j := range containers {
		c := &containers[j]
		if c.State != plan.Running {
			continue
		}
		m := of
		m.path, m.id, m.image, m.container, m.Started = k.cgroups.ContainerPath(pod, c.ID), c.ID, c.Image, c.Name, c.Started
		inside = append(inside, m)
	}
	whole := of
	whole.path, whole.Started = k.cgroups.PodParent(pod), boxes[i].Created
	if !pod.Spec.HostNetwork { // the node's network is not the pod's traffic
		devices := k.podNetwork(inside)
		if box.path != "" {
			inside[0].Network = devices
		} else {
			whole.Network = devices
		}
	}
	read(whole)
	for _, m := range inside {
		read(m)
	}
}

// podNetwork is what went through the pod's interfaces, seen from its first
// process: all of its containers are in one network.
func (k *Kubelet) podNetwork(inside []measured) []cadvisor.Interface {
	for _, m := range inside {
		if m.path == "" {
			continue
		}
		for _, pid := range k.cgroups.Procs(m.path) {
			if data, err := os.ReadFile(filepath.Join(k.proc, strconv.Itoa(pid), "net/dev")); err == nil {
				return cadvisor.Interfaces(string(data))
			}
		}
	}
	return nil
}
