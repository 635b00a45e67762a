// Package dns is the cluster's DNS, in process on every node: services and
// pods by the Kubernetes DNS specification 1.1 straight from the view, and
// everything else from the node's own resolvers, with a small cache.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// Config of one node's DNS.
type Config struct {
	// View of services and endpoint slices with view.SlicesByService;
	// namespaces, if it has them, sharpen the answers for pods' names.
	View    *view.View
	Domain  string     // default cluster.local
	Address netip.Addr // the cluster DNS address; it need not exist yet
	Port    int        // default 53
	// Reverse ranges are the cluster's own, besides those of ServiceCIDRs, if
	// the view has them: unknown addresses in them have no name, instead of being
	// asked upstream.
	Reverse []netip.Prefix
	// Upstreams as host:port; nil: those of ResolvConf, read again when it
	// changes.
	Upstreams  []string
	ResolvConf string // default /etc/resolv.conf

	Log *slog.Logger
}

const (
	// ednsSize avoids fragments (DNS flag day 2020).
	ednsSize = 1232
	// maxInFlight questions are answered at once, TCP included.
	maxInFlight = 2048
	// maxTCP connections, and how long one may be silent.
	maxTCP  = 256
	tcpIdle = 10 * time.Second
	// maxPerConn questions on one TCP connection.
	maxPerConn = 1000
)

// Server answers. It is safe for concurrent use.
type Server struct {
	cfg     Config
	zone    zone
	ready   chan struct{}
	synced  atomic.Bool
	turn    atomic.Uint32
	reverse reverse
	forward *forwarder
	slots   chan struct{}
}

// New checks the configuration. It opens nothing.
func New(cfg Config) (*Server, error) {
	if cfg.View == nil || !cfg.View.Has(kinds.Service) || !cfg.View.Has(kinds.EndpointSlice) {
		return nil, errors.New("dns: a view of services and endpoint slices is needed")
	}
	if !cfg.Address.IsValid() {
		return nil, errors.New("dns: no address")
	}
	if cfg.Domain == "" {
		cfg.Domain = "cluster.local"
	}
	domain := strings.ToLower(dns.Fqdn(cfg.Domain))
	if _, ok := dns.IsDomainName(domain); !ok || domain == "." {
		return nil, fmt.Errorf("dns: %q is no domain", cfg.Domain)
	}
	if cfg.Port < 0 || cfg.Port > 65535 {
		return nil, fmt.Errorf("dns: port %d", cfg.Port)
	}
	if cfg.Port == 0 {
		cfg.Port = 53
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, zone: zone{domain: domain, server: cfg.Address, namespaces: cfg.View.Has(kinds.Namespace)}, ready: make(chan struct{}), slots: make(chan struct{}, maxInFlight),
		forward: newForwarder(cfg),
	}, nil
}

// Ready is closed once questions about services are answered.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	addr := netip.AddrPortFrom(s.cfg.Address, uint16(s.cfg.Port)).String()
	// The address may come and go with its link, which somebody else makes.
	lc := net.ListenConfig{Control: freeBind}
	pc, err := lc.ListenPacket(ctx, "udp", addr)
	if err != nil {
		return fmt.Errorf("dns: cannot listen on %s: %w", addr, err)
	}
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		_ = pc.Close()
		return fmt.Errorf("dns: cannot listen on %s: %w", addr, err)
	}
	servers := []*dns.Server{
		{PacketConn: pc, Handler: s, UDPSize: dns.MaxMsgSize, ReadTimeout: tcpIdle},
		{Listener: &limited{Listener: l, slots: make(chan struct{}, maxTCP)}, Handler: s, MaxTCPQueries: maxPerConn,
			ReadTimeout: tcpIdle, WriteTimeout: tcpIdle, IdleTimeout: func() time.Duration { return tcpIdle }},
	}
	s.synced.Store(s.cfg.View.Synced()) // a complete view answers the first question
	g, ctx := errgroup.WithContext(ctx)
	for _, srv := range servers {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		ended := make(chan struct{})
		g.Go(func() error {
			defer close(ended)
			if err := srv.ActivateAndServe(); err != nil && ctx.Err() == nil {
				return fmt.Errorf("dns: %w", err)
			}
			return nil
		})
		g.Go(func() error {
			select {
			case <-started:
			case <-ended:
				return nil
			}
			<-ctx.Done()
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			if err := srv.ShutdownContext(end); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("dns: %w", err)
			}
			return nil
		})
	}
	g.Go(func() error {
		if s.cfg.View.WaitSynced(ctx) == nil {
			s.synced.Store(true)
			close(s.ready)
		}
		return nil
	})
	return g.Wait()
}

func freeBind(network, _ string, c syscall.RawConn) error {
	var serr error
	err := c.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
		if serr == nil && strings.HasPrefix(network, "tcp") {
			serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}
	})
	return errors.Join(err, serr)
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return // the client asks again
	}
	m := s.respond(context.Background(), req)
	size := dns.MaxMsgSize
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size = dns.MinMsgSize
		if opt := req.IsEdns0(); opt != nil {
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), ednsSize)
		}
	}
	m.Truncate(size)
	if err := w.WriteMsg(m); err != nil {
		s.cfg.Log.Debug("cannot answer", "client", w.RemoteAddr(), "error", err)
	}
}

// respond to one message. It blocks only for names that are not ours.
func (s *Server) respond(ctx context.Context, req *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(req)
	m.RecursionAvailable = true
	m.Compress = true
	opt := req.IsEdns0()
	if opt != nil {
		m.SetEdns0(ednsSize, opt.Do())
		if opt.Version() != 0 {
			m.Rcode = dns.RcodeBadVers
			return m
		}
	}
	if req.Opcode != dns.OpcodeQuery {
		m.Rcode = dns.RcodeNotImplemented
		return m
	}
	if len(req.Question) != 1 {
		m.Rcode = dns.RcodeFormatError
		return m
	}
	q := req.Question[0]
	switch {
	case q.Qclass != dns.ClassINET:
		m.Rcode = dns.RcodeRefused
	case q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR:
		m.Rcode = dns.RcodeRefused // the zone is not for taking away
	case q.Qtype == dns.TypeANY:
		m.Answer = []dns.RR{&dns.HINFO{Hdr: header(q.Name, dns.TypeHINFO), Cpu: "RFC8482"}}
	default:
		s.answer(ctx, m, q, opt != nil && opt.Do())
	}
	return m
}

func (s *Server) answer(ctx context.Context, m *dns.Msg, q dns.Question, dnssec bool) {
	lower := strings.ToLower(q.Name)
	a, isReverse := reverseOf(lower)
	ours := s.zone.in(lower)
	if (ours || isReverse) && !s.synced.Load() {
		m.Rcode = dns.RcodeServerFailure // "no such name" would be a guess
		return
	}
	if ours {
		s.fromZone(ctx, m, q, dnssec)
		return
	}
	if isReverse {
		snapshot := s.cfg.View.Snapshot()
		records := s.reverse.records(s.zone, snapshot, q.Name, a)
		if records != nil || s.own(snapshot, a) {
			m.Authoritative = true
			if records == nil {
				m.Rcode = dns.RcodeNameError
			}
			if q.Qtype == dns.TypePTR {
				m.Answer = records
			}
			if m.Answer == nil {
				m.Ns = []dns.RR{s.zone.soa(snapshot)}
			}
			return
		}
	}
	s.fromUpstream(ctx, m, q, dnssec)
}

// own reports whether an address is in one of the cluster's ranges.
func (s *Server) own(now *view.Snapshot, a netip.Addr) bool {
	in := func(p netip.Prefix) bool { return p.Contains(a) }
	return slices.ContainsFunc(s.cfg.Reverse, in) || slices.ContainsFunc(view.ServiceRanges(now, netip.Prefix{}), in)
}

func (s *Server) fromZone(ctx context.Context, m *dns.Msg, q dns.Question, dnssec bool) {
	snapshot := s.cfg.View.Snapshot()
	r := s.zone.lookup(snapshot, q.Name, q.Qtype, s.turn.Add(1))
	m.Authoritative = true
	m.Answer = r.answer
	m.Extra = append(m.Extra, r.extra...)
	switch {
	case !r.exists:
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{s.zone.soa(snapshot)}
	case r.alias != "":
		// The client wants the address behind the alias; if that fails, it
		// has the alias at least.
		up, err := s.forward.ask(ctx, dns.Question{Name: r.alias, Qtype: q.Qtype, Qclass: q.Qclass}, dnssec)
		if err == nil {
			m.Answer = append(m.Answer, up.Answer...)
			m.Rcode = up.Rcode
		}
	case len(r.answer) == 0:
		m.Ns = []dns.RR{s.zone.soa(snapshot)}
	}
}

func (s *Server) fromUpstream(ctx context.Context, m *dns.Msg, q dns.Question, dnssec bool) {
	if !m.RecursionDesired || s.forward.looped(strings.ToLower(q.Name)) {
		m.Rcode = dns.RcodeRefused
		return
	}
	up, err := s.forward.ask(ctx, q, dnssec)
	if err != nil {
		s.cfg.Log.Debug("no answer from upstream", "name", q.Name, "error", err)
		m.Rcode = dns.RcodeServerFailure
		return
	}
	m.Rcode, m.Answer, m.Ns = up.Rcode, up.Answer, up.Ns
	m.Extra = append(m.Extra, up.Extra...)
	m.AuthenticatedData = up.AuthenticatedData && dnssec
	// The upstream saw the name in lower case; clients that mix letters as a
	// guard against forgery want theirs back.
	for _, rr := range m.Answer {
		if strings.EqualFold(rr.Header().Name, q.Name) {
			rr.Header().Name = q.Name
		}
	}
}

// limited closes connections above the bound at once.
type limited struct {
	net.Listener
	slots chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &limitedConn{Conn: c, release: l.slots}, nil
		default:
			_ = c.Close()
		}
	}
}

type limitedConn struct {
	net.Conn
	release chan struct{}
	closed  atomic.Bool
}

func (c *limitedConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		<-c.release
	}
	return c.Conn.Close()
}
