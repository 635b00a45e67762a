package server

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/runtime/supervisor"
)

// handover is what the next executable must know that no file tells. Numbers
// are of descriptors that stay open over execve; -1 is none.
type handover struct {
	Started  time.Time     `json:"started"`
	Listener int           `json:"listener"`
	Lock     int           `json:"lock"`
	Boxes    []handoverBox `json:"boxes"`
	Execs    []handoverEx  `json:"execs"`
}

type handoverBox struct {
	record
	Proc     int    `json:"proc"`
	Out      int    `json:"out"`
	Err      int    `json:"err"`
	Stdin    int    `json:"stdin"`
	CarryOut []byte `json:"carry_out,omitempty"`
	CarryErr []byte `json:"carry_err,omitempty"`
}

type handoverEx struct {
	Key  string           `json:"key"`
	PID  int              `json:"pid"`
	Proc int              `json:"proc"`
	Exit *supervisor.Exit `json:"exit,omitempty"`
}

// maxHandover bounds what is read.
const maxHandover = 64 << 20

// replace goes on as another executable, with the same process number,
// children and descriptors. It returns only if that failed, and then nothing
// has changed.
func (s *Server) replace(files []*os.File, l *net.UnixListener) error {
	if len(files) != 1 {
		return supervisor.Errorf(supervisor.Invalid, "one executable is needed")
	}
	defer files[0].Close()
	s.gate.Lock()
	defer s.gate.Unlock()
	boxes, execs := s.pause()
	defer s.resume(boxes, execs)

	var kept keeper
	defer kept.close()
	h := handover{Started: s.started, Lock: kept.dup(s.lock)}
	lf, err := l.File()
	if err != nil {
		return err
	}
	h.Listener = kept.dup(lf)
	lf.Close()
	for _, b := range boxes {
		hb := handoverBox{record: record{b.state, b.run, b.console != nil, b.holder}, Proc: kept.dup(b.proc.fd), Out: -1, Err: -1, Stdin: kept.dup(b.stdin)}
		if b.out != nil {
			hb.Out, hb.CarryOut = kept.dup(b.out.f), b.out.carry
		}
		if b.err != nil {
			hb.Err, hb.CarryErr = kept.dup(b.err.f), b.err.carry
		}
		h.Boxes = append(h.Boxes, hb)
	}
	for key, e := range execs {
		he := handoverEx{Key: key, PID: e.proc.pid, Proc: -1}
		select {
		case <-e.ended:
			he.Exit = &e.exit
		default:
			he.Proc = kept.dup(e.proc.fd)
		}
		h.Execs = append(h.Execs, he)
	}
	if kept.err != nil {
		return kept.err
	}
	note, err := memo(h)
	if err != nil {
		return err
	}
	defer note.Close()
	return s.Exec(files[0], note)
}

// pause stops everything that runs by itself and returns it.
func (s *Server) pause() ([]*box, map[string]*execution) {
	s.mu.Lock()
	var boxes []*box
	for _, b := range s.boxes {
		if b.proc != nil {
			boxes = append(boxes, b)
		}
	}
	execs := map[string]*execution{}
	for key, e := range s.execs {
		if e.proc != nil {
			execs[key] = e
		}
	}
	s.mu.Unlock()
	for _, b := range boxes {
		b.proc.interrupt()
	}
	for _, e := range execs {
		e.proc.interrupt()
		<-e.watching
	}
	running := boxes[:0]
	for _, b := range boxes {
		<-b.watching
		select {
		case <-b.ended: // meanwhile
			continue
		default:
		}
		for _, st := range []*stream{b.out, b.err} {
			if st != nil {
				st.pause()
			}
		}
		running = append(running, b)
	}
	return running, execs
}

// resume undoes pause.
func (s *Server) resume(boxes []*box, execs map[string]*execution) {
	for _, b := range boxes {
		for _, st := range []*stream{b.out, b.err} {
			if st != nil && !st.ended {
				st.resume()
			}
		}
		b.proc.fd.SetReadDeadline(time.Time{})
		b.watching = make(chan struct{})
		go s.watch(b.state.ID, b)
	}
	for _, e := range execs {
		select {
		case <-e.ended:
			continue
		default:
		}
		e.proc.fd.SetReadDeadline(time.Time{})
		e.watching = make(chan struct{})
		go e.watch()
	}
}

// keeper holds copies of descriptors that stay open over execve.
type keeper struct {
	fds []int
	err error
}

func (k *keeper) dup(f *os.File) int {
	if f == nil || k.err != nil {
		return -1
	}
	rc, err := f.SyscallConn()
	if err != nil {
		return -1 // closed
	}
	fd := -1
	cerr := rc.Control(func(old uintptr) {
		// Away from the numbers that a new process's own files get.
		if fd, err = unix.FcntlInt(old, unix.F_DUPFD, 64); err != nil {
			k.err = fmt.Errorf("cannot keep a descriptor: %w", err)
		}
	})
	if cerr != nil || err != nil {
		return -1
	}
	k.fds = append(k.fds, fd)
	return fd
}

func (k *keeper) close() {
	for _, fd := range k.fds {
		unix.Close(fd)
	}
}

// memo writes h to memory that outlives execve.
func memo(h handover) (*os.File, error) {
	fd, err := unix.MemfdCreate("handover", 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "handover")
	if err := json.NewEncoder(f).Encode(h); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := f.Seek(0, 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// takeOver goes on with what the executable before has handed over. The
// listener is nil if there is nothing.
func (s *Server) takeOver(note *os.File) (*net.UnixListener, error) {
	if note == nil {
		return nil, nil
	}
	defer note.Close()
	var h handover
	dec := json.NewDecoder(note)
	if err := dec.Decode(&h); err != nil {
		return nil, fmt.Errorf("cannot read what was handed over: %w", err)
	}
	s.started = h.Started
	s.lock = adopt(h.Lock, "lock")
	for _, hb := range h.Boxes {
		s.takeBox(hb)
	}
	for _, he := range h.Execs {
		e := &execution{ended: make(chan struct{}), watching: make(chan struct{}), proc: &process{he.PID, adopt(he.Proc, "pidfd")}}
		s.execs[he.Key] = e
		if he.Exit != nil {
			e.exit = *he.Exit
			close(e.ended)
			close(e.watching)
			continue
		}
		go e.watch()
	}
	s.recover()
	f := adopt(h.Listener, "socket")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, fmt.Errorf("what was handed over is a %T", l)
	}
	u.SetUnlinkOnClose(false)
	return u, nil
}

func (s *Server) takeBox(h handoverBox) {
	b := &box{run: h.Run, state: h.Container, ended: make(chan struct{}), watching: make(chan struct{}),
		proc: &process{h.PID, adopt(h.Proc, "pidfd")}, stdin: adopt(h.Stdin, "stdin"), holder: h.Holder}
	var err error
	if b.log, err = openLog(b.run.Log); err != nil {
		s.Log.Error("cannot open the log of a container", "container", h.ID, "error", err)
		b.log = &logFile{path: b.run.Log}
	}
	if f := adopt(h.Out, "stdout"); f != nil {
		if h.Terminal {
			b.console = f
		}
		b.out = follow("stdout", f, b.log, h.CarryOut)
	}
	if f := adopt(h.Err, "stderr"); f != nil {
		b.err = follow("stderr", f, b.log, h.CarryErr)
	}
	s.put(h.ID, b)
	go s.watch(h.ID, b)
}

// adopt takes a descriptor that was kept.
func adopt(fd int, name string) *os.File {
	if fd < 0 {
		return nil
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name)
}
