package cgroup

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fake is a tree of files in the place of the kernel's.
func fake(t *testing.T, files map[string]string) *Tree {
	t.Helper()
	at := t.TempDir()
	for name, text := range files {
		path := filepath.Join(at, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := OpenAt(at, "pods")
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestRead(t *testing.T) {
	swap, swapLimit, both, none := uint64(4096), uint64(8192), uint64(30000), uint64(0)
	now := time.Unix(1000, 0)
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  Usage
	}{
		{"version 2", map[string]string{
			"cgroup.controllers":         "cpu memory",
			"pods/a/cpu.stat":            "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 500000\n",
			"pods/a/cpu.max":             "50000 100000\n",
			"pods/a/cpu.weight":          "39\n",
			"pods/a/memory.current":      "10000\n",
			"pods/a/memory.stat":         "anon 4000\nfile 6000\nkernel 100\nfile_mapped 50\ninactive_file 1000\nactive_file 2000\npgfault 7\npgmajfault 2\n",
			"pods/a/memory.max":          "max\n",
			"pods/a/memory.peak":         "12000\n",
			"pods/a/memory.swap.current": "4096\n",
			"pods/a/memory.swap.max":     "8192\n",
			"pods/a/memory.events":       "low 0\nhigh 0\nmax 5\noom 1\noom_kill 1\n",
			"pods/a/io.stat":             "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
			"pods/a/pids.current":        "3\n", "pods/a/pids.max": "100\n", "pods/a/cgroup.procs": "11\n12\n",
			"pods/a/cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=2000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n",
		}, Usage{At: now,
			CPU: &CPU{Total: 3 * time.Second, User: 2 * time.Second, System: time.Second, Quota: 50 * time.Millisecond, Period: 100 * time.Millisecond, Shares: 998,
				Periods: 10, Throttled: 4, ThrottledTime: 500 * time.Millisecond},
			Memory: &Memory{Usage: 10000, WorkingSet: 9000, RSS: 4000, Cache: 6000, Mapped: 50, Kernel: 100, Swap: &swap, SwapLimit: &swapLimit, ActiveFile: 2000, InactiveFile: 1000,
				Peak: 12000, Failures: 5, Faults: 7, MajorFaults: 2, Kills: 1},
			Tasks:    &Tasks{Threads: 3, MaxThreads: 100, Processes: 2},
			IO:       []IO{{"8:0", 1, 2, 3, 4}},
			Pressure: []Pressure{{"cpu", 2 * time.Second, time.Second}}}},
		{"version 1", map[string]string{
			"cpu,cpuacct/pods/a/cpuacct.usage":                       "3000000000\n",
			"cpu,cpuacct/pods/a/cpuacct.stat":                        "user 200\nsystem 100\n",
			"cpu,cpuacct/pods/a/cpu.stat":                            "nr_periods 10\nnr_throttled 4\nthrottled_time 500000000\n",
			"cpu,cpuacct/pods/a/cpu.cfs_quota_us":                    "50000\n",
			"cpu,cpuacct/pods/a/cpu.cfs_period_us":                   "100000\n",
			"cpu,cpuacct/pods/a/cpu.shares":                          "1024\n",
			"memory/pods/a/memory.usage_in_bytes":                    "10000\n",
			"memory/pods/a/memory.limit_in_bytes":                    "20000\n",
			"memory/pods/a/memory.memsw.limit_in_bytes":              "30000\n",
			"memory/pods/a/memory.failcnt":                           "5\n",
			"memory/pods/a/memory.stat":                              "cache 1\nrss 2\ntotal_cache 6000\ntotal_rss 4000\ntotal_inactive_file 11000\ntotal_pgfault 7\n",
			"memory/pods/a/memory.oom_control":                       "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
			"memory/pods/a/cgroup.procs":                             "11\n",
			"pids/pods/a/pids.current":                               "3\n",
			"pids/pods/a/pids.max":                                   "max\n",
			"blkio/pods/a/blkio.throttle.io_service_bytes_recursive": "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\n8:16 Read 9\nTotal 12\n",
			"blkio/pods/a/blkio.throttle.io_serviced":                "8:0 Read 3\n8:0 Write 4\nTotal 7\n",
			"cpu,cpuacct/other":                                      "",
		}, Usage{At: now,
			CPU: &CPU{Total: 3 * time.Second, User: 2 * time.Second, System: time.Second, Quota: 50 * time.Millisecond, Period: 100 * time.Millisecond, Shares: 1024,
				Periods: 10, Throttled: 4, ThrottledTime: 500 * time.Millisecond},
			Memory: &Memory{Usage: 10000, RSS: 4000, Cache: 6000, InactiveFile: 11000, Limit: 20000, SwapLimit: &both, Failures: 5, Faults: 7, Kills: 2},
			Tasks:  &Tasks{Threads: 3, Processes: 1},
			IO:     []IO{{"8:0", 1, 2, 3, 4}, {"8:16", 9, 0, 0, 0}}}},
		{"no limit of swap", map[string]string{"cgroup.controllers": "memory", "pods/a/cpu.stat": "usage_usec 1\n", "pods/a/memory.current": "5\n", "pods/a/memory.swap.max": "max\n"},
			Usage{At: now, CPU: &CPU{Total: time.Microsecond}, Memory: &Memory{Usage: 5, WorkingSet: 5, SwapLimit: &none}}},
		{"without controllers", map[string]string{"cgroup.controllers": "", "pods/a/cgroup.procs": ""}, Usage{At: now}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tree := fake(t, tt.files)
			got, ok := tree.Read("/pods/a", now)
			if !reflect.DeepEqual(got, tt.want) || ok != (tt.want.CPU != nil) {
				t.Errorf("got  %+v %+v %+v %v\nwant %+v %+v %+v", got, got.CPU, got.Memory, ok, tt.want, tt.want.CPU, tt.want.Memory)
			}
			if _, ok := tree.Read("/pods/b", now); ok {
				t.Error("what is not there was read")
			}
		})
	}
}

func TestContainerPath(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}
	tree := fake(t, map[string]string{"cgroup.controllers": "", "pods/besteffort/podu/one/x": "", "pods/besteffort/podu/crio-two/x": ""})
	for id, want := range map[string]string{"one": "/pods/besteffort/podu/one", "two": "/pods/besteffort/podu/crio-two", "three": "", "": ""} {
		if got := tree.ContainerPath(pod, id); got != want {
			t.Errorf("%q: %q, want %q", id, got, want)
		}
	}
}
