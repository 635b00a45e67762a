package scenario

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// TestScripts runs testdata/*.txtar against one cluster, each in a namespace of
// its own, which is deleted at the end and must then be gone.
func TestScripts(t *testing.T) { runScripts(t, "*") }

// TestContainerd runs those that lean on the runtime most on the other one.
func TestContainerd(t *testing.T) {
	runScripts(t, "devicedriver,lifecycle,probes,security,volumes", "--container-runtime-endpoint", "containerd")
}

func runScripts(t *testing.T, names string, args ...string) {
	t.Helper()
	l := newLAN(t)
	h := l.newHost(t)
	h.up(t, args...)
	probed(t, h)
	driven(t, h)
	testscript.Run(t, testscript.Params{
		Files:       scriptsOf(t, names),
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

// scriptsOf are those with one of the names.
func scriptsOf(t testing.TB, names string) []string {
	t.Helper()
	var files []string
	for name := range strings.SplitSeq(names, ",") {
		found, err := filepath.Glob(filepath.Join("testdata", name+".txtar"))
		if err != nil || len(found) == 0 {
			t.Fatalf("no scripts %q: %v", name, err)
		}
		files = append(files, found...)
	}
	return files
}

// probed serves what the probes of probes.txtar ask, on the node's network.
func probed(t *testing.T, h *host) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/asked", func(w http.ResponseWriter, r *http.Request) {
		got := fmt.Sprintf("%s %s %q %q %q", r.Host, r.URL.RawQuery, r.Header["X-Ask"], r.Header["User-Agent"], r.Header["Accept"])
		if got != `probe.example a=b ["1" "2"] ["mine"] []` {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	mux.HandleFunc("/usual", func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.UserAgent(), "kube-probe/1.") || r.Header.Get("Accept") != "*/*" {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	mux.Handle("/elsewhere", http.RedirectHandler("http://192.0.2.1/", http.StatusFound))
	cert, _ := selfSigned(t, "192.0.2.1") // of another: probes do not ask for whom
	secure := tls.NewListener(h.listen(t, h.ip+":18092"), &tls.Config{Certificates: []tls.Certificate{cert}})
	for _, l := range []net.Listener{h.listen(t, h.ip+":18090"), secure} {
		go func() { _ = http.Serve(l, mux) }()
	}
	wellness := health.NewServer()
	wellness.SetServingStatus("well", healthpb.HealthCheckResponse_SERVING)
	wellness.SetServingStatus("unwell", healthpb.HealthCheckResponse_NOT_SERVING)
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, wellness)
	l := h.listen(t, h.ip+":18091")
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
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
