package validate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// certificateFor key, PEM encoded; authority: with the CA bit.
func certificateFor(t *testing.T, key crypto.Signer, authority bool, from time.Time, life time.Duration, names ...string) string {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: from.Add(life), IsCA: authority, BasicConstraintsValid: true, EmailAddresses: names}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func newKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func stubOf(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestClusterTrustBundle(t *testing.T) {
	type bundle = certificatesv1.ClusterTrustBundle
	from := time.Unix(1700000000, 0)
	one := certificateFor(t, newKey(t, elliptic.P256()), true, from, time.Hour)
	two := certificateFor(t, newKey(t, elliptic.P256()), true, from, time.Hour)
	leaf := certificateFor(t, newKey(t, elliptic.P256()), false, from, time.Hour)
	good := func() *bundle {
		return &bundle{ObjectMeta: named("b", ""), Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: one}}
	}
	set := func(s string) func(*bundle) { return func(b *bundle) { b.Spec.TrustBundle = s } }
	sign := func(signer, name string) func(*bundle) {
		return func(b *bundle) { b.Spec.SignerName, b.Name = signer, name }
	}
	creates(t, good, nothing, ClusterTrustBundle, []change[*bundle]{
		{"good", nil, nil},
		{"two, with comments", set("one\n" + one + "two\n" + two), nil},
		{"of a signer", sign("e.io/s", "e.io:s:b"), nil},
		{"of a signer, badly named", sign("e.io/s", "b"), []string{"metadata.name Invalid: ClusterTrustBundle for signerName e.io/s must be named with prefix e.io:s:"}},
		{"of a signer, prefix only", sign("e.io/s", "e.io:s:"), []string{"metadata.name Invalid: a lowercase RFC 1123 subdomain"}},
		{"of nobody, named like a signer's", sign("", "e.io:s:b"), []string{"metadata.name Invalid: ClusterTrustBundle without signer name"}},
		{"bad signer", sign("s", "s:b"), []string{"spec.signerName Invalid: must be a fully qualified domain"}},
		{"empty", set(""), []string{"spec.trustBundle Invalid: at least one trust anchor must be provided"}},
		{"twice", set(one + two + one), []string{"spec.trustBundle Invalid: duplicate trust anchor (indices [0 2])"}},
		{"no authority", set(one + leaf), []string{"spec.trustBundle Invalid: entry 1 does not have the CA bit set"}},
		{"a key", set(strings.ReplaceAll(one, "CERTIFICATE", "PRIVATE KEY")), []string{"spec.trustBundle Invalid: entry 0 has bad block type: PRIVATE KEY"}},
		{"headers", set(strings.Replace(one, "-----\n", "-----\na: b\n\n", 1)), []string{"spec.trustBundle Invalid: entry 0 has PEM block headers"}},
		{"noise inside", set(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))), []string{"spec.trustBundle Invalid: entry 0 does not parse as X.509"}},
		{"huge", set(strings.Repeat("x", 1<<20+1)), []string{"spec.trustBundle TooLong"}},
	})
	stale := func() *bundle { b := good(); b.Spec.TrustBundle = leaf; return b }
	updates(t, stale, nothing, ClusterTrustBundleUpdate, []change[*bundle]{
		{"what stands is not read again", nil, nil},
		{"new anchors are", set(leaf + leaf), []string{"spec.trustBundle Invalid: entry 0 does not have", "spec.trustBundle Invalid: entry 1 does not have"}},
	})
	signers := func() *bundle { b := good(); sign("e.io/s", "e.io:s:b")(b); return b }
	updates(t, signers, nothing, ClusterTrustBundleUpdate, []change[*bundle]{
		{"another signer", func(b *bundle) { b.Spec.SignerName = "e.io/t" }, []string{"metadata.name Invalid: ClusterTrustBundle for signerName e.io/t", "spec.signerName Invalid: field is immutable"}},
	})
}

func TestPodCertificateRequest(t *testing.T) {
	type request = certificatesv1.PodCertificateRequest
	key := newKey(t, elliptic.P256())
	stub := stubOf(t, key)
	good := func() *request {
		return &request{ObjectMeta: named("r", "n"), Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: "e.io/s", PodName: "p", PodUID: "u", ServiceAccountName: "a", ServiceAccountUID: "v", NodeName: "n", NodeUID: "w",
			MaxExpirationSeconds: ptr(int32(86400)), StubPKCS10Request: stub,
		}}
	}
	with := func(k crypto.Signer) func(*request) {
		return func(r *request) { r.Spec.StubPKCS10Request = stubOf(t, k) }
	}
	_, edwards, _ := ed25519.GenerateKey(rand.Reader)
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	creates(t, good, nothing, PodCertificateRequest, []change[*request]{
		{"good", nil, nil},
		{"edwards", with(edwards), nil},
		{"small key", with(small), []string{"spec.stubPKCS10Request Invalid: RSA keys must have modulus size 3072 or 4096"}},
		{"weak curve", with(newKey(t, elliptic.P224())), []string{"spec.stubPKCS10Request Invalid: elliptic public keys must use curve P256, P384, or P521"}},
		{"no request", func(r *request) { r.Spec.StubPKCS10Request = nil }, []string{"spec Invalid: exactly one of (stubPKCS10Request)"}},
		{"noise", func(r *request) { r.Spec.StubPKCS10Request = []byte("x") }, []string{"spec.stubPKCS10Request Invalid: must be a valid PKCS#10 CSR"}},
		{"not the requester's key", func(r *request) {
			der := append([]byte(nil), stub...)
			der[len(der)-1] ^= 1
			r.Spec.StubPKCS10Request = der
		}, []string{"spec.stubPKCS10Request Invalid: invalid signature"}},
		{"huge", func(r *request) { r.Spec.StubPKCS10Request = make([]byte, 10<<10+1) }, []string{"spec.stubPKCS10Request TooLong"}},
		{"nobody", func(r *request) {
			r.Spec.PodName, r.Spec.PodUID, r.Spec.ServiceAccountName, r.Spec.ServiceAccountUID, r.Spec.NodeName, r.Spec.NodeUID = "", "", "A", "", "", ""
			r.Spec.SignerName = ""
		}, []string{"spec.signerName Required", "spec.podName Invalid", "spec.podUID Invalid: must not be empty", "spec.serviceAccountName Invalid", "spec.serviceAccountUID Invalid: must not be empty", "spec.nodeName Invalid", "spec.nodeUID Invalid: must not be empty"}},
		{"short", func(r *request) { r.Spec.MaxExpirationSeconds = ptr(int32(3599)) }, []string{"spec.maxExpirationSeconds Invalid: must be in the range [3600, 7862400]"}},
		{"long for our own", func(r *request) {
			r.Spec.SignerName, r.Spec.MaxExpirationSeconds = "x.kubernetes.io/s", ptr(int32(86401))
		}, []string{"spec.maxExpirationSeconds Invalid: must be in the range [3600, 86400]"}},
		{"annotations", func(r *request) { r.Spec.UnverifiedUserAnnotations = map[string]string{"x": ""} }, []string{"spec.unverifiedUserAnnotations Invalid: must be a domain-prefixed key"}},
	})
	updates(t, good, nothing, PodCertificateRequestUpdate, []change[*request]{
		{"label", func(r *request) { r.Labels = map[string]string{"a": "b"} }, nil},
		{"spec", func(r *request) { r.Spec.PodName = "q" }, []string{"spec Invalid: field is immutable"}},
	})
}

func TestPodCertificateRequestStatus(t *testing.T) {
	type request = certificatesv1.PodCertificateRequest
	key := newKey(t, elliptic.P256())
	from := time.Unix(1700000000, 0)
	good := func() *request {
		return &request{ObjectMeta: named("r", "n"), Spec: certificatesv1.PodCertificateRequestSpec{MaxExpirationSeconds: ptr(int32(7200)), StubPKCS10Request: stubOf(t, key)}}
	}
	decide := func(types ...string) func(*request) {
		return func(r *request) {
			for _, typ := range types {
				r.Status.Conditions = append(r.Status.Conditions, metav1.Condition{Type: typ, Status: "True", Reason: "R", LastTransitionTime: metav1.NewTime(from)})
			}
		}
	}
	at := func(d time.Duration) *metav1.Time { v := metav1.NewTime(from.Add(d)); return &v }
	issue := func(chain string, life time.Duration, change ...func(*request)) func(*request) {
		return func(r *request) {
			decide("Issued")(r)
			r.Status.CertificateChain, r.Status.NotBefore, r.Status.NotAfter, r.Status.BeginRefreshAt = chain, at(0), at(life), at(life/2)
			for _, c := range change {
				c(r)
			}
		}
	}
	chain := certificateFor(t, key, false, from, time.Hour)
	updates(t, good, nothing, PodCertificateRequestStatusUpdate, []change[*request]{
		{"nothing", nil, nil},
		{"deny", decide("Denied"), nil},
		{"fail", decide("Failed"), nil},
		{"issue", issue(chain+chain, time.Hour), nil},
		{"both", decide("Denied", "Failed"), []string{`status.conditions.[1].type Invalid: There may be at most one condition with type "Issued", "Denied", or "Failed"`}},
		{"anything else", decide("Ready"), []string{"status.conditions.[0].type NotSupported"}},
		{"false", func(r *request) { decide("Denied")(r); r.Status.Conditions[0].Status = "False" }, []string{"status.conditions.[0].status NotSupported"}},
		{"deny with a chain", func(r *request) { decide("Denied")(r); r.Status.CertificateChain = chain }, []string{"status Invalid: non-condition status fields must be empty"}},
		{"a chain without a word", func(r *request) { r.Status.CertificateChain = chain }, []string{`status Invalid: status is immutable unless transitioning to`}},
		{"empty chain", issue("", time.Hour), []string{"status.certificateChain Invalid: issued certificate chain must contain at least one certificate"}},
		{"another's key", issue(certificateFor(t, newKey(t, elliptic.P256()), false, from, time.Hour), time.Hour), []string{"status.certificateChain Invalid: leaf certificate was not issued to the requested public key"}},
		{"short", issue(certificateFor(t, key, false, from, 59*time.Minute), 59*time.Minute), []string{"status.certificateChain Invalid: leaf certificate lifetime must be >= 1 hour"}},
		{"long", issue(certificateFor(t, key, false, from, 3*time.Hour), 3*time.Hour), []string{"status.certificateChain Invalid: leaf certificate lifetime must be <= spec.maxExpirationSeconds (7200)"}},
		{"times missing", issue(chain, time.Hour, func(r *request) { r.Status.NotAfter, r.Status.BeginRefreshAt = nil, nil }), []string{"status.notAfter Required", "status.beginRefreshAt Required"}},
		{"begin lies", issue(chain, time.Hour, func(r *request) { r.Status.NotBefore = at(time.Second) }), []string{"status.notBefore Invalid: must be set to the NotBefore time"}},
		{"end lies", issue(chain, time.Hour, func(r *request) { r.Status.NotAfter = at(time.Second) }), []string{"status.notAfter Invalid: must be set to the NotAfter time"}},
		{"refresh early", issue(chain, time.Hour, func(r *request) { r.Status.BeginRefreshAt = at(time.Minute) }), []string{"status.beginRefreshAt Invalid: must be at least 10 minutes after"}},
		{"refresh late", issue(chain, time.Hour, func(r *request) { r.Status.BeginRefreshAt = at(51 * time.Minute) }), []string{"status.beginRefreshAt Invalid: must be at least 10 minutes before"}},
		{"mail", issue(certificateFor(t, key, false, from, time.Hour, "@"), time.Hour), []string{"status.certificateChain Invalid: leaf certificate should not contain invalid EmailAddress"}},
		{"a key in the chain", issue(chain+string(pem.EncodeToMemory(&pem.Block{Type: "X"})), time.Hour), []string{"status.certificateChain Invalid: issued certificate chain must consist entirely"}},
	})
	denied := func() *request { r := good(); decide("Denied")(r); return r }
	updates(t, denied, nothing, PodCertificateRequestStatusUpdate, []change[*request]{
		{"stays", nil, nil},
		{"once more", func(r *request) { r.Status.Conditions[0].Message = "no" }, []string{"status Invalid: immutable after PodCertificateRequest is issued, denied, or failed"}},
	})
}
