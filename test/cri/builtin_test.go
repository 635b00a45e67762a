package cri_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/network/nettest"
)

// knarr is what `make build` makes; knarr-supervisor lies beside it.
const knarr = "../../bin/knarr"

func hasKnarr() error {
	for _, f := range []string{knarr, knarr + "-supervisor"} {
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("%s is not built: make build", filepath.Base(f))
		}
	}
	return nil
}

// startBuiltin starts `knarr runtime` in a network namespace of its own.
func startBuiltin(t *testing.T, dir string) (*node, func() error) {
	host := nettest.New(t, "node")
	host.Addr(t, "lo", nodeAddress+"/32")
	if err := os.Chmod(dir, 0o711); err != nil { // roots of user namespaces pass
		t.Fatal(err)
	}
	exe, err := filepath.Abs(knarr)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s", "cri.sock")
	cmd := exec.Command(exe, "runtime", "--data-dir", filepath.Join(dir, "d"), "--run-dir", filepath.Join(dir, "r"), "--socket", socket,
		"--pod-cidr", "10.244.4.0/24", "--images", archives(t))
	log, err := os.Create(filepath.Join(dir, "knarr.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := host.Try(cmd.Start); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stopped := false
	stop := func() error {
		if stopped {
			return nil
		}
		stopped = true
		err := cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience):
			err = errors.Join(err, errors.New("knarr does not end"), cmd.Process.Kill())
		}
		return errors.Join(err, endSupervisor(filepath.Join(dir, "r", "sup")))
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := os.ReadFile(filepath.Join(dir, "knarr.log"))
			t.Logf("knarr: %s", out)
		}
		if err := stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	ctx := context.Background()
	n, err := dial(ctx, "unix://"+socket, host.Try)
	if err != nil {
		t.Fatal(err)
	}
	n.within(t, "the runtime answers", func() bool {
		_, err := n.runtime.Version(ctx, &runtimeapi.VersionRequest{})
		return err == nil
	})
	return n, func() error { return errors.Join(n.close(), stop()) }
}

// endSupervisor ends the process that outlives knarr, by its directory.
func endSupervisor(dir string) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || !strings.Contains(string(line), "\x00--dir\x00"+dir+"\x00") {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			return err
		}
		for end := time.After(patience); syscall.Kill(pid, 0) == nil; {
			select {
			case <-end:
				return fmt.Errorf("the supervisor %d does not end", pid)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return nil
}
