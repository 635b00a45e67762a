// Package logs reads container logs in the CRI's format: lines of a time, a
// stream, a tag that tells whole lines from parts, and the text.
package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Options of one read.
type Options struct {
	Follow     bool
	Tail       int64 // lines from the end; negative: all
	Since      time.Time
	Timestamps bool
	Limit      int64  // bytes; 0: none
	Stream     string // "stdout", "stderr" or "": both
}

const (
	// maxLine bounds what is held of one line; runtimes cut at 16 KiB.
	maxLine = 1 << 20
	// followEvery is how often a followed log is looked at: late enough to cost
	// nothing, early enough not to be felt.
	followEvery = 100 * time.Millisecond
	block       = 64 << 10
)

var errLimit = errors.New("limit reached")

// Read writes the log to w. alive tells whether more may come; a followed log
// ends when it does not.
func Read(ctx context.Context, path string, o Options, alive func() bool, w io.Writer, flush func()) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot open the log: %w", err)
	}
	defer func() { f.Close() }()
	if o.Tail >= 0 {
		at, err := tail(f, o.Tail)
		if err != nil {
			return err
		}
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return err
		}
	}
	out := &writer{w: w, left: o.Limit, bounded: o.Limit > 0, o: o}
	for {
		running := alive() // before the read, so that the last lines are not missed
		if err := drain(f, out); err != nil {
			if errors.Is(err, errLimit) {
				return nil
			}
			return err
		}
		flush()
		if next, err := rotated(f, path); err == nil && next != nil {
			// What was written between the read and the renaming comes first.
			if err := drain(f, out); err != nil {
				next.Close()
				if errors.Is(err, errLimit) {
					return nil
				}
				return err
			}
			f.Close()
			f = next
			continue
		}
		if !o.Follow || !running {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
	}
}

// rotated opens the new file if path is no longer the one that is read.
func rotated(f *os.File, path string) (*os.File, error) {
	now, err := os.Stat(path)
	if err != nil {
		return nil, err // between renaming and reopening
	}
	old, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if os.SameFile(now, old) {
		return nil, nil
	}
	return os.Open(path)
}

// drain writes the complete lines from the file's position on and leaves the
// position after the last of them.
func drain(f *os.File, out *writer) error {
	start, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	r := bufio.NewReaderSize(f, block)
	for {
		begin := start
		line, err := r.ReadSlice('\n')
		var long []byte
		for errors.Is(err, bufio.ErrBufferFull) {
			if len(long) < maxLine {
				long = append(long, line...)
			}
			start += int64(len(line))
			line, err = r.ReadSlice('\n')
		}
		if errors.Is(err, io.EOF) {
			_, err := f.Seek(begin, io.SeekStart)
			return err
		}
		if err != nil {
			return err
		}
		start += int64(len(line))
		if long != nil {
			line = append(long, line...)
		}
		if err := out.line(line); err != nil {
			return err
		}
	}
}

// writer prints parsed lines.
type writer struct {
	w       io.Writer
	o       Options
	left    int64
	bounded bool
	partial bool // the last piece was not the end of its line
}

func (w *writer) line(raw []byte) error {
	stamp, rest, ok := bytes.Cut(raw, []byte(" "))
	if !ok {
		return nil // not a log line: a crash of the writer
	}
	stream, rest, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return nil
	}
	tag, text, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return nil
	}
	if w.o.Stream != "" && string(stream) != w.o.Stream {
		return nil
	}
	if !w.o.Since.IsZero() {
		t, err := time.Parse(time.RFC3339Nano, string(stamp))
		if err != nil || t.Before(w.o.Since) {
			return nil
		}
	}
	if w.o.Timestamps && !w.partial {
		if err := w.write(append(stamp[:len(stamp):len(stamp)], ' ')); err != nil {
			return err
		}
	}
	w.partial = bytes.HasPrefix(tag, []byte("P"))
	if w.partial {
		text = bytes.TrimSuffix(text, []byte("\n"))
	}
	return w.write(text)
}

func (w *writer) write(b []byte) error {
	if w.bounded {
		if w.left < int64(len(b)) {
			if _, err := w.w.Write(b[:w.left]); err != nil {
				return err
			}
			return errLimit
		}
		w.left -= int64(len(b))
	}
	_, err := w.w.Write(b)
	return err
}

// tail finds where the last n lines begin, reading blocks from the end. The
// parts of a long line are one line.
func tail(f *os.File, n int64) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return end, err
	}
	buf := make([]byte, block)
	at, found, begin := end, int64(0), end
	// before takes the raw line that starts at start and reports whether the
	// lines after it are all that was asked for.
	before := func(start int64) bool {
		if found == 0 || !partial(f, start) {
			if found == n {
				return true
			}
			found++
		}
		begin = start
		return false
	}
	for at > 0 {
		size := min(at, block)
		at -= size
		if _, err := f.ReadAt(buf[:size], at); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] == '\n' && at+i != end-1 && before(at+i+1) {
				return begin, nil
			}
		}
	}
	if before(0) {
		return begin, nil
	}
	return 0, nil
}

// maxHead holds a line's time, stream and tag.
const maxHead = 64

// partial reports whether the line that starts there goes on in the next one.
func partial(f *os.File, start int64) bool {
	var head [maxHead]byte
	n, _ := f.ReadAt(head[:], start) // at the end of the file it is short
	parts := bytes.SplitN(head[:n], []byte(" "), 4)
	return len(parts) == 4 && bytes.HasPrefix(parts[2], []byte("P"))
}
