package server

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/runtime/supervisor"
)

// holder is a process that keeps the other end of a container's terminal or
// standard input open besides the supervisor, whose death would hang the
// container up. It ends with the container, and is reaped as orphans are.
type holder struct {
	PID   int    `json:"pid"`
	Ticks uint64 `json:"ticks"`
}

// Descriptors of a holder.
const (
	heldProcess = 3 + iota // the container's, as a pidfd
	heldEnd
)

// Hold is what the executable does when it is called as "hold".
func Hold() error {
	for {
		poll := []unix.PollFd{{Fd: heldProcess, Events: unix.POLLIN}}
		switch _, err := unix.Poll(poll, -1); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("poll", err)
		default:
			return nil
		}
	}
}

// hold starts a container's holder, if it has anything to hold.
func (s *Server) hold(b *box) error {
	end := b.end()
	if end == nil {
		return nil
	}
	rc, err := end.SyscallConn()
	if err != nil {
		return err
	}
	var pid int
	var herr error
	if err := b.proc.control(func(process int) {
		err = rc.Control(func(end uintptr) { pid, herr = s.Holder(process, int(end)) })
	}); err != nil {
		return err
	}
	if err := errors.Join(err, herr); err != nil {
		return fmt.Errorf("cannot hold a container's terminal or input: %w", err)
	}
	b.holder = &holder{PID: pid}
	b.holder.Ticks, err = startTicks(pid)
	return err
}

// end is what is held.
func (b *box) end() *os.File {
	if b.console != nil {
		return b.console
	}
	return b.stdin
}

// letGo ends a holder before its time: nothing more is to be typed.
func (h *holder) letGo() {
	if h == nil {
		return
	}
	if p, err := openProcess(h.PID, h.Ticks); err == nil {
		p.signal(int(unix.SIGKILL))
		p.fd.Close()
	}
}

// regain takes a copy of what is held, for a supervisor that comes after one
// that died.
func (h *holder) regain() (*os.File, error) {
	p, err := openProcess(h.PID, h.Ticks)
	if err != nil {
		return nil, err
	}
	defer p.fd.Close()
	fd := -1
	if cerr := p.control(func(process int) { fd, err = unix.PidfdGetfd(process, heldEnd, 0) }); cerr != nil || err != nil {
		return nil, errors.Join(cerr, os.NewSyscallError("pidfd_getfd", err))
	}
	return supervisor.Pollable(os.NewFile(uintptr(fd), "held"))
}
