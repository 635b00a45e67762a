package seccomp

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Levels of what a kernel can do, by libseccomp's numbers.
const (
	levelBase     = 1 // Linux 3.5: filters
	levelTsync    = 2 // Linux 3.17
	levelLog      = 3 // Linux 4.14
	levelSSB      = 4 // Linux 4.17
	levelNotify   = 5 // Linux 5.0
	levelEsrch    = 6 // Linux 5.7
	levelWaitKill = 7 // Linux 5.19
)

// flags are those of seccomp(2) that came with a level.
var flags = [...]uintptr{
	levelTsync:    unix.SECCOMP_FILTER_FLAG_TSYNC,
	levelLog:      unix.SECCOMP_FILTER_FLAG_LOG,
	levelSSB:      unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
	levelNotify:   unix.SECCOMP_FILTER_FLAG_NEW_LISTENER,
	levelEsrch:    unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH,
	levelWaitKill: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}

// GetAPI tells the level of this kernel.
func GetAPI() (uint, error) { return level(), nil }

var level = sync.OnceValue(func() uint {
	for level := levelTsync; level < len(flags); level++ {
		// Flags are looked at before the program, which is nowhere.
		if _, _, err := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags[level], 0); err != unix.EFAULT {
			return uint(level) - 1
		}
	}
	return levelWaitKill
})

// GetLibraryVersion tells the version of libseccomp whose interface this is.
func GetLibraryVersion() (major, minor, micro uint) { return 2, 6, 0 }

// VersionError tells that the kernel is too old for something.
type VersionError struct {
	what        string
	level, need uint
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("the kernel is too old for %s: it has level %d of seccomp's interface, %d is needed", e.what, e.level, e.need)
}

func needs(need uint, what string) error {
	if level := level(); level < need {
		return &VersionError{what, level, need}
	}
	return nil
}
