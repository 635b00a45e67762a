package apiserver

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxConns bounds the connections that are open: each costs some 60 KB with
	// TLS, before anybody has said who he is.
	maxConns = 16384
	// maxConnsFrom bounds those from one address, so that nobody alone keeps the
	// others out: 300 nodes behind one address fit, with a dozen each.
	maxConnsFrom = 4096
	// remarkEvery is how often a refusal is worth a line.
	remarkEvery = time.Minute
)

// bounded is a listener that closes what is too much at once; a client tries
// again.
type bounded struct {
	net.Listener
	most, mostFrom int
	log            *slog.Logger

	mu       sync.Mutex
	open     int
	from     map[netip.Prefix]int
	remarked time.Time
}

func newBounded(l net.Listener, log *slog.Logger) *bounded {
	return &bounded{Listener: l, most: maxConns, mostFrom: maxConnsFrom, log: log, from: map[netip.Prefix]int{}}
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := sourceOf(c.RemoteAddr())
		if b.take(from) {
			return &counted{Conn: c, leave: sync.OnceFunc(func() { b.leave(from) })}, nil
		}
		_ = c.Close()
	}
}

// sourceOf an address: of IPv6, the network of 64 bits that one client has.
func sourceOf(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	return netip.PrefixFrom(ip, bits).Masked()
}

func (b *bounded) take(from netip.Prefix) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open < b.most && b.from[from] < b.mostFrom {
		b.open++
		b.from[from]++
		return true
	}
	if now := time.Now(); now.Sub(b.remarked) >= remarkEvery {
		b.remarked = now
		b.log.Warn("connections are refused: there are too many", "from", from, "open", b.open, "fromThere", b.from[from])
	}
	return false
}

func (b *bounded) leave(from netip.Prefix) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open--
	if b.from[from]--; b.from[from] == 0 {
		delete(b.from, from)
	}
}

// counted gives its place back when it is closed.
type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}
