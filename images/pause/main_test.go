package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPause: as the first process of a PID namespace it reaps orphans, and
// SIGTERM ends it at once.
func TestPause(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes a PID namespace")
	}
	bin := filepath.Join(t.TempDir(), "pause")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// The shell becomes pause after it has left children that end later.
	cmd := exec.Command("/bin/sh", "-c", "for i in 1 2 3 4 5; do sleep 0.1 & done; exec "+bin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	children := func() string {
		data, _ := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/task/" + strconv.Itoa(cmd.Process.Pid) + "/children")
		return strings.TrimSpace(string(data))
	}
	comm := func() string {
		data, _ := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/comm")
		return strings.TrimSpace(string(data))
	}
	deadline := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for comm() != "pause" || children() != "" {
		select {
		case <-tick.C:
		case err := <-ended:
			t.Fatalf("ended: %v", err)
		case <-deadline:
			t.Fatalf("%s has children %q", comm(), children())
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("ended with %v", err)
		}
	case <-deadline:
		t.Error("SIGTERM does not end it")
	}
}
