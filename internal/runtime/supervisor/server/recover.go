package server

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/runtime/supervisor"
)

// recover finds what files tell of: all that a former supervisor left behind
// when it died, or, after a replacement, those that had ended before.
func (s *Server) recover() {
	entries, err := os.ReadDir(filepath.Join(s.Dir, "c"))
	if err != nil {
		s.Log.Error("cannot look for containers", "error", err)
		return
	}
	for _, e := range entries {
		s.mu.Lock()
		known := s.boxes[e.Name()] != nil
		s.mu.Unlock()
		if known {
			continue
		}
		if err := s.recoverOne(e.Name()); err != nil {
			s.Log.Error("cannot find a container again", "container", e.Name(), "error", err)
		}
	}
}

func (s *Server) recoverOne(id string) error {
	var r record
	if err := s.read(id, "container.json", &r); errors.Is(err, os.ErrNotExist) {
		// It was being made, or being deleted, and has run nothing since.
		var run supervisor.Run
		var spec *specs.Spec
		if s.read(id, "run.json", &run) == nil {
			if spec, err = readSpec(run.Bundle); err != nil {
				s.Log.Warn("what a container was to be cannot be read: a cgroup may be left", "container", id, "error", err)
			}
		}
		return s.discard(id, run, spec)
	} else if err != nil {
		return err
	}
	b := &box{run: r.Run, state: r.Container, ended: make(chan struct{}), watching: make(chan struct{})}
	var exit supervisor.Exit
	switch err := s.read(id, "exit.json", &exit); {
	case err == nil:
		b.state.Exit = &exit
		close(b.ended)
		close(b.watching)
		s.put(id, b)
		return nil
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	var err error
	if b.log, err = openLog(b.run.Log); err != nil {
		s.Log.Error("cannot open the log of a container that was found again", "container", id, "error", err)
		b.log = &logFile{path: b.run.Log} // a later rotation opens it
	}
	if b.holder = r.Holder; b.holder != nil {
		// If it is gone, so is the container, or it was told that its input ended.
		if end, err := b.holder.regain(); err == nil && r.Terminal {
			b.console = end
		} else if err == nil {
			b.stdin = end
		}
	}
	if !r.Terminal || b.console != nil {
		if err := s.follow(id, b, r.Terminal, nil, nil); err != nil {
			return err
		}
	}
	defer s.put(id, b)
	if b.proc, err = openProcess(r.PID, r.Ticks); err != nil {
		if s.read(id, "code.json", &exit) != nil {
			exit = exitOf(0, false)
		}
		exit.OOM = s.engine(b.run).Ended(id)
		close(b.watching)
		s.end(id, b, exit)
		return nil
	}
	// Dead before its program was started: nobody was told that it runs.
	if err := s.engine(b.run).Start(id); err != nil && !errors.Is(err, ErrStarted) {
		s.Log.Warn("a container that was not started yet has ended, or cannot be", "container", id, "error", err)
		b.proc.signal(int(unix.SIGKILL))
	}
	go s.watch(id, b)
	return nil
}

func (s *Server) put(id string, b *box) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boxes[id] = b
}

// ErrStarted is what an Engine's Start says of a container that runs.
var ErrStarted = errors.New("the container was started already")

func (s *Server) read(id, name string, v any) error {
	b, err := os.ReadFile(filepath.Join(s.dir(id), name))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
