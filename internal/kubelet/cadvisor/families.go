package cadvisor

import (
	"slices"
	"strings"
	"time"

	"knarr.dev/knarr/internal/kubelet/cgroup"
)

// Families are all metrics. device names a block device by its number.
func Families(device func(number string) string) []Family {
	return slices.Concat(taskFamilies(), memoryFamilies(), trafficFamilies(device))
}

func taskFamilies() []Family {
	return []Family{
		gauge("last_seen", "When the cgroup was last read.", func(m *Measured) []Figure { return one(float64(m.Usage.At.Unix())) }),
		gauge("start_time_seconds", "When it began.", func(m *Measured) []Figure {
			if m.Started.IsZero() {
				return nil
			}
			return one(float64(m.Started.UnixNano()) / 1e9)
		}),
		counter("cpu_usage_seconds_total", "CPU time.", func(m *Measured) []Figure {
			if m.Usage.CPU == nil {
				return nil
			}
			return []Figure{{m.Usage.CPU.Total.Seconds(), []string{"total"}}}
		}, "cpu"),
		counter("cpu_user_seconds_total", "CPU time of programs.", ofCPU(func(u *cgroup.CPU) float64 { return u.User.Seconds() })),
		counter("cpu_system_seconds_total", "CPU time in the kernel.", ofCPU(func(u *cgroup.CPU) float64 { return u.System.Seconds() })),
		counter("cpu_cfs_periods_total", "Periods of the limit that have passed.", ofQuota(func(u *cgroup.CPU) float64 { return float64(u.Periods) })),
		counter("cpu_cfs_throttled_periods_total", "Those in which the limit was reached.", ofQuota(func(u *cgroup.CPU) float64 { return float64(u.Throttled) })),
		counter("cpu_cfs_throttled_seconds_total", "Time for which tasks had to wait because of it.", ofQuota(func(u *cgroup.CPU) float64 { return u.ThrottledTime.Seconds() })),
		gauge("spec_cpu_quota", "The limit, in microseconds of a period.", ofQuota(func(u *cgroup.CPU) float64 { return float64(u.Quota.Microseconds()) })),
		gauge("spec_cpu_period", "The period, in microseconds.", ofQuota(func(u *cgroup.CPU) float64 { return float64(u.Period.Microseconds()) })),
		gauge("spec_cpu_shares", "The weight.", func(m *Measured) []Figure {
			if m.Usage.CPU == nil || m.Usage.CPU.Shares == 0 {
				return nil
			}
			return one(float64(m.Usage.CPU.Shares))
		}),
		gauge("processes", "Processes directly in it.", ofTasks(func(t *cgroup.Tasks) float64 { return float64(t.Processes) })),
		gauge("file_descriptors", "Files that its processes have open.", ofFiles(func(f *Files) uint64 { return f.Descriptors })),
		gauge("sockets", "Sockets among them.", ofFiles(func(f *Files) uint64 { return f.Sockets })),
		gauge("threads", "Threads.", ofTasks(func(t *cgroup.Tasks) float64 { return float64(t.Threads) })),
		gauge("threads_max", "How many there may be; 0: no limit.", ofTasks(func(t *cgroup.Tasks) float64 { return float64(t.MaxThreads) })),
		counter("pressure_cpu_waiting_seconds_total", "Time for which a task waited for CPU.", ofPressure("cpu", func(p cgroup.Pressure) time.Duration { return p.Waiting })),
		counter("pressure_cpu_stalled_seconds_total", "Time for which all did.", ofPressure("cpu", func(p cgroup.Pressure) time.Duration { return p.Full })),
		counter("pressure_memory_waiting_seconds_total", "Time for which a task waited for memory.", ofPressure("memory", func(p cgroup.Pressure) time.Duration { return p.Waiting })),
		counter("pressure_memory_stalled_seconds_total", "Time for which all did.", ofPressure("memory", func(p cgroup.Pressure) time.Duration { return p.Full })),
		counter("pressure_io_waiting_seconds_total", "Time for which a task waited for a device.", ofPressure("io", func(p cgroup.Pressure) time.Duration { return p.Waiting })),
		counter("pressure_io_stalled_seconds_total", "Time for which all did.", ofPressure("io", func(p cgroup.Pressure) time.Duration { return p.Full })),
	}
}

func memoryFamilies() []Family {
	return []Family{
		gauge("memory_usage_bytes", "Memory, with what could be given back.", ofMemory(func(u *cgroup.Memory) uint64 { return u.Usage })),
		gauge("memory_working_set_bytes", "Memory without idle pages of files.", ofMemory(func(u *cgroup.Memory) uint64 { return u.WorkingSet })),
		gauge("memory_rss", "Memory that no file stands behind.", ofMemory(func(u *cgroup.Memory) uint64 { return u.RSS })),
		gauge("memory_cache", "Pages of files.", ofMemory(func(u *cgroup.Memory) uint64 { return u.Cache })),
		gauge("memory_mapped_file", "Those that are mapped.", ofMemory(func(u *cgroup.Memory) uint64 { return u.Mapped })),
		gauge("memory_kernel_usage", "Memory of the kernel.", ofMemory(func(u *cgroup.Memory) uint64 { return u.Kernel })),
		gauge("memory_total_active_file_bytes", "Pages of files that are in use.", ofMemory(func(u *cgroup.Memory) uint64 { return u.ActiveFile })),
		gauge("memory_total_inactive_file_bytes", "Pages of files that are not.", ofMemory(func(u *cgroup.Memory) uint64 { return u.InactiveFile })),
		gauge("memory_swap", "Memory that was swapped out.", func(m *Measured) []Figure {
			if m.Usage.Memory == nil || m.Usage.Memory.Swap == nil {
				return nil
			}
			return one(float64(*m.Usage.Memory.Swap))
		}),
		gauge("memory_max_usage_bytes", "The most that there was.", func(m *Measured) []Figure {
			if m.Usage.Memory == nil || m.Usage.Memory.Peak == 0 {
				return nil
			}
			return one(float64(m.Usage.Memory.Peak))
		}),
		counter("memory_failcnt", "How often the limit was hit.", ofMemory(func(u *cgroup.Memory) uint64 { return u.Failures })),
		counter("oom_events_total", "Processes that the kernel has killed for want of memory.", ofMemory(func(u *cgroup.Memory) uint64 { return u.Kills })),
		gauge("spec_memory_limit_bytes", "The limit; 0: none.", ofMemory(func(u *cgroup.Memory) uint64 { return u.Limit })),
		gauge("spec_memory_swap_limit_bytes", "The limit of memory and swap together (cgroup version 1) or of swap (version 2); 0: none.", func(m *Measured) []Figure {
			if m.Usage.Memory == nil || m.Usage.Memory.SwapLimit == nil {
				return nil
			}
			return one(float64(*m.Usage.Memory.SwapLimit))
		}),
		counter("memory_failures_total", "Faults of pages.", func(m *Measured) []Figure {
			if m.Usage.Memory == nil {
				return nil
			}
			return []Figure{{float64(m.Usage.Memory.Faults), []string{"pgfault", "hierarchy"}}, {float64(m.Usage.Memory.MajorFaults), []string{"pgmajfault", "hierarchy"}}}
		}, "failure_type", "scope"),
	}
}

func trafficFamilies(device func(string) string) []Family {
	return []Family{
		counter("blkio_device_usage_total", "Bytes read from and written to devices.", func(m *Measured) []Figure {
			var out []Figure
			for _, d := range m.Usage.IO {
				major, minor, _ := strings.Cut(d.Device, ":")
				name := device(d.Device)
				out = append(out, Figure{float64(d.ReadBytes), []string{name, major, minor, "Read"}}, Figure{float64(d.WriteBytes), []string{name, major, minor, "Write"}})
			}
			return out
		}, "device", "major", "minor", "operation"),
		counter("fs_reads_bytes_total", "Bytes read from devices.", ofIO(device, func(d cgroup.IO) uint64 { return d.ReadBytes }), "device"),
		counter("fs_reads_total", "Reads from devices.", ofIO(device, func(d cgroup.IO) uint64 { return d.ReadOperations }), "device"),
		counter("fs_writes_bytes_total", "Bytes written to devices.", ofIO(device, func(d cgroup.IO) uint64 { return d.WriteBytes }), "device"),
		counter("fs_writes_total", "Writes to devices.", ofIO(device, func(d cgroup.IO) uint64 { return d.WriteOperations }), "device"),
		gauge("fs_usage_bytes", "Bytes that it takes on its disk.", ofDisk(func(d *Disk) uint64 { return d.Used }), "device"),
		gauge("fs_limit_bytes", "The size of that disk.", ofDisk(func(d *Disk) uint64 { return d.Size }), "device"),
		gauge("fs_inodes_total", "Its files and directories at most.", ofDisk(func(d *Disk) uint64 { return d.Inodes }), "device"),
		gauge("fs_inodes_free", "How many more there may be.", ofDisk(func(d *Disk) uint64 { return d.InodesFree }), "device"),
		counter("network_receive_bytes_total", "Bytes that came in.", ofNetwork(func(d Interface) uint64 { return d.Receive.Bytes }), "interface"),
		counter("network_receive_packets_total", "Packets that came in.", ofNetwork(func(d Interface) uint64 { return d.Receive.Packets }), "interface"),
		counter("network_receive_packets_dropped_total", "Those that were dropped.", ofNetwork(func(d Interface) uint64 { return d.Receive.Dropped }), "interface"),
		counter("network_receive_errors_total", "Those that were broken.", ofNetwork(func(d Interface) uint64 { return d.Receive.Errors }), "interface"),
		counter("network_transmit_bytes_total", "Bytes that went out.", ofNetwork(func(d Interface) uint64 { return d.Transmit.Bytes }), "interface"),
		counter("network_transmit_packets_total", "Packets that went out.", ofNetwork(func(d Interface) uint64 { return d.Transmit.Packets }), "interface"),
		counter("network_transmit_packets_dropped_total", "Those that were dropped.", ofNetwork(func(d Interface) uint64 { return d.Transmit.Dropped }), "interface"),
		counter("network_transmit_errors_total", "Those that could not go.", ofNetwork(func(d Interface) uint64 { return d.Transmit.Errors }), "interface"),
	}
}

// ofCPU and the like leave out what the kernel does not tell.
func ofCPU(get func(*cgroup.CPU) float64) func(*Measured) []Figure {
	return func(m *Measured) []Figure {
		if m.Usage.CPU == nil {
			return nil
		}
		return one(get(m.Usage.CPU))
	}
}

// ofQuota is for cgroups that have one.
func ofQuota(get func(*cgroup.CPU) float64) func(*Measured) []Figure {
	return func(m *Measured) []Figure {
		if m.Usage.CPU == nil || m.Usage.CPU.Quota == 0 {
			return nil
		}
		return one(get(m.Usage.CPU))
	}
}

func ofMemory(get func(*cgroup.Memory) uint64) func(*Measured) []Figure {
	return func(m *Measured) []Figure {
		if m.Usage.Memory == nil {
			return nil
		}
		return one(float64(get(m.Usage.Memory)))
	}
}

func ofTasks(get func(*cgroup.Tasks) float64) func(*Measured) []Figure {
	return func(m *Measured) []Figure {
		if m.Usage.Tasks == nil {
			return nil
		}
		return one(get(m.Usage.Tasks))
	}
}

func ofPressure(resource string, get func(cgroup.Pressure) time.Duration) func(*Measured) []Figure {
	return func(m *Measured) []Figure {
		for _, p := range m.Usage.Pressure {
			if p.Resource == resource {
				return one(get(p).Seconds())
			}
		}
		return nil
	}
}

func ofNetwork(get func(Interface) uint64) func(*Measured) []Figure {
	return func(m *Measured) []Figure {
		var out []Figure
		for _, d := range m.Network {
			out = append(out, Figure{float64(get(d)), []string{d.Name}})
		}
		return out
	}
}

func ofIO(device func(string) string, get func(cgroup.IO) uint64) func(*Measured) []Figure {
	return func(m *Measured) []Figure {
		var out []Figure
		for _, d := range m.Usage.IO {
			out = append(out, Figure{float64(get(d)), []string{device(d.Device)}})
		}
		return out
	}
}

func ofDisk(get func(*Disk) uint64) func(*Measured) []Figure {
	return func(m *Measured) []Figure {
		if m.Disk == nil {
			return nil
		}
		return []Figure{{float64(get(m.Disk)), []string{m.Disk.Device}}}
	}
}

func ofFiles(get func(*Files) uint64) func(*Measured) []Figure {
	return func(m *Measured) []Figure {
		if m.Files == nil {
			return nil
		}
		return one(float64(get(m.Files)))
	}
}

func one(v float64) []Figure { return []Figure{{Value: v}} }
