// Command conformance runs upstream's conformance tests, or those whose names
// match, against a fresh cluster of two knarr nodes on this machine. The suite
// and the programs in its images are compiled from upstream's modules.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type options struct {
	focus, skip string
	procs       int
	timeout     time.Duration
	bin         string
	hold        bool
}

func main() {
	var o options
	flag.StringVar(&o.focus, "focus", "", "regexp of the names to run (default all)")
	flag.StringVar(&o.skip, "skip", "", "regexp of the names not to run")
	flag.IntVar(&o.procs, "procs", 4, "tests at a time; those marked serial run alone")
	flag.DurationVar(&o.timeout, "timeout", 4*time.Hour, "bound of the run")
	flag.StringVar(&o.bin, "bin", "../../bin", "directory with knarr, kubectl and images")
	flag.BoolVar(&o.hold, "hold", false, "leave the cluster up after the run, until interrupted")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		cancel()
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	names, err := selected(o.focus, o.skip)
	if err != nil {
		return err
	}
	expected, err := expectedFailures(expectedText)
	if err != nil {
		return err
	}
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return err
	}
	work := filepath.Join(bin, "conformance")
	reports := filepath.Join(work, "report")
	if err := errors.Join(os.RemoveAll(reports), os.MkdirAll(reports, 0o755)); err != nil {
		return err
	}
	version, err := buildSuite(ctx, work)
	if err != nil {
		return err
	}
	images := filepath.Join(work, "images")
	if err := buildImages(ctx, images, version); err != nil {
		return err
	}
	c, err := startCluster(ctx, bin, images)
	if err != nil {
		return err
	}
	err = c.test(ctx, o, names, expected, work, version)
	if o.hold {
		fmt.Printf("the cluster is up until interrupted: nsenter --net=/run/netns/%s, KUBECONFIG=%s\n", c.lan, c.kubeconfig())
		<-ctx.Done()
	}
	return errors.Join(err, c.saveLogs(reports), c.stop())
}

// suiteName is the compiled suite's, which takes minutes to make.
func suiteName(version string) string { return "e2e-" + version + ".test" }

// buildSuite compiles the suite of the version in go.mod, and what runs it.
func buildSuite(ctx context.Context, work string) (version string, err error) {
	out, err := output(exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"))
	if err != nil {
		return "", err
	}
	version = strings.TrimSpace(string(out))
	// Some tests ask the suite which version it is of.
	var major, minor int
	if _, err := fmt.Sscanf(version, "v%d.%d.", &major, &minor); err != nil {
		return "", fmt.Errorf("cannot read the version %q: %w", version, err)
	}
	const stamped = "-X k8s.io/component-base/version."
	stamp := fmt.Sprintf("-s -w %[1]sgitVersion=%[2]s %[1]sgitMajor=%[3]d %[1]sgitMinor=%[4]d", stamped, version, major, minor)
	for file, build := range map[string][]string{
		suiteName(version): {"test", "-c", "-ldflags", stamp, "-o", filepath.Join(work, suiteName(version)), "k8s.io/kubernetes/test/e2e"},
		"ginkgo":           {"build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(work, "ginkgo"), "github.com/onsi/ginkgo/v2/ginkgo"},
	} {
		if _, err := os.Stat(filepath.Join(work, file)); err == nil {
			continue
		}
		fmt.Println("building", file)
		cmd := exec.CommandContext(ctx, "go", build...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if _, err := output(cmd); err != nil {
			return "", err
		}
	}
	return version, nil
}

// test runs the tests of these names and reports.
func (c *cluster) test(ctx context.Context, o options, names []string, expected map[string]string, work, version string) error {
	reports := filepath.Join(work, "report")
	repos := filepath.Join(work, "repos.yaml")
	if err := os.WriteFile(repos, []byte(repoList()), 0o644); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(reports, "ginkgo.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Printf("running %d tests, %d at a time; log: %s\n", len(names), o.procs, log.Name())
	cmd := c.command(ctx, filepath.Join(work, "ginkgo"), "run", "-v", "--no-color", fmt.Sprintf("--procs=%d", o.procs), "--timeout="+o.timeout.String(),
		"--focus="+exactly(names), "--json-report=report.json", "--junit-report=junit.xml", "--output-dir="+reports, filepath.Join(work, suiteName(version)), "--",
		"--provider=skeleton", "--kubeconfig="+c.kubeconfig(), "--kubectl-path="+filepath.Join(c.bin, "kubectl"), "--disable-log-dump")
	cmd.Dir = reports
	cmd.Env = append(cmd.Env, "KUBE_TEST_REPO_LIST="+repos)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	in, out := io.Pipe()
	cmd.Stdout, cmd.Stderr = io.MultiWriter(log, out), log
	followed := make(chan error, 1)
	go func() {
		err := follow(in, names, os.Stdout)
		in.CloseWithError(err)
		followed <- err
	}()
	runErr := cmd.Run() // fails when a test does: the report tells
	out.Close()
	if err := <-followed; err != nil {
		return err
	}
	results, err := readResults(filepath.Join(reports, "report.json"), names)
	if err != nil {
		return errors.Join(err, runErr)
	}
	var lines bytes.Buffer
	for _, r := range results {
		fmt.Fprintln(&lines, r)
	}
	if err := os.WriteFile(filepath.Join(reports, "results.txt"), lines.Bytes(), 0o644); err != nil {
		return err
	}
	if n := summarize(os.Stdout, results, expected); n > 0 {
		return fmt.Errorf("%d tests failed; everything is in %s", n, reports)
	}
	return nil
}
