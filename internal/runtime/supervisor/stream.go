package supervisor

import (
	"os"

	"golang.org/x/sys/unix"
)

// Pollable takes f and returns it as one whose reads and writes end when it is
// closed, or its deadline comes.
func Pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	f.Close()
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "stream"), nil
}

// SetSize sets the size of the terminal whose other end console is.
func SetSize(console *os.File, s Size) error {
	rc, err := console.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := rc.Control(func(fd uintptr) {
		serr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Height, Col: s.Width})
	}); err != nil {
		return err
	}
	return serr
}
