package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

func cluster(t testing.TB) *view.View {
	t.Helper()
	v := view.New([]*kinds.Kind{kinds.Namespace, kinds.Service, kinds.EndpointSlice, kinds.ServiceCIDR}, view.SlicesByService)
	svc := func(name, ip string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	ext := svc("ext", "")
	ext.Spec.Type, ext.Spec.ExternalName = corev1.ServiceTypeExternalName, "web.ns.svc.cluster.local"
	alias := func(name, to string) *corev1.Service {
		s := svc(name, "")
		s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, to
		return s
	}
	ready, notReady, host, tcp, port, name := true, false, "db-0", corev1.ProtocolTCP, int32(5432), "pg"
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db-x", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Protocol: &tcp, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.244.0.5"}, Hostname: &host, Conditions: discoveryv1.EndpointConditions{Ready: &ready}},
			{Addresses: []string{"10.244.0.6"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}},
			{Addresses: []string{"10.244.0.7"}, Conditions: discoveryv1.EndpointConditions{Ready: &notReady}},
		}}
	v.Replace(kinds.Namespace, []kinds.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}}, 1)
	v.Replace(kinds.Service, []kinds.Object{svc("web", "10.96.0.7", corev1.ServicePort{Name: "http", Port: 80, Protocol: tcp}), svc("db", "None"), ext, alias("out", "Example.org"), alias("loop", "loop.ns.svc.cluster.local")}, 1)
	v.Replace(kinds.EndpointSlice, []kinds.Object{slice}, 1)
	v.Replace(kinds.ServiceCIDR, []kinds.Object{&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.112.0.0/24"}}}}, 1)
	return v
}

func TestAnswer(t *testing.T) {
	s := cluster(t).Snapshot()
	z := zone{domain: "cluster.local.", server: netip.MustParseAddr("10.96.0.10"), namespaces: true}
	for _, tc := range []struct {
		name  string
		qtype uint16
		want  string // what records hold, sorted; "-" NODATA, "!" NXDOMAIN, "?" not ours
	}{
		{"web.ns.svc.cluster.local.", dns.TypeA, "10.96.0.7"},
		{"WEB.ns.svc.Cluster.Local.", dns.TypeA, "10.96.0.7"},
		{"web.ns.svc.cluster.local.", dns.TypeAAAA, "-"},
		{"_http._tcp.web.ns.svc.cluster.local.", dns.TypeSRV, "80 web.ns.svc.cluster.local."},
		{"_http._tcp.web.ns.svc.cluster.local.", dns.TypeA, "-"},
		{"_nope._tcp.web.ns.svc.cluster.local.", dns.TypeSRV, "!"},
		{"_http._udp.web.ns.svc.cluster.local.", dns.TypeSRV, "!"},
		{"x.web.ns.svc.cluster.local.", dns.TypeA, "!"},
		{"none.ns.svc.cluster.local.", dns.TypeA, "!"},
		{"ns.svc.cluster.local.", dns.TypeA, "-"},
		{"other.svc.cluster.local.", dns.TypeA, "!"},
		{"svc.cluster.local.", dns.TypeA, "-"},
		{"cluster.local.", dns.TypeA, "-"},
		{"nothing.cluster.local.", dns.TypeA, "!"},
		{"db.ns.svc.cluster.local.", dns.TypeA, "10.244.0.5 10.244.0.6"},
		{"db-0.db.ns.svc.cluster.local.", dns.TypeA, "10.244.0.5"},
		{"10-244-0-6.db.ns.svc.cluster.local.", dns.TypeA, "10.244.0.6"},
		{"10-244-0-7.db.ns.svc.cluster.local.", dns.TypeA, "!"},
		{"_pg._tcp.db.ns.svc.cluster.local.", dns.TypeSRV, "5432 10-244-0-6.db.ns.svc.cluster.local. 5432 db-0.db.ns.svc.cluster.local."},
		{"10-244-0-5.ns.pod.cluster.local.", dns.TypeA, "10.244.0.5"},
		{"10-244-0-5.other.pod.cluster.local.", dns.TypeA, "!"},
		{"words.ns.pod.cluster.local.", dns.TypeA, "!"},
		{"ext.ns.svc.cluster.local.", dns.TypeA, "10.96.0.7 web.ns.svc.cluster.local."},
		{"dns-version.cluster.local.", dns.TypeTXT, "1.1.0"},
		{"ns.dns.cluster.local.", dns.TypeA, "10.96.0.10"},
		{"cluster.local.", dns.TypeNS, "ns.dns.cluster.local."},
		{"_tcp.web.ns.svc.cluster.local.", dns.TypeSRV, "-"},
		{"web.ns.svc.cluster.local.", dns.TypeSRV, "80 web.ns.svc.cluster.local."},
		{"out.ns.svc.cluster.local.", dns.TypeA, "Example.org."},
		{"loop.ns.svc.cluster.local.", dns.TypeCNAME, "loop.ns.svc.cluster.local."},
		{"example.org.ns.svc.cluster.local.", dns.TypeA, "!"},
		{"example.org.cluster.local.", dns.TypeA, "!"},
		{"a.b.c.d.web.ns.svc.cluster.local.", dns.TypeA, "!"},
		{"x.ext.ns.svc.cluster.local.", dns.TypeA, "!"},
		{"1-2-3.ns.pod.cluster.local.", dns.TypeA, "!"},
	} {
		if got := text(z.lookup(s, tc.name, tc.qtype, 0)); got != tc.want {
			t.Errorf("%s %s: %s, want %s", tc.name, dns.TypeToString[tc.qtype], got, tc.want)
		}
	}
	// An alias of itself ends.
	if r := z.lookup(s, "loop.ns.svc.cluster.local.", dns.TypeA, 0); len(r.answer) > maxChain+1 {
		t.Errorf("%d aliases", len(r.answer))
	}
	if z.in("notcluster.local.") || !z.in("cluster.local.") {
		t.Error("the zone's border")
	}
}

// TestRotate: every address comes first in turn, and none gets lost.
func TestRotate(t *testing.T) {
	s := cluster(t).Snapshot()
	z := zone{domain: "cluster.local.", namespaces: true}
	first := map[string]int{}
	for turn := range uint32(10) {
		r := z.lookup(s, "db.ns.svc.cluster.local.", dns.TypeA, turn)
		if len(r.answer) != 2 {
			t.Fatalf("%v", r.answer)
		}
		first[r.answer[0].(*dns.A).A.String()]++
	}
	if len(first) != 2 || first["10.244.0.5"] != 5 {
		t.Errorf("first: %v", first)
	}
}

func text(r reply) string {
	switch {
	case !r.exists:
		return "!"
	case len(r.answer) == 0:
		return "-"
	}
	var out []string
	for _, rr := range r.answer {
		switch r := rr.(type) {
		case *dns.A:
			out = append(out, r.A.String())
		case *dns.SRV:
			out = append(out, itoa(r.Port)+" "+r.Target)
		case *dns.CNAME:
			out = append(out, r.Target)
		case *dns.NS:
			out = append(out, r.Ns)
		case *dns.TXT:
			out = append(out, r.Txt...)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func itoa(n uint16) string {
	b := []byte{}
	for ; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

// upstream is a resolver that counts what it is asked.
type upstream struct {
	addr  string
	mu    sync.Mutex
	asked map[string]int
}

func (u *upstream) count(name string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked[name]
}

func newUpstream(t *testing.T, answer func(w dns.ResponseWriter, r *dns.Msg)) *upstream {
	t.Helper()
	u := &upstream{asked: map[string]int{}}
	pc, err := net.ListenPacket("udp", loopback().String())
	if err != nil {
		t.Fatal(err)
	}
	u.addr = pc.LocalAddr().String()
	l, err := net.Listen("tcp", u.addr)
	if err != nil {
		t.Fatal(err)
	}
	h := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		u.mu.Lock()
		u.asked[r.Question[0].Name]++
		u.mu.Unlock()
		answer(w, r)
	})
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: l, Handler: h}} {
		go func() { _ = s.ActivateAndServe() }()
	}
	t.Cleanup(func() { _, _ = pc.Close(), l.Close() })
	return u
}

// ordinary answers every A question, "big." with more than fits into UDP and
// "none." not at all.
func ordinary(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg).SetReply(r)
	name := r.Question[0].Name
	n := 1
	switch name {
	case "big.":
		n = 200
	case "none.":
		m.Rcode, n = dns.RcodeNameError, 0
		m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "a.", Mbox: "b.", Minttl: 60}}
	case "broken.":
		m.Rcode, n = dns.RcodeServerFailure, 0
	}
	for i := range n {
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, byte(i))})
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		m.Truncate(1232)
	}
	_ = w.WriteMsg(m)
}

var addresses atomic.Int32

// loopback is an address that nothing else uses, so that a port is free for
// UDP and TCP alike.
func loopback() netip.AddrPort {
	pid := os.Getpid()
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(pid>>8) | 1, byte(pid), byte(addresses.Add(1))}), 5300)
}

// patience with an upstream, and with the server under test, on a machine that
// is busy.
const patience = time.Minute

// serve runs a server and returns how to ask it.
func serve(t *testing.T, cfg Config, perServer time.Duration) func(network, name string, qtype uint16, change ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	at := loopback()
	if !cfg.Address.IsValid() {
		cfg.Address = at.Addr()
	}
	cfg.Domain, cfg.Port = "cluster.local", int(at.Port())
	if cfg.View == nil {
		cfg.View = cluster(t)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.forward.perServer, s.forward.perQuestion = perServer, patience
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	addr := netip.AddrPortFrom(cfg.Address, uint16(cfg.Port)).String()
	return func(network, name string, qtype uint16, change ...func(*dns.Msg)) *dns.Msg {
		t.Helper()
		m := new(dns.Msg)
		m.SetQuestion(name, qtype)
		for _, c := range change {
			c(m)
		}
		c := &dns.Client{Net: network, Timeout: patience, UDPSize: 4096}
		for deadline := time.Now().Add(patience); ; {
			a, _, err := c.Exchange(m, addr)
			if err == nil {
				return a
			}
			if time.Now().After(deadline) { // until then, it may not listen yet
				t.Fatalf("%s %s: %v", network, name, err)
			}
		}
	}
}

// TestServer asks over real sockets.
func TestServer(t *testing.T) {
	up := newUpstream(t, ordinary)
	ask := serve(t, Config{Upstreams: []string{"127.0.0.1:1", up.addr}, Reverse: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}, patience)
	for _, network := range []string{"udp", "tcp"} {
		if a := ask(network, "WEB.ns.svc.cluster.local.", dns.TypeA); len(a.Answer) != 1 || !a.Authoritative || a.Answer[0].Header().Name != "WEB.ns.svc.cluster.local." {
			t.Errorf("%s: %v", network, a)
		}
	}
	if a := ask("udp", "none.ns.svc.cluster.local.", dns.TypeA); a.Rcode != dns.RcodeNameError || len(a.Ns) != 1 {
		t.Errorf("NXDOMAIN: %v", a)
	}
	if a := ask("udp", "web.ns.svc.cluster.local.", dns.TypeAAAA); a.Rcode != dns.RcodeSuccess || len(a.Answer) != 0 || len(a.Ns) != 1 {
		t.Errorf("NODATA: %v", a)
	}
	if a := ask("udp", "out.ns.svc.cluster.local.", dns.TypeA); len(a.Answer) != 2 {
		t.Errorf("an alias out of the cluster: %v", a)
	}
	for name, want := range map[string]string{"7.0.96.10.in-addr.arpa.": "web.ns.svc.cluster.local.", "5.0.244.10.in-addr.arpa.": "db-0.db.ns.svc.cluster.local."} {
		if a := ask("udp", name, dns.TypePTR); len(a.Answer) != 1 || a.Answer[0].(*dns.PTR).Ptr != want {
			t.Errorf("%s: %v", name, a)
		}
	}
	for _, name := range []string{"9.9.96.10.in-addr.arpa.", "9.0.112.10.in-addr.arpa."} { // the second one is a ServiceCIDR's
		if a := ask("udp", name, dns.TypePTR); a.Rcode != dns.RcodeNameError || !a.Authoritative || len(a.Ns) != 1 || up.count(name) != 0 {
			t.Errorf("an unknown address of the cluster: %v", a)
		}
	}
	if a := ask("udp", "9.1.112.10.in-addr.arpa.", dns.TypePTR); a.Authoritative || up.count("9.1.112.10.in-addr.arpa.") == 0 {
		t.Errorf("an address of others: %v", a)
	}
	for range 2 {
		if a := ask("udp", "Example.net.", dns.TypeA); len(a.Answer) != 1 || a.Answer[0].Header().Name != "Example.net." {
			t.Errorf("forwarded: %v", a)
		}
		if a := ask("udp", "none.", dns.TypeA); a.Rcode != dns.RcodeNameError {
			t.Errorf("forwarded NXDOMAIN: %v", a)
		}
	}
	if up.count("example.net.") != 1 || up.count("none.") != 1 {
		t.Errorf("asked %v", up.asked)
	}
	// More than fits: whole by TCP, cut by UDP, also from the upstream.
	if a := ask("udp", "big.", dns.TypeA); !a.Truncated {
		t.Errorf("a big answer by UDP: %d records", len(a.Answer))
	}
	if a := ask("tcp", "big.", dns.TypeA); a.Truncated || len(a.Answer) != 200 {
		t.Errorf("a big answer by TCP: %d records", len(a.Answer))
	}
	if a := ask("udp", "broken.", dns.TypeA); a.Rcode != dns.RcodeServerFailure {
		t.Errorf("a failing upstream: %v", a)
	}
	for name, bad := range map[string]func(*dns.Msg){
		"class": func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, "transfer": func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR },
		"opcode": func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, "no question": func(m *dns.Msg) { m.Question = nil },
		"EDNS version": func(m *dns.Msg) { m.SetEdns0(4096, false).IsEdns0().SetVersion(1) },
	} {
		if a := ask("tcp", "web.ns.svc.cluster.local.", dns.TypeA, bad); a.Rcode == dns.RcodeSuccess || len(a.Answer) != 0 {
			t.Errorf("%s: %v", name, a)
		}
	}
	if a := ask("udp", "web.ns.svc.cluster.local.", dns.TypeANY); len(a.Answer) != 1 || a.Answer[0].Header().Rrtype != dns.TypeHINFO {
		t.Errorf("ANY: %v", a)
	}
}

// TestTogether: a slow upstream is asked once, however many want to know.
func TestTogether(t *testing.T) {
	asked, release := make(chan struct{}, 20), make(chan struct{})
	up := newUpstream(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Question[0].Name == "slow." {
			asked <- struct{}{}
			<-release
		}
		ordinary(w, r)
	})
	ask := serve(t, Config{Upstreams: []string{up.addr}}, patience)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if a := ask("tcp", "slow.", dns.TypeA); len(a.Answer) != 1 {
				t.Errorf("%v", a)
			}
		})
	}
	<-asked
	close(release)
	wg.Wait()
	if n := up.count("slow."); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestLoop: an upstream that asks us back is found out and left.
func TestLoop(t *testing.T) {
	var ask func(string, string, uint16, ...func(*dns.Msg)) *dns.Msg
	var self atomic.Value
	up := newUpstream(t, func(w dns.ResponseWriter, r *dns.Msg) {
		a, err := dns.Exchange(r, self.Load().(string))
		if err != nil {
			a = new(dns.Msg).SetRcode(r, dns.RcodeServerFailure)
		}
		_ = w.WriteMsg(a)
	})
	good := newUpstream(t, ordinary)
	cfg := Config{Upstreams: []string{up.addr, good.addr}}
	at := loopback()
	self.Store(at.String())
	cfg.Address = at.Addr()
	ask = serve(t, cfg, perServer) // so long does the loop take until it is found out
	for i := 0; ; i++ {
		name := fmt.Sprintf("%d.example.net.", i)
		if a := ask("udp", name, dns.TypeA); len(a.Answer) != 1 {
			t.Fatalf("%v", a)
		}
		if up.count(name) == 0 {
			break
		}
		if i == 30 {
			t.Fatal("the looping upstream is still asked")
		}
	}
}

// TestNotSynced: before the view is complete nothing is denied.
func TestNotSynced(t *testing.T) {
	v := view.New([]*kinds.Kind{kinds.Namespace, kinds.Service, kinds.EndpointSlice}, view.SlicesByService)
	ask := serve(t, Config{View: v, Upstreams: []string{}}, patience)
	if a := ask("udp", "web.ns.svc.cluster.local.", dns.TypeA); a.Rcode != dns.RcodeServerFailure {
		t.Errorf("%v", a)
	}
	if a := ask("udp", "example.net.", dns.TypeA); a.Rcode != dns.RcodeServerFailure {
		t.Errorf("without upstreams: %v", a)
	}
}

// TestResolvConf: upstreams come from the file; ourselves among them is skipped.
func TestResolvConf(t *testing.T) {
	f := newForwarder(Config{Address: netip.MustParseAddr("10.96.0.10"), Port: 53, ResolvConf: filepath.Join(t.TempDir(), "resolv.conf"), Log: slog.New(slog.DiscardHandler)})
	if got := f.upstreams(t.Context()); got != nil {
		t.Errorf("without a file: %v", got)
	}
	if err := os.WriteFile(f.resolvConf, []byte("nameserver 10.96.0.10\nnameserver 127.0.0.1\nnameserver 127.0.0.2\nsearch x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.checked = time.Time{}
	if got := f.upstreams(t.Context()); !slices.Equal(got, []string{"127.0.0.1:53", "127.0.0.2:53"}) {
		t.Errorf("%v", got)
	}
}

func TestCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache()
		key := func(i int) cacheKey { return cacheKey{name: fmt.Sprint(i, "."), qtype: dns.TypeA} }
		msg := func(ttl uint32) *dns.Msg {
			m := new(dns.Msg)
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "x.", Rrtype: dns.TypeA, Ttl: ttl}, A: net.IPv4(192, 0, 2, 1)}}
			return m
		}
		now := time.Now()
		c.put(key(0), msg(10), now)
		if m := c.get(key(0), now.Add(4*time.Second)); m == nil || m.Answer[0].Header().Ttl != 6 {
			t.Errorf("after 4 of 10 seconds: %v", m)
		}
		if c.get(key(0), now.Add(10*time.Second)) != nil {
			t.Error("an expired answer")
		}
		c.put(key(1), msg(0), now)
		if c.get(key(1), now) != nil {
			t.Error("an answer with TTL 0 was kept")
		}
		for i := range maxCached + 10 {
			c.put(key(i), msg(60), now)
		}
		if len(c.entries) != maxCached || c.order.Len() != maxCached || c.get(key(0), now) != nil || c.get(key(maxCached+9), now) == nil {
			t.Errorf("%d entries, %d in order", len(c.entries), c.order.Len())
		}
	})
}

func BenchmarkRespond(b *testing.B) {
	s, err := New(Config{View: cluster(b), Address: netip.MustParseAddr("10.96.0.10")})
	if err != nil {
		b.Fatal(err)
	}
	s.synced.Store(true)
	req := new(dns.Msg)
	req.SetQuestion("web.ns.svc.cluster.local.", dns.TypeA)
	b.ReportAllocs()
	for b.Loop() {
		m := s.respond(b.Context(), req)
		if len(m.Answer) != 1 {
			b.Fatal("no answer")
		}
		if _, err := m.Pack(); err != nil {
			b.Fatal(err)
		}
	}
}
