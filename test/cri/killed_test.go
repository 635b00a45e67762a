package cri_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var (
	deaths = flag.Int("deaths", 8, "how often the runtime is killed in TestBuiltinKilled")
	seed   = flag.Uint64("seed", 1, "when and what is killed in TestBuiltinKilled")
)

// churner makes pods and removes them, and minds neither errors nor deaths.
type churner struct {
	n       *node
	dir     string
	number  int
	made    int
	started []*counted // pods whose container was said to run
}

// counted is a pod with a container that counts.
type counted struct{ box, id, log string }

// counting writes numbered lines for ever.
const counting = "i=0; while :; do echo line $i; i=$((i+1)); usleep 2000; done"

func (c *churner) add(ctx context.Context) {
	c.made++
	name := fmt.Sprintf("churn-%d-%d", c.number, c.made)
	logs := filepath.Join(c.dir, "logs", name)
	pod := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "churn", Uid: name}, Hostname: name, LogDirectory: logs,
		Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/" + filepath.Base(c.dir) + "/pod-" + name, SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: []runtimeapi.NamespaceMode{runtimeapi.NamespaceMode_CONTAINER, runtimeapi.NamespaceMode_POD}[c.made%2]}}}}
	handler := ""
	if c.made%3 == 0 && hasHandler() == nil {
		handler = "runc"
	}
	box, err := c.n.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pod, RuntimeHandler: handler})
	if err != nil {
		return
	}
	made, err := c.n.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: box.PodSandboxId, SandboxConfig: pod, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "registry.knarr.dev/busybox:1"},
		Command: []string{"sh", "-c", counting}, LogPath: "c.log",
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: pod.Linux.SecurityContext.NamespaceOptions}}}})
	if err != nil {
		return
	}
	if _, err := c.n.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		return
	}
	c.started = append(c.started, &counted{box.PodSandboxId, made.ContainerId, filepath.Join(logs, "c.log")})
}

// drop removes the oldest pod; from then on it may be there or not.
func (c *churner) drop(ctx context.Context) {
	k := c.started[0]
	c.started = c.started[1:]
	if _, err := c.n.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: k.box}); err == nil {
		c.n.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: k.box})
	}
}

// TestBuiltinKilled: knarr, the supervisor or both are killed at random moments
// while pods come and go. What was said to run runs on, as the same process,
// and its log lacks nothing; afterwards everything can be removed, and is.
func TestBuiltinKilled(t *testing.T) {
	if testing.Short() || os.Getuid() != 0 {
		t.Skip("runs containers; needs root, and is not for -short")
	}
	if err := hasKnarr(); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "knarr-cri")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := newBuiltin(t, dir)
	b.launch(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n, err := dial(ctx, "unix://"+b.socket(), b.host.Try)
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	answers := func() bool {
		st, err := n.runtime.Status(ctx, &runtimeapi.StatusRequest{})
		return err == nil && condition(st, runtimeapi.RuntimeReady)
	}
	n.within(t, "the runtime answers", answers)

	churn, stop := context.WithCancel(ctx)
	defer stop()
	var all sync.WaitGroup
	churners := make([]*churner, 3)
	for i := range churners {
		c := &churner{n: n, dir: dir, number: i}
		churners[i] = c
		all.Go(func() {
			for churn.Err() == nil {
				one, done := context.WithTimeout(churn, 30*time.Second)
				if len(c.started) >= 4 {
					c.drop(one)
				} else {
					before := len(c.started)
					c.add(one)
					if len(c.started) == before {
						<-time.After(10 * time.Millisecond) // it does not answer now
					}
				}
				done()
			}
		})
	}
	rng := rand.New(rand.NewPCG(*seed, 0))
	for i := range *deaths {
		<-time.After(time.Duration(100+rng.IntN(700)) * time.Millisecond)
		victim := rng.IntN(3)
		t.Logf("death %d of %v", i, []string{"knarr", "the supervisor", "both"}[victim])
		if victim != 0 {
			for _, pid := range b.supervisors() {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if victim != 1 {
			if err := b.end(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			b.launch(t)
		}
	}
	n.within(t, "the runtime answers again", answers)
	<-time.After(time.Second) // the last pods are made in peace
	stop()
	all.Wait()

	kept := 0
	for _, c := range churners {
		for _, k := range c.started {
			kept++
			checkCounted(ctx, t, n, k)
		}
	}
	if kept == 0 {
		t.Error("no pod was left to look at")
	}
	// A sandbox that was asked for last may come after whoever asked has gone.
	for empty := 0; empty < 10; empty++ {
		boxes, err := n.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range boxes.Items {
			empty = 0
			if _, err := n.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.Id}); err != nil {
				t.Errorf("stop of %s: %v", s.Metadata.Name, err)
			}
			if _, err := n.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil {
				t.Errorf("removal of %s: %v", s.Metadata.Name, err)
			}
		}
		<-time.After(300 * time.Millisecond)
	}
	containers, err := n.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil || len(containers.Containers) != 0 {
		t.Errorf("containers left: %v, %v", containers.GetContainers(), err)
	}
	if err := b.stop(); err != nil {
		t.Error(err)
	}
	for _, left := range traces(filepath.Join(dir, "r"), filepath.Join(dir, "d")) {
		t.Errorf("left: %s", left)
	}
	for _, d := range []string{"d/images/containers/*", "d/records/*/*", "r/pods/*/*", "r/sup/c/*", "r/sup/oci/*", "r/sup/handlers/*/*", "r/sup/t/*", "d/cni/addresses/*"} {
		if found, _ := filepath.Glob(filepath.Join(dir, d)); len(found) > 0 {
			t.Errorf("left: %v", found)
		}
	}
	for _, group := range groupsBelow("/" + filepath.Base(dir)) {
		t.Errorf("left: a cgroup: %s", group)
	}
	removeCgroups("/" + filepath.Base(dir))
}

// groupsBelow lists containers' cgroups below a parent, in any hierarchy.
func groupsBelow(parent string) []string {
	v1, _ := filepath.Glob("/sys/fs/cgroup/*" + parent + "/*/*")
	v2, _ := filepath.Glob("/sys/fs/cgroup" + parent + "/*/*")
	var dirs []string
	for _, path := range append(v1, v2...) {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			dirs = append(dirs, path)
		}
	}
	return dirs
}

// checkCounted: the container runs, once, and its log goes on.
func checkCounted(ctx context.Context, t *testing.T, n *node, k *counted) {
	t.Helper()
	st, err := n.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: k.id, Verbose: true})
	if err != nil {
		t.Errorf("a container that was said to run: %v", err)
		return
	}
	if st.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("a container that was said to run is %s: %d %s %s", st.Status.State, st.Status.ExitCode, st.Status.Reason, st.Status.Message)
		return
	}
	var about struct{ PID int }
	if err := json.Unmarshal([]byte(st.Info["info"]), &about); err != nil || syscall.Kill(about.PID, 0) != nil {
		t.Errorf("process %d of a container that runs: %v", about.PID, err)
	}
	data, err := os.ReadFile(k.log)
	if err != nil {
		t.Error(err)
		return
	}
	i, lost := 0, 0
	for line := range strings.Lines(string(data)) {
		if !strings.HasSuffix(line, "\n") {
			break // it is being written
		}
		_, text, _ := strings.Cut(line, " stdout F line ")
		number, err := strconv.Atoi(strings.TrimSuffix(text, "\n"))
		if err != nil || number < i {
			t.Errorf("line %d of the log is %q", i, line)
			return
		}
		lost += number - i
		i = number + 1
	}
	// What a killed supervisor had read and not written is lost, docs/adr/0006.
	if lost > *deaths {
		t.Errorf("%d of %d lines are not in the log after %d deaths", lost, i, *deaths)
	}
	if i == 0 {
		t.Error("the log is empty")
	}
}
