package server

import (
	"bytes"
	"os"
	"sync"
	"time"
)

// maxLine is where a long line is cut: what readers of CRI logs expect.
const maxLine = 16 << 10

// logFile is a container's log in CRI's format, shared by its two streams.
type logFile struct {
	path string

	mu     sync.Mutex
	f      *os.File
	closed bool
}

// openLog opens or makes the file; "" is a log that keeps nothing.
func openLog(path string) (*logFile, error) {
	l := &logFile{path: path}
	return l, l.reopen()
}

// reopen goes on in a file of the same name: the old one may have been moved.
func (l *logFile) reopen() error {
	if l.path == "" {
		return nil
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return f.Close()
	}
	if l.f != nil {
		l.f.Close()
	}
	l.f = f
	return nil
}

// write appends whole lines. A full disk loses them: the container is not held
// up for its log.
func (l *logFile) write(lines []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil || len(lines) == 0 {
		return
	}
	l.f.Write(lines)
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
}

// format appends data of a stream to dst as log lines and returns, with them,
// what is left: the beginning of a line, shorter than maxLine, which stands
// for the next time. The last data of a stream is flushed.
func format(dst []byte, stream string, at time.Time, carry, data []byte, flush bool) (lines, rest []byte) {
	one := func(tag string, text []byte) {
		dst = at.AppendFormat(dst, time.RFC3339Nano)
		dst = append(dst, ' ')
		dst = append(dst, stream...)
		dst = append(dst, ' ')
		dst = append(dst, tag...)
		dst = append(dst, ' ')
		dst = append(dst, text...)
		dst = append(dst, '\n')
	}
	if len(carry) > 0 {
		data = append(carry, data...)
	}
	for len(data) > 0 {
		end := bytes.IndexByte(data[:min(len(data), maxLine+1)], '\n')
		switch {
		case end >= 0:
			one("F", data[:end])
			data = data[end+1:]
		case len(data) > maxLine:
			one("P", data[:maxLine])
			data = data[maxLine:]
		case flush:
			one("P", data) // its line has not ended, and will not
			data = nil
		default:
			return dst, append([]byte(nil), data...)
		}
	}
	return dst, nil
}
