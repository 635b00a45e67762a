package server

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"knarr.dev/knarr/internal/runtime/supervisor"
)

// execution is one more process in a container.
type execution struct {
	proc     *process
	ended    chan struct{}
	watching chan struct{}
	exit     supervisor.Exit // once ended is closed
}

func (s *Server) exec(id, name string, p *specs.Process, files []*os.File) (pid int, console *os.File, err error) {
	stdio := Stdio{}
	if len(files) == 3 {
		stdio = Stdio{files[0], files[1], files[2]}
	}
	defer stdio.close()
	if p == nil || len(p.Args) == 0 {
		return 0, nil, supervisor.Errorf(supervisor.Invalid, "no command")
	}
	if !p.Terminal && len(files) != 3 {
		return 0, nil, supervisor.Errorf(supervisor.Invalid, "%d descriptors instead of 3", len(files))
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	b, err := s.box(id)
	if err != nil {
		return 0, nil, err
	}
	select {
	case <-b.ended:
		return 0, nil, supervisor.Errorf(supervisor.State, "container %s has ended", id)
	default:
	}
	key := id + "/" + name
	e := &execution{ended: make(chan struct{}), watching: make(chan struct{})}
	s.mu.Lock()
	if s.execs[key] != nil {
		s.mu.Unlock()
		return 0, nil, supervisor.Errorf(supervisor.Exists, "container %s has an exec %s already", id, name)
	}
	s.execs[key] = e
	s.mu.Unlock()
	created, err := s.engine(b.run).Exec(id, p, stdio)
	var proc *process
	if err == nil {
		proc, err = openProcess(created.PID, 0)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.execs, key)
		return 0, nil, err
	}
	e.proc = proc
	go e.watch()
	return created.PID, created.Console, nil
}

func (e *execution) watch() {
	defer close(e.watching)
	code, known, ended := e.proc.wait()
	if !ended {
		return
	}
	e.exit = exitOf(code, known)
	e.proc.fd.Close()
	close(e.ended)
}

func (s *Server) execution(id, name string) (*execution, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.execs[id+"/"+name]
	if e == nil || e.proc == nil {
		return nil, supervisor.Errorf(supervisor.NotFound, "container %s has no exec %s", id, name)
	}
	return e, nil
}

func (s *Server) waitExec(ctx context.Context, id, name string) (supervisor.Exit, error) {
	e, err := s.execution(id, name)
	if err != nil {
		return supervisor.Exit{}, err
	}
	select {
	case <-e.ended:
	case <-ctx.Done():
		return supervisor.Exit{}, ctx.Err()
	}
	s.mu.Lock()
	delete(s.execs, id+"/"+name)
	s.mu.Unlock()
	return e.exit, nil
}

// forgetExecs drops what nobody waited for.
func (s *Server) forgetExecs(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.execs {
		if strings.HasPrefix(key, id+"/") {
			delete(s.execs, key) // its watch goes on to its end
		}
	}
}

// attach joins descriptors to a container's streams until one side is gone.
func (s *Server) attach(ctx context.Context, id string, a *supervisor.Attach, files []*os.File) error {
	if a == nil || len(files) != 3 {
		for _, f := range files {
			f.Close()
		}
		return supervisor.Errorf(supervisor.Invalid, "three descriptors are needed")
	}
	for i := range files {
		f, err := supervisor.Pollable(files[i])
		if err != nil {
			return err
		}
		defer f.Close()
		files[i] = f
	}
	b, err := s.box(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sinks []*sink
	join := func(st *stream, f *os.File) {
		k := st.attach(f, cancel)
		context.AfterFunc(ctx, func() {
			st.detach(k)
			f.SetWriteDeadline(time.Unix(1, 0))
		})
		sinks = append(sinks, k)
	}
	if a.Stdout && b.out != nil {
		join(b.out, files[1])
	}
	if a.Stderr && b.err != nil {
		join(b.err, files[2])
	}
	if a.Stdin && (b.stdin != nil || b.console != nil) {
		go s.feed(ctx, b, files[0])
	}
	select {
	case <-b.ended:
	case <-ctx.Done():
	}
	// What the container wrote last is on its way; one who does not take it is
	// not waited for.
	late := time.AfterFunc(drainTime, cancel)
	defer late.Stop()
	for _, k := range sinks {
		<-k.done
	}
	return nil
}

// feed copies what is typed into a container.
func (s *Server) feed(ctx context.Context, b *box, from *os.File) {
	defer context.AfterFunc(ctx, func() { from.SetReadDeadline(time.Unix(1, 0)) })()
	to := b.stdin
	if b.console != nil {
		to = b.console
	}
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			break
		}
	}
	if b.run.Once && b.stdin != nil {
		b.stdin.Close()
		b.holder.letGo()
	}
}
