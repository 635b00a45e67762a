package scenario

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func pidOf(t testing.TB, h *host) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(h.dataDir, "instance.json"))
	if err != nil {
		t.Fatal(err)
	}
	var in struct{ PID int }
	if err := json.Unmarshal(data, &in); err != nil || in.PID <= 1 {
		t.Fatalf("instance.json: %v %s", err, data)
	}
	return in.PID
}

// kill ends a process and waits until it is gone.
func kill(t testing.TB, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process is gone", func() (string, bool) {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return string(state), err != nil || strings.Contains(string(state), ") Z ")
	})
}

// writer creates config maps one after another, and knows which were
// acknowledged.
type writer struct {
	h    *host
	mu   sync.Mutex
	acks []string
	stop chan struct{}
	done sync.WaitGroup
}

func (w *writer) run(n int) {
	for i := range n {
		w.done.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-w.stop:
					return
				default:
				}
				name := fmt.Sprintf("w%d-%d", i, j)
				if _, err := w.h.kubectl("create", "configmap", name, "--request-timeout=5s"); err == nil {
					w.mu.Lock()
					w.acks = append(w.acks, name)
					w.mu.Unlock()
				}
			}
		})
	}
}

const killRounds = 50

// TestKill: knarr is killed at random moments under load. Running containers
// go on, everything that was acknowledged is there, and it is ready again: in
// half a second where nothing else runs.
func TestKill(t *testing.T) {
	l := newLAN(t)
	h := l.newHost(t)
	h.up(t)
	h.apply(t, fmt.Sprintf(webManifest, 3))
	h.mustKubectl(t, "rollout", "status", "deployment/web", "--timeout=180s")
	h.mustKubectl(t, "wait", "--for=condition=Ready", "pod/tool", "--timeout=180s")
	before := containers(t, h)
	w := &writer{h: h, stop: make(chan struct{})}
	w.run(2)
	rng := rand.New(rand.NewPCG(1, 2))
	var slowest time.Duration
	for range killRounds {
		<-time.After(time.Duration(rng.IntN(400)) * time.Millisecond)
		kill(t, pidOf(t, h), syscall.SIGKILL)
		began := time.Now()
		h.up(t)
		slowest = max(slowest, time.Since(began))
	}
	close(w.stop)
	w.done.Wait()
	t.Logf("slowest return of %d: %s; %d writes acknowledged", killRounds, slowest, len(w.acks))
	have := h.mustKubectl(t, "get", "configmaps", "-o", "name")
	for _, name := range w.acks {
		if !strings.Contains(have, "configmap/"+name+"\n") {
			t.Errorf("configmap %s was acknowledged and is lost", name)
		}
	}
	if after := containers(t, h); after != before {
		t.Errorf("containers changed:\nbefore:\n%s\nafter:\n%s", before, after)
	}
	killRuntime(t, h, before)
}

// containers are the pods with their container ids and restart counts.
func containers(t testing.TB, h *host) string {
	t.Helper()
	return h.mustKubectl(t, "get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{"\n"}{end}`)
}

// killRuntime kills what is the parent of containers: they do not notice, and
// it comes back.
func killRuntime(t *testing.T, h *host, before string) {
	t.Helper()
	pid := runtimeOf(t, h)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the runtime is back", func() (string, bool) {
		out, err := h.kubectl("exec", "tool", "--", "echo", "alive")
		now := runtimeOf(t, h)
		return out, err == nil && now != pid && now != 0
	})
	if after := containers(t, h); after != before {
		t.Errorf("containers changed:\nbefore:\n%s\nafter:\n%s", before, after)
	}
	h.mustKubectl(t, "run", "fresh", "--image=registry.knarr.dev/busybox:1", "--restart=Never", "--", "true")
	h.mustKubectl(t, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/fresh", "--timeout=180s")
}

// runtimeOf finds the host's supervisor of containers or its containerd by
// their directories; 0: none.
func runtimeOf(t testing.TB, h *host) int {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		data, err := os.ReadFile(p)
		line := string(data)
		program, _, _ := strings.Cut(line, "\x00")
		switch {
		case err != nil:
			continue
		case filepath.Base(program) == "containerd" && strings.Contains(line, h.dataDir):
		case filepath.Base(program) == "knarr-supervisor" && strings.Contains(line, h.runDir()):
		default:
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(p, "/proc/%d/cmdline", &pid); err == nil {
			return pid
		}
	}
	return 0
}
