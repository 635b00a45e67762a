// Package cri_test is a validation suite for CRI v1 runtimes, written from the
// comments of k8s.io/cri-api's api.proto: what a kubelet may send, good and
// bad, and what it can see of the answer. One list of cases runs against each
// target; what a target is known to do otherwise stands in differences, and a
// known difference that is gone fails like any other case.
package cri_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"knarr.dev/knarr/internal/network/cni"
)

var endpoint = flag.String("endpoint", os.Getenv("CRI_ENDPOINT"), "run against the runtime at this socket (unix:///...) and no other; it shares our network, mounts and cgroups")

// target is a runtime that the suite can start for itself.
type target struct {
	name string
	// ready is nil, or says why the target cannot run here.
	ready func() error
	// start returns once the runtime serves; stop ends it and whatever it has left.
	start func(t *testing.T, dir string) (n *node, stop func() error)
	// only, if given, are the groups of cases that are asked.
	only []string
}

var targets = []target{
	{name: "containerd", ready: hasContainerd, start: startContainerd},
	{name: "builtin", ready: hasKnarr, start: startBuiltin},
	{name: "handler", ready: hasHandler, start: startHandler, only: []string{"sandbox", "container", "process", "mounts", "resources", "exec", "stream", "log", "stats", "events", "cdi"}},
	{name: "oracle", ready: hasOracle, start: startOracle},
}

// testCase is one promise of a runtime.
type testCase struct {
	name string // group/what holds
	run  func(*T)
}

// cases in the order of the services' calls; each runs beside the others.
var cases = slices.Concat(
	infoCases, sandboxCases, namespaceCases, usernsCases, networkCases,
	containerCases, processCases, userCases, securityCases, escapeCases, profileCases, mountCases, imageVolumeCases, resourceCases,
	execCases, streamCases, logCases, statsCases, eventCases, imageCases, registryCases, loadCases, refusalCases, cdiCases,
)

func TestMain(m *testing.M) {
	if cni.Called(os.Args[0]) {
		os.Exit(cni.Main())
	}
	flag.Parse()
	// What client-go says of streams that a case ends on purpose.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	// Most of a case is waiting: for processes to start, for time to pass.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("8"); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	_ = os.RemoveAll(buildDir)
	os.Exit(code)
}

func TestCRI(t *testing.T) {
	if testing.Short() {
		t.Skip("runs containers; not in -short")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root: it runs containers")
	}
	if *endpoint != "" {
		suite(t, target{name: "endpoint", start: connect})
		return
	}
	for _, to := range targets {
		t.Run(to.name, func(t *testing.T) {
			if to.ready != nil {
				if err := to.ready(); err != nil {
					t.Skip(err)
				}
			}
			suite(t, to)
		})
	}
}

// suite runs all cases against one runtime, and looks for what stays behind.
func suite(t *testing.T, to target) {
	dir, err := os.MkdirTemp("", "knarr-cri") // short, for the socket's sake
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	settings := kernelSettings()
	n, stop := to.start(t, dir)
	n.setUp(t, dir)
	t.Run("cases", func(t *testing.T) {
		for _, c := range cases {
			if group, _, _ := strings.Cut(c.name, "/"); to.only != nil && !slices.Contains(to.only, group) {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				n.judge(t, c, differences[to.name][c.name])
			})
		}
	})
	for _, c := range lastCases {
		t.Run(c.name, func(t *testing.T) { n.judge(t, c, differences[to.name][c.name]) })
	}
	// What the cases made is gone while the runtime still runs.
	for _, left := range n.leftovers(t) {
		t.Errorf("the cases left %s", left)
	}
	if now := kernelSettings(); !maps.Equal(settings, now) {
		t.Errorf("settings of the kernel were %q and are %q", settings, now)
	}
	n.tearDown(t)
	if err := stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	for _, left := range traces(append(keys(n.ids), dir)...) {
		t.Errorf("the runtime left %s", left)
	}
}

// judge runs a case and compares its failures with what is known.
func (n *node) judge(t *testing.T, c testCase, d difference) {
	failures := n.try(c)
	for _, v := range verdict(failures, d) {
		t.Error(v)
	}
	if d.reason != "" {
		t.Logf("known difference: %s: %s", d.reason, strings.Join(failures, "\n"))
	}
}

// verdict on the failures of a case: what of them is wrong.
func verdict(failures []string, d difference) []string {
	all := strings.Join(failures, "\n")
	switch {
	case d.reason == "":
		return failures
	case len(failures) == 0 && d.race:
		return nil
	case len(failures) == 0:
		return []string{"it holds, but stands among the differences: " + d.reason}
	case !strings.Contains(all, d.says):
		return []string{fmt.Sprintf("it differs in another way than is known (%s): %s", d.reason, all)}
	}
	return nil
}

func TestVerdict(t *testing.T) {
	n := &node{}
	var order []string
	failing := testCase{"x", func(t *T) {
		t.cleanup(func() { order = append(order, "first") })
		t.cleanup(func() { order = append(order, "last") })
		t.equal("a number", 1, 2)
		t.refused("a call", nil)
		t.fatalf("no further")
		t.errorf("never said")
	}}
	failures := n.try(failing)
	if got := strings.Join(failures, "\n"); len(failures) != 3 || !strings.Contains(got, "cri_test.go:") || !strings.Contains(got, "a number is") || !strings.Contains(got, "no further") {
		t.Errorf("failures: %q", failures)
	}
	if strings.Join(order, " ") != "last first" {
		t.Errorf("cleanups: %v", order)
	}
	for name, x := range map[string]struct {
		failures []string
		d        difference
		bad      bool
	}{
		"good":                 {nil, difference{}, false},
		"bad":                  {failures, difference{}, true},
		"known":                {failures, difference{reason: "r", says: "no further"}, false},
		"known otherwise":      {failures, difference{reason: "r", says: "something else"}, true},
		"known, and it holds":  {nil, difference{reason: "r", says: "x"}, true},
		"a race that is lost":  {failures, difference{reason: "r", says: "no further", race: true}, false},
		"a race that is won":   {nil, difference{reason: "r", says: "x", race: true}, false},
		"a race and something": {failures, difference{reason: "r", says: "x", race: true}, true},
	} {
		if got := verdict(x.failures, x.d); (len(got) > 0) != x.bad {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestParseLog(t *testing.T) {
	lines, err := parseLog("2026-01-02T03:04:05.123456789Z stdout P a b \n2026-01-02T03:04:05+01:00 stderr F \n")
	if err != nil || len(lines) != 2 || lines[0].text != "a b " || lines[0].tag != "P" || lines[1].stream != "stderr" || lines[1].text != "" {
		t.Errorf("%v %v", lines, err)
	}
	for _, bad := range []string{"2026-01-02T03:04:05Z stdout F half", "stdout F x\n", "yesterday stdout F x\n"} {
		if _, err := parseLog(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// TestCaseNames: a name is used once, and differences name cases and targets.
func TestCaseNames(t *testing.T) {
	names := map[string]bool{}
	for _, c := range slices.Concat(cases, lastCases) {
		if names[c.name] {
			t.Errorf("two cases are called %q", c.name)
		}
		names[c.name] = true
	}
	for to, list := range differences {
		if to != "endpoint" && !slices.ContainsFunc(targets, func(x target) bool { return x.name == to }) {
			t.Errorf("differences of %q, which is no target", to)
		}
		for name, d := range list {
			if !names[name] || d.reason == "" || d.says == "" {
				t.Errorf("differences of %s: %q is no case, or its reason or what it says is missing", to, name)
			}
		}
	}
}

// TestEveryCall: no call of the two services is left out, which shows when
// cri-api brings new ones.
func TestEveryCall(t *testing.T) {
	sources, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, f := range sources {
		if strings.HasSuffix(f.Name(), "_test.go") && f.Name() != "cri_test.go" {
			data, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			text.Write(data)
		}
	}
	var missing []string
	seen := 0
	for _, desc := range []struct {
		client string
		names  []string
	}{
		{"t.runtime.", serviceCalls(runtimeapi.RuntimeService_ServiceDesc)},
		{"t.images.", serviceCalls(runtimeapi.ImageService_ServiceDesc)},
	} {
		for _, name := range desc.names {
			seen++
			if !strings.Contains(text.String(), desc.client+name+"(") {
				missing = append(missing, name)
			}
		}
	}
	if seen < 40 {
		t.Errorf("only %d calls are known: this test sees nothing", seen)
	}
	if len(missing) > 0 {
		t.Errorf("no case calls %s", strings.Join(missing, ", "))
	}
}

// connect joins a runtime that somebody else started.
func connect(t *testing.T, _ string) (*node, func() error) {
	n, err := dial(context.Background(), *endpoint, func(fn func() error) error { return fn() })
	if err != nil {
		t.Fatal(fmt.Errorf("-endpoint %s: %w", *endpoint, err))
	}
	return n, n.close
}

func serviceCalls(d grpc.ServiceDesc) []string {
	var names []string
	for _, m := range d.Methods {
		names = append(names, m.MethodName)
	}
	for _, s := range d.Streams {
		names = append(names, s.StreamName)
	}
	return names
}
