package server

import (
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// chunk is how much is read at once: a pipe holds 64 KiB.
const chunk = 32 << 10

// chunks are shared by all streams: one that waits holds none.
var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// stream carries what a container writes into its log, and to who is attached.
type stream struct {
	name string // stdout or stderr
	f    *os.File
	log  *logFile

	carry []byte        // of a line that has not ended yet
	done  chan struct{} // run has returned

	mu    sync.Mutex
	ended bool // the last writer has closed
	sinks []*sink
}

// follow starts to carry.
func follow(name string, f *os.File, log *logFile, carry []byte) *stream {
	s := &stream{name: name, f: f, log: log, carry: carry, done: make(chan struct{})}
	go s.run()
	return s
}

func (s *stream) run() {
	defer close(s.done)
	rc, err := s.f.SyscallConn()
	if err != nil {
		return
	}
	for {
		// The buffer is taken when there is something to read, not before.
		buf, n := (*[chunk]byte)(nil), 0
		var rerr error
		err := rc.Read(func(fd uintptr) bool {
			buf = chunks.Get().(*[chunk]byte)
			for {
				n, rerr = unix.Read(int(fd), buf[:])
				if !errors.Is(rerr, unix.EINTR) {
					break
				}
			}
			if errors.Is(rerr, unix.EAGAIN) {
				chunks.Put(buf)
				buf = nil
				return false
			}
			return true
		})
		if err != nil {
			return // paused
		}
		if rerr != nil || n <= 0 {
			chunks.Put(buf)
			break // EIO is how a terminal ends
		}
		s.take(buf[:n])
		chunks.Put(buf)
	}
	s.flush()
}

// flush writes the line that has not ended, and lets go who is attached.
func (s *stream) flush() {
	var lines []byte
	lines, s.carry = format(nil, s.name, time.Now().UTC(), s.carry, nil, true)
	s.log.write(lines)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, k := range s.sinks {
		close(k.queue)
	}
	s.sinks = nil
}

func (s *stream) take(data []byte) {
	lines := chunks.Get().(*[chunk]byte)
	var out []byte
	out, s.carry = format(lines[:0], s.name, time.Now().UTC(), s.carry, data, false)
	s.log.write(out)
	chunks.Put(lines)

	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sinks) == 0 {
		return
	}
	copied := slices.Clone(data)
	s.sinks = slices.DeleteFunc(s.sinks, func(k *sink) bool {
		select {
		case k.queue <- copied:
			return false
		default: // it does not read: it is let go, the container is not held up
			close(k.queue)
			return true
		}
	})
}

// pause ends run without losing a byte: what was not read stays in the pipe,
// the line that has begun in carry.
func (s *stream) pause() {
	s.f.SetReadDeadline(time.Unix(1, 0))
	<-s.done
}

// resume goes on after a pause.
func (s *stream) resume() {
	s.f.SetReadDeadline(time.Time{})
	s.done = make(chan struct{})
	go s.run()
}

// sink is one who is attached to a stream.
type sink struct {
	f     *os.File
	queue chan []byte
	done  chan struct{}
}

// maxBehind is how many reads one who is attached may lag: 2 MiB.
const maxBehind = 64

// attach joins f to the stream; the sink's done is closed when that is over.
// gone is called if f breaks.
func (s *stream) attach(f *os.File, gone func()) *sink {
	k := &sink{f, make(chan []byte, maxBehind), make(chan struct{})}
	s.mu.Lock()
	if s.ended {
		close(k.queue)
	} else {
		s.sinks = append(s.sinks, k)
	}
	s.mu.Unlock()
	go func() {
		defer close(k.done)
		for data := range k.queue {
			if _, err := f.Write(data); err != nil {
				s.detach(k)
				gone()
				return
			}
		}
	}()
	return k
}

func (s *stream) detach(k *sink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.sinks, k); i >= 0 {
		s.sinks = slices.Delete(s.sinks, i, i+1)
		close(k.queue)
	}
}
