package dns

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// FuzzPacket: whatever a client sends, what it gets is an answer to it that can
// be packed, fits, and invites nobody to answer back.
func FuzzPacket(f *testing.F) {
	v := cluster(f)
	s, err := New(Config{View: v, Address: netip.MustParseAddr("10.96.0.10"), Upstreams: []string{}, Reverse: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}})
	if err != nil {
		f.Fatal(err)
	}
	s.synced.Store(true)
	add := func(name string, qtype uint16, edit func(*dns.Msg)) {
		m := new(dns.Msg)
		m.SetQuestion(name, qtype)
		if edit != nil {
			edit(m)
		}
		if data, err := m.Pack(); err == nil {
			f.Add(data)
		}
	}
	for _, name := range []string{"web.ns.svc.cluster.local.", "_http._tcp.web.ns.svc.cluster.local.", "db-0.db.ns.svc.cluster.local.", "10-244-0-5.ns.pod.cluster.local.", "7.0.96.10.in-addr.arpa.", "loop.ns.svc.cluster.local.", "example.org.", "."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypePTR, dns.TypeANY, dns.TypeAXFR} {
			add(name, qtype, nil)
		}
	}
	add("web.ns.svc.cluster.local.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(4096, true) })
	add("web.ns.svc.cluster.local.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(0, false); m.IsEdns0().SetVersion(9) })
	add("web.ns.svc.cluster.local.", dns.TypeA, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate })
	add("web.ns.svc.cluster.local.", dns.TypeA, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) })
	add("web.ns.svc.cluster.local.", dns.TypeA, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS })
	f.Fuzz(func(t *testing.T, data []byte) {
		began := time.Now()
		req := new(dns.Msg)
		if req.Unpack(data) != nil {
			return
		}
		m := s.respond(t.Context(), req)
		m.Truncate(dns.MinMsgSize)
		out, err := m.Pack()
		if err != nil {
			t.Fatalf("%v: %v", err, m)
		}
		if len(out) > dns.MinMsgSize && len(out) > len(data)+dns.MinMsgSize {
			t.Fatalf("%d bytes were answered with %d", len(data), len(out))
		}
		back := new(dns.Msg)
		if err := back.Unpack(out); err != nil {
			t.Fatal(err)
		}
		if !back.Response || back.Id != req.Id {
			t.Fatalf("%v is no answer to %v", back, req)
		}
		if len(req.Question) == 1 && (len(back.Question) != 1 || !strings.EqualFold(back.Question[0].Name, req.Question[0].Name)) {
			t.Fatalf("%v answers another question than %v", back, req)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Fatalf("it took %v", took)
		}
	})
}
