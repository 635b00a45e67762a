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

// builtinNode is `knarr runtime` in a network namespace of its own.
type builtinNode struct {
	dir, exe string
	host     *nettest.Host
	args     []string // more of them
	env      []string
	cmd      *exec.Cmd
	ended    chan error
}

func newBuiltin(t *testing.T, dir string) *builtinNode {
	b := &builtinNode{dir: dir, host: nettest.New(t, "node")}
	b.host.Addr(t, "lo", nodeAddress+"/32")
	if err := os.Chmod(dir, 0o711); err != nil { // roots of user namespaces pass
		t.Fatal(err)
	}
	var err error
	if b.exe, err = filepath.Abs(knarr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := os.ReadFile(filepath.Join(dir, "knarr.log"))
			t.Logf("knarr: %s", out)
		}
		if err := b.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return b
}

func (b *builtinNode) socket() string { return filepath.Join(b.dir, "s", "cri.sock") }

func (b *builtinNode) launch(t *testing.T) {
	b.cmd = exec.Command(b.exe, "runtime", "--data-dir", filepath.Join(b.dir, "d"), "--run-dir", filepath.Join(b.dir, "r"), "--socket", b.socket(),
		"--pod-cidr", "10.244.4.0/24", "--images", archives(t))
	b.cmd.Args, b.cmd.Env = append(b.cmd.Args, b.args...), append(os.Environ(), b.env...)
	if runc, err := exec.LookPath("runc"); err == nil {
		b.cmd.Args = append(b.cmd.Args, "--runtime-handler", "runc="+runc)
	}
	log, err := os.OpenFile(filepath.Join(b.dir, "knarr.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	b.cmd.Stdout, b.cmd.Stderr = log, log
	if err := b.host.Try(b.cmd.Start); err != nil {
		t.Fatal(err)
	}
	b.ended = make(chan error, 1)
	go func() { b.ended <- b.cmd.Wait() }()
}

// end ends knarr alone.
func (b *builtinNode) end(sig syscall.Signal) error {
	if b.cmd == nil {
		return nil
	}
	err := b.cmd.Process.Signal(sig)
	select {
	case <-b.ended:
	case <-time.After(patience):
		err = errors.Join(err, errors.New("knarr does not end"), b.cmd.Process.Kill())
	}
	b.cmd = nil
	return err
}

func (b *builtinNode) stop() error {
	return errors.Join(b.end(syscall.SIGTERM), endSupervisor(b.supervisors()))
}

func startBuiltin(t *testing.T, dir string) (*node, func() error) {
	b := newBuiltin(t, dir)
	b.launch(t)
	ctx := context.Background()
	n, err := dial(ctx, "unix://"+b.socket(), b.host.Try)
	if err != nil {
		t.Fatal(err)
	}
	n.within(t, "the runtime answers", func() bool {
		_, err := n.runtime.Version(ctx, &runtimeapi.VersionRequest{})
		return err == nil
	})
	return n, func() error { return errors.Join(n.close(), b.stop()) }
}

func hasHandler() error {
	_, err := exec.LookPath("runc")
	return errors.Join(hasKnarr(), err)
}

// startHandler is the built-in runtime with pods whose containers the
// distribution's runc runs.
func startHandler(t *testing.T, dir string) (*node, func() error) {
	n, stop := startBuiltin(t, dir)
	n.handler = "runc"
	return n, stop
}

// supervisors are the processes that outlive knarr, by their directory.
func (b *builtinNode) supervisors() []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && strings.Contains(string(line), "\x00--dir\x00"+filepath.Join(b.dir, "r", "sup")+"\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}

func endSupervisor(pids []int) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
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
