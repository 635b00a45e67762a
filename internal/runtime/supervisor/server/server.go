// Package server is the supervisor: parent of a node's containers.
//
// What it must know survives in files below its directory: c/ID/container.json
// says which process it is, c/ID/exit.json how that ended, c/ID/stdout and
// stderr are the pipes that it writes to, held open by the container itself. So
// after its own death the next one finds the containers, their output and, from
// Linux 6.15 on, their exit codes; and it replaces itself by execve, which
// keeps children and descriptors.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/runtime/supervisor"
)

// Engine makes containers out of OCI bundles.
type Engine interface {
	// Create makes a container whose program waits to be started.
	Create(id, bundle string, spec *specs.Spec, stdio Stdio) (Created, error)
	Start(id string) error
	// Exec runs one more process.
	Exec(id string, p *specs.Process, stdio Stdio) (Created, error)
	Update(id string, r *specs.LinuxResources) error
	// Ended is told that the first process is gone, and ends what outlives it.
	// It reports whether the kernel killed for want of memory.
	Ended(id string) (oom bool)
	// Destroy kills what is left and removes cgroups and state. That there is
	// nothing is fine. The specification, if there is one, tells where a cgroup
	// may be of a container whose making was cut off.
	Destroy(id string, spec *specs.Spec) error
}

// Stdio of a process; nil is /dev/null. A terminal has none of them.
type Stdio struct{ In, Out, Err *os.File }

// Created is a new process. Console is the other end of its terminal.
type Created struct {
	PID     int
	Console *os.File
}

// Config of a supervisor.
type Config struct {
	// Dir is root's own, and lost at reboot.
	Dir    string
	Socket string
	// Build is the SHA-256 of the executable.
	Build string
	// Exec replaces the process: unix.Exec but in tests.
	Exec func(executable *os.File, handover *os.File) error
	// Holder starts a process that calls Hold and has these descriptors.
	Holder func(process, end int) (pid int, err error)
	Engine Engine
	// Binary is the engine of a container that an executable runs.
	Binary func(h supervisor.Handler, bundle string) Engine
	Log    *slog.Logger
}

// Bounds.
const (
	// requestTimeout is for a request to arrive whole.
	requestTimeout = 10 * time.Second
	// maxConns bounds what is asked at once: waits and events block.
	maxConns = 4096
	// drainTime is for the output of a container that has ended: only a process
	// that escaped its end can hold it up.
	drainTime = 2 * time.Second
)

// Server is a supervisor.
type Server struct {
	Config
	started time.Time
	slots   chan struct{}
	lock    *os.File
	// gate is held by operations that must not be cut in two by a replacement.
	gate sync.RWMutex

	mu    sync.Mutex
	boxes map[string]*box
	execs map[string]*execution // by ID/exec
	subs  map[*subscriber]bool
}

// New makes one; Run does the work.
func New(cfg Config) *Server {
	return &Server{Config: cfg, started: time.Now().UTC(), slots: make(chan struct{}, maxConns),
		boxes: map[string]*box{}, execs: map[string]*execution{}, subs: map[*subscriber]bool{}}
}

// Run finds the containers of a former supervisor and serves until ctx ends,
// which leaves containers as they are. handover comes from the executable
// before, or is nil.
func (s *Server) Run(ctx context.Context, handover *os.File) error {
	if err := adoptOrphans(); err != nil {
		return err
	}
	for _, dir := range []string{s.Dir, filepath.Join(s.Dir, "c")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	listener, err := s.takeOver(handover)
	if err != nil {
		return err
	}
	if listener == nil {
		if listener, err = s.listen(); err != nil {
			return err
		}
		s.recover()
	}
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	go s.reapOrphans(ctx)
	for {
		conn, err := listener.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
				<-time.After(100 * time.Millisecond)
				continue
			}
			return err
		}
		s.slots <- struct{}{}
		go func() {
			defer func() { <-s.slots }()
			s.serve(ctx, conn, listener)
		}()
	}
}

// listen takes the directory for this process and opens the socket in it.
func (s *Server) listen() (*net.UnixListener, error) {
	lock, err := os.OpenFile(filepath.Join(s.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("another supervisor has %s", s.Dir)
	}
	s.lock = lock
	if err := os.Remove(s.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// The directory is root's alone, so nobody can get in between.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.Socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l, os.Chmod(s.Socket, 0o600)
}

func (s *Server) serve(ctx context.Context, raw *net.UnixConn, l *net.UnixListener) {
	conn := supervisor.NewConn(raw)
	defer conn.Close()
	if !isRoot(raw) {
		return
	}
	conn.SetReadDeadline(time.Now().Add(requestTimeout))
	var q supervisor.Request
	if err := conn.Receive(&q); err != nil {
		conn.Send(supervisor.Reply{Error: supervisor.Errorf(supervisor.Invalid, "cannot read the request: %v", err)})
		return
	}
	conn.SetReadDeadline(time.Time{})
	// From here on nothing is read: an end of the connection cancels.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var files []*os.File
	r, err := supervisor.Reply{}, checkNames(q)
	if err == nil {
		switch q.Op {
		case supervisor.OpWait, supervisor.OpAttach, supervisor.OpEvents:
			go func() {
				defer cancel()
				conn.Read(make([]byte, 1))
			}()
		}
		r, files, err = s.do(ctx, conn, q, l)
	}
	if err != nil {
		var e *supervisor.Error
		if !errors.As(err, &e) {
			e = supervisor.Errorf(supervisor.Failed, "%v", err)
		}
		r.Error = e
	}
	if err := conn.Send(r, files...); err != nil && q.Op == supervisor.OpExec && r.PID != 0 {
		// Nobody knows of it, so nobody would end it.
		s.signal(q.ID, q.Exec, int(unix.SIGKILL))
	}
	for _, f := range files {
		f.Close()
	}
}

func isRoot(c *net.UnixConn) bool {
	rc, err := c.SyscallConn()
	if err != nil {
		return false
	}
	root := false
	rc.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		root = err == nil && cred.Uid == 0
	})
	return root
}

func checkNames(q supervisor.Request) error {
	switch q.Op {
	case supervisor.OpHello, supervisor.OpEvents, supervisor.OpReplace:
		return nil
	}
	if err := supervisor.CheckID(q.ID); err != nil {
		return err
	}
	if q.Exec != "" || q.Op == supervisor.OpExec {
		return supervisor.CheckID(q.Exec)
	}
	return nil
}

func (s *Server) do(ctx context.Context, conn *supervisor.Conn, q supervisor.Request, l *net.UnixListener) (r supervisor.Reply, files []*os.File, err error) {
	switch q.Op {
	case supervisor.OpHello:
		r.Hello = &supervisor.Hello{PID: os.Getpid(), Build: s.Build, Started: s.started}
	case supervisor.OpRun:
		if q.Run == nil {
			return r, nil, supervisor.Errorf(supervisor.Invalid, "no bundle")
		}
		var c supervisor.Container
		if c, err = s.run(q.ID, *q.Run); err == nil {
			r.Container = &c
		}
	case supervisor.OpSignal:
		err = s.signal(q.ID, q.Exec, q.Signal)
	case supervisor.OpUpdate:
		err = s.update(q.ID, q.Resources)
	case supervisor.OpDelete:
		err = s.delete(q.ID)
	case supervisor.OpExec:
		var console *os.File
		if r.PID, console, err = s.exec(q.ID, q.Exec, q.Process, conn.Take()); console != nil {
			files = []*os.File{console}
		}
	case supervisor.OpWait:
		var e supervisor.Exit
		if e, err = s.wait(ctx, q.ID, q.Exec); err == nil {
			r.Exit = &e
		}
	case supervisor.OpAttach:
		err = s.attach(ctx, q.ID, q.Attach, conn.Take())
	case supervisor.OpResize:
		err = s.resize(q.ID, q.Size)
	case supervisor.OpReopen:
		err = s.reopen(q.ID)
	case supervisor.OpEvents:
		err = s.events(ctx, conn)
	case supervisor.OpReplace:
		err = s.replace(conn.Take(), l)
	default:
		err = supervisor.Errorf(supervisor.Invalid, "unknown operation %q", q.Op)
	}
	return r, files, err
}

// box returns a container by its name.
func (s *Server) box(id string) (*box, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.boxes[id]
	if b == nil || b.state.PID == 0 { // it is being made
		return nil, supervisor.Errorf(supervisor.NotFound, "no container %s", id)
	}
	return b, nil
}

// subscriber gets what changes.
type subscriber struct{ queue chan supervisor.Container }

// maxEvents is how far a subscriber may lag before it is sent away to begin
// anew.
const maxEvents = 4096

func (s *Server) events(ctx context.Context, conn *supervisor.Conn) error {
	sub := &subscriber{make(chan supervisor.Container, maxEvents)}
	s.mu.Lock()
	var now []supervisor.Container
	for _, b := range s.boxes {
		if b.state.PID != 0 {
			now = append(now, b.state)
		}
	}
	s.subs[sub] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.subs, sub)
		s.mu.Unlock()
	}()
	for _, c := range now {
		if err := conn.Send(supervisor.Reply{Container: &c}); err != nil {
			return err
		}
	}
	if err := conn.Send(supervisor.Reply{Synced: true}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c, ok := <-sub.queue:
			if !ok {
				return errors.New("too far behind")
			}
			if err := conn.Send(supervisor.Reply{Container: &c}); err != nil {
				return err
			}
		}
	}
}

// tell tells every subscriber; mu is held.
func (s *Server) tell(c supervisor.Container) {
	for sub := range s.subs {
		select {
		case sub.queue <- c:
		default:
			close(sub.queue)
			delete(s.subs, sub)
		}
	}
}

// keep writes v to a file below a container's directory in one step.
func (s *Server) keep(id, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	path := filepath.Join(s.Dir, "c", id, name)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
