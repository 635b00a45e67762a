package dns

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// perServer and perQuestion bound waiting: a stub resolver asks again
	// after five seconds (resolv.conf(5)).
	perServer   = 2 * time.Second
	perQuestion = 4500 * time.Millisecond
	// maxUpstream questions are on their way at once; more are refused, so
	// that a dead upstream cannot pile up goroutines.
	maxUpstream = 512
	// maxServers of resolv.conf are used (resolv.conf(5): MAXNS).
	maxServers = 3
	// recheck is how often at most resolv.conf is looked at, when asked.
	recheck = 5 * time.Second
	// probeDomain ends the names by which we recognise our own questions.
	probeDomain = ".loop-probe.knarr."
)

// Errors of forwarding.
var (
	errNoUpstream = errors.New("no upstream resolver")
	errBusy       = errors.New("too many questions on their way")
)

// forwarder asks the node's own resolvers.
type forwarder struct {
	resolvConf string
	fixed      []string // upstreams that are given, instead of resolvConf
	own        string   // address:port
	log        *slog.Logger
	cache      *cache
	slots      chan struct{}
	// The constants, but in tests that a busy machine must pass.
	perServer, perQuestion time.Duration

	mu      sync.Mutex
	checked time.Time
	modTime time.Time
	servers []string          // host:port
	probes  map[string]string // name → server that it was sent to
	flights map[cacheKey]*flight
}

// flight is one question on its way, for everybody who asks it meanwhile. A
// question that comes back to us joins itself and ends with the time limit.
type flight struct {
	done chan struct{}
	msg  *dns.Msg
	err  error
}

func newForwarder(cfg Config) *forwarder {
	return &forwarder{
		resolvConf: cfg.ResolvConf, fixed: cfg.Upstreams, own: netip.AddrPortFrom(cfg.Address, uint16(cfg.Port)).String(),
		perServer: perServer, perQuestion: perQuestion,
		log: cfg.Log, cache: newCache(), slots: make(chan struct{}, maxUpstream),
		probes: map[string]string{}, flights: map[cacheKey]*flight{},
	}
}

// ask returns an answer for q's question that belongs to the caller.
func (f *forwarder) ask(ctx context.Context, q dns.Question, dnssec bool) (*dns.Msg, error) {
	key := cacheKey{strings.ToLower(q.Name), q.Qtype, dnssec}
	if m := f.cache.get(key, time.Now()); m != nil {
		return m, nil
	}
	f.mu.Lock()
	fl := f.flights[key]
	if fl == nil {
		select {
		case f.slots <- struct{}{}:
		default:
			f.mu.Unlock()
			return nil, errBusy
		}
		fl = &flight{done: make(chan struct{})}
		f.flights[key] = fl
		go f.fly(context.WithoutCancel(ctx), key, fl, q)
	}
	f.mu.Unlock()
	select {
	case <-fl.done:
		if fl.err != nil {
			return nil, fl.err
		}
		return fl.msg.Copy(), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *forwarder) fly(ctx context.Context, key cacheKey, fl *flight, q dns.Question) {
	defer func() { <-f.slots }()
	ctx, cancel := context.WithTimeout(ctx, f.perQuestion)
	defer cancel()
	q.Name = key.name
	fl.msg, fl.err = f.exchange(ctx, q, key.dnssec)
	if fl.err == nil {
		f.cache.put(key, fl.msg, time.Now())
	}
	f.mu.Lock()
	delete(f.flights, key)
	f.mu.Unlock()
	close(fl.done)
}

// exchange tries the servers in their order until one gives an answer.
func (f *forwarder) exchange(ctx context.Context, q dns.Question, dnssec bool) (*dns.Msg, error) {
	servers := f.upstreams(ctx)
	err := errNoUpstream
	for _, server := range servers {
		var m *dns.Msg
		if m, err = f.exchangeWith(ctx, server, q, dnssec); err == nil {
			if m.Rcode == dns.RcodeServerFailure || m.Rcode == dns.RcodeRefused || m.Rcode == dns.RcodeNotImplemented {
				err = fmt.Errorf("%s answers %s", server, dns.RcodeToString[m.Rcode])
				continue
			}
			return m, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func (f *forwarder) exchangeWith(ctx context.Context, server string, q dns.Question, dnssec bool) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, f.perServer)
	defer cancel()
	m := new(dns.Msg)
	m.Id, m.RecursionDesired, m.Question = dns.Id(), true, []dns.Question{q}
	m.SetEdns0(ednsSize, dnssec)
	c := &dns.Client{Net: "udp", UDPSize: ednsSize, Timeout: f.perServer}
	r, _, err := c.ExchangeContext(ctx, m, server)
	if err == nil && r.Truncated {
		c.Net = "tcp"
		r, _, err = c.ExchangeContext(ctx, m, server)
	}
	if err != nil {
		return nil, err
	}
	if len(r.Question) != 1 || !strings.EqualFold(r.Question[0].Name, q.Name) || r.Question[0].Qtype != q.Qtype {
		return nil, fmt.Errorf("%s answered another question", server)
	}
	withoutOPT(r)
	return r, nil
}

// withoutOPT drops EDNS, which is between two neighbours only.
func withoutOPT(m *dns.Msg) {
	var rest []dns.RR
	for _, rr := range m.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			rest = append(rest, rr)
		}
	}
	m.Extra = rest
}

// upstreams reads resolv.conf again when it has changed.
func (f *forwarder) upstreams(ctx context.Context) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Sub(f.checked) < recheck {
		return f.servers
	}
	first := f.checked.IsZero()
	f.checked = now
	if f.fixed != nil {
		if first {
			f.use(ctx, f.fixed)
		}
		return f.servers
	}
	st, err := os.Stat(f.resolvConf)
	if err != nil {
		f.log.Warn("no upstream resolvers", "error", err)
		f.servers, f.modTime = nil, time.Time{}
		return nil
	}
	if st.ModTime().Equal(f.modTime) {
		return f.servers
	}
	f.modTime = st.ModTime()
	conf, err := dns.ClientConfigFromFile(f.resolvConf)
	if err != nil {
		f.log.Warn("no upstream resolvers", "error", err)
		f.servers = nil
		return nil
	}
	var servers []string
	for _, s := range conf.Servers {
		servers = append(servers, net.JoinHostPort(s, conf.Port))
	}
	f.use(ctx, servers)
	return f.servers
}

// use servers from now on, but never ourselves. The caller holds mu.
func (f *forwarder) use(ctx context.Context, servers []string) {
	f.servers = nil
	for _, s := range servers {
		if s != f.own && len(f.servers) < maxServers {
			f.servers = append(f.servers, s)
		}
	}
	f.probe(ctx)
}

// probe sends each server a name that nobody else can know: should it come to
// us as a question, that server asks us what we ask it. The caller holds mu.
func (f *forwarder) probe(ctx context.Context) {
	clear(f.probes)
	for _, server := range f.servers {
		var b [12]byte
		_, _ = rand.Read(b[:]) // never fails (crypto/rand)
		name := hex.EncodeToString(b[:]) + probeDomain
		f.probes[name] = server
		go func() {
			// The answer does not matter, only where the question ends up.
			_, _ = f.exchangeWith(context.WithoutCancel(ctx), server, dns.Question{Name: name, Qtype: dns.TypeTXT, Qclass: dns.ClassINET}, false)
		}()
	}
}

// looped reports whether a question is one of our probes, and stops using the
// server that led it back.
func (f *forwarder) looped(name string) bool {
	if !strings.HasSuffix(name, probeDomain) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	server, ok := f.probes[name]
	if !ok {
		return false
	}
	var rest []string
	for _, s := range f.servers {
		if s != server {
			rest = append(rest, s)
		}
	}
	f.servers = rest
	f.log.Error("an upstream resolver forwards to this one; it is not used", "server", server, "file", f.resolvConf)
	return true
}
