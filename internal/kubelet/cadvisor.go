package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/kubelet/cgroup"
)

// cadvisor shows cgroups as the field's dashboards know them from cAdvisor.
// The families that it shows are those that the kernel tells by cgroups and
// /proc; there is no collecting in between.
type cadvisor struct{ k *Kubelet }

var cadvisorLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// family is a metric of cgroups.
type family struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	values func(*measured) []figure
}

// figure is a value and those of the labels that only its family has.
type figure struct {
	value float64
	more  []string
}

func newFamily(name, help string, kind prometheus.ValueType, values func(*measured) []figure, labels ...string) family {
	return family{prometheus.NewDesc("container_"+name, help, append(cadvisorLabels[:len(cadvisorLabels):len(cadvisorLabels)], labels...), nil), kind, values}
}

func one(v float64) []figure { return []figure{{value: v}} }

// ofCPU and the like leave out what the kernel does not tell.
func ofCPU(get func(*cgroup.CPU) float64) func(*measured) []figure {
	return func(m *measured) []figure {
		if m.usage.CPU == nil {
			return nil
		}
		return one(get(m.usage.CPU))
	}
}

// ofQuota is for cgroups that have one.
func ofQuota(get func(*cgroup.CPU) float64) func(*measured) []figure {
	return func(m *measured) []figure {
		if m.usage.CPU == nil || m.usage.CPU.Quota == 0 {
			return nil
		}
		return one(get(m.usage.CPU))
	}
}

func ofMemory(get func(*cgroup.Memory) uint64) func(*measured) []figure {
	return func(m *measured) []figure {
		if m.usage.Memory == nil {
			return nil
		}
		return one(float64(get(m.usage.Memory)))
	}
}

func ofTasks(get func(*cgroup.Tasks) float64) func(*measured) []figure {
	return func(m *measured) []figure {
		if m.usage.Tasks == nil {
			return nil
		}
		return one(get(m.usage.Tasks))
	}
}

func ofPressure(resource string, get func(cgroup.Pressure) time.Duration) func(*measured) []figure {
	return func(m *measured) []figure {
		for _, p := range m.usage.Pressure {
			if p.Resource == resource {
				return one(get(p).Seconds())
			}
		}
		return nil
	}
}

func ofNetwork(get func(netDevice) uint64) func(*measured) []figure {
	return func(m *measured) []figure {
		var out []figure
		for _, d := range m.network {
			out = append(out, figure{float64(get(d)), []string{d.name}})
		}
		return out
	}
}

// ofIO finds the names of devices as the machine has them.
func (c cadvisor) ofIO(get func(cgroup.IO) uint64) func(*measured) []figure {
	return func(m *measured) []figure {
		var out []figure
		for _, d := range m.usage.IO {
			out = append(out, figure{float64(get(d)), []string{c.k.deviceName(d.Device)}})
		}
		return out
	}
}

// deviceName of major:minor; that itself if the kernel has no other.
func (k *Kubelet) deviceName(number string) string {
	data, err := os.ReadFile(filepath.Join(k.sys, "dev/block", number, "uevent"))
	if err != nil {
		return number
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			return "/dev/" + name
		}
	}
	return number
}

// deviceOf what lies at path.
func (k *Kubelet) deviceOf(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	return k.deviceName(fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
}

// families of one scrape.
func (c cadvisor) families() []family {
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	return slices.Concat(taskFamilies(counter, gauge), memoryFamilies(counter, gauge), c.trafficFamilies(counter, gauge))
}

func taskFamilies(counter, gauge prometheus.ValueType) []family {
	return []family{
		newFamily("last_seen", "When the cgroup was last read.", gauge, func(m *measured) []figure { return one(float64(m.usage.At.Unix())) }),
		newFamily("start_time_seconds", "When it began.", gauge, func(m *measured) []figure {
			if m.started.IsZero() {
				return nil
			}
			return one(float64(m.started.UnixNano()) / 1e9)
		}),
		newFamily("cpu_usage_seconds_total", "CPU time.", counter, func(m *measured) []figure {
			if m.usage.CPU == nil {
				return nil
			}
			return []figure{{m.usage.CPU.Total.Seconds(), []string{"total"}}}
		}, "cpu"),
		newFamily("cpu_user_seconds_total", "CPU time of programs.", counter, ofCPU(func(u *cgroup.CPU) float64 { return u.User.Seconds() })),
		newFamily("cpu_system_seconds_total", "CPU time in the kernel.", counter, ofCPU(func(u *cgroup.CPU) float64 { return u.System.Seconds() })),
		newFamily("cpu_cfs_periods_total", "Periods of the limit that have passed.", counter, ofQuota(func(u *cgroup.CPU) float64 { return float64(u.Periods) })),
		newFamily("cpu_cfs_throttled_periods_total", "Those in which the limit was reached.", counter, ofQuota(func(u *cgroup.CPU) float64 { return float64(u.Throttled) })),
		newFamily("cpu_cfs_throttled_seconds_total", "Time for which tasks had to wait because of it.", counter, ofQuota(func(u *cgroup.CPU) float64 { return u.ThrottledTime.Seconds() })),
		newFamily("spec_cpu_quota", "The limit, in microseconds of a period.", gauge, ofQuota(func(u *cgroup.CPU) float64 { return float64(u.Quota.Microseconds()) })),
		newFamily("spec_cpu_period", "The period, in microseconds.", gauge, ofQuota(func(u *cgroup.CPU) float64 { return float64(u.Period.Microseconds()) })),
		newFamily("spec_cpu_shares", "The weight.", gauge, func(m *measured) []figure {
			if m.usage.CPU == nil || m.usage.CPU.Shares == 0 {
				return nil
			}
			return one(float64(m.usage.CPU.Shares))
		}),
		newFamily("processes", "Processes directly in it.", gauge, ofTasks(func(t *cgroup.Tasks) float64 { return float64(t.Processes) })),
		newFamily("threads", "Threads.", gauge, ofTasks(func(t *cgroup.Tasks) float64 { return float64(t.Threads) })),
		newFamily("threads_max", "How many there may be; 0: no limit.", gauge, ofTasks(func(t *cgroup.Tasks) float64 { return float64(t.MaxThreads) })),
		newFamily("pressure_cpu_waiting_seconds_total", "Time for which a task waited for CPU.", counter, ofPressure("cpu", func(p cgroup.Pressure) time.Duration { return p.Waiting })),
		newFamily("pressure_cpu_stalled_seconds_total", "Time for which all did.", counter, ofPressure("cpu", func(p cgroup.Pressure) time.Duration { return p.Full })),
		newFamily("pressure_memory_waiting_seconds_total", "Time for which a task waited for memory.", counter, ofPressure("memory", func(p cgroup.Pressure) time.Duration { return p.Waiting })),
		newFamily("pressure_memory_stalled_seconds_total", "Time for which all did.", counter, ofPressure("memory", func(p cgroup.Pressure) time.Duration { return p.Full })),
		newFamily("pressure_io_waiting_seconds_total", "Time for which a task waited for a device.", counter, ofPressure("io", func(p cgroup.Pressure) time.Duration { return p.Waiting })),
		newFamily("pressure_io_stalled_seconds_total", "Time for which all did.", counter, ofPressure("io", func(p cgroup.Pressure) time.Duration { return p.Full })),
	}
}

func memoryFamilies(counter, gauge prometheus.ValueType) []family {
	return []family{
		newFamily("memory_usage_bytes", "Memory, with what could be given back.", gauge, ofMemory(func(u *cgroup.Memory) uint64 { return u.Usage })),
		newFamily("memory_working_set_bytes", "Memory without idle pages of files.", gauge, ofMemory(func(u *cgroup.Memory) uint64 { return u.WorkingSet })),
		newFamily("memory_rss", "Memory that no file stands behind.", gauge, ofMemory(func(u *cgroup.Memory) uint64 { return u.RSS })),
		newFamily("memory_cache", "Pages of files.", gauge, ofMemory(func(u *cgroup.Memory) uint64 { return u.Cache })),
		newFamily("memory_mapped_file", "Those that are mapped.", gauge, ofMemory(func(u *cgroup.Memory) uint64 { return u.Mapped })),
		newFamily("memory_kernel_usage", "Memory of the kernel.", gauge, ofMemory(func(u *cgroup.Memory) uint64 { return u.Kernel })),
		newFamily("memory_total_active_file_bytes", "Pages of files that are in use.", gauge, ofMemory(func(u *cgroup.Memory) uint64 { return u.ActiveFile })),
		newFamily("memory_total_inactive_file_bytes", "Pages of files that are not.", gauge, ofMemory(func(u *cgroup.Memory) uint64 { return u.InactiveFile })),
		newFamily("memory_swap", "Memory that was swapped out.", gauge, func(m *measured) []figure {
			if m.usage.Memory == nil || m.usage.Memory.Swap == nil {
				return nil
			}
			return one(float64(*m.usage.Memory.Swap))
		}),
		newFamily("memory_max_usage_bytes", "The most that there was.", gauge, func(m *measured) []figure {
			if m.usage.Memory == nil || m.usage.Memory.Peak == 0 {
				return nil
			}
			return one(float64(m.usage.Memory.Peak))
		}),
		newFamily("memory_failcnt", "How often the limit was hit.", counter, ofMemory(func(u *cgroup.Memory) uint64 { return u.Failures })),
		newFamily("oom_events_total", "Processes that the kernel has killed for want of memory.", counter, ofMemory(func(u *cgroup.Memory) uint64 { return u.Kills })),
		newFamily("spec_memory_limit_bytes", "The limit; 0: none.", gauge, ofMemory(func(u *cgroup.Memory) uint64 { return u.Limit })),
		newFamily("memory_failures_total", "Faults of pages.", counter, func(m *measured) []figure {
			if m.usage.Memory == nil {
				return nil
			}
			return []figure{{float64(m.usage.Memory.Faults), []string{"pgfault", "hierarchy"}}, {float64(m.usage.Memory.MajorFaults), []string{"pgmajfault", "hierarchy"}}}
		}, "failure_type", "scope"),
	}
}

func (c cadvisor) trafficFamilies(counter, gauge prometheus.ValueType) []family {
	return []family{
		newFamily("fs_reads_bytes_total", "Bytes read from devices.", counter, c.ofIO(func(d cgroup.IO) uint64 { return d.ReadBytes }), "device"),
		newFamily("fs_reads_total", "Reads from devices.", counter, c.ofIO(func(d cgroup.IO) uint64 { return d.ReadOperations }), "device"),
		newFamily("fs_writes_bytes_total", "Bytes written to devices.", counter, c.ofIO(func(d cgroup.IO) uint64 { return d.WriteBytes }), "device"),
		newFamily("fs_writes_total", "Writes to devices.", counter, c.ofIO(func(d cgroup.IO) uint64 { return d.WriteOperations }), "device"),
		newFamily("fs_usage_bytes", "Bytes in use of the disk that pods are on.", gauge, c.ofDisk(func(st *unix.Statfs_t) uint64 { return (st.Blocks - st.Bfree) * uint64(st.Bsize) }), "device"),
		newFamily("fs_limit_bytes", "Its size.", gauge, c.ofDisk(func(st *unix.Statfs_t) uint64 { return st.Blocks * uint64(st.Bsize) }), "device"),
		newFamily("fs_inodes_total", "Its files and directories at most.", gauge, c.ofDisk(func(st *unix.Statfs_t) uint64 { return st.Files }), "device"),
		newFamily("fs_inodes_free", "How many more there may be.", gauge, c.ofDisk(func(st *unix.Statfs_t) uint64 { return st.Ffree }), "device"),
		newFamily("network_receive_bytes_total", "Bytes that came in.", counter, ofNetwork(func(d netDevice) uint64 { return d.receive.bytes }), "interface"),
		newFamily("network_receive_packets_total", "Packets that came in.", counter, ofNetwork(func(d netDevice) uint64 { return d.receive.packets }), "interface"),
		newFamily("network_receive_packets_dropped_total", "Those that were dropped.", counter, ofNetwork(func(d netDevice) uint64 { return d.receive.dropped }), "interface"),
		newFamily("network_receive_errors_total", "Those that were broken.", counter, ofNetwork(func(d netDevice) uint64 { return d.receive.errors }), "interface"),
		newFamily("network_transmit_bytes_total", "Bytes that went out.", counter, ofNetwork(func(d netDevice) uint64 { return d.transmit.bytes }), "interface"),
		newFamily("network_transmit_packets_total", "Packets that went out.", counter, ofNetwork(func(d netDevice) uint64 { return d.transmit.packets }), "interface"),
		newFamily("network_transmit_packets_dropped_total", "Those that were dropped.", counter, ofNetwork(func(d netDevice) uint64 { return d.transmit.dropped }), "interface"),
		newFamily("network_transmit_errors_total", "Those that could not go.", counter, ofNetwork(func(d netDevice) uint64 { return d.transmit.errors }), "interface"),
	}
}

// ofDisk is of the machine only: what one pod takes of the disk no file tells.
func (c cadvisor) ofDisk(get func(*unix.Statfs_t) uint64) func(*measured) []figure {
	return func(m *measured) []figure {
		var st unix.Statfs_t
		if m.path != "/" || unix.Statfs(c.k.cfg.RootDir, &st) != nil {
			return nil
		}
		return []figure{{float64(get(&st)), []string{c.k.deviceOf(c.k.cfg.RootDir)}}}
	}
}

var (
	machineLabels   = []string{"boot_id", "machine_id", "system_uuid"}
	machineCPUs     = prometheus.NewDesc("machine_cpu_cores", "Processors of the machine.", machineLabels, nil)
	machineMemory   = prometheus.NewDesc("machine_memory_bytes", "Memory of the machine.", machineLabels, nil)
	machineSwap     = prometheus.NewDesc("machine_swap_bytes", "What the machine can swap to.", machineLabels, nil)
	scrapeErrorDesc = prometheus.NewDesc("container_scrape_error", "1: the cgroups cannot be read.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c cadvisor) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range c.families() {
		ch <- f.desc
	}
	for _, d := range []*prometheus.Desc{machineCPUs, machineMemory, machineSwap, scrapeErrorDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c cadvisor) Collect(ch chan<- prometheus.Metric) {
	all, _ := c.k.measure()
	failed := 0.0
	if len(all) == 0 { // there is always the root
		failed = 1
	}
	ch <- prometheus.MustNewConstMetric(scrapeErrorDesc, prometheus.GaugeValue, failed)
	m := &c.k.machine
	ids := []string{m.info.BootID, m.info.MachineID, m.info.SystemUUID}
	ch <- prometheus.MustNewConstMetric(machineCPUs, prometheus.GaugeValue, float64(m.cpus), ids...)
	ch <- prometheus.MustNewConstMetric(machineMemory, prometheus.GaugeValue, float64(m.memory), ids...)
	ch <- prometheus.MustNewConstMetric(machineSwap, prometheus.GaugeValue, float64(meminfo(c.k.proc)["SwapTotal"]), ids...)
	for _, f := range c.families() {
		for i := range all {
			m := &all[i]
			for _, v := range f.values(m) {
				labels := append([]string{m.container, m.path, m.image, m.id, m.namespace, m.pod}, v.more...)
				metric := prometheus.MustNewConstMetric(f.desc, f.kind, v.value, labels...)
				ch <- prometheus.NewMetricWithTimestamp(m.usage.At, metric)
			}
		}
	}
}
