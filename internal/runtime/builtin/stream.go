package builtin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/utils/exec"

	"knarr.dev/knarr/internal/runtime/supervisor"
)

const (
	// maxOutput and maxErrors bound the streams of an ExecSync: its answer is
	// one message of at most 16 MiB.
	maxOutput = 16_000_000
	maxErrors = 500_000
	// lingerTime is for output of processes that outlive the one that was
	// executed, and hold its streams.
	lingerTime = 2 * time.Second
	// dialTime bounds a connection to a port of a pod.
	dialTime = 10 * time.Second
)

// serveStreams opens the server whose addresses Exec, Attach and PortForward
// give: on loopback, and each address is a secret of the one who asked.
func (r *Runtime) serveStreams() (stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	config := streaming.DefaultConfig
	config.BaseURL = &url.URL{Scheme: "http", Host: l.Addr().String()}
	if r.stream, err = streaming.NewServer(config, streams{r}); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	// Not the library's own: it opens a port by itself, and tells later which.
	s := &http.Server{Handler: r.stream, ReadHeaderTimeout: dialTime, IdleTimeout: config.StreamIdleTimeout, ErrorLog: slog.NewLogLogger(r.cfg.Log.Handler(), slog.LevelWarn)}
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			r.cfg.Log.Error("the streaming server of the runtime ended", "error", err)
		}
	}()
	return func() { s.Close() }, nil
}

// Exec implements the CRI.
func (r *Runtime) Exec(_ context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	c, err := r.runningContainer(req.ContainerId)
	if err != nil {
		return nil, err
	}
	req.ContainerId = c.rec().ID
	return r.stream.GetExec(req)
}

// Attach implements the CRI.
func (r *Runtime) Attach(_ context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	c, err := r.runningContainer(req.ContainerId)
	if err != nil {
		return nil, err
	}
	req.ContainerId = c.rec().ID
	return r.stream.GetAttach(req)
}

// PortForward implements the CRI.
func (r *Runtime) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	s, err := r.sandbox(req.PodSandboxId)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	ready := s.rec().Ready
	r.mu.Unlock()
	if !ready {
		return nil, status.Errorf(codes.FailedPrecondition, "sandbox %s is not running", s.rec().ID)
	}
	req.PodSandboxId = s.rec().ID
	return r.stream.GetPortForward(req)
}

func (r *Runtime) runningContainer(id string) (*container, error) {
	c, err := r.container(id)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := c.state(); s != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s is in state %s", c.rec().ID, s)
	}
	return c, nil
}

// ExecSync implements the CRI.
func (r *Runtime) ExecSync(ctx context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	c, err := r.runningContainer(req.ContainerId)
	if err != nil {
		return nil, err
	}
	if len(req.Cmd) == 0 {
		return nil, status.Error(codes.InvalidArgument, "exec: no command")
	}
	if req.Timeout < 0 {
		return nil, status.Errorf(codes.InvalidArgument, "exec: a timeout of %d seconds", req.Timeout)
	}
	if req.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(req.Timeout)*time.Second, errExecTime)
		defer cancel()
	}
	out, errs := bounded{max: maxOutput}, bounded{max: maxErrors}
	code, err := r.exec(ctx, c, req.Cmd, false, nil, &out, &errs, nil)
	if errors.Is(context.Cause(ctx), errExecTime) {
		return nil, status.Errorf(codes.DeadlineExceeded, "command %q timed out after %d s", req.Cmd, req.Timeout)
	}
	if err != nil {
		return nil, failed(err, "cannot execute %q in container %s", req.Cmd, c.rec().ID)
	}
	return &runtimeapi.ExecSyncResponse{Stdout: out.b, Stderr: errs.b, ExitCode: int32(code)}, nil
}

var errExecTime = errors.New("the command took too long")

// bounded keeps the beginning of what is written.
type bounded struct {
	b   []byte
	max int
}

func (w *bounded) Write(p []byte) (int, error) {
	w.b = append(w.b, p[:min(len(p), w.max-len(w.b))]...)
	return len(p), nil
}

// exec runs a command in a container and copies its streams until it has ended.
// When ctx is done first it is killed.
func (r *Runtime) exec(ctx context.Context, c *container, cmd []string, tty bool, in io.Reader, out, errs io.Writer, resize <-chan remotecommand.TerminalSize) (int, error) {
	r.mu.Lock()
	p := *c.rec().Process
	r.mu.Unlock()
	p.Args, p.Terminal, p.ConsoleSize = cmd, tty, nil
	if tty {
		p.Env = append(p.Env[:len(p.Env):len(p.Env)], "TERM=xterm")
	}
	id, name := c.rec().ID, newID()[:16]
	var theirs [3]*os.File
	var ours []*os.File // to be closed when it is over
	defer func() {
		for _, f := range ours {
			f.Close()
		}
	}()
	var outputs sync.WaitGroup
	carry := func(to io.Writer, from *os.File) {
		if to == nil {
			to = io.Discard
		}
		outputs.Go(func() { io.Copy(to, from) })
	}
	if !tty {
		for i := range theirs {
			rd, w, err := os.Pipe()
			if err != nil {
				return 0, err
			}
			mine := rd
			theirs[i] = w
			if i == 0 {
				mine, theirs[i] = w, rd
			}
			ours = append(ours, mine)
		}
	}
	// Not with the caller's time: what was begun must be known, to be ended.
	_, console, err := r.cfg.Supervisor.Client.Exec(context.WithoutCancel(ctx), id, name, &p, theirs)
	for _, f := range theirs {
		if f != nil {
			f.Close()
		}
	}
	if err != nil {
		return 0, err
	}
	input := console
	if tty {
		if console, err = supervisor.Pollable(console); err != nil {
			return 0, err
		}
		input = console
		ours = append(ours, console)
		carry(out, console)
		resizes(ctx, resize, func(s remotecommand.TerminalSize) { supervisor.SetSize(console, supervisor.Size(s)) })
	} else {
		input = ours[0]
		carry(out, ours[1])
		carry(errs, ours[2])
	}
	if in == nil && !tty {
		input.Close()
	} else if in != nil {
		go func() {
			io.Copy(input, in)
			if !tty {
				input.Close()
			}
		}()
	}
	defer context.AfterFunc(ctx, func() { r.cfg.Supervisor.Signal(context.WithoutCancel(ctx), id, name, int(unix.SIGKILL)) })()
	e, err := r.cfg.Supervisor.Wait(context.WithoutCancel(ctx), id, name)
	if err != nil {
		return 0, err
	}
	// All that it wrote is in the pipes; a process that it left behind may hold
	// them open.
	done := make(chan struct{})
	go func() {
		outputs.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(lingerTime):
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if !e.Known {
		return 0, errors.New("how the command ended is not known")
	}
	return e.Code, nil
}

// resizes applies what comes until ctx is done.
func resizes(ctx context.Context, sizes <-chan remotecommand.TerminalSize, apply func(remotecommand.TerminalSize)) {
	if sizes == nil {
		return
	}
	go func() {
		for {
			select {
			case s, ok := <-sizes:
				if !ok {
					return
				}
				apply(s)
			case <-ctx.Done():
				return
			}
		}
	}()
}

// streams is the runtime as the streaming server calls it.
type streams struct{ r *Runtime }

// Exec implements streaming.Runtime.
func (s streams) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := s.r.runningContainer(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	code, err := s.r.exec(ctx, c, cmd, tty, in, writer(out), writer(errs), resize)
	if err != nil {
		return err
	}
	if code != 0 {
		return &exec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

// writer makes a nil of a nil: an interface with a nil in it is not one.
func writer(w io.WriteCloser) io.Writer {
	if w == nil {
		return nil
	}
	return w
}

// Attach implements streaming.Runtime.
func (s streams) Attach(ctx context.Context, id string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := s.r.runningContainer(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var theirs [3]*os.File
	var outputs sync.WaitGroup
	for i := range theirs {
		rd, w, err := os.Pipe()
		if err != nil {
			return err
		}
		if i == 0 {
			theirs[i] = rd
			if in == nil {
				w.Close()
				continue
			}
			go func() {
				io.Copy(w, in)
				w.Close()
			}()
			continue
		}
		theirs[i] = w
		to := [3]io.Writer{1: writer(out), 2: writer(errs)}[i]
		if to == nil {
			rd.Close()
			continue
		}
		outputs.Go(func() {
			defer rd.Close()
			if _, err := io.Copy(to, rd); err != nil {
				cancel() // the client is gone
			}
		})
	}
	resizes(ctx, resize, func(size remotecommand.TerminalSize) {
		s.r.cfg.Supervisor.Resize(ctx, c.rec().ID, supervisor.Size(size))
	})
	err = s.r.cfg.Supervisor.Attach(ctx, c.rec().ID, supervisor.Attach{Stdin: in != nil, Stdout: out != nil, Stderr: errs != nil}, theirs)
	for _, f := range theirs {
		f.Close()
	}
	outputs.Wait()
	return err
}

// PortForward implements streaming.Runtime.
func (s streams) PortForward(ctx context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	box, err := s.r.sandbox(id)
	if err != nil {
		return err
	}
	if port < 1 || port > 65535 {
		return fmt.Errorf("port %d is not 1 to 65535", port)
	}
	conn, err := s.r.dial(ctx, box, port)
	if err != nil {
		return fmt.Errorf("cannot connect to port %d of sandbox %s: %w", port, box.rec().ID, err)
	}
	defer conn.Close()
	defer stream.Close()
	var both sync.WaitGroup
	both.Go(func() {
		io.Copy(conn, stream)
		if t, ok := conn.(*net.TCPConn); ok {
			t.CloseWrite()
		}
	})
	done := make(chan struct{})
	go func() {
		io.Copy(stream, conn)
		close(done)
	}()
	select {
	case <-done: // the pod has no more to say
	case <-ctx.Done():
	}
	return nil
}

// dial connects to a port on a sandbox's loopback. A socket stays in the
// network namespace that it was made in.
func (r *Runtime) dial(ctx context.Context, s *sandbox, port int32) (conn net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	connect := func() error {
		// Not happy eyeballs: that would dial on other threads.
		for _, host := range []string{"127.0.0.1", "::1"} {
			var d net.Dialer
			c, derr := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
			if derr == nil {
				conn, err = c, nil
				return nil
			}
			if err == nil {
				err = derr
			}
		}
		return err
	}
	flags := s.flags()
	if flags&unix.CLONE_NEWNET == 0 {
		err = connect()
		return conn, err
	}
	err = inside(r.sandboxDir(s.rec().ID), unix.CLONE_NEWNET, connect)
	return conn, err
}
