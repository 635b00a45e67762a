package main

import (
	"bufio"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// workload is one call of the load generator; its figures are printed under
// prefix, CPU per operation computed from the process's CPU seconds.
type workload struct {
	prefix string
	args   []string
	ops    int // operations of the run; 0: unknown
}

// target is a cluster that the load generator is let loose on.
type target struct {
	prefix     string // of its figures
	kubeconfig string
	processes  string // as -proc of the generator has them
	pids       []int
}

func (t *target) cpu() (seconds float64) {
	for _, pid := range t.pids {
		seconds += cpuSeconds(pid)
	}
	return seconds
}

func (t *target) rss() (mib float64) {
	for _, pid := range t.pids {
		rss, _ := memory(pid)
		mib += rss
	}
	return mib
}

func (b *bench) api() error {
	if b.apibench == "" {
		return nil
	}
	n := fmt.Sprint(b.pods)
	t, err := b.self()
	if err != nil {
		return err
	}
	b.workload(t, workload{"create.pods", []string{"create", "-kind", "pods", "-n", n, "-c", "32"}, b.pods})
	report("pods10k.rss", t.rss(), "MiB")
	b.requests(t)
	if err := b.fresh(); err != nil {
		return err
	}
	if t, err = b.self(); err != nil {
		return err
	}
	b.workload(t, workload{"cleanup", []string{"cleanup"}, b.pods})
	return b.ownPlacements()
}

// requests are the workloads on the pods that create has made.
func (b *bench) requests(t *target) {
	for _, w := range []workload{
		{"get.pods", []string{"get", "-n", fmt.Sprint(b.pods), "-c", "32"}, b.pods},
		{"list", []string{"list"}, 0},
		{"watch", []string{"watch", "-w", "1000", "-m", "200"}, 200 * 1000},
		{"update", []string{"update", "-modes", "put,merge,strategic,apply"}, 0},
	} {
		b.workload(t, w)
	}
	report(t.prefix+"churn.rss", t.rss(), "MiB")
}

// self is the cluster that is measured.
func (b *bench) self() (*target, error) {
	pid, err := b.pid()
	return &target{kubeconfig: b.kubeconfig(), processes: fmt.Sprintf("knarr=%d", pid), pids: []int{pid}}, err
}

// fresh starts the cluster anew, with the pods on its disk, and says how much
// memory that takes once it is quiet.
func (b *bench) fresh() error {
	if _, err := b.restart(); err != nil {
		return err
	}
	if err := b.pause(20 * time.Second); err != nil {
		return err
	}
	t, err := b.self()
	if err == nil {
		report("pods10k.fresh.rss", t.rss(), "MiB")
	}
	return err
}

var figure = regexp.MustCompile(`^(\S+)\s+([0-9.e+-]+)\s*(\S*)$`)

// figure is the name of one that the load generator has printed: two workloads
// may be the same to it.
func (w *workload) figure(name string) string {
	if rest, ok := strings.CutPrefix(name, w.args[0]+"."); ok && !strings.HasPrefix(w.prefix, w.args[0]) {
		return w.prefix + "." + rest
	}
	return name
}

// workload runs and reports, and says whether it did what it should; one that
// fails must not hide the others' figures.
func (b *bench) workload(t *target, w workload) bool {
	args := []string{w.args[0], "-kubeconfig", t.kubeconfig, "-proc", t.processes, "-timeout", "10m"}
	before := t.cpu()
	out, err := b.sh(b.apibench, append(args, w.args[1:]...)...)
	cpu := t.cpu() - before
	for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); {
		if m := figure.FindStringSubmatch(s.Text()); m != nil {
			v, perr := strconv.ParseFloat(m[2], 64)
			if perr == nil {
				report(t.prefix+w.figure(m[1]), v, m[3])
			}
		}
	}
	if w.ops > 0 {
		report(t.prefix+w.prefix+".cpu", cpu/float64(w.ops)*1000, "ms/op")
	} else {
		report(t.prefix+w.prefix+".cpu.total", cpu, "s")
	}
	if err != nil {
		fmt.Printf("%-26s failed: %v\n", t.prefix+w.prefix, err)
	}
	return err == nil
}
