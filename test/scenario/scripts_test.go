package scenario

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs testdata/*.txtar against one cluster, each in a namespace of
// its own, which is deleted at the end and must then be gone.
func TestScripts(t *testing.T) {
	l := newLAN(t)
	h := l.newHost(t)
	h.up(t)
	testscript.Run(t, testscript.Params{
		Dir:         "testdata",
		WorkdirRoot: t.TempDir(),
		Setup: func(e *testscript.Env) error {
			ns := namespaceOf(e.WorkDir)
			if out, err := h.kubectl("create", "namespace", ns); err != nil {
				t.Fatal(out)
			}
			// The default service account comes a moment later.
			eventually(t, "service account of "+ns, func() (string, bool) {
				out, err := h.kubectl("get", "serviceaccount", "default", "-n", ns)
				return out, err == nil
			})
			e.Defer(func() {
				if out, err := h.kubectl("delete", "namespace", ns, "--timeout=180s"); err != nil {
					t.Errorf("the namespace does not go: %s", out)
				}
			})
			home := filepath.Join(e.WorkDir, ".home")
			if err := os.MkdirAll(home, 0o700); err != nil {
				return err
			}
			e.Setenv("HOME", home)
			e.Setenv("PATH", h.bin+":"+os.Getenv("PATH"))
			e.Setenv("NS", ns)
			e.Setenv("NETNS", h.netns)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"kubectl":    scriptKubectl,
			"host":       scriptHost,
			"eventually": scriptEventually,
		},
	})
}

// namespaceOf a script: its own name.
func namespaceOf(workDir string) string {
	return strings.TrimPrefix(filepath.Base(workDir), "script-")
}

func scriptKubectl(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("kubectl", append([]string{"-n", ts.Getenv("NS")}, args...)...)
	if (err != nil) != neg {
		ts.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
}

// scriptHost: host PROGRAM ...: runs it in the node's network.
func scriptHost(ts *testscript.TestScript, neg bool, args []string) {
	if err := ts.Exec("nsenter", append([]string{"--net=/run/netns/" + ts.Getenv("NETNS")}, args...)...); (err != nil) != neg {
		ts.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
}

// scriptEventually: eventually REGEXP COMMAND ...: until its output matches.
func scriptEventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: eventually REGEXP COMMAND ...")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	cmd := args[1:]
	switch cmd[0] {
	case "kubectl":
		cmd = append([]string{"kubectl", "-n", ts.Getenv("NS")}, cmd[1:]...)
	case "host":
		cmd = append([]string{"nsenter", "--net=/run/netns/" + ts.Getenv("NETNS")}, cmd[1:]...)
	}
	for deadline := time.Now().Add(patience); ; {
		_ = ts.Exec(cmd[0], cmd[1:]...)
		out := ts.ReadFile("stdout") + ts.ReadFile("stderr")
		if re.MatchString(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not within %s: %s\n%s", patience, args[0], out)
		}
		<-time.After(100 * time.Millisecond)
	}
}
