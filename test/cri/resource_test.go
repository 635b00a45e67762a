package cri_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// seesHierarchies of cgroup v1, if the machine has them: in each, the container's
// own cgroup.
func (c *container) seesHierarchies(name, mode, but string) {
	t := c.t
	if cgroupV2() {
		return // resources/the container sees its cgroup
	}
	procs, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	t.must(err)
	mounts := c.sh("cat /proc/self/mounts")
	for _, file := range procs {
		at := filepath.Dir(file)
		if _, err := os.Stat(filepath.Join(at, "cgroup.controllers")); err == nil || filepath.Base(at) == but {
			continue // v2 beside them
		}
		for _, option := range []string{mode, "nosuid", "nodev", "noexec"} {
			if !mounted(mounts, at, option) {
				t.errorf("%s: %s is not mounted %s:\n%s", name, at, option, mounts)
			}
		}
		// Processes of other groups have the number 0 in it.
		if in := strings.Fields(c.sh("cat " + file)); !slices.Contains(in, "1") || slices.Contains(in, "0") {
			t.errorf("%s: %s has processes %v", name, at, in)
		}
	}
	t.equal(name+": owner of the directory", c.sh("stat -c %u:%g /sys/fs/cgroup"), "0:0")
}

// limits of a container, as its cgroup has them, in the words of v1.
func (c *container) cpuShares() string {
	if cgroupV2() {
		return "weight " + c.limit("cpu", "cpu.weight")
	}
	return c.limit("cpu", "cpu.shares")
}

func (c *container) cpuQuota() string {
	if cgroupV2() {
		return c.limit("cpu", "cpu.max")
	}
	return c.limit("cpu", "cpu.cfs_quota_us") + " " + c.limit("cpu", "cpu.cfs_period_us")
}

func (c *container) memoryLimit() string {
	if cgroupV2() {
		return c.limit("memory", "memory.max")
	}
	return c.limit("memory", "memory.limit_in_bytes")
}

// shares as cpuShares prints them: on v2 by the conversion of KEP-2254, which
// runtimes may refine, so that only v1 is exact.
func (t *T) equalShares(c *container, want int) {
	if !cgroupV2() {
		t.equal("cpu.shares", c.cpuShares(), want)
		return
	}
	w, err := strconv.Atoi(strings.TrimPrefix(c.cpuShares(), "weight "))
	t.must(err)
	if low, high := 1+(want-2)*9999/262142, want; w < low || w > max(high, 10000) {
		t.errorf("cpu.weight is %d for %d shares", w, want)
	}
}

var resourceCases = []testCase{
	{"resources/none", func(t *T) {
		p := t.pod()
		for _, o := range []func(*containerConfig){resources(nil), resources(&runtimeapi.LinuxContainerResources{})} {
			c := p.start(o)
			if cgroupV2() {
				t.equal("memory", c.memoryLimit(), "max")
				t.contains("CPU", c.cpuQuota(), "max")
			} else {
				t.equal("quota", strings.Fields(c.cpuQuota())[0], "-1")
			}
		}
	}},
	{"resources/CPU", func(t *T) {
		c := t.pod().start(resources(&runtimeapi.LinuxContainerResources{CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000}))
		t.equalShares(c, 512)
		t.equal("quota and period", c.cpuQuota(), "50000 100000")
		d := t.pod().start(resources(&runtimeapi.LinuxContainerResources{CpuShares: 2}))
		t.equalShares(d, 2)
	}},
	{"resources/CPU and memory sets", func(t *T) {
		c := t.pod().start(resources(&runtimeapi.LinuxContainerResources{CpusetCpus: "0", CpusetMems: "0"}))
		t.equal("CPUs", c.limit("cpuset", "cpuset.cpus"), "0")
		t.equal("memory nodes", c.limit("cpuset", "cpuset.mems"), "0")
		t.contains("what a process sees", c.sh("cat /proc/self/status"), "Cpus_allowed_list:\t0\n")
	}},
	{"resources/memory", func(t *T) {
		c := t.pod().start(resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}))
		t.equal("limit", c.memoryLimit(), 64<<20)
	}},
	{"resources/memory and swap", func(t *T) {
		c := t.pod().start(resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 96 << 20}))
		if cgroupV2() {
			t.equal("swap", c.limit("memory", "memory.swap.max"), 32<<20)
		} else {
			t.equal("memory and swap", c.limit("memory", "memory.memsw.limit_in_bytes"), 96<<20)
		}
	}},
	{"resources/in the status", func(t *T) {
		c := t.pod().start(resources(&runtimeapi.LinuxContainerResources{CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20, CpusetCpus: "0"}))
		r := c.status().GetResources().GetLinux()
		t.equal("resources", []any{r.GetCpuShares(), r.GetCpuQuota(), r.GetCpuPeriod(), r.GetMemoryLimitInBytes(), r.GetCpusetCpus()}, []any{512, 50000, 100000, 64 << 20, "0"})
	}},
	{"resources/out of memory", func(t *T) {
		p := t.pod()
		c := p.start(command("probe", "eat", "200"), resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, MemorySwapLimitInBytes: 32 << 20}))
		st := c.wait()
		t.equal("exit code", st.ExitCode, 137)
		t.within("the reason is OOMKilled", func() bool { return c.status().Reason == "OOMKilled" })
		t.equal("the sandbox", p.status().State, ready)
	}},
	{"resources/out of memory in a child", func(t *T) {
		// The first process survives: the container was not OOM-killed yet.
		p := t.pod()
		c := p.start(shell("probe eat 200; echo child $?; sleep 1000000"), resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 64 << 20}))
		c.says("child 137")
		t.equal("state", c.status().State, running)
	}},
	{"resources/killed is not out of memory", func(t *T) {
		c := t.pod().start(resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}))
		kill(t, c.pid())
		t.equal("reason", c.wait().Reason, "Error")
	}},
	{"resources/huge pages", func(t *T) {
		p := t.pod()
		c := p.start(resources(&runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}}}))
		if _, err := os.Stat("/sys/fs/cgroup/hugetlb"); err == nil {
			t.equal("limit", c.limit("hugetlb", "hugetlb.2MB.limit_in_bytes"), 4<<20)
		} else if data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil && strings.Contains(string(data), "hugetlb") {
			t.equal("limit", c.limit("hugetlb", "hugetlb.2MB.max"), 4<<20)
		}
	}},
	{"resources/files of cgroup v2", func(t *T) {
		if !cgroupV2() {
			return // without v2 there is nothing to set
		}
		c := t.pod().start(resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, Unified: map[string]string{"memory.high": "33554432"}}))
		t.equal("memory.high", c.limit("memory", "memory.high"), 32<<20)
	}},
	{"resources/refused", func(t *T) {
		p := t.pod()
		for name, r := range map[string]*runtimeapi.LinuxContainerResources{
			"a CPU that is not there":  {CpusetCpus: "4000"},
			"CPUs that are no list":    {CpusetCpus: "zero"},
			"memory of one page":       {MemoryLimitInBytes: 4096},
			"a quota without a period": {CpuQuota: 50000, CpuPeriod: 1},
		} {
			p.fails(name, resources(r))
		}
	}},
	{"resources/the container sees its cgroup", func(t *T) {
		c := t.pod().start(resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}))
		file := "/sys/fs/cgroup/memory/memory.limit_in_bytes"
		if cgroupV2() {
			file = "/sys/fs/cgroup/memory.max"
		}
		t.equal("limit, seen from inside", c.sh("cat "+file), 64<<20)
		if _, _, code := c.exec("sh", "-c", "echo 1 > "+file); code == 0 {
			t.errorf("it could change its limit")
		}
	}},
	{"resources/hierarchies of cgroup v1", func(t *T) {
		if cgroupV2() {
			return // nobody can make a directory to mount at in that one
		}
		p := t.pod(privilegedPod)
		p.start().seesHierarchies("usual", "ro", "")
		p.start(privileged).seesHierarchies("privileged", "rw", "")
		volume := tempDir(t)
		writeFile(t, filepath.Join(volume, "file"), "of the volume")
		c := p.start(func(c *containerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: volume, ContainerPath: "/sys/fs/cgroup/memory"}}
		})
		c.seesHierarchies("with a volume among them", "ro", "memory")
		t.equal("the volume", c.sh("cat /sys/fs/cgroup/memory/file"), "of the volume")
	}},
	{"resources/cgroups that are masked", func(t *T) {
		p := t.pod()
		for _, path := range []string{"/sys/fs/cgroup", "/sys/fs"} {
			c := p.start(security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.MaskedPaths = []string{path} }))
			t.equal(path, c.sh("ls "+path), "")
		}
	}},
	{"resources/update of a running container", func(t *T) {
		c := t.pod().start(resources(&runtimeapi.LinuxContainerResources{CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20, CpusetCpus: "0"}))
		t.must(c.update(&runtimeapi.LinuxContainerResources{CpuShares: 256, CpuQuota: 20000, CpuPeriod: 100000, MemoryLimitInBytes: 128 << 20}))
		t.equalShares(c, 256)
		t.equal("quota and period", c.cpuQuota(), "20000 100000")
		t.equal("memory", c.memoryLimit(), 128<<20)
		t.equal("what was not named stays", c.limit("cpuset", "cpuset.cpus"), "0")
		// One field alone leaves the others.
		t.must(c.update(&runtimeapi.LinuxContainerResources{CpuShares: 300}))
		t.equal("memory", c.memoryLimit(), 128<<20)
		t.equal("quota and period", c.cpuQuota(), "20000 100000")
		t.equal("state", c.status().State, running)
	}},
	{"resources/update lowers memory", func(t *T) {
		c := t.pod().start(resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 128 << 20}))
		t.must(c.update(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}))
		t.equal("memory", c.memoryLimit(), 64<<20)
	}},
	{"resources/update in the status", func(t *T) {
		c := t.pod().start(resources(&runtimeapi.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 64 << 20}))
		t.must(c.update(&runtimeapi.LinuxContainerResources{CpuShares: 256, MemoryLimitInBytes: 128 << 20}))
		r := c.status().GetResources().GetLinux()
		t.equal("resources", []any{r.GetCpuShares(), r.GetMemoryLimitInBytes()}, []any{256, 128 << 20})
	}},
	{"resources/update before the start", func(t *T) {
		c := t.pod().create(resources(&runtimeapi.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 64 << 20}))
		t.must(c.update(&runtimeapi.LinuxContainerResources{CpuShares: 256, MemoryLimitInBytes: 128 << 20}))
		t.must(c.start())
		t.equalShares(c, 256)
		t.equal("memory", c.memoryLimit(), 128<<20)
	}},
	{"resources/update that is refused", func(t *T) {
		p := t.pod()
		c := p.start(resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}))
		t.refused("a CPU that is not there", c.update(&runtimeapi.LinuxContainerResources{CpusetCpus: "4000"}))
		t.equal("memory", c.memoryLimit(), 64<<20)
		_, err := t.runtime.UpdateContainerResources(t.ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: "nosuchcontainer", Linux: &runtimeapi.LinuxContainerResources{CpuShares: 2}})
		t.refused("a container that is not there", err, codes.NotFound)
	}},
	{"resources/processes of another command are counted", func(t *T) {
		c := t.pod().start(resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}))
		out, errs, code := c.exec("probe", "eat", "200")
		t.equal("exit code of a command that eats too much", code, 137)
		t.lacks("output", out+errs, "ate")
		if dir := c.cgroupDir("memory"); filepath.Base(dir) == "" {
			t.errorf("no cgroup")
		}
	}},
}

func (c *container) update(r *runtimeapi.LinuxContainerResources) error {
	_, err := c.t.runtime.UpdateContainerResources(c.t.ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.id, Linux: r})
	return err
}
