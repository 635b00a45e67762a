package cri_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// traces lists every mount, cgroup and process that one of the marks occurs
// in: an ID, a directory.
func traces(marks ...string) []string {
	var left []string
	has := func(text string) bool {
		return slices.ContainsFunc(marks, func(m string) bool { return strings.Contains(text, m) })
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && has(f[4]) {
			left = append(left, "a mount: "+f[4])
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && has(filepath.Base(path)) && !podParent(path) {
			left = append(left, "a cgroup: "+path)
		}
		return nil
	})
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		cmd, _ := os.ReadFile(p + "/cmdline")
		groups, _ := os.ReadFile(p + "/cgroup")
		if text := string(bytes.ReplaceAll(cmd, []byte{0}, []byte(" "))); p != self() && (has(text) || has(string(groups))) {
			left = append(left, fmt.Sprintf("a process: %s %s", p, text))
		}
	}
	return left
}

func self() string { return fmt.Sprintf("/proc/%d", os.Getpid()) }

// podParent: cgroups above containers are the kubelet's to remove, so here
// ours; see removeCgroups.
func podParent(path string) bool {
	base := filepath.Base(path)
	return strings.HasPrefix(base, "knarr-cri") || strings.HasPrefix(base, "pod-")
}

// removeCgroups removes what the cases named as parents, in every hierarchy.
func removeCgroups(parent string) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + parent)
	for _, root := range append(roots, "/sys/fs/cgroup"+parent) {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			_ = os.Remove(d) // empty, or told about by traces
		}
	}
}
