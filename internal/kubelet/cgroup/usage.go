package cgroup

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Usage of one cgroup as the kernel has counted it. What is nil or zero with
// "0: none" the kernel does not tell.
type Usage struct {
	At       time.Time // of the reading
	CPU      *CPU
	Memory   *Memory
	Tasks    *Tasks
	IO       []IO // by device
	Pressure []Pressure
}

// CPU time since the cgroup was made.
type CPU struct {
	Total, User, System time.Duration
	Quota, Period       time.Duration // 0: no limit
	Shares              int64         // of version 1, which the field's tools know; 0: not told
	Periods, Throttled  uint64        // with a quota
	ThrottledTime       time.Duration
}

// Memory in bytes, those below included.
type Memory struct {
	Usage, WorkingSet, RSS, Cache, Mapped, Kernel uint64
	Swap                                          *uint64
	SwapLimit                                     *uint64 // 0: none. Version 1 has one of memory and swap together
	ActiveFile, InactiveFile                      uint64
	Peak                                          uint64 // 0: not told
	Limit                                         uint64 // 0: none
	Failures                                      uint64 // how often the limit was hit
	Faults, MajorFaults                           uint64
	Kills                                         uint64 // by the kernel, for want of memory
}

// Tasks of a cgroup.
type Tasks struct {
	Threads, MaxThreads uint64 // MaxThreads 0: no limit
	Processes           int
}

// IO of one block device.
type IO struct {
	Device                          string // major:minor
	ReadBytes, WriteBytes           uint64
	ReadOperations, WriteOperations uint64
}

// Pressure is how long tasks were held up for want of a resource: some of them,
// or all at once.
type Pressure struct {
	Resource      string // cpu, memory, io
	Waiting, Full time.Duration
}

// userHz is the unit of cpuacct.stat: the kernel's for user space, on all of
// Go's architectures.
const userHz = 100

// reader of one cgroup.
type reader struct {
	t  *Tree
	at string
}

// Root of the node's pods, as a path below the hierarchies.
func (t *Tree) Root() string { return t.root }

// Classes of pods that have a cgroup of their own.
func (t *Tree) Classes() []string {
	return []string{filepath.Join(t.root, "burstable"), filepath.Join(t.root, "besteffort")}
}

// ContainerPath finds a container's cgroup by its ID, as containerd and CRI-O
// name it; "" if there is none.
func (t *Tree) ContainerPath(pod *corev1.Pod, id string) string {
	for _, name := range []string{id, "crio-" + id} {
		at := filepath.Join(t.PodParent(pod), name)
		if _, err := os.Stat(filepath.Join(t.mount("memory"), at)); id != "" && err == nil {
			return at
		}
	}
	return ""
}

// Made is when a cgroup was.
func (t *Tree) Made(at string) time.Time {
	info, err := os.Stat(filepath.Join(t.mount("memory"), at))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// Read what a cgroup has used; false: there is none.
func (t *Tree) Read(at string, now time.Time) (Usage, bool) {
	r := reader{t, at}
	u := Usage{At: now}
	if t.Unified {
		u.CPU, u.Memory, u.IO, u.Pressure = r.cpu2(), r.memory2(), r.io2(), r.pressure()
	} else {
		u.CPU, u.Memory, u.IO = r.cpu1(), r.memory1(), r.io1()
	}
	u.Tasks = r.tasks()
	return u, u.CPU != nil || u.Memory != nil
}

// Procs are the processes directly in a cgroup.
func (t *Tree) Procs(at string) []int {
	var out []int
	for field := range strings.FieldsSeq(t.read("memory", at, "cgroup.procs")) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			out = append(out, pid)
		}
	}
	return out
}

func (r reader) text(controller, file string) string { return r.t.read(controller, r.at, file) }

func (r reader) count(controller, file string) uint64 { return count(r.text(controller, file)) }

// count that a file shows; 0 for none, "max" and the like.
func count(text string) uint64 { return uint64(number(text)) }

// told is a count, nil if there is no such file.
func told(text string) *uint64 {
	if text == "" {
		return nil
	}
	n := count(text)
	return &n
}

// keyed reads lines of a name and a number.
func keyed(text string) map[string]uint64 {
	out := map[string]uint64{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			if n, err := strconv.ParseUint(value, 10, 64); err == nil {
				out[name] = n
			}
		}
	}
	return out
}

func micros[N int64 | uint64](n N) time.Duration { return time.Duration(n) * time.Microsecond }

func (r reader) cpu2() *CPU {
	stat := keyed(r.text("cpu", "cpu.stat"))
	total, ok := stat["usage_usec"]
	if !ok {
		return nil
	}
	c := &CPU{Total: micros(total), User: micros(stat["user_usec"]), System: micros(stat["system_usec"]),
		Periods: stat["nr_periods"], Throttled: stat["nr_throttled"], ThrottledTime: micros(stat["throttled_usec"])}
	if limit := strings.Fields(r.text("cpu", "cpu.max")); len(limit) == 2 && number(limit[0]) > 0 {
		c.Quota, c.Period = micros(number(limit[0])), micros(number(limit[1]))
	}
	if weight := number(r.text("cpu", "cpu.weight")); weight > 0 { // as write turns it round
		c.Shares = 2 + ((weight-1)*262142)/9999
	}
	return c
}

func (r reader) cpu1() *CPU {
	total := r.text("cpuacct", "cpuacct.usage")
	if total == "" {
		return nil
	}
	ticks, stat := keyed(r.text("cpuacct", "cpuacct.stat")), keyed(r.text("cpu", "cpu.stat"))
	c := &CPU{Total: time.Duration(number(total)), User: time.Duration(ticks["user"]) * (time.Second / userHz), System: time.Duration(ticks["system"]) * (time.Second / userHz),
		Shares: number(r.text("cpu", "cpu.shares")), Periods: stat["nr_periods"], Throttled: stat["nr_throttled"], ThrottledTime: time.Duration(stat["throttled_time"])}
	if quota := number(r.text("cpu", "cpu.cfs_quota_us")); quota > 0 {
		c.Quota, c.Period = micros(quota), micros(number(r.text("cpu", "cpu.cfs_period_us")))
	}
	return c
}

func (r reader) memory2() *Memory {
	usage := r.text("memory", "memory.current")
	if usage == "" {
		return nil
	}
	stat, events := keyed(r.text("memory", "memory.stat")), keyed(r.text("memory", "memory.events"))
	m := &Memory{Usage: count(usage), RSS: stat["anon"], Cache: stat["file"], Mapped: stat["file_mapped"], Kernel: stat["kernel"],
		ActiveFile: stat["active_file"], InactiveFile: stat["inactive_file"], Faults: stat["pgfault"], MajorFaults: stat["pgmajfault"],
		Peak: r.count("memory", "memory.peak"), Limit: r.count("memory", "memory.max"), Failures: events["max"], Kills: events["oom_kill"]}
	m.Swap, m.SwapLimit = told(r.text("memory", "memory.swap.current")), told(r.text("memory", "memory.swap.max"))
	return m.done()
}

func (r reader) memory1() *Memory {
	usage := r.text("memory", "memory.usage_in_bytes")
	if usage == "" {
		return nil
	}
	stat := keyed(r.text("memory", "memory.stat"))
	m := &Memory{Usage: count(usage), RSS: stat["total_rss"], Cache: stat["total_cache"], Mapped: stat["total_mapped_file"], Kernel: r.count("memory", "memory.kmem.usage_in_bytes"),
		ActiveFile: stat["total_active_file"], InactiveFile: stat["total_inactive_file"], Faults: stat["total_pgfault"], MajorFaults: stat["total_pgmajfault"],
		Peak: r.count("memory", "memory.max_usage_in_bytes"), Limit: r.count("memory", "memory.limit_in_bytes"), Failures: r.count("memory", "memory.failcnt"),
		Kills: keyed(r.text("memory", "memory.oom_control"))["oom_kill"]}
	if swap, ok := stat["total_swap"]; ok { // there is none without accounting of swap
		m.Swap = &swap
	}
	m.SwapLimit = told(r.text("memory", "memory.memsw.limit_in_bytes"))
	return m.done()
}

// done derives the working set: what cannot be given back at once.
func (m *Memory) done() *Memory {
	m.WorkingSet = m.Usage - min(m.Usage, m.InactiveFile)
	return m
}

func (r reader) tasks() *Tasks {
	threads := r.text("pids", "pids.current")
	if threads == "" {
		return nil
	}
	return &Tasks{Threads: count(threads), MaxThreads: r.count("pids", "pids.max"), Processes: len(r.t.Procs(r.at))}
}

func (r reader) io2() []IO {
	var out []IO
	for line := range strings.Lines(r.text("io", "io.stat")) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		d := IO{Device: fields[0]}
		for _, f := range fields[1:] {
			name, value, _ := strings.Cut(f, "=")
			switch name {
			case "rbytes":
				d.ReadBytes = count(value)
			case "wbytes":
				d.WriteBytes = count(value)
			case "rios":
				d.ReadOperations = count(value)
			case "wios":
				d.WriteOperations = count(value)
			}
		}
		out = append(out, d)
	}
	return out
}

// io1 reads what the throttling has counted: all that went to devices. Those
// below are included where the kernel is new enough to say so.
func (r reader) io1() []IO {
	var out []IO
	each := func(file string, take func(d *IO, operation string, n uint64)) {
		text := r.text("blkio", file+"_recursive")
		if text == "" {
			text = r.text("blkio", file)
		}
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) != 3 { // the last line is the sum
				continue
			}
			i := slices.IndexFunc(out, func(d IO) bool { return d.Device == fields[0] })
			if i < 0 {
				i, out = len(out), append(out, IO{Device: fields[0]})
			}
			take(&out[i], fields[1], count(fields[2]))
		}
	}
	each("blkio.throttle.io_service_bytes", func(d *IO, operation string, n uint64) {
		switch operation {
		case "Read":
			d.ReadBytes = n
		case "Write":
			d.WriteBytes = n
		}
	})
	each("blkio.throttle.io_serviced", func(d *IO, operation string, n uint64) {
		switch operation {
		case "Read":
			d.ReadOperations = n
		case "Write":
			d.WriteOperations = n
		}
	})
	return out
}

func (r reader) pressure() []Pressure {
	var out []Pressure
	for _, resource := range []string{"cpu", "memory", "io"} {
		text := r.text(resource, resource+".pressure")
		if text == "" {
			continue // the kernel does not measure it
		}
		p := Pressure{Resource: resource}
		s := bufio.NewScanner(strings.NewReader(text))
		for s.Scan() {
			kind, rest, _ := strings.Cut(s.Text(), " ")
			_, total, _ := strings.Cut(rest, "total=")
			switch kind {
			case "some":
				p.Waiting = micros(count(total))
			case "full":
				p.Full = micros(count(total))
			}
		}
		out = append(out, p)
	}
	return out
}
