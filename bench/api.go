package main

import (
	"bufio"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// workload is one call of the load generator; its figures are printed under
// prefix, CPU per operation computed from the process's CPU seconds.
type workload struct {
	prefix string
	args   []string
	ops    int // operations of the run; 0: unknown
}

func (b *bench) api() error {
	if b.apibench == "" {
		return nil
	}
	n := fmt.Sprint(b.pods)
	for _, w := range []workload{
		{"create.pods", []string{"create", "-kind", "pods", "-n", n, "-c", "32"}, b.pods},
		{"get.pods", []string{"get", "-n", n, "-c", "32"}, b.pods},
		{"list", []string{"list"}, 0},
		{"watch", []string{"watch", "-w", "1000", "-m", "200"}, 200 * 1000},
		{"update", []string{"update", "-modes", "put,merge,strategic"}, 0},
		{"cleanup", []string{"cleanup"}, b.pods},
		{"schedule", []string{"schedule", "-nodes", "1000", "-pods", "5000"}, 5000},
		{"schedule.cleanup", []string{"cleanup"}, 0},
	} {
		if err := b.workload(w); err != nil {
			// One workload that fails must not hide the others' figures.
			fmt.Printf("%-26s failed: %v\n", w.prefix, err)
		}
	}
	return nil
}

var figure = regexp.MustCompile(`^(\S+)\s+([0-9.e+-]+)\s*(\S*)$`)

func (b *bench) workload(w workload) error {
	pid, err := b.pid()
	if err != nil {
		return err
	}
	args := []string{b.apibench, w.args[0], "-kubeconfig", b.kubeconfig(), "-proc", fmt.Sprintf("knarr=%d", pid), "-timeout", "5m"}
	before := cpuSeconds(pid)
	out, err := b.sh(args[0], append(args[1:], w.args[1:]...)...)
	cpu := cpuSeconds(pid) - before
	for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); {
		if m := figure.FindStringSubmatch(s.Text()); m != nil {
			v, perr := strconv.ParseFloat(m[2], 64)
			if perr == nil {
				report(m[1], v, m[3])
			}
		}
	}
	if w.ops > 0 {
		report(w.prefix+".cpu", cpu/float64(w.ops)*1000, "ms/op")
	} else {
		report(w.prefix+".cpu.total", cpu, "s")
	}
	if w.prefix == "create.pods" {
		rss, _ := memory(pid)
		report("pods10k.rss", rss, "MiB")
	}
	return err
}
