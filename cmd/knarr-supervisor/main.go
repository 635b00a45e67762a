//go:build cgo

// Each container's first process would look for the processors that its cgroup may
// use, to run on one.
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// knarr-supervisor is the parent of a node's containers: see
// internal/runtime/supervisor. knarr starts it; nobody else has to.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"

	"github.com/opencontainers/runc/libcontainer/exeseal"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/runtime/supervisor"
	"knarr.dev/knarr/internal/runtime/supervisor/engine"
	"knarr.dev/knarr/internal/runtime/supervisor/ocibinary"
	"knarr.dev/knarr/internal/runtime/supervisor/server"
)

// name is what ps shows, in the 15 characters that it has.
const name = "knarr-superviso"

// The first thread runs no goroutine but main's. libcontainer enters a container's
// mount namespace on threads that it leaves to Go to end, and the first one cannot
// end: it would hold that container's mounts for as long as we run. And the first
// process of a container changes its user: musl would do so for all threads, but knows
// the first one by a number that it had before that process was cloned; it does not
// look for the others if the first one asks. While packages are initialized main's
// goroutine is there; when main has begun it may have moved. So this runs before main,
// for once.
var _ = func() bool {
	runtime.LockOSThread()
	return true
}()

func main() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		runtime.GOMAXPROCS(1)
		engine.Init()
		os.Exit(1)
	}
	work := run
	if len(os.Args) > 1 && os.Args[1] == "hold" {
		work = server.Hold
	}
	done := make(chan error)
	go func() { done <- work() }()
	if err := <-done; err != nil {
		fmt.Fprintf(os.Stderr, "knarr-supervisor: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	dir := flag.String("dir", "", "directory of its own, lost at reboot")
	socket := flag.String("socket", "", "unix socket to serve")
	handover := flag.Int("handover", -1, "descriptor with what the executable before has handed over")
	flag.Parse()
	if !filepath.IsAbs(*dir) || !filepath.IsAbs(*socket) || flag.NArg() != 0 {
		return fmt.Errorf("--dir and --socket must be absolute paths, and there are no arguments")
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	if !exeseal.IsCloned(self) {
		// A copy that no container can write to, once and for all of them:
		// CVE-2019-5736.
		return become(self, os.Args)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, self); err != nil {
		return err
	}
	self.Close()
	// The kernel named it after the path it was run by: a number.
	if err := os.WriteFile("/proc/self/comm", []byte(name), 0); err != nil {
		return err
	}
	// As low as it may be: where it may not, it is as knarr is.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0o644); err != nil && !os.IsPermission(err) {
		return err
	}
	// Taken, not ignored: what is ignored stays so in containers.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	args := []string{os.Args[0], "--dir", *dir, "--socket", *socket}
	var note *os.File
	if *handover >= 0 {
		unix.CloseOnExec(*handover)
		note = os.NewFile(uintptr(*handover), "handover")
	}
	if err := ocibinary.Clean(*dir); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	return server.New(server.Config{
		Dir: *dir, Socket: *socket, Build: hex.EncodeToString(sum.Sum(nil)),
		Engine: engine.New(*dir, log),
		Binary: func(h supervisor.Handler, bundle string) server.Engine { return ocibinary.New(*dir, h, bundle) },
		Exec: func(executable, note *os.File) error {
			engine.RestoreLimits()
			return become(executable, slices.Concat(args, []string{"--handover", strconv.Itoa(int(note.Fd()))}))
		},
		Holder: hold,
		Log:    log,
	}).Run(ctx, note)
}

// hold starts this executable as a holder of two descriptors.
func hold(process, end int) (int, error) {
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(null)
	return syscall.ForkExec("/proc/self/exe", []string{"knarr-supervisor", "hold"}, &syscall.ProcAttr{
		Dir: "/", Env: []string{}, Files: []uintptr{uintptr(null), uintptr(null), uintptr(null), uintptr(process), uintptr(end)},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
}

// become replaces this process by a sealed copy of an executable.
func become(executable *os.File, args []string) error {
	info, err := executable.Stat()
	if err != nil {
		return err
	}
	// Who passed it may have read it.
	if _, err := executable.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sealed, err := exeseal.CloneBinary(executable, info.Size(), "knarr-supervisor", os.TempDir())
	if err != nil {
		return fmt.Errorf("cannot seal the executable: %w", err)
	}
	defer sealed.Close()
	return unix.Exec("/proc/self/fd/"+strconv.Itoa(int(sealed.Fd())), args, os.Environ())
}
