package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/cgroup"
	"knarr.dev/knarr/internal/network/cni"
	"knarr.dev/knarr/internal/runtime/containerd"
	"knarr.dev/knarr/internal/runtime/images"
)

// How many pods are made one after the other, and side by side.
const (
	runtimeAlone    = 100
	runtimeTogether = 200
	runtimeParallel = 8

	memoryDir = "run" // in a runtime's directory
)

// runtimes measures the built-in container runtime beside containerd with runc,
// both behind their sockets and with knarr's network.
func (b *bench) runtimes() error {
	for _, r := range []struct {
		name  string
		start func(dir string) (socket string, stop func() error, err error)
	}{{"builtin", b.startBuiltin}, {"containerd", b.startContainerd}} {
		dir := filepath.Join(b.dir, r.name)
		// What a reboot may take is in memory, as below /run of most machines.
		memory := filepath.Join(dir, memoryDir)
		if err := os.MkdirAll(memory, 0o711); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", memory, "tmpfs", 0, "mode=711"); err != nil {
			return fmt.Errorf("mount tmpfs: %w", err)
		}
		socket, stop, err := r.start(dir)
		if err == nil {
			err = errors.Join(b.measureRuntime(r.name, dir, socket), stop())
		}
		if err = errors.Join(err, unix.Unmount(memory, unix.MNT_DETACH)); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return nil
}

func (b *bench) startBuiltin(dir string) (string, func() error, error) {
	socket, run := filepath.Join(dir, memoryDir, "s", "cri.sock"), filepath.Join(dir, memoryDir, "r")
	cmd := exec.Command(b.knarr, "runtime", "--data-dir", filepath.Join(dir, "d"), "--run-dir", run, "--socket", socket,
		"--pod-cidr", "10.244.0.0/22", "--images", b.images)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	return socket, func() error {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		for _, pid := range b.processes(filepath.Join(run, "sup")) {
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				return err
			}
			if err := b.gone(pid); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func (b *bench) startContainerd(dir string) (string, func() error, error) {
	cfg := containerd.Config{Root: filepath.Join(dir, "d"), State: filepath.Join(dir, memoryDir, "s"), CNIConfDir: filepath.Join(dir, "net.d"), CNIBinDir: filepath.Join(dir, "bin"),
		SandboxImage: "registry.knarr.dev/pause:1"}
	if err := errors.Join(cni.Install(cfg.CNIBinDir, b.knarr), cni.WriteConf(cfg.CNIConfDir, "10.244.0.0/22", filepath.Join(dir, "cni"), 0)); err != nil {
		return "", nil, err
	}
	r, err := containerd.New(cfg)
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop := func() error {
		cancel()
		ctx := context.WithoutCancel(b.ctx)
		return errors.Join(<-done, r.Stop(ctx, true), r.Clean(ctx))
	}
	select {
	case <-r.Ready():
	case err := <-done:
		done <- nil
		return "", nil, errors.Join(err, stop())
	}
	socket := filepath.Join(cfg.State, "containerd.sock")
	if _, err := images.ImportDir(ctx, socket, b.images); err != nil {
		return "", nil, errors.Join(err, stop())
	}
	return socket, stop, nil
}

// runtimeClient makes pods of one container.
type runtimeClient struct {
	runtimeapi.RuntimeServiceClient
	ctx  context.Context
	dir  string
	name string

	mu    sync.Mutex
	steps map[string][]float64 // how long each call took, in ms
}

// timed does one of the steps of making a pod.
func (c *runtimeClient) timed(step string, call func() error) error {
	began := time.Now()
	err := call()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.steps[step] = append(c.steps[step], time.Since(began).Seconds()*1000)
	return err
}

func (b *bench) measureRuntime(name, dir, socket string) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	c := &runtimeClient{RuntimeServiceClient: runtimeapi.NewRuntimeServiceClient(conn), ctx: b.ctx, dir: dir, name: name, steps: map[string][]float64{}}
	if err := c.await(b); err != nil {
		return err
	}
	groups, err := cgroup.Open("bench-" + name) // pods' are their kubelet's to remove
	if err != nil {
		return err
	}
	defer groups.Remove()
	// Files are read and pages mapped for the first time.
	if _, _, err := c.pods("warm", 10, 1); err != nil {
		return err
	}
	if err := c.removeAll(); err != nil {
		return err
	}
	before := b.overhead(dir)
	clear(c.steps)
	busy := machineCPU()
	alone, _, err := c.pods("alone", runtimeAlone, 1)
	if err != nil {
		return err
	}
	prefix := "runtime." + name
	report(prefix+".p50", percentile(alone, 0.5), "ms")
	report(prefix+".p99", percentile(alone, 0.99), "ms")
	for _, step := range []string{"sandbox", "create", "start"} {
		times := c.steps[step]
		slices.Sort(times)
		report(prefix+"."+step, percentile(times, 0.5), "ms")
	}
	report(prefix+".cpu", (machineCPU()-busy)*1000/runtimeAlone, "ms/pod")
	report(prefix+".memory", (b.overhead(dir)-before)/runtimeAlone, "MiB/pod")
	busy = machineCPU()
	began := time.Now()
	if err := c.removeAll(); err != nil {
		return err
	}
	report(prefix+".remove", time.Since(began).Seconds()*1000/runtimeAlone, "ms/pod")
	report(prefix+".remove.cpu", (machineCPU()-busy)*1000/runtimeAlone, "ms/pod")
	together, took, err := c.pods("together", runtimeTogether, runtimeParallel)
	if err != nil {
		return err
	}
	report(prefix+".parallel.p50", percentile(together, 0.5), "ms")
	report(prefix+".parallel.p99", percentile(together, 0.99), "ms")
	report(prefix+".parallel.rate", runtimeTogether/took.Seconds(), "pods/s")
	return c.removeAll()
}

func (c *runtimeClient) await(b *bench) error {
	for range 600 {
		st, err := c.Status(c.ctx, &runtimeapi.StatusRequest{})
		if err == nil && !slices.ContainsFunc(st.Status.Conditions, func(x *runtimeapi.RuntimeCondition) bool { return !x.Status }) {
			return nil
		}
		if err := b.pause(50 * time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("the runtime does not become ready")
}

// pods makes n of them and returns how long each took, sorted.
func (c *runtimeClient) pods(prefix string, n, parallel int) (sorted []float64, took time.Duration, err error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	next := make(chan int)
	began := time.Now()
	for range parallel {
		all.Go(func() {
			for i := range next {
				start := time.Now()
				perr := c.pod(fmt.Sprintf("%s-%d", prefix, i))
				mu.Lock()
				sorted, err = append(sorted, time.Since(start).Seconds()*1000), errors.Join(err, perr)
				mu.Unlock()
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
	took = time.Since(began)
	slices.Sort(sorted)
	return sorted, took, err
}

// pod returns when its container runs.
func (c *runtimeClient) pod(name string) error {
	options := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	config := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "bench", Uid: name}, Hostname: name,
		LogDirectory: filepath.Join(c.dir, "logs", name),
		Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/bench-" + c.name + "/" + name,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: options}}}
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return err
	}
	var box *runtimeapi.RunPodSandboxResponse
	err := c.timed("sandbox", func() (err error) {
		box, err = c.RunPodSandbox(c.ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
		return err
	})
	if err != nil {
		return err
	}
	create := &runtimeapi.CreateContainerRequest{PodSandboxId: box.PodSandboxId, SandboxConfig: config, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "registry.knarr.dev/busybox:1"},
		Command: []string{"sleep", "3600"}, LogPath: "c.log",
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: options,
			Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}}}}}
	var made *runtimeapi.CreateContainerResponse
	err = c.timed("create", func() (err error) {
		made, err = c.CreateContainer(c.ctx, create)
		return err
	})
	if err != nil {
		return err
	}
	return c.timed("start", func() error {
		_, err := c.StartContainer(c.ctx, &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId})
		return err
	})
}

func (c *runtimeClient) removeAll() error {
	boxes, err := c.ListPodSandbox(c.ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	for _, s := range boxes.Items {
		if _, err := c.StopPodSandbox(c.ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.Id}); err != nil {
			return err
		}
		if _, err := c.RemovePodSandbox(c.ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil {
			return err
		}
	}
	return nil
}

// processes whose command line has a text in it, but not this one.
func (b *bench) processes(text string) []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && strings.Contains(string(line), text) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// overhead is the memory of all processes of a runtime, pause processes too, in
// MiB: each page by its share.
func (b *bench) overhead(dir string) float64 {
	var sum float64
	for _, pid := range slices.Concat(b.processes(dir), b.processes("/pause")) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
				kib, _ := strconv.ParseFloat(f[1], 64)
				sum += kib / 1024
			}
		}
	}
	return sum
}

// machineCPU is the time that all processors of the machine have worked, in
// seconds: what a pod costs is spread over many processes.
func machineCPU() float64 {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(data), "\n")
	var busy float64
	for i, f := range strings.Fields(line) {
		v, _ := strconv.ParseFloat(f, 64)
		if i >= 1 && i <= 7 && i != 4 && i != 5 { // without idle and waiting for disks, proc_stat(5)
			busy += v
		}
	}
	return busy / 100
}
