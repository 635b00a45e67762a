// Command bench measures knarr on this machine and prints one line per figure,
// "name value unit", beside the budget of the design. It starts a cluster in a
// network namespace of its own and removes it again. It needs root.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// budgets of the design; figures without one are printed alone.
var budgets = map[string]float64{
	"start.ready":                0.8,
	"restart.ready":              0.5,
	"idle.rss":                   110,
	"idle.anonymous":             50,
	"idle.cpu":                   0.3,
	"pod.start.p50":              250,
	"pod.start.p99":              500,
	"create.pods.cpu":            0.35,
	"get.pods.cpu":               0.06,
	"update.put.cpu.knarr":       0.5,
	"update.merge.cpu.knarr":     0.5,
	"update.strategic.cpu.knarr": 0.5,
	"update.apply.cpu.knarr":     0.5,
	"list.json.cpu.knarr":        0.044,
	"list.proto.cpu.knarr":       0.025,
	"list.table.cpu.knarr":       0.027,
	"list.stream.cpu.knarr":      0.034,
	"watch.cpu":                  0.0058,
	"cleanup.wall":               5,
	"binary":                     60,
	"pods10k.fresh.rss":          150,
	"churn.rss":                  400,
	"schedule.bound.best1s":      2000,
	"spread.bound.best1s":        1500,
	"deploy.created.rate":        4000,
	"deploy.bound.rate":          2000,

	"runtime.builtin.p50":           20,
	"runtime.builtin.p99":           40,
	"runtime.builtin.cpu":           15,
	"runtime.builtin.memory":        0.3,
	"runtime.builtin.parallel.rate": 100,
}

type bench struct {
	ctx      context.Context
	knarr    string
	images   string
	apibench string // outside its source, inside the program; empty: not measured
	upstream string // directory with etcd and kube-apiserver to compare with; empty: not measured
	netns    string
	dir      string
	pods     int
	only     string // density, placements, runtime: nothing else is measured; empty: everything
}

func main() {
	b := &bench{netns: fmt.Sprintf("kbench%d", os.Getpid())}
	var inside bool
	flag.BoolVar(&inside, "inside", false, "measure in this network namespace (set by the program itself)")
	flag.StringVar(&b.knarr, "knarr", "bin/knarr", "the binary to measure")
	flag.StringVar(&b.images, "images", "bin/images", "its images")
	flag.StringVar(&b.apibench, "apibench", "../shared/apibench", "source of the load generator")
	flag.StringVar(&b.upstream, "upstream", "", "directory with upstream's etcd and kube-apiserver, which are put to the same requests")
	flag.IntVar(&b.pods, "n", 10000, "objects for the API workloads")
	flag.StringVar(&b.only, "only", "", "density: measure nothing but a node with 300 pods; placements: how pods get their nodes; runtime: container runtimes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b.ctx = ctx
	measure := b.run
	if inside {
		measure = b.inside
	}
	if err := measure(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run makes the network namespace and measures inside it, in this program
// started again: its sockets and its children must live there.
func (b *bench) run() (err error) {
	if os.Geteuid() != 0 {
		return errors.New("run it as root: it makes a network namespace and runs containers")
	}
	for _, path := range []*string{&b.knarr, &b.images, &b.apibench, &b.upstream} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if b.dir, err = os.MkdirTemp("", "knarr-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.buildAPIBench(); err != nil {
		return err
	}
	if err := b.network(); err != nil {
		return err
	}
	defer func() {
		b.ctx = context.WithoutCancel(b.ctx)
		_, delErr := b.sh("ip", "netns", "del", b.netns)
		err = errors.Join(err, delErr)
	}()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(b.ctx, "nsenter", "--net=/run/netns/"+b.netns, self, "-inside", "-knarr", b.knarr,
		"-images", b.images, "-apibench", b.apibench, "-upstream", b.upstream, "-n", strconv.Itoa(b.pods), "-only", b.only)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// inside measures; it leaves nothing behind.
func (b *bench) inside() (err error) {
	if b.dir, err = os.MkdirTemp("", "knarr-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	defer func() {
		b.ctx = context.WithoutCancel(b.ctx)
		_, downErr := b.sh(b.knarr, "uninstall", "--yes", "--data-dir", b.data())
		err = errors.Join(err, downErr)
	}()
	if st, err := os.Stat(b.knarr); err == nil {
		report("binary", float64(st.Size())/1e6, "MB")
	}
	steps := []func() error{b.starts, b.idle, b.podStarts, b.api, b.compare}
	switch b.only {
	case "":
		steps = append(steps, b.density, b.runtimes)
	case "density":
		steps = []func() error{b.starts, b.density}
	case "placements":
		steps = []func() error{b.starts, b.ownPlacements, b.compare}
	case "runtime":
		steps = []func() error{b.runtimes}
	default:
		return fmt.Errorf("-only %q: there is density, placements and runtime", b.only)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) data() string { return filepath.Join(b.dir, "data") }

func (b *bench) kubeconfig() string { return filepath.Join(b.data(), "kubeconfig") }

// buildAPIBench makes a program of the load generator's source, where there is
// a network to fetch modules from.
func (b *bench) buildAPIBench() error {
	src := b.apibench
	b.apibench = ""
	if b.only == "density" || b.only == "runtime" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(src, "go.mod")); err != nil {
		fmt.Fprintf(os.Stderr, "bench: no load generator at %s: API workloads are left out\n", src)
		return nil
	}
	b.apibench = filepath.Join(b.dir, "apibench")
	cmd := exec.CommandContext(b.ctx, "go", "build", "-mod=mod", "-modfile="+filepath.Join(b.dir, "apibench.mod"), "-o", b.apibench, ".")
	for _, f := range []string{"mod", "sum"} {
		data, err := os.ReadFile(filepath.Join(src, "go."+f))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(b.dir, "apibench."+f), data, 0o600); err != nil {
			return err
		}
	}
	cmd.Dir = src
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build %s: %w\n%s", src, err, out)
	}
	return nil
}

// network makes a namespace with one address that leads nowhere.
func (b *bench) network() error {
	for _, args := range [][]string{
		{"netns", "add", b.netns},
		{"-n", b.netns, "link", "set", "lo", "up"},
		{"-n", b.netns, "link", "add", "eth0", "type", "bridge"},
		{"-n", b.netns, "addr", "add", "198.51.100.1/24", "dev", "eth0"},
		{"-n", b.netns, "link", "set", "eth0", "up"},
	} {
		if _, err := b.sh("ip", args...); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) sh(name string, args ...string) (string, error) {
	cmd := exec.CommandContext(b.ctx, name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// up starts the cluster and returns how long its start took until it said that
// it is ready.
func (b *bench) up() (time.Duration, error) {
	began := time.Now()
	_, err := b.sh(b.knarr, "up", "--detach", "--data-dir", b.data(), "--node-name", "bench", "--images", b.images, "--cluster-cidr", "172.16.0.0/12",
		"--max-pods", "400", "--node-cidr-mask-size", "23")
	return time.Since(began), err
}

func (b *bench) starts() error {
	cold, err := b.up()
	if err != nil {
		return err
	}
	report("start.up", cold.Seconds(), "s")
	if err := b.reportReady("start.ready"); err != nil {
		return err
	}
	again, err := b.restart()
	if err != nil {
		return err
	}
	report("restart.up", again.Seconds(), "s")
	return b.reportReady("restart.ready")
}

// restart kills the cluster and starts it again.
func (b *bench) restart() (time.Duration, error) {
	pid, err := b.pid()
	if err != nil {
		return 0, err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, err
	}
	if err := b.gone(pid); err != nil {
		return 0, err
	}
	return b.up()
}

// gone waits until the kernel has taken a process apart.
func (b *bench) gone(pid int) error {
	for alive(pid) {
		if err := b.pause(10 * time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

var readyLine = regexp.MustCompile(`msg="control plane is ready" .*after=([0-9.a-zµ]+)`)

// reportReady reads from the log when the last start had a ready control plane.
func (b *bench) reportReady(name string) error {
	data, err := os.ReadFile(filepath.Join(b.data(), "knarr.log"))
	if err != nil {
		return err
	}
	all := readyLine.FindAllStringSubmatch(string(data), -1)
	if len(all) == 0 {
		return errors.New("the log does not say when the control plane was ready")
	}
	d, err := time.ParseDuration(all[len(all)-1][1])
	if err != nil {
		return err
	}
	report(name, d.Seconds(), "s")
	return nil
}

// instance is what knarr's instance.json tells.
type instance struct {
	PID    int    `json:"pid"`
	RunDir string `json:"runDir"`
}

func (b *bench) instance() (in instance, err error) {
	data, err := os.ReadFile(filepath.Join(b.data(), "instance.json"))
	if err != nil {
		return in, err
	}
	if err := json.Unmarshal(data, &in); err != nil || in.PID == 0 {
		return in, fmt.Errorf("instance.json tells no process: %w", err)
	}
	return in, nil
}

func (b *bench) pid() (int, error) {
	in, err := b.instance()
	return in.PID, err
}

func (b *bench) idle() error {
	pid, err := b.pid()
	if err != nil {
		return err
	}
	// Start-up work has to end first.
	if err := b.pause(20 * time.Second); err != nil {
		return err
	}
	before := cpuSeconds(pid)
	if err := b.pause(time.Minute); err != nil {
		return err
	}
	report("idle.cpu", cpuSeconds(pid)-before, "s/min")
	rss, anonymous := memory(pid)
	report("idle.rss", rss, "MiB")
	report("idle.anonymous", anonymous, "MiB")
	return nil
}

func (b *bench) pause(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
}

// alive: there, and not only waiting for its parent to look.
func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(data), ") Z ")
}

// cpuSeconds used by a process so far, in user and kernel.
func cpuSeconds(pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100 // USER_HZ, proc(5)
}

func memory(pid int) (rss, anonymous float64) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(fields[1], 64)
		switch fields[0] {
		case "VmRSS:":
			rss = kib / 1024
		case "RssAnon:":
			anonymous = kib / 1024
		}
	}
	return rss, anonymous
}

func report(name string, value float64, unit string) {
	line := fmt.Sprintf("%-26s %10.3f %s", name, value, unit)
	if want, ok := budgets[name]; ok {
		verdict := "met"
		if higherIsBetter(name) && value < want || !higherIsBetter(name) && value > want {
			verdict = "MISSED"
		}
		line += fmt.Sprintf("  (budget %g: %s)", want, verdict)
	}
	fmt.Println(line)
}

func higherIsBetter(name string) bool {
	return strings.HasSuffix(name, ".rate") || strings.HasSuffix(name, ".best1s")
}

func percentile(sorted []float64, p float64) float64 {
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}
