package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/runtime/supervisor"
)

// box is a container.
type box struct {
	run   supervisor.Run
	log   *logFile
	state supervisor.Container // guarded by Server.mu
	proc  *process

	out, err *stream  // err is nil with a terminal
	console  *os.File // the terminal's other end
	stdin    *os.File // the pipe's other end, until it is closed
	holder   *holder  // of one of these
	ended    chan struct{}
	watching chan struct{} // the watch has returned
}

// record is what container.json holds.
type record struct {
	supervisor.Container
	Run      supervisor.Run `json:"run"`
	Terminal bool           `json:"terminal,omitempty"`
	Holder   *holder        `json:"holder,omitempty"`
}

// maxSpec bounds config.json.
const maxSpec = 8 << 20

func readSpec(bundle string) (*specs.Spec, error) {
	path := filepath.Join(bundle, "config.json")
	info, err := os.Stat(path)
	if err != nil {
		return nil, supervisor.Errorf(supervisor.Invalid, "no bundle: %v", err)
	}
	if info.Size() > maxSpec {
		return nil, supervisor.Errorf(supervisor.Invalid, "%s has %d bytes, %d are allowed", path, info.Size(), maxSpec)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	spec := new(specs.Spec)
	if err := json.Unmarshal(b, spec); err != nil {
		return nil, supervisor.Errorf(supervisor.Invalid, "%s: %v", path, err)
	}
	if spec.Process == nil || spec.Root == nil || spec.Linux == nil || !filepath.IsAbs(spec.Root.Path) {
		return nil, supervisor.Errorf(supervisor.Invalid, "%s: process, linux and an absolute root.path are needed", path)
	}
	return spec, nil
}

// run makes a container and starts its program.
func (s *Server) run(id string, run supervisor.Run) (supervisor.Container, error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	spec, err := readSpec(run.Bundle)
	if err != nil {
		return supervisor.Container{}, err
	}
	b := &box{run: run, ended: make(chan struct{}), watching: make(chan struct{})}
	s.mu.Lock()
	if s.boxes[id] != nil {
		s.mu.Unlock()
		return supervisor.Container{}, supervisor.Errorf(supervisor.Exists, "container %s is there already", id)
	}
	s.boxes[id] = b // without a process: nobody finds it yet
	s.mu.Unlock()

	if err := s.begin(id, b, spec); err != nil {
		err = errors.Join(err, s.discard(id, run, spec))
		b.close()
		s.mu.Lock()
		delete(s.boxes, id)
		s.mu.Unlock()
		return supervisor.Container{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return b.state, nil
}

// discard takes away what was made of a container that has not begun; what it is
// known by only if nothing else is left.
func (s *Server) discard(id string, run supervisor.Run, spec *specs.Spec) error {
	if err := s.engine(run).Destroy(id, spec); err != nil {
		return err
	}
	return os.RemoveAll(s.dir(id))
}

// engine is what runs a container.
func (s *Server) engine(run supervisor.Run) Engine {
	if run.Handler == nil {
		return s.Engine
	}
	return s.Binary(*run.Handler, run.Bundle)
}

func (s *Server) dir(id string) string { return filepath.Join(s.Dir, "c", id) }

// begin does the steps of run. The record stands before the program starts: a
// container without one has never run anything.
func (s *Server) begin(id string, b *box, spec *specs.Spec) error {
	if err := os.Mkdir(s.dir(id), 0o700); err != nil {
		return err
	}
	err := s.keep(id, "run.json", b.run)
	if err != nil {
		return err
	}
	if b.log, err = openLog(b.run.Log); err != nil {
		return fmt.Errorf("cannot open the log: %w", err)
	}
	terminal := spec.Process.Terminal
	stdio, err := s.pipes(id, b, terminal)
	if err != nil {
		return err
	}
	created, err := s.engine(b.run).Create(id, b.run.Bundle, spec, stdio)
	if err != nil {
		stdio.close()
		return err
	}
	if terminal {
		if b.console, err = supervisor.Pollable(created.Console); err != nil {
			return err
		}
	}
	c := supervisor.Container{ID: id, PID: created.PID}
	if c.Ticks, err = startTicks(c.PID); err == nil {
		b.proc, err = openProcess(c.PID, c.Ticks)
	}
	if err == nil {
		err = s.hold(b)
	}
	if err == nil {
		err = s.follow(id, b, terminal, nil, nil)
	}
	stdio.close() // the container has its own
	if err != nil {
		return err
	}
	c.Started = time.Now().UTC()
	if err := s.keep(id, "container.json", record{c, b.run, terminal, b.holder}); err != nil {
		return err
	}
	if err := s.engine(b.run).Start(id); err != nil {
		b.out.pause()
		return err
	}
	s.mu.Lock()
	b.state = c
	s.tell(c)
	s.mu.Unlock()
	go s.watch(id, b)
	return nil
}

// pipes makes the container's ends. It holds both ends of its output open, so
// that the supervisor's death neither ends it nor loses what it wrote.
func (s *Server) pipes(id string, b *box, terminal bool) (Stdio, error) {
	var stdio Stdio
	if terminal {
		return stdio, nil
	}
	open := func(name string, flags int) (*os.File, error) {
		path := filepath.Join(s.dir(id), name)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
		// Both ends, for neither blocks then; not os.OpenFile, which would
		// make it a descriptor that does not block, for the program too.
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
	var err error
	if stdio.Out, err = open("stdout", unix.O_RDWR); err == nil {
		stdio.Err, err = open("stderr", unix.O_RDWR)
	}
	if err == nil && b.run.Stdin {
		var r, w *os.File
		if r, w, err = os.Pipe(); err == nil {
			stdio.In, b.stdin = r, w
		}
	}
	if err != nil {
		stdio.close()
	}
	return stdio, err
}

func (s *Stdio) close() {
	for _, f := range []*os.File{s.In, s.Out, s.Err} {
		if f != nil {
			f.Close()
		}
	}
	*s = Stdio{}
}

// follow opens our ends of the output and begins to carry it.
func (s *Server) follow(id string, b *box, terminal bool, carryOut, carryErr []byte) error {
	if terminal {
		b.out = follow("stdout", b.console, b.log, carryOut)
		return nil
	}
	out, err := openPipe(filepath.Join(s.dir(id), "stdout"))
	if err != nil {
		return err
	}
	errs, err := openPipe(filepath.Join(s.dir(id), "stderr"))
	if err != nil {
		out.Close()
		return err
	}
	b.out = follow("stdout", out, b.log, carryOut)
	b.err = follow("stderr", errs, b.log, carryErr)
	return nil
}

func openPipe(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// watch waits for the end of a container and tells it when its output is in
// its log.
func (s *Server) watch(id string, b *box) {
	defer close(b.watching)
	code, known, ended := b.proc.wait()
	if !ended {
		return // a replacement goes on
	}
	exit := exitOf(code, known)
	if known {
		// It was reaped: nobody tells it again if we are killed now.
		if err := s.keep(id, "code.json", exit); err != nil {
			s.Log.Error("cannot keep a container's exit code", "container", id, "error", err)
		}
	}
	exit.OOM = s.engine(b.run).Ended(id)
	s.end(id, b, exit)
}

func (s *Server) end(id string, b *box, exit supervisor.Exit) {
	b.drain()
	if err := s.keep(id, "exit.json", exit); err != nil {
		s.Log.Error("cannot keep how a container ended", "container", id, "error", err)
	}
	s.mu.Lock()
	b.state.Exit = &exit
	s.tell(b.state)
	s.mu.Unlock()
	b.close()
	close(b.ended)
}

// drain waits until the output was carried.
func (b *box) drain() {
	late := make(chan struct{})
	defer time.AfterFunc(drainTime, func() { close(late) }).Stop()
	for _, st := range []*stream{b.out, b.err} {
		if st == nil {
			continue
		}
		select {
		case <-st.done:
		case <-late:
			st.pause()
			st.flush()
		}
	}
}

// close closes what a container that runs needs.
func (b *box) close() {
	for _, st := range []*stream{b.out, b.err} {
		if st != nil {
			st.pause()
			st.f.Close()
		}
	}
	if b.stdin != nil {
		b.stdin.Close()
	}
	if b.proc != nil {
		b.proc.fd.Close()
	}
	if b.log != nil {
		b.log.close()
	}
}

func (s *Server) signal(id, exec string, sig int) error {
	if sig < 1 || sig > 64 {
		return supervisor.Errorf(supervisor.Invalid, "no signal %d", sig)
	}
	if exec != "" {
		e, err := s.execution(id, exec)
		if err != nil {
			return err
		}
		select {
		case <-e.ended:
			return nil
		default:
		}
		if sig == int(unix.SIGKILL) {
			// With all that it has started: it leads a session and a group.
			unix.Kill(-e.proc.pid, unix.SIGKILL)
		}
		return notThere(e.proc.signal(sig))
	}
	b, err := s.box(id)
	if err != nil {
		return err
	}
	if b.proc == nil {
		return nil // ended, known from a file
	}
	return notThere(b.proc.signal(sig))
}

// notThere takes an end that came first for success: who signals learns of it
// by waiting.
func notThere(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func (s *Server) update(id string, r *specs.LinuxResources) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	b, err := s.box(id)
	if err != nil {
		return err
	}
	if r == nil {
		return supervisor.Errorf(supervisor.Invalid, "no resources")
	}
	select {
	case <-b.ended:
		return supervisor.Errorf(supervisor.State, "container %s has ended", id)
	default:
	}
	return s.engine(b.run).Update(id, r)
}

func (s *Server) delete(id string) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	b, err := s.box(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	ended := b.state.Exit != nil
	s.mu.Unlock()
	if !ended {
		return supervisor.Errorf(supervisor.State, "container %s runs", id)
	}
	<-b.ended // who was told of the end may come before it is cleaned up
	if err := s.engine(b.run).Destroy(id, nil); err != nil {
		return err
	}
	if err := os.RemoveAll(s.dir(id)); err != nil {
		return err
	}
	s.forgetExecs(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.boxes[id] != b {
		return nil // another call was quicker
	}
	delete(s.boxes, id)
	gone := b.state
	gone.Gone = true
	s.tell(gone)
	return nil
}

func (s *Server) wait(ctx context.Context, id, exec string) (supervisor.Exit, error) {
	if exec != "" {
		return s.waitExec(ctx, id, exec)
	}
	b, err := s.box(id)
	if err != nil {
		return supervisor.Exit{}, err
	}
	select {
	case <-b.ended:
	case <-ctx.Done():
		return supervisor.Exit{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return *b.state.Exit, nil
}

func (s *Server) resize(id string, size *supervisor.Size) error {
	b, err := s.box(id)
	if err != nil {
		return err
	}
	if size == nil || b.console == nil {
		return supervisor.Errorf(supervisor.Invalid, "container %s has no terminal", id)
	}
	return supervisor.SetSize(b.console, *size)
}

func (s *Server) reopen(id string) error {
	b, err := s.box(id)
	if err != nil {
		return err
	}
	select {
	case <-b.ended:
		return supervisor.Errorf(supervisor.State, "container %s has ended", id)
	default:
	}
	return b.log.reopen()
}
