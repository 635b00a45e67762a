package cri_test

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type (
	podConfig       = runtimeapi.PodSandboxConfig
	containerConfig = runtimeapi.ContainerConfig
)

// pod is a sandbox that a case made.
type pod struct {
	t      *T
	id     string
	config *podConfig
	gone   bool // removed by the case
}

// podConfig is that of a pod with its own network, IPC and, per container,
// PID namespaces, as a kubelet asks for by default.
func (t *T) podConfig(opts ...func(*podConfig)) *podConfig {
	uid := t.unique("pod")
	c := &podConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: uid, Uid: filepath.Base(t.dir) + uid, Namespace: "cri"},
		Hostname:     uid,
		LogDirectory: filepath.Join(t.dir, "logs", uid),
		Labels:       map[string]string{"pod": uid},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: t.cgroup + "/" + uid,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
		},
	}
	for _, o := range opts {
		o(c)
	}
	return c
}

// pod runs a sandbox that goes with the case.
func (t *T) pod(opts ...func(*podConfig)) *pod {
	p, err := t.tryPod(opts...)
	if err != nil {
		t.fatalf("RunPodSandbox: %v", err)
	}
	return p
}

func (t *T) tryPod(opts ...func(*podConfig)) (*pod, error) {
	return t.tryPodOf(t.podConfig(opts...), "")
}

func (t *T) tryPodOf(c *podConfig, handler string) (*pod, error) {
	if c.GetLogDirectory() != "" {
		t.must(os.MkdirAll(c.LogDirectory, 0o755)) // as the kubelet does
	}
	resp, err := t.runtime.RunPodSandbox(t.ctx, &runtimeapi.RunPodSandboxRequest{Config: c, RuntimeHandler: cmp.Or(handler, t.handler)})
	if err != nil {
		return nil, err
	}
	p := &pod{t: t, id: resp.PodSandboxId, config: c}
	t.made(p.id)
	t.cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if !p.gone {
			if _, err := t.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
				t.errorf("StopPodSandbox: %v", err)
			}
		}
		if _, err := t.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
			t.errorf("RemovePodSandbox: %v", err)
		}
	})
	return p, nil
}

func (p *pod) stop() error {
	_, err := p.t.runtime.StopPodSandbox(p.t.ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id})
	return err
}

func (p *pod) remove() error {
	_, err := p.t.runtime.RemovePodSandbox(p.t.ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id})
	p.gone = p.gone || err == nil
	return err
}

func (p *pod) status() *runtimeapi.PodSandboxStatus {
	resp, err := p.t.runtime.PodSandboxStatus(p.t.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil {
		p.t.fatalf("PodSandboxStatus: %v", err)
	}
	return resp.Status
}

// ip is the pod's address.
func (p *pod) ip() string {
	ip := p.status().GetNetwork().GetIp()
	if ip == "" {
		p.t.fatalf("the pod has no address")
	}
	return ip
}

// container of a pod.
type container struct {
	t      *T
	p      *pod
	id     string
	config *containerConfig
}

func (p *pod) containerConfig(opts ...func(*containerConfig)) *containerConfig {
	name := p.t.unique("c")
	c := &containerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Command:  []string{"sleep", "1000000"},
		LogPath:  name + ".log",
		Labels:   map[string]string{"container": name},
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: p.config.GetLinux().GetSecurityContext().GetNamespaceOptions(),
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
				MaskedPaths:      maskedPaths, ReadonlyPaths: readonlyPaths,
			},
		},
	}
	for _, o := range opts {
		o(c)
	}
	if c.Image == nil {
		c.Image = p.t.base()
	}
	return c
}

// What a kubelet sends for procMount: Default.
var (
	maskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// tryCreate makes a container that goes with its pod.
func (p *pod) tryCreate(opts ...func(*containerConfig)) (*container, error) {
	c := p.containerConfig(opts...)
	resp, err := p.t.runtime.CreateContainer(p.t.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: c, SandboxConfig: p.config})
	if err != nil {
		return nil, err
	}
	p.t.made(resp.ContainerId)
	return &container{t: p.t, p: p, id: resp.ContainerId, config: c}, nil
}

func (p *pod) create(opts ...func(*containerConfig)) *container {
	c, err := p.tryCreate(opts...)
	if err != nil {
		p.t.fatalf("CreateContainer: %v", err)
	}
	return c
}

// start makes a container that sleeps, and starts it.
func (p *pod) start(opts ...func(*containerConfig)) *container {
	c := p.create(opts...)
	if err := c.start(); err != nil {
		p.t.fatalf("StartContainer: %v", err)
	}
	return c
}

// fails expects that a container cannot be created or, if it can, not started.
func (p *pod) fails(what string, opts ...func(*containerConfig)) {
	c, err := p.tryCreate(opts...)
	if err == nil {
		err = c.start()
	}
	if err == nil {
		p.t.errorf("%s: the container runs", what)
	}
}

// result of a container that ran to its end.
type result struct {
	*runtimeapi.ContainerStatus
	out, errs string
}

// run runs a shell script to its end.
func (p *pod) run(script string, opts ...func(*containerConfig)) result {
	c := p.start(append([]func(*containerConfig){shell(script)}, opts...)...)
	st := c.wait()
	out, errs := c.output()
	return result{st, out, errs}
}

// sees runs a script that must succeed and returns what it printed.
func (p *pod) sees(script string, opts ...func(*containerConfig)) string {
	r := p.run(script, opts...)
	if r.ExitCode != 0 {
		p.t.errorf("%s: exit code %d, %s: %s%s", script, r.ExitCode, r.Reason, r.out, r.errs)
	}
	return strings.TrimSpace(r.out)
}

func shell(script string) func(*containerConfig) { return command("sh", "-c", script) }

func command(args ...string) func(*containerConfig) {
	return func(c *containerConfig) { c.Command, c.Args = args, nil }
}

func security(fn func(*runtimeapi.LinuxContainerSecurityContext)) func(*containerConfig) {
	return func(c *containerConfig) { fn(c.Linux.SecurityContext) }
}

func resources(r *runtimeapi.LinuxContainerResources) func(*containerConfig) {
	return func(c *containerConfig) { c.Linux.Resources = r }
}

func namespaces(fn func(*runtimeapi.NamespaceOption)) func(*podConfig) {
	return func(c *podConfig) { fn(c.Linux.SecurityContext.NamespaceOptions) }
}

func privilegedPod(c *podConfig) { c.Linux.SecurityContext.Privileged = true }

func privileged(c *containerConfig) {
	c.Linux.SecurityContext.Privileged = true
	c.Linux.SecurityContext.MaskedPaths, c.Linux.SecurityContext.ReadonlyPaths = nil, nil
}

func (c *container) start() error {
	_, err := c.t.runtime.StartContainer(c.t.ctx, &runtimeapi.StartContainerRequest{ContainerId: c.id})
	return err
}

func (c *container) stop(timeout int64) error {
	_, err := c.t.runtime.StopContainer(c.t.ctx, &runtimeapi.StopContainerRequest{ContainerId: c.id, Timeout: timeout})
	return err
}

func (c *container) remove() error {
	_, err := c.t.runtime.RemoveContainer(c.t.ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.id})
	return err
}

func (c *container) status() *runtimeapi.ContainerStatus {
	resp, err := c.t.runtime.ContainerStatus(c.t.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.id})
	if err != nil {
		c.t.fatalf("ContainerStatus: %v", err)
	}
	return resp.Status
}

// wait for the container's end.
func (c *container) wait() *runtimeapi.ContainerStatus {
	var st *runtimeapi.ContainerStatus
	c.t.within("the container ends", func() bool {
		st = c.status()
		return st.State == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	return st
}

// exec runs a command beside the container's own.
func (c *container) exec(args ...string) (stdout, stderr string, code int32) {
	resp, err := c.t.runtime.ExecSync(c.t.ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: args, Timeout: int64(patience / time.Second)})
	if err != nil {
		c.t.fatalf("ExecSync %q: %v", args, err)
	}
	return string(resp.Stdout), string(resp.Stderr), resp.ExitCode
}

// sh runs a script that must succeed and returns what it printed.
func (c *container) sh(script string) string {
	out, errs, code := c.exec("sh", "-c", script)
	if code != 0 {
		c.t.errorf("%s: exit code %d: %s%s", script, code, out, errs)
	}
	return strings.TrimSpace(out)
}

// logFile of the container.
func (c *container) logFile() string { return filepath.Join(c.p.config.LogDirectory, c.config.LogPath) }

// logLine is one entry of a log: TIME STREAM TAGS TEXT.
type logLine struct {
	at        time.Time
	stream    string
	tag, text string
}

// parseLog reads the format that the kubelet reads.
func parseLog(data string) ([]logLine, error) {
	var lines []logLine
	for line := range strings.Lines(data) {
		text, whole := strings.CutSuffix(line, "\n")
		if !whole {
			return lines, fmt.Errorf("half a line at the end of the log: %.60q", line)
		}
		f := strings.SplitN(text, " ", 4)
		if len(f) != 4 {
			return lines, fmt.Errorf("not TIME STREAM TAGS TEXT: %.60q", line)
		}
		at, err := time.Parse(time.RFC3339Nano, f[0])
		if err != nil {
			return lines, err
		}
		lines = append(lines, logLine{at, f[1], f[2], f[3]})
	}
	return lines, nil
}

// log of a container that has ended: what it wrote last may take a moment from
// its end to the file, so that the file is read once it has stopped growing.
func (c *container) log() []logLine {
	var data []byte
	c.t.within("the log does not grow", func() bool {
		last := len(data)
		c.t.pass(20 * time.Millisecond)
		var err error
		if data, err = os.ReadFile(c.logFile()); err != nil {
			c.t.fatalf("log: %v", err)
		}
		return len(data) == last
	})
	lines, err := parseLog(string(data))
	if err != nil {
		c.t.errorf("log: %v", err)
	}
	return lines
}

// output puts a log's streams together again.
func (c *container) output() (out, errs string) {
	var b [2]strings.Builder
	for _, l := range c.log() {
		to := &b[0]
		if l.stream == "stderr" {
			to = &b[1]
		}
		to.WriteString(l.text)
		if l.tag == "F" {
			to.WriteByte('\n')
		}
	}
	return b[0].String(), b[1].String()
}

// says waits for a line in the log.
func (c *container) says(line string) {
	c.t.within(fmt.Sprintf("the container says %q", line), func() bool {
		data, err := os.ReadFile(c.logFile())
		return err == nil && strings.Contains(string(data), line)
	})
}

// cgroupDir is where the container's limits are, as a directory of the host:
// that of a v1 controller or, on v2, of all.
func (c *container) cgroupDir(controller string) string {
	root := "/sys/fs/cgroup"
	if !cgroupV2() {
		root = filepath.Join(root, controller)
	}
	var dir string
	_ = filepath.WalkDir(root+c.p.config.Linux.CgroupParent, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && dir == "" && strings.Contains(filepath.Base(path), c.id) {
			dir = path
		}
		return nil
	})
	if dir == "" {
		c.t.fatalf("no cgroup of %s below %s%s", c.id, root, c.p.config.Linux.CgroupParent)
	}
	return dir
}

func cgroupV2() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// limit reads a file of the container's cgroup.
func (c *container) limit(controller, file string) string {
	data, err := os.ReadFile(filepath.Join(c.cgroupDir(controller), file))
	if err != nil {
		c.t.fatalf("%v", err)
	}
	return strings.TrimSpace(string(data))
}

// pid of the container's first process, as the host counts: the oldest in its
// cgroup.
func (c *container) pid() int {
	procs := strings.Fields(c.limit("pids", "cgroup.procs"))
	if len(procs) == 0 {
		c.t.fatalf("no process in the container's cgroup")
	}
	pid, err := strconv.Atoi(procs[0])
	c.t.must(err)
	return pid
}

func tempDir(t *T) string {
	dir, err := os.MkdirTemp(t.dir, "volume-")
	t.must(err)
	t.must(os.Chmod(dir, 0o755))
	return dir
}

func writeFile(t *T, path, text string) string {
	t.must(os.WriteFile(path, []byte(text), 0o644))
	return path
}
