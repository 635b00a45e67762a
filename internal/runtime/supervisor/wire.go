package supervisor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// errTooLong: a message without an end.
var errTooLong = errors.New("message is too long")

// Conn carries lines of JSON, and descriptors with them.
type Conn struct {
	*net.UnixConn
	r     *bufio.Reader
	files []*os.File // received, not yet taken
}

// NewConn wraps a connection.
func NewConn(c *net.UnixConn) *Conn {
	conn := &Conn{UnixConn: c}
	conn.r = bufio.NewReaderSize((*reader)(conn), 4<<10)
	return conn
}

// Send writes v as one line; the descriptors arrive with it.
func (c *Conn) Send(v any, files ...*os.File) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(line) >= MaxMessage {
		return fmt.Errorf("%d bytes: %w", len(line), errTooLong)
	}
	line = append(line, '\n')
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(line, oob, nil)
	if err == nil && n < len(line) {
		_, err = c.Write(line[n:])
	}
	return err
}

// Receive reads one line into v.
func (c *Conn) Receive(v any) error {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > MaxMessage {
			return errTooLong
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) && len(line) > 0 {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return json.Unmarshal(bytes.TrimSuffix(line, []byte{'\n'}), v)
}

// Take hands over the descriptors that came so far.
func (c *Conn) Take() []*os.File {
	f := c.files
	c.files = nil
	return f
}

// Close closes the connection and what was not taken.
func (c *Conn) Close() error {
	for _, f := range c.Take() {
		f.Close()
	}
	return c.UnixConn.Close()
}

// reader reads bytes and puts descriptors aside.
type reader Conn

func (r *reader) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*MaxFiles))
	n, got, _, _, err := r.ReadMsgUnix(p, oob)
	if got > 0 {
		if ferr := r.keep(oob[:got]); err == nil {
			err = ferr
		}
	}
	n = max(n, 0) // -1 with an error
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func (r *reader) keep(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			r.files = append(r.files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if len(r.files) > MaxFiles {
		return fmt.Errorf("%d descriptors, %d are allowed", len(r.files), MaxFiles)
	}
	return nil
}
