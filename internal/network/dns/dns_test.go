package dns

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

func cluster(t testing.TB) *view.View {
	t.Helper()
	v := view.New([]*kinds.Kind{kinds.Namespace, kinds.Service, kinds.EndpointSlice}, view.SlicesByService)
	svc := func(name, ip string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	ext := svc("ext", "")
	ext.Spec.Type, ext.Spec.ExternalName = corev1.ServiceTypeExternalName, "web.ns.svc.cluster.local"
	ready, notReady, host, tcp, port, name := true, false, "db-0", corev1.ProtocolTCP, int32(5432), "pg"
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db-x", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Protocol: &tcp, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.244.0.5"}, Hostname: &host, Conditions: discoveryv1.EndpointConditions{Ready: &ready}},
			{Addresses: []string{"10.244.0.6"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}},
			{Addresses: []string{"10.244.0.7"}, Conditions: discoveryv1.EndpointConditions{Ready: &notReady}},
		}}
	v.Replace(kinds.Namespace, []kinds.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}}, 1)
	v.Replace(kinds.Service, []kinds.Object{svc("web", "10.96.0.7", corev1.ServicePort{Name: "http", Port: 80, Protocol: tcp}), svc("db", "None"), ext}, 1)
	v.Replace(kinds.EndpointSlice, []kinds.Object{slice}, 1)
	return v
}

func TestAnswer(t *testing.T) {
	z := zone{"cluster.local.", cluster(t).Snapshot()}
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
		{"ext.ns.svc.cluster.local.", dns.TypeA, "web.ns.svc.cluster.local."},
		{"dns-version.cluster.local.", dns.TypeTXT, "1.1.0"},
		{"7.0.96.10.in-addr.arpa.", dns.TypePTR, "web.ns.svc.cluster.local."},
		{"5.0.244.10.in-addr.arpa.", dns.TypePTR, "db-0.db.ns.svc.cluster.local."},
		{"9.9.9.9.in-addr.arpa.", dns.TypePTR, "?"},
		{"example.org.", dns.TypeA, "?"},
		{"notcluster.local.", dns.TypeA, "?"},
	} {
		f, mine := z.answer(tc.name, tc.qtype)
		if got := text(f, mine); got != tc.want {
			t.Errorf("%s %s: %s, want %s", tc.name, dns.TypeToString[tc.qtype], got, tc.want)
		}
	}
}

func text(f found, mine bool) string {
	switch {
	case !mine:
		return "?"
	case !f.exists:
		return "!"
	case len(f.records) == 0:
		return "-"
	}
	var out []string
	for _, rr := range f.records {
		switch r := rr.(type) {
		case *dns.A:
			out = append(out, r.A.String())
		case *dns.SRV:
			out = append(out, itoa(r.Port)+" "+r.Target)
		case *dns.CNAME:
			out = append(out, r.Target)
		case *dns.PTR:
			out = append(out, r.Ptr)
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

// TestServer asks over real sockets; what is not ours goes to an upstream,
// which is asked once.
func TestServer(t *testing.T) {
	asked := make(chan string, 10)
	up, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	upstream := &dns.Server{PacketConn: up, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		asked <- r.Question[0].Name
		m := new(dns.Msg).SetReply(r)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 9)}}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = upstream.ActivateAndServe() }()
	t.Cleanup(func() { _ = up.Close() })

	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := probe.Addr().(*net.TCPAddr).Port
	_ = probe.Close()
	s, err := New(Config{View: cluster(t), Domain: "cluster.local", Address: netip.MustParseAddr("127.0.0.1"), Port: port, Upstreams: []string{up.LocalAddr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ask := func(network, name string, qtype uint16) *dns.Msg {
		t.Helper()
		m := new(dns.Msg)
		m.SetQuestion(name, qtype)
		c := &dns.Client{Net: network, Timeout: time.Second}
		for deadline := time.Now().Add(5 * time.Second); ; {
			a, _, err := c.Exchange(m, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)).String())
			if err == nil {
				return a
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	for _, network := range []string{"udp", "tcp"} {
		if a := ask(network, "web.ns.svc.cluster.local.", dns.TypeA); len(a.Answer) != 1 || !a.Authoritative {
			t.Errorf("%s: %v", network, a)
		}
	}
	if a := ask("udp", "none.ns.svc.cluster.local.", dns.TypeA); a.Rcode != dns.RcodeNameError || len(a.Ns) != 1 {
		t.Errorf("NXDOMAIN: %v", a)
	}
	if a := ask("udp", "ext.ns.svc.cluster.local.", dns.TypeA); len(a.Answer) != 2 {
		t.Errorf("ExternalName of ours: %v", a)
	}
	for range 2 {
		if a := ask("udp", "example.org.", dns.TypeA); len(a.Answer) != 1 {
			t.Errorf("forwarded: %v", a)
		}
	}
	if len(asked) != 1 {
		t.Errorf("the upstream was asked %d times", len(asked))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func BenchmarkAnswer(b *testing.B) {
	v := cluster(b)
	b.ReportAllocs()
	for b.Loop() {
		if f, _ := (zone{"cluster.local.", v.Snapshot()}).answer("web.ns.svc.cluster.local.", dns.TypeA); len(f.records) != 1 {
			b.Fatal("no answer")
		}
	}
}
