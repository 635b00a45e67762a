package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// errHungUp: an operation was asked for, and there is no answer.
var errHungUp = errors.New("the supervisor of containers went away")

// Client of a supervisor.
type Client struct{ socket string }

// NewClient makes a client of the supervisor at socket. It connects for each
// operation.
func NewClient(socket string) *Client { return &Client{socket} }

// Hello asks who is there.
func (c *Client) Hello(ctx context.Context) (Hello, error) {
	r, _, err := c.do(ctx, Request{Op: OpHello})
	if err != nil || r.Hello == nil {
		return Hello{}, err
	}
	return *r.Hello, nil
}

// Run runs a container and returns when its program was started.
func (c *Client) Run(ctx context.Context, id string, run Run) (Container, error) {
	r, _, err := c.do(ctx, Request{Op: OpRun, ID: id, Run: &run})
	if err != nil || r.Container == nil {
		return Container{}, err
	}
	return *r.Container, nil
}

// Signal sends a signal to a container's first process, or that of an exec.
// SIGKILL to the container ends all of it.
func (c *Client) Signal(ctx context.Context, id, exec string, signal int) error {
	_, _, err := c.do(ctx, Request{Op: OpSignal, ID: id, Exec: exec, Signal: signal})
	return err
}

// Update changes the limits of a container.
func (c *Client) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	_, _, err := c.do(ctx, Request{Op: OpUpdate, ID: id, Resources: r})
	return err
}

// Delete removes what is left of a container that has ended. That there is none
// is fine.
func (c *Client) Delete(ctx context.Context, id string) error {
	_, _, err := c.do(ctx, Request{Op: OpDelete, ID: id})
	if Is(err, NotFound) {
		return nil
	}
	return err
}

// Exec runs one more process in a container. Without a terminal its standard
// input, output and error are stdio, which the caller may close afterwards;
// with one, the terminal's other end is returned.
func (c *Client) Exec(ctx context.Context, id, exec string, p *specs.Process, stdio [3]*os.File) (pid int, console *os.File, err error) {
	var files []*os.File
	if !p.Terminal {
		files = stdio[:]
	}
	r, got, err := c.do(ctx, Request{Op: OpExec, ID: id, Exec: exec, Process: p}, files...)
	if err != nil {
		return 0, nil, err
	}
	if p.Terminal {
		if len(got) != 1 {
			return 0, nil, errors.New("the supervisor sent no terminal")
		}
		return r.PID, got[0], nil
	}
	return r.PID, nil, nil
}

// Wait blocks until a container, or an exec in it, has ended. How an exec ended
// is told once.
func (c *Client) Wait(ctx context.Context, id, exec string) (Exit, error) {
	for {
		r, _, err := c.do(ctx, Request{Op: OpWait, ID: id, Exec: exec})
		if errors.Is(err, errHungUp) {
			continue // it replaces itself; if it has died the next call says so
		}
		if err != nil || r.Exit == nil {
			return Exit{}, err
		}
		return *r.Exit, nil
	}
}

// Attach joins the streams to a container's until it ends, ctx is done or the
// other side of a stream is closed.
func (c *Client) Attach(ctx context.Context, id string, a Attach, stdio [3]*os.File) error {
	_, _, err := c.do(ctx, Request{Op: OpAttach, ID: id, Attach: &a}, stdio[:]...)
	return err
}

// Resize sets the size of a container's terminal.
func (c *Client) Resize(ctx context.Context, id string, size Size) error {
	_, _, err := c.do(ctx, Request{Op: OpResize, ID: id, Size: &size})
	return err
}

// Reopen opens a container's log anew, under its name.
func (c *Client) Reopen(ctx context.Context, id string) error {
	_, _, err := c.do(ctx, Request{Op: OpReopen, ID: id})
	return err
}

// Replace makes the supervisor go on as the executable. It returns when the
// new one answers.
func (c *Client) Replace(ctx context.Context, executable *os.File) error {
	before, err := c.Hello(ctx)
	if err != nil {
		return err
	}
	_, _, err = c.do(ctx, Request{Op: OpReplace}, executable)
	if err != nil && !errors.Is(err, errHungUp) {
		return err
	}
	// The connection ended with the old executable. The socket stays: the next
	// question waits for the new one.
	after, err := c.Hello(ctx)
	if err == nil && after.PID != before.PID {
		err = errors.New("the supervisor of containers died when it replaced itself")
	}
	return err
}

// Events calls each with every container that is there, synced once after them,
// and each again with every change, until ctx is done or the supervisor ends.
func (c *Client) Events(ctx context.Context, each func(Container), synced func()) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.Send(Request{Op: OpEvents}); err != nil {
		return err
	}
	for {
		var r Reply
		if err := conn.Receive(&r); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("the supervisor's events end: %w", err)
		}
		switch {
		case r.Error != nil:
			return r.Error
		case r.Synced:
			synced()
		case r.Container != nil:
			each(*r.Container)
		}
	}
}

func (c *Client) dial(ctx context.Context) (*Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, fmt.Errorf("the supervisor of containers does not answer: %w", err)
	}
	return NewConn(conn.(*net.UnixConn)), nil
}

func (c *Client) do(ctx context.Context, q Request, files ...*os.File) (Reply, []*os.File, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return Reply{}, nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var r Reply
	if err = conn.Send(q, files...); err == nil {
		err = conn.Receive(&r)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return Reply{}, nil, ctx.Err()
	case err != nil:
		return Reply{}, nil, fmt.Errorf("%s: %w: %w", q.Op, errHungUp, err)
	case r.Error != nil:
		return Reply{}, nil, r.Error
	}
	return r, conn.Take(), nil
}
