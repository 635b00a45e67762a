package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"knarr.dev/knarr/internal/view"
)

const (
	forwardTimeout = 2 * time.Second
	// maxForwards bounds the questions that wait for somebody else at once.
	maxForwards = 256
	// Forwarded answers are kept at most this long, negative ones shorter.
	maxTTL, maxNegativeTTL = 30 * time.Second, 5 * time.Second
	maxCached              = 4096
	maxUDP                 = 1232 // what passes everywhere unfragmented (DNS flag day 2020)
)

// Config of a Server.
type Config struct {
	View   *view.View // namespaces, services, endpoint slices
	Domain string     // cluster.local
	// Address of the cluster's DNS, which this machine must hold.
	Address netip.Addr
	Port    int // 0: 53
	// Upstreams as host:port; nil: those of /etc/resolv.conf.
	Upstreams []string
	Log       *slog.Logger
}

// Server answers on UDP and TCP.
type Server struct {
	cfg      Config
	domain   string
	forwards chan struct{}

	mu     sync.Mutex
	cached map[dns.Question]entry
}

// entry is a forwarded answer.
type entry struct {
	msg   *dns.Msg
	until time.Time
}

// New checks the configuration.
func New(cfg Config) (*Server, error) {
	if cfg.View == nil || cfg.Domain == "" || !cfg.Address.IsValid() {
		return nil, errors.New("dns: view, domain and address are needed")
	}
	if cfg.Port == 0 {
		cfg.Port = 53
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Upstreams == nil {
		cfg.Upstreams = systemResolvers(cfg.Address)
	}
	return &Server{cfg: cfg, domain: dns.Fqdn(strings.ToLower(cfg.Domain)), forwards: make(chan struct{}, maxForwards), cached: map[dns.Question]entry{}}, nil
}

// systemResolvers are the machine's, without ourselves: that would be a loop.
func systemResolvers(self netip.Addr) []string {
	conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	var out []string
	for _, s := range conf.Servers {
		if s != self.String() {
			out = append(out, net.JoinHostPort(s, conf.Port))
		}
	}
	return out
}

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	addr := netip.AddrPortFrom(s.cfg.Address, uint16(s.cfg.Port)).String()
	var lc net.ListenConfig
	udp, err := lc.ListenPacket(ctx, "udp", addr)
	if err != nil {
		return fmt.Errorf("cannot answer DNS: %w", err)
	}
	tcp, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return errors.Join(fmt.Errorf("cannot answer DNS: %w", err), udp.Close())
	}
	servers := []*dns.Server{{PacketConn: udp, Handler: s}, {Listener: tcp, Handler: s, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second}}
	done := make(chan error, len(servers))
	for _, srv := range servers {
		go func() { done <- srv.ActivateAndServe() }()
	}
	left := len(servers)
	select {
	case err = <-done:
		left--
	case <-ctx.Done():
	}
	_, _ = udp.Close(), tcp.Close()
	for range left {
		<-done
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	m := s.reply(r)
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size := dns.MinMsgSize
		if o := r.IsEdns0(); o != nil {
			size = min(max(int(o.UDPSize()), dns.MinMsgSize), maxUDP)
		}
		m.Truncate(size)
	}
	if err := w.WriteMsg(m); err != nil {
		s.cfg.Log.Debug("cannot answer", "error", err)
	}
}

func (s *Server) reply(r *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	if len(r.Question) != 1 || r.Opcode != dns.OpcodeQuery {
		return m.SetRcode(r, dns.RcodeNotImplemented)
	}
	m.SetReply(r)
	if o := r.IsEdns0(); o != nil {
		m.SetEdns0(maxUDP, false)
	}
	q := r.Question[0]
	f, mine := zone{s.domain, s.cfg.View.Snapshot()}.answer(q.Name, q.Qtype)
	if !mine {
		return s.forward(r, m)
	}
	m.Authoritative, m.RecursionAvailable = true, true
	m.Answer, m.Extra = f.records, append(m.Extra, f.extra...)
	switch {
	case !f.exists:
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{s.soa()}
	case f.target != "" && q.Qtype != dns.TypeCNAME:
		s.chase(m, f.target, q.Qtype)
	case len(f.records) == 0:
		m.Ns = []dns.RR{s.soa()}
	}
	return m
}

// chase adds what an ExternalName's target resolves to; it may be one of ours.
func (s *Server) chase(m *dns.Msg, target string, qtype uint16) {
	if f, mine := (zone{s.domain, s.cfg.View.Snapshot()}).answer(target, qtype); mine {
		m.Answer = append(m.Answer, f.records...)
		return
	}
	q := new(dns.Msg)
	q.SetQuestion(target, qtype)
	if a := s.forward(q, new(dns.Msg).SetReply(q)); a.Rcode == dns.RcodeSuccess {
		m.Answer = append(m.Answer, a.Answer...)
	}
}

// soa tells resolvers how long a name's absence may be believed.
func (s *Server) soa() dns.RR {
	return &dns.SOA{Hdr: header(s.domain, dns.TypeSOA), Ns: "ns.dns." + s.domain, Mbox: "hostmaster." + s.domain,
		Serial: uint32(time.Now().Unix()), Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl}
}

// forward asks the machine's own resolvers, one after another.
func (s *Server) forward(r, m *dns.Msg) *dns.Msg {
	q := r.Question[0]
	q.Name = strings.ToLower(q.Name)
	if hit := s.lookup(q); hit != nil {
		hit.Id, hit.Question = r.Id, r.Question
		return hit
	}
	select {
	case s.forwards <- struct{}{}:
		defer func() { <-s.forwards }()
	default:
		return m.SetRcode(r, dns.RcodeServerFailure)
	}
	ask := r.Copy()
	ask.Id = dns.Id()
	for _, up := range s.cfg.Upstreams {
		for _, network := range []string{"udp", "tcp"} {
			c := &dns.Client{Net: network, Timeout: forwardTimeout, UDPSize: maxUDP}
			a, _, err := c.Exchange(ask, up)
			if err != nil || a == nil {
				break
			}
			if a.Truncated && network == "udp" {
				continue
			}
			s.keep(q, a)
			a.Id, a.Question = r.Id, r.Question
			return a
		}
	}
	return m.SetRcode(r, dns.RcodeServerFailure)
}

func (s *Server) lookup(q dns.Question) *dns.Msg {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.cached[q]
	if !ok || time.Now().After(e.until) {
		delete(s.cached, q)
		return nil
	}
	return e.msg.Copy()
}

func (s *Server) keep(q dns.Question, a *dns.Msg) {
	life := maxTTL
	if a.Rcode != dns.RcodeSuccess || len(a.Answer) == 0 {
		life = maxNegativeTTL
	}
	if a.Rcode != dns.RcodeSuccess && a.Rcode != dns.RcodeNameError {
		return
	}
	for _, rr := range a.Answer {
		life = min(life, time.Duration(rr.Header().Ttl)*time.Second)
	}
	if life <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.cached) >= maxCached {
		clear(s.cached) // rare; a full look for the oldest would cost more
	}
	s.cached[q] = entry{a.Copy(), time.Now().Add(life)}
}
