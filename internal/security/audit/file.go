package audit

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"gopkg.in/natefinch/lumberjack.v2"
)

// File is a log file that is rotated.
type File struct {
	Path       string // "-": standard output
	MaxSize    int    // MiB; 0: it is never rotated
	MaxAge     int    // days that old files are kept; 0: for ever
	MaxBackups int    // old files that are kept; 0: all
	Compress   bool   // old files
}

// Open makes the file if there is none, and returns what writes to it.
func (f File) Open() (func(ctx context.Context, events [][]byte) error, error) {
	if f.Path == "-" {
		return (&lines{to: os.Stdout}).send, nil
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(f.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if f.MaxSize == 0 {
		return (&lines{to: file}).send, nil
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", f.Path, err)
	}
	return (&lines{to: &lumberjack.Logger{Filename: f.Path, MaxSize: f.MaxSize, MaxAge: f.MaxAge, MaxBackups: f.MaxBackups, Compress: f.Compress}}).send, nil
}

// lines writes one event per line.
type lines struct {
	mu   sync.Mutex
	to   io.Writer
	torn bool // the last line is not whole: the disk was full
}

func (l *lines) send(_ context.Context, events [][]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range events {
		if l.torn {
			if _, err := l.to.Write([]byte{'\n'}); err != nil {
				return err
			}
			l.torn = false
		}
		n, err := l.to.Write(line)
		if err != nil {
			l.torn = n > 0
			return err
		}
	}
	return nil
}
