package apiserver

import (
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
)

// line is a listener with connections from given addresses.
type line struct {
	net.Listener
	from []string
}

type caller struct {
	net.Conn
	from   string
	closed int
}

func (c *caller) RemoteAddr() net.Addr {
	a, err := net.ResolveTCPAddr("tcp", c.from)
	if err != nil {
		panic(err)
	}
	return a
}
func (c *caller) Close() error { c.closed++; return nil }

var errEmpty = errors.New("nobody is left")

func (l *line) Accept() (net.Conn, error) {
	if len(l.from) == 0 {
		return nil, errEmpty
	}
	c := &caller{from: l.from[0]}
	l.from = l.from[1:]
	return c, nil
}

// TestConnectionsAreBounded: in all, and from one address; who leaves makes room
// once.
func TestConnectionsAreBounded(t *testing.T) {
	var said strings.Builder
	l := &line{}
	b := newBounded(l, slog.New(slog.NewTextHandler(&said, nil)))
	b.most, b.mostFrom = 4, 2
	open := func(from ...string) (out []net.Conn) {
		t.Helper()
		l.from = from
		for {
			c, err := b.Accept()
			if errors.Is(err, errEmpty) {
				return out
			}
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, c)
		}
	}
	mine := open("192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "[::ffff:192.0.2.1]:4")
	if len(mine) != 2 {
		t.Fatalf("%d from one address", len(mine))
	}
	if six := open("[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1"); len(six) != 2 {
		t.Errorf("%d from one network", len(six))
	}
	if more := open("192.0.2.9:1"); len(more) != 0 {
		t.Errorf("%d beyond the bound of all", len(more))
	}
	if strings.Count(said.String(), "connections are refused") != 1 {
		t.Errorf("%s", &said)
	}
	for range 3 {
		if err := mine[0].Close(); err != nil {
			t.Fatal(err)
		}
	}
	if again := open("192.0.2.9:1", "192.0.2.1:5"); len(again) != 1 || b.open != 4 {
		t.Errorf("%d after one has left, %d open", len(again), b.open)
	}
}
