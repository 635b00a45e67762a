// Package cgroup makes the cgroups of pods and of their classes of service
// below one cgroup of the node's own, in every hierarchy of version 1 that is
// mounted or in the unified one of version 2, and removes them again.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds/qos"
	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/kubelet/spec"
)

const mountRoot = "/sys/fs/cgroup"

// Tree of one node.
type Tree struct {
	root    string   // below the hierarchies, with a slash in front
	mounts  []string // hierarchies
	Unified bool     // version 2 alone
	none    bool     // there is nothing to write to
}

// Open finds out what the machine has.
func Open(root string) (*Tree, error) { return OpenAt(mountRoot, root) }

// OpenAt is Open where the hierarchies are mounted elsewhere.
func OpenAt(at, root string) (*Tree, error) {
	clean := path.Clean("/" + root)
	if clean == "/" {
		return nil, errors.New("cgroup: the root of pods must be a cgroup of its own")
	}
	t := &Tree{root: clean}
	if _, err := os.Stat(filepath.Join(at, "cgroup.controllers")); err == nil {
		t.Unified, t.mounts = true, []string{at}
		return t, nil
	}
	entries, err := os.ReadDir(at)
	if err != nil {
		return nil, fmt.Errorf("cgroup: no cgroups are mounted: %w", err)
	}
	for _, e := range entries {
		if e.Type()&os.ModeSymlink != 0 || !e.IsDir() { // cpu,cpuacct has links to it
			continue
		}
		t.mounts = append(t.mounts, filepath.Join(at, e.Name()))
	}
	if len(t.mounts) == 0 {
		return nil, errors.New("cgroup: no hierarchy is mounted at " + at)
	}
	return t, nil
}

// None is the tree of a node without cgroups: all of it succeeds and does nothing.
func None(root string) *Tree { return &Tree{root: path.Clean("/" + root), none: true} }

// class directory of a pod; guaranteed pods lie directly below the root.
func class(pod *corev1.Pod) string {
	switch qos.Of(pod) {
	case corev1.PodQOSBestEffort:
		return "besteffort"
	case corev1.PodQOSBurstable:
		return "burstable"
	}
	return ""
}

// PodParent is the cgroup that a pod's containers are put below.
func (t *Tree) PodParent(pod *corev1.Pod) string {
	return path.Join(t.root, class(pod), "pod"+string(pod.UID))
}

// EnsurePod makes a pod's cgroup and those above it and sets what the pod's
// containers sum up to.
func (t *Tree) EnsurePod(pod *corev1.Pod) error {
	at := t.PodParent(pod)
	for _, m := range t.mounts {
		if err := t.mkdir(m, at); err != nil {
			return err
		}
	}
	if c := class(pod); c == "besteffort" {
		if err := t.write("cpu", path.Join(t.root, c), "cpu.shares", 2); err != nil {
			return err
		}
	}
	a := plan.PodAmounts(pod)
	return errors.Join(t.SetPod(pod, plan.CPUShares, a), t.SetPod(pod, plan.CPULimit, a), t.SetPod(pod, plan.MemoryLimit, a))
}

// mkdir below one hierarchy; a fresh cpuset has no processors and no memory
// and would refuse processes, so it takes its parent's.
func (t *Tree) mkdir(mount, at string) error {
	dir := mount
	for part := range strings.SplitSeq(strings.Trim(at, "/"), "/") {
		parent := dir
		dir = filepath.Join(dir, part)
		if t.Unified {
			if err := delegate(parent); err != nil {
				return err
			}
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("cgroup: %w", err)
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if t.Unified {
				continue
			}
			own, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil || strings.TrimSpace(string(own)) != "" {
				continue
			}
			above, err := os.ReadFile(filepath.Join(parent, file))
			if err != nil {
				return fmt.Errorf("cgroup: %w", err)
			}
			if err := os.WriteFile(filepath.Join(dir, file), above, 0o644); err != nil {
				return fmt.Errorf("cgroup: %w", err)
			}
		}
	}
	return nil
}

// delegate hands the controllers of a version 2 cgroup to its children.
func delegate(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	for _, c := range strings.Fields(string(data)) {
		// One that cannot be handed on (rdma, misc) is not needed.
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil && (c == "cpu" || c == "memory" || c == "pids") {
			return fmt.Errorf("cgroup: cannot delegate %s in %s: %w", c, dir, err)
		}
	}
	return nil
}

// write one value, under its name of version 1.
func (t *Tree) write(controller, at, file string, value int64) error {
	if t.none {
		return nil
	}
	text := strconv.FormatInt(value, 10)
	if t.Unified {
		switch file {
		case "cpu.shares": // 2..262144 onto 1..10000, as the runtimes do
			file, text = "cpu.weight", strconv.FormatInt(1+((value-2)*9999)/262142, 10)
		case "cpu.cfs_period_us":
			return nil
		case "cpu.cfs_quota_us":
			file, text = "cpu.max", fmt.Sprintf("%d %d", value, spec.Period())
		case "memory.limit_in_bytes":
			file = "memory.max"
		}
	}
	if err := os.WriteFile(filepath.Join(t.mount(controller), at, file), []byte(text), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cgroup: %w", err)
	}
	return nil
}

func contains(joined, one string) bool {
	for part := range strings.SplitSeq(joined, ",") {
		if part == one {
			return true
		}
	}
	return false
}

// RemovePod removes a pod's cgroups wherever they are; what does not exist is
// gone already. The runtime has no container of the pod any more: a process that
// is left is one that it has lost, and is killed.
func (t *Tree) RemovePod(uid string) error {
	if uid == "" || strings.ContainsAny(uid, "/") {
		return fmt.Errorf("cgroup: %q is not a pod's UID", uid)
	}
	deadline := time.Now().Add(patience)
	var errs []error
	for _, c := range []string{"", "burstable", "besteffort"} {
		for _, m := range t.mounts {
			errs = append(errs, removeTree(filepath.Join(m, t.root, c, "pod"+uid), deadline))
		}
	}
	return errors.Join(errs...)
}

// Pods lists the UIDs that have a cgroup.
func (t *Tree) Pods() map[string]bool {
	out := map[string]bool{}
	for _, c := range []string{"", "burstable", "besteffort"} {
		for _, m := range t.mounts {
			entries, err := os.ReadDir(filepath.Join(m, t.root, c))
			if err != nil {
				continue // never made
			}
			for _, e := range entries {
				if uid, ok := strings.CutPrefix(e.Name(), "pod"); ok && e.IsDir() {
					out[uid] = true
				}
			}
		}
	}
	return out
}

// RemoveIdle removes the classes and the root once no pod is left.
func (t *Tree) RemoveIdle() {
	for _, c := range []string{"burstable", "besteffort", ""} {
		for _, m := range t.mounts {
			_ = os.Remove(filepath.Join(m, t.root, c)) // busy ones stay
		}
	}
}

// patience with processes that are ending when their cgroup is to go. Killed
// ones need milliseconds; who holds on for longer, in the kernel, is an error,
// and the caller comes back later.
const patience = 5 * time.Second

// removeTree removes a cgroup and those below it, kills the processes in them,
// and waits for their end until the deadline.
func removeTree(dir string, deadline time.Time) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name()), deadline); err != nil {
				return err
			}
		}
	}
	for wait := true; ; { // once more after the last process, which may just have gone
		err = unix.Rmdir(dir)
		if !wait || !errors.Is(err, unix.EBUSY) {
			break
		}
		wait = awaitEnd(dir, deadline)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cgroup: cannot remove %s: %w", dir, err)
	}
	return nil
}

// awaitEnd kills the processes in a cgroup and waits for the end of one. Version
// 1 has no event for a cgroup that becomes empty, but a pidfd tells of the end of
// a process after that has left its cgroup. It is false if there is none to wait
// for.
func awaitEnd(dir string, deadline time.Time) bool {
	for _, field := range processes(dir) {
		pid, err := strconv.Atoi(field)
		if err != nil || pid == 0 { // of a PID namespace that is not ours
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return errors.Is(err, unix.ESRCH) // it ended meanwhile
		}
		defer func() { _ = unix.Close(fd) }()
		if !slices.Contains(processes(dir), field) {
			return true // likewise, and its number may be another's by now
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
			return errors.Is(err, unix.ESRCH)
		}
		ended, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(0, time.Until(deadline).Milliseconds())))
		return ended == 1 || errors.Is(err, unix.EINTR)
	}
	return false
}

// processes in a cgroup; none if it is gone.
func processes(dir string) []string {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}

// Remove the whole tree, with the processes in it.
func (t *Tree) Remove() error {
	deadline := time.Now().Add(patience)
	var errs []error
	for _, m := range t.mounts {
		errs = append(errs, removeTree(filepath.Join(m, t.root), deadline))
	}
	return errors.Join(errs...)
}
