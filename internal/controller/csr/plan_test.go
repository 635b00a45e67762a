package csr

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

const (
	clientSigner  = certificatesv1.KubeAPIServerClientKubeletSignerName
	servingSigner = certificatesv1.KubeletServingSignerName
	adminSigner   = certificatesv1.KubeAPIServerClientSignerName
)

func object(signer string, opts ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
	c := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "r", UID: "r", CreationTimestamp: metav1.NewTime(noon)},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: signer, Username: "system:node:n", Groups: []string{"system:nodes", "system:authenticated"},
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}
	if signer == servingSigner {
		c.Spec.Usages[1] = certificatesv1.UsageServerAuth
	}
	for _, o := range opts {
		o(c)
	}
	return c
}

type csrOption = func(*certificatesv1.CertificateSigningRequest)

func conditioned(t certificatesv1.RequestConditionType, at time.Time) csrOption {
	return func(c *certificatesv1.CertificateSigningRequest) {
		c.Status.Conditions = append(c.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: t, Status: corev1.ConditionTrue, LastUpdateTime: metav1.NewTime(at)})
	}
}

func request(opts ...func(*Request)) *Request {
	r := &Request{CommonName: "system:node:n", Organizations: []string{"system:nodes"}}
	for _, o := range opts {
		o(r)
	}
	return r
}

func names(list ...string) func(*Request) {
	return func(r *Request) {
		for _, s := range list {
			if ip, err := netip.ParseAddr(s); err == nil {
				r.IPs = append(r.IPs, ip)
			} else {
				r.DNSNames = append(r.DNSNames, s)
			}
		}
	}
}

func node(addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Address: a})
	}
	return n
}

func readyNode(s corev1.ConditionStatus) *corev1.Node {
	n := node()
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: s}}
	return n
}

// describe: what is decided, whether it is signed, and when it is looked at again.
func describe(res plan.Result, issue *Issue) string {
	var out []string
	for _, a := range res.Actions {
		s := string(a.Verb)
		if a.Object != nil {
			conditions := a.Object.(*certificatesv1.CertificateSigningRequest).Status.Conditions
			c := conditions[len(conditions)-1]
			s += " " + a.Ref.Sub + " " + string(c.Type) + ": " + c.Message
		}
		out = append(out, s)
	}
	if issue != nil {
		out = append(out, "sign for "+issue.TTL.String())
	}
	if res.After > 0 {
		out = append(out, "after "+res.After.String())
	}
	return strings.Join(out, ", ")
}

func TestPlan(t *testing.T) {
	all := func(string) bool { return true }
	only := func(want string) func(string) bool { return func(sub string) bool { return sub == want } }
	bootstrap := func(c *certificatesv1.CertificateSigningRequest) {
		c.Spec.Username, c.Spec.Groups = "system:bootstrap:abcdef", []string{"system:bootstrappers"}
	}
	approved := conditioned(certificatesv1.CertificateApproved, noon)
	later := func(d time.Duration) time.Time { return noon.Add(d) }
	denied := "update approval Denied: "
	for _, tt := range []struct {
		name string
		o    Observed
		want string
	}{
		{"a node joins", Observed{CSR: object(clientSigner, bootstrap), Request: request(), Allowed: only("nodeclient")}, "update approval Approved: the requester may have node client certificates"},
		{"a node joins again", Observed{CSR: object(clientSigner, bootstrap), Request: request(), Node: readyNode(corev1.ConditionUnknown), Allowed: only("nodeclient")}, "update approval Approved: the requester may have node client certificates"},
		{"a node that is there", Observed{CSR: object(clientSigner, bootstrap), Request: request(), Node: readyNode(corev1.ConditionTrue), Allowed: only("nodeclient")}, denied + "node n is there and ready: choose another name with --node-name, or delete that node first"},
		{"a node that is there renews", Observed{CSR: object(clientSigner), Request: request(), Node: readyNode(corev1.ConditionTrue), Allowed: only("selfnodeclient")}, "update approval Approved: the node renews its own client certificate"},
		{"a stranger", Observed{CSR: object(clientSigner, bootstrap), Request: request(), Allowed: only("selfnodeclient")}, "after 1m0s"},
		{"a node renews", Observed{CSR: object(clientSigner), Request: request(), Allowed: only("selfnodeclient")}, "update approval Approved: the node renews its own client certificate"},
		{"a node wants another's", Observed{CSR: object(clientSigner), Request: request(func(r *Request) { r.CommonName = "system:node:m" }), Allowed: only("selfnodeclient")}, "after 1m0s"},
		{"another group", Observed{CSR: object(clientSigner), Request: request(func(r *Request) { r.Organizations = []string{"system:masters"} }), Allowed: all}, denied + "the organization must be system:nodes alone"},
		{"one group more", Observed{CSR: object(clientSigner), Request: request(func(r *Request) { r.Organizations = append(r.Organizations, "system:masters") }), Allowed: all}, denied + "the organization must be system:nodes alone"},
		{"not a node", Observed{CSR: object(clientSigner), Request: request(func(r *Request) { r.CommonName = "admin" }), Allowed: all}, denied + "the common name must be system:node:<name>"},
		{"no name", Observed{CSR: object(clientSigner), Request: request(func(r *Request) { r.CommonName = "system:node:" }), Allowed: all}, denied + "the common name must be system:node:<name>"},
		{"more subject", Observed{CSR: object(clientSigner), Request: request(func(r *Request) { r.OtherSubject = true }), Allowed: all}, denied + "the subject may hold nothing but a common name and an organization"},
		{"names in a client certificate", Observed{CSR: object(clientSigner), Request: request(names("x")), Allowed: all}, denied + "DNS names and addresses are not allowed in a client certificate"},
		{"mail", Observed{CSR: object(clientSigner), Request: request(func(r *Request) { r.Others = 1 }), Allowed: all}, denied + "e-mail and URI names are not allowed"},
		{"serving usage in a client certificate", Observed{CSR: object(clientSigner, func(c *certificatesv1.CertificateSigningRequest) {
			c.Spec.Usages = append(c.Spec.Usages, certificatesv1.UsageServerAuth)
		}), Request: request(), Allowed: all}, denied + `usage "server auth" is not allowed`},
		{"no client usage", Observed{CSR: object(clientSigner, func(c *certificatesv1.CertificateSigningRequest) { c.Spec.Usages = c.Spec.Usages[:1] }), Request: request(), Allowed: all}, denied + `the usages must include "client auth"`},
		{"broken", Observed{CSR: object(clientSigner), Broken: "bad", Allowed: all}, denied + "bad"},

		{"serving", Observed{CSR: object(servingSigner), Request: request(names("N.local", "10.0.0.1")), Node: node("n.local", "10.0.0.1")}, "update approval Approved: the node asks for its own addresses"},
		{"serving before the node has addresses", Observed{CSR: object(servingSigner), Request: request(names("10.0.0.1")), Node: node()}, "after 5m0s"},
		{"serving before the node is there", Observed{CSR: object(servingSigner), Request: request(names("10.0.0.1")), Now: later(time.Minute)}, "after 4m0s"},
		{"serving for somebody else's address", Observed{CSR: object(servingSigner), Request: request(names("10.0.0.1", "10.96.0.1")), Node: node("10.0.0.1"), Now: later(5 * time.Minute)}, denied + `"10.96.0.1" is not among the addresses of node n`},
		{"serving for the API server's name", Observed{CSR: object(servingSigner), Request: request(names("kubernetes.default")), Node: node("10.0.0.1"), Now: later(5 * time.Minute)}, denied + `"kubernetes.default" is not among the addresses of node n`},
		{"serving for nobody", Observed{CSR: object(servingSigner), Request: request(), Node: node("10.0.0.1")}, denied + "a serving certificate needs a DNS name or an address"},
		{"serving for another node", Observed{CSR: object(servingSigner), Request: request(names("10.0.0.1"), func(r *Request) { r.CommonName = "system:node:m" }), Node: node("10.0.0.1")}, denied + "only the node itself may ask for its serving certificate"},
		{"serving for a user with a node's name", Observed{CSR: object(servingSigner, func(c *certificatesv1.CertificateSigningRequest) { c.Spec.Groups = nil }), Request: request(names("10.0.0.1")), Node: node("10.0.0.1")}, denied + "only the node itself may ask for its serving certificate"},

		{"an administrator's", Observed{CSR: object(adminSigner), Request: request()}, "after 24h0m0s"},
		{"somebody else's signer", Observed{CSR: object("example.com/x"), Request: request()}, "after 24h0m0s"},
		{"approved", Observed{CSR: object(clientSigner, approved), Request: request()}, "sign for 8760h0m0s, after 24h0m0s"},
		{"approved for a day", Observed{CSR: object(clientSigner, approved, func(c *certificatesv1.CertificateSigningRequest) { s := int32(86400); c.Spec.ExpirationSeconds = &s }), Request: request()}, "sign for 24h0m0s, after 24h0m0s"},
		{"approved for a second", Observed{CSR: object(clientSigner, approved, func(c *certificatesv1.CertificateSigningRequest) { s := int32(1); c.Spec.ExpirationSeconds = &s }), Request: request()}, "sign for 10m0s, after 24h0m0s"},
		{"approved for a century", Observed{CSR: object(clientSigner, approved, func(c *certificatesv1.CertificateSigningRequest) { s := int32(1 << 30); c.Spec.ExpirationSeconds = &s }), Request: request()}, "sign for 8760h0m0s, after 24h0m0s"},
		{"approved by an administrator", Observed{CSR: object(adminSigner, approved), Request: request(func(r *Request) { r.CommonName, r.Organizations = "jane", []string{"devs"} })}, "sign for 8760h0m0s, after 24h0m0s"},
		{"approved for masters", Observed{CSR: object(adminSigner, approved), Request: request(func(r *Request) { r.Organizations = []string{"system:masters"} })}, "update status Failed: no certificate is signed for group system:masters"},
		{"approved although unfit", Observed{CSR: object(servingSigner, approved), Request: request(names("x"), func(r *Request) { r.CommonName = "x" })}, "update status Failed: the common name must be system:node:<name>"},
		{"approved and denied", Observed{CSR: object(clientSigner, approved, conditioned(certificatesv1.CertificateDenied, noon)), Request: request()}, "after 1h0m0s"},
		{"approved for another signer", Observed{CSR: object("example.com/x", approved), Request: request()}, "after 24h0m0s"},
		{"issued", Observed{CSR: object(clientSigner, approved, func(c *certificatesv1.CertificateSigningRequest) { c.Status.Certificate = []byte("x") }), Request: request()}, "after 1h0m0s"},

		{"issued an hour ago", Observed{CSR: object(clientSigner, approved, func(c *certificatesv1.CertificateSigningRequest) { c.Status.Certificate = []byte("x") }), Now: later(time.Hour)}, "delete"},
		{"its certificate has ended", Observed{CSR: object(clientSigner, approved, func(c *certificatesv1.CertificateSigningRequest) { c.Status.Certificate = []byte("x") }), Expires: later(10 * time.Minute), Now: later(10 * time.Minute)}, "delete"},
		{"its certificate ends soon", Observed{CSR: object(clientSigner, approved, func(c *certificatesv1.CertificateSigningRequest) { c.Status.Certificate = []byte("x") }), Expires: later(10 * time.Minute), Now: later(4 * time.Minute)}, "after 6m0s"},
		{"denied an hour ago", Observed{CSR: object(clientSigner, conditioned(certificatesv1.CertificateDenied, noon)), Now: later(time.Hour)}, "delete"},
		{"failed an hour ago", Observed{CSR: object(clientSigner, approved, conditioned(certificatesv1.CertificateFailed, noon)), Now: later(time.Hour)}, "delete"},
		{"undecided for a day", Observed{CSR: object(adminSigner), Now: later(24 * time.Hour)}, "delete"},
		{"being deleted", Observed{CSR: object(clientSigner, func(c *certificatesv1.CertificateSigningRequest) { c.DeletionTimestamp = &metav1.Time{} })}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.MaxTTL = 365 * 24 * time.Hour
			if tt.o.Now.IsZero() {
				tt.o.Now = noon
			}
			if tt.o.Allowed == nil {
				tt.o.Allowed = func(string) bool { t.Error("asked for permission"); return true }
			}
			if got := describe(Plan(tt.o)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func encode(t *testing.T, template *x509.CertificateRequest) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestParse(t *testing.T) {
	good := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n", Organization: []string{"system:nodes"}}, DNSNames: []string{"n"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}
	data := encode(t, good)
	parsed, err := parse(data)
	if err != nil {
		t.Fatal(err)
	}
	r := requestOf(parsed)
	if r.CommonName != "system:node:n" || r.OtherSubject || r.Others != 0 || len(r.DNSNames) != 1 || len(r.IPs) != 1 || r.IPs[0].String() != "10.0.0.1" {
		t.Errorf("read %+v", r)
	}
	twice := *good
	cn := func(v string) pkix.RelativeDistinguishedNameSET {
		return pkix.RelativeDistinguishedNameSET{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: v}}
	}
	raw, err := asn1.Marshal(append(good.Subject.ToRDNSequence(), cn("admin")))
	if err != nil {
		t.Fatal(err)
	}
	twice.RawSubject = raw
	unit := *good
	unit.Subject.OrganizationalUnit = []string{"x"}
	uri := *good
	uri.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}}
	for name, template := range map[string]*x509.CertificateRequest{"a second common name": &twice, "a unit": &unit, "a URI": &uri} {
		parsed, err := parse(encode(t, template))
		if err != nil {
			t.Fatal(err)
		}
		if r := requestOf(parsed); !r.OtherSubject && r.Others == 0 {
			t.Errorf("%s is not noticed: %+v", name, r)
		}
	}
	tampered := bytes.Clone(data)
	block, _ := pem.Decode(tampered)
	block.Bytes[len(block.Bytes)-1] ^= 1
	for name, bad := range map[string][]byte{
		"empty": nil, "text": []byte("hello"), "another type": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}),
		"two": append(bytes.Clone(data), data...), "garbage": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{1, 2, 3}}),
		"a bad signature": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: block.Bytes}),
	} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

type fakeSigner struct {
	err  error
	ttl  time.Duration
	name string
}

func (s *fakeSigner) Sign(r *x509.CertificateRequest, _ []certificatesv1.KeyUsage, ttl time.Duration) ([]byte, error) {
	s.ttl, s.name = ttl, r.Subject.CommonName
	return []byte("CERT"), s.err
}

// From the request to the certificate, through the runtime.
func TestIssue(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.CertificateSigningRequest, kinds.Node})
	w.Now = noon
	hook := &approvals{World: w}
	var asked []string
	authz := authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		asked = append(asked, strings.Join([]string{a.GetUser().GetName(), a.GetVerb(), a.GetAPIGroup(), a.GetResource(), a.GetSubresource()}, " "))
		if a.GetUser().GetName() == "system:bootstrap:abcdef" {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionAllow, "", errors.New("cannot tell")
	})
	signer := &fakeSigner{}
	c, err := Controller(Config{Authorizer: authz, Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n", Organization: []string{"system:nodes"}}}
	put := func(name, user string) {
		o := object(clientSigner, func(c *certificatesv1.CertificateSigningRequest) {
			c.Name, c.Spec.Username, c.Spec.Request = name, user, encode(t, template)
		})
		hook.Put(kinds.CertificateSigningRequest, o)
	}
	put("good", "system:bootstrap:abcdef")
	put("error", "system:node:n")
	if err := hook.drive(c, 0); err != nil {
		t.Fatal(err)
	}
	get := func(name string) *certificatesv1.CertificateSigningRequest {
		return w.Object(kinds.CertificateSigningRequest, "", name).(*certificatesv1.CertificateSigningRequest)
	}
	if r := get("good"); string(r.Status.Certificate) != "CERT" || signer.name != "system:node:n" || signer.ttl != 365*24*time.Hour {
		t.Errorf("good: %+v, signed %+v", r.Status, signer)
	}
	if r := get("error"); len(r.Status.Conditions) > 0 {
		t.Errorf("an authorizer's error is a yes: %+v", r.Status)
	}
	if asked[0] != "system:node:n create certificates.k8s.io certificatesigningrequests selfnodeclient" && asked[0] != "system:bootstrap:abcdef create certificates.k8s.io certificatesigningrequests nodeclient" {
		t.Errorf("asked %q", asked)
	}
	signer.err = errors.New("no key")
	put("unlucky", "system:bootstrap:abcdef")
	if err := hook.drive(c, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if r := get("unlucky"); len(r.Status.Certificate) > 0 {
		t.Error("a certificate in spite of the signer's error")
	}
	signer.err = nil
	if err := hook.drive(c, 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	if r := get("unlucky"); len(r.Status.Certificate) == 0 {
		t.Error("the signer is not asked again")
	}
	if err := hook.drive(c, 26*time.Hour); err != nil {
		t.Fatal(err)
	}
	if n := len(w.Objects(kinds.CertificateSigningRequest)); n != 0 {
		t.Errorf("%d requests are kept for ever", n)
	}
}

// A serving request that came before the node's addresses is approved as soon
// as they are there.
func TestServingWaitsForAddresses(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.CertificateSigningRequest, kinds.Node})
	w.Now = noon
	hook := &approvals{World: w}
	c, err := Controller(Config{Authorizer: authorizer.AuthorizerFunc(func(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
		return authorizer.DecisionDeny, "", nil
	}), Signer: &fakeSigner{}})
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n", Organization: []string{"system:nodes"}}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}
	w.Put(kinds.Node, node())
	w.Put(kinds.CertificateSigningRequest, object(servingSigner, func(c *certificatesv1.CertificateSigningRequest) { c.Spec.Request = encode(t, template) }))
	if err := hook.drive(c, 0); err != nil {
		t.Fatal(err)
	}
	get := func() *certificatesv1.CertificateSigningRequest {
		return w.Object(kinds.CertificateSigningRequest, "", "r").(*certificatesv1.CertificateSigningRequest)
	}
	if len(get().Status.Conditions) > 0 {
		t.Fatal("decided too early")
	}
	w.Put(kinds.Node, node("10.0.0.1"))
	if err := hook.drive(c, 0); err != nil {
		t.Fatal(err)
	}
	if string(get().Status.Certificate) != "CERT" {
		t.Errorf("status %+v", get().Status)
	}
}

func TestConfig(t *testing.T) {
	if _, err := Controller(Config{}); err == nil {
		t.Error("nothing is accepted")
	}
}
