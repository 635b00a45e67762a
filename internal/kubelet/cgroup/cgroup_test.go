package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kubelet/plan"
)

// TestRemovePod: what still runs in a pod's cgroups is killed and waited for.
func TestRemovePod(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes cgroups")
	}
	tree, err := Open("knarr-cgroup-test-" + strconv.Itoa(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Remove(); err != nil {
			t.Error(err)
		}
	})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	if err := tree.EnsurePod(pod); err != nil {
		t.Fatal(err)
	}
	a := plan.Amounts{CPURequest: 500, CPULimit: 1500, MemoryLimit: 64 << 20}
	for _, part := range []plan.Part{plan.CPUShares, plan.CPULimit, plan.MemoryLimit} {
		if err := tree.SetPod(pod, part, a); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.SetPod(pod, plan.MemoryLimit, plan.Amounts{}); err != nil { // no limit: what is there stays
		t.Fatal(err)
	}
	got := tree.Container(pod, "")
	if tree.Unified {
		a.CPURequest = 0
	}
	if got != a {
		t.Errorf("amounts %+v, want %+v", got, a)
	}
	if _, ok := tree.Usage(pod, ""); !ok {
		t.Error("no usage")
	}
	if _, ok := tree.Usage(pod, "none"); ok || tree.Container(pod, "none") != (plan.Amounts{}) {
		t.Error("what does not exist has amounts")
	}
	if len(tree.Pods()) != 1 || !tree.Pods()["u"] {
		t.Errorf("pods: %v", tree.Pods())
	}
	var all []*exec.Cmd
	for range 8 {
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
		for _, m := range tree.mounts {
			dir := filepath.Join(m, tree.PodParent(pod), "container")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // version 1: without them, no process may come in
				if data, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file)); err == nil && !tree.Unified {
					if err := os.WriteFile(filepath.Join(dir, file), data, 0); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, cmd)
	}
	if err := tree.RemovePod("u"); err != nil {
		t.Error(err)
	}
	for _, cmd := range all { // what the runtime has lost
		if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Errorf("a process in the cgroup: %v", err)
		}
	}
	if len(tree.Pods()) != 0 {
		t.Errorf("left: %v", tree.Pods())
	}
	if err := tree.RemovePod("u"); err != nil {
		t.Errorf("again: %v", err)
	}
}

// A node without cgroups does all that is asked, and touches nothing.
func TestNone(t *testing.T) {
	tree := None("nowhere/pods")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}
	if err := tree.EnsurePod(pod); err != nil {
		t.Error(err)
	}
	if at := tree.PodParent(pod); at != "/nowhere/pods/besteffort/podu" {
		t.Errorf("pods lie below %q", at)
	}
	if n, ok := tree.Usage(pod, ""); ok || len(tree.Pods()) != 0 {
		t.Errorf("it uses %d of %v", n, tree.Pods())
	}
	if err := tree.RemovePod("u"); err != nil {
		t.Error(err)
	}
	tree.RemoveIdle()
}
