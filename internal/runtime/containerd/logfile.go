package containerd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLog bounds containerd's log: one file of this size, and the one before.
const maxLog = 8 << 20

type logFile struct {
	path   string
	notify *os.File
}

// newLogFile opens path for watching; containerd appends to it by itself.
func newLogFile(path string) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	_ = f.Close()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	l := &logFile{path: path, notify: os.NewFile(uintptr(fd), "inotify")}
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		_ = l.notify.Close()
		return nil, fmt.Errorf("containerd: cannot watch %s: %w", path, err)
	}
	return l, nil
}

// bound cuts the log whenever it has grown too long, until ctx ends. It is
// woken by writes, so a silent containerd costs nothing.
func (l *logFile) bound(ctx context.Context, log *slog.Logger) {
	stop := context.AfterFunc(ctx, func() { _ = l.notify.Close() })
	defer stop()
	buf := make([]byte, 4096)
	for {
		if err := l.cut(maxLog); err != nil {
			log.Warn("cannot bound containerd's log", "error", err)
		}
		if _, err := l.notify.Read(buf); err != nil {
			return
		}
	}
}

// cut copies a log longer than limit beside itself and empties it: containerd
// holds the file open in append mode and goes on at the new end.
func (l *logFile) cut(limit int64) error {
	in, err := os.OpenFile(l.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil || st.Size() <= limit {
		return err
	}
	if _, err := in.Seek(-limit, io.SeekEnd); err != nil {
		return err
	}
	out, err := os.OpenFile(l.path+".1", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	// What is written meanwhile is lost: a bound matters more than a line.
	if _, err := io.Copy(out, io.LimitReader(in, limit)); err != nil {
		return err
	}
	return in.Truncate(0)
}

// lastLine of a log, for an error message.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if _, err := f.Seek(-4096, io.SeekEnd); err != nil {
		_, _ = f.Seek(0, io.SeekStart) // shorter than that
	}
	data, _ := io.ReadAll(io.LimitReader(f, 4096))
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return lines[len(lines)-1]
}
