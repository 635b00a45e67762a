package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// orphanPause is between looks at children that cannot be reaped now: whoever
// waits for them is about to do it.
const orphanPause = 50 * time.Millisecond

// adoptOrphans makes what an executable of a handler has left when it ended,
// the container, a child of this process, which so learns how it ends. Execve
// does not undo that.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become the parent of orphans: %w", err)
	}
	return nil
}

// reapOrphans reaps what else comes to us: processes that a container with the
// host's PID namespace or a hook has left. It sleeps until a child ends.
func (s *Server) reapOrphans(ctx context.Context) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	for {
		for s.reapOrphan() {
			select {
			case <-time.After(orphanPause):
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return
		}
	}
}

// reapOrphan reaps all orphans that have ended up to a child that somebody
// waits for, and reports whether there is one.
func (s *Server) reapOrphan() (more bool) {
	for {
		// Nobody makes a process then, and waits for it in his own way: the
		// only children that are waited for are those of boxes and executions.
		if !s.gate.TryLock() {
			return true
		}
		pid := endedChild()
		known := pid != 0 && s.waitsFor(pid)
		if pid != 0 && !known {
			unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
		s.gate.Unlock()
		switch {
		case pid == 0:
			return false
		case known:
			return true
		}
	}
}

// endedChild is a child that has ended and was not reaped; 0: there is none.
func endedChild() int {
	var info siginfoChild
	for {
		err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0 // no children at all
		}
		return int(info.pid)
	}
}

// waitsFor reports whether a process is a container's or an execution's that
// has not been reaped yet; gate is held.
func (s *Server) waitsFor(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.boxes {
		if b.proc != nil && b.proc.pid == pid && waited(b.ended) {
			return true
		}
	}
	for _, e := range s.execs {
		if e.proc != nil && e.proc.pid == pid && waited(e.ended) {
			return true
		}
	}
	return false
}

// waited: ended is not closed yet.
func waited(ended <-chan struct{}) bool {
	select {
	case <-ended:
		return false
	default:
		return true
	}
}
