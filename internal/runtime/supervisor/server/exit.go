package server

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/runtime/supervisor"
)

// process is one that is waited for, as a descriptor: numbers of processes are
// used again, descriptors are not.
type process struct {
	pid int
	fd  *os.File
}

// openProcess takes hold of a process. Ticks, if given, is when it must have
// started: another one of that number is not it.
func openProcess(pid int, ticks uint64) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot watch process %d: %w", pid, err)
	}
	p := &process{pid, os.NewFile(uintptr(fd), "pidfd")}
	if ticks != 0 {
		if got, err := startTicks(pid); err != nil || got != ticks {
			p.fd.Close()
			return nil, fmt.Errorf("process %d is another one than it was", pid)
		}
	}
	return p, nil
}

// startTicks is when a process started, in clock ticks since boot.
func startTicks(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The second field is a name in parentheses, which may hold anything.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("cannot read the state of process %d", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// signal sends one.
func (p *process) signal(s int) error {
	var err error
	if cerr := p.control(func(fd int) { err = unix.PidfdSendSignal(fd, unix.Signal(s), nil, 0) }); cerr != nil {
		return unix.ESRCH // it was waited for, and let go
	}
	return err
}

func (p *process) control(fn func(fd int)) error {
	rc, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	return rc.Control(func(fd uintptr) { fn(int(fd)) })
}

// wait blocks until the process has ended, and reaps it if it is our child. A
// process that is not (its parent, a former supervisor, was killed) tells its
// code through the descriptor, from Linux 6.15 on, once its new parent has
// reaped it. If interrupt (from another goroutine) comes first, ended is false.
func (p *process) wait() (code int, known, ended bool) {
	rc, err := p.fd.SyscallConn()
	if err != nil {
		return 0, false, false
	}
	err = rc.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0
	})
	if err != nil {
		return 0, false, false
	}
	if code, ok := p.reap(); ok {
		return code, true, true
	}
	code, known = p.told()
	return code, known, true
}

// interrupt ends a wait.
func (p *process) interrupt() { p.fd.SetReadDeadline(time.Unix(1, 0)) }

// siginfoChild is what waitid writes about a child (sigaction(2)).
type siginfoChild struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32
	_                     [100]byte
}

func (p *process) reap() (code int, ok bool) {
	p.control(func(fd int) {
		var info siginfoChild
		for {
			err := unix.Waitid(unix.P_PIDFD, fd, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			ok = err == nil && info.pid != 0
			break
		}
		code = int(info.status)
		if info.code != cldExited {
			code += 128
		}
	})
	return code, ok
}

// cldExited is si_code of a child that returned (CLD_EXITED).
const cldExited = 1

// pidfdInfo is struct pidfd_info of Linux, in its first version of 64 bytes.
type pidfdInfo struct {
	mask, cgroup uint64
	ids          [11]uint32
	exit         int32
}

const (
	pidfdInfoExit = 1 << 3
	// pidfdGetInfo is _IOWR(0xFF, 11, struct pidfd_info).
	pidfdGetInfo = 3<<30 | 64<<16 | 0xFF<<8 | 11
	// reapTime is how long init may take to reap an orphan until its code is
	// given up.
	reapTime = 10 * time.Second
)

func (p *process) told() (code int, known bool) {
	deadline := time.Now().Add(reapTime)
	for pause := time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		var errno unix.Errno
		info := pidfdInfo{mask: pidfdInfoExit}
		p.control(func(fd int) {
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
		})
		if errno != 0 {
			return 0, false // an older kernel
		}
		if info.mask&pidfdInfoExit != 0 {
			status := unix.WaitStatus(info.exit)
			if status.Signaled() {
				return 128 + int(status.Signal()), true
			}
			return status.ExitStatus(), true
		}
		if time.Now().After(deadline) {
			return 0, false
		}
		<-time.After(pause)
	}
}

const (
	// programTime is for a process that was let go to become the program.
	programTime = time.Second
	// programLook is between looks whether it has.
	programLook = 100 * time.Microsecond
)

// AwaitProgram returns once a process is no longer the executable that made it,
// which was told to become the container's program: a signal before that would
// be for the wrong one, which may survive it or end by it with another code.
func AwaitProgram(pid int, maker string) {
	link := fmt.Sprintf("/proc/%d/exe", pid)
	for deadline := time.Now().Add(programTime); time.Now().Before(deadline); <-time.After(programLook) {
		if exe, err := os.Readlink(link); err != nil || exe != maker {
			return // it ran, or has ended already
		}
	}
}

// exitOf puts a process's end into words.
func exitOf(code int, known bool) supervisor.Exit {
	return supervisor.Exit{Code: code, Known: known, At: time.Now().UTC()}
}
