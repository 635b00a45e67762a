package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/kubelet/spec"
)

// SetPod writes one part of what a pod may use. A limit of 0 is left as it is:
// limits are never taken away.
func (t *Tree) SetPod(pod *corev1.Pod, part plan.Part, a plan.Amounts) error {
	at := t.PodParent(pod)
	switch part {
	case plan.CPUShares:
		return t.write("cpu", at, "cpu.shares", spec.Shares(a.CPURequest))
	case plan.CPULimit:
		if a.CPULimit > 0 {
			return errors.Join(t.write("cpu", at, "cpu.cfs_period_us", spec.Period()), t.write("cpu", at, "cpu.cfs_quota_us", spec.Quota(a.CPULimit)))
		}
	case plan.MemoryLimit:
		if a.MemoryLimit > 0 {
			return t.write("memory", at, "memory.limit_in_bytes", a.MemoryLimit)
		}
	}
	return nil
}

// unlimited: version 1 shows the largest number of pages for no limit.
const unlimited = 1 << 62

// Container tells what holds for a container, if its cgroup bears its ID, as
// containerd's do. 0: it cannot be told.
func (t *Tree) Container(pod *corev1.Pod, id string) plan.Amounts {
	at := filepath.Join(t.PodParent(pod), id)
	var a plan.Amounts
	if t.Unified { // cpu.weight is too coarse to tell a request
		fields := strings.Fields(t.read("cpu", at, "cpu.max"))
		if len(fields) == 2 {
			a.CPULimit = milli(number(fields[0]), number(fields[1]))
		}
		a.MemoryLimit = number(t.read("memory", at, "memory.max"))
		return a
	}
	a.CPURequest = (number(t.read("cpu", at, "cpu.shares"))*1000 + 1023) / 1024
	a.CPULimit = milli(number(t.read("cpu", at, "cpu.cfs_quota_us")), number(t.read("cpu", at, "cpu.cfs_period_us")))
	a.MemoryLimit = number(t.read("memory", at, "memory.limit_in_bytes"))
	return a
}

func milli(quota, period int64) int64 {
	if quota <= 0 || period <= 0 {
		return 0
	}
	return quota * 1000 / period
}

// Usage of memory in bytes, of one container or, with no ID, of the whole pod.
func (t *Tree) Usage(pod *corev1.Pod, id string) (int64, bool) {
	file := "memory.usage_in_bytes"
	if t.Unified {
		file = "memory.current"
	}
	text := t.read("memory", filepath.Join(t.PodParent(pod), id), file)
	return number(text), text != ""
}

// number that a file shows; 0 for none, "max" and the like.
func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n >= unlimited {
		return 0
	}
	return n
}

// read one file of a controller; "" if there is none.
func (t *Tree) read(controller, at, file string) string {
	if t.none {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(t.mount(controller), at, file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// mount of the hierarchy that has the controller.
func (t *Tree) mount(controller string) string {
	for _, m := range t.mounts {
		if t.Unified || contains(filepath.Base(m), controller) {
			return m
		}
	}
	return filepath.Join(mountRoot, controller)
}
