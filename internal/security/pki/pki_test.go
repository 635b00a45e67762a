package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

var start = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string, now time.Time) *Authority {
	t.Helper()
	a, err := OpenAuthority(dir, "ca", "test-ca", now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func parse(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	c, err := parseCert(data)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	a := open(t, dir, start)
	if err := os.WriteFile(filepath.Join(dir, ".tmp-123"), []byte("a crash left it"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := open(t, dir, start.Add(time.Hour))
	if !a.Cert.Equal(b.Cert) || !samePublic(a.key.Public(), b.key.Public()) {
		t.Error("the second start made another CA")
	}
	if key, ok := a.key.Public().(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		t.Errorf("key %T", a.key.Public())
	}
	if left := a.Cert.NotAfter.Sub(start); left != caLife {
		t.Errorf("lives for %s", left)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "ca.key"): 0o600, filepath.Join(dir, "ca.crt"): 0o644} {
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", path, st.Mode(), err)
		}
	}
	if names, _ := filepath.Glob(filepath.Join(dir, ".tmp-*")); len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
}

// A crash between the two files heals itself, everything else is told.
func TestAuthorityFiles(t *testing.T) {
	other := t.TempDir()
	open(t, other, start)
	read := func(file string) []byte {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	write := func(file string, data []byte) {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name   string
		change func(crt, key string)
		now    time.Time
		want   []string // parts of the error; nil: none
	}{
		{"untouched", func(string, string) {}, start, nil},
		{"certificate lost", func(crt, _ string) { os.Remove(crt) }, start, nil},
		{"key lost", func(_, key string) { os.Remove(key) }, start, []string{"ca.crt", "ca.key", "restore the key from a backup"}},
		{"foreign key", func(_, key string) { write(key, read(filepath.Join(other, "ca.key"))) }, start, []string{"ca.crt", "ca.key", "do not belong together"}},
		{"foreign certificate", func(crt, _ string) { write(crt, read(filepath.Join(other, "ca.crt"))) }, start, []string{"do not belong together"}},
		{"broken certificate", func(crt, _ string) { write(crt, []byte("x")) }, start, []string{"ca.crt is broken: restore it from a backup"}},
		{"two certificates", func(crt, _ string) { write(crt, append(read(crt), read(crt)...)) }, start, []string{"ca.crt is broken", "more than one"}},
		{"cut certificate", func(crt, _ string) { write(crt, read(crt)[:100]) }, start, []string{"ca.crt is broken"}},
		{"broken key", func(_, key string) { write(key, []byte("x")) }, start, []string{"ca.key is broken: restore it from a backup"}},
		{"cut key", func(_, key string) { write(key, read(key)[:50]) }, start, []string{"ca.key is broken"}},
		{"key for all to read", func(_, key string) { os.Chmod(key, 0o644) }, start, []string{"ca.key can be read by others (mode 0644)", "chmod 600"}},
		{"expired", func(string, string) {}, start.Add(caLife + time.Second), []string{"ca.crt has expired"}},
		{"clock behind", func(string, string) {}, start.Add(-24 * time.Hour), []string{"valid only from", "clock"}},
		{"key is a directory", func(_, key string) { os.Remove(key); os.Mkdir(key, 0o700) }, start, []string{"ca.key"}},
		{"no CA", func(crt, key string) {
			a, err := OpenAuthority(filepath.Dir(crt), "ca", "x", start)
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := a.Sign(Leaf{CommonName: "x"}, a.key.Public(), start)
			if err != nil {
				t.Fatal(err)
			}
			write(crt, leaf)
		}, start, []string{"ca.crt is not the certificate of a CA"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			before := open(t, dir, start)
			tt.change(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
			a, err := OpenAuthority(dir, "ca", "test-ca", tt.now)
			if tt.want == nil {
				if err != nil || !samePublic(a.key.Public(), before.key.Public()) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("accepted")
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
}

// Leaves of the first CA hold against one whose certificate was made again.
func TestRemadeCertificate(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir, start)
	leaf, _, err := a.Issue(Leaf{CommonName: "x"}, start)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	b := open(t, dir, start)
	if _, err := parse(t, leaf).Verify(x509.VerifyOptions{Roots: b.Pool(), CurrentTime: start, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
}

// Keys that other tools made are read too.
func TestForeignKeys(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weakDER, err := x509.MarshalECPrivateKey(weak)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		sort string
		der  []byte
		ok   bool
	}{{"EC PRIVATE KEY", ecDER, true}, {"RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r), true}, {"EC PRIVATE KEY", weakDER, false}, {"PRIVATE KEY", ecDER, false}} {
		dir := t.TempDir()
		if err := WriteFile(filepath.Join(dir, "ca.key"), pem.EncodeToMemory(&pem.Block{Type: tt.sort, Bytes: tt.der})); err != nil {
			t.Fatal(err)
		}
		a, err := OpenAuthority(dir, "ca", "foreign", start)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.sort, err)
		}
		if err == nil {
			if _, _, err := a.Issue(Leaf{CommonName: "x"}, start); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestSign(t *testing.T) {
	a := open(t, t.TempDir(), start)
	certPEM, keyPEM, err := a.Issue(Leaf{CommonName: "kube-apiserver", Server: true, DNSNames: []string{"kubernetes", "localhost"}, IPs: []net.IP{net.ParseIP("10.96.0.1"), net.IPv6loopback}}, start)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Error(err)
	}
	c := parse(t, certPEM)
	if c.NotAfter.Sub(start) != leafLife || c.IsCA {
		t.Errorf("until %s, CA %v", c.NotAfter, c.IsCA)
	}
	for _, name := range []string{"kubernetes", "localhost", "10.96.0.1", "::1"} {
		if err := c.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	verify := func(c *x509.Certificate, usage x509.ExtKeyUsage) bool {
		_, err := c.Verify(x509.VerifyOptions{Roots: a.Pool(), CurrentTime: start, KeyUsages: []x509.ExtKeyUsage{usage}})
		return err == nil
	}
	if !verify(c, x509.ExtKeyUsageServerAuth) || verify(c, x509.ExtKeyUsageClientAuth) {
		t.Error("a server's certificate is for servers alone")
	}
	client, err := a.Sign(Leaf{CommonName: "jane", Groups: []string{"devs"}, Life: time.Hour}, c.PublicKey, start)
	if err != nil {
		t.Fatal(err)
	}
	c = parse(t, client)
	if !verify(c, x509.ExtKeyUsageClientAuth) || verify(c, x509.ExtKeyUsageServerAuth) || c.Subject.CommonName != "jane" || c.Subject.Organization[0] != "devs" || c.NotAfter.Sub(start) != time.Hour {
		t.Errorf("certificate %v", c.Subject)
	}
	late, err := a.Sign(Leaf{CommonName: "x"}, c.PublicKey, a.Cert.NotAfter.Add(-time.Hour))
	if err != nil || parse(t, late).NotAfter.After(a.Cert.NotAfter) {
		t.Errorf("outlives its CA: %v", err)
	}
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sign(Leaf{CommonName: "x"}, weak.Public(), start); !errors.Is(err, errWeakKey) {
		t.Errorf("weak key: %v", err)
	}
}

func TestRenewing(t *testing.T) {
	a := open(t, t.TempDir(), start)
	now := start
	r := a.Renewing(Leaf{CommonName: "x", Server: true}, func() time.Time { return now })
	get := func() *tls.Certificate {
		t.Helper()
		c, err := r.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := get()
	now = start.Add(leafLife*2/3 - time.Minute)
	if get() != first {
		t.Error("renewed too early")
	}
	now = start.Add(leafLife*2/3 + time.Minute)
	second := get()
	if second == first || second.Leaf.NotAfter.Sub(now) != leafLife {
		t.Error("not renewed at two thirds")
	}
	if c, err := r.GetClientCertificate(nil); err != nil || c != second {
		t.Errorf("client certificate %v", err)
	}
	// A clock that was wrong at first: what is not valid yet is made anew.
	now = start.Add(-48 * time.Hour)
	if c := get(); c == second || c.Leaf.NotBefore.After(now) {
		t.Error("a certificate of the future is served")
	}
}

func TestRequestSigner(t *testing.T) {
	a := open(t, t.TempDir(), start)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}},
		DNSNames: []string{"n1"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
		// A request for more than the signer gives: to be a CA.
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	s := RequestSigner{Authority: a, Now: func() time.Time { return start }}
	for usage, want := range map[certificatesv1.KeyUsage]x509.ExtKeyUsage{certificatesv1.UsageServerAuth: x509.ExtKeyUsageServerAuth, certificatesv1.UsageClientAuth: x509.ExtKeyUsageClientAuth} {
		data, err := s.Sign(req, []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage}, 10*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		c := parse(t, data)
		if c.IsCA || c.Subject.CommonName != "system:node:n1" || !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{want}) || c.NotAfter.Sub(start) != 10*time.Minute || !samePublic(c.PublicKey, key.Public()) {
			t.Errorf("%s: %+v", usage, c.Subject)
		}
	}
}

func TestSigningKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pki", "service-account.key")
	a, err := OpenSigningKeys(file)
	if err != nil || len(a) != 1 {
		t.Fatalf("%v %v", a, err)
	}
	first := a[0].(*ecdsa.PrivateKey)
	if b, err := OpenSigningKeys(file); err != nil || len(b) != 1 || !first.Equal(b[0]) {
		t.Errorf("another key: %v", err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", st.Mode(), err)
	}
	// A key to come, announced before it signs.
	next, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&next.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data = append(data, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})...)
	if err := os.WriteFile(file, append(data, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	if two, err := OpenSigningKeys(file); err != nil || len(two) != 2 || !first.Equal(two[0]) || !next.PublicKey.Equal(two[1]) {
		t.Errorf("two: %v %v", two, err)
	}
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weakPEM, err := EncodeKey(weak)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"nothing": nil, "text": []byte("x"), "a key and text": append(slices.Clone(data), "x"...), "a weak key": weakPEM} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenSigningKeys(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSigningKeys(file); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable: %v", err)
	}
}

func TestJoinToken(t *testing.T) {
	a, other := open(t, t.TempDir(), start), open(t, t.TempDir(), start)
	text, err := FormatJoinToken(a.PEM, "abc123", "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(text, "knarr1.") || !strings.HasSuffix(text, ".abc123.0123456789abcdef") {
		t.Errorf("token %s", text)
	}
	token, err := ParseJoinToken(" " + text + "\n")
	if err != nil || token.Bearer() != "abc123.0123456789abcdef" {
		t.Fatalf("%v %v", token, err)
	}
	for name, tt := range map[string]struct {
		answer []byte
		ok     bool
	}{
		"the CA":                        {a.PEM, true},
		"with white space":              {append([]byte("\n"), a.PEM...), true},
		"another":                       {other.PEM, false},
		"the CA and another":            {append(slices.Clone(a.PEM), other.PEM...), false},
		"another and the CA":            {append(slices.Clone(other.PEM), a.PEM...), false},
		"the CA after something":        {append([]byte("x\n"), a.PEM...), false},
		"nothing":                       {nil, false},
		"a key":                         {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: a.Cert.Raw}), false},
		"a half certificate and the CA": {append(other.PEM[:80:80], a.PEM...), false},
	} {
		if err := token.VerifyCA(tt.answer); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []string{"", "knarr1", text + "x", text[1:], strings.ToUpper(text), strings.Replace(text, ".", "-", 1), "abc123.0123456789abcdef", "knarr2" + text[6:]} {
		if _, err := ParseJoinToken(bad); err == nil || bad != "" && strings.Contains(err.Error(), bad) && len(bad) > 8 {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range [][2]string{{"abc12", "0123456789abcdef"}, {"abc123", "0123456789abcde"}, {"ABC123", "0123456789abcdef"}, {"abc123", "0123456789abcdeF"}} {
		if _, err := FormatJoinToken(a.PEM, bad[0], bad[1]); err == nil {
			t.Errorf("%v was formatted", bad)
		}
	}
	if _, err := FormatJoinToken([]byte("x"), "abc123", "0123456789abcdef"); err == nil {
		t.Error("a token for no CA")
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("joining", "token", token)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("joining", "token", token)
	for _, shown := range []string{fmt.Sprint(token), fmt.Sprintf("%+v %#v %q %x %s", token, token, token, token, &token), log.String()} {
		if strings.Contains(shown, "0123456789abcdef") || strings.Contains(shown, fmt.Sprintf("%x", "0123456789abcdef")) {
			t.Errorf("the secret shows in %s", shown)
		}
	}
}

func TestKubeconfig(t *testing.T) {
	a := open(t, t.TempDir(), start)
	cert, key, err := a.Issue(Leaf{CommonName: "admin"}, start)
	if err != nil {
		t.Fatal(err)
	}
	data := Kubeconfig("https://10.0.0.1:6443", a.PEM, cert, key)
	if got := KubeconfigServer(data); got != "https://10.0.0.1:6443" {
		t.Errorf("server %q", got)
	}
	if KubeconfigServer([]byte("junk")) != "" {
		t.Error("a server in junk")
	}
}
